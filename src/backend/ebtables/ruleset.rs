//! What ebtables lists of the filter table.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::rule::{CHAIN_PREFIX, DROP, Listed, Look, Shape};
use crate::fence::Rule;
use crate::mac::MacPrefix;
use crate::vm::Port;

/// The rules of `FORWARD`, and the chains of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The rules of the seed's shape, in order.
    pub rules: Vec<HeldRule>,
    /// All other rules, as listed: somebody else's.
    pub others: Vec<String>,
    /// Chains of ours: who may return from them, all others being dropped; `None`: somebody has
    /// changed the chain, or a run was interrupted while it made it.
    pub chains: BTreeMap<String, Option<Vec<MacPrefix>>>,
}

/// A rule in `FORWARD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRule {
    /// The rule; `None`: it leads to a chain that is not as it should be.
    pub rule: Option<Rule>,
    /// What it matches.
    pub shape: Shape,
    /// `DROP`, or a chain of ours.
    pub target: String,
    /// How many frames matched, where ebtables tells.
    pub packets: Option<u64>,
    /// Its place in `FORWARD`, from 1.
    pub number: usize,
    /// Whether ebtables finds it by its words: whether no other rule can be taken for it.
    pub is_unmistakable: bool,
}

impl HeldRule {
    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        match &self.shape {
            Shape::From(port, _) | Shape::To(port, _) => port,
        }
    }

    /// What ebtables may know the rule by.
    pub fn look(&self) -> Look {
        self.shape.look(&self.target)
    }

    /// The words that ebtables knows the rule by.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.shape.words();
        words.extend(["-j".to_owned(), self.target.clone()]);
        words
    }
}

impl Ruleset {
    /// Reads what `ebtables -t filter -L --Lc` prints.
    ///
    /// # Errors
    /// If it is something else.
    pub fn read(listing: &str) -> Result<Self> {
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
        ensure!(
            chains.contains_key("FORWARD"),
            "ebtables printed an unknown listing"
        );
        let mut ruleset = Self::default();
        for (name, rules) in chains.iter().filter(|(name, _)| is_ours(name)) {
            ruleset.chains.insert((*name).to_owned(), trusted(rules));
        }
        let forward = chains.remove("FORWARD").unwrap_or_default();
        let listed: Vec<_> = forward.iter().map(|line| Listed::read(line)).collect();
        let looks = looks(&listed);
        for (index, (line, listed)) in forward.iter().zip(&listed).enumerate() {
            let number = index + 1;
            match listed.as_ref().and_then(|listed| ruleset.ours(listed)) {
                Some(rule) => {
                    let is_unmistakable = looks.get(&rule.look()) == Some(&1);
                    ruleset.rules.push(HeldRule {
                        number,
                        is_unmistakable,
                        ..rule
                    });
                }
                None => {
                    let text = listed.as_ref().map_or(*line, |listed| listed.text);
                    ruleset.others.push(text.to_owned());
                }
            }
        }
        // Rules of other chains may lead to ours as well, though nobody should.
        let elsewhere = chains.iter().filter(|(name, _)| !is_ours(name));
        ruleset.others.extend(
            elsewhere
                .flat_map(|(_, rules)| rules)
                .map(|rule| rule.to_string()),
        );
        Ok(ruleset)
    }

    /// Whether a rule that is not ours leads to this chain.
    pub fn others_use(&self, chain: &str) -> bool {
        self.others
            .iter()
            .any(|rule| rule.split_whitespace().any(|word| word == chain))
    }

    fn ours(&self, listed: &Listed) -> Option<HeldRule> {
        let shape = listed.shape()?;
        let rule =
            match (shape.clone(), self.chains.get(listed.target)) {
                (Shape::From(port, mac), None) if listed.target == DROP => Some(Rule::Spoofed {
                    port,
                    mac,
                    alone: false,
                }),
                (Shape::To(port, own), None) if listed.target == DROP => Some(Rule::Foreign {
                    port,
                    own,
                    trusted: Vec::new(),
                }),
                (Shape::To(port, own), Some(trusted)) => trusted
                    .clone()
                    .map(|trusted| Rule::Foreign { port, own, trusted }),
                _ => return None,
            };
        Some(HeldRule {
            rule,
            shape,
            target: listed.target.to_owned(),
            packets: listed.packets,
            number: 0,
            is_unmistakable: false,
        })
    }
}

/// In how many rules each look is.
fn looks(listed: &[Option<Listed>]) -> BTreeMap<Look, usize> {
    let mut looks = BTreeMap::new();
    for listed in listed.iter().flatten() {
        for look in listed.looks().into_iter().collect::<BTreeSet<_>>() {
            *looks.entry(look).or_default() += 1;
        }
    }
    looks
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
        let ruleset = Ruleset::read(LISTING).unwrap();
        assert_eq!(ruleset.others, ["-p ARP -j ACCEPT"]);
        let numbers: Vec<_> = ruleset.rules.iter().map(|rule| rule.number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        let trusted = vec!["00:16:3e:00:00:01/48".parse().unwrap()];
        let a: Port = "a".parse().unwrap();
        let rules: Vec<_> = ruleset
            .rules
            .iter()
            .map(|r| (r.rule.clone(), r.packets))
            .collect();
        let own = "02:00:c0:a8:00:00/40".parse().unwrap();
        let mac = "02:00:c0:a8:00:05".parse().unwrap();
        assert_eq!(
            rules,
            [
                (
                    Some(Rule::Foreign {
                        port: a.clone(),
                        own,
                        trusted
                    }),
                    Some(3)
                ),
                (
                    Some(Rule::Spoofed {
                        port: a,
                        mac,
                        alone: false
                    }),
                    Some(5)
                ),
                (None, Some(0)),
            ]
        );
    }

    #[test]
    fn what_is_not_a_listing_is_an_error() {
        for listing in [
            "",
            "hello",
            "Bridge chain: INPUT, entries: 0, policy: ACCEPT",
        ] {
            assert!(Ruleset::read(listing).is_err(), "{listing}");
        }
    }
}
