//! Xen's own vif scripts, of the Debian that `tests/setup` fetches, with ours in front of them, in a host of the
//! lab: xenstore and `xl` are stand-ins. In a real Xen: [`super::booted_xen`].

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use tempfile::TempDir;

use crate::lab::{Host, MACFENCE, PROGRAM, Ran, bind, fetched, install, need, path_with, script};
use crate::xen::store;

const SCRIPT: &str = include_str!("../../share/xen/vif-macfence");
const HOOK: &str = include_str!("../../share/xen/macfence.hook");

/// Domain 7 with an interface, and another one which it is being given; and domain 8.
const XL: &str = "case \"$*\" in list) printf 'one-7 7 1 1 b 1\\none-8 8 1 1 b 1\\n';; \
    'list 7') echo 'one-7 7 1 1 b 1';; 'domid one-7') echo 7;; \
    'network-list 7') printf '0 0 02:00:c0:a8:00:05 0 4\\n1 0 02:00:c0:a8:01:05 0 1\\n';; \
    'network-list 8') echo '0 0 02:00:c0:a8:00:08 0 4';; \
    *) echo \"$2 is an invalid domain identifier (rc=-6)\" >&2; exit 1;; esac";

/// What is told, and tried, when our script is done and Xen's has not begun.
const BETWEEN: &str = r#"#!/bin/bash
exec 2>/dev/null
(
  PATH=@dir@:/usr/local/sbin:$PATH
  macfence list --json >@dir@/between.list
  { macfence check; echo $?; } >@dir@/between.check
  macfence flush >@dir@/between.changes
  macfence sync >>@dir@/between.changes
  macfence list --json >@dir@/between.later
)
exec "${0%/*}/vif-bridge.xen" "$@"
"#;

/// A host with Xen's scripts.
pub struct Xen {
    pub host: Host,
    pub dir: TempDir,
}

/// Writes a program.
pub fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

impl Xen {
    /// A host with Xen's scripts and these names for the interfaces of domain 7, whose second one is on no bridge
    /// yet. `one-7` and `one-8` are fenced.
    pub fn new(names: [&str; 2]) -> Self {
        let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
        let mut debugfs = Command::new(need("debugfs"));
        let dump = format!("rdump /etc/xen {}", dir.path().display());
        debugfs.args(["-R", &dump]).arg(fetched("xen/disk.img"));
        assert!(debugfs.output().unwrap().status.success());
        host.bridge("br0");
        let first = if names[0].is_empty() {
            "vif7.0"
        } else {
            names[0]
        };
        host.ports("br0", &[first, "tenant8"]);
        script(&dir, "xl", XL);
        script(&dir, "virsh", "exit 0");
        let [first, second] = names;
        store(&dir, &[("7/0", first), ("7/1", second), ("8/0", "tenant8")]);
        let read = "value=$(sed -n \"s|^$1 = \\\"\\(.*\\)\\\"$|\\1|p\" ${0%/*}/store); \
                    [ -n \"$value\" ] && echo \"$value\"";
        script(&dir, "xenstore-read", read);
        script(&dir, "xenstore-write", "echo \"$*\" >>${0%/*}/written");
        host.run(|| {
            install();
            let config = dir.path().join("macfence.toml");
            fs::write(&config, "").unwrap();
            let with = format!("exec {MACFENCE} --config {} \"$@\"\n", config.display());
            executable(Path::new(PROGRAM), &format!("#!/bin/sh\n{with}"));
            // Where Xen's scripts look that have no PATH of ours.
            for tool in ["xl", "xenstore-ls", "xenstore-read", "xenstore-write"] {
                let place = Path::new(PROGRAM).with_file_name(tool);
                let call = format!("#!/bin/sh\nexec {}/{tool} \"$@\"\n", dir.path().display());
                executable(&place, &call);
            }
            let path = |name| dir.path().join(name).to_string_lossy().into_owned();
            bind(&path("xen"), "/etc/xen");
            bind(&path("log"), "/var/log/xen");
        });
        Self { host, dir }
    }

    /// The same with our script and hook in their places, and Xen's script behind what looks between them.
    pub fn with_scripts(names: [&str; 2]) -> Self {
        let xen = Self::new(names);
        let scripts = xen.dir.path().join("xen/scripts");
        executable(&scripts.join("vif-macfence"), SCRIPT);
        fs::create_dir(scripts.join("vif-post.d")).unwrap();
        executable(&scripts.join("vif-post.d/macfence.hook"), HOOK);
        fs::rename(scripts.join("vif-bridge"), scripts.join("vif-bridge.xen")).unwrap();
        let between = BETWEEN.replace("@dir@", xen.dir.path().to_str().unwrap());
        executable(&scripts.join("vif-bridge"), &between);
        xen
    }

    /// Calls our script as libxl does, for the second interface of domain 7.
    fn call(&self, command: &str) -> Ran {
        self.host.exec(&mut self.script(command), "")
    }

    /// That call.
    pub fn script(&self, command: &str) -> Command {
        let mut call = Command::new("/etc/xen/scripts/vif-macfence");
        let (kind, device) = match command {
            "add" | "remove" => ("tap", "vif7.1-emu"),
            _ => ("vif", "vif7.1"),
        };
        let name = if kind == "tap" { "INTERFACE" } else { "vif" };
        call.args([command, &format!("type_if={kind}")]);
        call.env("XENBUS_PATH", "/local/domain/0/backend/vif/7/1");
        call.env(name, device).env("PATH", path_with(&self.dir));
        call
    }

    /// Runs macfence.
    pub fn macfence(&self, words: &str) -> Ran {
        let mut command = Command::new(PROGRAM);
        command
            .env("PATH", path_with(&self.dir))
            .args(words.split(' '));
        self.host.exec(&mut command, "")
    }

    /// Writes macfence's configuration.
    pub fn configure(&self, text: &str) {
        fs::write(self.dir.path().join("macfence.toml"), text).unwrap();
    }

    /// A file of the host's, or nothing.
    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    /// What a listing says of a port: its VM, its state and its bridge.
    pub fn port(listing: &str, port: &str) -> Option<String> {
        let listing: serde_json::Value = serde_json::from_str(listing).unwrap();
        for vm in listing.as_array().unwrap() {
            for nic in vm["nics"].as_array().unwrap() {
                if nic["port"] == port {
                    let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
                    let (vm, state) = (text(&vm["vm"]), text(&nic["state"]));
                    return Some(format!("{vm} {state} {}", text(&nic["bridge"])));
                }
            }
        }
        None
    }
}

#[test]
fn a_port_is_fenced_before_it_is_on_its_bridge_and_nobody_takes_its_fence_away_meanwhile() {
    for (backend, name) in [("nft", ""), ("nft", "tenant7"), ("ebtables", "tenant7")] {
        let xen = Xen::with_scripts(["", name]);
        xen.configure(&format!("backend = \"{backend}\"\n"));
        let port = if name.is_empty() { "vif7.1" } else { name };
        let guest = xen.host.tap("br0", "vif7.1");
        xen.host.ip("link set vif7.1 nomaster\n");
        let uplink = xen.host.tap("br0", "up0");
        xen.macfence("sync").ok();
        let (is_done, mut is_heard) = (AtomicBool::new(false), false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    guest.try_send(
                        &[[0xff; 6], [2, 0, 0, 0, 0, 9], [0x88, 0xb5, 0, 0, 0, 0]].concat(),
                    );
                    thread::yield_now();
                }
            });
            let ran = xen.call("online");
            is_done.store(true, Relaxed);
            let log = xen.text("log/xen-hotplug.log");
            assert_eq!(ran.status, 0, "{backend} {ran:?}\n{log}");
            assert!(!log.contains("warning"), "{log}");
        });
        let vm = "one-7";
        let fenced = Some(format!("{vm} fenced br0"));
        for listing in ["between.list", "between.later"] {
            let found = Xen::port(&xen.text(listing), port);
            assert_eq!(found, fenced, "{backend} {listing}");
        }
        let is_nft = xen.host.ruleset().contains("table bridge macfence");
        assert_eq!(is_nft, backend == "nft");
        assert_eq!(xen.text("between.check"), "0\n", "{backend}");
        assert_eq!(xen.text("between.changes"), "", "{backend}");
        let ports = xen.host.ports_of("br0");
        assert!(ports.contains(&port.to_owned()), "{ports:?}");
        assert_eq!(xen.macfence("check").status, 0);
        for frame in uplink.heard() {
            is_heard |= frame[6..12] == [2, 0, 0, 0, 0, 9];
        }
        assert!(!is_heard, "{backend}");
        let written = xen.text("written");
        assert!(
            written.contains("/vif/7/1/hotplug-status connected"),
            "{written}"
        );
        // What is there under its own address is heard.
        let own = [2, 0, 0xc0, 0xa8, 1, 5];
        guest.send(&[[0xff; 6], own, [0x88, 0xb5, 0, 0, 0, 0]].concat());
        assert!(uplink.heard().iter().any(|frame| frame[6..12] == own));

        // As the kernel does when the interface goes: then Xen calls the script, and nothing is left.
        let others = Xen::port(&xen.macfence("list --json").ok(), "tenant8");
        xen.host.ip(&format!("link set {port} nomaster\n"));
        xen.call("offline").ok();
        let listing = xen.macfence("list --json").ok();
        let left = Xen::port(&listing, port).unwrap_or_default();
        assert!(!left.contains(" fenced "), "{left}");
        assert_eq!(Xen::port(&listing, "tenant8"), others);
        assert_eq!(others.as_deref(), Some("one-8 fenced br0"));
    }
}

#[test]
fn a_port_that_cannot_be_fenced_never_comes_to_its_bridge() {
    let xen = Xen::with_scripts(["", ""]);
    xen.host.ports("br0", &["vif7.1"]);
    xen.host.ip("link set vif7.1 nomaster\n");
    xen.macfence("sync").ok();
    let before = xen.host.ruleset();
    xen.configure("no such setting = 1\n");
    assert_eq!(xen.call("online").status, 1);
    assert_eq!(xen.text("between.list"), "", "vif-bridge was called");
    assert!(!xen.host.ports_of("br0").contains(&"vif7.1".to_owned()));
    let written = xen.text("written");
    let words = "/vif/7/1/hotplug-error macfence could not fence vif7.1: /var/log/xen/xen-hotplug.log says why";
    assert!(written.contains(words), "{written}");
    assert!(
        written.contains("/vif/7/1/hotplug-status error"),
        "{written}"
    );
    let log = xen.text("log/xen-hotplug.log");
    assert!(log.contains("macfence: error: "), "{log}");
    assert_eq!(xen.host.ruleset(), before);
}

#[test]
fn a_name_that_another_device_has_is_refused_and_its_fence_stays() {
    for name in ["tenant8", "br0"] {
        let xen = Xen::with_scripts(["", name]);
        xen.host.ports("br0", &["vif7.1"]);
        xen.host.ip("link set vif7.1 nomaster\n");
        xen.macfence("sync");
        let before = xen.host.ruleset();
        assert_eq!(xen.call("online").status, 1);
        let log = xen.text("log/xen-hotplug.log");
        let words = format!("there is a device \"{name}\" already");
        assert!(log.contains(&words), "{log}");
        assert_eq!(xen.host.ruleset(), before);
    }
}

#[test]
fn an_emulated_port_is_fenced_before_it_is_on_its_bridge() {
    for name in ["", "tenant7"] {
        let xen = Xen::with_scripts(["", name]);
        let port = if name.is_empty() { "vif7.1" } else { name };
        xen.host.ports("br0", &[port, "vif7.1-emu"]);
        xen.host.ip("link set vif7.1-emu nomaster\n");
        xen.macfence("sync").ok();
        let log = || xen.text("log/xen-hotplug.log");
        assert_eq!(xen.call("add").status, 0, "{}", log());
        for listing in ["between.list", "between.later"] {
            let found = Xen::port(&xen.text(listing), &format!("{port}-emu"));
            assert_eq!(
                found.as_deref(),
                Some("one-7 fenced br0"),
                "{name} {listing}"
            );
        }
        assert_eq!(xen.text("between.check"), "0\n");
        assert_eq!(xen.macfence("check").status, 0);
    }
}

#[test]
fn what_a_script_announced_that_has_ended_is_not_believed() {
    let xen = Xen::with_scripts(["", ""]);
    xen.host.ports("br0", &["vif7.1"]);
    xen.host.ip("link set vif7.1 nomaster\n");
    let scripts = xen.dir.path().join("xen/scripts");
    executable(&scripts.join("vif-bridge"), "#!/bin/sh\nexit 1\n");
    assert_eq!(xen.call("online").status, 1);
    let fenced =
        |listing: &str| Xen::port(listing, "vif7.1").is_some_and(|port| port.contains(" fenced "));
    assert!(fenced(&xen.macfence("list --json").ok()) || xen.macfence("check").status == 1);
    xen.macfence("flush").ok();
    assert!(!xen.host.ruleset().contains("vif7.1"));
}

#[test]
fn the_script_is_installed_with_its_setting_and_goes_with_it() {
    let xen = Xen::new(["", ""]);
    let tree = || {
        let find = "cd /etc/xen; find . -printf '%p %M %u %l\\n' | sort; cat xl.conf";
        xen.host.ok("sh", &["-c", find])
    };
    let before = tree();
    let said = xen.macfence("install-hook xen").ok();
    assert!(said.contains("/etc/xen/scripts/vif-macfence"), "{said}");
    let settings = xen.text("xen/xl.conf");
    assert!(
        settings.contains("\nvif.default.script=\"vif-macfence\"\n"),
        "{settings}"
    );
    assert_eq!(xen.text("xen/scripts/vif-macfence"), SCRIPT);
    let with = tree();
    xen.macfence("install-hook xen").ok();
    assert_eq!(tree(), with);
    assert_eq!(xen.text("written"), "", "into xenstore");
    // The script stays, for what may name it, and calls Xen's.
    let said = xen.macfence("install-hook xen --remove").ok();
    assert!(said.contains("only calls vif-bridge now"), "{said}");
    let left = xen.text("xen/scripts/vif-macfence");
    assert!(
        left.ends_with("\nexec \"${0%/*}/vif-bridge\" \"$@\"\n") && !left.contains("\\n"),
        "{left}"
    );
    assert!(left.lines().all(|line| !line.contains("exec macfence")));
    let removed = tree();
    let named = |line: &&str| line.contains("/vif-macfence ");
    let rest: Vec<_> = removed.lines().filter(|line| !named(line)).collect();
    assert_eq!(rest, before.lines().collect::<Vec<_>>());
    assert!(
        removed
            .lines()
            .any(|line| line.contains("/vif-macfence -rwxr-xr-x root"))
    );
    xen.macfence("install-hook xen --remove").ok();
    assert_eq!(tree(), removed);
    xen.macfence("install-hook xen").ok();
    assert_eq!(tree(), with);

    // What the operator has written after our lines stays where their end is missing.
    let damaged = settings.replace("# macfence: end\n", "autoballoon=1\n");
    assert_ne!(damaged, settings);
    fs::write(xen.dir.path().join("xen/xl.conf"), damaged).unwrap();
    let before = tree();
    for words in ["install-hook xen", "install-hook xen --remove"] {
        let error = xen.macfence(words).error();
        assert!(
            error.contains("the marks in /etc/xen/xl.conf are damaged"),
            "{error}"
        );
        assert_eq!(tree(), before);
    }
}

#[test]
fn a_domain_with_an_interface_in_a_driver_domain_is_named_when_the_script_is_installed() {
    let xen = Xen::new(["", ""]);
    let elsewhere = XL.replace("'0 0 02:00:c0:a8:00:08 0 4'", "'0 3 02:00:c0:a8:00:08 0 4'");
    assert_ne!(elsewhere, XL);
    script(&xen.dir, "xl", &elsewhere);
    let ran = xen.macfence("install-hook xen");
    let words = "macfence: warning: VM \"one-8\" has an interface with backend=: ";
    assert_eq!(ran.stderr.matches("backend=").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    ran.ok();
}

#[test]
fn the_script_is_not_installed_where_it_would_fail_or_another_one_is_set() {
    let xen = Xen::new(["", ""]);
    let tree = || {
        xen.host
            .ok("sh", &["-c", "cd /etc/xen; find . | sort; cat xl.conf"])
    };
    let settings = xen.text("xen/xl.conf");
    let set = |script: &str| {
        let line = format!("{settings}vif.default.script=\"{script}\"\n");
        fs::write(xen.dir.path().join("xen/xl.conf"), line).unwrap();
    };
    set("vif-route");
    let before = tree();
    let error = xen.macfence("install-hook xen").error();
    assert!(
        error.contains("sets vif.default.script to \"vif-route\""),
        "{error}"
    );
    assert_eq!(tree(), before);

    // The operator's own line is left, and the script with it.
    set("vif-macfence");
    xen.macfence("install-hook xen").ok();
    assert_eq!(
        xen.text("xen/xl.conf")
            .matches("vif.default.script=\"")
            .count(),
        2
    );
    let said = xen.macfence("install-hook xen --remove").ok();
    assert!(said.contains("only calls vif-bridge now"), "{said}");
    fs::remove_file(xen.dir.path().join("xen/scripts/vif-macfence")).unwrap();

    fs::write(xen.dir.path().join("xen/xl.conf"), &settings).unwrap();
    let before = tree();
    xen.configure("no such setting = 1\n");
    let error = xen.macfence("install-hook xen").error();
    assert!(error.contains("no domain would start"), "{error}");
    assert_eq!(tree(), before);
    // Nor where only the script would.
    xen.configure("");
    script(&xen.dir, "xl", "exit 1");
    let error = xen.macfence("install-hook xen").error();
    assert!(error.contains("nothing is installed"), "{error}");
    assert_eq!(tree(), before);
    assert_eq!(xen.text("written"), "");
}
