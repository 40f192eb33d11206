//! `macfence apply`: fence these VMs, all in one transaction.

use std::io::{self, IsTerminal};

use anyhow::{Result, ensure};

use super::enforce::{Told, fence_vms};
use super::shared::{described, warn_of_the_other_kind};
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::Keep;
use crate::source::may_have;

/// Runs it.
pub fn run(config: &Config, asked: &Vms) -> Result<()> {
    let (vms, _hypervisors) = described(config, asked)?;
    let names: Vec<_> = vms.iter().map(|vm| vm.name.clone()).collect();
    let keep = Keep {
        ports: Box::new(|port| may_have(&names, port)),
        ..Keep::nothing()
    };
    let done = fence_vms(config, vms, &keep, Told::OfRunning)?;
    // Only for people at a terminal: a hook would log this for each VM, and run another program each
    // time.
    if done.changed && io::stderr().is_terminal() {
        warn_of_the_other_kind(config, done.backend);
    }
    // A VM that the operator names must have a fence afterwards.
    let named = done.open.iter().filter(|(vm, _)| asked.vms.contains(vm));
    let open: Vec<_> = named
        .map(|(vm, why)| format!("VM {:?}: {why}", vm.as_str()))
        .collect();
    ensure!(open.is_empty(), "not fenced: {}", open.join("; "));
    Ok(())
}
