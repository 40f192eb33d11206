//! The rules of the address guard that are the same for every NIC: what they match besides
//! `iifname PORT`.
//!
//! Two traps. A match on what a packet does not have, because it is too short, a later fragment, or
//! not to be parsed, is no match: a rule that drops then does not. And a match by name on a field of
//! another layer makes nft add `ether type`, which a VLAN tag hides, unless `meta protocol` is there.
//! Where rules look at the fields of IPv4 and at the source of IPv6, they count bytes from the network
//! header, so that no option or extension header moves the fields; where they look behind extension
//! headers, the kernel finds the place.

use nftables::expr::PayloadBase::NH;
use nftables::expr::SetItem;
use nftables::expr::{Expression, Exthdr, MetaKey, NamedExpression};
use nftables::stmt::{Operator, Statement};

use super::super::matching::{and, bits, compare, field, is, is_not, meta, number, text};

type Matches = Vec<Statement<'static>>;

/// A rule.
pub type Fixed = (&'static str, fn() -> Matches);

/// Where the VM's addresses are guarded.
pub const ADDRESSES: &[Fixed] = &[
    ("neither IP nor ARP", other_protocols),
    ("too short", too_short),
    ("ARP of other kinds", odd_arp),
    ("IPv4 with another version", odd_ipv4_version),
    ("0.0.0.0 not to all", ipv4_unspecified_to_one),
    ("0.0.0.0 with options", ipv4_unspecified_with_options),
    ("0.0.0.0 without UDP", ipv4_unspecified_without_udp),
    ("0.0.0.0 in fragments", ipv4_unspecified_in_fragments),
    ("0.0.0.0 without DHCP", ipv4_unspecified_without_dhcp),
    ("IPv6 with another version", odd_ipv6_version),
    (":: without ICMPv6", ipv6_unspecified_without_icmp),
    (":: with other ICMPv6", ipv6_unspecified_with_other_icmp),
    (":: with long options", ipv6_unspecified_with_long_options),
    (
        ":: with options and no report",
        ipv6_unspecified_without_report,
    ),
    ("neighbour advertisement in fragments", advert_in_fragments),
];

/// Where anything is guarded that an IPv6 packet may carry behind extension headers.
pub const FRAGMENTS: &[Fixed] = &[("IPv6 fragment of extension headers", fragmented_headers)];

/// Where DHCP servers are not allowed.
pub const DHCP: &[Fixed] = &[
    ("DHCP from a server", dhcp_from_server),
    ("DHCP to a client", dhcp_to_client),
    ("UDP behind IPv4 options", udp_behind_options),
    ("DHCPv6 from a server", dhcpv6_from_server),
    ("DHCPv6 to a client", dhcpv6_to_client),
];

/// Where IPv6 routers are not allowed.
pub const ROUTERS: &[Fixed] = &[
    ("router advertisement", router_advert),
    ("redirect", redirect),
];

/// Where servers or routers are not allowed, and VLAN tags are.
pub const TAGS: &[Fixed] = &[
    ("two VLAN tags", two_tags),
    ("two VLAN tags of a provider", two_provider_tags),
];

/// RARP, by which QEMU tells the switches where a guest has moved.
pub const RARP: u32 = 0x8035;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;

/// `ether type != ip`, and so for the others: stops all that the other rules cannot read, and a tag
/// with VLAN ID 0, which hides the protocol from them and not from a guest. (`ether type` sees the
/// outermost tag, `meta protocol` what is behind it.)
fn other_protocols() -> Matches {
    let all = [text("ip"), text("arp"), text("ip6"), number(RARP)];
    all.map(|kind| is_not(field("ether", "type"), kind)).into()
}

/// Stops ARP in which the sender's address is cut off: a network card pads it with zeros. An IPv6
/// packet that is as short is none, padded or not. (The crate's `LT` is `>`.)
fn too_short() -> Matches {
    let length = meta(MetaKey::Length);
    vec![compare(length, Operator::LEQ, number(19))]
}

/// ARP and RARP: of what [`other_protocols`] lets pass, all but IP. Both have the same fields, which
/// nft knows of ARP alone.
pub fn arp(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let others = [text("ip"), text("ip6")];
    let mut all = others
        .map(|kind| is_not(field("ether", "type"), kind))
        .to_vec();
    all.extend(matches);
    all
}

/// Stops ARP in which the sender's addresses are where the rules do not look: other than of Ethernet
/// and IPv4, with 6 and 4 bytes.
fn odd_arp() -> Matches {
    arp([is_not(bits(NH, 0, 48), text("0x108000604"))])
}

/// A packet of EtherType IPv4 or IPv6, whatever tag is before it.
pub fn ip(version: &'static str, matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = vec![is(meta(MetaKey::Protocol), text(version))];
    all.extend(matches);
    all
}

/// Stops a packet of EtherType IPv4 that says it is IPv6: some receiver may believe the packet.
fn odd_ipv4_version() -> Matches {
    ip("ip", [is_not(field("ip", "version"), number(4))])
}

/// Likewise, the other way round.
fn odd_ipv6_version() -> Matches {
    ip("ip6", [is_not(field("ip6", "version"), number(6))])
}

/// A packet without a source. The next five let through what asks for an address, and nothing else:
/// whoever has none is nobody, and nobody can be held to account.
fn ipv4_unspecified(other: Statement<'static>) -> Matches {
    let source = is(field("ip", "saddr"), text("0.0.0.0"));
    ip("ip", [source, other])
}

/// Stops a packet from nobody to somebody.
fn ipv4_unspecified_to_one() -> Matches {
    let all = text("255.255.255.255");
    ipv4_unspecified(is_not(field("ip", "daddr"), all))
}

/// Stops ports that are where the rules do not look. No DHCP client has options in the IP header.
fn ipv4_unspecified_with_options() -> Matches {
    ipv4_unspecified(is_not(field("ip", "hdrlength"), number(5)))
}

/// Stops a packet from nobody that asks for nothing.
fn ipv4_unspecified_without_udp() -> Matches {
    ipv4_unspecified(is_not(field("ip", "protocol"), number(UDP)))
}

/// Stops ports in one fragment and the rest in others. 0x3fff: more fragments, and the offset.
fn ipv4_unspecified_in_fragments() -> Matches {
    let place = and(field("ip", "frag-off"), number(0x3fff));
    ipv4_unspecified(is_not(place, number(0)))
}

/// Stops UDP from nobody that is not from port 68 to 67.
fn ipv4_unspecified_without_dhcp() -> Matches {
    ipv4_unspecified(is_not(bits(NH, 160, 32), number(68 << 16 | 67)))
}

/// A packet without a source. The next four let through what looks whether an address is free, asks
/// for routers or joins groups (RFC 4862, 4861, 3590, 3810), and nothing else.
pub fn ipv6_unspecified(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = ip("ip6", [is(field("ip6", "saddr"), text("::"))]);
    all.extend(matches);
    all
}

/// Stops a packet from nobody to somebody: behind the header there must be ICMPv6, or hop-by-hop
/// options with MLD. So there are no fragments, either.
fn ipv6_unspecified_without_icmp() -> Matches {
    let next = [ICMPV6, 0];
    ipv6_unspecified(next.map(|next| is_not(field("ip6", "nexthdr"), number(next))))
}

/// Stops all but router and neighbour solicitations.
fn ipv6_unspecified_with_other_icmp() -> Matches {
    ipv6_unspecified([
        is(field("ip6", "nexthdr"), number(ICMPV6)),
        is_not(bits(NH, 320, 8), number(133)),
        is_not(bits(NH, 320, 8), number(135)),
    ])
}

/// Stops hop-by-hop options behind which a rule does not look: there must be 8 bytes of them, then
/// ICMPv6.
fn ipv6_unspecified_with_long_options() -> Matches {
    ipv6_unspecified([
        is(field("ip6", "nexthdr"), number(0)),
        is_not(bits(NH, 320, 16), number(ICMPV6 << 8)),
    ])
}

/// Stops all behind such options but MLD reports of both versions.
fn ipv6_unspecified_without_report() -> Matches {
    ipv6_unspecified([
        is(field("ip6", "nexthdr"), number(0)),
        is_not(bits(NH, 384, 8), number(131)),
        is_not(bits(NH, 384, 8), number(143)),
    ])
}

/// What is over IPv6 behind any extension headers, if it is in a whole packet or in a first fragment.
/// Without a match on IPv6, what nft lists would be loaded again as something else: of ICMPv6, with an
/// `ether type`; of UDP, by nft 0.9.8, as of IPv4, too.
fn over_ipv6(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = ip("ip6", [is(field("ip6", "version"), number(6))]);
    all.extend(matches);
    all
}

/// An ICMPv6 message.
pub fn icmpv6(
    kind: &'static str,
    matches: impl IntoIterator<Item = Statement<'static>>,
) -> Matches {
    let mut all = over_ipv6([is(field("icmpv6", "type"), text(kind))]);
    all.extend(matches);
    all
}

/// The header that comes first in what was fragmented. Every fragment names it.
fn fragmented_header() -> Expression<'static> {
    Expression::Named(NamedExpression::Exthdr(Exthdr {
        name: "frag".into(),
        field: Some("nexthdr".into()),
        offset: None,
    }))
}

/// Stops an advertisement whose target is in a later fragment. Nobody may fragment these (RFC 6980),
/// but not every receiver knows.
fn advert_in_fragments() -> Matches {
    icmpv6(
        "nd-neighbor-advert",
        [is(fragmented_header(), number(ICMPV6))],
    )
}

/// Stops a message behind a chain of headers that goes on in the second fragment: in neither of them
/// the kernel finds the message (RFC 7113). A chain goes on behind hop-by-hop options, routing, fragment
/// and destination options.
fn fragmented_headers() -> Matches {
    let headers = [0, 43, 44, 60].map(|header| SetItem::Element(number(header)));
    let headers = Expression::Named(NamedExpression::Set(headers.into()));
    ip("ip6", [is(fragmented_header(), headers)])
}

/// A UDP datagram over IPv4, or a fragment of one.
fn udp(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = ip("ip", [is(field("ip", "protocol"), number(UDP))]);
    all.extend(matches);
    all
}

/// What has the ports in it: a whole packet, or a fragment with offset 0.
fn first_fragment() -> Statement<'static> {
    is(and(field("ip", "frag-off"), number(0x1fff)), number(0))
}

/// Stops what a DHCP server or relay sends.
fn dhcp_from_server() -> Matches {
    udp([first_fragment(), is(bits(NH, 160, 16), number(67))])
}

/// Stops a server that sends from another port: a client does not look at it.
fn dhcp_to_client() -> Matches {
    udp([first_fragment(), is(bits(NH, 176, 16), number(68))])
}

/// Stops ports that are where the two rules above do not look. (Where the kernel would look, it would
/// not if the header's total length were wrong; clients that read raw packets do not mind.)
fn udp_behind_options() -> Matches {
    udp([is_not(field("ip", "hdrlength"), number(5))])
}

fn udp_over_ipv6(port: &'static str, value: u32) -> Matches {
    over_ipv6([is(field("udp", port), number(value))])
}

/// Stops what a DHCPv6 server or relay sends.
fn dhcpv6_from_server() -> Matches {
    udp_over_ipv6("sport", 547)
}

/// Stops a server that sends from another port.
fn dhcpv6_to_client() -> Matches {
    udp_over_ipv6("dport", 546)
}

/// Stops a VM that makes itself the router of its neighbours.
fn router_advert() -> Matches {
    icmpv6("nd-router-advert", [])
}

/// Stops a VM that, as the router, sends its neighbours' traffic elsewhere.
fn redirect() -> Matches {
    icmpv6("nd-redirect", [])
}

/// Stops a frame with two tags, both of VLAN ID 0: a guest takes it for one without tags, and no rule
/// sees what is in it. (The kernel has put the first tag aside.)
fn two_tags() -> Matches {
    vec![is(meta(MetaKey::Protocol), number(0x8100))]
}

/// Likewise, with a tag of IEEE 802.1ad.
fn two_provider_tags() -> Matches {
    vec![is(meta(MetaKey::Protocol), number(0x88a8))]
}
