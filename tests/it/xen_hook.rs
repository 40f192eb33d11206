//! Xen's hook where two domains claim one name, and where Xen has given up waiting for it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::{Host, MACFENCE, Ran, macfence_with, path_with, script, until};
use crate::xen::store;
use crate::xen_scripts::Xen;

/// Domain 7, and domain 8, a clone of it: its second interface has the same `vifname`.
const CLONES: &str = "case \"$*\" in list) printf 'a 7 1 1 b 1\\nb 8 1 1 b 1\\n';; \
    'list 7') echo 'a 7 1 1 b 1';; 'list 8') echo 'b 8 1 1 b 1';; \
    'domid a') echo 7;; 'domid b') echo 8;; 'network-list 7') echo '0 0 02:00:c0:a8:00:05 0 4';; \
    'network-list 8') printf '0 0 02:00:c0:a8:00:08 0 4\\n1 0 02:00:c0:a8:01:08 0 1\\n';; \
    *) echo \"$2 is an invalid domain identifier (rc=-6)\" >&2; exit 1;; esac";

struct Clones {
    host: Host,
    dir: tempfile::TempDir,
}

impl Clones {
    /// Domain 7 runs with its port `tenant7`, and is fenced. Domain 8 has its first port.
    fn new(backend: &str) -> Self {
        let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
        host.bridge("br0");
        host.ports("br0", &["tenant7", "vif8.0"]);
        script(&dir, "xl", CLONES);
        script(&dir, "virsh", "exit 0");
        store(&dir, &[("7/0", "tenant7"), ("8/0", ""), ("8/1", "tenant7")]);
        let config = format!("backend = \"{backend}\"\n");
        fs::write(dir.path().join("macfence.toml"), config).unwrap();
        let clones = Self { host, dir };
        clones.hook("vif/7/0").ok();
        clones
    }

    /// Calls the hook from a shell, whose number is `$$`.
    fn hook(&self, words: &str) -> Ran {
        let config = self.dir.path().join("macfence.toml");
        let call = format!(
            "{MACFENCE} --config {} hook xen {words}; exit $?",
            config.display()
        );
        let mut command = Command::new("sh");
        command
            .env("PATH", path_with(&self.dir))
            .args(["-c", &call]);
        self.host.exec(&mut command, "")
    }

    /// The MAC address for which a port is fenced, and for which VM, if the rules tell that.
    fn fence_of(&self, port: &str) -> Option<(String, String)> {
        let listing = self.host.exec(
            macfence_with(&self.dir).args([
                "--config",
                self.dir.path().join("macfence.toml").to_str().unwrap(),
                "list",
                "--json",
            ]),
            "",
        );
        let listing: serde_json::Value = serde_json::from_str(&listing.ok()).unwrap();
        for vm in listing.as_array().unwrap() {
            for nic in vm["nics"].as_array().unwrap() {
                if nic["port"] == port && nic["state"] == "fenced" {
                    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
                    return Some((text(&nic["mac"]), text(&vm["vm"])));
                }
            }
        }
        None
    }
}

#[test]
fn a_clone_does_not_take_the_port_of_the_domain_that_has_its_name() {
    for backend in ["nft", "ebtables"] {
        let clones = Clones::new(backend);
        let mac = |port| clones.fence_of(port).map(|(mac, _)| mac);
        // In ebtables no rule names a VM.
        let is_sevens = || {
            let (mac, vm) = clones.fence_of("tenant7").unwrap();
            assert_eq!(mac, "02:00:c0:a8:00:05", "{backend}");
            assert!(vm == "a" || backend == "ebtables", "{vm}");
        };
        is_sevens();
        // Before the kernel has made the second interface.
        let error = clones
            .hook("--before online --script $$ -- vif/8/0")
            .error();
        let words = "port \"tenant7\" is fenced for another VM";
        assert!(
            error.contains("cannot fence VM \"b\"") && error.contains(words),
            "{error}"
        );
        is_sevens();
        // And after.
        clones.host.ip("tuntap add vif8.1 mode tap\n");
        clones.hook("--before online --script $$ -- vif/8/0").ok();
        assert_eq!(
            mac("vif8.0").as_deref(),
            Some("02:00:c0:a8:00:08"),
            "{backend}"
        );
        is_sevens();
        let error = clones
            .hook("--before online --script $$ -- vif/8/1")
            .error();
        assert!(
            error.contains("there is a device \"tenant7\" already"),
            "{error}"
        );
        clones.hook("vif/8/0").ok();
        is_sevens();
    }
}

#[test]
fn a_domain_with_a_new_name_keeps_its_port() {
    let clones = Clones::new("nft");
    // As after a migration or "xl rename".
    script(
        &clones.dir,
        "xl",
        &CLONES
            .replace("a 7 1 1 b 1", "c 7 1 1 b 1")
            .replace("domid a", "domid c"),
    );
    store(&clones.dir, &[("7/0", "tenant7"), ("8/0", ""), ("8/1", "")]);
    clones.hook("vif/7/0").ok();
    assert_eq!(clones.fence_of("tenant7").unwrap().1, "c");
    // Another domain has the name that one had which has ended.
    let ended = CLONES.replace("a 7 1 1 b 1\\n", "");
    script(&clones.dir, "xl", &ended);
    store(&clones.dir, &[("8/0", ""), ("8/1", "tenant7")]);
    clones.hook("vif/8/0").ok();
    assert_eq!(clones.fence_of("tenant7").unwrap().1, "b");
}

#[test]
fn a_port_is_not_announced_for_a_script_that_xen_has_killed() {
    let xen = Xen::with_scripts(["", ""]);
    xen.host.ports("br0", &["vif7.1"]);
    xen.host.ip("link set vif7.1 nomaster\n");
    xen.macfence("sync").ok();
    let before = xen.host.ruleset();
    let lock = xen.host.run(|| File::open("/run/macfence/asking").unwrap());
    lock.lock().unwrap();
    let mut call = xen.script("online");
    call.stdin(Stdio::null()).stdout(Stdio::null());
    let mut script = xen.host.run(|| call.spawn().unwrap());
    let children = format!("/proc/{0}/task/{0}/children", script.id());
    let is_macfence = |id: &str| {
        let name = fs::read_to_string(Path::new("/proc").join(id).join("comm"));
        name.is_ok_and(|name| name == "macfence\n")
    };
    let text = || fs::read_to_string(&children).unwrap_or_default();
    until("macfence waits", || {
        text().split_whitespace().any(is_macfence)
    });
    script.kill().unwrap();
    script.wait().unwrap();
    drop(lock);
    let words = "did not start this one, or has ended";
    until("macfence ends", || {
        xen.text("log/xen-hotplug.log").contains(words)
    });
    let announced = || Path::new("/run/macfence/announced").join("vif7.1").exists();
    assert!(!xen.host.run(announced));
    assert_eq!(xen.host.ruleset(), before);
}
