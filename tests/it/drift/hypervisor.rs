//! Hypervisors that cannot tell of all VMs, and VMs that cannot be fenced.

use super::{A, B, C, run};
use crate::lab::{Host, domain, fake_virsh, script};
use crate::xen;

#[test]
fn what_cannot_be_found_out_ends_with_2() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "virsh", "echo 'error: no libvirtd' >&2; exit 1");
    let ran = run(&host, &dir, &["check"]);
    assert_eq!((ran.status, &*ran.stdout), (2, ""));
    assert!(ran.stderr.contains("no libvirtd"), "{}", ran.stderr);
    let ran = run(&host, &dir, &["--config", "/nonexistent", "check"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    // Nothing runs, nothing is held.
    let ran = run(&host, &fake_virsh(&[]), &["check", "--json"]);
    assert_eq!((ran.status, &*ran.stdout), (0, "[]\n"));
}

#[test]
fn a_vm_that_cannot_be_fenced_is_named_and_all_others_are() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1"]);
    let long = "x".repeat(253);
    let virsh = fake_virsh(&[
        (&long[..250], &domain(&long, &[(B, "vnet1", "br0")])),
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
    ]);
    std::fs::rename(
        virsh.path().join(format!("{}.xml", &long[..250])),
        virsh.path().join("long"),
    )
    .unwrap();
    std::fs::write(virsh.path().join("names"), format!("{long}\na\n")).unwrap();
    let says =
        "d=${0%/*}; case $4 in 'list --name') exec cat $d/names;; esac; cat $d/long $d/a.xml";
    script(&virsh, "virsh", says);
    let ran = run(&host, &virsh, &["sync"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "fenced a: port \"vnet0\"\n")
    );
    assert!(ran.stderr.contains("not fenced: xxxx"), "{}", ran.stderr);
    assert_eq!(host.fenced(), ["a"]);
    let ran = run(&host, &virsh, &["check"]);
    assert!(
        ran.status == 1 && ran.stdout.starts_with("missing xxxx"),
        "{ran:?}"
    );
}

#[test]
fn one_odd_vm_keeps_no_other_from_being_fenced() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["a*b", "vnet0", "vnet1", "vnet2"]);
    let odd = domain("odd", &[(A, "a*b", "br0")]);
    let same = |name: &str| domain(name, &[(B, "vnet1", "br0")]);
    let virsh = fake_virsh(&[
        ("odd", &odd),
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &same("b")),
        ("c", &same("c")),
        ("d", &domain("d", &[(C, "vnet2", "br0")])),
    ]);
    let ran = run(&host, &virsh, &["sync"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "fenced a: port \"vnet0\"\nfenced d: port \"vnet2\"\n")
    );
    for words in [
        "odd: VM \"odd\": port name \"a*b\"",
        "b: port \"vnet1\" is claimed twice",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    // libvirt does not answer about the second of them.
    let path = virsh.path().join("virsh");
    let slow = std::fs::read_to_string(&path).unwrap();
    let slow = slow.replace(
        "while read -r n; do ",
        "while read -r n; do [ $n = a ] && sleep 60; ",
    );
    std::fs::write(&path, slow).unwrap();
    std::fs::write(virsh.path().join("names"), "d\na\ne\n").unwrap();
    std::fs::write(
        virsh.path().join("e.xml"),
        domain("e", &[(B, "vnet1", "br0")]),
    )
    .unwrap();
    host.ok("nft", &["flush", "ruleset"]);
    let ran = run(&host, &virsh, &["sync"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("not fenced: a: virsh did not end"),
        "{}",
        ran.stderr
    );
    assert_eq!(host.fenced(), ["d", "e"]);
}

#[test]
fn xen_is_asked_where_there_is_no_virsh() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif9.0"]);
    host.hide("virsh");
    let dir = tempfile::tempdir().unwrap();
    let says = "case \"$*\" in \
        list) printf 'Name ID Mem VCPUs State Time(s)\\nDomain-0 0 1 1 r 1\\none-7 7 1 1 b 1\\n'; mkdir ${0%/*}/asked 2>/dev/null && echo 'old 8 1 1 b 1'; exit 0;; \
        'domid one-7') echo 7;; 'network-list 7') echo '0 0 02:00:c0:a8:00:05 0 4';; \
        'network-list 8') ;; *) exit 1;; esac";
    script(&dir, "xl", says);
    xen::store(&dir, &[("7/0", "")]);
    assert_eq!(
        run(&host, &dir, &["sync"]).ok(),
        "fenced one-7: port \"vif7.0\"\n"
    );
    run(&host, &dir, &["check"]).quiet();
}

#[test]
fn a_xen_domain_that_cannot_be_asked_about_is_missing_and_not_over() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif8.0"]);
    host.hide("virsh");
    let dir = tempfile::tempdir().unwrap();
    let says = "case \"$*\" in list) printf 'a 7 1 1 b 1\\nb 8 1 1 b 1\\n';; \
        'network-list 8') echo '0 0 02:00:c0:a8:00:05 0 4';; *) echo 'no xenstore' >&2; exit 1;; esac";
    script(&dir, "xl", says);
    xen::store(&dir, &[("8/0", "")]);
    let ran = run(&host, &dir, &["sync"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "fenced b: port \"vif8.0\"\n")
    );
    assert!(
        ran.stderr.contains("not fenced: a: xl: no xenstore"),
        "{}",
        ran.stderr
    );
    let ran = run(&host, &dir, &["check"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "missing a: xl: no xenstore\n")
    );
}
