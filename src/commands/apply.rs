//! `macfence apply`: fence these VMs, all in one transaction.

use std::io::{self, IsTerminal};

use anyhow::{Result, bail};

use super::enforce::{Told, fence_vms};
use super::shared::{described, warn_of_the_other_kind};
use crate::bridge;
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::Keep;
use crate::policy::Unfenced;
use crate::vm::Vm;

/// Runs it.
pub fn run(config: &Config, asked: &Vms) -> Result<()> {
    let (vms, _hypervisors) = described(config, asked)?;
    let (used, changed) = fence_vms(config, vms.clone(), &Keep::nothing(), Told::OfRunning)?;
    // A hook would say it for each VM, in a log, and pay for another program.
    if changed && io::stderr().is_terminal() {
        warn_of_the_other_kind(config, used);
    }
    let named = vms.iter().filter(|vm| asked.vms.contains(&vm.name));
    let mut open = Vec::new();
    for vm in named {
        open.extend(why_open(config, vm)?);
    }
    if open.is_empty() {
        return Ok(());
    }
    bail!("not fenced: {}", open.join("; "))
}

/// Why a VM with NICs has no fence at all, if it has none: who names it wants it to have one.
fn why_open(config: &Config, vm: &Vm) -> Result<Option<String>> {
    let (fence, unfenced) = config.policy.fence(vm, |nic| bridge::place(&nic.port))?;
    let nics = unfenced
        .iter()
        .map(|nic: &Unfenced| format!("port \"{}\": {}", nic.port(), nic.why()));
    let why: Vec<_> = nics.chain(vm.skipped.iter().cloned()).collect();
    let is_open = fence.guards.is_empty() && !why.is_empty();
    Ok(is_open.then(|| format!("VM {:?}: {}", vm.name.as_str(), why.join(", "))))
}
