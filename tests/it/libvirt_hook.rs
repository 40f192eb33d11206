//! libvirt's own hook: a domain is fenced before its guest runs, and not started if it cannot be.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::lab::libvirt::{Libvirt, diskless};
use crate::lab::{Host, LOGIN_PATH, MACFENCE, Ran, domain, fake_virsh, path_with, prepend, script};

const A: &str = "02:00:c0:a8:00:05";

/// A bridge interface whose port libvirt names, without the ROM that would look for a server to
/// boot from and be counted.
fn interface(mac: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/>\
         <rom enabled='no'/></interface>"
    )
}

/// A host whose libvirt calls macfence, and writes down after each call what it was, how many QEMU
/// processes there are for the domain, and what is fenced.
fn hooked(host: &Host) -> (Libvirt<'_>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    host.bridge("br0");
    let hook = format!(
        "[ -e {dir}/broken ] && PATH={dir}:$PATH\n\
         {MACFENCE} hook libvirt -- \"$@\"; status=$?\n\
         running=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c \"^guest=$1,\")\n\
         echo \"$1 $2 $3 status=$status qemu=$running\" \
         $(nft list map bridge macfence ports | grep -o 'jump vm-[^ ,]*') >>{dir}/log\n\
         exit $status",
        dir = dir.path().display()
    );
    (Libvirt::start_with_hook(host, &hook), dir)
}

fn log(dir: &tempfile::TempDir) -> String {
    std::fs::read_to_string(dir.path().join("log")).unwrap_or_default()
}

#[test]
fn a_domain_is_fenced_before_qemu_exists_and_until_it_has_ended() {
    let host = Host::new();
    let (libvirt, dir) = hooked(&host);
    libvirt.create("one-1", &interface(A));
    let started = log(&dir);
    let start = started
        .lines()
        .find(|line| line.starts_with("one-1 start "))
        .unwrap();
    assert_eq!(
        start, "one-1 start begin status=0 qemu=0 jump vm-one-1",
        "{started}"
    );
    let port = libvirt.virsh(&["domiflist", "one-1"]);
    let port = port.split_whitespace().next().unwrap();
    assert!(port.starts_with("vnet") && host.list()[0]["nics"][0]["port"] == port);
    // A guest that sleeps and wakes keeps its fence and its counters.
    let before = (host.generation(), host.ruleset());
    libvirt.virsh(&["suspend", "one-1"]);
    libvirt.virsh(&["resume", "one-1"]);
    assert_eq!((host.generation(), host.ruleset()), before);
    libvirt.virsh(&["destroy", "one-1"]);
    assert!(host.fenced().is_empty(), "{}", log(&dir));
    assert!(!host.ruleset().contains("vnet"));
}

#[test]
fn a_domain_that_cannot_be_fenced_does_not_start() {
    let host = Host::new();
    let (mut libvirt, dir) = hooked(&host);
    libvirt.create("one-1", &interface(A));
    script(&dir, "nft", "echo 'Error: no more rules' >&2; exit 1");
    script(&dir, "ebtables", "echo 'nor here' >&2; exit 1");
    std::fs::write(dir.path().join("broken"), "").unwrap();
    let refused = libvirt.try_create(&diskless("one-2", "", &interface("02:00:c0:a8:01:05")));
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("macfence: error: "),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("no more rules"),
        "{}",
        refused.stderr
    );
    std::fs::remove_file(dir.path().join("broken")).unwrap();
    // Nothing of it is left, and the other goes on.
    assert_eq!(libvirt.virsh(&["list", "--name"]).trim(), "one-1");
    assert!(libvirt.has_qemu("one-1") && !libvirt.has_qemu("one-2"));
    assert_eq!(host.ports_of("br0").len(), 1);
    assert_eq!(host.fenced(), ["one-1"]);
    assert!(!host.ruleset().contains("one-2"));
}

#[test]
fn a_domain_that_is_saved_and_restored_is_fenced_again() {
    let host = Host::new();
    let (libvirt, dir) = hooked(&host);
    libvirt.create("one-1", &interface(A));
    let image = dir.path().join("image");
    libvirt.virsh(&["save", "one-1", image.to_str().unwrap()]);
    assert!(host.fenced().is_empty());
    std::fs::remove_file(dir.path().join("log")).unwrap();
    libvirt.virsh(&["restore", image.to_str().unwrap()]);
    let restored = log(&dir);
    let start = "one-1 start begin status=0 qemu=0 jump vm-one-1";
    assert!(restored.lines().any(|line| line == start), "{restored}");
    assert_eq!(host.fenced(), ["one-1"]);
}

/// Calls the hook as libvirt does.
fn call(host: &Host, operation: &[&str], xml: &str) -> Ran {
    host.macfence_reading(xml, [&["hook", "libvirt", "--"], operation].concat())
}

#[test]
fn operations_do_what_they_are_for_and_print_nothing() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0"]);
    let xml = domain("--help", &[(A, "vnet0", "br0")]);
    let fenced = ["--help"];
    for (operation, after) in [
        ("prepare", &[][..]),
        ("start", &fenced),
        ("started", &fenced),
        ("migrate", &fenced),
        ("stopped", &[]),
        ("release", &[]),
        ("restore", &[]),
        ("reconnect", &fenced),
        ("reconnect", &fenced),
        ("attach", &fenced),
        ("unheard-of", &fenced),
        ("release", &[]),
    ] {
        let ran = call(&host, &["--help", operation, "begin", "-"], &xml);
        assert_eq!(
            (ran.status, &*ran.stdout, &*ran.stderr),
            (0, "", ""),
            "{operation}"
        );
        assert_eq!(host.fenced(), after, "{operation}");
    }
    let before = (host.generation(), host.ruleset());
    for (words, xml) in [
        ("not domain XML", ""),
        ("not \"--help\"", &*domain("x", &[])),
    ] {
        let error = call(&host, &["--help", "start", "begin", "-"], xml).error();
        assert!(
            error.contains("standard input") && error.contains(words),
            "{error}"
        );
    }
    assert_eq!((host.generation(), host.ruleset()), before);
}

#[test]
fn a_running_domain_is_not_ended_because_its_fence_could_not_be_looked_at() {
    let host = Host::new();
    let (libvirt, dir) = hooked(&host);
    libvirt.create("one-1", &interface(A));
    let before = (host.generation(), host.ruleset());
    script(&dir, "nft", "echo 'Error: no more rules' >&2; exit 1");
    script(&dir, "ebtables", "echo 'nor here' >&2; exit 1");
    let mut command = Command::new(MACFENCE);
    command.args(["hook", "libvirt", "--", "one-1", "reconnect", "begin", "-"]);
    let xml = libvirt.virsh(&["dumpxml", "one-1"]);
    let said = host.exec(command.env("PATH", prepend(&dir, LOGIN_PATH)), &xml);
    assert!(
        said.stderr.starts_with("macfence: warning: ") && said.stderr.contains("no more rules")
    );
    assert_eq!((said.status, &*said.stdout), (0, ""));
    assert_eq!((host.generation(), host.ruleset()), before);
}

#[test]
fn whoever_asks_waits_for_others_who_ask_and_libvirts_hook_does_not() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    let virsh = fake_virsh(&[("one-1", &xml)]);
    let asking = host.lock_file("asking");
    asking.lock().unwrap();
    call(&host, &["one-1", "start", "begin", "-"], &xml).quiet();
    call(&host, &["one-1", "reconnect", "begin", "-"], &xml).quiet();
    assert_eq!(host.fenced(), ["one-1"]);
    host.macfence_reading(&xml, ["export", "--xml", "-"]).ok();
    let check = || {
        let mut command = Command::new(MACFENCE);
        host.exec(command.arg("check").env("PATH", path_with(&virsh)), "")
    };
    thread::scope(|scope| {
        let check = scope.spawn(check);
        thread::sleep(Duration::from_millis(500));
        assert!(!check.is_finished());
        asking.unlock().unwrap();
        check.join().unwrap().quiet();
    });
    // The kernel is asked, and told, by programs that tell whether the lock is held meanwhile.
    let says = "flock -n /run/macfence/asking true; echo $? >>$0.log; exec /usr/sbin/nft \"$@\"";
    script(&virsh, "nft", says);
    let free = |args: &[&str]| {
        let mut command = Command::new(MACFENCE);
        host.exec(command.args(args).env("PATH", path_with(&virsh)), "")
            .ok();
        let log = virsh.path().join("nft.log");
        let free = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(log).unwrap();
        free.lines().all(|status| status == "0")
    };
    assert!(free(&["check"]) && free(&["metrics"]));
    host.ok("nft", &["flush", "ruleset"]);
    assert!(!free(&["sync"]) && !free(&["apply", "one-1"]));
    call(&host, &["one-1", "stopped", "end", "-"], &xml).quiet();
    assert!(host.fenced().is_empty());
}
