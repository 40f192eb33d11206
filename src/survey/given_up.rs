//! Ports that a VM has given up although it keeps the NIC: Xen gives an HVM guest two for each, and the
//! one of QEMU's device goes once the guest has loaded its own driver.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::fence::{ActualFence, Fence};
use crate::mac::MacAddr;
use crate::vm::{Place, Port, VmName};

/// The ports on no bridge that are fenced for an address of a VM which has it at another port now, and
/// that VM. They are gone by its own doing, and nothing is open. Where rules name no VM, nobody can tell
/// whose they were.
pub(super) fn find(
    desired: &[Fence],
    actual: &[ActualFence],
    place_of: &dyn Fn(&Port) -> Result<Place>,
) -> Result<BTreeMap<Port, VmName>> {
    let desired: BTreeMap<&VmName, &Fence> =
        desired.iter().map(|fence| (&fence.vm, fence)).collect();
    let mut given_up = BTreeMap::new();
    for held in actual {
        let Some(fence) = held.vm.as_ref().and_then(|vm| desired.get(vm)) else {
            continue;
        };
        let ports = fence.ports();
        for guard in held
            .guards
            .iter()
            .filter(|held| !ports.contains(&&held.port))
        {
            let is_at_another = |mac: &MacAddr| fence.guards.iter().any(|guard| guard.mac == *mac);
            if !guard.macs.is_empty()
                && guard.macs.iter().all(is_at_another)
                && place_of(&guard.port)? == Place::NoBridge
            {
                given_up.insert(guard.port.clone(), fence.vm.clone());
            }
        }
    }
    Ok(given_up)
}

#[cfg(test)]
mod tests {
    use crate::survey::tests::{held, survey, vm};

    #[test]
    fn a_port_that_is_gone_beside_another_of_the_same_nic_is_no_difference_but_goes() {
        // `vm` gives each port of a VM an address of its own: these two have one.
        let mut owner = vm("a", &["p", "gone"]);
        let mut fence = held(Some("a"), &["p", "gone"]);
        owner.nics.truncate(1);
        let mac = fence.guards[0].macs.clone();
        let other = std::mem::replace(&mut fence.guards[1].macs, mac);
        let found = survey(vec![owner.clone()], &[fence.clone()]);
        assert!(
            found.is_well() && found.unowned.is_empty(),
            "{:?}",
            found.findings
        );
        assert_eq!(found.to_enforce().len(), 1);

        fence.guards[1].macs = other;
        assert!(!survey(vec![owner], &[fence]).is_well());
    }
}
