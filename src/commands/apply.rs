//! `macfence apply`: fence these VMs, all in one transaction.

use std::io::{self, IsTerminal};

use anyhow::Result;

use super::enforce::{Told, fence_vms};
use super::shared::{described, warn_of_the_other_kind};
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::Keep;

/// Runs it.
pub fn run(config: &Config, vms: &Vms) -> Result<()> {
    let (vms, _hypervisors) = described(config, vms)?;
    let (used, changed) = fence_vms(config, vms, &Keep::nothing(), Told::OfRunning)?;
    // A hook would say it for each VM, in a log, and pay for another program.
    if changed && io::stderr().is_terminal() {
        warn_of_the_other_kind(config, used);
    }
    Ok(())
}
