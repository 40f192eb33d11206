//! Attacks on the host itself: on its network stack, and on the size of its bridge's table.

use std::collections::BTreeSet;

use macfence::mac::MacAddr;

use super::{
    BRIDGE, BROADCAST, Firewall, INSIDER, OUTSIDER, Party, ROUTER, Scene, Settings, VICTIM, mac,
};
use crate::lab::frame::{Kind, frame, number};

const HOST: [u8; 4] = [192, 168, 0, 254];

/// Builds an ARP frame: a request for the host's address, or a reply that the host never asked for.
fn arp(operation: u8, src: MacAddr, dst: MacAddr, ip: [u8; 4], number: u32) -> Vec<u8> {
    let mut frame = [
        &dst.bytes()[..],
        &src.bytes(),
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation],
    ]
    .concat();
    frame.extend([&src.bytes()[..], &ip, &[0; 6], &HOST].concat());
    frame.resize(60, 0);
    frame.extend(crate::lab::frame::MAGIC);
    frame.extend(number.to_be_bytes());
    frame
}

/// Returns the host's ARP table: IP addresses and their MAC addresses.
fn neighbours(scene: &Scene) -> BTreeSet<(String, String)> {
    let json = scene.host.ok("ip", &["-j", "neigh", "show", "dev", "br0"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let entry = |entry: &serde_json::Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        (text("dst"), text("lladdr"))
    };
    json.as_array().unwrap().iter().map(entry).collect()
}

/// All parties ask the host for its address, and the attackers also do so under false addresses.
/// Returns how many honest parties the host knows, and how many false frames and entries it has.
fn ask_the_host(scene: &Scene) -> (usize, usize) {
    scene.host.ip("addr add 192.168.0.254/24 dev br0\n");
    let mut honest = BTreeSet::new();
    for party in VICTIM..=ROUTER {
        let ip = [192, 168, 0, 5 + party as u8];
        scene.taps[party].send(&arp(1, mac(party), BROADCAST, ip, 1));
        honest.insert((format!("192.168.0.{}", ip[3]), mac(party).to_string()));
    }
    let nobody = MacAddr::new([2, 0, 192, 168, 0, 99]);
    let mut last = 100;
    let mut heard = 0;
    for by in [INSIDER, OUTSIDER] {
        for src in [mac(VICTIM), mac(ROUTER), nobody] {
            for dst in [BROADCAST, BRIDGE] {
                for operation in [1, 2] {
                    last += 1;
                    let frame = arp(operation, src, dst, [192, 168, 0, last], last.into());
                    scene.forget();
                    scene.taps[by].send(&frame);
                    let is_it = |heard: &Vec<u8>| number(heard) == Some(last.into());
                    heard += scene
                        .ear
                        .heard()
                        .iter()
                        .filter(|frame| is_it(frame))
                        .count();
                    // An attacker claims the victim's IP address. The host must not believe it.
                    scene.taps[by].send(&arp(operation, nobody, dst, [192, 168, 0, 5], 2));
                }
            }
        }
    }
    let known = neighbours(scene);
    let honest = known.intersection(&honest).count();
    (honest, heard + known.len() - honest)
}

/// Sends one frame from each of `addresses` made-up addresses.
fn make_up(scene: &Scene, by: Party, addresses: u32) {
    for n in 0..addresses {
        let [_, a, b, c] = n.to_be_bytes();
        let src = MacAddr::new([2, 0, 9, a, b, c]);
        scene.taps[by].send(&arp(1, src, mac(ROUTER), [0; 4], n));
    }
}

/// Checks that false addresses reach neither the host's stack nor its bridge's table.
pub fn check(firewall: Firewall, addresses: u32) {
    let scene = Scene::fenced(firewall, Settings::default());
    assert_eq!(ask_the_host(&scene), (6, 0), "{firewall:?}");
    let before = scene.learned();
    for by in [INSIDER, OUTSIDER] {
        make_up(&scene, by, addresses / 2);
    }
    assert_eq!(scene.learned(), before);
}

/// Checks that on a VLAN device of its bridge the host hears honest frames and no false ones. Not
/// every kernel has VLAN devices.
pub fn check_vlan(firewall: Firewall) {
    let vlan = |fenced| {
        let scene = if fenced {
            Scene::fenced(firewall, Settings::default())
        } else {
            Scene::new(firewall, Settings::default())
        };
        scene
            .host
            .ip("link add link br0 name br0.7 type vlan id 7\nlink set br0.7 up\n");
        let ear = scene.host.ear("br0.7");
        let heard = |by: Party, src: MacAddr| {
            scene.taps[by].send(&frame(Kind::Vlan, src, BROADCAST, 9));
            ear.heard().iter().any(|frame| number(frame) == Some(9))
        };
        [INSIDER, OUTSIDER].map(|by| [mac(by), mac(VICTIM), mac(ROUTER)].map(|src| heard(by, src)))
    };
    assert_eq!(vlan(false), [[true; 3]; 2], "without a fence");
    assert_eq!(vlan(true), [[true, false, false]; 2], "behind a fence");
}

#[test]
fn false_addresses_do_not_reach_the_host_and_100_000_do_not_change_its_bridges_table() {
    check(Firewall::Nft, 100_000);
}

#[test]
fn with_ebtables_false_addresses_do_not_reach_the_host_either() {
    check(Firewall::Ebtables, 100_000);
}

#[test]
fn behind_version_0_1s_rules_the_host_believes_and_remembers_false_addresses() {
    let scene = Scene::fenced_by_0_1(Settings::default());
    let (honest, made_up) = ask_the_host(&scene);
    assert!(honest < 6 && made_up > 20, "{honest} {made_up}");
    let before = scene.learned().len();
    make_up(&scene, OUTSIDER, 10_000);
    assert_eq!(scene.learned().len(), before + 10_000);
}
