//! Attacks that macfence does not stop, as `docs/threat-model.md` says, and how far they reach.

use super::{
    BRIDGE, BROADCAST, BYSTANDER, Firewall, INSIDER, NEIGHBOUR, OUTSIDER, Party, ROUTER, Scene,
    Settings, VICTIM, mac,
};
use crate::lab::frame::{Kind, frame, numbered};
use macfence::mac::MacAddr;

const IPV4: [u8; 2] = [0x08, 0x00];
const UDP: u8 = 17;

/// Builds an IPv4 datagram from one UDP port to another, with its number at the end.
fn datagram(src: [u8; 4], dst: [u8; 4], ports: [u16; 2], number: u32) -> Vec<u8> {
    const LEN: u16 = 20 + 8 + 40;
    let mut packet = vec![0x45, 0];
    packet.extend(LEN.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, UDP, 0, 0]);
    packet.extend([src, dst].concat());
    let words = packet
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(ports.map(u16::to_be_bytes).concat());
    packet.extend((LEN - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.resize(usize::from(LEN) - 8, 0);
    numbered(packet, number)
}

fn ethernet(dst: MacAddr, src: Party, rest: &[&[u8]]) -> Vec<u8> {
    [&dst.bytes(), &mac(src).bytes(), rest.concat().as_slice()].concat()
}

/// Builds a router advertisement to all nodes, without options.
fn router_advertisement(src: Party, number: u32) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let all_nodes = MacAddr::new([0x33, 0x33, 0, 0, 0, 1]);
    numbered(ethernet(all_nodes, src, &[&[0x86, 0xdd], &packet]), number)
}

#[test]
fn lies_under_a_vms_own_mac_address_are_heard_in_its_network_alone() {
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let scene = Scene::fenced(firewall, Settings::default());
        let offer = datagram([192, 168, 0, 7], [255; 4], [67, 68], 2);
        for (what, claim) in [
            // The sender's IP address in it is the victim's.
            ("ARP", frame(Kind::Arp, mac(INSIDER), BROADCAST, 1)),
            (
                "a DHCP offer",
                ethernet(BROADCAST, INSIDER, &[&IPV4, &offer]),
            ),
            ("a router advertisement", router_advertisement(INSIDER, 3)),
            (
                "a tagged frame",
                frame(Kind::Vlan, mac(INSIDER), BROADCAST, 4),
            ),
        ] {
            let hearers = scene.hearers(INSIDER, &claim);
            assert_eq!(hearers, [VICTIM, NEIGHBOUR, ROUTER], "{what}");
        }
        let tagged = frame(Kind::Vlan, mac(OUTSIDER), BROADCAST, 5);
        assert_eq!(scene.hearers(OUTSIDER, &tagged), [BYSTANDER, ROUTER]);
    }
}

#[test]
fn a_host_routes_between_networks_only_if_it_forwards_ip() {
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let scene = Scene::fenced(firewall, Settings::default());
        scene.host.ip(&format!(
            "addr add 192.168.0.1/24 dev br0\naddr add 10.0.0.1/24 dev br0\n\
             neigh add 10.0.0.5 lladdr {} dev br0 nud permanent\n",
            mac(OUTSIDER)
        ));
        for (number, forwards) in [(1, false), (2, true)] {
            let setting = u8::from(forwards).to_string();
            scene
                .host
                .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", setting))
                .unwrap();
            let packet = datagram([192, 168, 0, 5], [10, 0, 0, 5], [9, 9], number);
            let to_the_host = ethernet(BRIDGE, VICTIM, &[&IPV4, &packet]);
            let hearers = scene.hearers(VICTIM, &to_the_host);
            assert_eq!(hearers.contains(&OUTSIDER), forwards, "{firewall:?}");
        }
    }
}
