//! Rules as they were before drops were noted, and what becomes of them.

use nftables::stmt::{AnonymousCounter, Counter, Statement};

use super::{is_same, of};
use crate::backend::nft::rule::Rule;

/// Whether listed statements are this rule as it was before drops were noted.
pub fn is_of_earlier_version(statements: &[Statement], rule: &Rule) -> bool {
    let mut earlier = of(rule);
    let notes = matches!(earlier.pop(), Some(Statement::Goto(_)));
    earlier.push(Statement::Drop(None));
    notes && is_same(statements, &earlier)
}

/// The statements of a rule that has dropped so many packets.
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
