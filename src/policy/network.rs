//! Networks with settings of their own: the NICs that a section of the configuration selects, and its
//! settings. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::fence::LinkLocal;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// Whether a NIC is isolated although its owner did not ask for it. Only OpenNebula has NICs that are
/// not isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// As the VM's template says.
    #[default]
    Template,
    /// Every NIC is isolated.
    Always,
}

/// Which NICs may use no other IP addresses than their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressGuard {
    /// Those whose VM's template says so.
    #[default]
    Template,
    /// All. A NIC whose addresses are unknown may use none.
    Always,
    /// None.
    Never,
    /// All. If the template is unknown, the last four bytes of the NIC's MAC address are its IPv4
    /// address, as in the MAC addresses that OpenNebula builds.
    Mac,
}

/// The settings of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of leading bits of a MAC address that name its network.
    pub prefix_len: PrefixLen,
    /// Senders that the NIC hears besides its own network.
    pub trusted: Vec<MacPrefix>,
    /// Ports of the host: the NIC hears frames that come in through them, from any source address.
    pub trusted_ports: Vec<Port>,
    /// Whether OpenNebula's transparent proxy is heard like a trusted port.
    pub opennebula_proxy: bool,
    /// Which NICs hear only their own network.
    pub isolation: Isolation,
    /// Whether VMs may send IGMP and MLD queries.
    pub multicast_querier: bool,
    /// Which NICs may use no other IP addresses than their own.
    pub addresses: AddressGuard,
    /// The link-local IPv6 addresses of guarded NICs.
    pub link_local: LinkLocal,
    /// Whether frames of DHCP servers are dropped.
    pub dhcp_guard: bool,
    /// Whether router advertisements are dropped.
    pub ra_guard: bool,
    /// Whether a template may give its NIC further MAC and IP addresses. A user who can write them into
    /// his template can claim another VM's addresses.
    pub template_extras: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix_len: PrefixLen::default(),
            trusted: Vec::new(),
            trusted_ports: Vec::new(),
            opennebula_proxy: true,
            isolation: Isolation::default(),
            multicast_querier: false,
            addresses: AddressGuard::default(),
            link_local: LinkLocal::default(),
            dhcp_guard: false,
            ra_guard: false,
            template_extras: false,
        }
    }
}

/// The settings in one place of the configuration: each of [`Settings`], or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of Settings")]
pub struct Overrides {
    pub prefix_len: Option<PrefixLen>,
    pub trusted: Option<Vec<MacPrefix>>,
    pub trusted_ports: Option<Vec<Port>>,
    pub opennebula_proxy: Option<bool>,
    pub isolation: Option<Isolation>,
    pub multicast_querier: Option<bool>,
    pub addresses: Option<AddressGuard>,
    pub link_local: Option<LinkLocal>,
    pub dhcp_guard: Option<bool>,
    pub ra_guard: Option<bool>,
    pub template_extras: Option<bool>,
}

impl Overrides {
    /// Returns these settings, with those of `base` where nothing is set.
    pub fn over(&self, base: &Settings) -> Settings {
        let trusted_ports = self.trusted_ports.as_ref();
        Settings {
            prefix_len: self.prefix_len.unwrap_or(base.prefix_len),
            trusted: self.trusted.as_ref().unwrap_or(&base.trusted).clone(),
            trusted_ports: trusted_ports.unwrap_or(&base.trusted_ports).clone(),
            opennebula_proxy: self.opennebula_proxy.unwrap_or(base.opennebula_proxy),
            isolation: self.isolation.unwrap_or(base.isolation),
            multicast_querier: self.multicast_querier.unwrap_or(base.multicast_querier),
            addresses: self.addresses.unwrap_or(base.addresses),
            link_local: self.link_local.unwrap_or(base.link_local),
            dhcp_guard: self.dhcp_guard.unwrap_or(base.dhcp_guard),
            ra_guard: self.ra_guard.unwrap_or(base.ra_guard),
            template_extras: self.template_extras.unwrap_or(base.template_extras),
        }
    }
}

/// Selects the NICs of a network: those that match both fields, where set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// NICs whose port is on this bridge.
    pub bridge: Option<String>,
    /// NICs whose MAC address is in this prefix.
    pub mac: Option<MacPrefix>,
}

impl Selector {
    fn selects(&self, mac: MacAddr, bridge: &str) -> bool {
        self.bridge.as_ref().is_none_or(|name| name == bridge)
            && self.mac.is_none_or(|prefix| prefix.contains(mac))
    }

    /// The rank of the selector; the most specific has the greatest. A bridge and a prefix together
    /// come first, then a longer prefix, then a bridge alone. Two selectors that select the same NIC
    /// and have the same rank are equal.
    pub fn rank(&self) -> (bool, u8) {
        let bits = self.mac.map_or(0, |prefix| prefix.len().bits());
        (self.bridge.is_some() && self.mac.is_some(), bits)
    }
}

/// Further addresses of a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// MAC addresses that it may send under.
    pub macs: BTreeSet<MacAddr>,
    /// IP addresses that it may use.
    pub ips: BTreeSet<IpAddr>,
}

impl Extras {
    /// Adds further addresses.
    pub fn add(&mut self, macs: &BTreeSet<MacAddr>, ips: &BTreeSet<IpAddr>) {
        self.macs.extend(macs);
        self.ips.extend(ips);
    }
}

/// A network with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The NICs that it is for.
    pub selector: Selector,
    /// The settings that differ from the global ones.
    pub overrides: Overrides,
    /// Further addresses that each of its NICs may use.
    pub extras: Extras,
}

/// The network of this NIC: the most specific of those that select it.
pub fn most_specific<'a>(
    networks: &'a [Network],
    mac: MacAddr,
    bridge: &str,
) -> Option<&'a Network> {
    let fitting = networks.iter();
    let fitting = fitting.filter(|network| network.selector.selects(mac, bridge));
    fitting.max_by_key(|network| network.selector.rank())
}

/// The IPv4 address from which OpenNebula built this MAC address, if a host can have it.
pub fn made_of(mac: MacAddr) -> Option<IpAddr> {
    let [_, _, bytes @ ..] = mac.bytes();
    let address = Ipv4Addr::from(bytes);
    is_a_hosts(address.into()).then_some(address.into())
}

/// Tells whether a host can have this IP address.
pub fn is_a_hosts(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}
