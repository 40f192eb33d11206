//! Plans the calls of ebtables that make the rules what they should be. The order never leaves a VM
//! less fenced than before or after: first add, then delete. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Content;
use super::listed::Counters;
use super::rule::{Action, Rule};
use super::ruleset::{ActualRule, ChainId, Ruleset};
use super::shape::{DROP, Fingerprint, PREROUTING, Place, Shape, TABLES};
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

    /// Appends words to the call.
    fn with(mut self, words: Vec<String>) -> Self {
        self.words.extend(words);
        self
    }
}

/// Plans the calls that turn `actual` into these rules for their ports. A rule that replaces another
/// takes its place, so that the same frames pass it. A new rule goes to the end, as the seed's do.
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
        // The first rule of its kind counts, because others' rules in between may let frames pass. If
        // it is right it stays, with its counter. The seed adds its rules again at every call.
        let is_right = |first: &&&ActualRule| first.rule.as_ref() == Some(rule);
        let kept = alike.first().filter(is_right);
        surplus.extend(alike.iter().skip(usize::from(kept.is_some())).copied());
        if kept.is_some() {
            continue;
        }
        let target = match &rule.action {
            Action::Drop => DROP.to_owned(),
            Action::Chain(content) => {
                let table = rule.place.table;
                let chain = chain_for(actual, &mut chains, table, content, &mut calls);
                needed.insert((table, chain.clone()));
                chain
            }
        };
        let prints = rule.shape.fingerprints(&target).into_iter();
        fingerprints.extend(prints.map(|print| (rule.place, print)));
        let mut words = [rule.shape.words(), owned(&["-j", &target])].concat();
        words.extend(counted(rule, alike.iter().chain(of_port.iter()).copied()));
        match alike.first() {
            Some(first) => drop(inserts.insert((rule.place, first.number), words)),
            None => appends.push((rule.place, words)),
        }
    }
    surplus.extend(by_port.into_values().flatten());
    // Insert from the last place to the first, so that no call shifts the numbers of later ones.
    for ((place, number), words) in inserts.iter().rev() {
        let insert = Call::new(place.table, &["-I", place.chain, &number.to_string()]);
        calls.push(insert.with(words.clone()));
    }
    for (place, words) in appends {
        calls.push(Call::new(place.table, &["-A", place.chain]).with(words));
    }
    calls.sort_by_key(|call| position(call.table));
    let moved =
        |place: Place, number: usize| number + inserts.range((place, 0)..=(place, number)).count();
    calls.extend(delete(actual, &surplus, &needed, &fingerprints, moved));
    calls
}

/// The ports whose senders' addresses were not yet checked before the bridge learned them.
pub fn new_ports(actual: &Ruleset, desired: &[Rule]) -> Vec<Port> {
    let is_check =
        |place, shape: &Shape| place == PREROUTING && matches!(shape, Shape::Spoofed(..));
    let checked = actual.rules.iter();
    let checked = checked.filter(|rule| is_check(rule.place, &rule.shape));
    let checked: BTreeSet<_> = checked.map(ActualRule::port).collect();
    let desired = desired
        .iter()
        .filter(|rule| is_check(rule.place, &rule.shape));
    let ports = desired.map(|rule| rule.shape.port());
    let ports = ports.filter(|port| !checked.contains(port));
    ports.cloned().collect()
}

/// The words that give a new rule the counters of the rules that it replaces. Only the counters that
/// are shown need to be kept, and the replaced rules are those of version 0.1 and of the seed.
fn counted<'a>(rule: &Rule, gone: impl Iterator<Item = &'a ActualRule>) -> Vec<String> {
    let counts = match rule.shape {
        // Not for a rule that leads to a chain of the port's own: then the chain counts.
        Shape::Spoofed(..) => rule.action == Action::Drop,
        Shape::Foreign(..) => true,
        _ => false,
    };
    if !counts {
        return Vec::new();
    }
    let counters = gone
        .filter(|gone| gone.shape == rule.shape)
        .filter_map(|gone| gone.counters);
    match counters.fold(Counters::default(), Counters::plus) {
        Counters { packets: 0, .. } => Vec::new(),
        Counters { packets, bytes } => owned(&["-c", &packets.to_string(), &bytes.to_string()]),
    }
}

/// Tables in the order in which rules are added.
fn position(table: &str) -> Option<usize> {
    TABLES.iter().position(|one| *one == table)
}

/// Plans the calls that delete these rules of `actual`.
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

/// Deletes rules, and the chains that no remaining or new rule leads to. The new rules have these
/// `fingerprints`, and `moved` returns a rule's number after the calls before.
fn delete(
    actual: &Ruleset,
    surplus: &[&ActualRule],
    needed: &BTreeSet<ChainId>,
    fingerprints: &BTreeSet<(Place, Fingerprint)>,
    moved: impl Fn(Place, usize) -> usize,
) -> Vec<Call> {
    let mut calls = Vec::new();
    // Delete a rule by its words if they match no other rule: then others' changes meanwhile do no
    // harm. Otherwise delete by number, the last rule first, and before any other number changes.
    let is_new = |place, print: &Fingerprint| fingerprints.contains(&(place, print.clone()));
    let (by_words, by_number): (Vec<&ActualRule>, Vec<&ActualRule>) =
        surplus.iter().partition(|rule| {
            let mut unshared = rule.unshared.iter();
            unshared.any(|print| !is_new(rule.place, print))
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
    // This includes chains that an interrupted run made and never used.
    let is_free =
        |id: &&ChainId| !used.contains(*id) && !needed.contains(*id) && !actual.others_use(id);
    for (table, chain) in actual.chains.keys().filter(is_free) {
        calls.push(Call::new(table, &["-F", chain]));
        calls.push(Call::new(table, &["-X", chain]));
    }
    // Handling one table after the other takes the fewest processes. The additions end with the last
    // table, so start there.
    calls.sort_by_key(|call| std::cmp::Reverse(position(call.table)));
    calls
}

/// Returns the name of a chain with these contents. Adds to `calls` what creates it, if needed.
fn chain_for(
    actual: &Ruleset,
    chains: &mut BTreeMap<ChainId, Option<Content>>,
    table: &'static str,
    content: &Content,
    calls: &mut Vec<Call>,
) -> String {
    let is_it = |(id, other): &(&ChainId, &Option<Content>)| {
        id.0 == table && other.as_ref() == Some(content)
    };
    if let Some(((_, name), _)) = chains.iter().find(is_it) {
        return name.clone();
    }
    let mut id = (table, content.name());
    let in_use = |id: &ChainId| {
        let leads_there = |rule: &ActualRule| rule.place.table == id.0 && rule.target == id.1;
        actual.rules.iter().any(leads_there) || actual.others_use(id)
    };
    // Somebody has edited the chain of that name, and frames pass it.
    while chains.contains_key(&id) && in_use(&id) {
        id.1.push('x');
    }
    calls.push(if chains.contains_key(&id) {
        Call::new(table, &["-F", &id.1])
    } else {
        Call::new(table, &["-N", &id.1, "-P", "RETURN"])
    });
    for rule in content.rules() {
        let rule = rule.split(' ').map(str::to_owned).collect();
        calls.push(Call::new(table, &["-A", &id.1]).with(rule));
    }
    let (name, content) = (id.1.clone(), Some(content.clone()));
    chains.insert(id, content);
    name
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests;
