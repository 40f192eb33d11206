//! The address guard, additional addresses and trusted ports, with either kind of ebtables.

use macfence::backend::Backend;
use macfence::backend::ebtables::Ebtables;
use macfence::compare::{State, compare};
use macfence::fence::{Fence, Guard, Hears, Keep};
use macfence::mac::MacAddr;
use serde_json::{Value, json};

use super::host;
use crate::address_guard::repair::guards;
use crate::address_guard::table::{ALL, Guarded, OTHER_MAC, OWN_MAC, Row, false_sender, rows};
use crate::address_guard::{PORT, Scene, check_table, fence, guarded};
use crate::lab::Host;
use crate::lab::packet::ether;

pub const EXTRA_MAC: MacAddr = MacAddr::new([2, 0, 0xc0, 0xa8, 0, 0x99]);
const STRANGER: MacAddr = MacAddr::new([0, 0x16, 0x3e, 0, 0, 2]);

/// Fences through the library. Returns whether anything changed.
pub fn enforce(host: &Host, fence: &Fence) -> bool {
    let fences = std::slice::from_ref(fence);
    let enforced = host.run(|| Ebtables.enforce(fences, &Keep::nothing()));
    enforced.unwrap_or_else(|e| panic!("{e:#}")).changed
}

/// Returns everything that ebtables lists.
fn listing(host: &Host) -> String {
    let list = |table| host.ok("ebtables", &["-t", table, "-L", "--Lc"]);
    ["nat", "filter"].map(list).concat()
}

/// Returns the state of the VM's fence and the differences.
pub fn state(host: &Host, fence: &Fence) -> (State, String) {
    let fences = host.run(|| Ebtables.query().unwrap().fences().unwrap());
    let found = compare(std::slice::from_ref(fence), &fences, &Keep::nothing());
    (found[0].state, found[0].detail.join("; "))
}

pub fn is_whole(host: &Host, fence: &Fence) {
    assert_eq!(state(host, fence), (State::Ok, String::new()), "{fence:?}");
    let fences = host.run(|| Ebtables.query().unwrap().fences().unwrap());
    assert_eq!(fences[0].guards[0].whole().as_ref(), Some(&fence.guards[0]));
    let before = listing(host);
    assert!(!enforce(host, fence), "{fence:?}");
    assert_eq!(listing(host), before);
}

/// Returns the guards with one change: no VM hears all networks, because ebtables cannot express
/// that.
fn isolated() -> Vec<Guard> {
    let mut guards = guards();
    let hears = guards[0].hears.clone();
    for guard in &mut guards {
        guard.hears = hears.clone();
    }
    guards
}

/// Returns a guard without guarded or additional addresses.
pub fn plain() -> Guard {
    isolated().pop().unwrap()
}

#[test]
fn only_honest_frames_of_a_guarded_vm_are_heard_on_an_old_host() {
    check_table(host(), true, |host, guard| {
        assert!(enforce(host, &fence(guard)));
    });
}

#[test]
fn every_guard_is_read_back_whole_on_an_old_host_and_then_nothing_changes() {
    let host = Scene::new(host()).host;
    for guard in isolated() {
        let fence = fence(guard);
        assert!(enforce(&host, &fence), "{fence:?}");
        is_whole(&host, &fence);
    }
    // Chains that served only other guards are gone. One against queries and one for foreign frames
    // remain.
    assert_eq!(super::chains(&host), [1, 1]);
    host.run(|| Ebtables.release(&[PORT.parse().unwrap()]).unwrap());
    assert_eq!(
        (super::rules(&host).len(), super::chains(&host)),
        (0, [0, 0])
    );
}

fn nic(host: &Host) -> Value {
    host.list()[0]["nics"][0].clone()
}

#[test]
fn drops_of_a_guard_are_counted_for_its_own_vm_on_an_old_host() {
    let scene = Scene::new(host());
    let plain = plain();
    enforce(&scene.host, &fence(plain.clone()));
    let drops = |host: &Host| nic(host)["dropped"].clone();
    assert!(!scene.hears(&false_sender()));
    assert_eq!(
        drops(&scene.host),
        json!({"spoofed": 1, "foreign": 0, "forged": null})
    );
    let guard = Guard {
        hears: plain.hears,
        ..guarded(Guarded::All)
    };
    enforce(&scene.host, &fence(guard));
    // Another VM with the same guard.
    scene.host.tap("br0", "one-2-0");
    let other = Guard {
        port: "one-2-0".parse().unwrap(),
        ..guarded(Guarded::All)
    };
    enforce(&scene.host, &fence(other));
    let heard = |row: &&Row| scene.hears(&row.frame);
    let rows = rows();
    let dropped = rows.len() - rows.iter().filter(heard).count();
    assert_eq!(
        drops(&scene.host),
        json!({"spoofed": 1, "foreign": 0, "forged": dropped})
    );
    let addresses = json!({
        "ipv4": ["192.168.0.5", "192.168.0.50"],
        "ipv6": ["2001:db8::5"],
        "link_local": "eui64",
    });
    assert_eq!(nic(&scene.host)["addresses"], addresses);
    assert_eq!(nic(&scene.host)["trusted_ports"], json!(["br0b", "br0c"]));
    let list = scene.host.list();
    assert_eq!(list[1]["nics"][0]["dropped"]["forged"], 0, "{list}");
}

#[test]
fn a_vm_sends_and_hears_under_its_extra_macs_and_no_others_on_an_old_host() {
    let scene = Scene::new(host());
    let guard = Guard {
        extra_macs: vec![EXTRA_MAC],
        ..plain()
    };
    enforce(&scene.host, &fence(guard));
    let frame = |src, dst| ether(src, dst, 0x88b5, &[7; 46]);
    for (mac, is_heard) in [(OWN_MAC, true), (EXTRA_MAC, true), (OTHER_MAC, false)] {
        assert_eq!(scene.hears(&frame(mac, ALL)), is_heard, "{mac}");
    }
    assert_eq!(nic(&scene.host)["dropped"]["spoofed"], 1);
    let router = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
    let vm_hears = |frame: &[u8]| {
        scene.vm.heard();
        scene.listener.send(frame);
        scene.vm.heard().iter().any(|heard| heard == frame)
    };
    for (dst, is_heard) in [
        (OWN_MAC, true),
        (EXTRA_MAC, true),
        (OTHER_MAC, false),
        (ALL, true),
    ] {
        assert_eq!(vm_hears(&frame(router, dst)), is_heard, "to {dst}");
        assert!(!vm_hears(&frame(STRANGER, dst)), "to {dst}");
    }
}

#[test]
fn a_vm_hears_every_sender_at_a_trusted_port_on_an_old_host() {
    let scene = Scene::new(host());
    let trusting = plain();
    let Hears::Network { prefix, .. } = trusting.hears else {
        panic!("{trusting:?}");
    };
    let hears = Hears::Network {
        prefix,
        trusted: Vec::new(),
        trusted_ports: vec!["br0b".parse().unwrap()],
    };
    let proxy = scene.host.tap("br0", "br0b");
    enforce(&scene.host, &fence(Guard { hears, ..trusting }));
    let frame = |dst| ether(STRANGER, dst, 0x88b5, &[7; 46]);
    let vm_hears = |from: &crate::lab::Tap, frame: &[u8]| {
        scene.vm.heard();
        from.send(frame);
        scene.vm.heard().iter().any(|heard| heard == frame)
    };
    for (dst, is_heard) in [(ALL, true), (OWN_MAC, true), (OTHER_MAC, false)] {
        assert_eq!(vm_hears(&proxy, &frame(dst)), is_heard, "to {dst}");
        assert!(!vm_hears(&scene.listener, &frame(dst)), "to {dst}");
    }
}
