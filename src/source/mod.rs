//! Where VMs come from: each source asks one hypervisor, or reads what one wrote, and knows
//! nothing of rules.

pub mod libvirt;
pub mod opennebula;
pub mod xen;
