//! A guard as flat rules of a VM's chain, and back. [`super::statement`] has each rule's statements.

use std::collections::BTreeMap;

use super::address_guard::{self, Check};
use crate::fence::{ActualGuard, Guard, Hears};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::Port;

/// One rule in a VM's chain. All of them only drop, so their order does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Drops a frame from the port under a source address that is not the VM's.
    Spoofed {
        /// Where the frame comes from.
        port: Port,
        /// The only source addresses that it may carry, the NIC's own first.
        senders: Vec<MacAddr>,
        /// Whether the port hears all networks. Noted here, because otherwise a port without the
        /// rule `Foreign` has lost it. Who wants to know what the port should hear asks
        /// [`crate::memory`].
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
        /// What comes in through these ports may be heard, too.
        trusted_ports: Vec<Port>,
    },
    /// Drops a unicast frame to the port from a sender outside the NIC's network, that is from a
    /// trusted one, if it is for another address. A bridge floods a frame to an address that it
    /// does not know.
    Overheard {
        /// Where the frame goes.
        port: Port,
        /// The NIC's network.
        own: MacPrefix,
        /// The VM's addresses.
        receivers: Vec<MacAddr>,
    },
    /// Drops a frame from the port that the address guard does not let pass.
    Forged {
        /// Where the frame comes from.
        port: Port,
        /// What is dropped.
        check: Check,
    },
}

impl Rule {
    /// The rules that make up a guard.
    pub fn of(guard: &Guard) -> Vec<Self> {
        let port = || guard.port.clone();
        let mut rules = vec![
            Self::Spoofed {
                port: port(),
                senders: guard.senders().collect(),
                hears_all: guard.hears == Hears::All,
            },
            Self::Meddling {
                port: port(),
                queries: guard.queries,
            },
        ];
        if let Hears::Network {
            prefix,
            trusted,
            trusted_ports,
        } = &guard.hears
        {
            rules.push(Self::Foreign {
                port: port(),
                own: *prefix,
                trusted: trusted.clone(),
                trusted_ports: trusted_ports.clone(),
            });
            if !trusted.is_empty() || !trusted_ports.is_empty() {
                rules.push(Self::Overheard {
                    port: port(),
                    own: *prefix,
                    receivers: guard.senders().collect(),
                });
            }
        }
        let checks = address_guard::checks(guard).into_iter();
        rules.extend(checks.map(|check| Self::Forged {
            port: port(),
            check,
        }));
        rules
    }

    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed { port, .. }
            | Self::Meddling { port, .. }
            | Self::Foreign { port, .. }
            | Self::Overheard { port, .. }
            | Self::Forged { port, .. } => port,
        }
    }

    /// The base chains from which frames must come to this rule.
    #[cfg(test)]
    fn places(&self) -> &'static [&'static str] {
        match self {
            Self::Spoofed { .. } | Self::Meddling { .. } | Self::Forged { .. } => {
                &["prerouting", "input"]
            }
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
            Self::Forged { check, .. } => {
                format!("no rule against \"{}\" from \"{port}\"", check.name())
            }
            Self::Spoofed { .. } => {
                format!("rules that contradict each other about who sends from \"{port}\"")
            }
            Self::Foreign { .. } => {
                format!("rules that contradict each other about who is heard at \"{port}\"")
            }
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
    for (rule, packets) in rules {
        let count = |dropped: &mut Option<u64>| {
            *dropped = Some(dropped.unwrap_or_default() + packets);
        };
        match rule {
            Rule::Spoofed {
                senders, hears_all, ..
            } => {
                let mut senders = senders.iter().copied();
                guard.macs.extend(senders.next());
                guard.extra_macs.extend(senders);
                guard.hears.extend(hears_all.then_some(Hears::All));
                count(&mut guard.dropped.spoofed);
            }
            Rule::Foreign {
                own,
                trusted,
                trusted_ports,
                ..
            } => {
                guard.hears.push(Hears::Network {
                    prefix: *own,
                    trusted: trusted.clone(),
                    trusted_ports: trusted_ports.clone(),
                });
                count(&mut guard.dropped.foreign);
            }
            Rule::Meddling { queries, .. } => guard.queries |= queries,
            Rule::Overheard { .. } => count(&mut guard.dropped.foreign),
            Rule::Forged { check, .. } => {
                check.tell(&mut guard);
                count(&mut guard.dropped.forged);
            }
        }
    }
    guard.extra_macs.sort_unstable();
    guard.extra_macs.dedup();
    guard.defects = defects(&guard, rules);
    guard
}

/// What is missing beside the address and who is heard, and what is too much, each in words.
fn defects(guard: &ActualGuard, rules: &[(&Rule, u64)]) -> Vec<String> {
    let Some(meant) = guard.meant() else {
        return Vec::new();
    };
    let mut rules: Vec<_> = rules.iter().map(|(rule, _)| *rule).collect();
    let mut defects = Vec::new();
    for rule in Rule::of(&meant) {
        match rules.iter().position(|actual| **actual == rule) {
            Some(index) => drop(rules.remove(index)),
            None => defects.push(rule.lack()),
        }
    }
    // A second rule about the address or the network shows in the guard itself.
    rules.retain(|rule| !matches!(rule, Rule::Spoofed { .. } | Rule::Foreign { .. }));
    if !rules.is_empty() {
        let (surplus, port) = (rules.len(), &guard.port);
        defects.push(format!("{surplus} rules too many for port \"{port}\""));
    }
    defects
}

#[cfg(test)]
mod tests {
    use super::super::skeleton::Skeleton;
    use super::*;

    fn guard(hears: Hears) -> Guard {
        Guard::new(
            "one-1-0".parse().unwrap(),
            "02:00:c0:a8:00:05".parse().unwrap(),
            hears,
        )
    }

    fn network(trusted: &[&str]) -> Hears {
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            trusted_ports: Vec::new(),
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
                Rule::Spoofed { .. } | Rule::Meddling { .. } | Rule::Forged { .. } => "iifname",
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
