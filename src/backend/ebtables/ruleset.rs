//! What ebtables lists of the tables in which we have rules.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::rule::{CHAIN_PREFIX, DROP, Fingerprint, Listed, PLACES, Place, Rule, Shape};
use crate::fence::{ActualFence, ActualGuard, Hears};
use crate::mac::MacPrefix;
use crate::vm::Port;

/// A chain of ours: its table and its name.
pub type ChainId = (&'static str, String);

/// Our rules and chains, and everybody else's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The rules of our shapes at their places, in order.
    pub rules: Vec<ActualRule>,
    /// All other rules, as listed: somebody else's.
    pub others: Vec<String>,
    /// Chains of ours: who may return from them, all others being dropped. `None`: somebody has
    /// changed the chain, or a run was interrupted while it made it.
    pub chains: BTreeMap<ChainId, Option<Vec<MacPrefix>>>,
}

/// A rule in one of our places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualRule {
    /// The rule; `None`: it leads to a chain that is not as it should be.
    pub rule: Option<Rule>,
    /// Where it is.
    pub place: Place,
    /// Its number there, from 1.
    pub number: usize,
    /// What it matches.
    pub shape: Shape,
    /// `DROP`, or a chain of ours.
    pub target: String,
    /// How many frames matched, where ebtables tells.
    pub packets: Option<u64>,
    /// Whether ebtables finds it by its words: whether no other rule can be taken for it.
    pub is_unmistakable: bool,
}

impl ActualRule {
    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        self.shape.port()
    }

    /// What ebtables may know the rule by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shape.fingerprint(&self.target)
    }

    /// The words that ebtables knows the rule by.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.shape.words();
        words.extend(["-j".to_owned(), self.target.clone()]);
        words
    }
}

impl Ruleset {
    /// Adds what `ebtables -t TABLE -L --Lc` prints.
    ///
    /// # Errors
    /// If it is something else.
    pub fn read(&mut self, table: &'static str, listing: &str) -> Result<()> {
        let mut chains = chains(listing);
        for (name, rules) in chains.iter().filter(|(name, _)| is_ours(name)) {
            let id = (table, (*name).to_owned());
            self.chains.insert(id, trusted(rules));
        }
        for place in PLACES.iter().filter(|place| place.table == table) {
            let rules = chains.remove(place.chain);
            ensure!(rules.is_some(), "ebtables printed an unknown listing");
            self.read_place(*place, &rules.unwrap_or_default());
        }
        // Rules of other chains may lead to ours as well, though nobody should.
        let elsewhere = chains.iter().filter(|(name, _)| !is_ours(name));
        let elsewhere = elsewhere.flat_map(|(_, rules)| rules);
        self.others.extend(elsewhere.map(|rule| (*rule).to_owned()));
        Ok(())
    }

    fn read_place(&mut self, place: Place, lines: &[&str]) {
        let listed: Vec<_> = lines.iter().map(|line| Listed::read(line)).collect();
        let shared = fingerprints(&listed);
        for (index, (line, listed)) in lines.iter().zip(&listed).enumerate() {
            let ours = listed.as_ref().and_then(|listed| self.ours(place, listed));
            match ours {
                Some(rule) => self.rules.push(ActualRule {
                    number: index + 1,
                    is_unmistakable: shared.get(&rule.fingerprint()) == Some(&1),
                    ..rule
                }),
                None => {
                    let text = listed.as_ref().map_or(*line, |listed| listed.text);
                    self.others.push(text.to_owned());
                }
            }
        }
    }

    fn ours(&self, place: Place, listed: &Listed) -> Option<ActualRule> {
        let shape = listed
            .shape()
            .filter(|shape| shape.places().contains(&place))?;
        let chain = self.chains.get(&(place.table, listed.target.to_owned()));
        let trusted = match (&shape, chain) {
            (_, None) if listed.target == DROP => Some(Vec::new()),
            (Shape::To(..), Some(trusted)) => trusted.clone(),
            _ => return None,
        };
        Some(ActualRule {
            rule: trusted.map(|trusted| Rule {
                place,
                shape: shape.clone(),
                trusted,
            }),
            place,
            number: 0,
            shape,
            target: listed.target.to_owned(),
            packets: listed.packets,
            is_unmistakable: false,
        })
    }

    /// Whether a rule that is not ours leads to this chain.
    pub fn others_use(&self, chain: &str) -> bool {
        let leads_there = |rule: &String| rule.split_whitespace().any(|word| word == chain);
        self.others.iter().any(leads_there)
    }

    /// The ports that rules of ours stand in front of, each once.
    pub fn ports(&self) -> BTreeSet<&Port> {
        self.rules.iter().map(ActualRule::port).collect()
    }

    /// The fence of each port: rules name no VM.
    pub fn fences(&self) -> Vec<ActualFence> {
        let mut guards: BTreeMap<&Port, ActualGuard> = BTreeMap::new();
        for actual in &self.rules {
            let Some(rule) = &actual.rule else { continue };
            let port = actual.port();
            let guard = guards.entry(port);
            let guard = guard.or_insert_with(|| ActualGuard::none(port.clone()));
            let dropped = match &rule.shape {
                Shape::From(_, mac) => {
                    guard.macs.push(*mac);
                    &mut guard.dropped.spoofed
                }
                Shape::To(_, own) => {
                    guard.hears.push(Hears::Network {
                        prefix: *own,
                        trusted: rule.trusted.clone(),
                    });
                    &mut guard.dropped.foreign
                }
            };
            *dropped = actual
                .packets
                .map(|packets| dropped.unwrap_or_default() + packets);
        }
        let fence = |guard| ActualFence {
            vm: None,
            chain: "FORWARD".to_owned(),
            guards: vec![guard],
            defects: Vec::new(),
        };
        guards.into_values().map(fence).collect()
    }
}

/// The lines of each chain of a listing.
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

/// In how many rules each fingerprint is.
fn fingerprints(listed: &[Option<Listed>]) -> BTreeMap<Fingerprint, usize> {
    let mut counts = BTreeMap::new();
    for listed in listed.iter().flatten() {
        for fingerprint in listed.fingerprints().into_iter().collect::<BTreeSet<_>>() {
            *counts.entry(fingerprint).or_default() += 1;
        }
    }
    counts
}

/// Whether a chain's name is one that we give.
fn is_ours(name: &str) -> bool {
    name.strip_prefix(CHAIN_PREFIX).is_some_and(|digest| {
        digest.len() >= 16
            && digest[..16].bytes().all(|b| b.is_ascii_hexdigit())
            && digest[16..].bytes().all(|b| b == b'x')
    })
}

/// The senders that a chain of ours trusts.
fn trusted(rules: &[&str]) -> Option<Vec<MacPrefix>> {
    let rules = rules
        .iter()
        .map(|line| Listed::read(line))
        .collect::<Option<Vec<_>>>()?;
    let (last, senders) = rules.split_last()?;
    if senders.is_empty() || !last.matches_all() || last.target != DROP {
        return None;
    }
    senders.iter().map(Listed::sender).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Guard;

    const LISTING: &str = "Bridge table: filter\n\n\
        Bridge chain: INPUT, entries: 0, policy: ACCEPT\n\n\
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
    fn a_listing_is_told_apart_into_ours_and_others() {
        let mut ruleset = Ruleset::default();
        ruleset.read("filter", LISTING).unwrap();
        assert_eq!(ruleset.others, ["-p ARP -j ACCEPT"]);
        let numbers: Vec<_> = ruleset.rules.iter().map(|rule| rule.number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        // The last one leads to a chain that lets all frames pass.
        let whole: Vec<_> = ruleset.rules.iter().map(|r| r.rule.is_some()).collect();
        assert_eq!(whole, [true, true, false]);
        let fences = ruleset.fences();
        assert_eq!(fences.len(), 1);
        let guard = &fences[0].guards[0];
        let expected = Guard {
            port: "a".parse().unwrap(),
            mac: "02:00:c0:a8:00:05".parse().unwrap(),
            hears: Hears::Network {
                prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
                trusted: vec!["00:16:3e:00:00:01/48".parse().unwrap()],
            },
            queries: false,
        };
        assert_eq!(guard.whole(), Some(expected));
        assert_eq!(guard.dropped.foreign, Some(3));
        assert_eq!(guard.dropped.spoofed, Some(5));
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
