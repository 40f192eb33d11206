//! The rules as nft statements, and back.

use std::borrow::Cow;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression};
use nftables::expr::{Payload, PayloadField};
use nftables::stmt::{AnonymousCounter, Counter, JumpTarget, Match, Operator, Statement};

use super::rule::Rule;
use super::skeleton::MEDDLING;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// The comment on the rule of a port that hears all networks.
const HEARS_ALL: &str = "hears all networks";

/// The destinations of control frames that no bridge forwards: 01:80:c2:00:00:00 to 0f (IEEE 802.1Q
/// table 8-1).
const CONTROL: (MacAddr, MacAddr) = (
    MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0]),
    MacAddr::new([0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]),
);
/// All bits of a source address that can differ: no frame comes from a group.
const SENDER: MacAddr = MacAddr::new([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
/// The bit that a multicast or broadcast address has.
const GROUP: MacAddr = MacAddr::new([1, 0, 0, 0, 0, 0]);
const NONE: MacAddr = MacAddr::new([0; 6]);

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
pub fn of(rule: &Rule) -> Vec<Statement<'static>> {
    match rule {
        Rule::Spoofed { port, mac, .. } => drop_spoofed(port, *mac),
        Rule::Meddling {
            port,
            queries: false,
        } => drop_meddling(port),
        Rule::Meddling {
            port,
            queries: true,
        } => drop_control(port),
        Rule::Foreign { port, own, trusted } => drop_foreign(port, *own, trusted),
        Rule::Overheard { port, own, mac } => drop_overheard(port, *own, *mac),
    }
}

/// `iifname PORT ether saddr != MAC`: stops a VM that sends under another's address, be it to
/// receive the other's frames or to be heard in the other's network.
fn drop_spoofed(port: &Port, mac: MacAddr) -> Vec<Statement<'static>> {
    let sender = MacPrefix::of(mac, PrefixLen::FULL);
    count_and_drop(vec![
        passes(MetaKey::Iifname, port),
        sender_is_not_in(sender),
    ])
}

/// `iifname PORT meta pkttype multicast jump meddling`: stops a VM that makes itself the root bridge,
/// that has the switch disable the host's port, or that takes other networks' multicast away.
/// A bridge acts on no frame to a single station or to all. The kernel sets the type of a packet by
/// its receiver's address where it comes in, and reading it costs less than reading the address.
fn drop_meddling(port: &Port) -> Vec<Statement<'static>> {
    let target = Cow::Borrowed(MEDDLING);
    vec![
        passes(MetaKey::Iifname, port),
        meta(MetaKey::Pkttype, "multicast"),
        Statement::Jump(JumpTarget { target }),
    ]
}

/// Like [`drop_meddling`], but lets multicast queries pass.
fn drop_control(port: &Port) -> Vec<Statement<'static>> {
    let (control, mask) = CONTROL;
    count_and_drop(vec![
        passes(MetaKey::Iifname, port),
        receiver(mask, control),
    ])
}

/// `oifname PORT ether saddr & MASK != NETWORK`, and so for each trusted prefix: stops a VM that
/// listens to the broadcasts, floods and neighbours of other networks.
fn drop_foreign(port: &Port, own: MacPrefix, trusted: &[MacPrefix]) -> Vec<Statement<'static>> {
    let mut matches = vec![passes(MetaKey::Oifname, port), sender_is_not_in(own)];
    matches.extend(trusted.iter().copied().map(sender_is_not_in));
    count_and_drop(matches)
}

/// `oifname PORT ether saddr & MASK != NETWORK ether daddr != MAC`, not for groups: stops a VM that
/// listens to what a router sends to the VMs of other networks.
///
/// The source always has a mask. Without one nft 0.9.8 and 1.0.6 make one comparison of both
/// addresses, which are neighbours in the frame: "source and destination are not these two" drops
/// what "neither the source nor the destination" lets pass. (nft 1.1.3 does not.)
fn drop_overheard(port: &Port, own: MacPrefix, mac: MacAddr) -> Vec<Statement<'static>> {
    let mask = match own.len() {
        PrefixLen::FULL => SENDER,
        _ => own.mask(),
    };
    count_and_drop(vec![
        passes(MetaKey::Oifname, port),
        Statement::Match(Match {
            left: masked("saddr", mask),
            right: text(own.base().to_string()),
            op: Operator::NEQ,
        }),
        receiver(GROUP, NONE),
        address("daddr", PrefixLen::FULL, Operator::NEQ, mac),
    ])
}

fn count_and_drop(mut matches: Vec<Statement<'static>>) -> Vec<Statement<'static>> {
    matches.push(Statement::Counter(Counter::Anonymous(None)));
    matches.push(Statement::Drop(None));
    matches
}

fn passes(device: MetaKey, port: &Port) -> Statement<'static> {
    meta(device, port.as_str())
}

fn meta(key: MetaKey, value: &str) -> Statement<'static> {
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key })),
        right: text(value.to_owned()),
        op: Operator::EQ,
    })
}

fn sender_is_not_in(prefix: MacPrefix) -> Statement<'static> {
    address("saddr", prefix.len(), Operator::NEQ, prefix.base())
}

/// `ether FIELD OP ADDRESS`, where only the first bits count.
fn address(
    field: &'static str,
    len: PrefixLen,
    op: Operator,
    address: MacAddr,
) -> Statement<'static> {
    let left = match len {
        // nft drops a mask of all ones when it lists the rule.
        PrefixLen::FULL => payload(field),
        _ => masked(field, MacPrefix::of(address, len).mask()),
    };
    let right = text(address.to_string());
    Statement::Match(Match { left, right, op })
}

/// `ether daddr & MASK == ADDRESS`.
fn receiver(mask: MacAddr, address: MacAddr) -> Statement<'static> {
    Statement::Match(Match {
        left: masked("daddr", mask),
        right: text(address.to_string()),
        op: Operator::EQ,
    })
}

fn masked(field: &'static str, mask: MacAddr) -> Expression<'static> {
    let and = BinaryOperation::AND(payload(field), text(mask.to_string()));
    Expression::BinaryOperation(Box::new(and))
}

fn payload(field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: Cow::Borrowed("ether"),
            field: Cow::Borrowed(field),
        },
    )))
}

fn text(text: String) -> Expression<'static> {
    Expression::String(Cow::Owned(text))
}

/// The rule that these statements and this comment are, and the packets that it dropped. `None`:
/// somebody else's rule.
pub fn parse(statements: &[Statement], comment: Option<&str>) -> Option<(Rule, u64)> {
    let (packets, others): (Vec<_>, Vec<_>) = statements
        .iter()
        .partition(|statement| matches!(statement, Statement::Counter(_)));
    let packets = packets
        .first()
        .map_or(Some(0), |counter| packets_of(counter))?;
    let rule = candidate(&others, comment)?;
    // Whatever the candidate, a rule is ours only if it is what we write.
    let ours = of(&rule);
    let ours = ours.iter().map(|statement| match statement {
        Statement::Counter(_) => None,
        other => Some(other),
    });
    let same = statements.iter().map(|statement| match statement {
        Statement::Counter(_) => None,
        other => Some(other),
    });
    ours.eq(same).then_some((rule, packets))
}

/// The rule that these statements may be.
fn candidate(statements: &[&Statement], comment: Option<&str>) -> Option<Rule> {
    let (Statement::Match(device), rest) = statements.split_first()? else {
        return None;
    };
    let (key, port) = device_of(device)?;
    let senders = || {
        let senders = rest.iter().map_while(|statement| sender_of(statement));
        senders.collect::<Vec<_>>()
    };
    Some(match (key, senders().as_slice(), rest.last()?) {
        (MetaKey::Iifname, [], Statement::Jump(_)) => Rule::Meddling {
            port,
            queries: false,
        },
        (MetaKey::Iifname, [], _) => Rule::Meddling {
            port,
            queries: true,
        },
        (MetaKey::Iifname, [sender], _) => Rule::Spoofed {
            port,
            mac: sender.base(),
            hears_all: comment == Some(HEARS_ALL),
        },
        (MetaKey::Oifname, [own], _) if rest.len() > 2 => Rule::Overheard {
            port,
            own: *own,
            mac: receiver_of(rest.get(2)?)?,
        },
        (MetaKey::Oifname, [own, trusted @ ..], _) => Rule::Foreign {
            port,
            own: *own,
            trusted: trusted.to_vec(),
        },
        _ => return None,
    })
}

fn device_of(device: &Match) -> Option<(MetaKey, Port)> {
    match device {
        Match {
            left: Expression::Named(NamedExpression::Meta(Meta { key })),
            right: Expression::String(port),
            op: Operator::EQ,
        } => Some((*key, port.parse().ok()?)),
        _ => None,
    }
}

/// The prefix that a match on the source address is about.
fn sender_of(statement: &Statement) -> Option<MacPrefix> {
    let Statement::Match(Match {
        left,
        right: Expression::String(base),
        op: Operator::NEQ,
    }) = statement
    else {
        return None;
    };
    let base: MacAddr = base.parse().ok()?;
    match left {
        Expression::BinaryOperation(operation) => match &**operation {
            BinaryOperation::AND(left, Expression::String(mask)) if *left == payload("saddr") => {
                match mask.parse().ok()? {
                    SENDER => Some(MacPrefix::of(base, PrefixLen::FULL)),
                    mask => MacPrefix::from_mask(base, mask),
                }
            }
            _ => None,
        },
        left => (*left == payload("saddr")).then(|| MacPrefix::of(base, PrefixLen::FULL)),
    }
}

/// The address that a match on the destination address is about.
fn receiver_of(statement: &Statement) -> Option<MacAddr> {
    match statement {
        Statement::Match(Match {
            right: Expression::String(address),
            ..
        }) => address.parse().ok(),
        _ => None,
    }
}

fn packets_of(statement: &Statement) -> Option<u64> {
    match statement {
        Statement::Counter(Counter::Anonymous(Some(AnonymousCounter { packets, .. }))) => {
            packets.and_then(|packets| packets.try_into().ok())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
