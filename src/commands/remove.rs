//! `macfence remove`: removes the fences of these VMs, all in one transaction. A VM without a fence is no
//! error, because scripts may call this twice. But its name may be misspelt, so it is mentioned.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::enforce::by_port;
use super::shared::note;
use crate::backend;
use crate::config::Config;
use crate::fence::{Fence, Keep};
use crate::lock;
use crate::memory::Memory;
use crate::report;
use crate::source::Hypervisors;
use crate::vm::VmName;

/// Runs it.
pub fn run(config: &Config, mut names: Vec<VmName>) -> Result<()> {
    names.sort();
    names.dedup();
    let backend = backend::choose(config.backend);
    let fences: Vec<_> = names.iter().cloned().map(Fence::none).collect();
    // The VMs that have a fence, if the rules tell.
    let mut fenced = None;
    let mut changed = {
        let _lock = lock::exclusive()?;
        let changed = if names.len() > 1 && backend.names_vms() {
            let actual = backend.query()?;
            let held = actual.fences()?.into_iter().filter_map(|fence| fence.vm);
            fenced = Some(held.collect::<BTreeSet<_>>());
            actual.enforce(&fences, &Keep::nothing())?.changed
        } else {
            // One VM needs no listing of all rules.
            backend.enforce(&fences, &Keep::nothing())?.changed
        };
        if let Some(memory) = Memory::existing()? {
            names.iter().try_for_each(|name| memory.forget(name))?;
        }
        changed
    };
    if !backend.names_vms() {
        let hypervisors = Hypervisors::ask(&config.connect)?;
        let vms = hypervisors.named(&names).context(
            "cannot find out which ports the VM has, and ebtables rules name no VM; \
             if it has ended, run \"macfence flush\"",
        )?;
        for vm in &vms {
            ensure!(
                vm.skipped.is_empty(),
                "VM {:?}: {}, and ebtables rules name no VM: stop it and run \"macfence flush\"",
                vm.name.as_str(),
                vm.skipped.join("; ")
            );
        }
        let _lock = lock::exclusive()?;
        changed |= by_port(&*backend, &vms)?;
    }
    let had_none = |name: &&VmName| match &fenced {
        Some(fenced) => !fenced.contains(name),
        None => !changed,
    };
    for name in names.iter().filter(had_none) {
        report::warning(&format!("VM {:?} has no fence", name.as_str()));
    }
    note(config, || {
        let state = if changed {
            "the fences were removed from the kernel"
        } else {
            "none of these VMs had a fence"
        };
        format!("{state} ({})", backend.name())
    });
    Ok(())
}
