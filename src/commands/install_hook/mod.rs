//! `macfence install-hook`: has another program call macfence. A file here for each such program.
//!
//! A hook that cannot be executed is worse than none: its caller then refuses VMs, or ends them. So a hook
//! is tried before its caller can see it, and where it fails the host is left as it was.

pub mod apparmor;
mod changes;
pub mod libvirt;
mod opennebula;
mod program;
mod selinux;
mod xen;

use anyhow::Result;

use crate::cli::Caller;

/// Runs it.
///
/// # Errors
/// If the hook could not be installed or removed; the host is then as it was.
pub fn run(caller: Caller) -> Result<()> {
    match caller {
        Caller::Libvirt { remove: false } => libvirt::install(),
        Caller::Libvirt { remove: true } => libvirt::remove(),
        Caller::Opennebula {
            drivers,
            state_hooks,
            remove,
        } => opennebula::run(drivers, state_hooks, remove),
        Caller::Xen { remove: false } => xen::install(),
        Caller::Xen { remove: true } => xen::remove(),
    }
}
