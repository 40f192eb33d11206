//! Which calls of ebtables make the rules what they should be, in an order in which no VM is ever
//! less fenced than before or after: first what is added, then what goes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{CHAIN_PREFIX, DROP, Shape, sender_words};
use super::ruleset::{HeldRule, Ruleset};
use crate::fence::Rule;
use crate::mac::MacPrefix;
use crate::vm::Port;

/// The words of one ebtables call, after the table.
pub type Call = Vec<String>;

/// What brings `held` to these rules for their ports.
pub fn enforce(held: &Ruleset, wanted: &[Rule]) -> Vec<Call> {
    let mut missing: BTreeMap<&Port, Vec<&Rule>> = BTreeMap::new();
    for rule in wanted {
        missing.entry(rule.port()).or_default().push(rule);
    }
    let mut surplus = Vec::new();
    for rule in &held.rules {
        let Some(missing) = missing.get_mut(rule.port()) else {
            continue;
        };
        match missing.iter().position(|m| Some(*m) == rule.rule.as_ref()) {
            // The first of its kind stays, with its counter; the seed adds a rule again and again.
            Some(index) => drop(missing.remove(index)),
            None => surplus.push(rule),
        }
    }
    let mut calls = Vec::new();
    let mut needed = BTreeSet::new();
    let mut chains = held.chains.clone();
    for rule in missing.into_values().flatten() {
        let target = match rule {
            Rule::Foreign { trusted, .. } if !trusted.is_empty() => {
                let (name, is_new) = chain_for(&chains, trusted);
                if is_new {
                    calls.extend(make_chain(&name, trusted));
                    chains.insert(name.clone(), Some(trusted.clone()));
                }
                name
            }
            _ => DROP.to_owned(),
        };
        calls.push(call("-A", Shape::of(rule).words(), &target));
        needed.insert(target);
    }
    calls.extend(delete(held, &surplus, &needed));
    calls
}

/// What deletes every rule of `held` that stands in front of one of these ports.
pub fn release(held: &Ruleset, ports: &[Port]) -> Vec<Call> {
    let ports: BTreeSet<_> = ports.iter().collect();
    let surplus: Vec<_> = held
        .rules
        .iter()
        .filter(|r| ports.contains(r.port()))
        .collect();
    delete(held, &surplus, &BTreeSet::new())
}

/// Deletes rules, and the chains that no other rule leads to nor is going to.
fn delete(held: &Ruleset, surplus: &[&HeldRule], needed: &BTreeSet<String>) -> Vec<Call> {
    let mut calls: Vec<_> = surplus
        .iter()
        .map(|rule| [words(&["-D", "FORWARD"]), rule.words()].concat())
        .collect();
    let gone: BTreeSet<_> = surplus
        .iter()
        .map(|rule| std::ptr::from_ref(*rule))
        .collect();
    let stay = held
        .rules
        .iter()
        .filter(|rule| !gone.contains(&std::ptr::from_ref(*rule)));
    let used: BTreeSet<_> = stay.map(|rule| rule.target.as_str()).collect();
    // Also what an interrupted run has made and not used.
    for chain in held
        .chains
        .keys()
        .filter(|c| !used.contains(c.as_str()) && !needed.contains(*c))
    {
        calls.push(words(&["-F", chain]));
        calls.push(words(&["-X", chain]));
    }
    calls
}

/// The chain that trusts just these, and whether it has to be made. Its name is a digest of what
/// it holds: VMs that trust the same share one.
fn chain_for(
    chains: &BTreeMap<String, Option<Vec<MacPrefix>>>,
    trusted: &[MacPrefix],
) -> (String, bool) {
    if let Some((name, _)) = chains
        .iter()
        .find(|(_, held)| held.as_deref() == Some(trusted))
    {
        return (name.clone(), false);
    }
    let text: String = trusted.iter().map(MacPrefix::to_string).collect();
    let mut name = format!("{CHAIN_PREFIX}{:016x}", fnv1a(text.as_bytes()));
    // Somebody has changed the chain of that name.
    while chains.contains_key(&name) {
        name.push('x');
    }
    (name, true)
}

/// A chain that no rule leads to yet: it may be made in any order.
fn make_chain(name: &str, trusted: &[MacPrefix]) -> Vec<Call> {
    let mut calls = vec![words(&["-N", name, "-P", "RETURN"])];
    for sender in trusted {
        let rule = [
            words(&["-A", name]),
            sender_words(*sender),
            words(&["-j", "RETURN"]),
        ];
        calls.push(rule.concat());
    }
    calls.push(words(&["-A", name, "-j", DROP]));
    calls
}

fn call(what: &str, matches: Vec<String>, target: &str) -> Call {
    [words(&[what, "FORWARD"]), matches, words(&["-j", target])].concat()
}

fn words(words: &[&str]) -> Call {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// FNV-1a, 64 bits: the same on every host and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
