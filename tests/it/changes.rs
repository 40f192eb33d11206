//! The kernel changes only where something has changed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, Tap, domain, macfence_with, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:0a:00:00:05";

fn host() -> Host {
    let host = Host::new();
    host.bridge("br0");
    host
}

/// Makes both counters of a port rise: a spoofed frame comes from it, a foreign frame goes to it.
fn provoke(port: &Tap, other: &Tap) {
    let stranger: MacAddr = "52:54:00:00:00:01".parse().unwrap();
    let all = MacAddr::new([0xff; 6]);
    port.send(&frame(Kind::Arp, stranger, all, 1));
    other.send(&frame(Kind::Arp, stranger, all, 2));
}

fn chain(host: &Host, vm: &str) -> String {
    host.ok("nft", &["-a", "list", "chain", "bridge", "macfence", vm])
}

#[test]
fn fencing_twice_changes_nothing_and_keeps_counters() {
    let host = host();
    let port = host.tap("br0", "one-1-0");
    let uplink = host.tap("br0", "eth0");
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    host.apply(&xml).ok();
    provoke(&port, &uplink);
    let before = (host.generation(), host.ruleset());
    assert!(
        before.1.matches("packets 1 bytes").count() == 2,
        "{}",
        before.1
    );
    host.apply(&xml).ok();
    host.apply(&xml).ok();
    assert_eq!((host.generation(), host.ruleset()), before);
}

#[test]
fn commands_that_only_read_change_nothing() {
    let host = host();
    let _port = host.tap("br0", "one-1-0");
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    for fenced in [false, true] {
        let before = (host.generation(), host.ruleset());
        host.macfence(["list"]).ok();
        host.macfence(["list", "--json"]).ok();
        host.macfence(["flush"]).ok();
        host.macfence(["remove", "nobody"]).ok();
        host.macfence_reading(&xml, ["export", "--xml", "-"]).ok();
        assert_eq!(
            (host.generation(), host.ruleset()),
            before,
            "fenced: {fenced}"
        );
        host.apply(&xml).ok();
    }
}

#[test]
fn a_second_nic_leaves_the_firsts_rules_alone() {
    let host = host();
    let port = host.tap("br0", "one-1-0");
    let uplink = host.tap("br0", "eth0");
    host.ports("br0", &["one-1-1"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    provoke(&port, &uplink);
    let before = chain(&host, "vm-one-1");
    host.apply(&domain(
        "one-1",
        &[(A, "one-1-0", "br0"), (B, "one-1-1", "br0")],
    ))
    .ok();
    let after = chain(&host, "vm-one-1");
    assert!(
        before
            .lines()
            .filter(|l| l.contains("one-1-0"))
            .all(|l| after.contains(l)),
        "{after}"
    );
    assert_eq!(after.matches("one-1-1").count(), 3);
}

#[test]
fn a_changed_setting_changes_only_its_own_rules() {
    let host = host();
    let port = host.tap("br0", "one-1-0");
    let uplink = host.tap("br0", "eth0");
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    host.apply(&xml).ok();
    provoke(&port, &uplink);
    host.macfence_reading(&xml, ["apply", "--xml", "-", "--prefix-len", "32"])
        .ok();
    let dropped = &host.list()[0]["nics"][0]["dropped"];
    assert_eq!(
        (&dropped["spoofed"], &dropped["foreign"]),
        (&1.into(), &0.into())
    );
    assert_eq!(host.list()[0]["nics"][0]["prefix"], "02:00:c0:a8:00:00/32");
}

#[test]
fn a_nic_that_a_vm_has_lost_leaves_nothing_behind() {
    let host = host();
    host.ports("br0", &["one-1-0", "one-1-1"]);
    host.apply(&domain(
        "one-1",
        &[(A, "one-1-0", "br0"), (B, "one-1-1", "br0")],
    ))
    .ok();
    host.apply(&domain("one-1", &[(B, "one-1-1", "br0")])).ok();
    let ruleset = host.ruleset();
    assert!(!ruleset.contains("one-1-0"), "{ruleset}");
    // One entry in the map, and three rules.
    assert_eq!(ruleset.matches("one-1-1").count(), 4);
    host.apply(&domain("one-1", &[])).ok();
    assert!(!host.ruleset().contains("one-1"), "{}", host.ruleset());
}

#[test]
fn a_port_that_moves_takes_its_rules_along() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1"]);
    host.apply(&domain("old", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]))
        .ok();
    // One of two ports goes: the old VM keeps the other.
    host.apply(&domain("new", &[(C, "vnet0", "br0")])).ok();
    assert_eq!(host.fenced(), ["new", "old"]);
    assert!(
        !chain(&host, "vm-old").contains("vnet0"),
        "{}",
        chain(&host, "vm-old")
    );
    assert_eq!(chain(&host, "vm-old").matches("vnet1").count(), 3);
    // The last port goes, and the chain with it.
    host.apply(&domain("newer", &[(C, "vnet1", "br0")])).ok();
    assert_eq!(host.fenced(), ["new", "newer"]);
    // One call takes both ports. Nothing of the former owners remains.
    host.apply(&domain(
        "newest",
        &[(A, "vnet0", "br0"), (B, "vnet1", "br0")],
    ))
    .ok();
    assert_eq!(host.fenced(), ["newest"]);
    assert_eq!(host.ruleset().matches("vnet").count(), 8);
}

#[test]
fn two_vms_swap_their_ports_in_one_call() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1"]);
    let files = tempfile::tempdir().unwrap();
    let apply = |a: &str, b: &str| {
        let [one, two] = ["one", "two"].map(|name| files.path().join(name));
        std::fs::write(&one, domain("a", &[(A, a, "br0")])).unwrap();
        std::fs::write(&two, domain("b", &[(B, b, "br0")])).unwrap();
        let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
        let before = host.generation();
        host.macfence(["apply", "--xml", one, "--xml", two]).ok();
        host.generation() - before
    };
    assert_eq!(apply("vnet0", "vnet1"), 1);
    assert_eq!(apply("vnet0", "vnet1"), 0);
    assert_eq!(apply("vnet1", "vnet0"), 1);
    let list = host.list();
    assert_eq!(
        (&list[0]["vm"], &list[0]["nics"][0]["port"]),
        (&"a".into(), &"vnet1".into())
    );
    assert_eq!(
        (&list[1]["vm"], &list[1]["nics"][0]["port"]),
        (&"b".into(), &"vnet0".into())
    );
}

#[test]
fn a_port_on_no_bridge_is_reported_and_not_fenced() {
    let host = host();
    host.ip("tuntap add macvtap0 mode tap\n");
    host.ports("br0", &["vnet0"]);
    let ran = host.apply(&domain("a", &[(A, "vnet0", "br0"), (B, "macvtap0", "br0")]));
    assert!(
        ran.stderr.contains("\"macvtap0\" is on no Linux bridge"),
        "{}",
        ran.stderr
    );
    ran.ok();
    assert!(!host.ruleset().contains("macvtap0"));
    host.apply(&domain("b", &[(B, "gone0", "br0")])).ok();
    assert_eq!(host.fenced(), ["a"]);
}

#[test]
fn a_missing_bridge_is_reported() {
    let host = host();
    host.ports("br0", &["vnet0"]);
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    let ran = host.macfence_reading(&xml, ["apply", "--xml", "-", "--bridge", "beth0"]);
    assert!(ran.stderr.contains("no bridge \"beth0\""), "{}", ran.stderr);
    ran.ok();
}

#[test]
fn remove_removes_the_named_vms_and_nothing_else() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1", "vnet2"]);
    for (name, port) in [("a", "vnet0"), ("b", "vnet1"), ("c", "vnet2")] {
        host.apply(&domain(name, &[(A, port, "br0")])).ok();
    }
    let b = chain(&host, "vm-b");
    let some = host.macfence(["remove", "a", "c", "nobody"]);
    let nobody = "macfence: warning: VM \"nobody\" has no fence\n";
    assert_eq!((some.status, &*some.stderr), (0, nobody));
    assert_eq!(host.fenced(), ["b"]);
    assert_eq!(chain(&host, "vm-b"), b);
    let one = host.macfence(["remove", "nobody"]);
    assert_eq!((one.status, &*one.stderr), (0, nobody));
    host.macfence(["remove", "b"]).quiet();
    assert!(!host.ruleset().contains("vm-"));
}

#[test]
fn flush_removes_fences_of_ports_that_are_gone() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1", "vnet2", "vnet3"]);
    host.apply(&domain("gone", &[(A, "vnet0", "br0")])).ok();
    host.apply(&domain("half", &[(A, "vnet1", "br0"), (B, "vnet2", "br0")]))
        .ok();
    host.apply(&domain("whole", &[(A, "vnet3", "br0")])).ok();
    let whole = chain(&host, "vm-whole");
    host.unplug("vnet0");
    host.ip("link set vnet1 nomaster\n");
    let list = host.list();
    assert!(list[0]["nics"][0]["bridge"].is_null() && list[1]["nics"][1]["bridge"] == "br0");
    host.macfence(["flush"]).ok();
    assert_eq!(host.fenced(), ["half", "whole"]);
    assert!(!host.ruleset().contains("vnet0") && !host.ruleset().contains("vnet1"));
    assert_eq!(chain(&host, "vm-whole"), whole);
}

#[test]
fn a_call_for_one_vm_takes_few_steps_and_never_lists_the_table() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1", "vnet2"]);
    host.apply(&domain("other", &[(C, "vnet2", "br0")])).ok();
    let dir = tempfile::tempdir().unwrap();
    // An nft that records its input.
    let keeping = "{ echo call; cat /dev/stdin; echo; } >>$0.log; exec /usr/sbin/nft \"$@\"";
    script(&dir, "nft", keeping);
    let log = dir.path().join("nft.log");
    let calls = |args: &[&str], xml: &str| {
        let _ = std::fs::remove_file(&log);
        host.exec(macfence_with(&dir).args(args), xml).ok();
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(!log.contains("list table "), "{log}");
        log.lines().filter(|line| *line == "call").count()
    };
    let apply = ["apply", "--xml", "-"];
    let one = domain("a", &[(A, "vnet0", "br0")]);
    let two = domain("a", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]);
    // One call reads the VM's chain, one a base chain, and one loads.
    assert_eq!(calls(&apply, &one), 3, "a new VM");
    assert_eq!(calls(&apply, &one), 3, "an unchanged VM");
    assert_eq!(calls(&apply, &two), 3, "a second NIC");
    assert_eq!(calls(&apply, &one), 3, "one NIC less");
    assert!(
        calls(&apply, &domain("thief", &[(A, "vnet0", "br0")])) <= 7,
        "a port that moves"
    );
    assert_eq!(calls(&["remove", "thief"], ""), 2, "a VM that goes");
    assert_eq!(calls(&["remove", "thief"], ""), 1, "a VM that is gone");
    assert_eq!(calls(&["flush"], ""), 1, "nothing to flush");
    host.unplug("vnet2");
    // One call reads the ports, one reads them again under the lock, and one loads.
    assert!(calls(&["flush"], "") <= 3, "something to flush");
}

#[test]
fn a_bridge_of_any_name_is_a_bridge() {
    let host = host();
    let name = OsStr::from_bytes(b"br\xff");
    host.exec(
        Command::new("ip")
            .args(["link", "add"])
            .arg(name)
            .args(["type", "bridge"]),
        "",
    )
    .ok();
    host.ip("tuntap add vnet0 mode tap\n");
    host.exec(
        Command::new("ip")
            .args(["link", "set", "vnet0", "master"])
            .arg(name),
        "",
    )
    .ok();
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    host.macfence(["flush"]).ok();
    assert_eq!(host.fenced(), ["a"]);
}

#[test]
fn other_tables_stay_unchanged() {
    let host = host();
    host.ports("br0", &["vnet0"]);
    let others = "table bridge filter { chain forward { type filter hook forward priority 0; \
                  ether type 0x88b5 counter drop; }; chain vm-a { drop; }; }; \
                  table inet macfence { map ports { type ifname : verdict; }; chain vm-a { }; }; \
                  table arp macfence { flags dormant; chain forward { }; chain vm-a { drop; }; }; \
                  table bridge zzz { flags dormant; }";
    host.ok("nft", &[others]);
    let list = |table: &[&str]| host.ok("nft", &[&["-a", "list", "table"], table].concat());
    let tables = [
        ["bridge", "filter"],
        ["bridge", "zzz"],
        ["inet", "macfence"],
        ["arp", "macfence"],
    ];
    let before = tables.map(|table| list(&table));
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    assert_eq!(host.fenced(), ["a"]);
    let generation = host.generation();
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    assert_eq!(host.generation(), generation);
    host.unplug("vnet0");
    host.macfence(["flush"]).ok();
    host.macfence(["remove", "a"]).ok();
    assert_eq!(tables.map(|table| list(&table)), before);
}
