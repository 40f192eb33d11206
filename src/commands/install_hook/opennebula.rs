//! The files that OpenNebula's network drivers run.

use anyhow::{Result, bail};

/// Installs them.
pub fn install(_drivers: &[String]) -> Result<()> {
    bail!("not implemented");
}

/// Removes them.
pub fn remove(_drivers: &[String]) -> Result<()> {
    bail!("not implemented");
}
