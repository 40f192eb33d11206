//! The interface to a firewall, and the choice of one.

mod auto;
pub mod ebtables;
pub mod nft;
mod noted;

use std::collections::BTreeSet;

use anyhow::Result;
use clap::ValueEnum;

use crate::fence::{ActualFence, Fence, Keep};
use crate::vm::{Port, VmName};

pub use self::noted::{Noted, Reason};

/// A firewall that holds fences. It knows VMs, ports and guards, but no hypervisor.
///
/// The kernel's ruleset is the only state. Every method that changes it must be called under
/// [`crate::lock`], and leaves the kernel either as it was or as it should be.
pub trait Backend {
    /// The firewall's name, as `--backend` takes it. `auto` has the name of the firewall that it uses.
    fn name(&self) -> &'static str;

    /// The tables of the kernel's bridge family that hold fences.
    fn tables(&self) -> &'static [&'static str];

    /// The parts of a guard that this firewall cannot enforce, one sentence each.
    fn limits(&self) -> &'static [&'static str] {
        &[]
    }

    /// Tells whether rules name their VM. If not, a VM's rules are found by its ports.
    fn names_vms(&self) -> bool;

    /// Reads all fences in the kernel.
    fn query(&self) -> Result<Box<dyn Snapshot>>;

    /// Reads the ports that fences refer to.
    fn ports(&self) -> Result<Vec<Port>>;

    /// Makes the kernel hold exactly these fences for their VMs, all in one step, and makes sure that
    /// frames pass them. A fence without guards removes the VM's fence. A port that was another VM's is
    /// taken from it. Rules that are right already stay untouched, with their counters. So do the rules
    /// that `keep` names.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced>;

    /// Deletes all rules of these ports in one step, and fences that then have no port. Returns whether
    /// anything changed.
    fn release(&self, ports: &[Port]) -> Result<bool>;

    /// Returns the senders of frames that were dropped lately, newest first. `None` if the firewall
    /// does not note them.
    fn noted(&self) -> Result<Option<Vec<Noted>>> {
        Ok(None)
    }

    /// Adds fences for VMs that have none, and deletes those of VMs that have ended. This is one step that
    /// does not list the kernel's rules, which would be O(VMs). `None` if the kernel does not hold what
    /// the caller believes, or the firewall cannot do it; then nothing has changed. By default it cannot.
    fn add_and_delete(&self, _new: &[Fence], _ended: &[Ended]) -> Result<Option<Enforced>> {
        Ok(None)
    }

    /// Fails if the firewall cannot hold this fence: it does not take every name. Starts no process.
    fn check(&self, fence: &Fence) -> Result<()>;

    /// Writes these fences as text for the firewall's own program, as [`Backend::enforce`] would load
    /// them. Starts no process.
    fn export(&self, fences: &[Fence]) -> Result<String>;
}

/// All fences that the kernel held when it was asked.
pub trait Snapshot {
    /// Returns every fence, sorted by VM, with its count of dropped frames.
    fn fences(&self) -> Result<Vec<ActualFence>>;

    /// Does the same as [`Backend::enforce`], but without asking the kernel again, which takes half a
    /// second with 4,000 VMs. The snapshot must have been taken under the same lock.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced>;
}

/// A VM that has ended and whose fence is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The VM.
    pub vm: VmName,
    /// All ports that lead to its fence.
    pub ports: BTreeSet<Port>,
}

/// The result of [`Backend::enforce`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Whether anything changed.
    pub changed: bool,
    /// The ports whose senders' addresses are checked from now on. Addresses that the bridge has
    /// learned from them until now may be false.
    pub new_ports: Vec<Port>,
}

/// A firewall by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The best one that works on this host
    #[default]
    Auto,
    /// nftables
    Nft,
    /// ebtables, for hosts without nftables
    Ebtables,
}

/// Returns the firewall to use.
pub fn choose(choice: Choice) -> Box<dyn Backend> {
    match choice {
        Choice::Auto => Box::new(auto::Auto::default()),
        Choice::Nft => Box::new(nft::Nft),
        Choice::Ebtables => Box::new(ebtables::Ebtables),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::vm::{Asked, Nic, Place, Vm};

    /// The fences of a host with three VMs: one with one NIC, one with NICs in two networks (the second
    /// hears all networks), and one whose name must be escaped for a chain.
    fn fences() -> Vec<Fence> {
        let nic = |port: &str, mac: &str, hears_all| Nic {
            asked: Some(Asked {
                hears_all,
                ..Asked::default()
            }),
            ..Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
        };
        let vm = |name: &str, nics: &[Nic]| Vm {
            name: name.parse().unwrap(),
            nics: nics.to_vec(),
            skipped: Vec::new(),
        };
        let mut policy = Policy::default();
        policy.global.trusted = ["02:00:c0:a8:ff:01", "00:16:3e:00:00:00/24"]
            .map(|trusted| trusted.parse().unwrap())
            .to_vec();
        let vms = [
            vm("one-1", &[nic("one-1-0", "02:00:c0:a8:00:05", false)]),
            vm(
                "one-2",
                &[
                    nic("one-2-0", "02:00:c0:a8:00:06", false),
                    nic("one-2-1", "02:00:c0:a8:01:06", true),
                ],
            ),
            vm("my db", &[nic("vnet7", "52:54:00:aa:bb:01", false)]),
        ];
        let fence = |vm| {
            policy
                .fence(vm, |_| Ok(Place::Nic("br0".to_owned())))
                .unwrap()
                .0
        };
        vms.iter().map(fence).collect()
    }

    /// A changed ruleset shows in the snapshots. If the change is intended, `INSTA_UPDATE=always cargo
    /// test --lib` writes new ones.
    #[test]
    fn a_whole_host_is_exported_as_in_its_snapshot() {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../tests/snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| {
            for (name, choice) in [
                ("host-nft", Choice::Nft),
                ("host-ebtables", Choice::Ebtables),
            ] {
                insta::assert_snapshot!(name, choose(choice).export(&fences()).unwrap());
            }
        });
    }
}
