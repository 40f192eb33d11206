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

/// Whether this is a UUID as libvirt prints it.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_is_one() {
        let uuid = "a4f5e8ab-2b5f-4d3a-9d3c-0123456789AB";
        assert!(is_uuid(uuid));
        for text in [
            "",
            "one-42",
            &uuid[1..],
            &uuid.replace('a', "g"),
            &uuid.replace('-', "0"),
        ] {
            assert!(!is_uuid(text), "{text}");
        }
        assert!(!is_uuid("a4f5e8a-b2b5f-4d3a-9d3c-0123456789AB"));
    }
}
