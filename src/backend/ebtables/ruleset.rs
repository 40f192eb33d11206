//! Reads the tables in which we have rules from ebtables' listings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::chain::{Content, Igmp, is_ours};
use super::listed::{Counters, Listed};
use super::rule::{Action, Rule};
use super::shape::{FORWARD, Fingerprint, PLACES, Place, Receivers, Shape};
use crate::vm::Port;

/// A chain of ours: its table and its name.
pub type ChainId = (&'static str, String);

/// Our rules and chains, and all other rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// How this ebtables matches IGMP queries, and so how our rules should.
    pub igmp: Igmp,
    /// The rules of our shapes at their places, in order.
    pub rules: Vec<ActualRule>,
    /// All other rules of `FORWARD`, as listed. They belong to others.
    pub others: Vec<String>,
    /// Our chains and their contents. `None`: somebody has edited the chain, or a run was interrupted
    /// while it created the chain.
    pub chains: BTreeMap<ChainId, Option<Content>>,
    /// What our chains have dropped, if ebtables tells.
    dropped: BTreeMap<ChainId, Counters>,
    /// Our chains to which other people's rules lead, though none should.
    targets: BTreeSet<ChainId>,
}

/// A rule in one of our places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualRule {
    /// The rule; `None`: it leads to a chain whose contents are wrong.
    pub rule: Option<Rule>,
    /// Where it is.
    pub place: Place,
    /// Its number there, from 1.
    pub number: usize,
    /// What it matches.
    pub shape: Shape,
    /// `DROP`, or a chain of ours.
    pub target: String,
    /// Its counters, if ebtables tells. If the rule leads to a chain of this port alone: the counters
    /// of the chain's drops.
    pub counters: Option<Counters>,
    /// The fingerprints that no other rule there shares. If there are any, ebtables can find the rule
    /// by its words.
    pub unshared: Vec<Fingerprint>,
}

impl ActualRule {
    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        self.shape.port()
    }

    /// The words by which ebtables finds the rule.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.shape.words();
        words.extend(["-j".to_owned(), self.target.clone()]);
        words
    }
}

impl Ruleset {
    /// An empty ruleset, for an ebtables that matches IGMP queries in this way.
    pub fn new(igmp: Igmp) -> Self {
        Self {
            igmp,
            ..Self::default()
        }
    }

    /// Adds the output of `ebtables -t TABLE -L --Lc`.
    ///
    /// # Errors
    /// If it is not such a listing.
    pub fn read(&mut self, table: &'static str, listing: &str) -> Result<()> {
        let mut chains = chains(listing);
        for (name, rules) in chains.iter().filter(|(name, _)| is_ours(name)) {
            let id = (table, (*name).to_owned());
            self.chains.insert(id.clone(), Content::read(rules));
            let rules = rules.iter().filter_map(|rule| Listed::read(rule));
            let dropped = rules.filter(Listed::drops).filter_map(|rule| rule.counters);
            if let Some(dropped) = dropped.reduce(Counters::plus) {
                self.dropped.insert(id, dropped);
            }
        }
        for place in PLACES.iter().filter(|place| place.table == table) {
            let rules = chains.remove(place.chain);
            ensure!(
                rules.is_some(),
                "cannot read what ebtables lists of table {table}: it has no chain {}",
                place.chain
            );
            self.read_place(*place, &rules.unwrap_or_default());
        }
        let elsewhere = chains.iter().filter(|(name, _)| !is_ours(name));
        for line in elsewhere.flat_map(|(_, rules)| rules) {
            self.note_targets(table, line);
        }
        Ok(())
    }

    fn read_place(&mut self, place: Place, lines: &[&str]) {
        let listed: Vec<_> = lines.iter().map(|line| Listed::read(line)).collect();
        let shared = fingerprints(&listed);
        for (index, (line, listed)) in lines.iter().zip(&listed).enumerate() {
            let ours = listed.as_ref().and_then(|listed| self.ours(place, listed));
            if let Some(mut rule) = ours {
                rule.number = index + 1;
                rule.unshared = rule.shape.fingerprints(&rule.target);
                rule.unshared.retain(|print| shared.get(print) == Some(&1));
                self.rules.push(rule);
                continue;
            }
            self.note_targets(place.table, line);
            if place == FORWARD {
                let text = listed.as_ref().map_or(*line, |listed| listed.text);
                self.others.push(text.to_owned());
            }
        }
    }

    fn ours(&self, place: Place, listed: &Listed) -> Option<ActualRule> {
        let shape = listed.shape()?;
        if !shape.places().contains(&place) {
            return None;
        }
        let needs_chain = match shape {
            Shape::Meddling(_, Receivers::Groups) | Shape::Addresses(_) => true,
            Shape::Meddling(_, Receivers::Bridges) if !listed.drops() => return None,
            _ => false,
        };
        let id = (place.table, listed.target.to_owned());
        let mut counters = listed.counters;
        let action = match self.chains.get(&id) {
            None if listed.drops() && !needs_chain => Some(Action::Drop),
            None => return None,
            Some(content) => {
                let content = content.as_ref().filter(|content| content.is_for(&shape));
                if content.is_some_and(Content::is_of_one_port) {
                    counters = self.dropped.get(&id).copied();
                }
                content.cloned().map(Action::Chain)
            }
        };
        Some(ActualRule {
            rule: action.map(|action| Rule {
                place,
                shape: shape.clone(),
                action,
            }),
            place,
            number: 0,
            shape,
            target: listed.target.to_owned(),
            counters,
            unshared: Vec::new(),
        })
    }

    fn note_targets(&mut self, table: &'static str, line: &str) {
        let words = line.split([' ', ',']).filter(|word| is_ours(word));
        self.targets
            .extend(words.map(|word| (table, word.to_owned())));
    }

    /// Tells whether a rule that is not ours leads to this chain.
    pub fn others_use(&self, chain: &ChainId) -> bool {
        self.targets.contains(chain)
    }

    /// The ports in front of which we have rules.
    pub fn ports(&self) -> BTreeSet<&Port> {
        self.rules.iter().map(ActualRule::port).collect()
    }
}

/// Splits a listing into the lines of each chain.
fn chains(listing: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut chains: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut chain = None;
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(head) = line.strip_prefix("Bridge chain: ") {
            let name = head.split(',').next().unwrap_or(head);
            chains.entry(name).or_default();
            chain = Some(name);
        } else if let Some(rules) = chain.and_then(|chain| chains.get_mut(chain)) {
            rules.push(line);
        }
    }
    chains
}

/// Counts the rules that share each fingerprint.
fn fingerprints(listed: &[Option<Listed>]) -> BTreeMap<Fingerprint, usize> {
    let mut counts = BTreeMap::new();
    for listed in listed.iter().flatten() {
        for fingerprint in listed.fingerprints().into_iter().collect::<BTreeSet<_>>() {
            *counts.entry(fingerprint).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::fences;
    use super::*;
    use crate::fence::{Guard, Hears};

    const LISTING: &str = "Bridge table: filter\n\n\
        Bridge chain: INPUT, entries: 1, policy: ACCEPT\n\
        -p ARP -j macfence-0000000000000000, pcnt = 0 -- bcnt = 0\n\n\
        Bridge chain: FORWARD, entries: 4, policy: ACCEPT\n\
        -p ARP -j ACCEPT , pcnt = 1 -- bcnt = 2\n\
        -s ! 2:0:c0:a8:0:0/ff:ff:ff:ff:ff:0 -o a -j macfence-0123456789abcdef , pcnt = 3 -- bcnt = 4\n\
        -s ! 2:0:c0:a8:0:5 -i a -j DROP , pcnt = 5 -- bcnt = 6\n\
        -s ! 2:0:c0:a8:0:0/ff:ff:ff:ff:ff:0 -o b -j macfence-fedcba9876543210 , pcnt = 0 -- bcnt = 0\n\n\
        Bridge chain: macfence-0123456789abcdef, entries: 2, policy: RETURN\n\
        -s 0:16:3e:0:0:1 -j RETURN , pcnt = 0 -- bcnt = 0\n\
        -j DROP , pcnt = 0 -- bcnt = 0\n\n\
        Bridge chain: macfence-fedcba9876543210, entries: 1, policy: RETURN\n\
        -j RETURN , pcnt = 0 -- bcnt = 0\n";

    #[test]
    fn a_listing_is_split_into_our_rules_and_others() {
        let mut ruleset = Ruleset::default();
        ruleset.read("filter", LISTING).unwrap();
        assert!(ruleset.others_use(&("filter", "macfence-0000000000000000".to_owned())));
        assert!(!ruleset.others_use(&("nat", "macfence-0000000000000000".to_owned())));
        assert_eq!(ruleset.others, ["-p ARP -j ACCEPT"]);
        let numbers: Vec<_> = ruleset.rules.iter().map(|rule| rule.number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        // The last one leads to a chain that lets all frames pass.
        let whole: Vec<_> = ruleset.rules.iter().map(|r| r.rule.is_some()).collect();
        assert_eq!(whole, [true, true, false]);
        let fences = fences::of(&ruleset);
        assert_eq!(fences.len(), 1);
        let guard = &fences[0].guards[0];
        let expected = Guard::new(
            "a".parse().unwrap(),
            "02:00:c0:a8:00:05".parse().unwrap(),
            network("02:00:c0:a8:00:00/40", &["00:16:3e:00:00:01"]),
        );
        assert_eq!(guard.meant(), Some(expected));
        assert_eq!(guard.dropped.foreign, Some(3));
        assert_eq!(guard.dropped.spoofed, Some(5));
    }

    fn network(prefix: &str, trusted: &[&str]) -> Hears {
        Hears::Network {
            prefix: prefix.parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            trusted_ports: Vec::new(),
        }
    }

    /// Three ports: one that trusts no sender, one that hears only itself and two others, and one that
    /// may send queries and hears all networks.
    #[test]
    fn every_ebtables_lists_the_same_guards() {
        for listing in [
            include_str!("../../../tests/captures/ebtables-legacy-2.0.11-list.txt"),
            include_str!("../../../tests/captures/ebtables-legacy-2.0.11-list-unpadded.txt"),
            include_str!("../../../tests/captures/ebtables-legacy-2.0.11-list-without-names.txt"),
            include_str!("../../../tests/captures/ebtables-nft-1.8.9-list.txt"),
            include_str!("../../../tests/captures/ebtables-nft-1.8.9-list-without-names.txt"),
            include_str!("../../../tests/captures/ebtables-nft-1.8.11-list.txt"),
        ] {
            let mut ruleset = Ruleset::default();
            let (nat, filter) = listing.split_at(listing.rfind("Bridge table").unwrap());
            ruleset.read("nat", nat).unwrap();
            ruleset.read("filter", filter).unwrap();
            assert_eq!(ruleset.others, [""; 0]);
            assert_eq!(ruleset.rules.len(), 4 + 5 + 3);
            assert!(ruleset.chains.values().all(Option::is_some), "{ruleset:?}");
            let fences = fences::of(&ruleset);
            let guards: Vec<_> = fences.iter().flat_map(|fence| &fence.guards).collect();
            let trusted = ["00:16:3e:00:00:01", "52:54:00:00:00:00/24"];
            let heard = [
                network("02:00:c0:a8:00:00/40", &[]),
                network("02:00:c0:a8:01:06/48", &trusted),
            ];
            for (guard, hears) in guards.iter().zip(heard) {
                assert_eq!(guard.whole().unwrap().hears, hears);
            }
            assert_eq!(guards[2].hears, []);
            assert!(guards[2].queries);
        }
    }

    #[test]
    fn what_is_not_a_listing_is_an_error() {
        for listing in [
            "",
            "hello",
            "Bridge chain: INPUT, entries: 0, policy: ACCEPT",
        ] {
            assert!(
                Ruleset::default().read("filter", listing).is_err(),
                "{listing}"
            );
        }
    }
}
