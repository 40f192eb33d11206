//! Xen hosts: what stand-ins for its tools print is what the real ones do.

use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with, script};

const XL: &str = "\
Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path
0   0  02:00:c0:a8:00:05 0      4     14       768/769         /local/domain/0/backend/vif/7/0
1   0  02:00:c0:a8:01:05 1      4     -1       -1/-1           /local/domain/0/backend/vif/7/1
";
const XM: &str = "\
Idx BE     MAC Addr.     handle state evt-ch tx-/rx-ring-ref BE-path
0   0  02:00:c0:a8:00:05    0     1      -1    -1   /-1      /local/domain/0/backend/vif/7/0
1   0  02:00:c0:a8:01:05    1     1      -1    -1   /-1      /local/domain/0/backend/vif/7/1
";

/// A host with the ports of domain 7.
fn host() -> (Host, tempfile::TempDir) {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif7.1", "vif8.0"]);
    let dir = tempfile::tempdir().unwrap();
    store(&dir, &[("7/0", ""), ("7/1", ""), ("8/0", "")]);
    (host, dir)
}

/// A xenstore that knows these ends of interfaces, each as `domain/index` with its `vifname`, if that is
/// not empty.
pub fn store(dir: &tempfile::TempDir, backends: &[(&str, &str)]) {
    let mut listing = String::new();
    for (path, name) in backends {
        let path = format!("/local/domain/0/backend/vif/{path}");
        listing += &format!("{path} = \"\"\n{path}/bridge = \"br0\"\n");
        if !name.is_empty() {
            listing += &format!("{path}/vifname = \"{name}\"\n");
        }
    }
    std::fs::write(dir.path().join("store"), listing).unwrap();
    let says = "[ $1 = -f ] && grep \"^$2/\" ${0%/*}/store && exit; \
                echo \"xenstore-ls: xs_directory ($2): No such file or directory\" >&2; exit 1";
    script(dir, "xenstore-ls", says);
}

/// A tool that knows `one-7` as domain 7 with this list of interfaces.
fn tool(dir: &tempfile::TempDir, name: &str, list: &str) {
    std::fs::write(dir.path().join("list"), list).unwrap();
    let says = "case \"$*\" in 'domid one-7') echo 7;; 'network-list 7') cat ${0%/*}/list;; \
                *) echo \"no such domain: $2\" >&2; exit 1;; esac";
    script(dir, name, says);
}

fn ebtables_xen(host: &Host, dir: &tempfile::TempDir, vm: &str) -> Ran {
    macfence(host, dir, &["hook", "ebtables-xen", "--", vm])
}

fn macfence(host: &Host, dir: &tempfile::TempDir, args: &[&str]) -> Ran {
    host.exec(macfence_with(dir).args(args), "")
}

fn ports(host: &Host) -> Vec<String> {
    let list = host.list();
    let nics = list[0]["nics"].as_array().cloned().unwrap_or_default();
    nics.iter()
        .map(|nic| {
            format!(
                "{} {}",
                nic["port"].as_str().unwrap(),
                nic["mac"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn both_tools_tell_the_ports_and_xl_is_asked_first() {
    for (tools, list) in [(&["xl"][..], XL), (&["xm"], XM), (&["xm", "xl"], XL)] {
        let (host, dir) = host();
        for name in tools {
            tool(&dir, name, list);
        }
        if tools.len() == 2 {
            script(&dir, "xm", "echo 'xend is not running' >&2; exit 1");
        }
        ebtables_xen(&host, &dir, "one-7").ok();
        assert_eq!(
            ports(&host),
            ["vif7.0 02:00:c0:a8:00:05", "vif7.1 02:00:c0:a8:01:05"]
        );
        assert_eq!(host.fenced(), ["one-7"]);
        let before = host.generation();
        ebtables_xen(&host, &dir, "one-7").ok();
        assert_eq!(host.generation(), before);
    }
}

#[test]
fn the_emulated_port_of_a_guest_without_drivers_is_fenced_as_well() {
    let (host, dir) = host();
    host.ports("br0", &["vif7.0-emu"]);
    tool(&dir, "xl", XL);
    ebtables_xen(&host, &dir, "one-7").ok();
    assert_eq!(
        ports(&host),
        [
            "vif7.0 02:00:c0:a8:00:05",
            "vif7.0-emu 02:00:c0:a8:00:05",
            "vif7.1 02:00:c0:a8:01:05"
        ]
    );
    // Once the guest has its drivers the emulated one is gone, and nothing is said of it.
    host.unplug("vif7.0-emu");
    let ran = ebtables_xen(&host, &dir, "one-7");
    assert_eq!(ran.stderr, "");
    ran.ok();
    assert_eq!(ports(&host).len(), 2);
}

#[test]
fn a_domain_that_vanishes_between_the_two_calls_is_an_error() {
    let header = XL.lines().next().unwrap();
    for (list, words) in [
        // xl lists nothing of a domain that is gone, and is content.
        (format!("echo '{header}'"), "ended while Xen was asked"),
        (
            "echo \"Error: Domain '7' does not exist.\" >&2; exit 1".to_owned(),
            "Domain '7' does not exist",
        ),
    ] {
        let (host, dir) = host();
        tool(&dir, "xl", XL);
        ebtables_xen(&host, &dir, "one-7").ok();
        let before = (host.generation(), host.ruleset());
        let says = format!(
            "d=${{0%/*}}; case $1 in domid) mkdir $d/asked 2>/dev/null || exit 1; echo 7;; \
             *) {list};; esac"
        );
        script(&dir, "xl", &says);
        let error = ebtables_xen(&host, &dir, "one-7").error();
        assert!(error.contains(words), "{error}");
        assert_eq!((host.generation(), host.ruleset()), before);
    }
}

#[test]
fn a_domain_without_interfaces_is_no_error() {
    for list in ["", "Idx BE Mac Addr.         handle state\n"] {
        let (host, dir) = host();
        tool(&dir, "xl", list);
        ebtables_xen(&host, &dir, "one-7").ok();
        assert!(host.fenced().is_empty());
    }
}

#[test]
fn what_xens_tools_say_wrong_is_named_and_changes_nothing() {
    let (host, dir) = host();
    tool(&dir, "xl", "Error: xenstored has gone\n");
    let before = host.generation();
    for (vm, words) in [
        ("one-7", "\"Error: xenstored has gone\""),
        ("one-8", "no such domain: one-8"),
        ("-h", "\"-h\" for a flag"),
    ] {
        let error = ebtables_xen(&host, &dir, vm).error();
        assert!(error.contains(words), "{error}");
    }
    for (id, words) in [("", "is \"\""), ("0x7", "\"0x7\""), ("-1", "\"-1\"")] {
        script(&dir, "xl", &format!("echo '{id}'"));
        let error = ebtables_xen(&host, &dir, "one-7").error();
        assert!(error.contains(words), "{error}");
    }
    tool(&dir, "xl", "0 0 00:00:00:00:00:00 0 4\n");
    let error = ebtables_xen(&host, &dir, "one-7").error();
    assert!(error.contains("all-zero"), "{error}");
    assert_eq!(host.generation(), before);
}

#[test]
fn an_interface_whose_port_is_elsewhere_is_named() {
    let (host, dir) = host();
    tool(&dir, "xl", &format!("{XL}2 3 02:00:c0:a8:02:05 2 4\n"));
    let ran = ebtables_xen(&host, &dir, "one-7");
    assert_eq!(
        ran.stderr,
        "macfence: warning: VM \"one-7\": interface 2 has its port in domain 3; \
         it is not fenced\n"
    );
    ran.ok();
    assert_eq!(ports(&host).len(), 2);
}

#[test]
fn apply_asks_xen_where_there_is_no_virsh() {
    let (host, dir) = host();
    host.hide("virsh");
    tool(&dir, "xl", XL);
    macfence(&host, &dir, &["apply", "one-7"]).ok();
    assert_eq!(
        ports(&host),
        ["vif7.0 02:00:c0:a8:00:05", "vif7.1 02:00:c0:a8:01:05"]
    );
    let before = host.generation();
    let error = macfence(&host, &dir, &["apply", "one-8"]).error();
    assert_eq!(error, "macfence: error: xl: no such domain: one-8");
    assert_eq!(host.generation(), before);
    macfence(&host, &dir, &["remove", "one-7"]).ok();
    assert!(host.fenced().is_empty());
}

/// An xl that runs `one-7`, which libvirt may know as well, and `xen-8`.
const TWO: &str = "case \"$*\" in list) printf 'one-7 7 1 1 b 1\\nxen-8 8 1 1 b 1\\n';; \
    'domid one-7') echo 7;; 'domid xen-8') echo 8;; \
    'network-list 7') printf '0 0 02:00:c0:a8:09:09 0 4\\n1 0 02:00:c0:a8:01:05 0 4\\n';; \
    'network-list 8') echo '0 0 02:00:c0:a8:00:08 0 4';; \
    *) echo \"no such domain: $2\" >&2; exit 1;; esac";

#[test]
fn on_a_host_with_libvirt_and_xen_the_vms_of_both_are_fenced() {
    let (host, _) = host();
    host.ports("br0", &["vnet0"]);
    let dir = fake_virsh(&[
        ("a", &domain("a", &[("02:00:c0:a8:00:0a", "vnet0", "br0")])),
        (
            "one-7",
            &domain("one-7", &[("02:00:c0:a8:00:05", "vif7.0", "br0")]),
        ),
    ]);
    script(&dir, "xl", TWO);
    store(&dir, &[("7/0", ""), ("7/1", ""), ("8/0", "")]);
    // Either may know more of a VM that both know; what libvirt says of a port counts.
    let all = "fenced a: port \"vnet0\"\nfenced one-7: port \"vif7.0\"; port \"vif7.1\"\n\
               fenced xen-8: port \"vif8.0\"\n";
    assert_eq!(macfence(&host, &dir, &["sync"]).ok(), all);
    macfence(&host, &dir, &["check"]).quiet();
    let mut macs = Vec::new();
    for vm in host.list().as_array().unwrap() {
        let nics = vm["nics"].as_array().unwrap();
        macs.extend(
            nics.iter()
                .map(|nic| nic["mac"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(
        macs,
        [
            "02:00:c0:a8:00:0a",
            "02:00:c0:a8:00:05",
            "02:00:c0:a8:01:05",
            "02:00:c0:a8:00:08"
        ]
    );

    // By name each is found by whoever knows it.
    host.ok("nft", &["flush", "ruleset"]);
    macfence(&host, &dir, &["apply", "xen-8", "a"]).ok();
    assert_eq!(host.fenced(), ["a", "xen-8"]);

    // A name that nobody knows, or a hypervisor that cannot be asked, changes nothing.
    let before = host.generation();
    let error = macfence(&host, &dir, &["apply", "a", "nobody"]).error();
    assert_eq!(
        error,
        "macfence: error: no hypervisor of this host knows \"nobody\": \
         virsh: failed to get domain 'nobody'; xl: no such domain: nobody"
    );
    script(&dir, "xl", "echo 'no xenstore' >&2; exit 1");
    let error = macfence(&host, &dir, &["sync"]).error();
    assert_eq!(error, "macfence: error: xl: no xenstore");
    assert_eq!(host.generation(), before);
}

#[test]
fn xens_tools_on_a_host_that_did_not_boot_xen_are_no_trouble() {
    let (host, _) = host();
    host.ports("br0", &["vnet0"]);
    let xml = domain("a", &[("02:00:c0:a8:00:0a", "vnet0", "br0")]);
    let dir = fake_virsh(&[("a", &xml)]);
    let says = "echo 'xencall: error: Could not obtain handle on privileged command interface: \
                No such file or directory' >&2; exit 1";
    script(&dir, "xl", says);
    let fenced = macfence(&host, &dir, &["sync"]).ok();
    assert_eq!(fenced, "fenced a: port \"vnet0\"\n");
    macfence(&host, &dir, &["check"]).quiet();
}

#[test]
fn a_port_under_a_name_that_the_domains_configuration_chose_is_fenced() {
    let (host, dir) = host();
    tool(&dir, "xl", XL);
    store(&dir, &[("7/0", "tenant7"), ("7/1", "")]);
    host.unplug("vif7.0");
    host.ports("br0", &["tenant7", "tenant7-emu"]);
    ebtables_xen(&host, &dir, "one-7").ok();
    let fenced = [
        "tenant7 02:00:c0:a8:00:05",
        "tenant7-emu 02:00:c0:a8:00:05",
        "vif7.1 02:00:c0:a8:01:05",
    ];
    assert_eq!(ports(&host), fenced);
    host.ok("nft", &["flush", "ruleset"]);
    let hook = |path| macfence(&host, &dir, &["hook", "xen", path]);
    script(&dir, "xl", KNOWS);
    hook("backend/vif/7/0").ok();
    assert_eq!(ports(&host), fenced);
    let error = hook("backend/vif/9/0").error();
    assert!(error.contains("invalid domain identifier"), "{error}");
    // A script of the operator's that renames nothing.
    host.ports("br0", &["vif7.0"]);
    hook("backend/vif/7/1").ok();
    let found = ports(&host);
    assert!(
        found.contains(&"vif7.0 02:00:c0:a8:00:05".to_owned()),
        "{found:?}"
    );
}

/// An xl that knows `one-7` as domain 7, by its name and its number.
const KNOWS: &str = "case \"$*\" in list | 'list 7') echo 'one-7 7 1 1 p 1';; \
    'domid one-7') echo 7;; 'network-list 7') cat ${0%/*}/list;; \
    *) echo \"$2 is an invalid domain identifier (rc=-6)\" >&2; exit 1;; esac";

#[test]
fn a_port_that_a_guest_has_given_up_is_no_difference_and_its_rules_go_with_the_next_sync() {
    let (host, dir) = host();
    host.ports("br0", &["vif7.0-emu"]);
    script(&dir, "virsh", "exit 0");
    script(&dir, "xl", KNOWS);
    std::fs::write(dir.path().join("list"), XL).unwrap();
    let macfence = |args: &[&str]| macfence(&host, &dir, args);
    macfence(&["sync"]).ok();
    assert_eq!(ports(&host).len(), 3);
    host.unplug("vif7.0-emu");
    macfence(&["check"]).quiet();
    // Another port that has gone is one: its NIC should be there.
    assert_eq!(ports(&host).len(), 3);
    macfence(&["sync"]).quiet();
    assert_eq!(ports(&host).len(), 2);
    macfence(&["check"]).quiet();
    host.unplug("vif7.1");
    assert_eq!(macfence(&["check"]).status, 1);
}
