//! Frames built byte by byte, for tests of rules that read IP addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use macfence::mac::MacAddr;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const RARP: u16 = 0x8035;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const PROVIDER_VLAN: u16 = 0x88a8;

pub const HOP_BY_HOP: u8 = 0;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const OPTIONS: u8 = 60;

/// Builds a frame of this EtherType.
pub fn ether(src: MacAddr, dst: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.bytes()[..], &src.bytes(), &kind.to_be_bytes(), payload].concat()
}

/// Puts one more VLAN tag in front of the tags that a frame has.
pub fn tagged(kind: u16, vlan: u16, frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &kind.to_be_bytes(), &vlan.to_be_bytes(), rest].concat()
}

/// The fields of an ARP or RARP packet: its sender, and the address that it asks for or announces.
#[derive(Clone, Copy)]
pub struct Arp {
    pub operation: u8,
    pub mac: MacAddr,
    pub ip: Ipv4Addr,
    pub target: Ipv4Addr,
}

impl Arp {
    pub fn bytes(self) -> Vec<u8> {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, self.operation];
        packet.extend(self.mac.bytes());
        packet.extend(self.ip.octets());
        packet.extend([0; 6]);
        packet.extend(self.target.octets());
        packet
    }
}

/// Builds an IPv4 packet without options.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(src, dst, protocol, 0, &[], payload)
}

/// Builds an IPv4 packet with this fragment field and these options.
pub fn ipv4_with(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    let pairs = packet.chunks(2);
    let sum: u32 = pairs.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// Builds a UDP datagram without a checksum.
pub fn udp(from: u16, to: u16) -> Vec<u8> {
    let fields = [from, to, 8 + 16, 0].map(u16::to_be_bytes).concat();
    [&fields[..], &[0x55; 16]].concat()
}

/// Builds an IPv6 packet.
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// Builds 8 bytes of hop-by-hop or destination options: a router alert and padding.
pub fn options(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 5, 2, 0, 0, 1, 0], payload].concat()
}

/// Builds a fragment. `place` is the offset in bytes, plus one if more fragments follow.
pub fn fragment(next: u8, place: u16, payload: &[u8]) -> Vec<u8> {
    let [a, b] = place.to_be_bytes();
    [&[next, 0, a, b, 0, 0, 0, 9], payload].concat()
}

/// Builds an ICMPv6 message about one address: a neighbour solicitation or advertisement, or an
/// MLDv1 report.
pub fn icmpv6(kind: u8, about: Ipv6Addr) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], &about.octets()[..]].concat()
}
