//! What never varies in our table: its name, the verdict map, the base chains, which send each
//! port's frames to its VM's chain, and the chain that all VMs' chains share. `skeleton.json` is what
//! is loaded; [`Actual::defects`] tells whether the kernel holds that.
//!
//! - `prerouting` comes before the bridge learns a frame's source address. It has one priority before
//!   `dstnat`, where other tables may rewrite a false source.
//! - `input` is for frames to link-local addresses, which do not pass `prerouting`.
//! - `forward` is for frames that leave by a port. Multicast queries go past the VMs' chains: where
//!   the bridge snoops, every VM must hear a query that the bridge has heard, or its memberships
//!   expire. Queries from VMs were dropped before.
//! - `meddling` drops what no VM may send to the bridge: control frames, and IGMP and MLD queries.
//!   The bridge takes an IGMP fragment for a whole message, so they go as well. `meta protocol` also
//!   matches frames with a VLAN tag, unlike the `ether type` that nft would add by itself.

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
/// The base chain for frames that come from a port.
pub const PREROUTING: &str = "prerouting";
/// The base chain for frames that leave by a port.
pub const FORWARD: &str = "forward";
/// The chain that drops what no VM may send to the bridge.
pub const MEDDLING: &str = "meddling";

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

    /// All commands but those about this chain, as text.
    pub fn commands_but(&self, chain: &'static str) -> impl Iterator<Item = &str> {
        self.commands().filter(move |command| {
            let of = |kind, key| added(command, kind).is_some_and(|object| object[key] == chain);
            let is_flush = serde_json::from_str::<Value>(command)
                .is_ok_and(|command| command["flush"]["chain"]["name"] == chain);
            !of("chain", "name") && !of("rule", "chain") && !is_flush
        })
    }

    /// The chains, by name.
    pub fn chains(&self) -> BTreeMap<String, Chain> {
        let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
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

/// A chain of the skeleton: where it is hooked in, if it is, and its rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// The chain as nft describes it; null if it is not there.
    pub chain: Value,
    /// Its rules, in order, as nft describes them.
    pub rules: Vec<Value>,
}

impl Chain {
    /// Whether the kernel's chain is hooked in like this one. nft lists more than it was told.
    fn is_hooked_in_like(&self, desired: &Self) -> bool {
        let mut desired = desired.chain.as_object().into_iter().flatten();
        desired.all(|(key, value)| self.chain.get(key) == Some(value))
    }

    fn has_the_rules_of(&self, desired: &Self) -> bool {
        self.rules.len() == desired.rules.len()
            && self
                .rules
                .iter()
                .zip(&desired.rules)
                .all(|(own, desired)| is_same(own, desired))
    }

    /// What the rules look up in the map: `iifname` for frames from a port, `oifname` for frames to
    /// it.
    pub fn looks_up(&self) -> Vec<&str> {
        let statements = self
            .rules
            .iter()
            .filter_map(|rule| rule.get("expr")?.as_array());
        let keys = statements.flatten();
        let keys = keys.filter_map(|statement| statement.pointer("/vmap/key/meta/key")?.as_str());
        keys.collect()
    }
}

/// IGMP's number. nft knows its name, in both directions, only where `/etc/protocols` has it.
const IGMP: u8 = 2;

/// Whether the kernel's rule is this one. nft does not list a `meta protocol` that a later match
/// implies; one that is listed must be the same.
fn is_same(actual: &Value, desired: &Value) -> bool {
    let actual = statements(actual);
    let mut actual = actual.iter().peekable();
    for statement in statements(desired) {
        if actual.next_if_eq(&&statement).is_none() && !is_protocol(&statement) {
            return false;
        }
    }
    actual.next().is_none()
}

fn is_protocol(statement: &Value) -> bool {
    let key = statement.pointer("/match/left/meta/key");
    key.is_some_and(|key| key == "protocol")
}

/// A rule's statements, as far as every nft lists them alike on every host: without what was counted,
/// and with numbers for names.
fn statements(rule: &Value) -> Vec<Value> {
    let plain = |statement: &Value| {
        let mut statement = statement.clone();
        if let Some(counter) = statement.get_mut("counter") {
            *counter = Value::Null;
        } else if let Some(number) = statement.pointer_mut("/match/right")
            && *number == "igmp"
        {
            *number = IGMP.into();
        }
        statement
    };
    let all = rule.get("expr").and_then(Value::as_array);
    all.into_iter().flatten().map(plain).collect()
}

/// The skeleton as the kernel holds it, or as much of it as was listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The chains that are no VM's, by name.
    pub chains: BTreeMap<String, Chain>,
    /// Whether the table is out of force.
    pub is_dormant: bool,
}

impl Actual {
    /// What keeps frames of fenced ports from passing the VMs' chains, each in words. Every chain is
    /// compared for itself.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn defects(&self) -> Result<Vec<String>> {
        self.defects_of(None)
    }

    /// The same of one chain only, if one is named.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn defects_of(&self, chain: Option<&str>) -> Result<Vec<String>> {
        let none = Chain::default();
        let mut defects = Vec::new();
        let chains = Skeleton::read()?.chains().into_iter();
        for (name, desired) in chains.filter(|(name, _)| chain.is_none_or(|only| only == name)) {
            let actual = self.chains.get(&name).unwrap_or(&none);
            let kind = if desired.chain.get("hook").is_some() {
                "base chain"
            } else {
                "chain"
            };
            if actual.chain.is_null() {
                defects.push(format!("the table has no {kind} {name}"));
            } else if !actual.is_hooked_in_like(&desired) {
                defects.push(format!(
                    "the {kind} {name} is not hooked in as it should be"
                ));
            } else if !actual.has_the_rules_of(&desired) {
                defects.push(format!("the {kind} {name} has other rules than its own"));
            }
        }
        if self.is_dormant {
            defects.push("the table is dormant".to_owned());
        }
        Ok(defects)
    }

    /// Whether `forward` checks what comes from ports as well, as version 0.1 had it: its only base
    /// chain.
    pub fn checks_senders_in_forward(&self) -> bool {
        self.chains
            .get(FORWARD)
            .is_some_and(|forward| forward.looks_up().contains(&"iifname"))
    }

    /// The chains that are hooked in elsewhere than they should be. The kernel moves no chain: it
    /// must be deleted and added again.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn misplaced(&self) -> Result<Vec<String>> {
        let chains = Skeleton::read()?.chains();
        let is_misplaced = |(name, desired): &(String, Chain)| {
            let actual = self
                .chains
                .get(name)
                .filter(|actual| !actual.chain.is_null());
            actual.is_some_and(|actual| !actual.is_hooked_in_like(desired))
        };
        let misplaced = chains.into_iter().filter(is_misplaced);
        Ok(misplaced.map(|(name, _)| name).collect())
    }
}

#[cfg(test)]
mod tests;
