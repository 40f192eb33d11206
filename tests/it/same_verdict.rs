//! Three firewalls come to the same verdict: the seed's rules written by hand, our ebtables
//! backend, and nft.

use std::collections::BTreeSet;

use macfence::mac::{MacAddr, MacPrefix, PrefixLen};

use crate::dice::Dice;
use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Tap, domain, need};

/// Number of sets that all three can express, and of sets with trusted senders, which the seed does
/// not have.
const SETS: [u64; 2] = [50, 20];
const FRAMES: u32 = 500;

impl Dice {
    /// Returns an address in one of a few networks. Prefixes of any length tell some of them apart.
    fn mac(&mut self) -> MacAddr {
        let third = self.pick(&[0xc0, 0xc0, 0x0a]);
        let fourth = self.pick(&[0xa8, 0xa8, 0xa9]);
        let fifth = self.pick(&[0, 1, 2]);
        MacAddr::new([2, 0, third, fourth, fifth, self.below(6) as u8])
    }
}

/// A random set of VMs on one bridge, and the settings.
struct Set {
    /// The ports of each VM, with their addresses.
    vms: Vec<Vec<(String, MacAddr)>>,
    len: PrefixLen,
    trusted: Vec<MacPrefix>,
}

impl Set {
    fn roll(dice: &mut Dice, trusts: usize) -> Self {
        let mut vms = Vec::new();
        for vm in 0..2 + dice.below(4) {
            let nic = |n| (format!("one-{vm}-{n}"), dice.mac());
            vms.push((0..1 + vm % 2).map(nic).collect());
        }
        let len = dice.pick(&[40, 40, 40, 32, 48, 36, 24]).try_into().unwrap();
        let mut trusted = || {
            let len = dice.pick(&[48, 48, 40, 33]).try_into().unwrap();
            MacPrefix::of(dice.mac(), len)
        };
        Self {
            trusted: (0..trusts).map(|_| trusted()).collect(),
            vms,
            len,
        }
    }

    fn nics(&self) -> impl Iterator<Item = &(String, MacAddr)> {
        self.vms.iter().flatten()
    }

    /// Fences every VM through macfence.
    fn apply(&self, host: &Host, backend: &str) {
        let mut flags = vec!["--backend".to_owned(), backend.to_owned()];
        flags.push(format!("--prefix-len={}", self.len.bits()));
        flags.extend(
            self.trusted
                .iter()
                .map(|prefix| format!("--trusted={prefix}")),
        );
        for (n, nics) in self.vms.iter().enumerate() {
            let macs: Vec<_> = nics.iter().map(|(_, mac)| mac.to_string()).collect();
            let nics: Vec<_> = nics
                .iter()
                .zip(&macs)
                .map(|((port, _), mac)| (mac.as_str(), port.as_str(), "br0"))
                .collect();
            let mut args = vec!["apply".to_owned(), "--xml".to_owned(), "-".to_owned()];
            args.extend(flags.clone());
            host.macfence_reading(&domain(&format!("one-{n}"), &nics), args)
                .ok();
        }
    }

    /// Appends the seed's rules by hand.
    fn by_hand(&self, host: &Host) {
        for (port, mac) in self.nics() {
            let own = MacPrefix::of(*mac, self.len);
            let net = format!("{}/{}", own.base(), own.mask());
            host.ok(
                "ebtables",
                &["-A", "FORWARD", "-s", "!", &net, "-o", port, "-j", "DROP"],
            );
            let mac = mac.to_string();
            host.ok(
                "ebtables",
                &["-A", "FORWARD", "-s", "!", &mac, "-i", port, "-j", "DROP"],
            );
        }
    }
}

/// Returns who hears each of the frames that this seed makes.
fn hearing(seed: u64, set: &Set, taps: &[Tap]) -> Vec<BTreeSet<usize>> {
    let mut dice = Dice(seed ^ 0x5eed);
    let macs: Vec<_> = set.nics().map(|(_, mac)| *mac).collect();
    let groups = [
        "ff:ff:ff:ff:ff:ff",
        "01:00:5e:00:00:fb",
        "33:33:00:00:00:01",
    ];
    let kinds = [Kind::Arp, Kind::Ipv4, Kind::Ipv6, Kind::Vlan, Kind::Unknown];
    let mut hearing = Vec::new();
    for id in 0..FRAMES {
        let sender = dice.below(taps.len());
        // Mostly true addresses, because spoofed ones are nearly all dropped.
        let src = match (dice.below(3), macs.get(sender)) {
            (0 | 1, Some(own)) => *own,
            (2, _) => dice.pick(&macs),
            _ => dice.mac(),
        };
        let dst = match dice.below(2) {
            0 => dice.pick(&groups).parse().unwrap(),
            _ => dice.pick(&macs),
        };
        taps[sender].send(&frame(dice.pick(&kinds), src, dst, id));
        let heard = |tap: &Tap| tap.heard().iter().any(|f| number(f) == Some(id));
        hearing.push((0..taps.len()).filter(|n| heard(&taps[*n])).collect());
    }
    hearing
}

#[test]
fn fifty_random_sets_of_vms_hear_the_same_through_the_seeds_rules_our_ebtables_and_nft() {
    need("ebtables");
    let (mut three_ways, mut two_ways, mut heard, mut dropped) = (0, 0, 0, 0);
    for seed in 1..=SETS[0] + SETS[1] {
        println!("seed {seed}");
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let trusts = if seed <= SETS[0] {
            0
        } else {
            1 + dice.below(3)
        };
        let set = Set::roll(&mut dice, trusts);
        let host = Host::new();
        host.bridge("br0");
        // The last one is an uplink.
        let ports = set.nics().map(|(port, _)| port.as_str()).chain(["eth0"]);
        let taps: Vec<_> = ports.map(|port| host.tap("br0", port)).collect();
        let clean = || drop(host.ok("nft", &["flush", "ruleset"]));

        set.apply(&host, "nft");
        let nft = hearing(seed, &set, &taps);
        clean();
        set.apply(&host, "ebtables");
        let ebtables = hearing(seed, &set, &taps);
        assert_eq!(ebtables, nft, "seed {seed}: ebtables and nft");
        clean();
        if trusts == 0 {
            set.by_hand(&host);
            assert_eq!(
                hearing(seed, &set, &taps),
                nft,
                "seed {seed}: by hand and nft"
            );
            three_ways += nft.len();
        } else {
            two_ways += nft.len();
        }
        let hearers: usize = nft.iter().map(BTreeSet::len).sum();
        heard += hearers;
        dropped += nft.len() * (taps.len() - 1) - hearers;
    }
    println!(
        "{three_ways} frames compared three ways, {two_ways} with trusted senders two ways: \
         heard {heard} times, kept away {dropped} times"
    );
    assert_eq!((three_ways, two_ways), (25_000, 10_000));
    assert!(heard > 10_000 && dropped > 10_000);
}
