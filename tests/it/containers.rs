//! Containers: of libvirt's LXC driver and of Incus, both real ones.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::lab::containers::{Cgroups, INIT, Incus, small_root};
use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, MACFENCE, Ran, path_with, until};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const FALSE: [u8; 6] = [2, 0, 0xc0, 0xa8, 0, 0x66];

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
    host.bridge("br0");
    let dir = tempfile::tempdir().unwrap();
    let _cgroups = Cgroups::mount(&host);
    // What is fenced after each call, and whether the container's program runs.
    let hook = format!(
        "[ -e {dir}/broken ] && exit 1\n\
         {MACFENCE} hook libvirt -- \"$@\"; status=$?\n\
         running=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '^/sbin/[i]nit$')\n\
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
}

/// `macfence watch` on a host with Incus only.
struct Watch(Child);

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
    let _watch = Watch(host.run(|| {
        let log = fs::File::create(&log).unwrap();
        let stdio = (Stdio::from(log.try_clone().unwrap()), Stdio::from(log));
        let mut command = command();
        command.arg("watch").stdin(Stdio::null());
        command.stdout(stdio.0).stderr(stdio.1).spawn().unwrap()
    }));
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
}
