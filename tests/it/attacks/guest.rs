//! A real guest on a real libvirt. It sends every attack from its first instruction.

use std::collections::BTreeMap;

use macfence::mac::MacAddr;

use super::bridge_table::{frames_of, is_control};
use super::queries::{is_query, plain_queries};
use super::{BRIDGE, BROADCAST, INSIDER, NEIGHBOUR, OUTSIDER, ROUTER, VICTIM, mac, port, xml};
use crate::lab::frame::{Kind, frame};
use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, Tap, guest, until};

/// A host with all parties except the insider. The guest takes the insider's place.
struct Scene<'a> {
    host: &'a Host,
    taps: BTreeMap<usize, Tap>,
}

impl<'a> Scene<'a> {
    fn of(host: &'a Host) -> Self {
        host.learning_bridge("br0", &BRIDGE.to_string());
        let parties = [VICTIM, NEIGHBOUR, OUTSIDER, ROUTER];
        let taps = parties.map(|party| (party, host.learning_tap("br0", port(party))));
        for party in [VICTIM, NEIGHBOUR, OUTSIDER] {
            host.apply(&xml(party)).ok();
        }
        let scene = Self {
            host,
            taps: taps.into(),
        };
        for (party, tap) in &scene.taps {
            tap.send(&frame(Kind::Unknown, mac(*party), BROADCAST, 0));
        }
        for tap in scene.taps.values() {
            tap.heard();
        }
        let mut frames = frames_of(INSIDER, &[Kind::Arp, Kind::Vlan, Kind::Lldp, Kind::Bpdu]);
        frames.extend(
            plain_queries()
                .iter()
                .map(|query| query.frame(mac(INSIDER), 0)),
        );
        guest::will_send(host, &frames);
        scene
    }

    /// Starts the guest.
    fn create(&self, libvirt: &Libvirt) {
        let xml = guest::domain("one-3", &mac(INSIDER).to_string(), "br0");
        libvirt.try_create(&xml).ok();
    }

    /// Returns what the others hear until they have heard many honest frames of the guest: source
    /// and destination.
    fn heard(&self) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        let mut own = 0;
        until("the guest is heard", || {
            for (party, tap) in &self.taps {
                let heard = tap.heard();
                let is_own = |frame: &&Vec<u8>| frame[6..12] == mac(INSIDER).bytes();
                own += heard.iter().filter(is_own).count();
                all.extend(heard.into_iter().map(|frame| (*party, frame)));
            }
            own > 2_000
        });
        all
    }
}

fn address(bytes: &[u8]) -> MacAddr {
    MacAddr::new(bytes.try_into().expect("six bytes"))
}

#[test]
fn attacks_of_a_guest_fail_from_its_first_instruction() {
    let host = Host::new();
    let scene = Scene::of(&host);
    let before = host.table("br0");
    let before = before.learned();
    let libvirt = Libvirt::start_fenced(&host);
    scene.create(&libvirt);
    for (party, frame) in scene.heard() {
        let (dst, src) = (address(&frame[..6]), address(&frame[6..12]));
        let is_honest = src == mac(INSIDER) && !is_control(dst) && !is_query(&frame);
        let is_from_guest = src != BRIDGE;
        assert!(
            party != OUTSIDER || !is_from_guest,
            "{src} is heard in another network"
        );
        assert!(
            is_honest || !is_from_guest,
            "{src} to {dst} is heard at {}",
            port(party)
        );
    }
    let table = host.table("br0");
    let mut after = table.learned();
    after
        .remove(&mac(INSIDER))
        .expect("the guest's own address");
    assert_eq!(after, before);
}

#[test]
fn without_the_hook_the_same_guest_moves_table_entries_and_sends_control_frames_out() {
    let host = Host::new();
    let scene = Scene::of(&host);
    let libvirt = Libvirt::start_with_hook(&host, "");
    scene.create(&libvirt);
    let heard = scene.heard();
    let left = |(party, frame): &(usize, Vec<u8>)| {
        *party == ROUTER && is_control(address(&frame[..6])) && frame[6..12] == mac(INSIDER).bytes()
    };
    assert!(heard.iter().any(left));
    let table = scene.host.table("br0");
    let learned = table.learned();
    for moved in [VICTIM, ROUTER] {
        assert_ne!(learned.get(&mac(moved)), Some(&port(moved)));
    }
}
