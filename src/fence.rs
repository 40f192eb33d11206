//! What to enforce for a VM: a guard in front of each of its ports. And the same as the kernel
//! holds it, whole or damaged.
//!
//! Pure: knows neither a hypervisor nor a firewall, and starts no process.

use std::collections::BTreeSet;
use std::fmt;

use crate::mac::{MacAddr, MacPrefix};
use crate::vm::{Port, VmName};

/// What stands in front of one port of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The port.
    pub port: Port,
    /// The only source address that frames from the port may carry. Stops a VM that pretends to be
    /// another one.
    pub mac: MacAddr,
    /// Which senders' frames may reach the port.
    pub hears: Hears,
    /// Whether the VM may send IGMP and MLD queries, as a multicast router does. Stops a VM that
    /// makes the bridge wait for answers of other networks' VMs, which do not hear the query.
    pub queries: bool,
}

/// Which senders' frames may reach a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hears {
    /// Everybody's: the NIC's owner did not ask for isolation.
    All,
    /// Only those of the NIC's network and of trusted senders. Stops a VM that listens to other
    /// networks.
    Network {
        /// The NIC's network.
        prefix: MacPrefix,
        /// Who else may be heard, sorted, each once.
        trusted: Vec<MacPrefix>,
    },
}

impl fmt::Display for Hears {
    /// `02:00:c0:a8:00:00/40 or 00:16:3e:00:00:01/48`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all networks"),
            Self::Network { prefix, trusted } => {
                write!(f, "{prefix}")?;
                trusted.iter().try_for_each(|who| write!(f, " or {who}"))
            }
        }
    }
}

/// A VM and the guards in front of its ports. Without guards, the VM is not fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The VM.
    pub vm: VmName,
    /// One guard for each fenced port, in the order of the VM's NICs.
    pub guards: Vec<Guard>,
}

/// What stays of a VM's present fence although the new one says otherwise.
pub struct Keep<'a> {
    /// Whether the guard of a port stays that the new fence omits.
    pub ports: Box<dyn Fn(&Port) -> bool + 'a>,
    /// Whether a NIC that hears all networks goes on to do so. A hypervisor does not know which
    /// NICs OpenNebula's template leaves without isolation.
    pub hears_all: bool,
    /// Whether ports that are another VM's stay that VM's. A fence that claims one then fails with
    /// [`Taken`].
    pub others_ports: bool,
}

/// The error of a fence that claims a port which another VM has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken(pub Port);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port \"{}\" is fenced for another VM", self.0)
    }
}

impl std::error::Error for Taken {}

impl Keep<'_> {
    /// Nothing stays: the VM gets exactly the new fence.
    pub fn nothing() -> Self {
        Self {
            ports: Box::new(|_| false),
            hears_all: false,
            others_ports: false,
        }
    }
}

/// A new fence merged with what is to be kept of the present one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The guards that the VM should have.
    pub guards: Vec<Guard>,
    /// Ports whose present guards stay as they are, even damaged ones.
    pub kept: BTreeSet<Port>,
}

impl Merged {
    /// Whether the VM should have no fence.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.kept.is_empty()
    }
}

impl Fence {
    /// The fence of a VM that should have none.
    pub fn none(vm: VmName) -> Self {
        Self {
            vm,
            guards: Vec::new(),
        }
    }

    /// Its ports.
    pub fn ports(&self) -> BTreeSet<&Port> {
        self.guards.iter().map(|guard| &guard.port).collect()
    }

    /// What the VM should have, given what it has.
    pub fn merge<'a>(
        &self,
        actual: impl Iterator<Item = &'a ActualGuard> + Clone,
        keep: &Keep,
    ) -> Merged {
        let goes_on_to_hear_all = |guard: &Guard| {
            keep.hears_all
                && actual.clone().any(|now| {
                    now.port == guard.port
                        && now.macs.contains(&guard.mac)
                        && now.hears == [Hears::All]
                })
        };
        let mut guards = self.guards.clone();
        for guard in &mut guards {
            if goes_on_to_hear_all(guard) {
                guard.hears = Hears::All;
            }
        }
        let ports = self.ports();
        let kept = actual
            .map(|now| &now.port)
            .filter(|port| !ports.contains(port) && (keep.ports)(port));
        Merged {
            guards,
            kept: kept.cloned().collect(),
        }
    }
}

/// What the rules in front of a port say, as found in the kernel. A whole guard has one address
/// and one say about who is heard, and no defects; fewer were lost, more were added by somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualGuard {
    /// The port.
    pub port: Port,
    /// The addresses that frames from the port must carry.
    pub macs: Vec<MacAddr>,
    /// Whom the port hears.
    pub hears: Vec<Hears>,
    /// Whether queries may come from the port.
    pub queries: bool,
    /// Rules that a guard like this has and that are missing, or the other way round, each in
    /// words. A guard of an earlier version lacks some.
    pub defects: Vec<String>,
    /// What was dropped.
    pub dropped: Dropped,
}

/// Packets dropped in front of a port since its rules were loaded; `None` where the rule is missing
/// or nobody counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From the port, under an address that is not its own.
    pub spoofed: Option<u64>,
    /// To the port, from another network, or from a trusted sender there to somebody else.
    pub foreign: Option<u64>,
}

impl ActualGuard {
    /// A port without any rule.
    pub fn none(port: Port) -> Self {
        Self {
            port,
            macs: Vec::new(),
            hears: Vec::new(),
            queries: false,
            defects: Vec::new(),
            dropped: Dropped::default(),
        }
    }

    /// Whether all that it says is said by `other` as well.
    pub fn is_covered_by(&self, other: &Self) -> bool {
        self.macs.iter().all(|mac| other.macs.contains(mac))
            && self.hears.iter().all(|hears| other.hears.contains(hears))
    }

    /// The guard that the rules were made for, if they tell: they name one address and say in one
    /// way who is heard. The same rule twice says nothing else than once.
    pub fn meant(&self) -> Option<Guard> {
        Some(Guard {
            port: self.port.clone(),
            mac: *the_only(&self.macs)?,
            hears: the_only(&self.hears)?.clone(),
            queries: self.queries,
        })
    }

    /// The guard, if nothing of it is missing.
    pub fn whole(&self) -> Option<Guard> {
        self.meant().filter(|_| self.defects.is_empty())
    }
}

fn the_only<T: PartialEq>(values: &[T]) -> Option<&T> {
    let (first, others) = values.split_first()?;
    others.iter().all(|other| other == first).then_some(first)
}

/// A fence as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualFence {
    /// Whose it is. `None` where rules name no VM: it is then the fence of a single port.
    pub vm: Option<VmName>,
    /// The backend's name for it.
    pub chain: String,
    /// What its rules say, one guard for each port.
    pub guards: Vec<ActualGuard>,
    /// Why frames do not pass exactly these guards, each in words.
    pub defects: Vec<String>,
}

#[cfg(test)]
mod tests;
