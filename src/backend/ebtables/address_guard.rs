//! The address guard: a chain for each guarded port. It drops what a VM sends from IP addresses that
//! are not its own, and what it sends as a DHCP server or a router.
//!
//! In the chain, honest frames return and all others are dropped. So frames that ebtables cannot read,
//! because they are too short or of another kind, are dropped without a rule of their own. A frame that
//! returns is left to other people's rules: nothing here accepts.
//!
//! ebtables finds UDP and ICMPv6 after extension headers and in a first fragment. If such a header is
//! cut off, neither a match nor its negation matches.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use super::shape::DROP;
use crate::fence::{ActualGuard, ActualIpv6, Guard};
use crate::mac::MacAddr;
use crate::vm::Port;

/// The most rules of a chain. 50 addresses of each kind need 360.
const MOST: usize = 400;

// Protocols are numbers here, because a small system may lack the files with their names.
const IPV4: &str = "-p 0x0800";
const IPV6: &str = "-p 0x86dd";
const ARP: &str = "-p 0x0806";
/// QEMU sends these to tell switches where a guest has moved.
const RARP: &str = "-p 0x8035";
const UDP: &str = "--ip-proto 17";
/// For Ethernet and IPv4. A match on a sender's address also checks the lengths of both.
const ARP_TYPES: &str = "--arp-htype 1 --arp-ptype 0x0800";
const LINK_LOCAL: &str = "fe80::/10";
const ICMPV6: &str = "--ip6-proto 58";
const UDPV6: &str = "--ip6-proto 17";

/// The checks in a port's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressGuard {
    /// The port. Naming it makes the chain this port's own, and so the chain's counters.
    pub port: Port,
    /// The addresses that the VM may use, if they are guarded.
    pub allowed: Option<Allowed>,
    /// Whether frames of DHCP servers are dropped.
    pub dhcp_guard: bool,
    /// Whether frames of routers are dropped.
    pub ra_guard: bool,
}

/// The addresses that a VM may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// In ARP.
    pub macs: Vec<MacAddr>,
    /// In ARP, and as a source.
    pub v4: Vec<Ipv4Addr>,
    /// As a source, and in duplicate address detection.
    pub v6: ActualIpv6,
}

impl AddressGuard {
    /// Returns the checks that a guard needs; `None`: the port needs no such chain.
    pub fn of(guard: &Guard) -> Option<Self> {
        let allowed = guard.addresses.as_ref().map(|allowed| Allowed {
            macs: guard.senders().collect(),
            v4: allowed.v4.clone(),
            v6: ActualIpv6::of(allowed, guard.senders()),
        });
        let is_needed = allowed.is_some() || guard.dhcp_guard || guard.ra_guard;
        is_needed.then(|| Self {
            port: guard.port.clone(),
            allowed,
            dhcp_guard: guard.dhcp_guard,
            ra_guard: guard.ra_guard,
        })
    }

    /// Fails if ebtables cannot hold the chain.
    ///
    /// # Errors
    /// If there are too many addresses.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.rules().len() <= MOST,
            "port \"{}\" has too many addresses: ebtables would need more than {MOST} rules; use nft",
            self.port
        );
        Ok(())
    }

    /// Adds these checks to a guard.
    pub fn tell(&self, guard: &mut ActualGuard) {
        guard.dhcp_guard |= self.dhcp_guard;
        guard.ra_guard |= self.ra_guard;
        if let Some(allowed) = &self.allowed {
            let said = guard.addresses.get_or_insert_default();
            said.v4.push(allowed.v4.clone());
            said.v6.push(allowed.v6.clone());
        }
    }

    /// The rules of the chain. The most frequent kinds of frames come first.
    pub fn rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        if self.dhcp_guard {
            rules.extend(dhcp_servers());
        }
        if let Some(allowed) = &self.allowed {
            rules.extend(ipv4_sources(&allowed.v4));
        }
        rules.extend(self.ipv6());
        match &self.allowed {
            Some(allowed) => {
                rules.extend(arp_senders(allowed));
                // Stops frames that the rules cannot read, and a tag with VLAN ID 0, which hides the
                // protocol from the rules but not from a guest.
                rules.push(format!("-i {} -j {DROP}", self.port));
            }
            None => {
                rules.extend(empty_tags());
                rules.push(format!("-i {} -j RETURN", self.port));
            }
        }
        rules
    }

    fn ipv6(&self) -> Vec<String> {
        let mut rules = Vec::new();
        if self.ra_guard {
            // Stops a VM that poses as the router and redirects its neighbours' traffic.
            rules.push(format!("{IPV6} {ICMPV6} --ip6-icmp-type 137 -j {DROP}"));
        }
        let sources = match &self.allowed {
            Some(allowed) => {
                rules.extend(unspecified_ipv6(&allowed.v6));
                sources(&allowed.v6)
            }
            None => vec![String::new()],
        };
        // A rule of ebtables can have one condition on what follows the headers, so each source has a
        // rule for each kind.
        let from_each = |condition: &str| {
            let of = |source: &String| format!("{IPV6}{source}{condition} -j RETURN");
            sources.iter().map(of).collect::<Vec<_>>()
        };
        let mut rest = "";
        if self.dhcp_guard {
            // Stops a DHCPv6 server or relay, a server that sends from another port, and fragments that
            // lack the ports.
            let others = format!(" {UDPV6} --ip6-sport ! 547 --ip6-dport ! 546");
            rules.extend(from_each(&others));
            rules.push(format!("{IPV6} {UDPV6} -j {DROP}"));
            rest = " --ip6-proto ! 17";
        }
        if self.ra_guard {
            // Stops a VM that poses as the router of its neighbours, and fragments that lack the
            // message.
            rules.extend(from_each(&format!(" {ICMPV6} --ip6-icmp-type ! 134")));
            rules.push(format!("{IPV6} {ICMPV6} -j {DROP}"));
            rest = " --ip6-proto ! 58";
        }
        // Stops a packet from another's IPv6 address. `rest` matches all other packets, except those
        // whose headers continue in the second fragment: ebtables finds what follows them in neither
        // fragment (RFC 7113).
        rules.extend(from_each(rest));
        rules.push(format!("{IPV6} -j {DROP}"));
        rules
    }

    /// Reads the checks for which a chain with these rules may have been made. The rules must be in one
    /// spelling; the caller compares.
    pub fn candidate(rules: &[String]) -> Option<Self> {
        let (last, _) = rules.last()?.strip_prefix("-i ")?.split_once(" -j ")?;
        let has = |rule: &String| rules.contains(rule);
        let between = |start: &'static str| {
            let lines = rules.iter().filter_map(move |rule| {
                let rule = rule.strip_prefix(start)?.strip_suffix(" -j RETURN")?;
                rule.strip_prefix(' ')
            });
            lines.collect::<Vec<_>>()
        };
        let v4 = between(IPV4).into_iter();
        let v4 = v4.filter_map(|rule| rule.strip_prefix("--ip-src ")?.parse().ok());
        let probes = "--arp-ip-src 0.0.0.0 --arp-mac-src ";
        let macs = between(ARP).into_iter();
        let macs = macs.filter_map(|rule| {
            let rule = rule.strip_prefix(ARP_TYPES)?.trim_start();
            rule.strip_prefix(probes)?.parse().ok()
        });
        let macs: Vec<_> = macs.collect();
        let v6 = between(IPV6).into_iter().filter_map(|rule| {
            let rule = rule.strip_prefix("--ip6-src ")?;
            Some(
                rule.split_once(" --ip6-proto ! ")
                    .map_or(rule, |(v6, _)| v6),
            )
        });
        let v6: Vec<_> = v6.collect();
        let allowed = (!macs.is_empty()).then(|| Allowed {
            macs,
            v4: v4.collect(),
            v6: ActualIpv6 {
                addresses: v6.iter().filter_map(|v6| v6.parse().ok()).collect(),
                any_link_local: v6.contains(&LINK_LOCAL),
            },
        });
        Some(Self {
            port: last.parse().ok()?,
            allowed,
            dhcp_guard: has(&format!("{IPV6} {UDPV6} -j {DROP}")),
            ra_guard: has(&format!("{IPV6} {ICMPV6} -j {DROP}")),
        })
    }
}

/// Stops a DHCP server or relay, and a server that sends from another port: clients do not check the
/// source port.
fn dhcp_servers() -> Vec<String> {
    let ports = ["--ip-sport 67", "--ip-dport 68"];
    let drop = |port| format!("{IPV4} {UDP} {port} -j {DROP}");
    ports.map(drop).into()
}

/// Stops a packet from another's IPv4 address, and one from 0.0.0.0 unless it is a DHCP request.
fn ipv4_sources(v4: &[Ipv4Addr]) -> Vec<String> {
    let own = v4.iter();
    let mut rules: Vec<_> = own
        .map(|ip| format!("{IPV4} --ip-src {ip} -j RETURN"))
        .collect();
    rules.push(format!(
        "{IPV4} --ip-src 0.0.0.0 --ip-dst 255.255.255.255 {UDP} --ip-sport 68 --ip-dport 67 -j RETURN"
    ));
    rules.push(format!("{IPV4} -j {DROP}"));
    rules
}

/// The match for each source of a VM.
fn sources(allowed: &ActualIpv6) -> Vec<String> {
    let single = allowed.addresses.iter().map(Ipv6Addr::to_string);
    let range = allowed.any_link_local.then(|| LINK_LOCAL.to_owned());
    let all = single.chain(range);
    all.map(|source| format!(" --ip6-src {source}")).collect()
}

/// Of the packets without a source, lets duplicate address detection, router solicitations and
/// multicast reports pass (RFC 4862, 4861, 3590, 3810).
///
/// Stops a VM that fakes duplicate address detection for an address that another VM is about to take:
/// the other would go without the address (RFC 4862, 5.4.3). ebtables cannot read the address in the
/// packet. But a VM that is about to take it listens only to the group that is made from the address's
/// last 24 bits.
fn unspecified_ipv6(allowed: &ActualIpv6) -> Vec<String> {
    let groups: BTreeSet<_> = allowed.addresses.iter().map(solicited_node).collect();
    let to_groups = groups
        .into_iter()
        .map(|group| format!(" --ip6-dst {group}"));
    let to_groups: Vec<_> = if allowed.any_link_local {
        vec![String::new()]
    } else {
        to_groups.collect()
    };
    let from_nobody = |to: &str, kind: u8| {
        format!("{IPV6} --ip6-src ::{to} {ICMPV6} --ip6-icmp-type {kind} -j RETURN")
    };
    let probes = to_groups.iter().map(|to| from_nobody(to, 135));
    let others = [131, 133, 143].map(|kind| from_nobody("", kind));
    probes.chain(others).collect()
}

/// The solicited-node group of this address (RFC 4291, 2.7.1).
fn solicited_node(address: &Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a & 0xff, b)
}

/// Stops ARP that claims another's IP address, or a MAC address that is not the VM's: receivers believe
/// the one in ARP, not the one in the frame's header. 0.0.0.0 stands for a probe whether an address is
/// free (RFC 5227), or for RARP.
fn arp_senders(allowed: &Allowed) -> Vec<String> {
    let mut addresses = allowed.v4.clone();
    if !addresses.contains(&Ipv4Addr::UNSPECIFIED) {
        addresses.push(Ipv4Addr::UNSPECIFIED);
    }
    let mut rules = Vec::new();
    for protocol in [ARP, RARP] {
        for ip in &addresses {
            let of = |mac| {
                format!("{protocol} {ARP_TYPES} --arp-ip-src {ip} --arp-mac-src {mac} -j RETURN")
            };
            rules.extend(allowed.macs.iter().map(of));
        }
    }
    rules
}

/// Stops a frame with a tag that means no VLAN: a guest reads it as one without a tag, but no rule sees
/// its contents. ebtables does not see the VLAN in tags of 802.1ad, so they are all dropped.
fn empty_tags() -> [String; 2] {
    [
        format!("-p 0x8100 --vlan-id 0 -j {DROP}"),
        format!("-p 0x88a8 -j {DROP}"),
    ]
}

#[cfg(test)]
mod tests;
