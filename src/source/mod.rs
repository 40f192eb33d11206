//! Where VMs come from: each source asks one hypervisor, or reads what one wrote, and knows
//! nothing of rules.

pub mod libvirt;
pub mod opennebula;
pub mod virsh;
pub mod xen;

use anyhow::Result;

use crate::process;
use crate::vm::Vm;

/// The VMs that run on this host, as libvirt at `uri` tells, or Xen where there is no `virsh`.
///
/// # Errors
/// If they cannot be told.
pub fn running(uri: &str) -> Result<Vec<Vm>> {
    match process::find("virsh") {
        Err(_) if xen::is_there() => xen::running(),
        _ => virsh::running(uri),
    }
}
