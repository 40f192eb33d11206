//! Which calls of ebtables make the rules what they should be, in an order in which no VM is ever
//! less fenced than before or after: first what is added, then what goes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{CHAIN_PREFIX, DROP, Fingerprint, Place, Rule, sender_words};
use super::ruleset::{ActualRule, ChainId, Ruleset};
use crate::mac::MacPrefix;
use crate::vm::Port;

/// One call of ebtables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The table that it changes.
    pub table: &'static str,
    /// Its words after the table.
    pub words: Vec<String>,
}

impl Call {
    fn new(table: &'static str, words: &[&str]) -> Self {
        Self {
            table,
            words: owned(words),
        }
    }

    /// The same call with more words.
    fn with(mut self, words: Vec<String>) -> Self {
        self.words.extend(words);
        self
    }
}

/// What turns `actual` into these rules for their ports. A rule that replaces another takes its
/// place, so that it is passed by the same frames; a new one goes to the end, as the seed's do.
pub fn enforce(actual: &Ruleset, desired: &[Rule]) -> Vec<Call> {
    let ports: BTreeSet<_> = desired.iter().map(|rule| rule.shape.port()).collect();
    let mut by_port: BTreeMap<&Port, Vec<&ActualRule>> = BTreeMap::new();
    for rule in actual
        .rules
        .iter()
        .filter(|rule| ports.contains(rule.port()))
    {
        by_port.entry(rule.port()).or_default().push(rule);
    }
    let mut calls = Vec::new();
    let mut surplus = Vec::new();
    let mut needed = BTreeSet::new();
    let mut fingerprints = BTreeSet::new();
    let mut chains = actual.chains.clone();
    let mut inserts = BTreeMap::new();
    let mut appends = Vec::new();
    for rule in desired {
        let of_port = by_port.entry(rule.shape.port()).or_default();
        let is_alike =
            |now: &mut &ActualRule| now.place == rule.place && now.shape.is_like(&rule.shape);
        let alike: Vec<_> = of_port.extract_if(.., is_alike).collect();
        // The first of its kind counts, as others may let frames pass before the next. If it is
        // right it stays, with its counter: the seed adds a rule again and again.
        let is_right = |first: &&&ActualRule| first.rule.as_ref() == Some(rule);
        let kept = alike.first().filter(is_right);
        surplus.extend(alike.iter().skip(usize::from(kept.is_some())).copied());
        if kept.is_some() {
            continue;
        }
        let target = if rule.trusted.is_empty() {
            DROP.to_owned()
        } else {
            let chain = chain_for(actual, &mut chains, rule, &mut calls);
            needed.insert((rule.place.table, chain.clone()));
            chain
        };
        fingerprints.insert((rule.place, rule.shape.fingerprint(&target)));
        let words = [rule.shape.words(), owned(&["-j", &target])].concat();
        match alike.first() {
            Some(first) => drop(inserts.insert((rule.place, first.number), words)),
            None => appends.push((rule.place, words)),
        }
    }
    surplus.extend(by_port.into_values().flatten());
    // From the last place to the first, so that no call moves what a later one counts.
    for ((place, number), words) in inserts.iter().rev() {
        let insert = Call::new(place.table, &["-I", place.chain, &number.to_string()]);
        calls.push(insert.with(words.clone()));
    }
    for (place, words) in appends {
        calls.push(Call::new(place.table, &["-A", place.chain]).with(words));
    }
    let moved =
        |place: Place, number: usize| number + inserts.range((place, 0)..=(place, number)).count();
    calls.extend(delete(actual, &surplus, &needed, &fingerprints, moved));
    calls
}

/// What deletes these rules of `actual`.
pub fn release(actual: &Ruleset, is_surplus: impl Fn(&ActualRule) -> bool) -> Vec<Call> {
    let surplus: Vec<_> = actual
        .rules
        .iter()
        .filter(|rule| is_surplus(rule))
        .collect();
    let none = BTreeSet::new();
    delete(actual, &surplus, &none, &BTreeSet::new(), |_, number| {
        number
    })
}

/// Deletes rules, and the chains that no other rule leads to nor is going to. New rules have these
/// `fingerprints` by now, and a rule's number is what `moved` makes of it.
fn delete(
    actual: &Ruleset,
    surplus: &[&ActualRule],
    needed: &BTreeSet<ChainId>,
    fingerprints: &BTreeSet<(Place, Fingerprint)>,
    moved: impl Fn(Place, usize) -> usize,
) -> Vec<Call> {
    let mut calls = Vec::new();
    // By its words where they can mean no other rule: whatever others do meanwhile, it is that one.
    // By its number otherwise, the last first, and before any other number changes.
    let (by_words, by_number): (Vec<&ActualRule>, Vec<&ActualRule>) =
        surplus.iter().partition(|rule| {
            rule.is_unmistakable && !fingerprints.contains(&(rule.place, rule.fingerprint()))
        });
    let numbers = by_number
        .iter()
        .map(|rule| (rule.place, moved(rule.place, rule.number)));
    let numbers: BTreeSet<_> = numbers.collect();
    for (place, number) in numbers.iter().rev() {
        calls.push(Call::new(
            place.table,
            &["-D", place.chain, &number.to_string()],
        ));
    }
    for rule in by_words {
        let Place { table, chain } = rule.place;
        calls.push(Call::new(table, &["-D", chain]).with(rule.words()));
    }
    let gone: BTreeSet<_> = surplus
        .iter()
        .map(|rule| (rule.place, rule.number))
        .collect();
    let stay = actual
        .rules
        .iter()
        .filter(|rule| !gone.contains(&(rule.place, rule.number)));
    let used: BTreeSet<_> = stay
        .map(|rule| (rule.place.table, rule.target.clone()))
        .collect();
    // Also what an interrupted run has made and not used.
    let is_free =
        |id: &&ChainId| !used.contains(*id) && !needed.contains(*id) && !actual.others_use(&id.1);
    for (table, chain) in actual.chains.keys().filter(is_free) {
        calls.push(Call::new(table, &["-F", chain]));
        calls.push(Call::new(table, &["-X", chain]));
    }
    calls
}

/// The chain that trusts just these; what has to be done to make it goes to `calls`. Its name is a
/// digest of what it holds: VMs that trust the same share one.
fn chain_for(
    actual: &Ruleset,
    chains: &mut BTreeMap<ChainId, Option<Vec<MacPrefix>>>,
    rule: &Rule,
    calls: &mut Vec<Call>,
) -> String {
    let (table, trusted) = (rule.place.table, &rule.trusted);
    let is_it = |(id, other): &(&ChainId, &Option<Vec<_>>)| {
        id.0 == table && other.as_ref() == Some(trusted)
    };
    if let Some(((_, name), _)) = chains.iter().find(is_it) {
        return name.clone();
    }
    let text: String = trusted.iter().map(MacPrefix::to_string).collect();
    let mut id = (
        table,
        format!("{CHAIN_PREFIX}{:016x}", fnv1a(text.as_bytes())),
    );
    let in_use = |(table, name): &ChainId| {
        let leads_there = |rule: &ActualRule| rule.place.table == *table && rule.target == *name;
        actual.rules.iter().any(leads_there) || actual.others_use(name)
    };
    // Somebody has changed the chain of that name, and frames pass it.
    while chains.contains_key(&id) && in_use(&id) {
        id.1.push('x');
    }
    calls.push(if chains.contains_key(&id) {
        Call::new(table, &["-F", &id.1])
    } else {
        Call::new(table, &["-N", &id.1, "-P", "RETURN"])
    });
    calls.extend(fill_chain(&id, trusted));
    chains.insert(id.clone(), Some(trusted.clone()));
    id.1
}

/// Fills a chain that no rule leads to yet: in any order.
fn fill_chain((table, name): &ChainId, trusted: &[MacPrefix]) -> Vec<Call> {
    let rule = |sender: &MacPrefix| {
        let words = [sender_words(*sender), owned(&["-j", "RETURN"])].concat();
        Call::new(table, &["-A", name]).with(words)
    };
    let mut calls: Vec<_> = trusted.iter().map(rule).collect();
    calls.push(Call::new(table, &["-A", name, "-j", DROP]));
    calls
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// FNV-1a, 64 bits: the same on every host and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests;
