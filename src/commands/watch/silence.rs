//! What `watch` does if somebody changes the rules while a hypervisor does not answer. It loads the fences
//! of those VMs again that ran at the last answer and whose ports have not changed since.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};

use super::super::enforce::{Told, fence_vms_under};
use crate::bridge;
use crate::config::Config;
use crate::fence::Keep;
use crate::lock::Lock;
use crate::report;
use crate::vm::{Place, Port, Vm};

const CHANGED: &str = "somebody changed macfence's rules while the hypervisor does not answer";
const FIX: &str =
    "until it answers: start it, for example with \"systemctl start libvirtd\", or \"virtqemud\"";

/// Fences these VMs again, and reports which VMs may be open. Their ports must not have changed since a
/// hypervisor described them until the lock was taken. Returns whether anything had to be
/// changed; `None` if that failed.
pub fn fence_again(config: &Config, vms: &[Vm], lock: Result<Lock>) -> Option<bool> {
    let vms: Vec<_> = vms.iter().filter(|vm| can_be_fenced(vm)).cloned().collect();
    let count = vms.len();
    let fenced = lock.and_then(|lock| fence(config, vms, &lock));
    let is_changed = fenced.as_ref().ok().copied();
    let error = match fenced {
        // All that we can tell is well.
        Ok(false) if count > 0 => return is_changed,
        Ok(_) if count > 0 => anyhow!(
            "{CHANGED}; VMs that it knew are fenced again ({count}), others may be open {FIX}"
        ),
        Ok(_) => anyhow!("{CHANGED}; VMs may be open {FIX}"),
        Err(e) => e.context(format!("{CHANGED}; VMs may be open {FIX}")),
    };
    report::error(&error);
    is_changed
}

/// Leaves out a VM that would be refused: all others would then be refused with it.
fn can_be_fenced(vm: &Vm) -> bool {
    let mut places = vm.nics.iter().map(|nic| bridge::place(&nic.port));
    places.all(|place| matches!(place, Ok(Place::Nic(_) | Place::NoBridge)))
}

/// Returns whether anything had to be changed.
fn fence(config: &Config, vms: Vec<Vm>, lock: &Lock) -> Result<bool> {
    if vms.is_empty() {
        return Ok(false);
    }
    let nics = vms.iter().flat_map(|vm| &vm.nics);
    let own: BTreeSet<_> = nics.map(|nic| nic.port.clone()).collect();
    // The VM may have got another NIC since, and another VM one of these ports.
    let is_others = |port: &Port| {
        !own.contains(port) && bridge::place(port).map_or(true, |place| place.is_nic())
    };
    let keep = Keep {
        ports: Box::new(is_others),
        others_ports: true,
        ..Keep::nothing()
    };
    Ok(fence_vms_under(lock, config, vms, &keep, Told::OfRunning)?.changed)
}
