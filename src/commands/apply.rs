//! `macfence apply`: fence these VMs, all in one transaction.

use std::io::{self, IsTerminal};

use anyhow::{Result, ensure};

use super::enforce::{Told, fence_vms};
use super::shared::{described, warn_of_the_other_kind};
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::Keep;

/// Runs it.
pub fn run(config: &Config, asked: &Vms) -> Result<()> {
    let (vms, _hypervisors) = described(config, asked)?;
    let done = fence_vms(config, vms, &Keep::nothing(), Told::OfRunning)?;
    // A hook would say it for each VM, in a log, and pay for another program.
    if done.changed && io::stderr().is_terminal() {
        warn_of_the_other_kind(config, done.backend);
    }
    // Who names a VM wants it to have a fence.
    let named = done.open.iter().filter(|(vm, _)| asked.vms.contains(vm));
    let open: Vec<_> = named
        .map(|(vm, why)| format!("VM {:?}: {why}", vm.as_str()))
        .collect();
    ensure!(open.is_empty(), "not fenced: {}", open.join("; "));
    Ok(())
}
