//! Guards whose rules lead to chains of their own.

use super::*;
use crate::fence::{ActualGuard, Addresses, LinkLocal};

const EXTRA: [&str; 2] = ["00:00:5e:00:01:07", "02:00:00:00:00:99"];

/// A guard with every check that ebtables can make.
fn guarded(port: &str) -> Guard {
    let mut guard = guard(port, &["00:16:3e:00:00:01"]);
    if let Hears::Network { trusted_ports, .. } = &mut guard.hears {
        trusted_ports.push("br0b".parse().unwrap());
    }
    Guard {
        extra_macs: EXTRA.map(|mac| mac.parse().unwrap()).into(),
        addresses: Some(addresses("10.0.0.5")),
        dhcp_guard: true,
        ra_guard: true,
        ..guard
    }
}

fn addresses(v4: &str) -> Addresses {
    Addresses {
        v4: vec![v4.parse().unwrap()],
        v6: vec!["2001:db8::5".parse().unwrap()],
        link_local: LinkLocal::Eui64,
    }
}

fn actual(tables: &Tables, port: &str) -> Option<ActualGuard> {
    let fences = fences::of(&tables.ruleset()).into_iter();
    let mut guards = fences.flat_map(|fence| fence.guards);
    guards.find(|guard| guard.port.as_str() == port)
}

#[test]
fn every_part_of_a_guard_can_come_and_go() {
    let all = guarded("p0");
    let parts = [
        all.clone(),
        Guard {
            extra_macs: Vec::new(),
            ..all.clone()
        },
        Guard {
            addresses: None,
            ..all.clone()
        },
        Guard {
            addresses: Some(addresses("10.0.0.6")),
            ..all.clone()
        },
        Guard {
            addresses: None,
            dhcp_guard: false,
            ..all.clone()
        },
        Guard {
            hears: guard("p0", &[]).hears,
            ..all.clone()
        },
        guard("p0", &[]),
    ];
    for before in &parts {
        for after in &parts {
            let mut tables = Tables::of(&[]);
            tables.enforce(std::slice::from_ref(before));
            tables.enforce(std::slice::from_ref(after));
            let read = actual(&tables, "p0").unwrap();
            assert_eq!(read.whole().as_ref(), Some(after), "{before:?}");
            assert_eq!(tables.enforce(std::slice::from_ref(after)), [""; 0]);
            // The remaining rules are those of the guard alone.
            let mut alone = Tables::of(&[]);
            alone.enforce(std::slice::from_ref(after));
            assert_eq!(tables.chains, alone.chains, "{before:?} {after:?}");
        }
    }
}

/// Tells whether the rules of a port drop all that a guard should drop: each rule in its place, and
/// each chain intact. Further rules only drop more.
fn holds(tables: &Tables, guard: &Guard) -> bool {
    let held = tables.ruleset().rules;
    let held: Vec<_> = held.iter().filter_map(|now| now.rule.as_ref()).collect();
    let mut needed = rules(std::slice::from_ref(guard)).into_iter();
    needed.all(|rule| held.contains(&&rule))
}

#[test]
fn a_guard_that_changes_holds_as_before_until_it_holds_as_it_should() {
    let before = guarded("p0");
    for after in [
        Guard {
            addresses: Some(addresses("10.0.0.6")),
            ..before.clone()
        },
        Guard {
            extra_macs: Vec::new(),
            ra_guard: false,
            ..before.clone()
        },
        guard("p0", &[]),
    ] {
        for (from, to) in [(&before, &after), (&after, &before)] {
            let mut tables = Tables::of(&[]);
            tables.enforce(std::slice::from_ref(from));
            for call in enforce(&tables.ruleset(), &rules(std::slice::from_ref(to))) {
                tables.run(&call);
                assert!(holds(&tables, from) || holds(&tables, to), "{call:?}");
            }
        }
    }
}

#[test]
fn a_chain_of_a_guard_that_somebody_edited_is_a_defect_and_is_replaced() {
    let own = guarded("p0");
    let mut whole = Tables::of(&[]);
    whole.enforce(std::slice::from_ref(&own));
    for (table, chain) in whole.chains.keys() {
        for index in 0..whole.chains[&(*table, chain.clone())].len() {
            let mut tables = Tables::of(&[]);
            tables.enforce(std::slice::from_ref(&own));
            tables.chain(table, chain).remove(index);
            let read = actual(&tables, "p0").unwrap();
            assert_ne!(read.whole().as_ref(), Some(&own), "{chain} {index}");
            assert_ne!(tables.enforce(std::slice::from_ref(&own)), [""; 0]);
            let read = actual(&tables, "p0").unwrap();
            assert_eq!(read.whole().as_ref(), Some(&own));
        }
    }
}

#[test]
fn a_broken_chain_is_a_defect_of_a_port_that_should_have_none() {
    let mut tables = Tables::of(&[]);
    tables.enforce(&[guarded("p0")]);
    let is_guards = |rule: &&String| rule.starts_with("-i p0 -j ");
    let rule = tables.at(PREROUTING).iter().find(is_guards).unwrap();
    let chain = rule.rsplit(' ').next().unwrap().to_owned();
    tables.chain("nat", &chain).pop();
    let defects = actual(&tables, "p0").unwrap().defects;
    assert_eq!(
        defects,
        ["the chain that checks the IP addresses of \"p0\" was edited"]
    );
    tables.enforce(&[guard("p0", &[])]);
    assert!(!tables.chains.contains_key(&("nat", chain)));
}

#[test]
fn ports_with_the_same_guard_have_chains_of_their_own_that_count_for_them() {
    let mut tables = Tables::of(&[]);
    let roles = |port: &str| Guard {
        addresses: None,
        extra_macs: Vec::new(),
        ..guarded(port)
    };
    tables.enforce(&[roles("p0"), roles("p1")]);
    let chains = tables.chains.keys().filter(|(table, _)| *table == "nat");
    // One against queries, and two.
    assert_eq!(chains.count(), 3);
    let is_of_p0 = |rules: &&mut Vec<String>| rules.contains(&"-i p0 -j RETURN".to_owned());
    let rules = tables.chains.values_mut().find(is_of_p0).unwrap();
    let drops = rules.iter().filter(|rule| rule.ends_with(DROP)).count() as u64;
    for rule in rules {
        *rule += " , pcnt = 2 -- bcnt = 9";
    }
    let count = |port| actual(&tables, port).unwrap().dropped.forged;
    assert_eq!((count("p0"), count("p1")), (Some(2 * drops), None));
}

#[test]
fn a_release_takes_the_chains_of_a_guard_along() {
    let mut tables = Tables::of(&[OTHERS]);
    tables.enforce(&[guarded("p0"), guarded("p1")]);
    for port in ["p0", "p1"] {
        for call in release(&tables.ruleset(), |rule| rule.port().as_str() == port) {
            tables.run(&call);
        }
        assert_eq!(actual(&tables, port), None);
        assert!(port == "p1" || actual(&tables, "p1").unwrap().whole().is_some());
    }
    assert!(tables.chains.is_empty(), "{:?}", tables.chains);
    assert_eq!(tables.at(FORWARD), [OTHERS]);
}

#[test]
fn other_peoples_rules_about_a_port_are_not_ours() {
    let theirs = ["-i p0 -j DROP", "-i p0 -j ACCEPT", "-i p0 -j their-chain"];
    let mut tables = Tables::of(&[]);
    tables.enforce(&[guarded("p0")]);
    for rule in theirs {
        tables.chain("nat", "PREROUTING").insert(0, rule.to_owned());
    }
    assert_eq!(tables.enforce(&[guarded("p0")]), [""; 0]);
    for call in release(&tables.ruleset(), |_| true) {
        tables.run(&call);
    }
    assert_eq!(tables.at(PREROUTING).len(), theirs.len());
}
