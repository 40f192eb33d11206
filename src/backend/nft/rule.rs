//! The two rules as nft statements, and back.

use std::borrow::Cow;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression};
use nftables::expr::{Payload, PayloadField};
use nftables::stmt::{AnonymousCounter, Counter, Match, Operator, Statement};

use crate::fence::Rule;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// What a rule says that is meant to have no other beside it.
const ALONE: &str = "hears all networks";

/// The comment on a rule, if it has one.
pub fn comment(rule: &Rule) -> Option<Cow<'static, str>> {
    matches!(rule, Rule::Spoofed { alone: true, .. }).then_some(Cow::Borrowed(ALONE))
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

/// The rule that these statements and this comment are, and the packets that it dropped; `None` if
/// they are not one of the two rules.
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
            alone: comment == Some(ALONE),
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
