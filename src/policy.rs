//! What the operator chose to enforce, and the guards that follow from it. Pure.

mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;

use crate::fence::{Addresses, Fence, Guard, Hears};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::{Nic, Place, Port, Vm};

pub use self::network::{
    AddressGuard, Extras, Isolation, Network, Overrides, Selector, Settings, is_a_hosts,
};

/// What the operator chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Act only on these bridges. Empty: on all.
    pub bridges: Vec<String>,
    /// The settings of NICs, unless a network overrides them.
    pub global: Settings,
    /// The networks with settings of their own. No two select the same NICs.
    pub networks: Vec<Network>,
    /// Further addresses of single NICs, by MAC address.
    pub nics: BTreeMap<MacAddr, Extras>,
    /// The netlink group to which dropped frames are logged.
    pub log: Option<u16>,
    /// The ports of OpenNebula's transparent proxies, by bridge: see [`Policy::on_host`].
    pub proxies: BTreeMap<String, Port>,
}

/// Why a NIC has no guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfenced {
    /// The port is on no Linux bridge.
    NoBridge(Port),
    /// The port is on a bridge that the policy leaves alone.
    OtherBridge(Port, String),
    /// The port is a device of a kind that VMs do not have, in words.
    NotAVms(Port, String),
}

impl Unfenced {
    /// The NIC's port.
    pub fn port(&self) -> &Port {
        match self {
            Self::NoBridge(port) | Self::OtherBridge(port, _) | Self::NotAVms(port, _) => port,
        }
    }

    /// The reason, in words that follow a port's name.
    pub fn why(&self) -> String {
        match self {
            Self::NoBridge(_) => "on no Linux bridge".to_owned(),
            Self::OtherBridge(_, bridge) => format!("bridge {bridge:?} is not in bridges"),
            Self::NotAVms(_, what) => format!("{what}, which no VM has"),
        }
    }

    /// Explains why the port must not have a guard, if it cannot be a VM's although a source says so.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::NotAVms(port, what) => Some(format!(
                "port \"{port}\" is {what}, which no VM has; it is not fenced"
            )),
            _ => None,
        }
    }
}

impl Policy {
    /// Returns the fence of `vm`, and the NICs that it leaves out. `place_of` tells where a NIC's port
    /// is.
    ///
    /// # Errors
    /// If `place_of` fails.
    pub fn fence(
        &self,
        vm: &Vm,
        mut place_of: impl FnMut(&Nic) -> Result<Place>,
    ) -> Result<(Fence, Vec<Unfenced>)> {
        let mut fence = Fence::none(vm.name.clone());
        let mut unfenced = Vec::new();
        for nic in &vm.nics {
            let place = place_of(nic)?;
            let port = nic.port.clone();
            match place {
                Place::NoBridge => unfenced.push(Unfenced::NoBridge(port)),
                Place::Nic(bridge) | Place::Other(bridge, _) if !self.acts_on(&bridge) => {
                    unfenced.push(Unfenced::OtherBridge(port, bridge));
                }
                Place::Other(_, what) => unfenced.push(Unfenced::NotAVms(port, what)),
                Place::Nic(bridge) => fence.guards.push(self.guard(nic, &bridge)),
            }
        }
        Ok((fence, unfenced))
    }

    /// Tells whether ports of this bridge are fenced.
    pub fn acts_on(&self, bridge: &str) -> bool {
        self.bridges.is_empty() || self.bridges.iter().any(|b| b == bridge)
    }

    /// The policy on a host with these transparent proxies of OpenNebula's. A port that is a VM's is
    /// never trusted, because a user can give his port any name in a VM's template.
    #[must_use]
    pub fn on_host(
        &self,
        mut proxies: BTreeMap<String, Port>,
        is_a_vms: impl Fn(&Port) -> bool,
    ) -> Self {
        proxies.retain(|_, port| !is_a_vms(port));
        let mut here = self.clone();
        here.proxies = proxies;
        let networks = here.networks.iter_mut();
        let lists = networks.filter_map(|network| network.overrides.trusted_ports.as_mut());
        for ports in lists.chain([&mut here.global.trusted_ports]) {
            ports.retain(|port| !is_a_vms(port));
        }
        here
    }

    /// The ports that the operator trusts in any network.
    pub fn trusted_ports(&self) -> BTreeSet<&Port> {
        let networks = self.networks.iter();
        let of_networks = networks.filter_map(|network| network.overrides.trusted_ports.as_ref());
        let ports = of_networks.chain([&self.global.trusted_ports]).flatten();
        ports.collect()
    }

    /// Tells whether any network hears OpenNebula's transparent proxies.
    pub fn hears_proxies(&self) -> bool {
        let mut networks = self.networks.iter();
        self.global.opennebula_proxy
            || networks.any(|network| network.overrides.opennebula_proxy == Some(true))
    }

    /// Tells whether the policy depends on which bridge a port is on.
    pub fn depends_on_bridges(&self) -> bool {
        let mut networks = self.networks.iter();
        !self.bridges.is_empty()
            || !self.proxies.is_empty()
            || networks.any(|network| network.selector.bridge.is_some())
    }

    /// Returns how NICs with this MAC address on this bridge are isolated: as their owners asked, or
    /// always.
    pub fn isolation(&self, mac: MacAddr, bridge: &str) -> Isolation {
        let network = self.network(mac, bridge);
        let isolation = network.and_then(|network| network.overrides.isolation);
        isolation.unwrap_or(self.global.isolation)
    }

    /// The guard in front of a NIC's port on this bridge.
    pub fn guard(&self, nic: &Nic, bridge: &str) -> Guard {
        let network = self.network(nic.mac, bridge);
        let settings = match network {
            Some(network) => network.overrides.over(&self.global),
            None => self.global.clone(),
        };
        let mut extras = self.extras(nic, network, &settings);
        extras.macs.remove(&nic.mac);
        let hears = if nic.hears_all() && settings.isolation != Isolation::Always {
            Hears::All
        } else {
            self.own_network(nic, bridge, &settings)
        };
        Guard {
            extra_macs: extras.macs.into_iter().collect(),
            queries: settings.multicast_querier,
            addresses: addresses(nic, &settings, extras.ips),
            dhcp_guard: settings.dhcp_guard,
            ra_guard: settings.ra_guard,
            log: self.log,
            ..Guard::new(nic.port.clone(), nic.mac, hears)
        }
    }

    /// The network whose settings apply to NICs with this MAC address on this bridge, if any
    /// differ from the global ones.
    pub fn network(&self, mac: MacAddr, bridge: &str) -> Option<&Network> {
        network::most_specific(&self.networks, mac, bridge)
    }

    /// Collects the further addresses that the NIC may use.
    fn extras(&self, nic: &Nic, network: Option<&Network>, settings: &Settings) -> Extras {
        let mut extras = self.nics.get(&nic.mac).cloned().unwrap_or_default();
        if let Some(Network { extras: more, .. }) = network {
            extras.add(&more.macs, &more.ips);
        }
        if let (true, Some(asked)) = (settings.template_extras, &nic.asked) {
            extras.add(&asked.extra_macs, &asked.extra_addresses);
        }
        extras
    }

    fn own_network(&self, nic: &Nic, bridge: &str, settings: &Settings) -> Hears {
        let proxy = self.proxies.get(bridge);
        let proxy = proxy.filter(|_| settings.opennebula_proxy).cloned();
        let trusted_ports: BTreeSet<_> = settings
            .trusted_ports
            .iter()
            .cloned()
            .chain(proxy)
            .collect();
        let trusted: BTreeSet<_> = settings.trusted.iter().copied().collect();
        Hears::Network {
            prefix: MacPrefix::of(nic.mac, settings.prefix_len),
            trusted: trusted.into_iter().collect(),
            trusted_ports: trusted_ports.into_iter().collect(),
        }
    }
}

/// The IP addresses that the NIC may use: its own and `ips`; `None`: any.
fn addresses(nic: &Nic, settings: &Settings, mut ips: BTreeSet<IpAddr>) -> Option<Addresses> {
    let asked = nic.asked.as_ref();
    let is_guarded = match settings.addresses {
        AddressGuard::Template => asked.is_some_and(|asked| asked.guards_addresses),
        AddressGuard::Always | AddressGuard::Mac => true,
        AddressGuard::Never => false,
    };
    if !is_guarded {
        return None;
    }
    match asked {
        Some(asked) => ips.extend(&asked.addresses),
        None if settings.addresses == AddressGuard::Mac => ips.extend(network::made_of(nic.mac)),
        None => {}
    }
    let v4 = ips.iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let v6 = ips.iter().filter_map(|ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(*ip),
    });
    Some(Addresses {
        v4: v4.collect(),
        v6: v6.collect(),
        link_local: settings.link_local,
    })
}

#[cfg(test)]
mod tests;
