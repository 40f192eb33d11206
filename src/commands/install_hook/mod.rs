//! `macfence install-hook`: makes another program call macfence. Each such program has its own file here.
//!
//! A hook that cannot be executed is worse than none, because its caller then refuses or ends VMs. So each
//! hook is tried before its caller can see it. If the trial fails, the host stays as it was.

pub mod apparmor;
mod changes;
pub mod libvirt;
mod marks;
mod opennebula;
mod program;
mod selinux;
mod xen;

use anyhow::Result;

use crate::cli::Caller;

/// Runs it.
///
/// # Errors
/// If the hook cannot be installed or removed. The host is then as it was before.
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
