//! `check` and `sync` with the VMs of a real libvirt.

use super::{A, B, C, Fenced, missing};
use crate::lab::Host;
use crate::lab::libvirt::Libvirt;

fn interface(mac: &str, port: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/>\
         <target dev='{port}'/><rom enabled='no'/></interface>"
    )
}

/// Starts libvirt on a host, and the two VMs, and fences them.
fn start(host: &Host) -> (Libvirt<'_>, Fenced<'_>) {
    host.bridge("br0");
    let libvirt = Libvirt::start(host);
    libvirt.create("a", &(interface(A, "nic10") + &interface(B, "nic11")));
    libvirt.create("b", &interface(C, "nic12"));
    let fenced = Fenced::new(host, tempfile::tempdir().unwrap());
    (libvirt, fenced)
}

#[test]
fn libvirts_vms_are_missing_after_a_flush_and_are_fenced_again() {
    let host = Host::new();
    let (_libvirt, fenced) = start(&host);
    let both = [missing("\"nic10\""), missing("\"nic12\"")];
    fenced.is_repaired("flush ruleset", both, &[]);
}

#[test]
fn vms_and_nics_that_came_and_went_without_a_hook_are_found_and_repaired() {
    let host = Host::new();
    let (libvirt, fenced) = start(&host);
    libvirt.attach("b", &interface("02:00:0a:00:00:06", "nic13"));
    libvirt.virsh(&["destroy", "a"]);
    libvirt.create("d", &interface(A, "nic10"));
    let found = fenced.check().1;
    let state = |vm: &str| {
        found
            .iter()
            .find(|(name, ..)| name == vm)
            .map(|row| &*row.1)
    };
    // The rest of `a` is about a port that now belongs to d, and one that is gone.
    assert_eq!(
        [state("a"), state("b"), state("d")].map(Option::unwrap),
        ["stale", "differs", "missing"]
    );
    let said = fenced.run(&["sync"]).ok();
    assert!(said.contains("removed a: "), "{said}");
    assert_eq!(host.fenced(), ["b", "d"]);
    fenced.run(&["check"]).quiet();
}
