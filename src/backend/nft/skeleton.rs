//! The fixed part of our table: its name, the verdict map, the base chains, which send each port's
//! frames to its VM's chain, and the chains and sets that all VMs' chains share. We load
//! `skeleton.json`; [`Actual::defects`] compares the kernel's table with it.
//!
//! - `prerouting` comes before the bridge learns a frame's source address. Its priority is one before
//!   `dstnat`, where other tables may rewrite a false source.
//! - `input` is for frames to link-local addresses, which do not pass `prerouting`.
//! - `forward` is for frames that leave by a port. Multicast queries skip the VMs' chains: if the
//!   bridge snoops, every VM must hear the queries that the bridge hears, or its memberships expire.
//!   Queries from VMs were dropped before.
//! - `meddling` drops frames that no VM may send to the bridge: control frames, and IGMP and MLD queries.
//!   It drops IGMP fragments as well, because the bridge reads them as whole messages. `meta protocol`
//!   also matches frames with a VLAN tag, unlike the `ether type` that nft would add by itself.
//! - `dropped-spoofed`, `dropped-foreign` and `dropped-forged` drop the frames that VMs' chains send
//!   there, and note the sender in the set `spoofed`, `foreign` or `forged`. They always count an address
//!   that is already in the set. They add a new one only if the set `…-pace` shows that the port has not
//!   used too many lately. If a set is full, nft leaves the rule, so the drop is a separate rule, the
//!   last. Without it, frames would pass: `check`, `sync` and `watch` check that it is there.

mod chain;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nftables::types::NfFamily;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

pub use self::chain::Chain;

/// The family of our table.
pub const FAMILY: NfFamily = NfFamily::Bridge;
/// The family's name in nft's language.
pub const FAMILY_NAME: &str = "bridge";
/// Our table.
pub const TABLE: &str = "macfence";
/// The verdict map in it, from ports to VMs' chains.
pub const PORTS: &str = "ports";
/// The base chain for frames that come from a port.
pub const PREROUTING: &str = "prerouting";
/// The base chain for frames that leave by a port.
pub const FORWARD: &str = "forward";
/// The chain that drops frames that no VM may send to the bridge.
pub const MEDDLING: &str = "meddling";

/// The chain that notes and drops frames with a false source address.
pub const DROPPED_SPOOFED: &str = "dropped-spoofed";
/// The chain that notes and drops frames from another network.
pub const DROPPED_FOREIGN: &str = "dropped-foreign";
/// The chain that notes and drops frames that the address guard refuses.
pub const DROPPED_FORGED: &str = "dropped-forged";
/// The start of these chains' names, before the name of their set.
const DROPPED: &str = "dropped-";
/// The end of the names of sets that keep one port from filling a set.
const PACE: &str = "-pace";

/// Loading this again changes nothing: existing objects stay, and rules are replaced by the same ones.
const SKELETON: &str = include_str!("skeleton.json");

/// The commands of the skeleton, as its file has them.
#[derive(Deserialize)]
pub struct Skeleton {
    #[serde(rename = "nftables")]
    commands: Vec<Box<RawValue>>,
}

impl Skeleton {
    /// Reads the compiled-in file.
    ///
    /// # Errors
    /// If the file is no JSON, which tests rule out.
    pub fn read() -> Result<Self> {
        serde_json::from_str(SKELETON).context("skeleton.json")
    }

    /// Returns all commands except those that add sets, as text.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        let all = self.commands.iter().map(|command| command.get());
        all.filter(|command| added(command, "set").is_none())
    }

    /// Returns the commands that add the table and these sets, as text.
    ///
    /// nft before 1.0.7 fails if such a set exists already ("File exists"). It marks a set as dynamic by
    /// itself when a rule fills it, and its JSON has no word for that. But if it has read the kernel's
    /// set, it marks that one and adds the new set unmarked. To the kernel these are different sets.
    pub fn commands_for_sets(&self, names: &[String]) -> impl Iterator<Item = &str> {
        let all = self.commands.iter().map(|command| command.get());
        all.filter(|command| {
            let set = added(command, "set");
            added(command, "table").is_some()
                || set.is_some_and(|set| names.contains(&text(&set, "name")))
        })
    }

    /// Returns the sets by name.
    pub fn sets(&self) -> BTreeMap<String, Value> {
        let all = self.commands.iter().map(|command| command.get());
        let sets = all.filter_map(|command| added(command, "set"));
        sets.map(|set| (text(&set, "name"), set)).collect()
    }

    /// Returns all commands except those about this chain, as text.
    pub fn commands_but(&self, chain: &'static str) -> impl Iterator<Item = &str> {
        self.commands().filter(move |command| {
            let of = |kind, key| added(command, kind).is_some_and(|object| object[key] == chain);
            let is_flush = serde_json::from_str::<Value>(command)
                .is_ok_and(|command| command["flush"]["chain"]["name"] == chain);
            !of("chain", "name") && !of("rule", "chain") && !is_flush
        })
    }

    /// Returns the chains by name.
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

/// Returns the object of this kind that a command adds.
fn added(command: &str, kind: &str) -> Option<Value> {
    let mut command: Value = serde_json::from_str(command).ok()?;
    Some(command.get_mut("add")?.get_mut(kind)?.take())
}

fn text(object: &Value, key: &str) -> String {
    let text = object.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// The kernel's skeleton, or the listed part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The chains that are no VM's, by name.
    pub chains: BTreeMap<String, Chain>,
    /// The sets, by name, without their elements.
    pub sets: BTreeMap<String, Value>,
    /// Whether the table is dormant: out of force.
    pub is_dormant: bool,
}

impl Actual {
    /// Describes, for people, all defects that let frames of fenced ports skip the VMs' chains.
    /// Compares each chain separately.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn defects(&self) -> Result<Vec<String>> {
        self.defects_of(None)
    }

    /// Does the same, but only for one chain if one is named.
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
            } else if desired.drops_in_the_end() && !actual.drops_in_the_end() {
                defects.push(format!(
                    "the {kind} {name} lets frames pass that it should drop"
                ));
            } else if !actual.has_the_rules_of(&desired) {
                defects.push(format!("the {kind} {name} has other rules than its own"));
            }
        }
        if chain.is_none() {
            let missing = self.missing_sets()?.into_iter();
            defects.extend(missing.map(|name| format!("the table has no set {name}")));
            let other = self.other_sets()?.into_iter();
            defects.extend(other.map(|name| format!("the set {name} is not as it should be")));
        }
        if self.is_dormant {
            defects.push("the table is dormant".to_owned());
        }
        Ok(defects)
    }

    /// Returns the names of missing sets.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn missing_sets(&self) -> Result<Vec<String>> {
        let mut sets = Skeleton::read()?.sets();
        sets.retain(|name, _| !self.sets.contains_key(name));
        Ok(sets.into_keys().collect())
    }

    /// Returns sets with another type, timeout or size. They must be deleted and added again.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn other_sets(&self) -> Result<Vec<String>> {
        let mut sets = Skeleton::read()?.sets();
        let is_other = |now: &Value, desired: &Value| {
            let mut keys = ["type", "timeout", "size"].iter();
            keys.any(|key| now.get(key) != desired.get(key))
        };
        sets.retain(|name, desired| {
            let now = self.sets.get(name);
            now.is_some_and(|now| is_other(now, desired))
        });
        Ok(sets.into_keys().collect())
    }

    /// Tells whether `forward` also checks frames from ports, as in version 0.1, which had no other
    /// base chain.
    pub fn checks_senders_in_forward(&self) -> bool {
        self.chains
            .get(FORWARD)
            .is_some_and(|forward| forward.looks_up().contains(&"iifname"))
    }

    /// Returns chains that are hooked in at the wrong place. The kernel cannot move a chain: it must be
    /// deleted and added again.
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

/// Returns the name of the chain that fills a set.
pub fn chain_that_fills(set: &str) -> String {
    format!("{DROPPED}{}", set.strip_suffix(PACE).unwrap_or(set))
}

#[cfg(test)]
mod tests;
