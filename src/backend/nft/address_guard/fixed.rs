//! The rules of the address guard that are the same for every NIC. Each also matches `iifname PORT`.
//!
//! There are two traps. First, a rule does not match a packet that lacks the field, because the packet
//! is too short, a later fragment, or cannot be parsed. Such a packet is not dropped. Second, a match
//! by name on a field of another layer makes nft add `ether type`, which a VLAN tag hides, unless the
//! rule has `meta protocol`. For fields of IPv4 and the source of IPv6, rules count bytes from the
//! network header, so that no option or extension header moves the fields. Behind extension headers,
//! the kernel finds the place.

use nftables::expr::PayloadBase::NH;
use nftables::expr::SetItem;
use nftables::expr::{Expression, Exthdr, MetaKey, NamedExpression};
use nftables::stmt::{Operator, Statement};

use super::super::matching::{and, bits, compare, field, is, is_not, meta, number, text};

type Matches = Vec<Statement<'static>>;

/// The name of a rule, and its matches.
pub type Fixed = (&'static str, fn() -> Matches);

/// For ports whose VM's addresses are guarded.
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

/// For ports with any guard on what IPv6 packets carry behind extension headers.
pub const FRAGMENTS: &[Fixed] = &[("IPv6 fragment of extension headers", fragmented_headers)];

/// For ports where DHCP servers are not allowed.
pub const DHCP: &[Fixed] = &[
    ("DHCP from a server", dhcp_from_server),
    ("DHCP to a client", dhcp_to_client),
    ("UDP behind IPv4 options", udp_behind_options),
    ("DHCPv6 from a server", dhcpv6_from_server),
    ("DHCPv6 to a client", dhcpv6_to_client),
];

/// For ports where IPv6 routers are not allowed.
pub const ROUTERS: &[Fixed] = &[
    ("router advertisement", router_advert),
    ("redirect", redirect),
];

/// For ports where servers or routers are not allowed, but VLAN tags are.
pub const TAGS: &[Fixed] = &[
    ("two VLAN tags", two_tags),
    ("two VLAN tags of a provider", two_provider_tags),
];

/// RARP. With it, QEMU tells switches where a guest has moved.
pub const RARP: u32 = 0x8035;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;

/// `ether type != ip` and the same for ARP, IPv6 and RARP. Stops protocols that the other rules cannot
/// read, and tags with VLAN ID 0, which hide the protocol from the rules but not from a guest. (`ether
/// type` sees the outermost tag, `meta protocol` the protocol behind it.)
fn other_protocols() -> Matches {
    let all = [text("ip"), text("arp"), text("ip6"), number(RARP)];
    all.map(|kind| is_not(field("ether", "type"), kind)).into()
}

/// Stops ARP whose sender's address is cut off: a network card would pad it with zeros. An IPv6 packet
/// as short as this is invalid, padded or not. (The crate's `LT` is `>`.)
fn too_short() -> Matches {
    let length = meta(MetaKey::Length);
    vec![compare(length, Operator::LEQ, number(19))]
}

/// Matches ARP and RARP: all that [`other_protocols`] lets pass, except IP. Both have the same fields,
/// but nft has names for them only in ARP.
pub fn arp(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let others = [text("ip"), text("ip6")];
    let mut all = others
        .map(|kind| is_not(field("ether", "type"), kind))
        .to_vec();
    all.extend(matches);
    all
}

/// Stops ARP whose sender's addresses are not where the rules look: addresses other than Ethernet's and
/// IPv4's, of 6 and 4 bytes.
fn odd_arp() -> Matches {
    arp([is_not(bits(NH, 0, 48), text("0x108000604"))])
}

/// Matches a packet of EtherType IPv4 or IPv6, with or without a tag in front.
pub fn ip(version: &'static str, matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = vec![is(meta(MetaKey::Protocol), text(version))];
    all.extend(matches);
    all
}

/// Stops a packet of EtherType IPv4 whose header says IPv6: some receiver may believe the header.
fn odd_ipv4_version() -> Matches {
    ip("ip", [is_not(field("ip", "version"), number(4))])
}

/// Stops the reverse: EtherType IPv6 with an IPv4 header.
fn odd_ipv6_version() -> Matches {
    ip("ip6", [is_not(field("ip6", "version"), number(6))])
}

/// Matches a packet from 0.0.0.0. The next five rules let requests for an address pass and nothing
/// else: from this source, nobody could tell who sent a packet.
fn ipv4_unspecified(other: Statement<'static>) -> Matches {
    let source = is(field("ip", "saddr"), text("0.0.0.0"));
    ip("ip", [source, other])
}

/// Stops packets from 0.0.0.0 that are not for all hosts.
fn ipv4_unspecified_to_one() -> Matches {
    let all = text("255.255.255.255");
    ipv4_unspecified(is_not(field("ip", "daddr"), all))
}

/// Stops packets whose UDP ports are not where the rules look. No DHCP client sets options in the IP
/// header.
fn ipv4_unspecified_with_options() -> Matches {
    ipv4_unspecified(is_not(field("ip", "hdrlength"), number(5)))
}

/// Stops packets from 0.0.0.0 that cannot be DHCP.
fn ipv4_unspecified_without_udp() -> Matches {
    ipv4_unspecified(is_not(field("ip", "protocol"), number(UDP)))
}

/// Stops packets with the ports in one fragment and the rest in others. 0x3fff: the flag for more
/// fragments, and the offset.
fn ipv4_unspecified_in_fragments() -> Matches {
    let place = and(field("ip", "frag-off"), number(0x3fff));
    ipv4_unspecified(is_not(place, number(0)))
}

/// Stops UDP from 0.0.0.0 unless it goes from port 68 to 67.
fn ipv4_unspecified_without_dhcp() -> Matches {
    ipv4_unspecified(is_not(bits(NH, 160, 32), number(68 << 16 | 67)))
}

/// Matches a packet from `::`. The next four rules let three things pass and nothing else: probes whether
/// an address is free, requests for routers, and reports about groups (RFC 4862, 4861, 3590, 3810).
pub fn ipv6_unspecified(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = ip("ip6", [is(field("ip6", "saddr"), text("::"))]);
    all.extend(matches);
    all
}

/// Stops packets from `::` unless ICMPv6 or hop-by-hop options follow the header. This also stops
/// fragments.
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

/// Stops longer hop-by-hop options, which the next rule could not look behind: there must be 8 bytes of
/// them, then ICMPv6.
fn ipv6_unspecified_with_long_options() -> Matches {
    ipv6_unspecified([
        is(field("ip6", "nexthdr"), number(0)),
        is_not(bits(NH, 320, 16), number(ICMPV6 << 8)),
    ])
}

/// Stops all messages behind such options except MLD reports of both versions.
fn ipv6_unspecified_without_report() -> Matches {
    ipv6_unspecified([
        is(field("ip6", "nexthdr"), number(0)),
        is_not(bits(NH, 384, 8), number(131)),
        is_not(bits(NH, 384, 8), number(143)),
    ])
}

/// Matches the payload of IPv6 behind any extension headers, in a whole packet or a first fragment. The
/// match on IPv6 is there so that nft can load its own listing again. Without it, nft would add an
/// `ether type` for ICMPv6, and nft 0.9.8 would make UDP match IPv4 too.
fn over_ipv6(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = ip("ip6", [is(field("ip6", "version"), number(6))]);
    all.extend(matches);
    all
}

/// Matches an ICMPv6 message.
pub fn icmpv6(
    kind: &'static str,
    matches: impl IntoIterator<Item = Statement<'static>>,
) -> Matches {
    let mut all = over_ipv6([is(field("icmpv6", "type"), text(kind))]);
    all.extend(matches);
    all
}

/// The type of the first header in the fragmented part. Every fragment names it.
fn fragmented_header() -> Expression<'static> {
    Expression::Named(NamedExpression::Exthdr(Exthdr {
        name: "frag".into(),
        field: Some("nexthdr".into()),
        offset: None,
    }))
}

/// Stops an advertisement whose target is in a later fragment. RFC 6980 forbids fragments here, but not
/// every receiver refuses them.
fn advert_in_fragments() -> Matches {
    icmpv6(
        "nd-neighbor-advert",
        [is(fragmented_header(), number(ICMPV6))],
    )
}

/// Stops a message behind a chain of headers that goes on in the second fragment: the kernel finds the
/// message in neither fragment (RFC 7113). A chain goes on after hop-by-hop options, routing, fragment
/// and destination options.
fn fragmented_headers() -> Matches {
    let headers = [0, 43, 44, 60].map(|header| SetItem::Element(number(header)));
    let headers = Expression::Named(NamedExpression::Set(headers.into()));
    ip("ip6", [is(fragmented_header(), headers)])
}

/// Matches a UDP datagram over IPv4, or a fragment of one.
fn udp(matches: impl IntoIterator<Item = Statement<'static>>) -> Matches {
    let mut all = ip("ip", [is(field("ip", "protocol"), number(UDP))]);
    all.extend(matches);
    all
}

/// Matches a packet that holds the ports: a whole packet, or a fragment with offset 0.
fn first_fragment() -> Statement<'static> {
    is(and(field("ip", "frag-off"), number(0x1fff)), number(0))
}

/// Stops packets of a DHCP server or relay.
fn dhcp_from_server() -> Matches {
    udp([first_fragment(), is(bits(NH, 160, 16), number(67))])
}

/// Stops a server that sends from another port: clients do not check the source port.
fn dhcp_to_client() -> Matches {
    udp([first_fragment(), is(bits(NH, 176, 16), number(68))])
}

/// Stops UDP whose ports are not where the two rules above look. (The kernel would find the ports only
/// if the header's total length is right. Clients that read raw packets ignore that length.)
fn udp_behind_options() -> Matches {
    udp([is_not(field("ip", "hdrlength"), number(5))])
}

fn udp_over_ipv6(port: &'static str, value: u32) -> Matches {
    over_ipv6([is(field("udp", port), number(value))])
}

/// Stops packets of a DHCPv6 server or relay.
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

/// Stops a VM that poses as the router and redirects its neighbours' traffic.
fn redirect() -> Matches {
    icmpv6("nd-redirect", [])
}

/// Stops a frame with two tags of VLAN ID 0: a guest reads it as one without tags, but no rule sees its
/// contents. (The kernel has removed the first tag.)
fn two_tags() -> Matches {
    vec![is(meta(MetaKey::Protocol), number(0x8100))]
}

/// Does the same for a tag of IEEE 802.1ad.
fn two_provider_tags() -> Matches {
    vec![is(meta(MetaKey::Protocol), number(0x88a8))]
}
