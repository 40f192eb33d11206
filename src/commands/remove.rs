//! `macfence remove`: take the fences of these VMs away, all in one transaction.

use anyhow::{Context, Result};

use super::note;
use crate::backend;
use crate::config::Config;
use crate::fence::Fence;
use crate::lock;
use crate::source::libvirt;
use crate::vm::{Port, VmName};

/// Runs it.
pub fn run(config: &Config, mut vms: Vec<VmName>) -> Result<()> {
    vms.sort();
    vms.dedup();
    let fences: Vec<_> = vms.iter().cloned().map(Fence::none).collect();
    let backend = backend::choose(config.backend);
    let mut changed = {
        let _lock = lock::exclusive()?;
        backend.enforce(&fences)?
    };
    if !backend.names_vms() {
        let ports = ports(config, &vms)?;
        let _lock = lock::exclusive()?;
        changed |= backend.release(&ports)?;
    }
    note(config, || match changed {
        true => format!("the fences are gone from the kernel ({})", backend.name()),
        false => format!("none of these VMs was fenced ({})", backend.name()),
    });
    Ok(())
}

/// The ports of these VMs, for a firewall whose rules name no VM.
fn ports(config: &Config, vms: &[VmName]) -> Result<Vec<Port>> {
    let vms = libvirt::domains(&config.connect, vms)
        .context("ebtables rules name no VM, so libvirt has to tell its ports; if the VM has ended, use flush")?;
    Ok(vms
        .into_iter()
        .flat_map(|vm| vm.nics)
        .map(|nic| nic.port)
        .collect())
}
