//! `macfence remove`: take the fences of these VMs away, all in one transaction.

use anyhow::Result;

use super::note;
use crate::backend;
use crate::config::Config;
use crate::fence::Fence;
use crate::lock;
use crate::vm::VmName;

/// Runs it.
pub fn run(config: &Config, mut vms: Vec<VmName>) -> Result<()> {
    vms.sort();
    vms.dedup();
    let fences: Vec<_> = vms.into_iter().map(Fence::none).collect();
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    let changed = backend.enforce(&fences)?;
    note(config, || match changed {
        true => format!("the fences are gone from the kernel ({})", backend.name()),
        false => "none of these VMs was fenced".to_owned(),
    });
    Ok(())
}
