//! Frame by frame: frames are heard where the two rules allow it, and nowhere else.

use std::collections::BTreeSet;

use macfence::mac::{MacAddr, MacPrefix, PrefixLen};

use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Tap, domain};

/// A party at a port: bridge, port, VM (`None` for an uplink) and address.
struct Party {
    bridge: &'static str,
    port: &'static str,
    vm: Option<&'static str>,
    mac: MacAddr,
}

fn party(bridge: &'static str, port: &'static str, vm: &'static str, mac: &str) -> Party {
    let vm = Some(vm).filter(|vm| !vm.is_empty());
    Party {
        bridge,
        port,
        vm,
        mac: mac.parse().unwrap(),
    }
}

/// Returns the parties: two bridges; networks 192.168.0/24, 192.168.1/24 and 10.0.0/24; a VM in two
/// of them; uplinks.
fn parties() -> Vec<Party> {
    vec![
        party("br0", "one-1-0", "one-1", "02:00:c0:a8:00:05"),
        party("br0", "one-2-0", "one-2", "02:00:c0:a8:00:06"),
        party("br0", "one-3-0", "one-3", "02:00:c0:a8:01:05"),
        party("br0", "one-4-0", "one-4", "02:00:c0:a8:01:06"),
        party("br0", "one-5-0", "one-5", "02:00:c0:a8:00:07"),
        party("br0", "one-5-1", "one-5", "02:00:0a:00:00:07"),
        party("br0", "eth0", "", "52:54:00:00:00:01"),
        party("br1", "one-6-0", "one-6", "02:00:c0:a8:00:08"),
        party("br1", "one-7-0", "one-7", "02:00:0a:00:00:05"),
        party("br1", "eth1", "", "52:54:00:00:00:02"),
    ]
}

/// Addresses that no party has: a router's, and that of a VM on another host.
const STRANGERS: [&str; 2] = ["00:16:3e:00:00:01", "02:00:c0:a8:00:63"];

const KINDS: [Kind; 5] = [Kind::Arp, Kind::Ipv4, Kind::Ipv6, Kind::Vlan, Kind::Unknown];

/// The three settings, as typed and as meant.
pub struct Knobs {
    flags: &'static [&'static str],
    bridges: &'static [&'static str],
    prefix_len: u8,
    trusted: &'static [&'static str],
}

/// The defaults, which match the seed.
pub const SEED: Knobs = Knobs {
    flags: &[],
    bridges: &["br0", "br1"],
    prefix_len: 40,
    trusted: &[],
};

/// Trusts a router and a range of other addresses.
pub const TRUSTING: Knobs = Knobs {
    flags: &[
        "--trusted",
        "00:16:3e:00:00:01",
        "--trusted",
        "52:54:0:0:0:0/24",
    ],
    trusted: &["00:16:3e:00:00:01", "52:54:00:00:00:00/24"],
    ..SEED
};

impl Knobs {
    fn is_fenced(&self, party: &Party) -> bool {
        party.vm.is_some() && self.bridges.contains(&party.bridge)
    }

    /// The rules, from the addresses alone. A fenced port sends only under the NIC's own address. A
    /// fenced port hears its own network, and trusted senders if their frame is for it or for all.
    fn hears(&self, listener: &Party, sender: &Party, src: MacAddr, dst: MacAddr) -> bool {
        let bits = |mac: MacAddr| mac.bytes().iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let same = |a, b, len: u8| bits(a) >> (48 - len) == bits(b) >> (48 - len);
        let trusts = |trusted: &&str| {
            let prefix: MacPrefix = trusted.parse().unwrap();
            same(src, prefix.base(), prefix.len().bits())
        };
        listener.bridge == sender.bridge
            && listener.port != sender.port
            && (!self.is_fenced(sender) || src == sender.mac)
            && (!self.is_fenced(listener)
                || same(src, listener.mac, self.prefix_len)
                || (self.trusted.iter().any(trusts) && (dst.is_multicast() || dst == listener.mac)))
    }
}

impl Knobs {
    /// Returns how many frames of the matrix the rules of a port drop as spoofed, and how many as
    /// foreign. A spoofed frame counts once, before it is flooded. A foreign frame counts at each
    /// port that it would have left.
    fn drops(&self, party: &Party, parties: &[Party]) -> (i64, i64) {
        let open = Self {
            bridges: &[],
            ..SEED
        };
        let (mut spoofed, mut foreign) = (0, 0);
        for (sender, src, dst, _) in matrix(parties) {
            let sender = &parties[sender];
            if self.is_fenced(sender) && src != sender.mac {
                spoofed += i64::from(sender.port == party.port);
                continue;
            }
            let would_hear = open.hears(party, sender, src, dst);
            foreign += i64::from(would_hear && !self.hears(party, sender, src, dst));
        }
        (spoofed, foreign)
    }
}

/// Every party sends under every address to every address, in every shape.
fn matrix(parties: &[Party]) -> Vec<(usize, MacAddr, MacAddr, Kind)> {
    let stranger = |text: &&str| text.parse::<MacAddr>().unwrap();
    let everybody: Vec<_> = parties
        .iter()
        .map(|p| p.mac)
        .chain(STRANGERS.iter().map(stranger))
        .collect();
    let groups = [
        "ff:ff:ff:ff:ff:ff",
        "01:00:5e:00:00:fb",
        "33:33:00:00:00:01",
    ];
    let to: Vec<_> = everybody
        .iter()
        .copied()
        .chain(groups.iter().map(stranger))
        .collect();
    let mut matrix = Vec::new();
    for sender in 0..parties.len() {
        for src in &everybody {
            for dst in &to {
                matrix.extend(KINDS.map(|kind| (sender, *src, *dst, kind)));
            }
        }
    }
    matrix
}

/// Sends every frame of the matrix on a host, before and after its VMs are fenced, and compares who
/// heard it with who should have.
pub fn check_frames(host: &Host, knobs: &Knobs) {
    let parties = parties();
    host.bridge("br0");
    host.bridge("br1");
    let taps: Vec<Tap> = parties.iter().map(|p| host.tap(p.bridge, p.port)).collect();

    // Before the fences, everybody hears every frame. So silence afterwards means that our rules
    // dropped it.
    let open = Knobs {
        bridges: &[],
        ..SEED
    };
    assert_eq!(compare(&open, &parties, &taps), matrix(&parties).len());

    let names: BTreeSet<_> = parties.iter().filter_map(|p| p.vm).collect();
    for name in names {
        let nics: Vec<_> = parties.iter().filter(|p| p.vm == Some(name)).collect();
        let macs: Vec<_> = nics.iter().map(|p| p.mac.to_string()).collect();
        let nics: Vec<_> = nics
            .iter()
            .zip(&macs)
            .map(|(p, mac)| (mac.as_str(), p.port, p.bridge))
            .collect();
        let args = ["apply", "--xml", "-"].iter().chain(knobs.flags);
        host.macfence_reading(&domain(name, &nics), args).ok();
    }
    let compared = compare(knobs, &parties, &taps);
    println!("{compared} frames compared");
}

/// Checks the frames, and the counters of what was dropped.
fn check(knobs: &Knobs) {
    let host = Host::new();
    check_frames(&host, knobs);
    let parties = parties();
    for vm in host.list().as_array().unwrap() {
        let nics = vm["nics"].as_array().unwrap();
        for nic in nics {
            let party = parties.iter().find(|p| nic["port"] == p.port).unwrap();
            let count = |kind: &str| nic["dropped"][kind].as_i64().unwrap();
            let counted = (count("spoofed"), count("foreign"));
            assert_eq!(counted, knobs.drops(party, &parties), "{}", party.port);
        }
    }
}

fn compare(knobs: &Knobs, parties: &[Party], taps: &[Tap]) -> usize {
    let matrix = matrix(parties);
    for tap in taps {
        tap.heard();
    }
    for (id, (sender, src, dst, kind)) in matrix.iter().enumerate() {
        taps[*sender].send(&frame(*kind, *src, *dst, id as u32));
        // A write to a tap returns after the frame has crossed the bridge.
        for (listener, tap) in parties.iter().zip(taps) {
            let heard: Vec<_> = tap
                .heard()
                .iter()
                .filter_map(|frame| number(frame))
                .collect();
            let expected = if knobs.hears(listener, &parties[*sender], *src, *dst) {
                vec![id as u32]
            } else {
                vec![]
            };
            let from = parties[*sender].port;
            let who = format!(
                "{kind:?} from {from} as {src} to {dst}, at {}",
                listener.port
            );
            assert_eq!(heard, expected, "{who}");
        }
    }
    matrix.len()
}

#[test]
fn frames_are_heard_where_the_seeds_two_rules_allow_it() {
    check(&SEED);
}

#[test]
fn only_the_chosen_bridges_are_fenced() {
    check(&Knobs {
        flags: &["--bridge", "br1"],
        bridges: &["br1"],
        ..SEED
    });
}

#[test]
fn a_prefix_of_32_bits_makes_one_network_of_a_slash_16() {
    check(&Knobs {
        flags: &["--prefix-len", "32"],
        prefix_len: 32,
        ..SEED
    });
}

#[test]
fn a_prefix_of_48_bits_makes_a_network_of_one_vm() {
    check(&Knobs {
        flags: &["--prefix-len=48"],
        prefix_len: PrefixLen::FULL.bits(),
        ..SEED
    });
}

#[test]
fn trusted_senders_are_heard_everywhere() {
    check(&TRUSTING);
}
