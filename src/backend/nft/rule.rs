//! A guard as flat rules of a VM's chain, and back. [`super::statement`] has each rule's statements.

use std::collections::BTreeMap;

use crate::fence::{ActualGuard, Guard, Hears};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::Port;

/// One rule in a VM's chain. All of them only drop, so their order does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Drops a frame from the port under another source address than the NIC's.
    Spoofed {
        /// Where the frame comes from.
        port: Port,
        /// The only source address that it may carry.
        mac: MacAddr,
        /// Whether the port hears all networks. Remembered here, because otherwise a port without
        /// the rule `Foreign` has lost it.
        hears_all: bool,
    },
    /// Drops a frame from the port that is meant for the bridge itself: a control frame, or an IGMP
    /// or MLD query.
    Meddling {
        /// Where the frame comes from.
        port: Port,
        /// Whether queries are let pass.
        queries: bool,
    },
    /// Drops a frame to the port from a sender outside these networks.
    Foreign {
        /// Where the frame goes.
        port: Port,
        /// The NIC's network.
        own: MacPrefix,
        /// Who else may be heard.
        trusted: Vec<MacPrefix>,
    },
    /// Drops a unicast frame to the port from a sender outside the NIC's network, that is from a
    /// trusted one, if it is for another address. A bridge floods a frame to an address that it
    /// does not know.
    Overheard {
        /// Where the frame goes.
        port: Port,
        /// The NIC's network.
        own: MacPrefix,
        /// The NIC's address.
        mac: MacAddr,
    },
}

impl Rule {
    /// The rules that make up a guard.
    pub fn of(guard: &Guard) -> Vec<Self> {
        let port = || guard.port.clone();
        let mut rules = vec![
            Self::Spoofed {
                port: port(),
                mac: guard.mac,
                hears_all: guard.hears == Hears::All,
            },
            Self::Meddling {
                port: port(),
                queries: guard.queries,
            },
        ];
        if let Hears::Network { prefix, trusted } = &guard.hears {
            rules.push(Self::Foreign {
                port: port(),
                own: *prefix,
                trusted: trusted.clone(),
            });
            if !trusted.is_empty() {
                rules.push(Self::Overheard {
                    port: port(),
                    own: *prefix,
                    mac: guard.mac,
                });
            }
        }
        rules
    }

    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed { port, .. }
            | Self::Meddling { port, .. }
            | Self::Foreign { port, .. }
            | Self::Overheard { port, .. } => port,
        }
    }

    /// The base chains from which frames must come to this rule.
    #[cfg(test)]
    fn places(&self) -> &'static [&'static str] {
        match self {
            Self::Spoofed { .. } | Self::Meddling { .. } => &["prerouting", "input"],
            Self::Foreign { .. } | Self::Overheard { .. } => &["forward"],
        }
    }

    /// What a guard without this rule lacks, in words.
    fn lack(&self) -> String {
        let port = self.port();
        match self {
            Self::Meddling { .. } => {
                format!("no rule against control frames and multicast queries from \"{port}\"")
            }
            Self::Overheard { .. } => {
                format!("no rule against frames of trusted senders to others, out to \"{port}\"")
            }
            // Told by what the guard says.
            Self::Spoofed { .. } | Self::Foreign { .. } => String::new(),
        }
    }
}

/// What these rules, with the packets that they dropped, say about each port.
pub fn guards<'a>(rules: impl Iterator<Item = (&'a Rule, u64)>) -> Vec<ActualGuard> {
    let mut by_port: Vec<(&Port, Vec<(&Rule, u64)>)> = Vec::new();
    let mut indexes: BTreeMap<&Port, usize> = BTreeMap::new();
    for (rule, packets) in rules {
        let index = *indexes.entry(rule.port()).or_insert(by_port.len());
        match by_port.get_mut(index) {
            Some((_, rules)) => rules.push((rule, packets)),
            None => by_port.push((rule.port(), vec![(rule, packets)])),
        }
    }
    let guards = by_port.into_iter();
    guards.map(|(port, rules)| guard(port, &rules)).collect()
}

fn guard(port: &Port, rules: &[(&Rule, u64)]) -> ActualGuard {
    let mut guard = ActualGuard::none(port.clone());
    let mut extras = Vec::new();
    for (rule, packets) in rules {
        let count = |dropped: &mut Option<u64>| {
            *dropped = Some(dropped.unwrap_or_default() + packets);
        };
        match rule {
            Rule::Spoofed { mac, hears_all, .. } => {
                guard.macs.push(*mac);
                guard.hears.extend(hears_all.then_some(Hears::All));
                count(&mut guard.dropped.spoofed);
            }
            Rule::Foreign { own, trusted, .. } => {
                guard.hears.push(Hears::Network {
                    prefix: *own,
                    trusted: trusted.clone(),
                });
                count(&mut guard.dropped.foreign);
            }
            Rule::Meddling { queries, .. } => {
                guard.queries |= queries;
                extras.push(*rule);
            }
            Rule::Overheard { .. } => {
                extras.push(*rule);
                count(&mut guard.dropped.foreign);
            }
        }
    }
    guard.defects = defects(&guard, extras);
    guard
}

/// What is missing beside the address and who is heard, and what is too much, each in words.
fn defects(guard: &ActualGuard, mut extras: Vec<&Rule>) -> Vec<String> {
    let meant = guard.meant().map(|meant| Rule::of(&meant));
    let mut defects = Vec::new();
    for rule in meant.iter().flatten() {
        if matches!(rule, Rule::Meddling { .. } | Rule::Overheard { .. }) {
            match extras.iter().position(|extra| *extra == rule) {
                Some(index) => drop(extras.remove(index)),
                None => defects.push(rule.lack()),
            }
        }
    }
    if meant.is_some() && !extras.is_empty() {
        defects.push(format!(
            "{} rules too many for port \"{}\"",
            extras.len(),
            guard.port
        ));
    }
    defects
}

#[cfg(test)]
mod tests {
    use super::super::skeleton::Skeleton;
    use super::*;

    fn guard(hears: Hears) -> Guard {
        Guard {
            port: "one-1-0".parse().unwrap(),
            mac: "02:00:c0:a8:00:05".parse().unwrap(),
            hears,
            queries: false,
        }
    }

    fn network(trusted: &[&str]) -> Hears {
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
        }
    }

    const ROUTER: &str = "00:16:3e:00:00:01";

    #[test]
    fn every_guard_can_be_read_back_from_its_rules() {
        for hears in [network(&[]), network(&[ROUTER]), Hears::All] {
            for queries in [false, true] {
                let guard = Guard {
                    queries,
                    ..guard(hears.clone())
                };
                let rules = Rule::of(&guard);
                let read = guards(rules.iter().map(|rule| (rule, 1)));
                assert_eq!(read.len(), 1);
                assert_eq!(read[0].whole(), Some(guard));
            }
        }
    }

    #[test]
    fn a_guard_without_any_one_of_its_rules_is_not_whole() {
        for hears in [network(&[]), network(&[ROUTER]), Hears::All] {
            let all = Rule::of(&guard(hears));
            for lost in &all {
                let rest = all.iter().filter(|rule| *rule != lost);
                let read = guards(rest.map(|rule| (rule, 0)));
                assert_eq!(read[0].whole(), None, "{lost:?}");
            }
        }
    }

    #[test]
    fn rules_that_belong_to_another_guard_are_a_defect() {
        let overheard = Rule::of(&guard(network(&[ROUTER]))).pop().unwrap();
        let mut rules = Rule::of(&guard(network(&[])));
        rules.push(overheard);
        let read = guards(rules.iter().map(|rule| (rule, 0)));
        let defect = "1 rules too many for port \"one-1-0\"";
        assert_eq!(read[0].defects, [defect]);
        assert_eq!(read[0].whole(), None);
    }

    #[test]
    fn what_an_earlier_version_lacks_is_named_and_what_it_meant_is_known() {
        let now = guard(network(&[ROUTER]));
        let rules = Rule::of(&now);
        let old = [&rules[0], &rules[2]];
        let read = guards(old.into_iter().map(|rule| (rule, 0)));
        assert_eq!(read[0].meant(), Some(now));
        assert_eq!(read[0].defects.len(), 2, "{:?}", read[0].defects);
    }

    #[test]
    fn a_rule_twice_shows_in_the_guard_and_its_drops_are_added() {
        let rules = Rule::of(&guard(network(&[])));
        let twice = guards(rules.iter().chain(&rules).zip(1..));
        assert_eq!(twice.len(), 1);
        assert_eq!((twice[0].macs.len(), twice[0].hears.len()), (2, 2));
        assert_eq!(twice[0].dropped.spoofed, Some(1 + 4));
        assert_eq!(twice[0].dropped.foreign, Some(3 + 6));
    }

    #[test]
    fn every_rule_is_reached_from_the_base_chains_where_it_belongs() {
        let chains = Skeleton::read().unwrap().chains();
        for rule in Rule::of(&guard(network(&[ROUTER]))) {
            let key = match rule {
                Rule::Spoofed { .. } | Rule::Meddling { .. } => "iifname",
                Rule::Foreign { .. } | Rule::Overheard { .. } => "oifname",
            };
            for place in rule.places() {
                assert!(
                    chains[*place].looks_up().contains(&key),
                    "{rule:?}: {place}"
                );
            }
        }
    }
}
