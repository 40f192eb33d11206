//! libvirt's hook for QEMU domains.

use anyhow::{Result, bail};

/// Installs it.
pub fn install() -> Result<()> {
    bail!("not implemented");
}

/// Removes it.
pub fn remove() -> Result<()> {
    bail!("not implemented");
}
