//! What a firewall must be able to do for us, and which one is used.

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

/// A firewall that holds fences. It knows VMs, ports and guards, and no hypervisor.
///
/// The kernel's ruleset is the only state. Every method that changes it must be called under
/// [`crate::lock`], and leaves the kernel either as it was or as it should be.
pub trait Backend {
    /// Its name, as `--backend` takes it. `auto` has the name of the one that it has used.
    fn name(&self) -> &'static str;

    /// The tables of the kernel's bridge family in which fences are.
    fn tables(&self) -> &'static [&'static str];

    /// What this firewall cannot match although a guard asks for it, one sentence each.
    fn limits(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether rules tell whose they are. Where not, a VM's rules are found by its ports.
    fn names_vms(&self) -> bool;

    /// All that the kernel holds.
    fn query(&self) -> Result<Box<dyn Snapshot>>;

    /// The ports that fences refer to.
    fn ports(&self) -> Result<Vec<Port>>;

    /// Makes the kernel hold exactly these fences for their VMs, all in one step, and makes sure
    /// that frames pass them. A fence without guards removes the VM's. A port that was another
    /// VM's is taken from it. What is there already and is right stays untouched, with its
    /// counters, and so does what is to be kept.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced>;

    /// Deletes all that refers to these ports, in one step, and the fences that are left without a
    /// port. Returns whether anything changed.
    fn release(&self, ports: &[Port]) -> Result<bool>;

    /// Who was dropped of late, newest first; `None` where nobody notes that.
    fn noted(&self) -> Result<Option<Vec<Noted>>> {
        Ok(None)
    }

    /// Adds these fences, of VMs that have none, and deletes those of VMs that have ended, in one step
    /// and without asking what the kernel holds, which takes as long as the host has VMs. `None` if
    /// the kernel holds something else than the caller believes, or the firewall cannot do it;
    /// nothing has changed then. By default it cannot.
    fn add_and_delete(&self, _new: &[Fence], _ended: &[Ended]) -> Result<Option<Enforced>> {
        Ok(None)
    }

    /// Whether the firewall can hold this fence at all: not every name can be told to it. Starts no
    /// process.
    fn check(&self, fence: &Fence) -> Result<()>;

    /// What [`Backend::enforce`] would load for these fences, as text for the firewall's own
    /// program. Starts no process.
    fn export(&self, fences: &[Fence]) -> Result<String>;
}

/// All that the kernel held when it was asked.
pub trait Snapshot {
    /// Every fence, sorted by VM, with what it dropped.
    fn fences(&self) -> Result<Vec<ActualFence>>;

    /// Like [`Backend::enforce`], by this snapshot, which must have been taken under the same lock:
    /// asking again about 4,000 VMs takes half a second.
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

/// What [`Backend::enforce`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Whether anything changed.
    pub changed: bool,
    /// The ports whose senders' addresses are checked from now on. What their bridge has learned
    /// from them until now may be false.
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

/// The firewall to use.
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

    /// A host with a VM of one NIC, one with NICs in two networks of which one hears all networks,
    /// and one with a name that no chain can have as it is.
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

    /// A change of what is loaded shows in the snapshots. If it is meant, `INSTA_UPDATE=always
    /// cargo test --lib` writes them anew.
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
