//! Multicast frames of hosts and routers: queries in every shape that a bridge reads, reports, and
//! datagrams to groups.

use macfence::mac::MacAddr;

/// An IPv4 group, and an IPv6 group for neighbour solicitations.
const GROUP: [u8; 4] = [239, 1, 2, 3];
const SOLICITED: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 6];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

const IGMP: u8 = 2;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// VLAN tags in front of a query.
const TAGS: [(&str, &[u8]); 4] = [
    ("", &[]),
    (" in a VLAN", &[0x81, 0, 0, 7]),
    (" with a priority", &[0x81, 0, 0xe0, 0]),
    (" in a provider's VLAN", &[0x88, 0xa8, 0, 7]),
];

/// A query: it asks who is a member.
#[derive(Clone, Debug)]
pub struct Query {
    pub name: String,
    /// True for a query that is about no single group. It makes the bridge believe a querier at the
    /// port.
    pub is_general: bool,
    /// True behind a tag. ebtables reads nothing behind a tag.
    pub is_tagged: bool,
    /// True for a fragment. No querier sends one, but a bridge reads it.
    pub is_fragment: bool,
    source: fn(MacAddr, &[u8], &[u8]) -> Vec<u8>,
    packet: Vec<u8>,
    tag: &'static [u8],
}

impl Query {
    /// Builds the frame, with a number at its end.
    pub fn frame(&self, src: MacAddr, number: u32) -> Vec<u8> {
        numbered((self.source)(src, self.tag, &self.packet), number)
    }
}

/// Returns every query that a bridge reads. Each allows a tenth of a second for answers, except the
/// oldest kind, which has no field for that.
pub fn queries() -> Vec<Query> {
    let v1 = igmp(&[0x11, 0, 0, 0, 0, 0, 0, 0]);
    let v2 = igmp(&[0x11, 1, 0, 0, 0, 0, 0, 0]);
    let v3 = igmp(&[0x11, 1, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]);
    let of_group = igmp(&[[0x11, 1, 0, 0], GROUP].concat());
    let alert = [0x94, 4, 0, 0];
    let all = [224, 0, 0, 1];
    let mld1 = [&[130, 0, 0, 0, 0, 100, 0, 0][..], &[0; 16]].concat();
    let mld2 = [&mld1[..], &[2, 125, 0, 0]].concat();
    let packets: [(&str, bool, Vec<u8>); 12] = [
        ("IGMPv1", false, ipv4(all, IGMP, 0, &[], &v1)),
        ("IGMPv2", false, ipv4(all, IGMP, 0, &[], &v2)),
        (
            "IGMPv2 with a router alert",
            false,
            ipv4(all, IGMP, 0, &alert, &v2),
        ),
        ("IGMPv3", false, ipv4(all, IGMP, 0, &alert, &v3)),
        (
            "IGMPv2 about a group",
            false,
            ipv4(GROUP, IGMP, 0, &alert, &of_group),
        ),
        (
            "IGMPv2 as a first fragment",
            true,
            ipv4(all, IGMP, 0x2000, &alert, &v2),
        ),
        (
            "IGMPv2 as a last fragment",
            true,
            ipv4(all, IGMP, 1, &[], &v2),
        ),
        (
            "IGMPv3 as a fragment between",
            true,
            ipv4(all, IGMP, 0x2010, &alert, &v3),
        ),
        ("MLDv1", false, ipv6(ALL_NODES, &[], &mld1)),
        ("MLDv2", false, ipv6(ALL_NODES, &[], &mld2)),
        (
            "MLDv1 behind further options",
            false,
            ipv6(ALL_NODES, &[60], &mld1),
        ),
        (
            "MLDv2 as the only fragment",
            true,
            ipv6(ALL_NODES, &[44], &mld2),
        ),
    ];
    let mut queries = Vec::new();
    for (name, is_fragment, packet) in packets {
        for (tagged, tag) in TAGS {
            queries.push(Query {
                name: format!("{name}{tagged}"),
                is_general: !name.contains("about a group"),
                is_tagged: !tag.is_empty(),
                is_fragment,
                source: ethernet,
                packet: packet.clone(),
                tag,
            });
        }
    }
    queries
}

/// Returns one query of each family that a VM answers.
pub fn plain_queries() -> Vec<Query> {
    let plain = |query: &Query| query.name == "IGMPv2" || query.name == "MLDv1";
    queries().into_iter().filter(plain).collect()
}

/// Tells whether a frame is a query.
pub fn is_query(frame: &[u8]) -> bool {
    let igmp = frame.get(12..14) == Some(&IPV4) && frame.get(23) == Some(&IGMP);
    let mld = frame.get(12..14) == Some(&IPV6) && frame.get(62) == Some(&130);
    igmp && frame[14 + 4 * usize::from(frame[14] & 15)] == 0x11 || mld
}

/// Builds reports: the sender is a member of both groups.
pub fn reports(src: MacAddr, number: u32) -> Vec<Vec<u8>> {
    let igmp = igmp(&[[0x16, 0, 0, 0], GROUP].concat());
    let mld = [&[131, 0, 0, 0, 0, 0, 0, 0][..], &SOLICITED].concat();
    let packets = [
        ipv4(GROUP, IGMP, 0, &[0x94, 4, 0, 0], &igmp),
        ipv6(SOLICITED, &[], &mld),
    ];
    let frame = |packet: &Vec<u8>| numbered(ethernet(src, &[], packet), number);
    packets.iter().map(frame).collect()
}

/// Builds a leave message: the sender is no longer a member of the first group.
pub fn leave(src: MacAddr, number: u32) -> Vec<u8> {
    let igmp = igmp(&[[0x17, 0, 0, 0], GROUP].concat());
    let packet = ipv4([224, 0, 0, 2], IGMP, 0, &[0x94, 4, 0, 0], &igmp);
    numbered(ethernet(src, &[], &packet), number)
}

/// Builds a datagram to the IPv4 group, and a neighbour solicitation to the IPv6 group.
pub fn to_groups(src: MacAddr, number: u32) -> [Vec<u8>; 2] {
    let udp = [0, 9, 0, 9, 0, 8, 0, 0];
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &LINK_LOCAL].concat();
    let packets = [
        ipv4(GROUP, UDP, 0, &[], &udp),
        plain_ipv6(SOLICITED, ICMPV6, &solicitation),
    ];
    packets.map(|packet| numbered(ethernet(src, &[], &packet), number))
}

/// Puts a packet into a frame to the MAC address of the packet's group.
fn ethernet(src: MacAddr, tag: &[u8], packet: &[u8]) -> Vec<u8> {
    let (dst, kind) = if packet[0] >> 4 == 4 {
        let group = [packet[17] & 0x7f, packet[18], packet[19]];
        ([&[1, 0, 0x5e][..], &group].concat(), IPV4)
    } else {
        ([&[0x33, 0x33][..], &packet[36..40]].concat(), IPV6)
    };
    let mut frame = [&dst[..], &src.bytes(), tag, &kind, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn numbered(mut frame: Vec<u8>, number: u32) -> Vec<u8> {
    frame.extend(crate::lab::frame::MAGIC);
    frame.extend(number.to_be_bytes());
    frame
}

fn igmp(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let sum = sum(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

fn ipv4(dst: [u8; 4], protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0xc0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([1, protocol, 0, 0, 192, 168, 0, 5]);
    packet.extend(dst);
    packet.extend(options);
    let sum = sum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// Builds an ICMPv6 message behind a hop-by-hop header with a router alert, and behind these
/// headers: destination options (60), or the header of an unfragmented fragment (44).
fn ipv6(dst: [u8; 16], headers: &[u8], message: &[u8]) -> Vec<u8> {
    let message = icmpv6(dst, message);
    let next = |n: usize| headers.get(n).copied().unwrap_or(ICMPV6);
    let mut payload = vec![next(0), 0, 5, 2, 0, 0, 1, 0];
    for (n, header) in headers.iter().enumerate() {
        let body = if *header == 60 {
            [1, 4, 0, 0, 0, 0]
        } else {
            [0; 6]
        };
        payload.extend([&[next(n + 1), 0], &body[..]].concat());
    }
    payload.extend(message);
    with_ipv6_header(dst, 0, &payload)
}

fn plain_ipv6(dst: [u8; 16], next: u8, message: &[u8]) -> Vec<u8> {
    with_ipv6_header(dst, next, &icmpv6(dst, message))
}

fn with_ipv6_header(dst: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, high, low, next, 1];
    [&header[..], &LINK_LOCAL, &dst, payload].concat()
}

fn icmpv6(dst: [u8; 16], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let pseudo = [0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6];
    let sum = sum(&[&LINK_LOCAL[..], &dst, &pseudo, &message].concat());
    message[2..4].copy_from_slice(&sum);
    message
}

/// Returns the internet checksum (RFC 1071).
fn sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes()
}
