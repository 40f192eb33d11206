//! Recognises rules of versions that did not note senders, and rewrites them.

use nftables::stmt::{AnonymousCounter, Counter, Statement};

use super::{is_same, of};
use crate::backend::nft::rule::Rule;

/// Tells whether listed statements are this rule as versions wrote it that did not note senders.
pub fn is_of_earlier_version(statements: &[Statement], rule: &Rule) -> bool {
    let mut earlier = of(rule);
    let notes = matches!(earlier.pop(), Some(Statement::Goto(_)));
    earlier.push(Statement::Drop(None));
    notes && is_same(statements, &earlier)
}

/// Returns the statements of a rule whose counter starts at this number of packets.
pub fn with_packets(rule: &Rule, packets: u64) -> Vec<Statement<'static>> {
    let count = |statement| match statement {
        Statement::Counter(_) => Statement::Counter(Counter::Anonymous(Some(AnonymousCounter {
            packets: packets.try_into().ok(),
            bytes: Some(0),
        }))),
        other => other,
    };
    of(rule).into_iter().map(count).collect()
}
