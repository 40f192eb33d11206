//! Words for nft's matches, of which [`super::statement`] and [`super::address_guard`] make rules.

use std::borrow::Cow;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression};
use nftables::expr::{Payload, PayloadBase, PayloadField, PayloadRaw};
use nftables::stmt::{Counter, JumpTarget, Match, Operator, Statement};

use crate::vm::Port;

/// Ends a rule: what matched is counted and dropped.
pub fn count_and_drop(mut matches: Vec<Statement<'static>>) -> Vec<Statement<'static>> {
    matches.push(Statement::Counter(Counter::Anonymous(None)));
    matches.push(Statement::Drop(None));
    matches
}

/// Ends a rule: what matched is counted, and dropped by a chain of the skeleton that first notes who it was.
/// A rule cannot do both: it ends, without its drop, where the set to note in is full.
pub fn count_and_note(
    mut matches: Vec<Statement<'static>>,
    chain: &'static str,
) -> Vec<Statement<'static>> {
    let target = Cow::Borrowed(chain);
    matches.push(Statement::Counter(Counter::Anonymous(None)));
    matches.push(Statement::Goto(JumpTarget { target }));
    matches
}

/// `left == right`.
pub fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    compare(left, Operator::EQ, right)
}

/// `left != right`. Several of these in one rule must all be so.
pub fn is_not(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    compare(left, Operator::NEQ, right)
}

/// `left OP right`.
pub fn compare(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

/// `iifname PORT` or `oifname PORT`.
pub fn passes(device: MetaKey, port: &Port) -> Statement<'static> {
    is(meta(device), text(port.as_str()))
}

/// What the kernel knows of a packet besides its bytes.
pub fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

/// A field of a header by name.
pub fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let (protocol, field) = (Cow::Borrowed(protocol), Cow::Borrowed(field));
    payload(Payload::PayloadField(PayloadField { protocol, field }))
}

/// So many bits from an offset in bits on.
pub fn bits(base: PayloadBase, offset: u32, len: u32) -> Expression<'static> {
    payload(Payload::PayloadRaw(PayloadRaw { base, offset, len }))
}

fn payload(payload: Payload<'static>) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(payload))
}

/// `left & mask`.
pub fn and(left: Expression<'static>, mask: Expression<'static>) -> Expression<'static> {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(left, mask)))
}

/// Text, such as an address.
pub fn text(text: impl ToString) -> Expression<'static> {
    Expression::String(Cow::Owned(text.to_string()))
}

/// A number.
pub fn number(number: u32) -> Expression<'static> {
    Expression::Number(number)
}
