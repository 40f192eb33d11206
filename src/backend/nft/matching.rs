//! Constructors for nft's matches. [`super::statement`] and [`super::address_guard`] make rules of them.

use std::borrow::Cow;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression};
use nftables::expr::{Payload, PayloadBase, PayloadField, PayloadRaw};
use nftables::stmt::{Counter, JumpTarget, Match, Operator, Statement};

use crate::vm::Port;

/// Ends a rule: counts and drops the packet.
pub fn count_and_drop(mut matches: Vec<Statement<'static>>) -> Vec<Statement<'static>> {
    matches.push(Statement::Counter(Counter::Anonymous(None)));
    matches.push(Statement::Drop(None));
    matches
}

/// Ends a rule: counts the packet and sends it to a chain of the skeleton that notes the sender and
/// drops. One rule cannot note and drop: if the set is full, nft leaves the rule before the drop.
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

/// `left != right`. If a rule has several of these, all must hold.
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

/// A fact that the kernel knows about a packet besides its bytes.
pub fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

/// A field of a header by name.
pub fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let (protocol, field) = (Cow::Borrowed(protocol), Cow::Borrowed(field));
    payload(Payload::PayloadField(PayloadField { protocol, field }))
}

/// `len` bits at an offset in bits.
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
