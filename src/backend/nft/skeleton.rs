//! What never varies in our table: its name, the verdict map and the base chains, which send each
//! port's frames to its VM's chain. [`skeleton.json`](../../../src/backend/nft/skeleton.json) is what
//! is loaded; whether the kernel holds that is told by [`Actual::defects`].

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nftables::types::NfFamily;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The family of our table.
pub const FAMILY: NfFamily = NfFamily::Bridge;
/// Its name in nft's language.
pub const FAMILY_NAME: &str = "bridge";
/// Our table.
pub const TABLE: &str = "macfence";
/// The verdict map in it: which port belongs to which VM's chain.
pub const PORTS: &str = "ports";

/// Adding what exists changes nothing, and the base chains' rules are replaced by the same ones.
const SKELETON: &str = include_str!("skeleton.json");

/// The commands of the skeleton, as they are written in its file.
#[derive(Deserialize)]
pub struct Skeleton {
    #[serde(rename = "nftables")]
    commands: Vec<Box<RawValue>>,
}

impl Skeleton {
    /// Reads the file that is compiled in.
    ///
    /// # Errors
    /// If it is no JSON, which the tests rule out.
    pub fn read() -> Result<Self> {
        serde_json::from_str(SKELETON).context("skeleton.json")
    }

    /// All commands, as text.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.commands.iter().map(|command| command.get())
    }

    /// The commands that add the table and the map, as text.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        let adds = |command: &str, kind| added(command, kind).is_some();
        self.commands()
            .filter(move |command| adds(command, "table") || adds(command, "map"))
    }

    /// The base chains, by name.
    pub fn base_chains(&self) -> BTreeMap<String, BaseChain> {
        let mut chains: BTreeMap<String, BaseChain> = BTreeMap::new();
        for command in self.commands() {
            if let Some(chain) = added(command, "chain") {
                let name = text(&chain, "name");
                chains.entry(name).or_default().chain = chain;
            } else if let Some(rule) = added(command, "rule") {
                let name = text(&rule, "chain");
                chains.entry(name).or_default().rules.push(rule);
            }
        }
        chains
    }
}

/// The object of this kind that a command adds.
fn added(command: &str, kind: &str) -> Option<Value> {
    let mut command: Value = serde_json::from_str(command).ok()?;
    Some(command.get_mut("add")?.get_mut(kind)?.take())
}

fn text(object: &Value, key: &str) -> String {
    let text = object.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// A base chain: where it is hooked in, and its rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BaseChain {
    /// The chain as nft describes it; null if it is not there.
    pub chain: Value,
    /// Its rules, in order, as nft describes them.
    pub rules: Vec<Value>,
}

impl BaseChain {
    /// Whether the kernel's chain is hooked in like this one. nft lists more than it was told.
    fn is_hooked_in_like(&self, desired: &Self) -> bool {
        let mut desired = desired.chain.as_object().into_iter().flatten();
        desired.all(|(key, value)| self.chain.get(key) == Some(value))
    }

    fn has_the_rules_of(&self, desired: &Self) -> bool {
        let expressions = |chain: &Self| {
            let expressions = chain.rules.iter().map(|rule| rule.get("expr").cloned());
            expressions.collect::<Vec<_>>()
        };
        expressions(self) == expressions(desired)
    }

    /// What the rules look up in the map: `iifname` for frames from a port, `oifname` for frames to
    /// it.
    #[cfg(test)]
    pub fn looks_up(&self) -> Vec<&str> {
        let key = |rule| Value::pointer(rule, "/expr/0/vmap/key/meta/key").and_then(Value::as_str);
        self.rules.iter().filter_map(key).collect()
    }
}

/// The skeleton as the kernel holds it, or as much of it as was listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The base chains, by name.
    pub base_chains: BTreeMap<String, BaseChain>,
    /// Whether the table is out of force.
    pub is_dormant: bool,
}

impl Actual {
    /// What keeps frames of fenced ports from passing the VMs' chains, each in words. Every base
    /// chain is compared for itself.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn defects(&self) -> Result<Vec<String>> {
        let none = BaseChain::default();
        let mut defects = Vec::new();
        for (name, desired) in Skeleton::read()?.base_chains() {
            let actual = self.base_chains.get(&name).unwrap_or(&none);
            if actual.chain.is_null() {
                defects.push(format!("the table has no base chain {name}"));
            } else if !actual.is_hooked_in_like(&desired) {
                defects.push(format!(
                    "the base chain {name} is not hooked in as it should be"
                ));
            } else if !actual.has_the_rules_of(&desired) {
                let count = match desired.rules.len() {
                    1 => "one rule".to_owned(),
                    2 => "two rules".to_owned(),
                    n => format!("{n} rules"),
                };
                defects.push(format!("the base chain {name} has not just its {count}"));
            }
        }
        if self.is_dormant {
            defects.push("the table is dormant".to_owned());
        }
        Ok(defects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Actual {
        Actual {
            base_chains: Skeleton::read().unwrap().base_chains(),
            is_dormant: false,
        }
    }

    #[test]
    fn the_skeleton_is_whole_in_its_own_eyes() {
        let skeleton = Skeleton::read().unwrap();
        assert_eq!(skeleton.containers().count(), 2);
        assert!(!skeleton.base_chains().is_empty());
        assert_eq!(whole().defects().unwrap(), [""; 0]);
    }

    #[test]
    fn every_base_chain_is_compared_for_itself() {
        for (name, desired) in whole().base_chains {
            for (damaged, words) in [
                (BaseChain::default(), "no base chain"),
                (
                    BaseChain {
                        rules: Vec::new(),
                        ..desired.clone()
                    },
                    "has not just its",
                ),
                (
                    BaseChain {
                        rules: [desired.rules.clone(), desired.rules.clone()].concat(),
                        ..desired.clone()
                    },
                    "has not just its",
                ),
                (
                    BaseChain {
                        chain: Value::Object(Default::default()),
                        ..desired.clone()
                    },
                    "not hooked in",
                ),
            ] {
                let mut actual = whole();
                actual.base_chains.insert(name.clone(), damaged);
                let defects = actual.defects().unwrap();
                assert_eq!(defects.len(), 1, "{defects:?}");
                assert!(defects[0].contains(words) && defects[0].contains(&name));
            }
        }
    }

    #[test]
    fn a_dormant_table_is_a_defect() {
        let actual = Actual {
            is_dormant: true,
            ..whole()
        };
        assert_eq!(actual.defects().unwrap(), ["the table is dormant"]);
    }
}
