//! Plans that add, remove or repair the address guard.

use super::*;
use crate::fence::Addresses;

/// The fence with the address guard for an address that ends in this number.
fn guarded(fence: &Fence, number: u8) -> Fence {
    let addresses = Addresses {
        v4: vec![[192, 168, 0, number].into()],
        ..Addresses::default()
    };
    let guard = |guard: &Guard| Guard {
        addresses: Some(addresses.clone()),
        ..guard.clone()
    };
    Fence {
        guards: fence.guards.iter().map(guard).collect(),
        ..fence.clone()
    }
}

fn changes(actual: &Fence, desired: &Fence) -> Vec<String> {
    let held = holding(std::slice::from_ref(actual));
    let desired = std::slice::from_ref(desired);
    enforced(&held, desired, &Keep::nothing()).unwrap_or_default()
}

#[test]
fn a_guard_that_is_added_or_removed_leaves_all_other_rules_with_their_counters() {
    let plain = fence("a", &["p0"]);
    let guarded = guarded(&plain, 5);
    let added = changes(&plain, &guarded);
    assert!(added.len() > 20, "{added:?}");
    assert!(
        added.iter().all(|line| line.starts_with("add vm-a p0 ")),
        "{added:?}"
    );
    let removed = changes(&guarded, &plain);
    assert_eq!(removed.len(), added.len());
    assert!(
        removed.iter().all(|line| line.starts_with("delete vm-a ")),
        "{removed:?}"
    );
    assert_eq!(changes(&guarded, &guarded), [""; 0]);
}

#[test]
fn another_address_changes_the_rules_that_name_it_and_no_others() {
    let plain = fence("a", &["p0"]);
    let changes = changes(&guarded(&plain, 5), &guarded(&plain, 6));
    let added: Vec<_> = changes
        .iter()
        .filter(|line| line.starts_with("add"))
        .collect();
    assert_eq!(
        added,
        [
            "add vm-a p0 false IP address in ARP",
            "add vm-a p0 false IPv4 source"
        ]
    );
    assert_eq!(changes.len(), 4, "{changes:?}");
}

#[test]
fn repairing_the_skeleton_also_restores_guards_of_other_vms_if_their_rules_show_them() {
    let b = guarded(&fence("b", &["p1"]), 5);
    let lose = |lost: fn(&Check) -> bool| {
        let mut held = holding(std::slice::from_ref(&b));
        held.skeleton = Some(skeleton::Actual::default());
        let is_kept = |actual: &ActualRule| match &actual.rule {
            Some((Rule::Forged { check, .. }, _)) => !lost(check),
            _ => true,
        };
        held.chains.get_mut(&chain("b")).unwrap().retain(is_kept);
        let lines = enforced(&held, &[fence("a", &["p0"])], &Keep::nothing()).unwrap();
        let of_b = lines
            .into_iter()
            .filter(|line| line.starts_with("add vm-b"));
        of_b.collect::<Vec<_>>()
    };
    assert_eq!(
        lose(|check| matches!(check, Check::Ipv4Source(_))),
        ["add vm-b p1 false IPv4 source"]
    );
    // The rules no longer tell which IPv4 addresses the VM may use, and a guess could cut it off.
    assert_eq!(
        lose(|check| matches!(check, Check::Ipv4Source(_) | Check::ArpIp(_))),
        [""; 0]
    );
}
