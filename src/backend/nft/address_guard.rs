//! The address guard: rules that drop packets that a VM sends under IP addresses that are not its own,
//! or as a DHCP server or a router. [`fixed`] and [`own`] have each rule's matches, and say which
//! attack it stops.
//!
//! Each rule's comment says what the rule drops. People read it, and we know the rule by it.

mod fixed;
mod own;

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use nftables::stmt::Statement;

use self::fixed::Fixed;
use crate::fence::{ActualAddresses, ActualGuard, ActualIpv6, Guard};
use crate::mac::MacAddr;

/// The most addresses that a rule can name: the kernel takes 128 expressions in a rule (its
/// `NFT_RULE_MAXEXPRS`), and a match has two.
const MOST: usize = 50;

const ARP_MAC: &str = "false MAC address in ARP";
const ARP_IP: &str = "false IP address in ARP";
const IPV4_SOURCE: &str = "false IPv4 source";
const IPV6_SOURCE: &str = "false IPv6 source";
const PROBE: &str = ":: and a false target";
const ADVERT: &str = "false neighbour advertisement";

/// The check in a rule of the address guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A check that is the same for every NIC, by its name in [`fixed`].
    Fixed(&'static str),
    /// Drops ARP whose sender's MAC address is none of these.
    ArpMac(Vec<MacAddr>),
    /// Drops ARP whose sender's IP address is none of these.
    ArpIp(Vec<Ipv4Addr>),
    /// Drops IPv4 from any source but these.
    Ipv4Source(Vec<Ipv4Addr>),
    /// Drops IPv6 from any source but these.
    Ipv6Source(ActualIpv6),
    /// Drops a question whether an address is free, for any address but these.
    Probe(ActualIpv6),
    /// Drops an answer for any address but these.
    Advert(ActualIpv6),
}

/// Returns the checks that a guard needs.
pub fn checks(guard: &Guard) -> Vec<Check> {
    let mut groups = Vec::new();
    let mut own = Vec::new();
    if let Some(allowed) = &guard.addresses {
        let v6 = ActualIpv6::of(allowed, guard.senders());
        groups.push(fixed::ADDRESSES);
        own = vec![
            Check::ArpMac(guard.senders().collect()),
            Check::ArpIp(allowed.v4.clone()),
            Check::Ipv4Source(allowed.v4.clone()),
            Check::Ipv6Source(v6.clone()),
            Check::Probe(v6.clone()),
            Check::Advert(v6),
        ];
    }
    if guard.dhcp_guard {
        groups.push(fixed::DHCP);
    }
    if guard.ra_guard {
        groups.push(fixed::ROUTERS);
    }
    if !groups.is_empty() {
        groups.push(fixed::FRAGMENTS);
        if guard.addresses.is_none() {
            groups.push(fixed::TAGS);
        }
    }
    let fixed = groups.into_iter().flatten();
    let mut checks: Vec<_> = fixed.map(|(name, _)| Check::Fixed(name)).collect();
    checks.extend(own);
    checks
}

/// Checks that rules can name all addresses of a guard.
///
/// # Errors
/// If there are too many.
pub fn check(guard: &Guard) -> Result<()> {
    let lists = checks(guard).into_iter().map(|check| match check {
        Check::Fixed(_) => 0,
        Check::ArpMac(macs) => macs.len(),
        Check::ArpIp(v4) | Check::Ipv4Source(v4) => v4.len(),
        Check::Ipv6Source(v6) | Check::Probe(v6) | Check::Advert(v6) => v6.addresses.len(),
    });
    let most = lists.chain([guard.senders().count()]).max();
    ensure!(
        most.is_none_or(|most| most <= MOST),
        "port \"{}\" has too many addresses of one kind: nft can guard {MOST}",
        guard.port
    );
    Ok(())
}

impl Check {
    /// What it drops, in words. This is the comment on the rule.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fixed(name) => name,
            Self::ArpMac(_) => ARP_MAC,
            Self::ArpIp(_) => ARP_IP,
            Self::Ipv4Source(_) => IPV4_SOURCE,
            Self::Ipv6Source(_) => IPV6_SOURCE,
            Self::Probe(_) => PROBE,
            Self::Advert(_) => ADVERT,
        }
    }

    /// Returns the rule's matches, without the one on the port.
    pub fn matches(&self) -> Vec<Statement<'static>> {
        match self {
            Self::Fixed(name) => fixed_named(name).map_or_else(Vec::new, |(_, matches)| matches()),
            Self::ArpMac(macs) => own::false_arp_mac(macs),
            Self::ArpIp(v4) => own::false_arp_ip(v4),
            Self::Ipv4Source(v4) => own::false_ipv4_source(v4),
            Self::Ipv6Source(v6) => own::false_ipv6_source(v6),
            Self::Probe(v6) => own::false_probe(v6),
            Self::Advert(v6) => own::false_advert(v6),
        }
    }

    /// Returns the check that a rule with this comment and these statements may hold.
    pub fn candidate(comment: &str, statements: &[&Statement]) -> Option<Self> {
        Some(match comment {
            ARP_MAC => Self::ArpMac(own::arp_macs(statements)?),
            ARP_IP => Self::ArpIp(own::arp_ips(statements)?),
            IPV4_SOURCE => Self::Ipv4Source(own::ipv4_sources(statements)?),
            IPV6_SOURCE => Self::Ipv6Source(own::ipv6_sources(statements)?),
            PROBE => Self::Probe(own::probed(statements)?),
            ADVERT => Self::Advert(own::advertised(statements)?),
            other => Self::Fixed(fixed_named(other)?.0),
        })
    }

    /// Adds the facts that this check shows to a guard.
    pub fn tell(&self, guard: &mut ActualGuard) {
        let is_of = |group: &[Fixed]| group.iter().any(|(name, _)| *name == self.name());
        if is_of(fixed::DHCP) {
            guard.dhcp_guard = true;
        } else if is_of(fixed::ROUTERS) {
            guard.ra_guard = true;
        } else if !is_of(fixed::FRAGMENTS) && !is_of(fixed::TAGS) {
            let said = guard.addresses.get_or_insert_default();
            self.name_addresses(said);
        }
    }

    fn name_addresses(&self, said: &mut ActualAddresses) {
        match self {
            Self::Fixed(_) | Self::ArpMac(_) => {}
            Self::ArpIp(v4) | Self::Ipv4Source(v4) => said.v4.push(v4.clone()),
            Self::Ipv6Source(v6) | Self::Probe(v6) | Self::Advert(v6) => said.v6.push(v6.clone()),
        }
    }
}

fn fixed_named(name: &str) -> Option<&'static Fixed> {
    let groups = [
        fixed::ADDRESSES,
        fixed::FRAGMENTS,
        fixed::DHCP,
        fixed::ROUTERS,
        fixed::TAGS,
    ];
    let mut all = groups.into_iter().flatten();
    all.find(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests;
