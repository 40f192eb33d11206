//! What a firewall must be able to do for us, and which one is used.

mod auto;
pub mod ebtables;
pub mod nft;

use anyhow::Result;
use clap::ValueEnum;
use serde::Deserialize;

use crate::fence::{Fence, Keep, Rule};
use crate::vm::{Port, VmName};

/// A firewall that holds fences. It knows VMs, ports and rules, and no hypervisor.
///
/// The kernel's ruleset is the only state. Every method that changes it is to be called under
/// [`crate::lock`], and leaves the kernel either as it was or as it should be.
pub trait Backend {
    /// Its name, as `--backend` takes it; of `auto`, that of the one that works, once it was used.
    fn name(&self) -> &'static str;

    /// The table of the kernel's bridge family in which fences are.
    fn table(&self) -> &'static str;

    /// Whether its rules tell whose they are. Where not, a VM's rules are found by its ports.
    fn names_vms(&self) -> bool;

    /// Looks at all that the kernel holds.
    fn look(&self) -> Result<Box<dyn Held>>;

    /// Every fence that the kernel holds, sorted by VM, with what it dropped.
    fn fences(&self) -> Result<Vec<HeldFence>> {
        self.look()?.fences()
    }

    /// The ports that fences refer to.
    fn ports(&self) -> Result<Vec<Port>>;

    /// Makes the kernel hold exactly these fences for their VMs, all in one step; a fence without
    /// rules takes the VM's away. A port that was another VM's is taken from it. What is there
    /// already and is right is left alone, with its counters, and so is what is to be kept. Returns
    /// whether anything changed.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<bool>;

    /// Makes sure that these fences, which [`Backend::enforce`] has found in place, are really
    /// passed by frames: that what all fences share is whole. Whoever only repeats what was said
    /// before may do without. Returns whether anything changed.
    fn mend(&self, fences: &[Fence], keep: &Keep) -> Result<bool>;

    /// Deletes all that refers to these ports, in one step, and the fences that are left with no
    /// port. Returns whether anything changed.
    fn release(&self, ports: &[Port]) -> Result<bool>;

    /// Whether a fence can be told to the firewall at all: not every name can. Starts no process.
    fn check(&self, fence: &Fence) -> Result<()>;

    /// What [`Backend::enforce`] would load for these fences, as text for the firewall's own
    /// program; starts no process.
    fn export(&self, fences: &[Fence]) -> Result<String>;
}

/// All that the kernel held when it was looked at.
pub trait Held {
    /// Every fence, sorted by VM, with what it dropped.
    fn fences(&self) -> Result<Vec<HeldFence>>;

    /// Does as [`Backend::enforce`], under the lock under which it was looked, and sets right what
    /// all fences share as well.
    fn settle(&self, fences: &[Fence], keep: &Keep) -> Result<bool>;
}

/// A fence in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFence {
    /// Whose it is; `None` where the rules do not tell: it is then that of one port.
    pub vm: Option<VmName>,
    /// The backend's name for it.
    pub chain: String,
    /// Its rules, each with the number of packets it dropped; `None` where nobody counts.
    pub rules: Vec<(Rule, Option<u64>)>,
    /// What keeps frames from passing just these rules, each in words.
    pub defects: Vec<String>,
}

/// A firewall by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
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
