//! Which calls of ebtables make the rules what they should be, in an order in which no VM is ever
//! less fenced than before or after: first what is added, then what goes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{CHAIN_PREFIX, DROP, Look, Shape, sender_words};
use super::ruleset::{HeldRule, Ruleset};
use crate::fence::{self, Rule};
use crate::mac::MacPrefix;
use crate::vm::Port;

/// The words of one ebtables call, after the table.
pub type Call = Vec<String>;

/// What brings `held` to these rules for their ports. A rule that replaces another takes its
/// place, so that it is passed by the same frames; a new one goes to the end, as the seed's do.
pub fn enforce(held: &Ruleset, wanted: &[Rule]) -> Vec<Call> {
    let mut alike: BTreeMap<(&Port, bool), Vec<&HeldRule>> = BTreeMap::new();
    let ports = fence::ports(wanted);
    for rule in held.rules.iter().filter(|rule| ports.contains(rule.port())) {
        alike
            .entry((rule.port(), rule.shape.is_from()))
            .or_default()
            .push(rule);
    }
    let mut calls = Vec::new();
    let mut surplus = Vec::new();
    let mut needed = BTreeSet::new();
    let mut looks = BTreeSet::new();
    let mut chains = held.chains.clone();
    let mut inserts = BTreeMap::new();
    let mut appends = Vec::new();
    for rule in wanted {
        let shape = Shape::of(rule);
        let now = alike
            .remove(&(rule.port(), shape.is_from()))
            .unwrap_or_default();
        // The first of its kind counts, as others may let frames pass before the next. If it is
        // right it stays, with its counter: the seed adds a rule again and again.
        let kept = now
            .first()
            .filter(|first| first.rule.as_ref() == Some(rule));
        surplus.extend(now.iter().skip(usize::from(kept.is_some())).copied());
        if kept.is_some() {
            continue;
        }
        let target = match rule {
            Rule::Foreign { trusted, .. } if !trusted.is_empty() => {
                let name = chain_for(held, &mut chains, trusted, &mut calls);
                needed.insert(name.clone());
                name
            }
            _ => DROP.to_owned(),
        };
        looks.insert(shape.look(&target));
        let words = [shape.words(), words(&["-j", &target])].concat();
        match now.first() {
            Some(first) => drop(inserts.insert(first.number, words)),
            None => appends.push(words),
        }
    }
    surplus.extend(alike.into_values().flatten());
    // From the last place to the first, so that no call moves what a later one counts.
    for (number, rule) in inserts.iter().rev() {
        calls.push(
            [
                self::words(&["-I", "FORWARD", &number.to_string()]),
                rule.clone(),
            ]
            .concat(),
        );
    }
    for rule in appends {
        calls.push([self::words(&["-A", "FORWARD"]), rule].concat());
    }
    let moved = |number: usize| number + inserts.range(..=number).count();
    calls.extend(delete(held, &surplus, &needed, &looks, moved));
    calls
}

/// What deletes these rules of `held`.
pub fn release(held: &Ruleset, is_surplus: impl Fn(&HeldRule) -> bool) -> Vec<Call> {
    let surplus: Vec<_> = held.rules.iter().filter(|rule| is_surplus(rule)).collect();
    let none = BTreeSet::new();
    delete(held, &surplus, &none, &BTreeSet::new(), |number| number)
}

/// Deletes rules, and the chains that no other rule leads to nor is going to. New rules have these
/// `looks` by now, and a rule's number is what `moved` makes of it.
fn delete(
    held: &Ruleset,
    surplus: &[&HeldRule],
    needed: &BTreeSet<String>,
    looks: &BTreeSet<Look>,
    moved: impl Fn(usize) -> usize,
) -> Vec<Call> {
    let mut calls = Vec::new();
    // By its words where they can mean no other rule: whatever others do meanwhile, it is that one.
    // By its number otherwise, the last first, and before any other number changes.
    let (by_words, by_number): (Vec<&HeldRule>, Vec<&HeldRule>) = surplus
        .iter()
        .partition(|rule| rule.is_unmistakable && !looks.contains(&rule.look()));
    let mut numbers: Vec<_> = by_number.iter().map(|rule| moved(rule.number)).collect();
    numbers.sort_unstable();
    for number in numbers.iter().rev() {
        calls.push(words(&["-D", "FORWARD", &number.to_string()]));
    }
    for rule in by_words {
        calls.push([words(&["-D", "FORWARD"]), rule.words()].concat());
    }
    let gone: BTreeSet<_> = surplus.iter().map(|rule| rule.number).collect();
    let stay = held
        .rules
        .iter()
        .filter(|rule| !gone.contains(&rule.number));
    let used: BTreeSet<_> = stay.map(|rule| rule.target.as_str()).collect();
    // Also what an interrupted run has made and not used.
    let free =
        |c: &&String| !used.contains(c.as_str()) && !needed.contains(*c) && !held.others_use(c);
    for chain in held.chains.keys().filter(free) {
        calls.push(words(&["-F", chain]));
        calls.push(words(&["-X", chain]));
    }
    calls
}

/// The chain that trusts just these; what has to be done to make it goes to `calls`. Its name is a
/// digest of what it holds: VMs that trust the same share one.
fn chain_for(
    held: &Ruleset,
    chains: &mut BTreeMap<String, Option<Vec<MacPrefix>>>,
    trusted: &[MacPrefix],
    calls: &mut Vec<Call>,
) -> String {
    let is_it = |(_, other): &(&String, &Option<Vec<_>>)| other.as_deref() == Some(trusted);
    if let Some((name, _)) = chains.iter().find(is_it) {
        return name.clone();
    }
    let text: String = trusted.iter().map(MacPrefix::to_string).collect();
    let mut name = format!("{CHAIN_PREFIX}{:016x}", fnv1a(text.as_bytes()));
    let in_use =
        |name: &str| held.rules.iter().any(|rule| rule.target == name) || held.others_use(name);
    // Somebody has changed the chain of that name, and frames pass it.
    while chains.contains_key(&name) && in_use(&name) {
        name.push('x');
    }
    calls.push(match chains.contains_key(&name) {
        true => words(&["-F", &name]),
        false => words(&["-N", &name, "-P", "RETURN"]),
    });
    calls.extend(fill_chain(&name, trusted));
    chains.insert(name.clone(), Some(trusted.to_vec()));
    name
}

/// Fills a chain that no rule leads to yet: in any order.
fn fill_chain(name: &str, trusted: &[MacPrefix]) -> Vec<Call> {
    let rule = |sender: &MacPrefix| {
        [
            words(&["-A", name]),
            sender_words(*sender),
            words(&["-j", "RETURN"]),
        ]
        .concat()
    };
    let mut calls: Vec<_> = trusted.iter().map(rule).collect();
    calls.push(words(&["-A", name, "-j", DROP]));
    calls
}

fn words(words: &[&str]) -> Call {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// FNV-1a, 64 bits: the same on every host and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
