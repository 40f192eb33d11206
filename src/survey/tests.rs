use anyhow::{anyhow, bail};

use super::*;
use crate::fence::{ActualGuard, Hears};
use crate::policy::Isolation;
use crate::vm::{Asked, Nic};

/// A running VM whose NICs have these ports and the addresses `02:00:00:00:00:0N`.
pub(super) fn vm(name: &str, ports: &[&str]) -> Vm {
    let nic = |(index, port): (usize, &&str)| {
        let mac = format!("02:00:00:00:00:0{}", index + 1);
        Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
    };
    Vm {
        name: name.parse().unwrap(),
        nics: ports.iter().enumerate().map(nic).collect(),
        skipped: Vec::new(),
    }
}

/// The fence that [`vm`] should have, as the kernel holds it.
pub(super) fn held(name: Option<&str>, ports: &[&str]) -> ActualFence {
    let guards = vm("x", ports).nics.into_iter().map(|nic| {
        let guard = Policy::default().guard(&nic, "br0");
        ActualGuard {
            macs: vec![guard.mac],
            hears: vec![guard.hears],
            ..ActualGuard::none(nic.port)
        }
    });
    ActualFence {
        vm: name.map(|name| name.parse().unwrap()),
        chain: "x".to_owned(),
        guards: guards.collect(),
        defects: Vec::new(),
    }
}

/// Every port whose name starts with `p` is on a bridge, and so is the host's uplink, `eth0`.
pub(super) fn place_of(port: &Port) -> Result<Place> {
    Ok(match port.as_str() {
        "eth0" => Place::Other("br0".to_owned(), "a physical device".to_owned()),
        name if name.starts_with('p') => Place::Nic("br0".to_owned()),
        _ => Place::NoBridge,
    })
}

fn can_hold(fence: &Fence) -> Result<()> {
    if fence.vm.as_str() == "odd" {
        bail!("no chain can have this name");
    }
    Ok(())
}

pub(super) const HOST: Host = Host {
    place_of: &place_of,
    can_hold: &can_hold,
    unknown: &BTreeSet::new(),
};

pub(super) fn survey(vms: Vec<Vm>, actual: &[ActualFence]) -> Survey {
    survey_with(&Policy::default(), vms, actual)
}

pub(super) fn survey_with(policy: &Policy, vms: Vec<Vm>, actual: &[ActualFence]) -> Survey {
    let running = Running {
        vms,
        failed: Vec::new(),
    };
    Survey::of(policy, running, actual, &HOST, Extent::Ports).unwrap()
}

fn lines(findings: &[Finding]) -> Vec<String> {
    let line = |found: &Finding| format!("{} {found}", found.state);
    findings.iter().map(line).collect()
}

fn enforced(survey: &Survey) -> Vec<String> {
    let line = |fence: &Fence| {
        let ports: Vec<_> = fence.ports().iter().map(|port| port.to_string()).collect();
        format!("{}: {}", fence.vm, ports.join(" "))
    };
    survey.to_enforce().iter().map(line).collect()
}

#[test]
fn only_vms_whose_fence_is_wrong_are_enforced() {
    let vms = vec![vm("a", &["p0"]), vm("b", &["p1"]), vm("c", &["p2", "p3"])];
    let actual = [
        held(Some("a"), &["p0"]),
        held(Some("c"), &["p2"]),
        held(Some("d"), &["gone"]),
    ];
    let survey = survey(vms, &actual);
    assert_eq!(
        lines(&survey.findings),
        [
            "ok a",
            "missing b: port \"p1\"",
            "differs c: no rule that lets only 02:00:00:00:00:02 in from \"p3\"; \
             no rule that lets only 02:00:00:00:00:00/40 out to \"p3\"",
            "stale d: port \"gone\"",
        ]
    );
    assert!(!survey.is_well());
    assert_eq!(enforced(&survey), ["b: p1", "c: p2 p3", "d: "]);
}

#[test]
fn a_host_that_is_well_needs_nothing() {
    let survey = survey(vec![vm("a", &["p0"])], &[held(Some("a"), &["p0"])]);
    assert!(survey.is_well());
    assert_eq!(enforced(&survey), [""; 0]);
    assert_eq!(survey.ports, ["p0".parse().unwrap()].into());
}

#[test]
fn the_fence_of_a_port_on_a_bridge_stays_even_if_its_vm_is_unknown() {
    let survey = survey(vec![], &[held(Some("container"), &["p7"])]);
    assert_eq!(
        lines(&survey.findings),
        ["ok container: port \"p7\" is fenced, but no running VM is known to have it"]
    );
    assert_eq!(lines(&survey.unowned), lines(&survey.findings));
    assert!(survey.is_well());
}

#[test]
fn a_fenced_port_that_its_vm_does_not_have_is_reported() {
    for name in [Some("a"), None] {
        let actual = [held(name, &["p0"]), held(name, &["p1"])];
        let actual = match name {
            Some(_) => vec![held(name, &["p0", "p1"])],
            None => actual.to_vec(),
        };
        let survey = survey(vec![vm("a", &["p0"])], &actual);
        assert!(survey.is_well());
        let told = "port \"p1\" is fenced, but no running VM is known to have it";
        let who = name.unwrap_or("-");
        assert_eq!(lines(&survey.unowned), [format!("ok {who}: {told}")]);
        assert_eq!(enforced(&survey), [""; 0]);
    }
}

#[test]
fn a_fence_at_a_port_that_no_vm_can_have_is_removed() {
    let uplink = held(Some("a"), &["p0", "eth0"]);
    let of_a = survey(vec![vm("a", &["p0"])], &[uplink]);
    assert_eq!(enforced(&of_a), ["a: p0"]);
    assert!(!(of_a.keep(&place_of).ports)(&"eth0".parse().unwrap()));
    let of_nobody = survey(vec![], &[held(Some("gone"), &["eth0"])]);
    assert_eq!(lines(&of_nobody.findings), ["stale gone: port \"eth0\""]);
    let unnamed = survey(vec![], &[held(None, &["eth0"])]);
    assert_eq!(unnamed.gone, ["eth0".parse().unwrap()]);
}

#[test]
fn a_vm_that_claims_the_uplink_fails_and_its_other_nics_are_fenced() {
    let survey = survey(vec![vm("a", &["p0", "eth0"])], &[]);
    assert_eq!(enforced(&survey), ["a: p0"]);
    assert_eq!(
        lines(&survey.failed),
        ["missing a: port \"eth0\" is a physical device, which no VM has; it is not fenced"]
    );
}

#[test]
fn a_port_whose_place_is_unknown_keeps_its_rules() {
    let survey = survey(vec![vm("a", &["p0"])], &[]);
    let nobody_can_tell = |_: &Port| Err(anyhow!("no sysfs"));
    let keep = survey.keep(&nobody_can_tell);
    assert!((keep.ports)(&"eth0".parse().unwrap()));
    // The port of a running VM is repaired, not kept.
    assert!(!(keep.ports)(&"p0".parse().unwrap()));
}

#[test]
fn one_vm_that_cannot_be_fenced_is_named_and_leaves_the_others_alone() {
    let running = Running {
        vms: vec![
            vm("a", &["p0"]),
            vm("odd", &["p1"]),
            vm("b", &["p2"]),
            vm("c", &["p2"]),
        ],
        failed: vec![("busy".parse().unwrap(), anyhow!("virsh was silent"))],
    };
    let survey = Survey::of(&Policy::default(), running, &[], &HOST, Extent::Ports).unwrap();
    assert_eq!(
        lines(&survey.failed),
        [
            "missing busy: virsh was silent",
            "missing odd: no chain can have this name",
            "missing b: port \"p2\" is claimed twice",
            "missing c: port \"p2\" is claimed twice",
        ]
    );
    assert_eq!(enforced(&survey), ["a: p0"]);
}

#[test]
fn rules_without_a_name_are_removed_once_their_port_is_gone() {
    let actual = ["p0", "p1", "gone"].map(|port| held(None, &[port]));
    let survey = survey(vec![vm("a", &["p0"])], &actual);
    assert_eq!(
        lines(&survey.findings),
        [
            "ok a",
            "ok -: port \"p1\" is fenced, but no running VM is known to have it",
            "stale -: port \"gone\"",
        ]
    );
    assert_eq!(survey.gone, ["gone".parse().unwrap()]);
    assert_eq!(enforced(&survey), [""; 0]);
}

#[test]
fn a_skipped_interface_is_reported_but_is_no_difference() {
    let mut odd = vm("a", &["p0", "gone"]);
    odd.skipped
        .push("an interface has no target device".to_owned());
    let survey = survey(vec![odd], &[held(Some("a"), &["p0"])]);
    assert_eq!(
        lines(&survey.findings),
        ["ok a: an interface has no target device; port \"gone\" is on no Linux bridge"]
    );
    assert!(survey.is_well());
}

#[test]
fn a_nic_hears_all_networks_if_asked_for_unless_isolation_is_always() {
    let mut now = held(Some("a"), &["p0"]);
    now.guards[0].hears = vec![Hears::All];
    for (hears_all, isolation, well) in [
        (Some(true), Isolation::Template, true),
        (Some(true), Isolation::Always, false),
        (Some(false), Isolation::Template, false),
        // Nobody asked for it. That the kernel allows it now is no reason.
        (None, Isolation::Template, false),
    ] {
        let mut policy = Policy::default();
        policy.global.isolation = isolation;
        let mut vm = vm("a", &["p0"]);
        vm.nics[0].asked = hears_all.map(|hears_all| Asked {
            hears_all,
            ..Asked::default()
        });
        let running = Running {
            vms: vec![vm],
            failed: Vec::new(),
        };
        let survey = Survey::of(
            &policy,
            running,
            std::slice::from_ref(&now),
            &HOST,
            Extent::Ports,
        )
        .unwrap();
        assert_eq!(survey.is_well(), well, "{hears_all:?} {isolation:?}");
    }
}
