//! Finds base chains in other tables of the bridge family. Their rules are counted, not evaluated.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

use super::listing::Listing;
use super::program::{self, Detail};
use super::skeleton::{FAMILY_NAME, TABLE};

/// The hooks that frames to a VM may pass.
const HOOKS: [&str; 4] = ["prerouting", "input", "forward", "postrouting"];

/// A base chain of somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Other {
    /// The table that it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: String,
    /// The number of its rules.
    pub rules: usize,
    /// Whether its policy is to drop.
    pub drops: bool,
}

impl fmt::Display for Other {
    /// `chain "forward" of table bridge "mine", in hook forward, with 2 rules`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, table, hook) = (&self.name, &self.table, &self.hook);
        write!(
            f,
            "chain {name:?} of table {FAMILY_NAME} {table:?}, in hook {hook}, "
        )?;
        match self.rules {
            1 => f.write_str("with 1 rule")?,
            n => write!(f, "with {n} rules")?,
        }
        f.write_str(if self.drops { " and policy drop" } else { "" })
    }
}

/// Finds the base chains of other tables that may drop a frame.
///
/// # Errors
/// If nft cannot be asked, or its output is no listing.
pub fn others() -> Result<Vec<Other>> {
    let answer = program::ask(&format!("list ruleset {FAMILY_NAME}\n"), Detail::Terse)?;
    read(&answer.expecting(&[])?.listing)
}

fn read(listing: &str) -> Result<Vec<Other>> {
    let mut chains: BTreeMap<(String, String), Other> = BTreeMap::new();
    let mut read = |object: BTreeMap<String, Value>| {
        let text = |kind: &str, key: &str| {
            let text = object.get(kind)?.get(key)?.as_str()?;
            Some(text.to_owned())
        };
        if let (Some(table), Some(name), Some(hook)) = (
            text("chain", "table"),
            text("chain", "name"),
            text("chain", "hook"),
        ) {
            let chain = Other {
                table: table.clone(),
                name: name.clone(),
                hook,
                rules: 0,
                drops: text("chain", "policy").is_some_and(|policy| policy == "drop"),
            };
            chains.insert((table, name), chain);
        } else if let (Some(table), Some(chain)) = (text("rule", "table"), text("rule", "chain"))
            && let Some(chain) = chains.get_mut(&(table, chain))
        {
            chain.rules += 1;
        }
        Ok(())
    };
    Listing(&mut read)
        .read(listing)
        .context("nft printed an unknown listing")?;
    let others = chains.into_values().filter(|chain| {
        chain.table != TABLE
            && HOOKS.contains(&chain.hook.as_str())
            && (chain.rules > 0 || chain.drops)
    });
    Ok(others.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_chains_of_others_that_may_drop_are_found() {
        let listing = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "bridge", "name": "mine"}},
            {"chain": {"family": "bridge", "table": "macfence", "name": "forward", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "bridge", "table": "mine", "name": "a", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "bridge", "table": "mine", "name": "b", "hook": "prerouting", "policy": "drop"}},
            {"chain": {"family": "bridge", "table": "mine", "name": "empty", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "bridge", "table": "mine", "name": "out", "hook": "output", "policy": "drop"}},
            {"chain": {"family": "bridge", "table": "mine", "name": "own"}},
            {"rule": {"family": "bridge", "table": "mine", "chain": "a", "expr": [{"drop": null}]}},
            {"rule": {"family": "bridge", "table": "mine", "chain": "own", "expr": [{"drop": null}]}}]}"#;
        let found: Vec<_> = read(listing)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "chain \"a\" of table bridge \"mine\", in hook forward, with 1 rule",
                "chain \"b\" of table bridge \"mine\", in hook prerouting, with 0 rules and policy drop",
            ]
        );
    }
}
