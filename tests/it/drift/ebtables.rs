//! `check` and `sync` with fences in ebtables.

use super::{A, B, C, run};
use crate::lab::{Host, domain, fake_virsh};

#[test]
fn check_and_sync_work_on_an_old_host() {
    let host = Host::new();
    host.hide("nft");
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1", "gone"]);
    let virsh = fake_virsh(&[
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &domain("b", &[(B, "vnet1", "br0")])),
    ]);
    host.apply(&domain("c", &[(C, "gone", "br0")])).ok();
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    host.ok(
        "ebtables",
        &[
            "-t",
            "nat",
            "-D",
            "PREROUTING",
            "-s",
            "!",
            A,
            "-i",
            "vnet0",
            "-j",
            "DROP",
        ],
    );
    host.unplug("gone");
    let ran = run(&host, &virsh, &["check"]);
    assert_eq!(ran.status, 1);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "differs a: no rule that lets only 02:00:c0:a8:00:05 in from \"vnet0\"",
            "missing b: port \"vnet1\"",
            "stale -: port \"gone\""
        ]
    );
    assert_eq!(run(&host, &virsh, &["sync"]).ok().lines().count(), 3);
    run(&host, &virsh, &["check"]).quiet();
    let all = host.ok("ebtables-save", &[]);
    assert_eq!(all.matches(" vnet").count(), 2 * 4, "{all}");
}

#[test]
fn half_a_fence_in_ebtables_is_no_fence() {
    let host = Host::new();
    host.hide("nft");
    host.bridge("br0");
    host.ports("br0", &["vnet0"]);
    let virsh = fake_virsh(&[("a", &domain("a", &[(A, "vnet0", "br0")]))]);
    let trusting = ["--trusted", "0:16:3e:0:0:1", "sync"];
    run(&host, &virsh, &trusting).ok();
    let list = host.ok("ebtables", &["-L"]);
    let chain = list
        .split_whitespace()
        .find(|word| word.starts_with("macfence-"))
        .unwrap();
    host.ok("ebtables", &["-F", chain.trim_end_matches(',')]);
    let check = ["--trusted", "0:16:3e:0:0:1", "check"];
    assert_eq!(run(&host, &virsh, &check).status, 1);
    run(&host, &virsh, &trusting).ok();
    run(&host, &virsh, &check).quiet();
    // A run was cut short.
    host.ok("ebtables", &["-F"]);
    host.ok(
        "ebtables",
        &["-A", "FORWARD", "-s", "!", A, "-i", "vnet0", "-j", "DROP"],
    );
    assert_eq!(run(&host, &virsh, &["check"]).status, 1);
    run(&host, &virsh, &["sync"]).ok();
    run(&host, &virsh, &["check"]).quiet();
}

#[test]
fn a_fence_of_version_0_1_is_found_and_completed() {
    let host = Host::new();
    host.hide("nft");
    host.bridge("br0");
    host.ports("br0", &["vnet0"]);
    let virsh = fake_virsh(&[("a", &domain("a", &[(A, "vnet0", "br0")]))]);
    let net = "02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00";
    for (who, way) in [(net, "-o"), (A, "-i")] {
        let rule = ["-A", "FORWARD", "-s", "!", who, way, "vnet0", "-j", "DROP"];
        host.ok("ebtables", &rule);
    }
    let ran = run(&host, &virsh, &["check"]);
    assert_eq!(ran.status, 1);
    assert_eq!(
        ran.stdout,
        "differs a: no rule that drops false addresses from \"vnet0\" before the bridge learns \
         them; no rule against control frames and multicast queries from \"vnet0\"; no rule that \
         lets multicast queries out to \"vnet0\"\n"
    );
    run(&host, &virsh, &["sync"]).ok();
    run(&host, &virsh, &["check"]).quiet();
}
