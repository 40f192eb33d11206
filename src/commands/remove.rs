//! `macfence remove`: removes the fences of these VMs, all in one transaction.

use anyhow::{Context, Result, ensure};

use super::enforce::by_port;
use super::shared::note;
use crate::backend;
use crate::config::Config;
use crate::fence::{Fence, Keep};
use crate::lock;
use crate::memory::Memory;
use crate::source::Hypervisors;
use crate::vm::VmName;

/// Runs it.
pub fn run(config: &Config, mut names: Vec<VmName>) -> Result<()> {
    names.sort();
    names.dedup();
    let backend = backend::choose(config.backend);
    let fences: Vec<_> = names.iter().cloned().map(Fence::none).collect();
    let mut changed = {
        let _lock = lock::exclusive()?;
        let changed = backend.enforce(&fences, &Keep::nothing())?.changed;
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
