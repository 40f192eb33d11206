//! Upgrades from version 0.1, whose rules are all in `forward`. The first command of any kind
//! completes the fences of all VMs at once, and no VM is unfenced at any moment.

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

/// A VM that hears all networks.
const HEARS_ALL: Party = BYSTANDER;

/// Creates a host as version 0.1 left it.
fn old_host(trusted: Option<MacAddr>) -> Scene {
    let scene = Scene::new(Firewall::Nft, Settings::default());
    let table = table_of_0_1(trusted, Some(HEARS_ALL));
    let mut nft = Command::new("nft");
    scene.host.exec(nft.args(["-f", "-"]), &table).ok();
    scene.introduce();
    scene
}

/// Tells whether one party may hear another's broadcasts if nobody is trusted.
fn may_hear(listener: Party, sender: Party) -> bool {
    let router = listener != ROUTER && sender == ROUTER;
    listener == HEARS_ALL || !router && super::may_hear(listener, sender)
}

/// Sets the flag on drop, so also after a panic.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Every party sends frames that must not be heard, during the work and for a while before and
/// after it.
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

/// Sends a spoofed frame that nobody may hear, and an honest one that some may hear.
fn attack_all(scene: &Scene, sender: Party) {
    if sender != ROUTER {
        let spoofed = frame(Kind::Arp, mac(ROUTER), BROADCAST, SPOOFED);
        scene.taps[sender].send(&spoofed);
    }
    scene.taps[sender].send(&frame(Kind::Arp, mac(sender), BROADCAST, HONEST));
    for listener in VICTIM..=ROUTER {
        // The host itself may send something as well.
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

/// Returns the count of a VM's rule against spoofing.
fn spoofed(scene: &Scene, party: Party) -> u64 {
    let chain = format!("vm-{}", PARTIES[party].0.unwrap());
    let chain = scene
        .host
        .ok("nft", &["list", "chain", "bridge", "macfence", &chain]);
    let own = format!("!= {} counter packets ", mac(party));
    let rest = chain.split_once(&own).expect(&chain).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Tells whether a VM can move an entry in the bridge's table.
fn can_move(scene: &Scene, by: Party) -> bool {
    scene.introduce();
    let before = scene.learned();
    // The second destination bypasses every hook, unless the bridge has no_linklocal_learn.
    for dst in [BROADCAST, MacAddr::new([1, 0x80, 0xc2, 0, 0, 0xe])] {
        scene.taps[by].send(&frame(Kind::Arp, mac(ROUTER), dst, SPOOFED));
    }
    scene.forget();
    scene.learned() != before
}

/// Writes a stand-in for virsh that knows all VMs.
fn virsh() -> tempfile::TempDir {
    let xmls: Vec<_> = (VICTIM..ROUTER)
        .map(|party| (PARTIES[party].0.unwrap(), xml(party)))
        .collect();
    let domains: Vec<_> = xmls.iter().map(|(name, xml)| (*name, &**xml)).collect();
    fake_virsh(&domains)
}

/// Upgrades a host from version 0.1 with this command. The command gets a stand-in for virsh.
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
    // A frame may pass `prerouting` under the old rules and `forward` under the new ones, if a
    // transaction is committed in between. So moving a rule from `forward` to `prerouting` without
    // a gap takes two transactions: first add it to `prerouting`.
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
fn the_first_apply_hides_a_routers_frames_from_vms_that_they_are_not_for() {
    let scene = old_host(Some(mac(ROUTER)));
    let absent = MacAddr::new([2, 0, 192, 168, 0, 99]);
    let to_absent = frame(Kind::Ipv4, mac(ROUTER), absent, 7);
    let all: Vec<_> = (VICTIM..ROUTER).collect();
    assert_eq!(scene.hearers(ROUTER, &to_absent), all, "the attack works");
    scene.fence(INSIDER);
    // The VM that hears all networks is the exception.
    assert_eq!(scene.hearers(ROUTER, &to_absent), [HEARS_ALL]);
}

#[test]
fn an_upgrade_makes_the_bridge_forget_what_it_learned_behind_version_0_1s_rules() {
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
    assert_eq!(macfence(&["check"], "").status, 1, "it is incomplete");
    macfence(&["apply", "--xml", "-"], &xml(INSIDER)).ok();
    assert!(!can_move(&scene, INSIDER));
    macfence(&["sync"], "").ok();
    for party in VICTIM..ROUTER {
        assert!(!can_move(&scene, party), "{}", port(party));
    }
    macfence(&["check"], "").ok();
}
