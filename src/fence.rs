//! What to enforce for a VM: a guard in front of each of its ports. Also the same as read back from the
//! kernel, intact or damaged.
//!
//! Pure: knows neither a hypervisor nor a firewall, and starts no process.

mod addresses;

use std::collections::BTreeSet;
use std::fmt;

pub use self::addresses::{ActualAddresses, ActualIpv6, Addresses, LinkLocal};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::{Port, VmName};

/// The guard in front of one port of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The port.
    pub port: Port,
    /// The NIC's own address. Frames from the port may carry no other source address, except the extra
    /// ones. Stops a VM that pretends to be another one.
    pub mac: MacAddr,
    /// Further source addresses, sorted, each once: for nested guests, macvlan devices, or VRRP.
    pub extra_macs: Vec<MacAddr>,
    /// The senders whose frames may reach the port.
    pub hears: Hears,
    /// Whether the VM may send IGMP and MLD queries, as a multicast router does. If not, this stops a
    /// VM that makes the bridge wait for answers of other networks' VMs, which do not hear the query.
    pub queries: bool,
    /// The only IP addresses that the VM may use, if they are guarded. Stops a VM that takes
    /// another's IP address under its own MAC address.
    pub addresses: Option<Addresses>,
    /// Whether frames of DHCP and DHCPv6 servers are dropped. Stops a VM that gives its neighbours
    /// false addresses and routers.
    pub dhcp_guard: bool,
    /// Whether IPv6 router advertisements and redirects are dropped. Stops a VM that poses as its
    /// neighbours' router.
    pub ra_guard: bool,
    /// The netlink group to which some of the dropped frames are logged.
    pub log: Option<u16>,
}

impl Guard {
    /// A guard that only checks who sends and who is heard.
    pub fn new(port: Port, mac: MacAddr, hears: Hears) -> Self {
        Self {
            port,
            mac,
            extra_macs: Vec::new(),
            hears,
            queries: false,
            addresses: None,
            dhcp_guard: false,
            ra_guard: false,
            log: None,
        }
    }

    /// All addresses that frames from the port may carry, the NIC's own first.
    pub fn senders(&self) -> impl Iterator<Item = MacAddr> {
        [self.mac]
            .into_iter()
            .chain(self.extra_macs.iter().copied())
    }
}

/// The senders whose frames may reach a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hears {
    /// All: the NIC's owner did not ask for isolation.
    All,
    /// Only those in the NIC's network and trusted ones. Stops a VM that listens to other networks.
    Network {
        /// The NIC's network.
        prefix: MacPrefix,
        /// Other senders that may be heard, sorted, each once.
        trusted: Vec<MacPrefix>,
        /// Ports of the host itself, sorted, each once: frames that come in through them are heard
        /// whatever their source address.
        trusted_ports: Vec<Port>,
    },
}

impl fmt::Display for Hears {
    /// `02:00:c0:a8:00:00/40 or 00:16:3e:00:00:01/48 or what comes in through "br0b"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all networks"),
            Self::Network {
                prefix,
                trusted,
                trusted_ports,
            } => {
                write!(f, "{prefix}")?;
                trusted.iter().try_for_each(|who| write!(f, " or {who}"))?;
                let mut ports = trusted_ports.iter();
                ports.try_for_each(|port| write!(f, " or what comes in through \"{port}\""))
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

/// Parts of a VM's present fence that stay although the new fence says otherwise.
pub struct Keep<'a> {
    /// Whether the guard of a port stays if the new fence omits the port.
    pub ports: Box<dyn Fn(&Port) -> bool + 'a>,
    /// Whether the NIC at a port may use the same IP addresses as now, and no others, because it is
    /// unknown what its template asks for.
    pub addresses: Box<dyn Fn(&Port) -> bool + 'a>,
    /// Whether a port of another VM stays that VM's. If so, a fence that claims such a port fails with
    /// [`Taken`].
    pub others_ports: bool,
}

/// The error for a fence that claims another VM's port.
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
            addresses: Box::new(|_| false),
            others_ports: false,
        }
    }
}

/// A new fence merged with the parts of the present one that stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The guards that the VM should have.
    pub guards: Vec<Guard>,
    /// Ports whose present guards stay as they are, even damaged ones.
    pub kept: BTreeSet<Port>,
}

impl Merged {
    /// Tells whether the VM should have no fence.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.kept.is_empty()
    }
}

impl Fence {
    /// An empty fence, for a VM that should have none.
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

    /// Merges this fence with the parts of the present one that stay.
    pub fn merge<'a>(
        &self,
        actual: impl Iterator<Item = &'a ActualGuard> + Clone,
        keep: &Keep,
    ) -> Merged {
        let mut guards = self.guards.clone();
        for guard in guards.iter_mut().filter(|new| (keep.addresses)(&new.port)) {
            let mut same = actual
                .clone()
                .filter(|now| now.port == guard.port && now.macs.contains(&guard.mac));
            let addresses = same.find_map(|now| {
                let senders = now.macs.iter().take(1).chain(&now.extra_macs).copied();
                now.addresses.as_ref()?.meant(senders)
            });
            if let Some(addresses) = addresses {
                guard.addresses = Some(addresses);
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

/// The guard in front of a port, as its rules in the kernel say. An intact guard has one address, one
/// entry about who is heard, and no defects. Fewer entries mean lost rules, more mean rules that
/// somebody added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualGuard {
    /// The port.
    pub port: Port,
    /// The NIC's own address, once for each rule that names one.
    pub macs: Vec<MacAddr>,
    /// The further addresses that frames from the port may carry.
    pub extra_macs: Vec<MacAddr>,
    /// The senders that the port hears, once for each rule.
    pub hears: Vec<Hears>,
    /// Whether queries may come from the port.
    pub queries: bool,
    /// The IP addresses that the VM may use, according to the rules; `None` if they are not guarded.
    pub addresses: Option<ActualAddresses>,
    /// Whether frames of DHCP servers are dropped.
    pub dhcp_guard: bool,
    /// Whether router advertisements are dropped.
    pub ra_guard: bool,
    /// The netlink group to which dropped frames are logged, or `None` in it for none; `None` if this
    /// firewall cannot log.
    pub log: Option<Option<u16>>,
    /// Rules that such a guard should have and lacks, or has and should not, each in words. A guard of
    /// an earlier version lacks some.
    pub defects: Vec<String>,
    /// The packets dropped so far.
    pub dropped: Dropped,
}

/// Packets dropped in front of a port since its rules were loaded; `None` if the rule is missing or has
/// no counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From the port, from an address that is not its own.
    pub spoofed: Option<u64>,
    /// To the port, from another network, or from a trusted sender there to another station.
    pub foreign: Option<u64>,
    /// From the port, claiming an IP address or a role that is not its own.
    pub forged: Option<u64>,
}

impl ActualGuard {
    /// A port without any rule.
    pub fn none(port: Port) -> Self {
        Self {
            port,
            macs: Vec::new(),
            extra_macs: Vec::new(),
            hears: Vec::new(),
            queries: false,
            addresses: None,
            dhcp_guard: false,
            ra_guard: false,
            log: None,
            defects: Vec::new(),
            dropped: Dropped::default(),
        }
    }

    /// The first of the networks that it hears, if the rules name one.
    pub fn network(&self) -> Option<&Hears> {
        self.hears.iter().find(|hears| **hears != Hears::All)
    }

    /// Tells whether `other` has every rule that this guard has.
    pub fn is_covered_by(&self, other: &Self) -> bool {
        let addresses = match (&self.addresses, &other.addresses) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(said), Some(others)) => said.is_covered_by(others),
        };
        self.macs.iter().all(|mac| other.macs.contains(mac))
            && (self.macs.is_empty() || self.extra_macs == other.extra_macs)
            && self.hears.iter().all(|hears| other.hears.contains(hears))
            && addresses
            && self.dhcp_guard <= other.dhcp_guard
            && self.ra_guard <= other.ra_guard
    }

    /// The guard for which the rules were made, if that is clear: they name one address, and do not
    /// contradict each other about who is heard and which IP addresses the VM may use. A repeated rule
    /// does no harm.
    pub fn meant(&self) -> Option<Guard> {
        let mac = *the_only(&self.macs)?;
        let senders = [mac].into_iter().chain(self.extra_macs.iter().copied());
        Some(Guard {
            port: self.port.clone(),
            mac,
            extra_macs: self.extra_macs.clone(),
            hears: the_only(&self.hears)?.clone(),
            queries: self.queries,
            addresses: match &self.addresses {
                Some(said) => Some(said.meant(senders)?),
                None => None,
            },
            dhcp_guard: self.dhcp_guard,
            ra_guard: self.ra_guard,
            log: self.log.flatten(),
        })
    }

    /// The guard, if it is intact.
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
    /// The VM. `None` if rules name no VM: then this is the fence of a single port.
    pub vm: Option<VmName>,
    /// The backend's name for it.
    pub chain: String,
    /// Its guards, one for each port.
    pub guards: Vec<ActualGuard>,
    /// Why frames do not pass exactly these guards, each in words.
    pub defects: Vec<String>,
}

#[cfg(test)]
mod tests;
