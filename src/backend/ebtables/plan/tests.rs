mod guarded;
mod tables;

use self::tables::Tables;
use super::super::chain::Igmp;
use super::super::fences;
use super::super::shape::{FORWARD, INPUT, PLACES};
use super::*;
use crate::fence::{Guard, Hears};

/// The guard of a port. Its MAC address ends in the same number as the port's name.
fn guard(port: &str, trusted: &[&str]) -> Guard {
    let number = &port[port.len() - 1..];
    Guard::new(
        port.parse().unwrap(),
        format!("02:00:00:00:0{number}:05").parse().unwrap(),
        Hears::Network {
            prefix: format!("02:00:00:00:0{number}:00/40").parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            trusted_ports: Vec::new(),
        },
    )
}

fn rules(guards: &[Guard]) -> Vec<Rule> {
    let of = |guard| Rule::of(guard, Igmp::ByType);
    guards.iter().flat_map(of).collect()
}

impl Tables {
    /// Runs a plan; returns its calls, one a line.
    fn enforce(&mut self, guards: &[Guard]) -> Vec<String> {
        let calls = enforce(&self.ruleset(), &rules(guards));
        for call in &calls {
            self.run(call);
        }
        calls.iter().map(|call| call.words.join(" ")).collect()
    }
}

/// The rules of version 0.1 and the seed, in `FORWARD`.
const FROM: &str = "-s ! 02:00:00:00:00:05 -i p0 -j DROP";
const TO: &str = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:ff:00 -o p0 -j DROP";
const OTHERS: &str = "-p ARP -j ACCEPT";

/// The rule that replaces [`TO`].
fn foreign() -> String {
    let content = Content::Foreign {
        queries: Some(Igmp::ByType),
        trusted: Vec::new(),
        trusted_ports: Vec::new(),
    };
    TO.replace("DROP", &content.name())
}

#[test]
fn each_state_becomes_the_desired_one_and_a_right_rule_stays() {
    let own = [guard("p0", &[])];
    let old = "-s ! 02:00:00:00:09:05 -i p0 -j DROP";
    let wide = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:00:00 -o p0 -j DROP";
    let to = &*foreign();
    for (forward, expected) in [
        // New rules go to the end.
        (&[OTHERS][..], &[OTHERS, to][..]),
        // A rule that replaces another takes its place. The rule about the sender moves to another
        // chain.
        (&[FROM, OTHERS, TO], &[OTHERS, to]),
        (&[old, OTHERS, TO, OTHERS], &[OTHERS, to, OTHERS]),
        (&[OTHERS, wide, FROM], &[OTHERS, to]),
        // The script adds its rules at every call.
        (&[FROM, TO, FROM, TO], &[to]),
        // The first rule of its kind counts, because others' rules may let frames pass before the next.
        (&[wide, OTHERS, TO], &[to, OTHERS]),
    ] {
        let mut tables = Tables::of(forward);
        let done = tables.enforce(&own);
        assert_eq!(tables.at(FORWARD), expected, "{forward:?}: {done:?}");
        assert_eq!(tables.at(INPUT).len(), 1);
        assert_eq!(tables.at(PREROUTING)[0], FROM);
        assert_eq!(tables.at(PREROUTING).len(), 2);
        assert_eq!(tables.enforce(&own), [""; 0], "{forward:?}");
        assert_eq!(fences::of(&tables.ruleset())[0].guards[0].defects, [""; 0]);
    }
}

#[test]
fn the_counters_of_an_earlier_version_are_kept() {
    let counted = |rule: &str, counters: &str| format!("{rule} , pcnt = {counters}");
    let (from, to) = (
        counted(FROM, "7 -- bcnt = 420"),
        counted(TO, "3 -- bcnt = 180"),
    );
    let again = counted(FROM, "2 -- bcnt = 100");
    let mut tables = Tables::of(&[&from, &to, &again]);
    tables.enforce(&[guard("p0", &[])]);
    assert_eq!(tables.at(PREROUTING)[0], counted(FROM, "9 -- bcnt = 520"));
    let foreign = counted(&foreign(), "3 -- bcnt = 180");
    assert_eq!(tables.at(FORWARD), [foreign]);
    // The counter of a rule for another address is not taken over.
    let mut other = guard("p0", &[]);
    other.mac = "02:00:00:00:00:06".parse().unwrap();
    tables.enforce(&[other]);
    assert_eq!(tables.at(PREROUTING)[0], FROM.replace(":05", ":06"));
}

#[test]
fn the_chain_in_which_version_0_1_trusted_somebody_is_replaced() {
    let name = "macfence-0123456789abcdef";
    let counted = format!("{} , pcnt = 3 -- bcnt = 180", TO.replace("DROP", name));
    let mut tables = Tables::of(&[&counted, FROM]);
    let old = owned(&["-s 00:16:3e:00:00:01 -j RETURN", "-j DROP"]);
    tables.chains.insert(("filter", name.to_owned()), old);
    let own = guard("p0", &["00:16:3e:00:00:01"]);
    let meant = |tables: &Tables| fences::of(&tables.ruleset())[0].guards[0].meant();
    assert_eq!(meant(&tables), Some(own.clone()));
    tables.enforce(std::slice::from_ref(&own));
    let fences = fences::of(&tables.ruleset());
    assert_eq!(fences[0].guards[0].whole(), Some(own));
    assert_eq!(fences[0].guards[0].dropped.foreign, Some(3));
    assert!(!tables.chains.contains_key(&("filter", name.to_owned())));
}

#[test]
fn a_port_is_never_without_a_rule_of_either_kind() {
    let old = "-s ! 02:00:00:00:09:05 -i p0 -j DROP";
    let wide = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:00:00 -o p0 -j DROP";
    let mut tables = Tables::of(&[old, wide]);
    let mut steps = enforce(
        &tables.ruleset(),
        &rules(&[guard("p0", &["0:16:3e:0:0:1"])]),
    );
    for call in steps.drain(..) {
        tables.run(&call);
        let all: Vec<_> = tables.places.values().flatten().collect();
        for way in ["-i p0 -j DROP", "-o p0 -j"] {
            assert!(all.iter().any(|rule| rule.contains(way)), "{call:?}");
        }
    }
}

#[test]
fn all_is_added_before_anything_goes_and_no_table_twice_in_a_row() {
    let tables = Tables::of(&[FROM, TO]);
    let calls = enforce(
        &tables.ruleset(),
        &rules(&[guard("p0", &[]), guard("p1", &[])]),
    );
    let parts = calls.chunk_by(|a, b| a.table == b.table);
    let parts: Vec<_> = parts.map(|part| part[0].table).collect();
    assert_eq!(parts, ["nat", "filter"]);
    let is_deletion = |call: &Call| call.words[0] == "-D";
    let first = calls.iter().position(is_deletion).unwrap();
    assert!(calls[first..].iter().all(is_deletion), "{calls:?}");
    assert_eq!(calls[first..].len(), 2);
}

#[test]
fn vms_that_trust_the_same_senders_share_a_chain_that_goes_with_the_last() {
    let router = "00:16:3e:00:00:01";
    let of = |tables: &Tables, table| {
        let chains = tables.chains.iter().filter(|((of, _), _)| *of == table);
        chains.map(|(_, rules)| rules.len()).collect::<Vec<_>>()
    };
    let mut tables = Tables::of(&[]);
    tables.enforce(&[guard("p0", &[router]), guard("p1", &[router])]);
    assert_eq!(
        (of(&tables, "nat"), of(&tables, "filter")),
        (vec![4], vec![4])
    );
    assert_eq!(tables.at(FORWARD).len(), 4);
    tables.enforce(&[guard("p0", &[])]);
    assert_eq!(of(&tables, "filter").len(), 2);
    tables.enforce(&[guard("p1", &[])]);
    assert_eq!(
        (of(&tables, "nat"), of(&tables, "filter")),
        (vec![4], vec![3])
    );
    assert_eq!(tables.at(FORWARD).len(), 2);
    for call in release(&tables.ruleset(), |_| true) {
        tables.run(&call);
    }
    assert!(tables.chains.is_empty(), "{:?}", tables.chains);
}

#[test]
fn a_chain_that_somebody_edited_is_replaced_and_not_edited_while_frames_pass_it() {
    let own = [guard("p0", &["00:16:3e:00:00:01"])];
    for table in TABLES {
        let mut tables = Tables::of(&[]);
        tables.enforce(&own);
        let id = tables.chains.keys().find(|id| id.0 == table).unwrap();
        let id = id.clone();
        tables.chain(table, &id.1).clear();
        let guards = fences::of(&tables.ruleset());
        assert_eq!(guards[0].guards[0].whole(), None);
        let calls = tables.enforce(&own);
        let names: Vec<_> = tables.chains.keys().filter(|id| id.0 == table).collect();
        assert_eq!(names, [&(table, format!("{}x", id.1))]);
        assert!(calls[0].starts_with("-N"), "{calls:?}");
        let rules = tables.ruleset().rules;
        assert!(rules.iter().all(|rule| rule.rule.is_some()));
    }
}

#[test]
fn a_chain_that_somebody_else_uses_stays() {
    let mut tables = Tables::of(&[]);
    tables.enforce(&[guard("p0", &[])]);
    let id = tables.chains.keys().find(|id| id.0 == "nat").unwrap();
    let (id, theirs) = (id.clone(), format!("-p ARP -j {}", id.1));
    tables.chain("nat", "PREROUTING").push(theirs);
    for call in release(&tables.ruleset(), |_| true) {
        // The real ebtables would refuse to delete it.
        assert_ne!(call.words, ["-X", &id.1]);
        tables.run(&call);
    }
    assert_eq!(tables.chains.keys().collect::<Vec<_>>(), [&id]);
}

#[test]
fn rules_that_ebtables_cannot_tell_apart_are_deleted_by_number() {
    // ebtables ignores masks when it looks for a rule to delete.
    let others = "-s 02:00:00:00:00:00 -o p0 -j DROP";
    let mut tables = Tables::of(&[others, TO]);
    let calls = tables.enforce(&[guard("p0", &[])]);
    assert!(calls.contains(&"-D FORWARD 3".to_owned()), "{calls:?}");
    assert_eq!(tables.at(FORWARD), [others.to_owned(), foreign()]);
    // A new rule that differs from the old one only in its mask.
    let wide = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:00:00 -o p0 -j DROP";
    let mut tables = Tables::of(&[&wide.replace("DROP", &foreign_chain())]);
    tables.chains.insert(
        ("filter", foreign_chain()),
        tables_of_p0()
            .chains
            .into_iter()
            .find(|(id, _)| id.0 == "filter")
            .unwrap()
            .1,
    );
    let calls = tables.enforce(&[guard("p0", &[])]);
    assert!(calls.contains(&"-D FORWARD 2".to_owned()), "{calls:?}");
    assert_eq!(tables.at(FORWARD), [foreign()]);
}

fn foreign_chain() -> String {
    foreign().split(' ').next_back().unwrap().to_owned()
}

fn tables_of_p0() -> Tables {
    let mut tables = Tables::of(&[]);
    tables.enforce(&[guard("p0", &[])]);
    tables
}

#[test]
fn the_rule_of_overheard_frames_is_not_taken_for_that_of_foreign_ones() {
    // The rule of version 0.1, added by the seed's script after us.
    let own = [guard("p0", &["00:16:3e:00:00:01"])];
    let mut tables = Tables::of(&[]);
    tables.enforce(&own);
    let right = tables.at(FORWARD).to_vec();
    tables.chain("filter", "FORWARD").push(TO.to_owned());
    let calls = tables.enforce(&own);
    assert_eq!(calls, ["-D FORWARD 3"]);
    assert_eq!(tables.at(FORWARD), right);
}

#[test]
fn a_release_deletes_the_rules_of_its_ports_and_no_other() {
    let other = "-s ! 02:00:00:00:01:05 -i p1 -j DROP";
    let mut tables = Tables::of(&[FROM, OTHERS, other, TO]);
    tables.enforce(&[guard("p2", &["00:16:3e:00:00:01"])]);
    for port in ["p0", "p2"] {
        for call in release(&tables.ruleset(), |rule| rule.port().as_str() == port) {
            tables.run(&call);
        }
    }
    assert_eq!(tables.at(FORWARD), [OTHERS, other]);
    assert_eq!(tables.at(PREROUTING), [""; 0]);
    assert_eq!(tables.at(INPUT), [""; 0]);
    assert!(tables.chains.is_empty());
}

#[test]
fn a_port_is_new_until_a_rule_checks_its_senders_before_the_bridge_learns() {
    let desired = rules(&[guard("p0", &[]), guard("p1", &[])]);
    let mut tables = Tables::of(&[FROM, TO]);
    let names = |tables: &Tables| {
        let ports = new_ports(&tables.ruleset(), &desired);
        ports.iter().map(Port::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&tables), ["p0", "p1"]);
    tables.enforce(&[guard("p0", &[])]);
    assert_eq!(names(&tables), ["p1"]);
    tables.enforce(&[guard("p1", &[])]);
    assert_eq!(names(&tables), [""; 0]);
}
