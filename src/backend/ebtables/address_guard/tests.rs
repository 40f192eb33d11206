use proptest::collection::btree_set;
use proptest::prelude::*;

use super::super::chain::Content;
use super::super::ruleset::Ruleset;
use super::super::{Ebtables, fences};
use super::*;
use crate::backend::Backend;
use crate::fence::{Addresses, Fence, Hears, LinkLocal};

/// Reads back a chain with the rules of this content.
fn read_back(content: &Content) -> Option<Content> {
    let rules = content.rules();
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    Content::read(&rules)
}

fn guard(port: &str, v4: &[&str], v6: &[&str], link_local: LinkLocal) -> Guard {
    let addresses = Addresses {
        v4: v4.iter().map(|ip| ip.parse().unwrap()).collect(),
        v6: v6.iter().map(|ip| ip.parse().unwrap()).collect(),
        link_local,
    };
    Guard {
        addresses: Some(addresses),
        ..Guard::new(
            port.parse().unwrap(),
            "02:00:c0:a8:00:05".parse().unwrap(),
            Hears::All,
        )
    }
}

fn rules(guard: &Guard) -> Vec<String> {
    AddressGuard::of(guard).unwrap().rules()
}

/// The rules of a guard and of one that guards no addresses.
#[test]
fn the_rules_of_a_guarded_port() {
    let all = Guard {
        dhcp_guard: true,
        ra_guard: true,
        ..guard("one-1-0", &["192.168.0.5"], &[], LinkLocal::Eui64)
    };
    let roles = Guard {
        addresses: None,
        ..all.clone()
    };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../../tests/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        insta::assert_snapshot!("guard-ebtables", rules(&all).join("\n"));
        insta::assert_snapshot!("guard-ebtables-roles", rules(&roles).join("\n"));
    });
}

#[test]
fn a_port_without_a_guard_has_no_such_chain() {
    let guard = Guard {
        addresses: None,
        ..guard("one-1-0", &[], &[], LinkLocal::Any)
    };
    assert_eq!(AddressGuard::of(&guard), None);
}

#[test]
fn no_rule_accepts_and_unknown_frames_are_dropped() {
    let rules = rules(&guard("p", &["10.0.0.1"], &["2001:db8::1"], LinkLocal::Any));
    let targets = rules.iter().filter_map(|rule| rule.split(" -j ").nth(1));
    let is_known = |target: &str| target == DROP || target == "RETURN";
    assert!(targets.into_iter().all(is_known), "{rules:?}");
    assert_eq!(rules.last().unwrap(), "-i p -j DROP");
}

#[test]
fn fifty_addresses_of_each_kind_are_guarded_and_thousands_refused() {
    let v4: Vec<_> = (1..=50).map(|n| format!("10.0.0.{n}")).collect();
    let v6: Vec<_> = (1..=49).map(|n| format!("2001:db8::{n:x}")).collect();
    let texts = |all: &[String]| all.to_vec();
    let of = |v4: &[String], v6: &[String]| {
        let (v4, v6) = (texts(v4), texts(v6));
        let v4: Vec<_> = v4.iter().map(String::as_str).collect();
        let v6: Vec<_> = v6.iter().map(String::as_str).collect();
        let guard = Guard {
            dhcp_guard: true,
            ra_guard: true,
            ..guard("one-1-0", &v4, &v6, LinkLocal::Eui64)
        };
        let fence = Fence {
            vm: "one-1".parse().unwrap(),
            guards: vec![guard],
        };
        Ebtables.check(&fence)
    };
    assert!(of(&v4, &v6).is_ok());
    let many: Vec<_> = (0..4_000).map(|n| format!("2001:db8::{n:x}")).collect();
    let refused = of(&v4, &many).unwrap_err().to_string();
    assert!(refused.contains("\"one-1-0\" has too many"), "{refused}");
}

#[test]
fn the_group_of_an_address_is_made_from_its_last_24_bits() {
    let group = |ip: &str| solicited_node(&ip.parse().unwrap()).to_string();
    assert_eq!(group("2001:db8::12:3456"), "ff02::1:ff12:3456");
    assert_eq!(group("fe80::c0ff:fea8:5"), "ff02::1:ffa8:5");
}

/// Four ports: one with every check, one that may use any link-local address, one that may not be a
/// DHCP server, and one that may not be a router.
#[test]
fn every_ebtables_lists_the_same_address_guards() {
    for listing in [
        include_str!("../../../../tests/captures/ebtables-legacy-2.0.11-list-guards.txt"),
        include_str!("../../../../tests/captures/ebtables-legacy-2.0.11-list-guards-bare.txt"),
        include_str!("../../../../tests/captures/ebtables-nft-1.8.9-list-guards.txt"),
        include_str!("../../../../tests/captures/ebtables-nft-1.8.9-list-guards-bare.txt"),
        include_str!("../../../../tests/captures/ebtables-nft-1.8.11-list-guards.txt"),
    ] {
        let mut ruleset = Ruleset::default();
        let (nat, filter) = listing.split_at(listing.rfind("Bridge table").unwrap());
        ruleset.read("nat", nat).unwrap();
        ruleset.read("filter", filter).unwrap();
        assert!(ruleset.chains.values().all(Option::is_some), "{ruleset:?}");
        let fences = fences::of(&ruleset);
        let read: Vec<_> = fences.iter().flat_map(|fence| &fence.guards).collect();
        let read: Vec<_> = read.iter().map(|guard| guard.whole().unwrap()).collect();
        assert_eq!(read, captured());
    }
}

/// The guards in the captured listings.
fn captured() -> Vec<Guard> {
    let network = Hears::Network {
        prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
        trusted: vec!["52:54:00:00:00:01".parse().unwrap()],
        trusted_ports: vec!["S-TAG".parse().unwrap(), "br0b".parse().unwrap()],
    };
    let extra = ["00:00:5e:00:01:07", "02:00:c0:a8:00:99"].map(|mac| mac.parse().unwrap());
    let v6 = ["::1", "::ffff:1.2.3.4", "::102:304", "64:ff9b::5"];
    let all = Guard {
        extra_macs: extra.to_vec(),
        dhcp_guard: true,
        ra_guard: true,
        ..guard(
            "one-1-0",
            &["10.0.0.1", "192.168.0.5"],
            &v6,
            LinkLocal::Eui64,
        )
    };
    let bare = |port| Guard {
        addresses: None,
        ..guard(port, &[], &[], LinkLocal::Any)
    };
    let mut guards = vec![
        all,
        guard("one-2-0", &["10.0.0.1"], &["2001:db8::5"], LinkLocal::Any),
        Guard {
            dhcp_guard: true,
            ..bare("one-3-0")
        },
        Guard {
            ra_guard: true,
            ..bare("one-4-0")
        },
    ];
    for guard in &mut guards {
        guard.hears = network.clone();
    }
    guards
}

prop_compose! {
    fn any_guard()(
        macs in btree_set(any::<[u8; 6]>(), 1..4),
        v4 in btree_set(any::<Ipv4Addr>(), 0..4),
        v6 in btree_set(any::<Ipv6Addr>(), 0..4),
        small in btree_set(0u128..1 << 40, 0..2),
        (is_any, has_addresses) in any::<(bool, bool)>(),
        (dhcp_guard, ra_guard) in any::<(bool, bool)>(),
        port in "(S-TAG|IPv4|802_1Q|p-[a-z0-9._]{1,8})",
    ) -> Guard {
        let mut macs = macs.into_iter().map(MacAddr::new);
        let mac = macs.next().unwrap();
        let small = small.into_iter().map(Ipv6Addr::from_bits);
        let addresses = Addresses {
            v4: v4.into_iter().collect(),
            v6: small.chain(v6).collect(),
            link_local: if is_any { LinkLocal::Any } else { LinkLocal::Eui64 },
        };
        Guard {
            extra_macs: macs.collect(),
            addresses: has_addresses.then_some(addresses),
            dhcp_guard,
            ra_guard,
            ..Guard::new(port.parse().unwrap(), mac, Hears::All)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_address_guard_is_read_back_from_its_rules(guard in any_guard()) {
        if let Some(checks) = AddressGuard::of(&guard) {
            let content = Content::Addresses(checks);
            prop_assert_eq!(read_back(&content), Some(content));
        }
    }

    #[test]
    fn an_address_guard_without_any_one_of_its_rules_is_not_taken_for_whole(guard in any_guard()) {
        if let Some(checks) = AddressGuard::of(&guard) {
            let content = Content::Addresses(checks);
            let rules = content.rules();
            for index in 0..rules.len() {
                let mut rest: Vec<_> = rules.iter().map(String::as_str).collect();
                rest.remove(index);
                let read = Content::read(&rest);
                prop_assert_ne!(read, Some(content.clone()), "{}", &rules[index]);
            }
        }
    }
}
