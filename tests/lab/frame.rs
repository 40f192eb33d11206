//! Made-up Ethernet frames. Each ends in a number, so that a test recognises it.

use macfence::mac::MacAddr;

/// Comes before the number.
pub const MAGIC: &[u8; 4] = b"MFNC";

/// The payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ARP request.
    Arp,
    /// A UDP datagram over IPv4.
    Ipv4,
    /// A UDP datagram over IPv6.
    Ipv6,
    /// A UDP datagram over IPv4 in VLAN 7.
    Vlan,
    /// An EtherType for local experiments.
    Unknown,
    /// A DHCP discover.
    Dhcp,
    /// A frame that tells a switch which device is at the other end of its cable.
    Lldp,
    /// A frame that makes its sender the root of a spanning tree. It has a length where others have
    /// an EtherType.
    Bpdu,
}

/// Builds a frame from `src` to `dst`, padded as on a wire, with its number at the end.
pub fn frame(kind: Kind, src: MacAddr, dst: MacAddr, number: u32) -> Vec<u8> {
    let mut frame = Vec::with_capacity(80);
    frame.extend(dst.bytes());
    frame.extend(src.bytes());
    match kind {
        Kind::Arp => {
            frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(src.bytes());
            frame.extend([192, 168, 0, 5, 0, 0, 0, 0, 0, 0, 192, 168, 0, 6]);
        }
        Kind::Ipv4 => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4(4, [192, 168, 0, 5], [192, 168, 0, 6], 9, 9));
        }
        Kind::Ipv6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 17, 64]);
            frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
            frame.extend([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0, 9, 0, 9, 0, 16, 0, 0]);
        }
        Kind::Vlan => {
            frame.extend([0x81, 0x00, 0, 7, 0x08, 0x00]);
            frame.extend(ipv4(4, [192, 168, 0, 5], [192, 168, 0, 6], 9, 9));
        }
        Kind::Unknown => frame.extend([0x88, 0xb5]),
        Kind::Dhcp => {
            frame.extend([0x08, 0x00]);
            let mut message = vec![1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78];
            message.resize(28, 0);
            message.extend(src.bytes());
            message.resize(236, 0);
            message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
            frame.extend(ipv4(message.len() as u16 + 8, [0; 4], [255; 4], 68, 67));
            frame.extend(message);
        }
        Kind::Lldp => {
            frame.extend([0x88, 0xcc, 2, 7, 4]); // chassis: an address
            frame.extend(src.bytes());
            frame.extend([4, 2, 7, b'p', 6, 2, 0, 120, 0, 0]); // port, time to live, end
        }
        Kind::Bpdu => {
            frame.extend([0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 0]);
            let bridge = [&[0, 0], &src.bytes()[..]].concat(); // priority 0 wins the election
            frame.extend(&bridge);
            frame.extend([0; 4]); // cost
            frame.extend(&bridge);
            // Port; then in 1/256 s: age, greatest age, hello and forward delay.
            frame.extend([0x80, 1, 0, 0, 20, 0, 2, 0, 15, 0]);
        }
    }
    frame.resize(frame.len().max(60), 0);
    numbered(frame, number)
}

/// Appends a number to a frame.
pub fn numbered(mut frame: Vec<u8>, number: u32) -> Vec<u8> {
    frame.extend(MAGIC);
    frame.extend(number.to_be_bytes());
    frame
}

/// Returns the number of a frame, or `None` if no number was appended to it.
pub fn number(frame: &[u8]) -> Option<u32> {
    let (rest, number) = frame.split_last_chunk::<4>()?;
    rest.ends_with(MAGIC).then(|| u32::from_be_bytes(*number))
}

/// Builds the headers of a UDP datagram with `payload` bytes after the UDP header.
fn ipv4(payload: u16, src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + 8 + payload).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    let sum: u32 = packet
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(sport.to_be_bytes());
    packet.extend(dport.to_be_bytes());
    packet.extend((8 + payload).to_be_bytes());
    packet.extend([0, 0]);
    packet
}
