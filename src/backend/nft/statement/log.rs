//! The rule that logs some of the frames that another one drops.

use std::borrow::Cow;

use nftables::stmt::{Limit, Log, Statement};

use super::of;
use crate::backend::nft::rule::Rule;

/// The matches of a rule, `limit rate 5/second burst 20 packets log prefix "…" group N`. If the limit
/// is reached or nobody listens to the group, frames still go on to the rule that drops.
pub fn log(group: u16, rule: &Rule) -> Vec<Statement<'static>> {
    let mut statements = of(rule);
    // Leave out the counter and the drop.
    statements.retain(|statement| matches!(statement, Statement::Match(_)));
    statements.push(Statement::Limit(Limit {
        rate: 5,
        rate_unit: None,
        per: Some(Cow::Borrowed("second")),
        burst: Some(20),
        burst_unit: None,
        inv: None,
    }));
    statements.push(Statement::Log(Some(Log {
        prefix: Some(Cow::Owned(prefix(rule))),
        ..Log::new(Some(group.into()))
    })));
    statements
}

/// The start of each entry in the log: `macfence spoofed one-42-0: `.
fn prefix(rule: &Rule) -> String {
    let reason = match rule {
        Rule::Foreign { .. } => "foreign",
        Rule::Forged { .. } => "forged",
        _ => "spoofed",
    };
    format!("macfence {reason} {}: ", rule.port())
}
