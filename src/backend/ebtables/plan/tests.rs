use super::*;
use crate::fence::{Guard, Hears};

/// The guard of a port, whose address ends in the number that its name ends in.
fn guard(port: &str, trusted: &[&str]) -> Guard {
    let number = &port[port.len() - 1..];
    Guard {
        port: port.parse().unwrap(),
        mac: format!("02:00:00:00:0{number}:05").parse().unwrap(),
        hears: Hears::Network {
            prefix: format!("02:00:00:00:0{number}:00/40").parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
        },
        queries: false,
    }
}

fn rules(guards: &[Guard]) -> Vec<Rule> {
    guards.iter().flat_map(Rule::of).collect()
}

/// What ebtables would list after these calls on an empty table, in its own words.
struct Table {
    forward: Vec<String>,
    chains: BTreeMap<String, Vec<String>>,
}

impl Table {
    fn of(forward: &[&str]) -> Self {
        Self {
            forward: owned(forward),
            chains: BTreeMap::new(),
        }
    }

    fn ruleset(&self) -> Ruleset {
        let mut listing = "Bridge table: filter\n\nBridge chain: FORWARD, x\n".to_owned();
        listing += &(self.forward.join("\n") + "\n");
        for (name, rules) in &self.chains {
            listing += &format!("\nBridge chain: {name}, x\n{}\n", rules.join("\n"));
        }
        let mut ruleset = Ruleset::default();
        ruleset.read("filter", &listing).unwrap();
        ruleset
    }

    /// Does what ebtables does. Deleting by words deletes the first rule that looks the same.
    fn run(&mut self, call: &Call) {
        let words: Vec<_> = call.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["-N", chain, "-P", _] => drop(self.chains.insert((*chain).to_owned(), Vec::new())),
            ["-F", chain] => self.chains.get_mut(*chain).unwrap().clear(),
            ["-X", chain] => {
                assert!(
                    self.forward.iter().all(|rule| !rule.ends_with(chain)),
                    "{chain} is used"
                );
                self.chains.remove(*chain).unwrap();
            }
            ["-A", "FORWARD", rule @ ..] => self.forward.push(rule.join(" ")),
            ["-A", chain, rule @ ..] => self.chains.get_mut(*chain).unwrap().push(rule.join(" ")),
            ["-I", "FORWARD", number, rule @ ..] => {
                let number: usize = number.parse().unwrap();
                self.forward.insert(number - 1, rule.join(" "));
            }
            ["-D", "FORWARD", number] => {
                drop(self.forward.remove(number.parse::<usize>().unwrap() - 1));
            }
            ["-D", "FORWARD", rule @ ..] => {
                let rule = rule.join(" ");
                let index = self.forward.iter().position(|one| *one == rule).unwrap();
                self.forward.remove(index);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Runs a plan; returns its calls, one a line.
    fn enforce(&mut self, guards: &[Guard]) -> Vec<String> {
        let calls = enforce(&self.ruleset(), &rules(guards));
        for call in &calls {
            self.run(call);
        }
        calls.iter().map(|call| call.words.join(" ")).collect()
    }
}

const FROM: &str = "-s ! 02:00:00:00:00:05 -i p0 -j DROP";
const TO: &str = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:ff:00 -o p0 -j DROP";
const OTHERS: &str = "-p ARP -j ACCEPT";

#[test]
fn each_state_becomes_the_desired_one_and_a_right_rule_stays() {
    let own = [guard("p0", &[])];
    let old = "-s ! 02:00:00:00:09:05 -i p0 -j DROP";
    let wide = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:00:00 -o p0 -j DROP";
    for (forward, calls, expected) in [
        // New rules go to the end.
        (&[OTHERS][..], 2, &[OTHERS, FROM, TO][..]),
        (&[FROM, OTHERS, TO], 0, &[FROM, OTHERS, TO]),
        (&[FROM], 1, &[FROM, TO]),
        // The script adds its rules at every call.
        (&[FROM, TO, FROM, TO], 2, &[FROM, TO]),
        // A rule that replaces another takes its place.
        (&[old, OTHERS, TO], 2, &[FROM, OTHERS, TO]),
        (&[OTHERS, wide, FROM], 2, &[OTHERS, TO, FROM]),
        // The first of its kind counts, as others may let frames pass before the next.
        (&[old, OTHERS, FROM, TO], 3, &[FROM, OTHERS, TO]),
        (&[old, wide, OTHERS], 4, &[FROM, TO, OTHERS]),
    ] {
        let mut table = Table::of(forward);
        let done = table.enforce(&own);
        assert_eq!(table.forward, expected, "{forward:?}: {done:?}");
        assert_eq!(done.len(), calls, "{forward:?}: {done:?}");
        assert_eq!(table.enforce(&own), [""; 0], "{forward:?}");
    }
}

#[test]
fn a_port_is_never_without_a_rule_of_either_kind() {
    let old = "-s ! 02:00:00:00:09:05 -i p0 -j DROP";
    let wide = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:00:00 -o p0 -j DROP";
    let mut table = Table::of(&[old, wide]);
    for call in enforce(&table.ruleset(), &rules(&[guard("p0", &["0:16:3e:0:0:1"])])) {
        table.run(&call);
        for way in ["-i p0", "-o p0"] {
            assert!(
                table.forward.iter().any(|rule| rule.contains(way)),
                "{call:?}"
            );
        }
    }
}

#[test]
fn vms_that_trust_the_same_senders_share_a_chain_that_goes_with_the_last() {
    let router = "00:16:3e:00:00:01";
    let mut table = Table::of(&[]);
    table.enforce(&[guard("p0", &[router]), guard("p1", &[router])]);
    let chains: Vec<_> = table.chains.values().cloned().collect();
    let full = "-s 00:16:3e:00:00:01/ff:ff:ff:ff:ff:ff -j RETURN";
    assert_eq!(chains, [[full, "-j DROP"]]);
    table.enforce(&[guard("p0", &[])]);
    assert_eq!(table.chains.len(), 1);
    table.enforce(&[guard("p1", &[])]);
    assert_eq!(table.chains.len(), 0);
}

#[test]
fn a_chain_that_somebody_edited_is_replaced_and_not_edited_while_frames_pass_it() {
    let router = guard("p0", &["00:16:3e:00:00:01"]);
    let mut table = Table::of(&[]);
    table.enforce(std::slice::from_ref(&router));
    let name = table.chains.keys().next().unwrap().clone();
    table.chains.get_mut(&name).unwrap().clear();
    let calls = table.enforce(std::slice::from_ref(&router));
    assert_eq!(
        table.chains.keys().collect::<Vec<_>>(),
        [&format!("{name}x")]
    );
    assert!(calls[0].starts_with("-N"), "{calls:?}");
    assert!(table.ruleset().rules.iter().all(|rule| rule.rule.is_some()));
}

#[test]
fn rules_that_ebtables_cannot_tell_apart_are_deleted_by_number() {
    // ebtables ignores masks when it looks for a rule to delete.
    let narrow = "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:ff:f0 -o p0 -j DROP";
    let others = "-s 02:00:00:00:00:00 -o p0 -j DROP";
    let mut table = Table::of(&[others, narrow, FROM]);
    let calls = table.enforce(&[guard("p0", &[])]);
    assert!(calls.contains(&"-D FORWARD 3".to_owned()), "{calls:?}");
    assert_eq!(table.forward, [others, TO, FROM]);
}

#[test]
fn a_release_deletes_the_rules_of_its_ports_and_no_other() {
    let other = "-s ! 02:00:00:00:01:05 -i p1 -j DROP";
    let mut table = Table::of(&[FROM, OTHERS, other, TO]);
    for call in release(&table.ruleset(), |rule| rule.port().as_str() == "p0") {
        table.run(&call);
    }
    assert_eq!(table.forward, [OTHERS, other]);
}
