//! Fences VMs and removes their fences, for `apply`, `remove` and the hooks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::shared::{note, policy, ports, warn_of_unknown_bridges};
use crate::backend::{self, Backend};
use crate::bridge::{self, Hardened};
use crate::config::Config;
use crate::fence::{ActualGuard, Fence, Guard, Hears, Keep};
use crate::lock;
use crate::policy::{Isolation, Policy, Unfenced};
use crate::report;
use crate::vm::{Port, Vm};

/// What stays where a hypervisor told of a running VM: NICs that hear all networks, of which only
/// OpenNebula's template knows.
pub fn as_told(config: &Config) -> Keep<'_> {
    let may_hear_all = |guard: &Guard| {
        // Where nobody can tell, the fence cannot be made either.
        let bridge = bridge::of(&guard.port).ok().flatten().unwrap_or_default();
        config.policy.isolation(guard.mac, &bridge) == Isolation::Template
    };
    Keep {
        hears_all: Box::new(may_hear_all),
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
    let policy = policy(config, &ports(vms));
    let fences = vms
        .iter()
        .map(|vm| fence(config, &policy, vm))
        .collect::<Result<Vec<_>>>()?;
    let enforced = backend.enforce(&fences, keep)?;
    let ports: BTreeSet<_> = fences.iter().flat_map(Fence::ports).collect();
    forget(&enforced.new_ports);
    match harden(config, ports) {
        Ok(hardened) => {
            let changes = hardened.changes.iter().map(ToString::to_string);
            let unsupported = hardened.unsupported.iter().map(ToString::to_string);
            for line in changes.chain(unsupported) {
                note(config, || line);
            }
        }
        Err(e) => report::warning(&format!("{e:#}")),
    }
    note(config, || {
        let state = if enforced.changed {
            "the fences are now in the kernel"
        } else {
            "the kernel held these fences already"
        };
        format!("{state} ({})", backend.name())
    });
    Ok((backend.name(), enforced.changed))
}

/// Makes bridges forget what they learned from ports whose senders were not checked before. A bridge
/// forgets by itself after five minutes: so a failure is no error.
pub fn forget(ports: &[Port]) {
    for port in ports {
        if let Err(e) = bridge::forget(port) {
            report::warning(&format!("{e:#}"));
        }
    }
}

/// Changes the settings of the bridges of these fenced ports, if the operator lets us.
///
/// # Errors
/// If the kernel refuses.
pub fn harden<'a>(config: &Config, ports: impl IntoIterator<Item = &'a Port>) -> Result<Hardened> {
    if config.harden_bridges {
        bridge::harden(ports)
    } else {
        Ok(Hardened::default())
    }
}

fn fence(config: &Config, policy: &Policy, vm: &Vm) -> Result<Fence> {
    let (fence, unfenced) = policy.fence(vm, |nic| bridge::place(&nic.port))?;
    let name = vm.name.as_str();
    if let Some(refusal) = unfenced.iter().find_map(Unfenced::refusal) {
        bail!("VM {name:?}: {refusal}; nothing was changed");
    }
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
            // Refused above.
            Unfenced::NotAVms(..) => {}
        }
    }
    Ok(fence)
}

/// Removes the fences of these VMs, but for what is to be kept.
pub fn unfence(config: &Config, vms: &[Vm], keep: &Keep) -> Result<()> {
    let backend = backend::choose(config.backend);
    let fences: Vec<_> = vms.iter().map(|vm| Fence::none(vm.name.clone())).collect();
    enforce(&*backend, &fences, keep)?;
    if !backend.names_vms() {
        by_port(&*backend, vms)?;
    }
    Ok(())
}

pub fn enforce(backend: &dyn Backend, fences: &[Fence], keep: &Keep) -> Result<bool> {
    let _lock = lock::exclusive()?;
    Ok(backend.enforce(fences, keep)?.changed)
}

/// For a firewall whose rules name no VM. A port may be another VM's by now: only rules of the
/// VM's own address are removed.
pub fn by_port(backend: &dyn Backend, vms: &[Vm]) -> Result<bool> {
    let nics: BTreeMap<_, _> = vms
        .iter()
        .flat_map(|vm| &vm.nics)
        .map(|nic| (&nic.port, nic))
        .collect();
    let is_own = |guard: &ActualGuard| {
        nics.get(&guard.port).is_some_and(|nic| {
            let may_hear = |hears: &Hears| match hears {
                Hears::All => true,
                Hears::Network { prefix, .. } => prefix.contains(nic.mac),
            };
            guard.macs.iter().all(|mac| *mac == nic.mac) && guard.hears.iter().all(may_hear)
        })
    };
    let _lock = lock::exclusive()?;
    let actual = backend.query()?.fences()?;
    let guards = actual.iter().flat_map(|fence| &fence.guards);
    let ports: Vec<_> = guards
        .filter(|guard| is_own(guard))
        .map(|guard| guard.port.clone())
        .collect();
    backend.release(&ports)
}
