//! Plans for a skeleton that is damaged or of version 0.1.

use super::*;

/// A table of version 0.1, which had one base chain and two rules for each port.
fn of_version_0_1(fences: &[Fence]) -> Ruleset {
    let mut actual = holding(fences);
    for rules in actual.chains.values_mut() {
        rules.retain(|actual| {
            let rule = &actual.rule.as_ref().unwrap().0;
            matches!(rule, Rule::Spoofed { .. } | Rule::Foreign { .. })
        });
    }
    let skeleton = actual.skeleton.as_mut().unwrap();
    skeleton.chains.retain(|name, _| name == "forward");
    let forward = skeleton.chains.get_mut("forward").unwrap();
    forward.rules = ["iifname", "oifname"]
        .map(|key| {
            serde_json::json!({"expr": [{"vmap": {"key": {"meta": {"key": key}}, "data": "@ports"}}]})
        })
        .into();
    actual
}

#[test]
fn the_first_fence_brings_all_vms_of_version_0_1_to_the_present_layout() {
    let mut router = fence("b", &["p1"]);
    if let Hears::Network { trusted, .. } = &mut router.guards[0].hears {
        trusted.push("00:16:3e:00:00:01".parse().unwrap());
    }
    let actual = of_version_0_1(&[fence("a", &["p0"]), router]);
    let desired = fence("c", &["p2"]);
    let desired = [(chain("c"), &desired)].into();
    let plan = enforce(&actual, &desired, &Keep::nothing()).unwrap();
    let Plan {
        new_ports,
        afterwards,
        ..
    } = plan.clone().unwrap();
    // No frame may pass `prerouting` unchecked and then `forward` unchecked.
    let second_step = Transaction(vec![Command::AddSkeleton]);
    assert_eq!(afterwards, Some(second_step));
    // No rule is deleted, so all counters stay.
    let expected = [
        "skeleton but forward",
        "add chain vm-c",
        "add vm-c p2 spoofed",
        "add vm-c p2 meddling",
        "add vm-c p2 foreign",
        "add vm-a p0 meddling",
        "add vm-b p1 meddling",
        "add vm-b p1 overheard",
        "map p2 vm-c",
    ];
    assert_eq!(lines(plan).unwrap(), expected);
    // Nothing checked the addresses that the bridge learned from the old ports either.
    assert_eq!(new_ports, ["p0", "p1", "p2"].map(|p| p.parse().unwrap()));
}

#[test]
fn only_ports_that_get_an_entry_are_new() {
    let actual = holding(&[fence("a", &["p0"])]);
    for (desired, new) in [
        (fence("a", &["p0", "p1"]), &["p1"][..]),
        (fence("a", &["p1"]), &["p1"]),
        (fence("b", &["p0"]), &["p0"]),
        (fence("a", &[]), &[]),
    ] {
        let desired = [(chain(desired.vm.as_str()), &desired)].into();
        let plan = enforce(&actual, &desired, &Keep::nothing())
            .unwrap()
            .unwrap();
        let ports: Vec<_> = plan.new_ports.iter().map(Port::as_str).collect();
        assert_eq!(ports, new, "{plan:?}");
    }
}

#[test]
fn a_misplaced_base_chain_is_deleted_before_it_is_added_again() {
    let mut actual = holding(&[fence("a", &["p0"])]);
    let skeleton = actual.skeleton.as_mut().unwrap();
    skeleton.chains.get_mut("forward").unwrap().chain["prio"] = 10.into();
    let planned = enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing());
    assert_eq!(planned.unwrap(), ["drop forward", "skeleton"]);
}

#[test]
fn a_broken_skeleton_is_repaired_only_if_a_vm_is_fenced() {
    let mut actual = holding(&[fence("a", &["p0"])]);
    actual.skeleton = Some(skeleton::Actual::default());
    let repair = Some(vec!["6 sets".to_owned(), "skeleton".to_owned()]);
    assert_eq!(
        enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing()),
        repair
    );
    assert_eq!(enforced(&actual, &[], &Keep::nothing()), None);
    // If the skeleton was not listed, nothing is known about it.
    actual.skeleton = None;
    assert_eq!(
        enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing()),
        None
    );
}

#[test]
fn all_rules_that_do_not_note_senders_are_renewed_and_keep_their_counts() {
    let mut actual = holding(&[fence("a", &["p0"]), fence("b", &["p1"])]);
    actual.outdated = [(chain("a"), 1), (chain("b"), 3)].into();
    let rules = actual.chains.get_mut(&chain("b")).unwrap();
    rules[2].rule.as_mut().unwrap().1 = 7;
    // If the skeleton is whole, only the VMs that are fenced now are repaired.
    let planned = enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing());
    assert_eq!(planned.unwrap(), ["renew vm-a 1 with 0"]);
    let skeleton = actual.skeleton.as_mut().unwrap();
    skeleton.sets.remove("spoofed");
    let pace = skeleton.sets.get_mut("forged-pace").unwrap();
    pace["timeout"] = 3.into();
    let planned = enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing());
    let expected = [
        "delete set forged-pace",
        "2 sets",
        "skeleton",
        "renew vm-a 1 with 0",
        "renew vm-b 3 with 7",
    ];
    assert_eq!(planned.unwrap(), expected);
}

#[test]
fn a_port_that_is_only_kept_also_gets_the_present_layout() {
    let actual = of_version_0_1(&[fence("a", &["p0", "p1"])]);
    let planned = enforced(&actual, &[fence("a", &["p1"])], &keeping(&["p0"]));
    let expected = [
        "skeleton but forward",
        "add vm-a p1 meddling",
        "add vm-a p0 meddling",
    ];
    assert_eq!(planned.unwrap(), expected);
}

#[test]
fn a_vm_that_loses_a_port_keeps_the_others_in_the_present_layout() {
    let actual = of_version_0_1(&[fence("b", &["p0", "p1"])]);
    let planned = enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing()).unwrap();
    assert!(
        planned.contains(&"add vm-b p1 meddling".to_owned()),
        "{planned:?}"
    );
    assert!(
        !planned.contains(&"add vm-b p0 meddling".to_owned()),
        "{planned:?}"
    );
}

#[test]
fn a_misplaced_forward_that_checks_senders_is_replaced_in_the_second_step() {
    let mut actual = of_version_0_1(&[fence("a", &["p0"])]);
    let skeleton = actual.skeleton.as_mut().unwrap();
    skeleton.chains.get_mut("forward").unwrap().chain["prio"] = 10.into();
    let a = fence("a", &["p0"]);
    let desired = [(chain("a"), &a)].into();
    let plan = enforce(&actual, &desired, &Keep::nothing())
        .unwrap()
        .unwrap();
    let second = vec![
        Command::DropBaseChain("forward".to_owned()),
        Command::AddSkeleton,
    ];
    assert_eq!(plan.afterwards, Some(Transaction(second)));
    assert_eq!(plan.changes.0[0], Command::AddSkeletonButForward);
}
