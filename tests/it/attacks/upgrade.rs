//! Hosts come from version 0.1, whose rules are in `forward` alone: whatever command comes first
//! completes the fences of all VMs at once, and at no moment is one open.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use macfence::mac::MacAddr;

use super::{
    BROADCAST, BYSTANDER, Firewall, INSIDER, OUTSIDER, PARTIES, Party, ROUTER, Scene, Settings,
    VICTIM, mac, port, table_of_0_1, xml,
};
use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Ran, fake_virsh, macfence_with, until};

const SPOOFED: u32 = 1;
const HONEST: u32 = 2;

/// This VM hears all networks.
const HEARS_ALL: Party = BYSTANDER;

/// A host as version 0.1 has left it.
fn old_host(trusted: Option<MacAddr>) -> Scene {
    let scene = Scene::new(Firewall::Nft, Settings::default());
    let table = table_of_0_1(trusted, Some(HEARS_ALL));
    let mut nft = Command::new("nft");
    scene.host.exec(nft.args(["-f", "-"]), &table).ok();
    scene.introduce();
    scene
}

/// Whether one may hear another's broadcasts, where nobody is trusted.
fn may_hear(listener: Party, sender: Party) -> bool {
    let router = listener != ROUTER && sender == ROUTER;
    listener == HEARS_ALL || !router && super::may_hear(listener, sender)
}

/// Sets this when it goes, even if that is because of a panic.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Lets everybody send what must not be heard, while something is done and a while before and after.
fn under_attack<R>(scene: &Scene, work: impl FnOnce() -> R) -> R {
    let (done, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let attack = || {
        while !done.load(Relaxed) {
            (VICTIM..=ROUTER).for_each(|sender| attack_all(scene, sender));
            rounds.fetch_add(1, Relaxed);
        }
    };
    thread::scope(|scope| {
        let attack = scope.spawn(attack);
        let finally = Finally(&done);
        let some_more = || {
            let before = rounds.load(Relaxed);
            let is_over = || attack.is_finished() || rounds.load(Relaxed) > before + 20;
            until("the attack goes on", is_over);
        };
        some_more();
        let result = work();
        some_more();
        drop(finally);
        attack
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result
    })
}

/// Lets one send what must not be heard, and what must be heard by some.
fn attack_all(scene: &Scene, sender: Party) {
    if sender != ROUTER {
        let spoofed = frame(Kind::Arp, mac(ROUTER), BROADCAST, SPOOFED);
        scene.taps[sender].send(&spoofed);
    }
    scene.taps[sender].send(&frame(Kind::Arp, mac(sender), BROADCAST, HONEST));
    for listener in VICTIM..=ROUTER {
        // The host itself may say something as well.
        for id in scene.taps[listener]
            .heard()
            .iter()
            .filter_map(|f| number(f))
        {
            let is_right = id == HONEST && may_hear(listener, sender);
            assert!(is_right, "{} hears {}: {id}", port(listener), port(sender));
        }
    }
}

/// How many frames a VM's rule against spoofing has counted.
fn spoofed(scene: &Scene, party: Party) -> u64 {
    let chain = format!("vm-{}", PARTIES[party].0.unwrap());
    let chain = scene
        .host
        .ok("nft", &["list", "chain", "bridge", "macfence", &chain]);
    let own = format!("!= {} counter packets ", mac(party));
    let rest = chain.split_once(&own).expect(&chain).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Whether a VM can move anything in the bridge's table.
fn can_move(scene: &Scene, by: Party) -> bool {
    scene.introduce();
    let before = scene.learned();
    // The second one passes by every hook, if the bridge is not told otherwise.
    for dst in [BROADCAST, MacAddr::new([1, 0x80, 0xc2, 0, 0, 0xe])] {
        scene.taps[by].send(&frame(Kind::Arp, mac(ROUTER), dst, SPOOFED));
    }
    scene.forget();
    scene.learned() != before
}

/// Stand-ins for virsh that know all VMs.
fn virsh() -> tempfile::TempDir {
    let xmls: Vec<_> = (VICTIM..ROUTER)
        .map(|party| (PARTIES[party].0.unwrap(), xml(party)))
        .collect();
    let domains: Vec<_> = xmls.iter().map(|(name, xml)| (*name, &**xml)).collect();
    fake_virsh(&domains)
}

/// Brings a host from version 0.1 to now by this command, given virsh.
fn upgrade(command: impl FnOnce(&Scene, Command) -> Ran) {
    let scene = old_host(None);
    let virsh = virsh();
    for party in VICTIM..ROUTER {
        assert!(can_move(&scene, party), "the attack works");
    }
    let (counted, generation) = under_attack(&scene, || {
        let before: Vec<_> = (VICTIM..ROUTER)
            .map(|party| spoofed(&scene, party))
            .collect();
        let generation = scene.host.generation();
        command(&scene, macfence_with(&virsh)).ok();
        (before, generation)
    });
    // A frame that is on its way when a transaction is committed has passed `prerouting` by the old
    // rules and will pass `forward` by the new ones: what moves a rule from there to here without a
    // gap is to add it here first.
    let transactions = scene.host.generation() - generation;
    assert!(
        (1..=2).contains(&transactions),
        "{transactions} transactions"
    );
    for (party, before) in counted.into_iter().enumerate() {
        assert!(!can_move(&scene, party), "{}", port(party));
        let now = spoofed(&scene, party);
        assert!(before > 0 && now >= before, "{before}, then {now}");
    }
    scene.host.exec(macfence_with(&virsh).arg("check"), "").ok();
    let generation = scene.host.generation();
    scene.host.exec(macfence_with(&virsh).arg("sync"), "").ok();
    assert_eq!(scene.host.generation(), generation);
}

#[test]
fn the_first_apply_completes_all_fences_of_version_0_1_at_once() {
    upgrade(|scene, mut macfence| {
        let apply = macfence.args(["apply", "--xml", "-"]);
        scene.host.exec(apply, &xml(INSIDER))
    });
}

#[test]
fn the_first_sync_completes_all_fences_of_version_0_1_at_once() {
    upgrade(|scene, mut macfence| scene.host.exec(macfence.arg("sync"), ""));
}

#[test]
fn the_first_hook_of_opennebula_completes_all_fences_of_version_0_1_at_once() {
    let nic = format!(
        "<NIC><BRIDGE>br0</BRIDGE><MAC>{}</MAC><NIC_ID>0</NIC_ID><VN_MAD>bridge</VN_MAD>\
         <TARGET>{}</TARGET><FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING></NIC>",
        mac(INSIDER),
        port(INSIDER)
    );
    let template = format!(
        "<VM><ID>3</ID><DEPLOY_ID>one-3</DEPLOY_ID><TEMPLATE>{nic}</TEMPLATE><HISTORY_RECORDS>\
         <HISTORY><VM_MAD>kvm</VM_MAD></HISTORY></HISTORY_RECORDS></VM>"
    );
    upgrade(|scene, mut macfence| {
        let post = macfence.args(["hook", "one-post", "one-3"]);
        scene.host.exec(post, &BASE64_STANDARD.encode(&template))
    });
}

#[test]
fn the_first_apply_keeps_what_routers_send_from_all_vms_that_it_is_not_for() {
    let scene = old_host(Some(mac(ROUTER)));
    let absent = MacAddr::new([2, 0, 192, 168, 0, 99]);
    let to_absent = frame(Kind::Ipv4, mac(ROUTER), absent, 7);
    let all: Vec<_> = (VICTIM..ROUTER).collect();
    assert_eq!(scene.hearers(ROUTER, &to_absent), all, "the attack works");
    scene.fence(INSIDER);
    // But for the one that hears all networks.
    assert_eq!(scene.hearers(ROUTER, &to_absent), [HEARS_ALL]);
}

#[test]
fn an_upgrade_has_the_bridge_forget_what_it_learned_behind_version_0_1s_rules() {
    let scene = old_host(None);
    let spoofed = frame(Kind::Arp, mac(ROUTER), BROADCAST, SPOOFED);
    scene.taps[OUTSIDER].send(&spoofed);
    assert_eq!(
        scene.learned()[&mac(ROUTER)],
        port(OUTSIDER),
        "the attack works"
    );
    scene.host.apply(&xml(INSIDER)).ok();
    assert_ne!(scene.learned().get(&mac(ROUTER)), Some(&port(OUTSIDER)));
}

#[test]
fn apply_and_sync_complete_the_ebtables_rules_of_version_0_1() {
    let scene = Scene::new(Firewall::Ebtables, Settings::default());
    for party in VICTIM..ROUTER {
        let [a, b, c, d, e, _] = mac(party).bytes();
        let net = format!("{}/ff:ff:ff:ff:ff:00", MacAddr::new([a, b, c, d, e, 0]));
        let port = port(party);
        let own = mac(party).to_string();
        for rule in [["-s", "!", &net, "-o", port], ["-s", "!", &own, "-i", port]] {
            let rule = [&["-A", "FORWARD"], &rule[..], &["-j", "DROP"]].concat();
            scene.host.ok("ebtables", &rule);
        }
        assert!(can_move(&scene, party), "the attack works");
    }
    let virsh = virsh();
    let macfence =
        |args: &[&str], stdin: &str| scene.host.exec(macfence_with(&virsh).args(args), stdin);
    assert_eq!(macfence(&["check"], "").status, 1, "it is not whole");
    macfence(&["apply", "--xml", "-"], &xml(INSIDER)).ok();
    assert!(!can_move(&scene, INSIDER));
    macfence(&["sync"], "").ok();
    for party in VICTIM..ROUTER {
        assert!(!can_move(&scene, party), "{}", port(party));
    }
    macfence(&["check"], "").ok();
}
