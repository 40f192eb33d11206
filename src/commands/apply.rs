//! `macfence apply`: fence these VMs, all in one transaction.

use std::io::{self, IsTerminal};

use anyhow::Result;

use super::{described, note, warn_of_the_other_kind, warn_of_unknown_bridges};
use crate::backend;
use crate::bridge;
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::{Fence, Isolation, Keep, Unfenced};
use crate::lock;
use crate::report;
use crate::vm::Vm;

/// Runs it.
pub fn run(config: &Config, vms: &Vms) -> Result<()> {
    let _asking = (!vms.vms.is_empty()).then(lock::asking).transpose()?;
    let (used, changed) = fence_vms(
        config,
        &described(config, vms)?,
        Look::Through,
        &as_told(config),
    )?;
    // A hook would say it for each VM, in a log, and pay for another program.
    if changed && io::stderr().is_terminal() {
        warn_of_the_other_kind(config, used);
    }
    Ok(())
}

/// What stays where a hypervisor told of a VM that runs: that a NIC is not isolated, of which only
/// OpenNebula's template knows.
pub fn as_told(config: &Config) -> Keep<'static> {
    Keep {
        not_isolated: config.policy.isolation == Isolation::Template,
        ..Keep::NOTHING
    }
}

/// How closely fences are looked at that the kernel holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// That they are there.
    Once,
    /// Also that frames pass them, which takes another process.
    Through,
}

/// Fences these VMs; returns with what firewall, and whether anything changed.
pub fn fence_vms(
    config: &Config,
    vms: &[Vm],
    look: Look,
    keep: &Keep,
) -> Result<(&'static str, bool)> {
    warn_of_unknown_bridges(config);
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    let fences = vms
        .iter()
        .map(|vm| fence(config, vm))
        .collect::<Result<Vec<_>>>()?;
    let changed = backend.enforce(&fences, keep)?
        || (look == Look::Through && backend.mend(&fences, keep)?);
    note(config, || match changed {
        true => format!("the fences are now in the kernel ({})", backend.name()),
        false => format!("the kernel held these fences already ({})", backend.name()),
    });
    Ok((backend.name(), changed))
}

fn fence(config: &Config, vm: &Vm) -> Result<Fence> {
    let (fence, unfenced) = config.policy.fence(vm, |nic| bridge::of(&nic.port))?;
    let name = vm.name.as_str();
    for port in fence.ports() {
        note(config, || format!("VM {name:?}: port \"{port}\" is fenced"));
    }
    for nic in unfenced {
        match nic {
            Unfenced::NoBridge(port) => report::warning(&format!(
                "VM {name:?}: port \"{port}\" is on no Linux bridge; it is not fenced"
            )),
            Unfenced::OtherBridge(port, bridge) => note(config, || {
                format!("VM {name:?}: port \"{port}\" is on {bridge:?}, which is not to be fenced")
            }),
        }
    }
    Ok(fence)
}
