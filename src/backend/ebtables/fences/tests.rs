use super::super::shape::{FORWARD, Place};
use super::*;
use crate::fence::Guard;

fn guard(trusted: &[&str]) -> Guard {
    Guard::new(
        "one-1-0".parse().unwrap(),
        "02:00:c0:a8:00:05".parse().unwrap(),
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            trusted_ports: Vec::new(),
        },
    )
}

const ROUTER: &str = "00:16:3e:00:00:01";

/// These rules as ebtables would list them; the first has matched one frame, the next two and so on.
fn listed(rules: &[Rule]) -> Vec<ActualRule> {
    let actual = |(number, rule): (usize, &Rule)| ActualRule {
        rule: Some(rule.clone()),
        place: rule.place,
        number,
        shape: rule.shape.clone(),
        target: "DROP".to_owned(),
        counters: Some(Counters {
            packets: number as u64,
            bytes: 60 * number as u64,
        }),
        unshared: Vec::new(),
    };
    (1..).zip(rules).map(actual).collect()
}

/// Reads back these rules of one port.
fn said(rules: &[Rule]) -> ActualGuard {
    let mut fences = of_rules(&listed(rules), Igmp::ByType);
    assert_eq!(fences.len(), 1);
    fences.pop().unwrap().guards.pop().unwrap()
}

/// The two rules of version 0.1 and of the seed, in the places where those wrote them.
fn pair(guard: &Guard) -> Vec<Rule> {
    let rule = |place: Place, shape: &Shape, action| Rule {
        place,
        shape: shape.clone(),
        action,
    };
    let now = Rule::of(guard, Igmp::ByType);
    let trusted = match &now[3].action {
        Action::Chain(Content::Foreign { trusted, .. }) if !trusted.is_empty() => {
            Action::Chain(Content::Foreign {
                queries: None,
                trusted: trusted.clone(),
                trusted_ports: Vec::new(),
            })
        }
        _ => Action::Drop,
    };
    vec![
        rule(FORWARD, &now[0].shape, Action::Drop),
        rule(FORWARD, &now[3].shape, trusted),
    ]
}

#[test]
fn every_guard_can_be_read_back_from_its_rules() {
    for trusted in [&[][..], &[ROUTER]] {
        for queries in [false, true] {
            let guard = Guard {
                queries,
                ..guard(trusted)
            };
            let read = said(&Rule::of(&guard, Igmp::ByType));
            assert_eq!(read.whole(), Some(guard), "{read:?}");
        }
    }
}

#[test]
fn a_guard_without_any_one_of_its_rules_is_not_whole() {
    for trusted in [&[][..], &[ROUTER]] {
        let all = Rule::of(&guard(trusted), Igmp::ByType);
        for index in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(index);
            assert_eq!(said(&rest).whole(), None, "{:?}", all[index]);
        }
    }
}

#[test]
fn rules_of_an_earlier_version_are_understood_and_missing_ones_named() {
    for (trusted, lacks) in [(&[][..], 3), (&[ROUTER], 4)] {
        let guard = guard(trusted);
        let read = said(&pair(&guard));
        assert_eq!(read.meant(), Some(guard));
        assert_eq!(read.defects.len(), lacks, "{:?}", read.defects);
        assert_eq!(read.dropped.spoofed, Some(1));
        assert_eq!(read.dropped.foreign, Some(2));
    }
}

#[test]
fn rules_for_another_igmp_are_a_defect() {
    let old = Rule::of(&guard(&[]), Igmp::ByReceiver);
    let read = said(&old);
    assert_eq!(read.meant(), Some(guard(&[])));
    assert_eq!(read.defects.len(), 3, "{:?}", read.defects);
}

#[test]
fn rules_that_belong_to_another_guard_are_a_defect() {
    let overheard = Rule::of(&guard(&[ROUTER]), Igmp::ByType).pop().unwrap();
    let mut rules = Rule::of(&guard(&[]), Igmp::ByType);
    rules.push(overheard);
    let defect = "extra rules for port \"one-1-0\": 1";
    assert_eq!(said(&rules).defects, [defect]);
}

#[test]
fn the_rule_of_an_earlier_version_beside_its_successor_shows_in_the_guard() {
    let guard = guard(&[]);
    let rules = [Rule::of(&guard, Igmp::ByType), pair(&guard)].concat();
    let read = said(&rules);
    assert_eq!((read.macs.len(), read.hears.len()), (2, 2));
    assert_eq!(read.defects, [""; 0]);
    assert_eq!(read.dropped.spoofed, Some(1 + 5));
}
