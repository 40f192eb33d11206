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
//! - `dropped-spoofed` and its like drop what VMs' chains send there, and note who it was in a set of
//!   the same name: a known address always, a new one as long as `…-pace` says that the port has not
//!   shown too many of late. nft leaves a rule where a set is full, so the drop is a rule of its own, the
//!   last. Without it, frames pass. `check`, `sync` and `watch` look for it.

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

/// The chain that notes and drops what has a false source address.
pub const DROPPED_SPOOFED: &str = "dropped-spoofed";
/// The chain that notes and drops what comes from another network.
pub const DROPPED_FOREIGN: &str = "dropped-foreign";
/// The chain that notes and drops what the address guard does not let pass.
pub const DROPPED_FORGED: &str = "dropped-forged";
/// What begins the names of these chains, before the name of their set.
const DROPPED: &str = "dropped-";
/// What ends the names of the sets that keep a port from filling the set of this name.
const PACE: &str = "-pace";

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

    /// All commands but those that add sets, as text.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        let all = self.commands.iter().map(|command| command.get());
        all.filter(|command| added(command, "set").is_none())
    }

    /// The commands that add the table and these sets, as text.
    ///
    /// nft before 1.0.7 fails where such a set is there already ("File exists"). It marks a set as dynamic
    /// by itself where a rule fills it, and its JSON has no word for that. But where it has read the
    /// kernel's set, it marks that one, and adds the set unmarked; the kernel takes it for another one.
    pub fn commands_for_sets(&self, names: &[String]) -> impl Iterator<Item = &str> {
        let all = self.commands.iter().map(|command| command.get());
        all.filter(|command| {
            let set = added(command, "set");
            added(command, "table").is_some()
                || set.is_some_and(|set| names.contains(&text(&set, "name")))
        })
    }

    /// The sets, by name.
    pub fn sets(&self) -> BTreeMap<String, Value> {
        let all = self.commands.iter().map(|command| command.get());
        let sets = all.filter_map(|command| added(command, "set"));
        sets.map(|set| (text(&set, "name"), set)).collect()
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

/// The skeleton as the kernel holds it, or as much of it as was listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The chains that are no VM's, by name.
    pub chains: BTreeMap<String, Chain>,
    /// The sets, by name, without their elements.
    pub sets: BTreeMap<String, Value>,
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
            } else if desired.drops_in_the_end() && !actual.drops_in_the_end() {
                defects.push(format!("the {kind} {name} lets pass what it should drop"));
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

    /// The sets that are not there.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn missing_sets(&self) -> Result<Vec<String>> {
        let mut sets = Skeleton::read()?.sets();
        sets.retain(|name, _| !self.sets.contains_key(name));
        Ok(sets.into_keys().collect())
    }

    /// The sets that somebody has made otherwise. They must be deleted and added again.
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

/// The chain that fills a set.
pub fn chain_that_fills(set: &str) -> String {
    format!("{DROPPED}{}", set.strip_suffix(PACE).unwrap_or(set))
}

#[cfg(test)]
mod tests;
