//! A bridge remembers for minutes what it learned before a port was fenced. So the first fence of a
//! port makes the bridge forget that port.

use macfence::mac::MacAddr;

use super::{
    BROADCAST, BYSTANDER, Firewall, INSIDER, NEIGHBOUR, OUTSIDER, PARTIES, Party, ROUTER, Scene,
    Settings, VICTIM, mac, port, xml,
};
use crate::lab::frame::{Kind, frame};
use crate::lab::{fake_virsh, macfence_with};

const NOBODY: MacAddr = MacAddr::new([2, 0, 192, 168, 0, 99]);

/// A host without fences, whose bridge believes that the victim, the router and an unknown address
/// are at the attacker's port.
fn poisoned(firewall: Firewall, by: Party) -> Scene {
    let scene = Scene::new(firewall, Settings::default());
    scene.introduce();
    for src in [mac(VICTIM), mac(ROUTER), NOBODY] {
        scene.taps[by].send(&frame(Kind::Arp, src, BROADCAST, 1));
    }
    scene.forget();
    let to_victim = frame(Kind::Ipv4, mac(ROUTER), mac(VICTIM), 2);
    assert_eq!(scene.hearers(ROUTER, &to_victim), [by], "the attack works");
    scene.taps[by].send(&frame(Kind::Arp, mac(ROUTER), BROADCAST, 1));
    scene
}

/// Checks that no false address is left at the attacker's port, and that frames reach the victim.
fn check_forgotten(scene: &Scene, by: Party) {
    for (address, at) in scene.learned() {
        let owner = PARTIES.iter().find(|(_, _, mac)| *mac == address);
        assert!(
            owner.is_some_and(|(_, own, _)| *own == at),
            "{address} is still at {at}"
        );
    }
    let to_victim = frame(Kind::Ipv4, mac(ROUTER), mac(VICTIM), 3);
    assert_eq!(scene.hearers(ROUTER, &to_victim), [VICTIM]);
    let to_router = frame(Kind::Ipv4, mac(VICTIM), mac(ROUTER), 4);
    assert!(scene.hearers(VICTIM, &to_router).contains(&ROUTER));
    let to_victim = frame(Kind::Ipv4, mac(NEIGHBOUR), mac(VICTIM), 5);
    assert!(
        scene.hearers(NEIGHBOUR, &to_victim).contains(&VICTIM),
        "from {by}"
    );
}

/// Checks that `apply` makes the bridge forget.
pub fn check_apply(firewall: Firewall) {
    for by in [INSIDER, OUTSIDER] {
        let scene = poisoned(firewall, by);
        scene.fence_all();
        check_forgotten(&scene, by);
    }
}

/// Checks that `sync` makes the bridge forget.
fn check_sync(firewall: Firewall) {
    let xmls: Vec<_> = (VICTIM..ROUTER)
        .map(|party| (PARTIES[party].0.unwrap(), xml(party)))
        .collect();
    let domains: Vec<_> = xmls.iter().map(|(name, xml)| (*name, &**xml)).collect();
    let virsh = fake_virsh(&domains);
    let scene = poisoned(firewall, OUTSIDER);
    let mut sync = macfence_with(&virsh);
    let trusted = mac(ROUTER).to_string();
    scene
        .host
        .exec(sync.args(["sync", "--trusted", &trusted]), "")
        .ok();
    check_forgotten(&scene, OUTSIDER);
}

#[test]
fn apply_makes_the_bridge_forget_what_it_learned_before_the_fence() {
    check_apply(Firewall::Nft);
}

#[test]
fn with_ebtables_apply_makes_the_bridge_forget_too() {
    check_apply(Firewall::Ebtables);
}

#[test]
fn sync_makes_the_bridge_forget_what_it_learned_before_the_fence() {
    check_sync(Firewall::Nft);
}

#[test]
fn with_ebtables_sync_makes_the_bridge_forget_too() {
    check_sync(Firewall::Ebtables);
}

#[test]
fn fencing_a_vm_again_leaves_the_bridges_table_alone() {
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let scene = Scene::fenced(firewall, Settings::default());
        let before = scene.learned();
        assert_eq!(before.len(), PARTIES.len());
        scene.fence_all();
        assert_eq!(scene.learned(), before);
    }
}

#[test]
fn fencing_one_vm_keeps_learned_entries_of_others_and_the_operators_static_entries() {
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let scene = Scene::new(firewall, Settings::default());
        scene.introduce();
        let entry = [
            "fdb",
            "add",
            &NOBODY.to_string(),
            "dev",
            port(BYSTANDER),
            "master",
            "static",
        ];
        scene.host.ok("bridge", &entry);
        scene.fence(BYSTANDER);
        let learned = scene.learned();
        for party in [VICTIM, NEIGHBOUR, INSIDER, OUTSIDER, ROUTER] {
            assert_eq!(learned.get(&mac(party)), Some(&port(party)));
        }
        assert_eq!(learned.get(&NOBODY), Some(&port(BYSTANDER)));
    }
}
