//! A guard as flat rules of a VM's chain, as nft statements, and back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression};
use nftables::expr::{Payload, PayloadField};
use nftables::stmt::{AnonymousCounter, Counter, Match, Operator, Statement};

use crate::fence::{ActualGuard, Guard, Hears};
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// One rule in a VM's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Drops a frame from the port under another source address than the NIC's.
    Spoofed {
        /// Where the frame comes from.
        port: Port,
        /// The only source address that it may carry.
        mac: MacAddr,
        /// Whether the port hears all networks. Remembered here, because otherwise a port without
        /// the other rule has lost it.
        hears_all: bool,
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
}

impl Rule {
    /// The rules that make up a guard.
    pub fn of(guard: &Guard) -> Vec<Self> {
        let port = || guard.port.clone();
        let mut rules = vec![Self::Spoofed {
            port: port(),
            mac: guard.mac,
            hears_all: guard.hears == Hears::All,
        }];
        if let Hears::Network { prefix, trusted } = &guard.hears {
            rules.push(Self::Foreign {
                port: port(),
                own: *prefix,
                trusted: trusted.clone(),
            });
        }
        rules
    }

    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed { port, .. } | Self::Foreign { port, .. } => port,
        }
    }

    /// The base chains from which frames must come to this rule.
    #[cfg(test)]
    fn places(&self) -> &'static [&'static str] {
        match self {
            Self::Spoofed { .. } => &["forward"],
            Self::Foreign { .. } => &["forward"],
        }
    }
}

/// What these rules, with the packets that they dropped, say about each port.
pub fn guards<'a>(rules: impl Iterator<Item = (&'a Rule, u64)>) -> Vec<ActualGuard> {
    let mut guards: Vec<ActualGuard> = Vec::new();
    let mut indexes: BTreeMap<&Port, usize> = BTreeMap::new();
    for (rule, packets) in rules {
        let index = *indexes.entry(rule.port()).or_insert(guards.len());
        if index == guards.len() {
            guards.push(ActualGuard::none(rule.port().clone()));
        }
        let guard = &mut guards[index];
        let dropped = match rule {
            Rule::Spoofed { mac, hears_all, .. } => {
                guard.macs.push(*mac);
                guard.hears.extend(hears_all.then_some(Hears::All));
                &mut guard.dropped.spoofed
            }
            Rule::Foreign { own, trusted, .. } => {
                guard.hears.push(Hears::Network {
                    prefix: *own,
                    trusted: trusted.clone(),
                });
                &mut guard.dropped.foreign
            }
        };
        *dropped = Some(dropped.unwrap_or_default() + packets);
    }
    guards
}

/// The comment on the rule of a port that hears all networks.
const HEARS_ALL: &str = "hears all networks";

/// The comment on a rule, if it has one.
pub fn comment(rule: &Rule) -> Option<Cow<'static, str>> {
    let hears_all = matches!(
        rule,
        Rule::Spoofed {
            hears_all: true,
            ..
        }
    );
    hears_all.then_some(Cow::Borrowed(HEARS_ALL))
}

/// The statements of a rule.
pub fn statements(rule: &Rule) -> Vec<Statement<'static>> {
    let mut statements = match rule {
        Rule::Spoofed { port, mac, .. } => drop_spoofed(port, *mac),
        Rule::Foreign { port, own, trusted } => drop_foreign(port, *own, trusted),
    };
    statements.push(Statement::Counter(Counter::Anonymous(None)));
    statements.push(Statement::Drop(None));
    statements
}

/// `iifname PORT ether saddr != MAC`: stops a VM that sends under another's address, be it to
/// receive the other's frames or to be heard in the other's network.
fn drop_spoofed(port: &Port, mac: MacAddr) -> Vec<Statement<'static>> {
    let sender = MacPrefix::of(mac, PrefixLen::FULL);
    vec![passes(MetaKey::Iifname, port), sender_is_not_in(sender)]
}

/// `oifname PORT ether saddr & MASK != NETWORK`, and so for each trusted prefix: stops a VM that
/// listens to the broadcasts, floods and neighbours of other networks.
fn drop_foreign(port: &Port, own: MacPrefix, trusted: &[MacPrefix]) -> Vec<Statement<'static>> {
    let mut statements = vec![passes(MetaKey::Oifname, port), sender_is_not_in(own)];
    statements.extend(trusted.iter().copied().map(sender_is_not_in));
    statements
}

fn passes(device: MetaKey, port: &Port) -> Statement<'static> {
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key: device })),
        right: text(port.to_string()),
        op: Operator::EQ,
    })
}

fn sender_is_not_in(prefix: MacPrefix) -> Statement<'static> {
    let sender = Expression::Named(NamedExpression::Payload(sender()));
    let left = match prefix.len() {
        // nft drops a mask of all ones when it lists the rule.
        PrefixLen::FULL => sender,
        _ => {
            let mask = text(prefix.mask().to_string());
            Expression::BinaryOperation(Box::new(BinaryOperation::AND(sender, mask)))
        }
    };
    let right = text(prefix.base().to_string());
    Statement::Match(Match {
        left,
        right,
        op: Operator::NEQ,
    })
}

fn sender() -> Payload<'static> {
    Payload::PayloadField(PayloadField {
        protocol: Cow::Borrowed("ether"),
        field: Cow::Borrowed("saddr"),
    })
}

fn text(text: String) -> Expression<'static> {
    Expression::String(Cow::Owned(text))
}

/// The rule that these statements and this comment are, and the packets that it dropped. `None`:
/// somebody else's rule.
pub fn parse(statements: &[Statement], comment: Option<&str>) -> Option<(Rule, u64)> {
    let [
        Statement::Match(device),
        senders @ ..,
        counter,
        Statement::Drop(_),
    ] = statements
    else {
        return None;
    };
    let (key, port) = parse_passes(device)?;
    let senders = senders
        .iter()
        .map(parse_sender)
        .collect::<Option<Vec<_>>>()?;
    let rule = match (key, senders.as_slice()) {
        (MetaKey::Iifname, [sender]) if sender.len() == PrefixLen::FULL => Rule::Spoofed {
            port,
            mac: sender.base(),
            hears_all: comment == Some(HEARS_ALL),
        },
        (MetaKey::Oifname, [own, trusted @ ..]) => Rule::Foreign {
            port,
            own: *own,
            trusted: trusted.to_vec(),
        },
        _ => return None,
    };
    Some((rule, parse_counter(counter)?))
}

fn parse_passes(device: &Match) -> Option<(MetaKey, Port)> {
    match device {
        Match {
            left: Expression::Named(NamedExpression::Meta(Meta { key })),
            right: Expression::String(port),
            op: Operator::EQ,
        } => Some((*key, port.parse().ok()?)),
        _ => None,
    }
}

fn parse_sender(statement: &Statement) -> Option<MacPrefix> {
    let Statement::Match(Match {
        left,
        right: Expression::String(base),
        op: Operator::NEQ,
    }) = statement
    else {
        return None;
    };
    let base: MacAddr = base.parse().ok()?;
    let is_sender = |e: &Expression| *e == Expression::Named(NamedExpression::Payload(sender()));
    match left {
        Expression::BinaryOperation(operation) => match &**operation {
            BinaryOperation::AND(left, Expression::String(mask)) if is_sender(left) => {
                MacPrefix::from_mask(base, mask.parse().ok()?)
            }
            _ => None,
        },
        left => is_sender(left).then(|| MacPrefix::of(base, PrefixLen::FULL)),
    }
}

fn parse_counter(statement: &Statement) -> Option<u64> {
    match statement {
        Statement::Counter(Counter::Anonymous(Some(AnonymousCounter { packets, .. }))) => {
            packets.and_then(|packets| packets.try_into().ok())
        }
        _ => None,
    }
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
        }
    }

    fn network() -> Hears {
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: vec!["00:16:3e:00:00:01".parse().unwrap()],
        }
    }

    #[test]
    fn every_guard_can_be_read_back_from_its_rules() {
        for guard in [guard(network()), guard(Hears::All)] {
            let rules = Rule::of(&guard);
            let read = guards(rules.iter().map(|rule| (rule, 1)));
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].whole(), Some(guard));
        }
    }

    #[test]
    fn every_rule_can_be_read_back_from_its_statements() {
        for rule in [network(), Hears::All]
            .iter()
            .flat_map(|hears| Rule::of(&guard(hears.clone())))
        {
            let mut statements = statements(&rule);
            let counter = Counter::Anonymous(Some(AnonymousCounter {
                packets: Some(7),
                bytes: Some(420),
            }));
            for statement in &mut statements {
                if matches!(statement, Statement::Counter(_)) {
                    *statement = Statement::Counter(counter.clone());
                }
            }
            let read = parse(&statements, comment(&rule).as_deref());
            assert_eq!(read, Some((rule, 7)));
        }
    }

    #[test]
    fn a_rule_twice_shows_in_the_guard_and_its_drops_are_added() {
        let rules = Rule::of(&guard(network()));
        let twice = guards(rules.iter().chain(&rules).zip([1, 2, 3, 4]));
        assert_eq!(twice.len(), 1);
        assert_eq!((twice[0].macs.len(), twice[0].hears.len()), (2, 2));
        assert_eq!(twice[0].dropped.spoofed, Some(4));
        assert_eq!(twice[0].dropped.foreign, Some(6));
    }

    #[test]
    fn every_rule_is_reached_from_the_base_chains_where_it_belongs() {
        let base_chains = Skeleton::read().unwrap().base_chains();
        for rule in Rule::of(&guard(network())) {
            let key = match rule {
                Rule::Spoofed { .. } => "iifname",
                Rule::Foreign { .. } => "oifname",
            };
            for place in rule.places() {
                assert!(
                    base_chains[*place].looks_up().contains(&key),
                    "{rule:?}: {place}"
                );
            }
        }
    }
}
