//! Containers: of libvirt's LXC driver and of Incus, both real ones.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::lab::containers::{Cgroups, INIT, Incus, small_root};
use crate::lab::libvirt::Libvirt;
use crate::lab::pages::{Block, blocks, commands};
use crate::lab::{Host, MACFENCE, PROGRAM, Ran, install, overlay, path_with, until};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const FALSE: [u8; 6] = [2, 0, 0xc0, 0xa8, 0, 0x66];

/// Does what a page says: runs its commands under a heading in a shell on a host, each of which must succeed.
/// The lab has no systemd, so `systemctl` does what the unit would. Returns what the commands print.
fn follow(host: &Host, path: &str, blocks: &[String], systemctl: &mut dyn FnMut(&str)) -> String {
    let mut said = String::new();
    for line in blocks.iter().flat_map(|block| block.lines()) {
        if let Some(words) = line.strip_prefix("systemctl ") {
            systemctl(words);
            continue;
        }
        let mut shell = Command::new("/bin/sh");
        let ran = host.exec(shell.args(["-c", line]).env("PATH", path), "");
        // It may find something: systemd is missing here, for one.
        let is_well = ran.status == 0 || line == "macfence doctor";
        assert!(is_well, "{line}: {ran:?}");
        said += &ran.stdout;
    }
    said
}

/// Writes what a page says into the configuration of a host whose `/etc` is its own.
fn configure(host: &Host, page: &str, heading: &str) {
    let mut blocks = blocks(page).into_iter();
    let is_it = |block: &Block| block.heading == heading && block.language == "toml";
    let block = blocks.find(is_it).expect(heading);
    host.run(|| fs::write("/etc/macfence.toml", block.text).unwrap());
}

/// libvirt's LXC, called by `virsh`.
fn lxc(host: &Host, args: &[&str]) -> Ran {
    let mut command = Command::new("virsh");
    host.exec(command.args(["-q", "-c", "lxc:///"]).args(args), "")
}

fn nic(host: &Host, port: &str) -> serde_json::Value {
    let list = host.list();
    let vms = list.as_array().unwrap().iter();
    let mut nics = vms.flat_map(|vm| vm["nics"].as_array().unwrap());
    nics.find(|nic| nic["port"] == port).unwrap().clone()
}

fn spoofed(host: &Host, port: &str) -> u64 {
    nic(host, port)["dropped"]["spoofed"].as_u64().unwrap()
}

#[test]
fn a_container_of_libvirt_is_fenced_before_it_runs_and_until_it_has_ended() {
    let host = Host::new();
    host.run(|| {
        // The daemons do not see what is mounted after they have started.
        overlay("/etc");
        install();
    });
    host.bridge("br0");
    let dir = tempfile::tempdir().unwrap();
    let _cgroups = Cgroups::mount(&host);
    // What is fenced after each call, and whether the container's program runs.
    let hook = format!(
        "[ -e {dir}/broken ] && exit 1\n\
         {MACFENCE} hook libvirt -- \"$@\"; status=$?\n\
         running=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep '^/sbin/[i]nit$' | sort -u | wc -l)\n\
         echo \"$1 $2 $3 status=$status init=$running\" \
         $(nft list map bridge macfence ports | grep -o 'jump vm-[^ ,]*') >>{dir}/log\n\
         exit $status",
        dir = dir.path().display()
    );
    let mut libvirt = Libvirt::start_with_hook(&host, &hook);
    let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let root = dir.path().join("root");
    small_root(&root, INIT);
    let xml = format!(
        "<domain type='lxc'><name>web</name><memory unit='MiB'>32</memory>\
         <os><type>exe</type><init>/sbin/init</init></os>\
         <devices><filesystem type='mount'><source dir='{}'/><target dir='/'/></filesystem>\
         <console type='pty'/><interface type='bridge'><mac address='{A}'/><source bridge='br0'/>\
         </interface></devices></domain>",
        root.display()
    );
    let file = dir.path().join("web.xml");
    fs::write(&file, xml).unwrap();
    let create = || lxc(&host, &["create", file.to_str().unwrap()]);

    // A hook that fails keeps it from starting.
    fs::write(dir.path().join("broken"), "").unwrap();
    assert!(create().stderr.contains("Hook script execution failed"));
    fs::remove_file(dir.path().join("broken")).unwrap();
    create().ok();
    let start = "web start begin status=0 init=0 jump vm-web";
    assert!(log().lines().any(|line| line == start), "{}", log());
    let port = host.ports_of("br0").pop().unwrap();
    assert!(port.starts_with("vnet"));
    assert_eq!(
        (nic(&host, &port)["mac"].as_str(), host.fenced()),
        (Some(A), vec!["web".into()])
    );

    // QEMU may have a domain of that name: each keeps its own guard, and both are asked.
    libvirt.create(
        "web",
        &format!("<interface type='bridge'><mac address='{B}'/><source bridge='br0'/></interface>"),
    );
    let both = dir.path().join("both.toml");
    fs::write(&both, "connect = ['qemu:///system', 'lxc:///']\n").unwrap();
    let both = both.to_str().unwrap();
    let macfence = |args: &[&str]| host.macfence([&["--config", both], args].concat());
    macfence(&["check"]).quiet();
    assert_eq!(host.list()[0]["nics"].as_array().unwrap().len(), 2);
    host.ok("nft", &["flush", "ruleset"]);
    let said = macfence(&["sync"]).ok();
    assert_eq!(said.lines().count(), 1, "{said}");
    macfence(&["check"]).quiet();
    libvirt.virsh(&["destroy", "web"]);
    macfence(&["check"]).quiet();
    let before = (host.generation(), host.ruleset());

    // Its fence outlives libvirtd.
    libvirt.stop_daemon();
    libvirt.start_daemon();
    until("libvirt's LXC answers", || {
        lxc(&host, &["list"]).status == 0
    });
    assert!(
        log().contains("web reconnect begin status=0 init=1 jump vm-web\n"),
        "{}",
        log()
    );
    assert_eq!((host.generation(), host.ruleset()), before);

    // It cannot send under a false address.
    let tap = host.tap("br0", "tap0");
    fs::write(root.join("go"), "").unwrap();
    until("a false frame is dropped", || spoofed(&host, &port) > 0);
    assert!(tap.heard().iter().all(|frame| frame[6..12] != FALSE));

    // What is attached is told to no hook, but found.
    lxc(
        &host,
        &["attach-interface", "web", "bridge", "br0", "--live"],
    )
    .ok();
    let attached = macfence(&["check"]);
    assert_eq!(attached.status, 1);
    macfence(&["sync"]).ok();
    macfence(&["check"]).quiet();
    lxc(&host, &["destroy", "web"]).ok();
    assert!(host.fenced().is_empty(), "{}", log());

    follow_the_page_about_libvirts_containers(&host, &mut libvirt, &file);
}

/// From a host without hooks and with a running container. `file` describes the container `web`.
fn follow_the_page_about_libvirts_containers(host: &Host, libvirt: &mut Libvirt, file: &Path) {
    let hooks = "/etc/libvirt/hooks";
    let remove = format!("rm -r {hooks}/*");
    host.ok("sh", &["-c", &remove]);
    libvirt.stop_daemon();
    libvirt.start_daemon();
    let xml = fs::read_to_string(file).unwrap();
    let other = file.with_file_name("db.xml");
    fs::write(&other, xml.replace("web", "db").replace(A, B)).unwrap();
    let answers = || {
        until("libvirt's LXC answers", || lxc(host, &["list"]).status == 0);
    };
    answers();
    lxc(host, &["create", other.to_str().unwrap()]).ok();
    lxc(host, &["define", file.to_str().unwrap()]).ok();
    assert!(host.fenced().is_empty());

    let heading = "Containers of libvirt's LXC driver";
    configure(host, "libvirt.md", heading);
    let path = std::env::var("PATH").unwrap();
    let mut systemctl = |words: &str| {
        assert_eq!(words, "restart libvirtd");
        libvirt.stop_daemon();
        libvirt.start_daemon();
        answers();
    };
    let set_up = commands("libvirt.md", "Containers of libvirt's LXC driver");
    let said = follow(host, &path, &set_up, &mut systemctl);
    assert!(
        said.contains("/lxc.d/macfence: installed and tried"),
        "{said}"
    );
    assert_eq!(host.fenced(), ["db"]);
    let see = commands("libvirt.md", "How to see that containers are fenced");
    let said = follow(host, &path, &see, &mut systemctl);
    assert!(said.ends_with("\nfenced by nft\nwell\n"), "{said}");
    assert_eq!(host.fenced(), ["db", "web"]);

    let undo = commands("libvirt.md", "How to undo it");
    follow(host, &path, &undo, &mut systemctl);
    assert!(host.fenced().is_empty());
    assert_eq!(host.ok("ls", &[hooks]), "");
    assert_eq!(lxc(host, &["list", "--name"]).ok().trim_end(), "db\nweb");
    lxc(host, &["destroy", "web"]).ok();
    lxc(host, &["destroy", "db"]).ok();
}

/// `macfence watch` on a host with Incus only.
struct Watch(Child);

impl Watch {
    fn start(host: &Host, command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        let stdio = (Stdio::from(log.try_clone().unwrap()), Stdio::from(log));
        command.arg("watch").stdin(Stdio::null());
        command.stdout(stdio.0).stderr(stdio.1);
        Self(host.run(|| command.spawn().unwrap()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn instances_of_incus_are_fenced_while_they_run() {
    let host = Host::new();
    let incus = Incus::start(&host);
    // virsh is on this machine, and no libvirt on this host.
    let config = incus.dir.path().join("macfence.toml");
    fs::write(&config, "connect = []\n").unwrap();
    let command = || {
        let mut command = Command::new(MACFENCE);
        command
            .arg("--config")
            .arg(&config)
            .env("PATH", path_with(&incus.dir));
        command
    };
    let macfence = |args: &[&str]| host.exec(command().args(args), "");
    incus.ok("init bb web");
    incus.ok("config device override web eth0 hwaddr=02:00:c0:a8:00:05 host_name=web0");
    let error = macfence(&["apply", "web"]).error();
    assert!(
        error.contains("the instance \"web\" does not run"),
        "{error}"
    );
    let error = macfence(&["apply", "nobody"]).error();
    assert!(
        error.contains("Incus has no instance \"nobody\""),
        "{error}"
    );
    macfence(&["check"]).quiet();

    // By hand.
    incus.ok("start web");
    assert_eq!(macfence(&["check"]).status, 1);
    macfence(&["apply", "web"]).quiet();
    macfence(&["check"]).quiet();
    assert_eq!(nic(&host, "web0")["mac"], A);
    incus.ok("stop -f web");
    macfence(&["sync"]).ok();
    assert!(host.fenced().is_empty());

    // By LXC itself, before the container's program runs: it does not start if it cannot be fenced.
    let hook = "raw.lxc=lxc.hook.start-host = /usr/sbin/macfence apply -- \"$LXC_NAME\"";
    incus.run(&["profile", "set", "default", hook]).ok();
    assert_eq!(incus.run(&["start", "web"]).status, 1);
    assert!(host.fenced().is_empty());
    incus.install(&config);
    // Incus takes a moment to see that it has not started.
    until("it starts", || incus.run(&["start", "web"]).status == 0);
    assert_eq!(host.fenced(), ["web"]);
    macfence(&["check"]).quiet();
    incus.ok("stop -f web");
    macfence(&["sync"]).ok();
    incus.ok("profile unset default raw.lxc");

    // By the service; in another project an instance of the same name is another VM.
    let log = incus.dir.path().join("log");
    let watch = Watch::start(&host, &mut command(), &log);
    let fenced = |vms: &[&str]| {
        until("fenced", || host.fenced() == vms);
    };
    incus.ok("start web");
    fenced(&["web"]);
    incus.ok("project create shop -c features.images=false -c features.profiles=false");
    incus.ok("launch bb web --project shop");
    fenced(&["shop_web", "web"]);
    macfence(&["check"]).quiet();

    // It cannot send under a false address.
    let tap = host.tap("br0", "tap0");
    incus.ok("exec web -- busybox touch /go");
    until("a false frame is dropped", || spoofed(&host, "web0") > 0);
    assert!(tap.heard().iter().all(|frame| frame[6..12] != FALSE));

    // A restart, and what is flushed, are set right; so is an end.
    host.ok("nft", &["flush", "ruleset"]);
    fenced(&["shop_web", "web"]);
    incus.ok("restart -f web --project shop");
    fenced(&["shop_web", "web"]);
    incus.ok("stop -f web");
    fenced(&["shop_web"]);
    incus.ok("stop -f web --project shop");
    fenced(&[]);
    thread::sleep(Duration::from_millis(100));
    let said = fs::read_to_string(&log).unwrap();
    assert!(!said.contains("warning"), "{said}");
    drop(watch);

    follow_the_page_about_incus(&host, &incus);
}

/// Does what the page says, with an instance `web` that it launches itself.
fn follow_the_page_about_incus(host: &Host, incus: &Incus) {
    incus.ok("delete web");
    host.run(|| {
        overlay("/etc");
        install();
    });
    configure(host, "incus.md", "On each host");
    incus.install(Path::new("/etc/macfence.toml"));
    let log = incus.dir.path().join("page's log");
    let path = path_with(&incus.dir);
    let mut service = None;
    let mut systemctl = |words: &str| match words {
        "enable --now macfence.service" => {
            let mut command = Command::new(PROGRAM);
            service = Some(Watch::start(host, command.env("PATH", &path), &log));
        }
        "disable --now macfence.service" => service = None,
        _ => panic!("{words}"),
    };
    let set_up = commands("incus.md", "On each host");
    follow(host, &path, &set_up, &mut systemctl);

    // The lab reaches no server with images, but has an image of its own.
    let see = commands("incus.md", "How to see that it works");
    let see: Vec<_> = see
        .iter()
        .map(|block| block.replace("images:debian/13", "bb"))
        .collect();
    let said = follow(host, &path, &see, &mut systemctl);
    assert!(said.ends_with("\nfenced by nft\nwell\n"), "{said}");
    assert_eq!(host.fenced(), ["web"]);
    host.ok("nft", &["flush", "ruleset"]);
    until("the service restores it", || host.fenced() == ["web"]);

    let undo = commands("incus.md", "How to undo it");
    follow(host, &path, &undo, &mut systemctl);
    incus.ok("restart -f web");
    assert!(host.fenced().is_empty());
    incus.ok("stop -f web");
}
