//! Finds ports that a VM has given up although it keeps the NIC. Xen gives an HVM guest two ports
//! for each NIC. The one of QEMU's device disappears once the guest has loaded its own driver.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::fence::{ActualFence, Fence};
use crate::mac::MacAddr;
use crate::vm::{Place, Port, VmName};

/// Returns the fenced ports that are on no bridge and whose VM now has their address at another
/// port, each with that VM. The VM itself gave them up, so nothing is open. Rules that name no VM
/// are left out: nobody can tell whose port they guarded.
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
    fn a_port_that_its_nic_gave_up_is_no_difference_but_loses_its_rules() {
        // `vm` gives each port its own address, but these two share one.
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
