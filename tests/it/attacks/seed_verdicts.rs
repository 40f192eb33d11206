//! Our additional rules change none of the seed's verdicts. For forwarded frames that are neither
//! control frames nor queries, the seed's two rules and ours agree frame by frame.

use macfence::mac::MacAddr;

use super::queries::{leave, reports, to_groups};
use super::{BROADCAST, Firewall, PARTIES, Party, ROUTER, VICTIM, mac, port, xml};
use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Tap};

const FRAMES: u32 = 50_000;

/// Creates a host whose bridge floods every frame, so silence means that a rule dropped it.
fn host(firewall: Firewall) -> (Host, Vec<Tap>) {
    let host = firewall.host();
    host.bridge("br0");
    let taps = PARTIES.map(|(_, port, _)| host.tap("br0", port));
    (host, taps.into())
}

/// Appends the seed's rules by hand.
fn fence_as_the_seed(host: &Host) {
    for party in VICTIM..ROUTER {
        let [a, b, c, d, e, _] = mac(party).bytes();
        let net = format!("{}/ff:ff:ff:ff:ff:00", MacAddr::new([a, b, c, d, e, 0]));
        let (port, own) = (port(party), mac(party).to_string());
        for rule in [["-s", "!", &net, "-o", port], ["-s", "!", &own, "-i", port]] {
            let rule = [&["-A", "FORWARD"], &rule[..], &["-j", "DROP"]].concat();
            host.ok("ebtables", &rule);
        }
    }
}

/// Random numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        among[(self.0 >> 33) as usize % among.len()].clone()
    }
}

/// Payloads that a rule may misread.
fn odd_payloads() -> Vec<Vec<u8>> {
    let udp = |frame: Vec<u8>| frame[12..].to_vec();
    let own = mac(VICTIM);
    let ipv4 = udp(frame(Kind::Ipv4, own, own, 0));
    let [group4, group6] = to_groups(own, 0).map(udp);
    let mut payloads: Vec<_> = reports(own, 0).into_iter().map(udp).collect();
    payloads.extend([udp(leave(own, 0)), group4, group6.clone()]);
    // IGMP and MLD that are no queries: reports of IGMPv1 and IGMPv3, a trace, and an MLD done.
    for kind in [0x12, 0x22, 0x1f] {
        let mut igmp = payloads[0].clone();
        igmp[2 + 24] = kind;
        payloads.push(igmp);
    }
    let mut done = payloads[1].clone();
    done[2 + 48] = 132;
    payloads.push(done);
    // Router and neighbour discovery.
    for kind in [133, 134, 136] {
        let mut nd = group6.clone();
        nd[2 + 40] = kind;
        payloads.push(nd);
    }
    // A UDP fragment whose payload begins like a query.
    let mut fragment = ipv4.clone();
    (fragment[8], fragment[9], fragment[22]) = (0, 7, 0x11);
    payloads.push(fragment);
    // Frames with the EtherType of IPv4 and a false version, a short packet or a long header.
    for first in [0x55, 0x4f, 0x41, 0x00] {
        let mut broken = ipv4.clone();
        broken[2] = first;
        payloads.push(broken);
    }
    payloads.push(ipv4[..12].to_vec());
    payloads.push(vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]);
    // IPv4 and IPv6 behind one tag, and behind two.
    for tag in [
        &[0x81, 0, 0, 0][..],
        &[0x81, 0, 0xff, 0xff],
        &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7],
    ] {
        payloads.push([tag, &ipv4].concat());
        payloads.push([tag, &group6].concat());
    }
    // A length instead of an EtherType, jumbo frames, PPPoE, MPLS, EAPOL, LACP, LLDP and loopback.
    let kinds = [
        0, 3, 0x05dc, 0x0600, 0xffff, 0x8864, 0x8847, 0x888e, 0x8809, 0x88cc, 0x9000,
    ];
    payloads.extend(kinds.map(|kind: u16| [&kind.to_be_bytes()[..], &[0x42, 0x42, 3]].concat()));
    payloads
}

/// Destinations: broadcast, unknown addresses, and groups near the control addresses.
fn destinations() -> Vec<MacAddr> {
    let groups = [
        [1, 0, 0x5e, 0, 0, 1],
        [1, 0, 0x5e, 1, 2, 3],
        [0x33, 0x33, 0, 0, 0, 1],
        [0x33, 0x33, 0xff, 0, 0, 6],
        [1, 0x80, 0xc2, 0, 0, 0x10],
        [1, 0x80, 0xc2, 0, 0, 0x21],
        [1, 0x80, 0xc2, 0, 1, 0],
        [1, 0, 0x0c, 0xcc, 0xcc, 0xcc],
        [0, 0x80, 0xc2, 0, 0, 0],
        [2, 0, 192, 168, 0, 99],
    ];
    let groups = groups.map(MacAddr::new).into_iter().chain([BROADCAST; 3]);
    PARTIES
        .iter()
        .map(|(_, _, mac)| *mac)
        .chain(groups)
        .collect()
}

/// Rolls a sender and a frame. The same dice give the same frame.
fn roll(dice: &mut Dice, payloads: &[Vec<u8>], to: &[MacAddr], id: u32) -> (Party, Vec<u8>) {
    let sender = dice.pick(&[VICTIM, 1, 2, 3, 4, ROUTER]);
    let others = [
        mac(VICTIM),
        mac(1),
        mac(3),
        MacAddr::new([2, 0, 192, 168, 0, 99]),
    ];
    let src = if dice.pick(&[true, true, false]) {
        mac(sender)
    } else {
        dice.pick(&others)
    };
    let dst = dice.pick(to);
    let kinds = [
        Kind::Arp,
        Kind::Ipv4,
        Kind::Ipv6,
        Kind::Vlan,
        Kind::Unknown,
        Kind::Dhcp,
    ];
    if dice.pick(&[true, false]) {
        return (sender, frame(dice.pick(&kinds), src, dst, id));
    }
    let mut bytes = [&dst.bytes()[..], &src.bytes(), &dice.pick(payloads)].concat();
    bytes.resize(bytes.len().max(60), 0);
    bytes.extend(crate::lab::frame::MAGIC);
    bytes.extend(id.to_be_bytes());
    (sender, bytes)
}

#[test]
fn fifty_thousand_frames_are_heard_where_the_seeds_rules_allow_it() {
    let hosts = [Firewall::Nft, Firewall::Nft, Firewall::Ebtables].map(host);
    fence_as_the_seed(&hosts[0].0);
    for (host, _) in &hosts[1..] {
        (VICTIM..ROUTER).for_each(|party| host.apply(&xml(party)).ok().clear());
    }
    let (payloads, to) = (odd_payloads(), destinations());
    let mut dice = Dice(1);
    let (mut heard, mut silent) = (0, 0);
    for id in 0..FRAMES {
        let (sender, bytes) = roll(&mut dice, &payloads, &to, id);
        let [seed, nft, ebtables] = hosts.each_ref().map(|(_, taps)| {
            taps[sender].send(&bytes);
            let is_it = |frame: &Vec<u8>| number(frame) == Some(id);
            let hears = |party: &Party| taps[*party].heard().iter().any(is_it);
            (VICTIM..=ROUTER).filter(hears).collect::<Vec<_>>()
        });
        let who = || format!("{bytes:02x?} from {}", port(sender));
        assert_eq!(nft, seed, "nft and the seed: {}", who());
        assert_eq!(ebtables, seed, "ebtables and the seed: {}", who());
        heard += seed.len();
        silent += PARTIES.len() - 1 - seed.len();
    }
    println!("heard {heard} times, not heard {silent} times");
    assert!(heard > 50_000 && silent > 50_000, "{heard} {silent}");
}
