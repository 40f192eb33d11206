//! A table of frames of a guarded VM, with the verdict on each and its reason. Every firewall must
//! come to these verdicts.

use std::net::{Ipv4Addr, Ipv6Addr};

use macfence::mac::MacAddr;

use crate::lab::packet::*;

pub const OWN_MAC: MacAddr = MacAddr::new([2, 0, 0xc0, 0xa8, 0, 5]);
/// Another VM's MAC address.
pub const OTHER_MAC: MacAddr = MacAddr::new([2, 0, 0xc0, 0xa8, 0, 6]);
const ROUTER_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
pub const ALL: MacAddr = MacAddr::new([0xff; 6]);
const ALL_V6: MacAddr = MacAddr::new([0x33, 0x33, 0, 0, 0, 1]);

const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 5);
const ALIAS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 50);
pub const OWN_V4: [Ipv4Addr; 2] = [OWN, ALIAS];
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 6);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const BROADCAST: Ipv4Addr = Ipv4Addr::BROADCAST;

pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6);
/// The address made from the MAC address.
const OWN_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xc0ff, 0xfea8, 5);
const OTHER_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xc0ff, 0xfea8, 6);
const ROUTER_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const NOBODY_V6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The kinds of guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// Guards the VM's addresses.
    Addresses,
    /// Allows the VM to be neither a DHCP server nor an IPv6 router.
    Roles,
    /// Does both.
    All,
}

/// A frame of the VM.
pub struct Row {
    pub name: &'static str,
    pub frame: Vec<u8>,
    /// Why a guard of addresses drops it. `None`: it is heard.
    pub by_address: Option<&'static str>,
    /// Why a guard of roles drops it.
    pub by_role: Option<&'static str>,
    /// Why ebtables comes to another verdict behind one of the guards.
    pub ebtables: Option<&'static str>,
}

impl Row {
    /// Returns why this guard drops the frame.
    pub fn drop_reason(&self, guarded: Guarded) -> Option<&'static str> {
        match guarded {
            Guarded::Addresses => self.by_address,
            Guarded::Roles => self.by_role,
            Guarded::All => self.by_address.or(self.by_role),
        }
    }

    fn but_ebtables(self, why: &'static str) -> Self {
        Self {
            ebtables: Some(why),
            ..self
        }
    }

    fn but_no_role(self, why: &'static str) -> Self {
        Self {
            by_role: Some(why),
            ..self
        }
    }
}

fn row(name: &'static str, frame: Vec<u8>, by_address: Option<&'static str>) -> Row {
    Row {
        name,
        frame,
        by_address,
        by_role: None,
        ebtables: None,
    }
}

/// Builds a row for an honest frame.
fn heard(name: &'static str, frame: Vec<u8>) -> Row {
    row(name, frame, None)
}

fn dropped(name: &'static str, why: &'static str, frame: Vec<u8>) -> Row {
    row(name, frame, Some(why))
}

fn arp_of(operation: u8, mac: MacAddr, ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp {
        operation,
        mac,
        ip,
        target,
    };
    arp.bytes()
}

fn arp(operation: u8, mac: MacAddr, ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    ether(OWN_MAC, ALL, ARP, &arp_of(operation, mac, ip, target))
}

/// Builds an ARP request with other bytes at this place.
fn odd_arp(place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = arp_of(1, OWN_MAC, OWN, OTHER);
    packet[place..place + bytes.len()].copy_from_slice(bytes);
    packet.resize(60, 0);
    ether(OWN_MAC, ALL, ARP, &packet)
}

fn rarp(operation: u8, mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    ether(OWN_MAC, ALL, RARP, &arp_of(operation, mac, ip, NOBODY))
}

fn v4(packet: &[u8]) -> Vec<u8> {
    ether(OWN_MAC, ROUTER_MAC, IPV4, packet)
}

fn v6(packet: &[u8]) -> Vec<u8> {
    ether(OWN_MAC, ALL_V6, IPV6, packet)
}

fn cut(frame: &[u8], len: usize) -> Vec<u8> {
    frame[..14 + len].to_vec()
}

/// Builds a frame from this IPv6 address to all nodes.
fn to_all(src: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    v6(&ipv6(src, ALL_NODES, next, payload))
}

// Reasons why ebtables misses a frame, or drops an honest one.
const TARGET: &str = "it does not know the target of a message";
const VLAN_5: &str = "it does not look behind a tag";
const NO_VLAN: &str =
    "it cannot look behind a tag as a guest can, so it drops every tag with VLAN ID 0";
const MORE: &str = "it treats a first fragment as a whole packet";
const OPTIONS_BEFORE: &str = "it finds the ports behind options";
const HEADERS_BEFORE: &str = "it finds the message behind other headers";
const VERSION: &str = "it does not know the version in a packet";
const CUT: &str = "it cannot tell a cut packet from headers that continue in the next fragment";

const FALSE_SOURCE: &str = "the source is another VM's";
const FALSE_TARGET: &str = "it answers for another VM's address";
const NO_DHCP: &str = "a VM without an address may only ask for one by DHCP";
const NO_PROBE: &str =
    "a VM without an address may only probe for one, look for routers and join groups";
const HIDDEN_TARGET: &str = "the target is in another fragment";
const HIDDEN_HEADER: &str = "the header that matters is in another fragment";
const UNREADABLE: &str = "only IP and ARP can be checked";
const TAG: &str = "a tag hides the packet";
const TWO_TAGS: &str = "two tags hide the packet from the rules but not from a guest";
const DHCP: &str = "only a DHCP server sends it";
const ROUTER: &str = "only a router sends it";

/// Returns all rows.
pub fn rows() -> Vec<Row> {
    let parts = [
        arp_rows(),
        ipv4_rows(),
        ipv6_rows(),
        unspecified_ipv6_rows(),
        neighbour_rows(),
        role_rows(),
        other_rows(),
    ];
    parts.into_iter().flatten().collect()
}

fn arp_rows() -> Vec<Row> {
    let cut_mac = cut(&arp(1, OTHER_MAC, OWN, GATEWAY), 13);
    let cut_ip = cut(&arp(1, OWN_MAC, OTHER, GATEWAY), 17);
    vec![
        heard("ARP request", arp(1, OWN_MAC, OWN, GATEWAY)),
        heard("ARP request of an alias", arp(1, OWN_MAC, ALIAS, GATEWAY)),
        heard("ARP probe", arp(1, OWN_MAC, NOBODY, OWN)),
        heard("ARP announcement", arp(1, OWN_MAC, OWN, OWN)),
        heard("ARP reply", arp(2, OWN_MAC, OWN, GATEWAY)),
        heard("gratuitous ARP reply", arp(2, OWN_MAC, OWN, OWN)),
        dropped(
            "ARP request, false IP",
            FALSE_SOURCE,
            arp(1, OWN_MAC, OTHER, GATEWAY),
        ),
        dropped(
            "ARP reply, false IP",
            FALSE_SOURCE,
            arp(2, OWN_MAC, OTHER, GATEWAY),
        ),
        dropped(
            "gratuitous ARP, false IP",
            FALSE_SOURCE,
            arp(2, OWN_MAC, GATEWAY, GATEWAY),
        ),
        dropped(
            "ARP announcement, false IP",
            FALSE_SOURCE,
            arp(1, OWN_MAC, OTHER, OTHER),
        ),
        dropped(
            "ARP reply, false MAC",
            FALSE_SOURCE,
            arp(2, OTHER_MAC, OWN, GATEWAY),
        ),
        dropped(
            "ARP probe, false MAC",
            FALSE_SOURCE,
            arp(1, OTHER_MAC, NOBODY, OWN),
        ),
        dropped("ARP of IEEE 802 networks", UNREADABLE, odd_arp(0, &[0, 6])),
        dropped(
            "ARP for another protocol",
            UNREADABLE,
            odd_arp(2, &[0x86, 0xdd]),
        ),
        dropped("ARP with MACs of 8 bytes", UNREADABLE, odd_arp(4, &[8])),
        dropped("ARP with MACs of 0 bytes", UNREADABLE, odd_arp(4, &[0])),
        dropped("ARP with IPs of 16 bytes", UNREADABLE, odd_arp(5, &[16])),
        dropped(
            "ARP cut off in the sender's MAC",
            "a cable pads it with zeros",
            cut_mac,
        ),
        dropped(
            "ARP cut off in the sender's IP",
            "a cable pads it with zeros",
            cut_ip,
        ),
        heard("RARP as QEMU announces a guest", rarp(3, OWN_MAC, NOBODY)),
        dropped("RARP, false MAC", FALSE_SOURCE, rarp(3, OTHER_MAC, NOBODY)),
        dropped("RARP, false IP", FALSE_SOURCE, rarp(4, OWN_MAC, OTHER)),
    ]
}

fn ipv4_rows() -> Vec<Row> {
    let more = 0x2000;
    let nop = [1; 4];
    let from = |src, fragment| v4(&ipv4_with(src, GATEWAY, UDP, fragment, &[], &udp(9, 9)));
    let to_all = |protocol, fragment, options: &[u8], payload: &[u8]| {
        v4(&ipv4_with(
            NOBODY, BROADCAST, protocol, fragment, options, payload,
        ))
    };
    let discover = to_all(UDP, 0, &[], &udp(68, 67));
    let mut version_6 = ipv4(OWN, GATEWAY, UDP, &udp(9, 9));
    version_6[0] = 0x65;
    vec![
        heard("IPv4", from(OWN, 0)),
        heard("IPv4 of an alias", from(ALIAS, 0)),
        heard(
            "IPv4 with options",
            v4(&ipv4_with(OWN, GATEWAY, UDP, 0, &nop, &udp(9, 9))),
        )
        .but_ebtables(OPTIONS_BEFORE)
        .but_no_role("no rule can find its ports"),
        heard(
            "IPv4 TCP with options",
            v4(&ipv4_with(OWN, GATEWAY, TCP, 0, &nop, &udp(9, 9))),
        ),
        heard("IPv4 to all", v4(&ipv4(OWN, BROADCAST, UDP, &udp(9, 9)))),
        heard("IPv4, first fragment", from(OWN, more)),
        heard("IPv4, later fragment", from(OWN, more | 3)),
        heard(
            "IPv4, last fragment of one byte",
            v4(&ipv4_with(OWN, GATEWAY, UDP, 3, &[], &[7])),
        ),
        dropped("IPv4, false source", FALSE_SOURCE, from(OTHER, 0)),
        dropped(
            "IPv4, false source, first fragment",
            FALSE_SOURCE,
            from(OTHER, more),
        ),
        dropped(
            "IPv4, false source, later fragment",
            FALSE_SOURCE,
            from(OTHER, more | 3),
        ),
        dropped(
            "IPv4, source 127.0.0.1",
            FALSE_SOURCE,
            from(Ipv4Addr::LOCALHOST, 0),
        ),
        dropped("IPv4 cut off", "it is no packet", cut(&from(OWN, 0), 15)),
        dropped("IPv4 that says it is IPv6", UNREADABLE, v4(&version_6)).but_ebtables(VERSION),
        heard("DHCP discover", discover.clone()),
        heard("DHCP renewal", v4(&ipv4(OWN, GATEWAY, UDP, &udp(68, 67)))),
        dropped(
            "DHCP without a source to one",
            NO_DHCP,
            v4(&ipv4(NOBODY, GATEWAY, UDP, &udp(68, 67))),
        ),
        dropped(
            "no source, other ports",
            NO_DHCP,
            to_all(UDP, 0, &[], &udp(68, 9)),
        ),
        dropped("no source, TCP", NO_DHCP, to_all(TCP, 0, &[], &udp(68, 67))),
        dropped(
            "no source, first fragment",
            NO_DHCP,
            to_all(UDP, more, &[], &udp(68, 67)),
        )
        .but_ebtables(MORE),
        dropped(
            "no source, later fragment",
            NO_DHCP,
            to_all(UDP, more | 1, &[], &udp(68, 67)),
        ),
        dropped(
            "DHCP discover with IP options",
            "no client sends IP options",
            to_all(UDP, 0, &nop, &udp(68, 67)),
        )
        .but_ebtables(OPTIONS_BEFORE)
        .but_no_role("no rule can find its ports"),
        dropped(
            "no source, ports of DHCP in the IP options",
            "no client sends IP options",
            to_all(UDP, 0, &[0, 68, 0, 67], &udp(9, 9)),
        )
        .but_ebtables(OPTIONS_BEFORE)
        .but_no_role("no rule can find its ports"),
        dropped(
            "DHCP behind a tag with VLAN ID 0",
            TAG,
            tagged(VLAN, 0, &discover),
        )
        .but_ebtables(NO_VLAN),
    ]
}

fn ipv6_rows() -> Vec<Row> {
    let from = |src| to_all(src, UDP, &udp(9, 9));
    let split = |src, place| to_all(src, FRAGMENT, &fragment(UDP, place, &udp(9, 9)));
    let mut version_4 = ipv6(OWN_V6, ALL_NODES, UDP, &udp(9, 9));
    version_4[0] = 0x45;
    vec![
        heard("IPv6", from(OWN_V6)),
        heard("IPv6, own link-local source", from(OWN_LL)),
        heard("IPv6, first fragment", split(OWN_V6, 1)),
        heard("IPv6, later fragment", split(OWN_V6, 24)),
        heard(
            "IPv6 behind options",
            to_all(OWN_V6, OPTIONS, &options(UDP, &udp(9, 9))),
        ),
        dropped("IPv6, false source", FALSE_SOURCE, from(OTHER_V6)),
        dropped(
            "IPv6, false link-local source",
            FALSE_SOURCE,
            from(OTHER_LL),
        ),
        dropped(
            "IPv6, the router's link-local source",
            FALSE_SOURCE,
            from(ROUTER_LL),
        ),
        dropped(
            "IPv6, false source, first fragment",
            FALSE_SOURCE,
            split(OTHER_V6, 1),
        ),
        dropped(
            "IPv6, false source, later fragment",
            FALSE_SOURCE,
            split(OTHER_V6, 24),
        ),
        dropped("IPv6 cut off", "it is no packet", cut(&from(OWN_V6), 19)).but_ebtables(CUT),
        dropped("IPv6 that says it is IPv4", UNREADABLE, v6(&version_4)).but_ebtables(VERSION),
    ]
}

/// Asks whether anybody has this address: a neighbour solicitation from the unspecified address to
/// the address's own group.
fn probe(target: Ipv6Addr) -> Vec<u8> {
    probe_to(target, target)
}

/// Like [`probe`], but sent to the group of another address.
fn probe_to(receiver: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b] = receiver.segments();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a & 0xff, b);
    v6(&ipv6(NOBODY_V6, group, ICMPV6, &icmpv6(135, target)))
}

fn unspecified_ipv6_rows() -> Vec<Row> {
    let nobody = |next, payload: &[u8]| to_all(NOBODY_V6, next, payload);
    let mld2 = [
        &[143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0],
        &ALL_NODES.octets()[..],
    ]
    .concat();
    let mld1 = icmpv6(131, ALL_NODES);
    let router_solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
    let long = [&[ICMPV6, 1][..], &[1, 12], &[0; 12], &mld2].concat();
    let padding_like_mld = [&[UDP, 1, 1, 12, 0, 0, 0, 0, 143][..], &[0; 7], &udp(9, 9)].concat();
    let own_probe = icmpv6(135, OWN_V6);
    vec![
        heard("IPv6 probe of an own address", probe(OWN_V6)),
        heard("IPv6 probe of the link-local address", probe(OWN_LL)),
        heard(
            "MLDv2 report without a source",
            nobody(HOP_BY_HOP, &options(ICMPV6, &mld2)),
        ),
        heard(
            "MLDv1 report without a source",
            nobody(HOP_BY_HOP, &options(ICMPV6, &mld1)),
        ),
        heard(
            "MLDv2 report",
            to_all(OWN_LL, HOP_BY_HOP, &options(ICMPV6, &mld2)),
        ),
        heard(
            "router solicitation without a source",
            nobody(ICMPV6, &router_solicitation),
        ),
        heard(
            "router solicitation",
            to_all(OWN_LL, ICMPV6, &router_solicitation),
        ),
        dropped(
            "IPv6 probe of another's address",
            FALSE_TARGET,
            probe(OTHER_V6),
        ),
        dropped(
            "IPv6 probe of another's address, to an own group",
            FALSE_TARGET,
            probe_to(OWN_V6, OTHER_V6),
        )
        .but_ebtables(TARGET),
        dropped(
            "IPv6 probe of the router's address",
            FALSE_TARGET,
            probe(ROUTER_LL),
        ),
        dropped(
            "IPv6 echo without a source",
            NO_PROBE,
            nobody(ICMPV6, &icmpv6(128, OWN_V6)),
        ),
        dropped(
            "advertisement without a source",
            NO_PROBE,
            nobody(ICMPV6, &icmpv6(136, OWN_V6)),
        ),
        dropped(
            "UDP without a source",
            NO_PROBE,
            nobody(UDP, &udp(546, 547)),
        ),
        dropped(
            "UDP behind options, no source",
            NO_PROBE,
            nobody(HOP_BY_HOP, &options(UDP, &udp(9, 9))),
        ),
        dropped(
            "IPv6 probe behind options",
            NO_PROBE,
            nobody(HOP_BY_HOP, &options(ICMPV6, &own_probe)),
        ),
        dropped(
            "MLD report behind long options",
            NO_PROBE,
            nobody(HOP_BY_HOP, &long),
        )
        .but_ebtables(HEADERS_BEFORE),
        dropped(
            "UDP behind options that look like MLD",
            NO_PROBE,
            nobody(HOP_BY_HOP, &padding_like_mld),
        ),
        dropped(
            "IPv6 probe in a fragment",
            NO_PROBE,
            nobody(FRAGMENT, &fragment(ICMPV6, 1, &own_probe)),
        ),
        dropped(
            "IPv6 probe behind destination options",
            NO_PROBE,
            nobody(OPTIONS, &options(ICMPV6, &own_probe)),
        ),
    ]
}

fn neighbour_rows() -> Vec<Row> {
    let own = |next, payload: &[u8]| to_all(OWN_V6, next, payload);
    let good = icmpv6(136, OWN_V6);
    let bad = icmpv6(136, OTHER_V6);
    let start = &bad[..8];
    let routing = [&[ICMPV6, 0, 3, 0, 0, 0, 0, 0][..], &bad].concat();
    let advert = own(ICMPV6, &bad);
    vec![
        heard(
            "neighbour solicitation",
            own(ICMPV6, &icmpv6(135, OTHER_V6)),
        ),
        heard("advertisement", own(ICMPV6, &good)),
        heard(
            "advertisement of the link-local address",
            own(ICMPV6, &icmpv6(136, OWN_LL)),
        ),
        heard(
            "advertisement behind options",
            own(HOP_BY_HOP, &options(ICMPV6, &good)),
        ),
        heard(
            "advertisement behind destination options",
            own(OPTIONS, &options(ICMPV6, &good)),
        ),
        dropped("advertisement, false target", FALSE_TARGET, advert.clone()).but_ebtables(TARGET),
        dropped(
            "advertisement of the router",
            FALSE_TARGET,
            own(ICMPV6, &icmpv6(136, ROUTER_LL)),
        )
        .but_ebtables(TARGET),
        dropped(
            "false advertisement behind options",
            FALSE_TARGET,
            own(HOP_BY_HOP, &options(ICMPV6, &bad)),
        )
        .but_ebtables(TARGET),
        dropped(
            "false advertisement behind dest. options",
            FALSE_TARGET,
            own(OPTIONS, &options(ICMPV6, &bad)),
        )
        .but_ebtables(TARGET),
        dropped(
            "false advertisement behind a routing header",
            FALSE_TARGET,
            own(ROUTING, &routing),
        )
        .but_ebtables(TARGET),
        dropped(
            "false advertisement, whole fragment",
            FALSE_TARGET,
            own(FRAGMENT, &fragment(ICMPV6, 0, &bad)),
        )
        .but_ebtables(TARGET),
        dropped(
            "false advertisement, first fragment",
            HIDDEN_TARGET,
            own(FRAGMENT, &fragment(ICMPV6, 1, start)),
        )
        .but_ebtables(TARGET),
        dropped(
            "fragment of options before an advertisement",
            HIDDEN_HEADER,
            own(FRAGMENT, &fragment(OPTIONS, 1, &options(ICMPV6, &[]))),
        )
        .but_no_role(HIDDEN_HEADER)
        .but_ebtables(TARGET),
        dropped(
            "fragment of hop-by-hop options before an advertisement",
            HIDDEN_HEADER,
            own(FRAGMENT, &fragment(HOP_BY_HOP, 1, &options(ICMPV6, &[]))),
        )
        .but_no_role(HIDDEN_HEADER)
        .but_ebtables(TARGET),
        dropped(
            "options, then a fragment of a routing header",
            HIDDEN_HEADER,
            own(
                OPTIONS,
                &options(
                    FRAGMENT,
                    &fragment(ROUTING, 1, &[ICMPV6, 0, 3, 0, 0, 0, 0, 0]),
                ),
            ),
        )
        .but_no_role(HIDDEN_HEADER)
        .but_ebtables(TARGET),
        dropped(
            "fragment of a fragment",
            HIDDEN_HEADER,
            own(FRAGMENT, &fragment(FRAGMENT, 1, &fragment(ICMPV6, 0, &[]))),
        )
        .but_no_role(HIDDEN_HEADER)
        .but_ebtables(TARGET),
        dropped(
            "false advertisement behind a tag with VLAN ID 0",
            TAG,
            tagged(VLAN, 0, &advert),
        )
        .but_ebtables(NO_VLAN),
    ]
}

fn role_rows() -> Vec<Row> {
    let own = |next, payload: &[u8]| to_all(OWN_LL, next, payload);
    let v4_from = |from, to| v4(&ipv4(OWN, BROADCAST, UDP, &udp(from, to)));
    let split = |fragment| v4(&ipv4_with(OWN, BROADCAST, UDP, fragment, &[], &udp(67, 68)));
    let nop = v4(&ipv4_with(OWN, BROADCAST, UDP, 0, &[1; 4], &udp(67, 68)));
    let mut too_long = nop.clone();
    too_long[16] = 7;
    let advert = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let ra = own(ICMPV6, &advert);
    let from_router = to_all(ROUTER_LL, ICMPV6, &advert);
    let chain = fragment(OPTIONS, 1, &options(ICMPV6, &[]));
    vec![
        heard("DHCP offer", v4_from(67, 68)).but_no_role(DHCP),
        heard("DHCP offer from another port", v4_from(9, 68)).but_no_role(DHCP),
        heard("a DHCP relay's packet", v4_from(67, 67)).but_no_role(DHCP),
        heard("DHCP offer, first fragment", split(0x2000)).but_no_role(DHCP),
        heard("bytes like a DHCP offer in a later fragment", split(0x2001)),
        heard("DHCP offer behind options", nop).but_no_role(DHCP),
        heard("DHCP offer behind options, false length", too_long).but_no_role(DHCP),
        heard("DHCPv6 solicit", own(UDP, &udp(546, 547))),
        heard("DHCPv6 advertise", own(UDP, &udp(547, 546))).but_no_role(DHCP),
        heard("DHCPv6 advertise from another port", own(UDP, &udp(9, 546))).but_no_role(DHCP),
        heard("a DHCPv6 relay's packet", own(UDP, &udp(547, 547))).but_no_role(DHCP),
        heard(
            "DHCPv6 advertise behind options",
            own(OPTIONS, &options(UDP, &udp(547, 546))),
        )
        .but_no_role(DHCP),
        heard(
            "DHCPv6 advertise, first fragment",
            own(FRAGMENT, &fragment(UDP, 1, &udp(547, 546))),
        )
        .but_no_role(DHCP),
        heard("router advertisement", ra.clone()).but_no_role(ROUTER),
        dropped(
            "router advertisement, false source",
            FALSE_SOURCE,
            from_router,
        )
        .but_no_role(ROUTER),
        heard("redirect", own(ICMPV6, &icmpv6(137, OTHER_V6))).but_no_role(ROUTER),
        heard(
            "router advertisement behind options",
            own(HOP_BY_HOP, &options(ICMPV6, &advert)),
        )
        .but_no_role(ROUTER),
        heard(
            "router advertisement, first fragment",
            own(FRAGMENT, &fragment(ICMPV6, 1, &advert)),
        )
        .but_no_role(ROUTER),
        dropped(
            "router advertisement behind a fragmented chain",
            HIDDEN_HEADER,
            own(FRAGMENT, &chain),
        )
        .but_no_role(HIDDEN_HEADER)
        .but_ebtables(TARGET),
        dropped("router advertisement, VLAN ID 0", TAG, tagged(VLAN, 0, &ra)).but_no_role(ROUTER),
        dropped("router advertisement, VLAN 5", TAG, tagged(VLAN, 5, &ra))
            .but_no_role(ROUTER)
            .but_ebtables(VLAN_5),
        dropped(
            "router advertisement, two tags",
            TAG,
            tagged(VLAN, 0, &tagged(VLAN, 0, &ra)),
        )
        .but_no_role(TWO_TAGS),
        dropped(
            "router advertisement, 802.1ad tag inside",
            TAG,
            tagged(VLAN, 0, &tagged(PROVIDER_VLAN, 0, &ra)),
        )
        .but_no_role(TWO_TAGS),
        dropped(
            "DHCP offer, VLAN ID 0",
            TAG,
            tagged(VLAN, 0, &v4_from(67, 68)),
        )
        .but_no_role(DHCP),
    ]
}

fn other_rows() -> Vec<Row> {
    let mut own_arp = arp(1, OWN_MAC, OWN, GATEWAY);
    own_arp.resize(60, 0);
    let false_arp = arp(2, OWN_MAC, OTHER, GATEWAY);
    let own_ip = v4(&ipv4(OWN, GATEWAY, UDP, &udp(9, 9)));
    let false_ip = v4(&ipv4(OTHER, GATEWAY, UDP, &udp(9, 9)));
    let of_type = |kind| ether(OWN_MAC, ROUTER_MAC, kind, &[7; 46]);
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 6], &own_arp[14..]].concat();
    let llc = ether(
        OWN_MAC,
        ROUTER_MAC,
        39,
        &[&[0x42, 0x42, 3][..], &[0; 43]].concat(),
    );
    vec![
        dropped("ARP, VLAN ID 0", TAG, tagged(VLAN, 0, &own_arp)).but_ebtables(NO_VLAN),
        dropped("false ARP, VLAN ID 0", TAG, tagged(VLAN, 0, &false_arp)).but_ebtables(NO_VLAN),
        dropped("IPv4, VLAN ID 0", TAG, tagged(VLAN, 0, &own_ip)).but_ebtables(NO_VLAN),
        dropped("false IPv4, VLAN ID 0", TAG, tagged(VLAN, 0, &false_ip)).but_ebtables(NO_VLAN),
        dropped("IPv4, VLAN 5", TAG, tagged(VLAN, 5, &own_ip)),
        dropped(
            "false ARP, 802.1ad tag",
            TAG,
            tagged(PROVIDER_VLAN, 0, &false_arp),
        )
        .but_ebtables(NO_VLAN),
        dropped(
            "false ARP, two tags",
            TAG,
            tagged(PROVIDER_VLAN, 0, &tagged(VLAN, 0, &false_arp)),
        )
        .but_no_role(TWO_TAGS),
        dropped("LLC of a spanning tree", UNREADABLE, llc),
        dropped(
            "ARP in SNAP",
            UNREADABLE,
            ether(OWN_MAC, ALL, snap.len() as u16, &snap),
        ),
        dropped("LLDP to one address", UNREADABLE, of_type(0x88cc)),
        dropped("IPX", UNREADABLE, of_type(0x8137)),
        dropped("PPPoE discovery", UNREADABLE, of_type(0x8863)),
        dropped("EAPOL", UNREADABLE, of_type(0x888e)),
        dropped("an old switch's tag", UNREADABLE, of_type(0x9100)),
        dropped(
            "no payload",
            "it is no packet",
            ether(OWN_MAC, ROUTER_MAC, IPV4, &[]),
        ),
    ]
}

/// Builds a frame under another VM's MAC address.
pub fn false_sender() -> Vec<u8> {
    ether(OTHER_MAC, ALL, 0x88b5, &[7; 46])
}
