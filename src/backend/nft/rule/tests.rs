use super::*;
use crate::backend::nft::skeleton::Skeleton;

fn guard(hears: Hears) -> Guard {
    Guard::new(
        "one-1-0".parse().unwrap(),
        "02:00:c0:a8:00:05".parse().unwrap(),
        hears,
    )
}

fn network(trusted: &[&str]) -> Hears {
    Hears::Network {
        prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
        trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
        trusted_ports: Vec::new(),
    }
}

const ROUTER: &str = "00:16:3e:00:00:01";

#[test]
fn every_guard_can_be_read_back_from_its_rules() {
    for hears in [network(&[]), network(&[ROUTER]), Hears::All] {
        for queries in [false, true] {
            let guard = Guard {
                queries,
                ..guard(hears.clone())
            };
            let rules = Rule::of(&guard);
            let read = guards(rules.iter().map(|rule| (rule, 1)));
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].whole(), Some(guard));
        }
    }
}

#[test]
fn logging_is_read_back_and_is_void_behind_the_drops() {
    for hears in [network(&[ROUTER]), Hears::All] {
        let guard = Guard {
            log: Some(5),
            ..guard(hears)
        };
        let mut rules = Rule::of(&guard);
        let read = guards(rules.iter().map(|rule| (rule, 1)));
        assert_eq!(read[0].whole(), Some(guard));
        rules.reverse();
        let read = guards(rules.iter().map(|rule| (rule, 1)));
        assert!(read[0].defects[0].contains("should log"), "{read:?}");
    }
}

#[test]
fn a_guard_without_any_one_of_its_rules_is_not_whole() {
    for hears in [network(&[]), network(&[ROUTER]), Hears::All] {
        let all = Rule::of(&guard(hears));
        for lost in &all {
            let rest = all.iter().filter(|rule| *rule != lost);
            let read = guards(rest.map(|rule| (rule, 0)));
            assert_eq!(read[0].whole(), None, "{lost:?}");
        }
    }
}

#[test]
fn rules_that_belong_to_another_guard_are_a_defect() {
    let overheard = Rule::of(&guard(network(&[ROUTER]))).pop().unwrap();
    let mut rules = Rule::of(&guard(network(&[])));
    rules.push(overheard);
    let read = guards(rules.iter().map(|rule| (rule, 0)));
    let defect = "1 rule too many for port \"one-1-0\"";
    assert_eq!(read[0].defects, [defect]);
    assert_eq!(read[0].whole(), None);
}

#[test]
fn a_guard_of_an_earlier_version_is_understood_and_its_missing_rules_are_named() {
    let now = guard(network(&[ROUTER]));
    let rules = Rule::of(&now);
    let old = [&rules[0], &rules[2]];
    let read = guards(old.into_iter().map(|rule| (rule, 0)));
    assert_eq!(read[0].meant(), Some(now));
    assert_eq!(read[0].defects.len(), 2, "{:?}", read[0].defects);
}

#[test]
fn a_repeated_rule_shows_in_the_guard_and_its_drops_are_added() {
    let rules = Rule::of(&guard(network(&[])));
    let twice = guards(rules.iter().chain(&rules).zip(1..));
    assert_eq!(twice.len(), 1);
    assert_eq!((twice[0].macs.len(), twice[0].hears.len()), (2, 2));
    assert_eq!(twice[0].dropped.spoofed, Some(1 + 4));
    assert_eq!(twice[0].dropped.foreign, Some(3 + 6));
}

#[test]
fn the_base_chains_lead_to_every_rule() {
    let chains = Skeleton::read().unwrap().chains();
    for rule in Rule::of(&guard(network(&[ROUTER]))) {
        let key = match rule {
            Rule::Spoofed { .. } | Rule::Meddling { .. } | Rule::Forged { .. } => "iifname",
            Rule::Foreign { .. } | Rule::Overheard { .. } | Rule::Logged { .. } => "oifname",
        };
        for place in rule.places() {
            assert!(
                chains[*place].looks_up().contains(&key),
                "{rule:?}: {place}"
            );
        }
    }
}
