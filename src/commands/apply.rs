//! `macfence apply`: fence these VMs, all in one transaction.

use std::io::{self, IsTerminal};

use anyhow::Result;

use super::{described, note, warn_of_the_other_kind, warn_of_unknown_bridges};
use crate::backend;
use crate::bridge;
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::{Fence, Keep};
use crate::lock;
use crate::policy::{Isolation, Unfenced};
use crate::report;
use crate::vm::Vm;

/// Runs it.
pub fn run(config: &Config, vms: &Vms) -> Result<()> {
    let (vms, _hypervisors) = described(config, vms)?;
    let (used, changed) = fence_vms(config, &vms, &as_told(config))?;
    // A hook would say it for each VM, in a log, and pay for another program.
    if changed && io::stderr().is_terminal() {
        warn_of_the_other_kind(config, used);
    }
    Ok(())
}

/// What stays where a hypervisor told of a running VM: NICs that hear all networks, of which only
/// OpenNebula's template knows.
pub fn as_told(config: &Config) -> Keep<'static> {
    Keep {
        hears_all: config.policy.isolation == Isolation::Template,
        ..Keep::nothing()
    }
}

/// Fences these VMs; returns with what firewall, and whether anything changed.
///
/// # Errors
/// If the firewall cannot; the kernel's rules are then what they were.
pub fn fence_vms(config: &Config, vms: &[Vm], keep: &Keep) -> Result<(&'static str, bool)> {
    warn_of_unknown_bridges(config);
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    let fences = vms
        .iter()
        .map(|vm| fence(config, vm))
        .collect::<Result<Vec<_>>>()?;
    let changed = backend.enforce(&fences, keep)?;
    note(config, || {
        let state = if changed {
            "the fences are now in the kernel"
        } else {
            "the kernel held these fences already"
        };
        format!("{state} ({})", backend.name())
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
