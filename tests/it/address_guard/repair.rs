//! macfence reads a whole guard back from the kernel, with every version of nft. It finds a missing
//! rule and puts it back.

use std::process::Command;
use std::slice::from_ref;

use macfence::backend::Backend;
use macfence::backend::nft::Nft;
use macfence::compare::{State, compare};
use macfence::fence::{ActualGuard, Addresses, Fence, Guard, Hears, Keep, LinkLocal};
use serde_json::{Value, json};

use super::table::{Guarded, OWN_MAC, Row, false_sender, rows};
use super::{PORT, Scene, VERSIONS, enforce, fence, guarded, host_with};
use crate::lab::{Host, fetched};

/// Guards of every kind.
pub fn guards() -> Vec<Guard> {
    let plain = Guard::new(
        PORT.parse().unwrap(),
        OWN_MAC,
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: vec!["52:54:00:00:00:01".parse().unwrap()],
            trusted_ports: vec!["br0b".parse().unwrap(), "br0c".parse().unwrap()],
        },
    );
    let addresses = |v4: &[&str], v6: &[&str], link_local| Addresses {
        v4: v4.iter().map(|ip| ip.parse().unwrap()).collect(),
        v6: v6.iter().map(|ip| ip.parse().unwrap()).collect(),
        link_local,
    };
    let extra = ["00:00:5e:00:01:07", "02:00:c0:a8:00:99"].map(|mac| mac.parse().unwrap());
    let many: Vec<_> = (1..=48).map(|n| format!("2001:db8::{n:x}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    vec![
        Guard {
            extra_macs: extra.to_vec(),
            addresses: Some(addresses(
                &["0.0.0.0", "10.0.0.1", "255.255.255.255"],
                &[
                    "::1",
                    "::ffff:1.2.3.4",
                    "::102:304",
                    "64:ff9b::5",
                    "fe80::1",
                ],
                LinkLocal::Eui64,
            )),
            dhcp_guard: true,
            ra_guard: true,
            ..plain.clone()
        },
        Guard {
            addresses: Some(addresses(&[], &[], LinkLocal::Any)),
            ..plain.clone()
        },
        Guard {
            addresses: Some(addresses(&[], &[], LinkLocal::Eui64)),
            hears: Hears::All,
            ..plain.clone()
        },
        Guard {
            addresses: Some(addresses(&[], &many, LinkLocal::Any)),
            dhcp_guard: true,
            ..plain.clone()
        },
        Guard {
            ra_guard: true,
            ..plain.clone()
        },
        guarded(Guarded::All),
        plain,
    ]
}

/// Returns the VM's guard in the kernel, and how it compares with the desired one.
fn held(host: &Host, fence: &Fence) -> (ActualGuard, State, String) {
    let fences = host.run(|| Nft.query().unwrap().fences().unwrap());
    let found = compare(from_ref(fence), &fences, &Keep::nothing());
    let [actual] = fences.as_slice() else {
        panic!("{fences:?}");
    };
    let guard = actual.guards[0].clone();
    (guard, found[0].state, found[0].detail.join("; "))
}

/// Returns the rules of the VM's chain: handle and text.
fn rules(host: &Host) -> Vec<(String, String)> {
    let chain = host.ok(
        "nft",
        &["-a", "list", "chain", "bridge", "macfence", "vm-one-1"],
    );
    let rule = |line: &str| {
        let (text, handle) = line.trim().split_once(" # handle ")?;
        text.contains("iifname")
            .then(|| (handle.to_owned(), text.to_owned()))
    };
    chain.lines().filter_map(rule).collect()
}

fn is_whole(host: &Host, fence: &Fence) {
    let (actual, state, detail) = held(host, fence);
    assert_eq!((state, &*detail), (State::Ok, ""), "{fence:?}");
    assert_eq!(actual.whole().as_ref(), Some(&fence.guards[0]));
    let before = host.generation();
    assert!(!enforce(host, fence));
    assert_eq!(host.generation(), before);
}

/// Checks that every guard is read back whole, and that enforcing it again changes nothing.
pub fn check_whole(host: Host) {
    let host = Scene::new(host).host;
    for guard in guards() {
        let fence = fence(guard);
        assert!(enforce(&host, &fence), "{fence:?}");
        is_whole(&host, &fence);
        // The same when macfence reads the whole table.
        let fences = from_ref(&fence);
        let again = host.run(|| Nft.query().unwrap().enforce(fences, &Keep::nothing()));
        assert!(!again.unwrap().changed);
        // The same when nft's listing is loaded again.
        let listed = host.ok("nft", &["list", "table", "bridge", "macfence"]);
        host.ok("nft", &["delete", "table", "bridge", "macfence"]);
        host.exec(Command::new("nft").args(["-f", "-"]), &listed)
            .ok();
        is_whole(&host, &fence);
    }
}

#[test]
fn every_version_of_nft_reads_every_guard_back_whole_and_then_changes_nothing() {
    for version in [None].into_iter().chain(VERSIONS.map(Some)) {
        check_whole(host_with(version));
    }
}

#[test]
fn a_guard_survives_an_upgrade_of_nft_and_back() {
    let scene = Scene::new(host_with(Some(VERSIONS[0])));
    for guard in guards() {
        let fence = fence(guard);
        enforce(&scene.host, &fence);
        for version in [VERSIONS[1], VERSIONS[0]] {
            let nft = fetched(&format!("nft/{version}/nft"));
            scene.host.instead_of("nft", &nft);
            is_whole(&scene.host, &fence);
        }
    }
}

#[test]
fn a_guard_that_lacks_one_rule_lets_a_frame_pass_and_is_found_and_repaired() {
    for version in [None].into_iter().chain(VERSIONS.map(Some)) {
        let scene = Scene::new(host_with(version));
        for how in [Guarded::Addresses, Guarded::Roles] {
            let fence = fence(guarded(how));
            enforce(&scene.host, &fence);
            let whole = scene.host.sorted_ruleset();
            let count = rules(&scene.host).len();
            for _ in 0..count {
                // A repaired rule becomes the last one. So each rule is the first one once.
                let (handle, text) = rules(&scene.host).remove(0);
                let rule = ["rule", "bridge", "macfence", "vm-one-1", "handle", &handle];
                scene.host.ok("nft", &[&["delete"], &rule[..]].concat());
                let (_, state, detail) = held(&scene.host, &fence);
                assert_eq!(state, State::Differs, "{text}");
                assert_ne!(detail, "", "{text}");
                if text.contains("comment") && !text.contains("hears all networks") {
                    let passes =
                        |row: &Row| row.drop_reason(how).is_some() && scene.hears(&row.frame);
                    assert!(rows().iter().any(passes), "no frame needs {text}");
                }
                assert!(enforce(&scene.host, &fence), "{text}");
                let counters = |line: &String| line.split(" counter ").next().unwrap().to_owned();
                let now: Vec<_> = scene.host.sorted_ruleset().iter().map(counters).collect();
                let then: Vec<_> = whole.iter().map(counters).collect();
                assert_eq!(now, then, "{text}");
                is_whole(&scene.host, &fence);
            }
        }
    }
}

#[test]
fn a_guard_that_is_added_keeps_the_counters_of_the_other_rules_and_is_listed() {
    let scene = Scene::new(Host::new());
    let plain = guards().pop().unwrap();
    enforce(&scene.host, &fence(plain.clone()));
    let nic = |host: &Host| host.list()[0]["nics"][0].clone();
    let drops = |host: &Host| nic(host)["dropped"].clone();
    assert!(!scene.hears(&false_sender()));
    assert_eq!(
        drops(&scene.host),
        json!({"spoofed": 1, "foreign": 0, "forged": null})
    );
    assert_eq!(nic(&scene.host)["addresses"], Value::Null);
    let guard = Guard {
        hears: plain.hears,
        ..guarded(Guarded::All)
    };
    enforce(&scene.host, &fence(guard));
    let rows = rows();
    let is_dropped = |row: &&Row| row.drop_reason(Guarded::All).is_some();
    let dropped = rows.iter().filter(is_dropped).count();
    assert!(
        rows.iter()
            .all(|row| scene.hears(&row.frame) || is_dropped(&row))
    );
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
    assert_eq!(nic(&scene.host)["extra_macs"], json!([]));
}

#[test]
fn too_many_addresses_for_nft_are_an_error_and_change_nothing() {
    let host = Scene::new(Host::new()).host;
    let mut guard = guarded(Guarded::Addresses);
    let addresses = guard.addresses.as_mut().unwrap();
    addresses.v6 = (1..=50).map(std::net::Ipv6Addr::from_bits).collect();
    addresses.link_local = LinkLocal::Any;
    assert!(enforce(&host, &fence(guard.clone())));
    let before = host.generation();
    // The address made from the MAC address makes it one too many.
    guard.addresses.as_mut().unwrap().link_local = LinkLocal::Eui64;
    let fences = [fence(guard), Fence::none("one-2".parse().unwrap())];
    for fences in [&fences[..1], &fences] {
        let error = host.run(|| Nft.enforce(fences, &Keep::nothing()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("too many addresses"), "{error}");
    }
    assert_eq!(host.generation(), before);
}
