//! Turns a guard into rules of a VM's chain, and back. [`super::statement`] has each rule's statements.

use std::collections::BTreeMap;

use super::address_guard::{self, Check};
use crate::fence::{ActualGuard, Guard, Hears};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::Port;

/// One rule in a VM's chain. The order does not matter, as all rules drop, except that a rule that logs
/// must come before the one that drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Drops a frame from the port under a source address that is not the VM's.
    Spoofed {
        /// Where the frame comes from.
        port: Port,
        /// The only source addresses that it may carry, the NIC's own first.
        senders: Vec<MacAddr>,
        /// Whether the port hears all networks. Noted here to tell such a port from one that has lost
        /// its rule `Foreign`. [`crate::memory`] knows what the port should hear.
        hears_all: bool,
    },
    /// Drops a frame from the port that the bridge itself would act on: a control frame, or an IGMP or
    /// MLD query.
    Meddling {
        /// Where the frame comes from.
        port: Port,
        /// Whether queries pass.
        queries: bool,
    },
    /// Drops a frame to the port from a sender outside these networks.
    Foreign {
        /// Where the frame goes.
        port: Port,
        /// The NIC's network.
        own: MacPrefix,
        /// Other networks that may be heard.
        trusted: Vec<MacPrefix>,
        /// Ports whose frames may be heard, too.
        trusted_ports: Vec<Port>,
    },
    /// Drops a unicast frame to the port from a trusted sender outside the NIC's network, if the frame
    /// is for another address. A bridge floods frames to addresses that it does not know.
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
        /// The check that drops.
        check: Check,
    },
    /// Logs some of the frames that a later rule drops. It is a separate rule with a limit: a limit in
    /// the rule that drops would limit the drops.
    Logged {
        /// The group of netlink sockets that get the log.
        group: u16,
        /// The rule that drops: `Spoofed`, `Foreign` or `Forged`.
        of: Box<Rule>,
    },
}

impl Rule {
    /// Returns the rules that make up a guard.
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
        if let Some(group) = guard.log {
            let logged = rules.iter().filter(|rule| rule.is_logged());
            let log = |rule: &Self| Self::Logged {
                group,
                of: Box::new(rule.clone()),
            };
            // List them where they are loaded: in front.
            let logs: Vec<_> = logged.map(log).collect();
            rules.splice(0..0, logs);
        }
        rules
    }

    /// The port that the rule guards.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed { port, .. }
            | Self::Meddling { port, .. }
            | Self::Foreign { port, .. }
            | Self::Overheard { port, .. }
            | Self::Forged { port, .. } => port,
            Self::Logged { of, .. } => of.port(),
        }
    }

    fn is_logged(&self) -> bool {
        matches!(
            self,
            Self::Spoofed { .. } | Self::Foreign { .. } | Self::Forged { .. }
        )
    }

    /// Tells whether the rule sees frames only if it comes before others.
    pub fn must_be_first(&self) -> bool {
        matches!(self, Self::Logged { .. })
    }

    /// Tells whether the rule is useless after this one.
    pub fn is_void_behind(&self, other: &Self) -> bool {
        matches!(self, Self::Logged { of, .. } if **of == *other)
    }

    /// The base chains that must lead to this rule.
    #[cfg(test)]
    fn places(&self) -> &'static [&'static str] {
        match self {
            Self::Spoofed { .. } | Self::Meddling { .. } | Self::Forged { .. } => {
                &["prerouting", "input"]
            }
            Self::Foreign { .. } | Self::Overheard { .. } => &["forward"],
            Self::Logged { of, .. } => of.places(),
        }
    }

    /// Says, for people, what a guard without this rule lacks.
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
            Self::Logged { group, .. } => {
                format!("no rule that logs drops at \"{port}\" to nflog:{group}")
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

/// Returns each port's guard as these rules make it. Each rule comes with the packets that it dropped.
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
    guard.log = Some(None);
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
            Rule::Logged { group, .. } => guard.log = Some(Some(*group)),
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

/// Describes missing and surplus rules, for people. Empty if the rules do not even tell the VM's
/// address and network: the guard itself shows that.
fn defects(guard: &ActualGuard, rules: &[(&Rule, u64)]) -> Vec<String> {
    let Some(meant) = guard.meant() else {
        return Vec::new();
    };
    let mut rules: Vec<_> = rules.iter().map(|(rule, _)| *rule).collect();
    let mut defects = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut before = rules.iter().take(index);
        if before.any(|before| rule.is_void_behind(before)) {
            let port = &guard.port;
            defects.push(format!(
                "a rule that should log drops at \"{port}\" comes after the rule that drops"
            ));
        }
    }
    for rule in Rule::of(&meant) {
        match rules.iter().position(|actual| **actual == rule) {
            Some(index) => drop(rules.remove(index)),
            None => defects.push(rule.lack()),
        }
    }
    // A second rule about the address or the network already shows in the guard itself.
    rules.retain(|rule| !matches!(rule, Rule::Spoofed { .. } | Rule::Foreign { .. }));
    if !rules.is_empty() {
        let port = &guard.port;
        defects.push(match rules.len() {
            1 => format!("1 rule too many for port \"{port}\""),
            n => format!("{n} rules too many for port \"{port}\""),
        });
    }
    defects
}

#[cfg(test)]
mod tests;
