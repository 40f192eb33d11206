use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use nftables::stmt::Statement;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::backend::Backend;
use crate::backend::nft::rule::{self, Rule};
use crate::backend::nft::{Nft, spelling, statement};
use crate::fence::{Addresses, Fence, Hears, LinkLocal};

fn plain() -> Guard {
    Guard::new(
        "one-1-0".parse().unwrap(),
        "02:00:c0:a8:00:05".parse().unwrap(),
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: Vec::new(),
            trusted_ports: vec!["br0b".parse().unwrap()],
        },
    )
}

/// A guard with every option.
fn full() -> Guard {
    Guard {
        extra_macs: vec!["00:00:5e:00:01:07".parse().unwrap()],
        addresses: Some(Addresses {
            v4: vec![Ipv4Addr::new(192, 168, 0, 5)],
            v6: vec!["2001:db8::5".parse().unwrap()],
            link_local: LinkLocal::Eui64,
        }),
        dhcp_guard: true,
        ra_guard: true,
        ..plain()
    }
}

fn names(guard: &Guard) -> Vec<&'static str> {
    checks(guard).iter().map(Check::name).collect()
}

/// A rule as nft lists it.
fn listed(rule: &Rule) -> Value {
    let mut expr = serde_json::to_value(statement::of(rule)).unwrap();
    for statement in expr.as_array_mut().unwrap() {
        if let Some(counter) = statement.get_mut("counter") {
            *counter = json!({"packets": 7, "bytes": 420});
        }
    }
    json!({"expr": expr, "comment": statement::comment(rule)})
}

fn read(mut listed: Value) -> Option<(Rule, u64)> {
    spelling::unify(&mut listed);
    let statements: Vec<Statement> = serde_json::from_value(listed["expr"].take()).ok()?;
    statement::parse(&statements, listed["comment"].as_str())
}

#[test]
fn a_guard_of_nothing_needs_no_rule() {
    assert_eq!(names(&plain()), [""; 0]);
}

#[test]
fn no_two_rules_of_a_guard_have_the_same_name() {
    let all = names(&full());
    let tags = fixed::TAGS.iter().map(|(name, _)| *name);
    let unique: BTreeSet<_> = all.iter().copied().chain(tags).collect();
    assert_eq!(unique.len(), all.len() + fixed::TAGS.len());
}

#[test]
fn every_guard_also_checks_tags_and_fragments() {
    let fragments = fixed::FRAGMENTS[0].0;
    let tags = fixed::TAGS[0].0;
    let dhcp = Guard {
        dhcp_guard: true,
        ..plain()
    };
    let routers = Guard {
        ra_guard: true,
        ..plain()
    };
    for guard in [dhcp, routers, full()] {
        let names = names(&guard);
        let is_in = |wanted: &str| names.iter().filter(|name| **name == wanted).count();
        assert_eq!(is_in(fragments), 1);
        // If addresses are guarded, no tagged frame may pass.
        assert_eq!(is_in(tags), usize::from(guard.addresses.is_none()));
    }
}

#[test]
fn the_rules_of_a_guarded_vm_are_as_in_their_snapshot() {
    let fence = Fence {
        vm: "one-1".parse().unwrap(),
        guards: vec![full()],
    };
    let export = Nft.export(&[fence]).unwrap();
    let rules = export.lines().filter(|line| line.contains("\"rule\""));
    let rules: Vec<_> = rules.filter(|line| line.contains("vm-one-1")).collect();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../../tests/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("guarded-vm-nft", rules.join("\n")));
}

#[test]
fn a_guard_that_lacks_a_rule_is_not_whole_but_most_can_be_restored() {
    let rules = Rule::of(&full());
    for lost in &rules {
        let rest = rules.iter().filter(|rule| *rule != lost);
        let guards = rule::guards(rest.map(|rule| (rule, 1)));
        assert_eq!(guards[0].whole(), None, "{lost:?}");
        if let Rule::Forged { check, .. } = lost {
            assert_eq!(guards[0].meant(), Some(full()), "{lost:?}");
            assert_eq!(guards[0].defects.len(), 1);
            assert!(guards[0].defects[0].contains(check.name()));
        }
    }
}

#[test]
fn a_guard_without_rules_for_one_kind_of_addresses_does_not_invent_them() {
    let rules = Rule::of(&full());
    let is_about_ipv4 = |rule: &&Rule| {
        let check = match rule {
            Rule::Forged { check, .. } => Some(check),
            _ => None,
        };
        !matches!(check, Some(Check::ArpIp(_) | Check::Ipv4Source(_)))
    };
    let rest = rules.iter().filter(is_about_ipv4);
    let guards = rule::guards(rest.map(|rule| (rule, 0)));
    assert_eq!(guards[0].meant(), None);
}

#[test]
fn the_drops_of_a_guards_rules_are_added_up() {
    let rules = Rule::of(&full());
    let forged = rules
        .iter()
        .filter(|rule| matches!(rule, Rule::Forged { .. }));
    let forged = u64::try_from(forged.count()).unwrap();
    let guards = rule::guards(rules.iter().map(|rule| (rule, 2)));
    assert_eq!(guards[0].dropped.forged, Some(2 * forged));
    let guards = rule::guards(Rule::of(&plain()).iter().map(|rule| (rule, 2)));
    assert_eq!(guards[0].dropped.forged, None);
}

#[test]
fn more_addresses_than_a_rule_can_name_are_refused() {
    let mut guard = full();
    let ip = |n: usize| Ipv4Addr::from_bits(u32::try_from(n).unwrap());
    for (count, is_taken) in [(MOST, true), (MOST + 1, false)] {
        guard.addresses.as_mut().unwrap().v4 = (0..count).map(ip).collect();
        assert_eq!(check(&guard).is_ok(), is_taken, "{count}");
    }
    let error = check(&guard).unwrap_err().to_string();
    assert!(error.contains("\"one-1-0\""), "{error}");
}

#[test]
fn a_rule_with_another_comment_or_statement_is_somebody_elses() {
    for rule in Rule::of(&full()) {
        if matches!(rule, Rule::Forged { .. }) {
            let mut renamed = listed(&rule);
            renamed["comment"] = "false IPv4 sourc".into();
            assert_ne!(read(renamed).map(|(rule, _)| rule), Some(rule.clone()));
            let mut accepts = listed(&rule);
            let statements = accepts["expr"].as_array_mut().unwrap();
            statements.pop();
            statements.push(json!({"accept": null}));
            assert_eq!(read(accepts), None, "{rule:?}");
        }
    }
}

fn any_addresses() -> impl Strategy<Value = Addresses> {
    let v4 = btree_set(any::<u32>().prop_map(Ipv4Addr::from_bits), 0..5);
    let v6 = prop_oneof![any::<u128>(), 0..0x1_0000_0000_0000_u128];
    let v6 = btree_set(v6.prop_map(Ipv6Addr::from_bits), 0..5);
    let any_link_local = any::<bool>();
    (v4, v6, any_link_local).prop_map(|(v4, v6, any_link_local)| Addresses {
        v4: v4.into_iter().collect(),
        v6: v6.into_iter().collect(),
        link_local: if any_link_local {
            LinkLocal::Any
        } else {
            LinkLocal::Eui64
        },
    })
}

fn any_mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr::new)
}

prop_compose! {
    fn any_guard()(
        mac in any_mac(),
        extras in btree_set(any_mac(), 0..4),
        addresses in proptest::option::of(any_addresses()),
        (dhcp_guard, ra_guard, queries, hears_all) in any::<(bool, bool, bool, bool)>(),
        trusted in btree_set(any_mac(), 0..3),
        ports in vec("br[a-z0-9]{0,9}", 0..3),
    ) -> Guard {
        let hears = if hears_all {
            Hears::All
        } else {
            Hears::Network {
                prefix: crate::mac::MacPrefix::of(mac, 40.try_into().unwrap()),
                trusted: trusted.iter().map(|mac| mac.to_string().parse()).filter_map(Result::ok).collect(),
                trusted_ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
            }
        };
        Guard {
            extra_macs: extras.into_iter().filter(|extra| *extra != mac).collect(),
            addresses,
            dhcp_guard,
            ra_guard,
            queries,
            ..Guard::new("one-1-0".parse().unwrap(), mac, hears)
        }
    }
}

proptest! {
    #[test]
    fn every_guard_is_read_back_from_what_nft_lists(guard in any_guard()) {
        let rules: Vec<_> = Rule::of(&guard).iter().map(|rule| read(listed(rule))).collect();
        prop_assert!(rules.iter().all(Option::is_some));
        let rules = rules.iter().flatten().map(|(rule, packets)| (rule, *packets));
        let guards = rule::guards(rules);
        prop_assert_eq!(guards.len(), 1);
        prop_assert_eq!(guards[0].whole(), Some(guard));
    }
}
