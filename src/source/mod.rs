//! Where VMs come from: each source asks one hypervisor, or reads what one wrote, and knows
//! nothing of rules.

pub mod libvirt;
pub mod opennebula;
pub mod virsh;
pub mod xen;

use anyhow::{Error, Result};

use crate::process;
use crate::vm::{Vm, VmName};

/// What runs on a host.
#[derive(Debug, Default)]
pub struct Running {
    /// The VMs.
    pub vms: Vec<Vm>,
    /// Those that could not be described, and why.
    pub failed: Vec<(VmName, Error)>,
}

/// The VMs that run on this host, as libvirt at `uri` tells, or Xen where there is no `virsh`.
///
/// # Errors
/// If nobody can tell which they are.
pub fn running(uri: &str) -> Result<Running> {
    match process::find("virsh") {
        Err(_) if xen::is_there() => xen::running(),
        _ => virsh::running(uri),
    }
}
