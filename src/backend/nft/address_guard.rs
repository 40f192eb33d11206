//! The address guard: rules that drop what a VM sends under IP addresses that are not its own, and
//! what it sends as a DHCP server or a router. [`fixed`] and [`own`] have each rule's matches, and say
//! which attack it stops.
//!
//! A rule's comment says what it drops, for people, and for us when we read it back.

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

/// What a rule of the address guard drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The same for every NIC: the name of one of [`fixed`].
    Fixed(&'static str),
    /// ARP in which the sender's MAC address is none of these.
    ArpMac(Vec<MacAddr>),
    /// ARP in which the sender's IP address is none of these.
    ArpIp(Vec<Ipv4Addr>),
    /// IPv4 under another source than these.
    Ipv4Source(Vec<Ipv4Addr>),
    /// IPv6 under another source than these.
    Ipv6Source(ActualIpv6),
    /// A question whether another address than these is free.
    Probe(ActualIpv6),
    /// An answer for another address than these.
    Advert(ActualIpv6),
}

/// The checks that a guard has.
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

/// Whether rules can name all addresses of a guard.
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
    /// What it drops, in words: the comment on the rule.
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

    /// What the rule matches, besides the port.
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

    /// The check that a rule with this comment and these statements may be.
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

    /// Adds to a guard what this check says about it.
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
