//! `macfence remove`: take the fences of these VMs away, all in one transaction.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::note;
use crate::backend::{self, Backend};
use crate::config::Config;
use crate::fence::{ActualGuard, Fence, Hears, Keep};
use crate::lock;
use crate::source::Hypervisors;
use crate::vm::{Vm, VmName};

/// Runs it.
pub fn run(config: &Config, mut names: Vec<VmName>) -> Result<()> {
    names.sort();
    names.dedup();
    let backend = backend::choose(config.backend);
    let fences: Vec<_> = names.iter().cloned().map(Fence::none).collect();
    let mut changed = enforce(&*backend, &fences, &Keep::nothing())?;
    if !backend.names_vms() {
        let hypervisors = Hypervisors::ask(&config.connect)?;
        let vms = hypervisors.named(&names).context(
            "ebtables rules name no VM, so libvirt has to tell its ports; \
             if the VM has ended, use flush",
        )?;
        for vm in &vms {
            ensure!(
                vm.skipped.is_empty(),
                "VM {:?}: {}, and ebtables rules name no VM: use flush",
                vm.name.as_str(),
                vm.skipped.join("; ")
            );
        }
        changed |= by_port(&*backend, &vms)?;
    }
    note(config, || {
        let state = if changed {
            "the fences are gone from the kernel"
        } else {
            "none of these VMs was fenced"
        };
        format!("{state} ({})", backend.name())
    });
    Ok(())
}

/// Takes the fences of these VMs away, but for what is to be kept.
pub fn unfence(config: &Config, vms: &[Vm], keep: &Keep) -> Result<()> {
    let backend = backend::choose(config.backend);
    let fences: Vec<_> = vms.iter().map(|vm| Fence::none(vm.name.clone())).collect();
    enforce(&*backend, &fences, keep)?;
    if !backend.names_vms() {
        by_port(&*backend, vms)?;
    }
    Ok(())
}

fn enforce(backend: &dyn Backend, fences: &[Fence], keep: &Keep) -> Result<bool> {
    let _lock = lock::exclusive()?;
    backend.enforce(fences, keep)
}

/// For a firewall whose rules name no VM. A port may be another VM's by now: only rules of the
/// VM's own address are removed.
fn by_port(backend: &dyn Backend, vms: &[Vm]) -> Result<bool> {
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
