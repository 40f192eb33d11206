use anyhow::anyhow;

use super::super::Extent;
use super::super::tests::{HOST, held as fence, place_of, survey, survey_with, vm};
use super::*;
use crate::policy::Policy;
use crate::source::Running;

/// The entries, each in one line: VM, port, bridge, state and reason.
fn lines(entries: &[Entry]) -> Vec<String> {
    let line = |entry: &Entry| {
        let vm = entry.vm.as_ref().map_or("-", VmName::as_str);
        let port = entry.port.as_ref().map_or("-", Port::as_str);
        let bridge = entry.bridge.as_deref().unwrap_or("-");
        let reason = entry.status.reason().unwrap_or_default();
        format!("{vm} {port} {bridge} {} {reason}", entry.status.word())
            .trim_end()
            .to_owned()
    };
    entries.iter().map(line).collect()
}

#[test]
fn every_port_of_every_running_vm_and_every_fence_is_listed() {
    let mut odd = vm("b", &["p1", "macvtap", "eth0"]);
    odd.skipped
        .push("an interface has no target device".to_owned());
    let vms = vec![odd, vm("a", &["p0"]), vm("odd", &["p9"])];
    let actual = [
        fence(Some("gone"), &["vnet9"]),
        fence(Some("a"), &["p0", "p7"]),
        fence(Some("c"), &["p1", "p8"]),
    ];
    let survey = survey(vms, &actual);
    assert_eq!(
        lines(&survey.entries),
        [
            "a p0 br0 fenced",
            "a p7 br0 fenced no running VM is known to have it",
            "b p1 br0 unfenced nothing has fenced it yet",
            "b macvtap - unfenced on no Linux bridge",
            "b eth0 br0 unfenced a physical device, which no VM has",
            "b - - unfenced an interface has no target device",
            "c p1 br0 stale the port is VM \"b\"'s",
            "c p8 br0 fenced no running VM is known to have it",
            "gone vnet9 - stale on no Linux bridge",
            "odd p9 br0 unfenced no chain can have this name",
        ]
    );
    let causes: Vec<_> = survey.entries.iter().filter_map(Entry::cause).collect();
    use Cause::{Bridgeless, Failed, Missing};
    assert_eq!(causes, [Missing, Bridgeless, Failed, Bridgeless, Failed]);
}

#[test]
fn only_the_port_with_other_rules_differs_unless_the_whole_fence_is_broken() {
    let vms = || vec![vm("a", &["p0", "p1"])];
    let mut now = fence(Some("a"), &["p0", "p1"]);
    now.guards[1].macs.clear();
    let survey_of = |now: &ActualFence| survey(vms(), std::slice::from_ref(now));
    assert_eq!(
        lines(&survey_of(&now).entries),
        [
            "a p0 br0 fenced",
            "a p1 br0 differs no rule that lets only 02:00:00:00:00:02 in from \"p1\"",
        ]
    );
    let mut now = fence(Some("a"), &["p0", "p1"]);
    now.defects.push("it has no base chain".to_owned());
    assert_eq!(
        lines(&survey_of(&now).entries),
        [
            "a p0 br0 differs it has no base chain",
            "a p1 br0 differs it has no base chain",
        ]
    );
}

#[test]
fn rules_without_a_name_belong_to_the_vm_that_has_the_port() {
    let actual = ["p0", "p1", "vnet9"].map(|port| fence(None, &[port]));
    let survey = survey(vec![vm("a", &["p0"])], &actual);
    assert_eq!(
        lines(&survey.entries),
        [
            "- p1 br0 fenced no running VM is known to have it",
            "- vnet9 - stale on no Linux bridge",
            "a p0 br0 fenced",
        ]
    );
}

#[test]
fn a_vm_that_cannot_be_described_is_listed() {
    let running = Running {
        vms: Vec::new(),
        failed: vec![("busy".parse().unwrap(), anyhow!("virsh was silent"))],
    };
    let survey = Survey::of(&Policy::default(), running, &[], &HOST, Extent::Ports).unwrap();
    assert_eq!(
        lines(&survey.entries),
        ["busy - - unfenced virsh was silent"]
    );
}

#[test]
fn a_vm_that_the_configuration_leaves_alone_is_skipped_and_not_ok() {
    let policy = Policy {
        bridges: vec!["br1".to_owned()],
        ..Policy::default()
    };
    let why = "bridge \"br0\" is not in bridges";
    let survey_of = |actual: &[ActualFence]| survey_with(&policy, vec![vm("a", &["p0"])], actual);
    let open = survey_of(&[]);
    assert_eq!(lines(&open.entries), [format!("a p0 br0 unfenced {why}")]);
    assert_eq!(open.skipped.len(), 1);
    assert_eq!(open.findings, open.skipped);
    assert_eq!(
        format!("{} {}", open.skipped[0].state, open.skipped[0]),
        format!("skipped a: port \"p0\": {why}")
    );
    assert!(open.is_well() && open.to_enforce().is_empty());
    // One that was fenced before stays so.
    let fenced = survey_of(&[fence(Some("a"), &["p0"])]);
    assert_eq!(lines(&fenced.entries), [format!("a p0 br0 fenced {why}")]);
    assert_eq!(fenced.findings, fenced.skipped);
    assert_eq!(
        format!("{} {}", fenced.skipped[0].state, fenced.skipped[0]),
        format!("skipped a: port \"p0\": {why}; still fenced")
    );
    assert!(fenced.is_well() && fenced.to_enforce().is_empty());
}

#[test]
fn without_a_hypervisor_rules_are_judged_by_themselves() {
    let mut damaged = fence(Some("b"), &["p1"]);
    damaged.guards[0].hears.clear();
    let mut empty = fence(Some("c"), &[]);
    empty.guards.clear();
    let actual = [
        fence(Some("a"), &["p0", "vnet9", "eth0"]),
        damaged,
        empty,
        fence(None, &["p2"]),
    ];
    assert_eq!(
        lines(&held(&actual, &place_of).unwrap()),
        [
            "a p0 br0 fenced",
            "a vnet9 - stale on no Linux bridge",
            "a eth0 br0 stale a physical device, which no VM has",
            "b p1 br0 differs its rules are incomplete, or contradict each other",
            "c - - stale no rule names a port",
            "- p2 br0 fenced",
        ]
    );
}
