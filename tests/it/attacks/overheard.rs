//! Only the addressed VM hears what a trusted router sends to it, even if the bridge does not know
//! the VM's port and floods the frame.

use macfence::mac::MacAddr;

use super::{
    BROADCAST, BYSTANDER, Firewall, INSIDER, NEIGHBOUR, OUTSIDER, Party, ROUTER, Scene, Settings,
    VICTIM, mac, port, xml,
};
use crate::lab::frame::{Kind, frame};

/// An address in the victim's network that is at no port of this bridge.
const ABSENT: MacAddr = MacAddr::new([2, 0, 192, 168, 0, 99]);

const KINDS: [Kind; 5] = [Kind::Arp, Kind::Ipv4, Kind::Ipv6, Kind::Vlan, Kind::Unknown];

const ALL: [Party; 5] = [VICTIM, NEIGHBOUR, INSIDER, OUTSIDER, BYSTANDER];

/// Sends a frame of each kind and returns who hears it. All kinds must give the same answer.
fn hearers(scene: &Scene, sender: Party, src: MacAddr, dst: MacAddr) -> Vec<Party> {
    let of = |kind| scene.hearers(sender, &frame(kind, src, dst, 7));
    let each = KINDS.map(of);
    assert!(
        each.iter().all(|hearers| *hearers == each[0]),
        "{each:?} hear {src} to {dst}"
    );
    each.into_iter().next().expect("hearers")
}

/// Checks that nobody hears what the router sends to others.
pub fn check(firewall: Firewall) {
    // Everybody is fenced, and the bridge has learned no address.
    let scene = Scene::new(firewall, Settings::default());
    scene.fence_all();
    let from_router = |dst| hearers(&scene, ROUTER, mac(ROUTER), dst);
    assert_eq!(from_router(ABSENT), [0; 0]);
    for party in ALL {
        assert_eq!(from_router(mac(party)), [party]);
    }
    for group in [
        [0xff; 6],
        [1, 0, 0x5e, 0, 0, 0xfb],
        [0x33, 0x33, 0, 0, 0, 1],
    ] {
        assert_eq!(from_router(MacAddr::new(group)), ALL, "{group:02x?}");
    }
    // Inside a network the bridge still floods.
    let from_insider = |dst| hearers(&scene, INSIDER, mac(INSIDER), dst);
    assert_eq!(from_insider(ABSENT), [VICTIM, NEIGHBOUR, ROUTER]);
    let from_bystander = |dst| hearers(&scene, BYSTANDER, mac(BYSTANDER), dst);
    assert_eq!(from_bystander(ABSENT), [OUTSIDER, ROUTER]);
    // A table entry that leads the victim's frames to an attacker does not let the attacker listen.
    let wrong = |dev: &str| {
        let entry = [
            "fdb",
            "replace",
            &mac(VICTIM).to_string(),
            "dev",
            dev,
            "master",
            "static",
        ];
        scene.host.ok("bridge", &entry);
    };
    for party in [OUTSIDER, INSIDER] {
        wrong(port(party));
        assert_eq!(from_router(mac(VICTIM)), [0; 0]);
    }
}

/// Checks the same for a trusted router that belongs to one of the networks.
fn check_router_inside(firewall: Firewall) {
    let router = MacAddr::new([2, 0, 192, 168, 0, 1]);
    let scene = Scene::new(firewall, Settings::default());
    let trusted = &router.to_string();
    for party in ALL {
        let args = [
            "apply",
            "--xml",
            "-",
            "--trusted",
            "52:54:0:0:0:0/24",
            "--trusted",
            trusted,
        ];
        firewall.macfence(&scene.host, &args, &xml(party)).ok();
    }
    let from_router = |dst| hearers(&scene, ROUTER, router, dst);
    assert_eq!(from_router(ABSENT), [VICTIM, NEIGHBOUR, INSIDER]);
    assert_eq!(from_router(BROADCAST), ALL);
    assert_eq!(
        from_router(mac(OUTSIDER)),
        [VICTIM, NEIGHBOUR, INSIDER, OUTSIDER]
    );
    let from_other = |dst| hearers(&scene, ROUTER, mac(ROUTER), dst);
    assert_eq!(from_other(ABSENT), [0; 0]);
    assert_eq!(from_other(mac(OUTSIDER)), [OUTSIDER]);
    assert_eq!(from_other(BROADCAST), ALL);
}

#[test]
fn no_other_vm_hears_what_a_trusted_router_sends_to_one_vm() {
    check(Firewall::Nft);
}

#[test]
fn with_ebtables_no_other_vm_hears_what_a_trusted_router_sends_to_one_vm() {
    check(Firewall::Ebtables);
}

#[test]
fn the_nft_of_debian_bullseye_and_trixie_hide_what_a_router_sends_to_one_vm_too() {
    check(Firewall::OtherNft("0.9.8"));
    check(Firewall::OtherNft("1.1.3"));
}

#[test]
fn only_its_own_network_overhears_a_trusted_router() {
    check_router_inside(Firewall::Nft);
}

#[test]
fn with_ebtables_only_its_own_network_overhears_a_trusted_router_too() {
    check_router_inside(Firewall::Ebtables);
}

#[test]
fn behind_version_0_1s_rules_all_hear_what_the_router_sends_to_an_unknown_vm() {
    let scene = Scene::fenced_by_0_1(Settings::default());
    assert_eq!(hearers(&scene, ROUTER, mac(ROUTER), ABSENT), ALL);
}
