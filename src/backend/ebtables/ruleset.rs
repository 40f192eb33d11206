//! What ebtables lists of the filter table.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::rule::{CHAIN_PREFIX, DROP, Listed, Shape};
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
    /// Chains that let trusted senders return and drop all others; `None`: the chain has our
    /// name but is something else.
    pub chains: BTreeMap<String, Option<Vec<MacPrefix>>>,
}

/// A rule in `FORWARD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRule {
    /// The rule; `None`: it leads to a chain that somebody has changed.
    pub rule: Option<Rule>,
    /// What it matches.
    pub shape: Shape,
    /// `DROP`, or a chain of ours.
    pub target: String,
    /// How many frames matched, where ebtables tells.
    pub packets: Option<u64>,
}

impl HeldRule {
    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        match &self.shape {
            Shape::From(port, _) | Shape::To(port, _) => port,
        }
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
        for line in listing.lines().filter(|line| !line.is_empty()) {
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
        for (name, rules) in &chains {
            if name.starts_with(CHAIN_PREFIX) {
                ruleset.chains.insert((*name).to_owned(), trusted(rules));
            }
        }
        for line in chains.remove("FORWARD").unwrap_or_default() {
            match Listed::read(line).and_then(|listed| ruleset.ours(&listed)) {
                Some(rule) => ruleset.rules.push(rule),
                None => {
                    let text = Listed::read(line).map_or(line, |listed| listed.text);
                    ruleset.others.push(text.to_owned());
                }
            }
        }
        Ok(ruleset)
    }

    fn ours(&self, listed: &Listed) -> Option<HeldRule> {
        let shape = listed.shape()?;
        let trusted = match self.chains.get(listed.target) {
            Some(trusted) => trusted.clone(),
            None if listed.target == DROP => Some(Vec::new()),
            None => return None,
        };
        let rule = trusted.and_then(|trusted| match shape.clone() {
            Shape::From(port, mac) => trusted.is_empty().then_some(Rule::Spoofed { port, mac }),
            Shape::To(port, own) => Some(Rule::Foreign { port, own, trusted }),
        });
        let target = listed.target.to_owned();
        Some(HeldRule {
            rule,
            shape,
            target,
            packets: listed.packets,
        })
    }
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
        -s ! 2:0:c0:a8:0:0/ff:ff:ff:ff:ff:0 -o a -j macfence-x , pcnt = 3 -- bcnt = 4\n\
        -s ! 2:0:c0:a8:0:5 -i a -j DROP , pcnt = 5 -- bcnt = 6\n\
        -s ! 2:0:c0:a8:0:0/ff:ff:ff:ff:ff:0 -o b -j macfence-y , pcnt = 0 -- bcnt = 0\n\n\
        Bridge chain: macfence-x, entries: 2, policy: RETURN\n\
        -s 0:16:3e:0:0:1 -j RETURN , pcnt = 0 -- bcnt = 0\n\
        -j DROP , pcnt = 0 -- bcnt = 0\n\n\
        Bridge chain: macfence-y, entries: 1, policy: RETURN\n\
        -j RETURN , pcnt = 0 -- bcnt = 0\n";

    #[test]
    fn a_listing_is_told_apart_into_ours_and_others() {
        let ruleset = Ruleset::read(LISTING).unwrap();
        assert_eq!(ruleset.others, ["-p ARP -j ACCEPT"]);
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
                (Some(Rule::Spoofed { port: a, mac }), Some(5)),
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
