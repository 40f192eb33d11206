//! Our table as nft lists it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use nftables::schema::{Chain, Rule as NftRule};
use serde_json::Value;

use super::chain_name::ChainName;
use super::listing::{Listing, VerdictMap};
use super::rule::{self, Rule};
use super::skeleton::{self, FAMILY_NAME, PORTS, TABLE};
use super::spelling;
use super::statement;
use crate::fence::{ActualFence, ActualGuard};
use crate::vm::Port;

/// Our table, or as much of it as was listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    /// The map: the chain that each port's frames go to. `None`: not a VM's chain. The keys are text
    /// because anybody can add keys that are no valid port names.
    pub ports: BTreeMap<String, Option<ChainName>>,
    /// Ports whose entries lead past all VMs' chains.
    pub strays: BTreeSet<String>,
    /// The rules of each VM's chain, in order.
    pub chains: BTreeMap<ChainName, Vec<ActualRule>>,
    /// Rules that an earlier version wrote, by chain and handle. They drop without noting the sender.
    pub outdated: BTreeSet<(ChainName, u32)>,
    /// The part that all fences share. `None` if it was not listed.
    pub skeleton: Option<skeleton::Actual>,
}

/// A rule in a VM's chain.
#[derive(Clone, Debug, PartialEq)]
pub struct ActualRule {
    /// The kernel's number for it.
    pub handle: u32,
    /// The rule and the packets it dropped; `None` if it is not one of ours.
    pub rule: Option<(Rule, u64)>,
}

/// Tells whether an object belongs to another table: some listings cover a whole family.
fn is_of_another_table(object: &Value) -> bool {
    let is_other = |key: &str, ours: &str| {
        let text = object.get(key).and_then(Value::as_str);
        text.is_some_and(|text| text != ours)
    };
    is_other("family", FAMILY_NAME) || is_other("table", TABLE)
}

impl Ruleset {
    /// The ruleset without a table: nothing, not even a skeleton.
    pub fn nothing() -> Self {
        Self {
            skeleton: Some(skeleton::Actual::default()),
            ..Self::default()
        }
    }

    /// Adds the output of `nft -j`, which has one document for each list command.
    ///
    /// # Errors
    /// If the output is no listing, with the reason.
    pub fn read(&mut self, listing: &str) -> Result<()> {
        let mut read = |object| self.read_object(object);
        Listing(&mut read)
            .read(listing)
            .context("nft printed an unknown listing")
    }

    fn read_object(&mut self, mut object: BTreeMap<String, Value>) -> Result<()> {
        if object.values().any(is_of_another_table) {
            return Ok(());
        }
        if let Some(table) = object.remove("table") {
            if table.get("name").is_none_or(|name| name == TABLE) {
                // `dormant` is the only flag that somebody can set on our table later. Any value
                // counts: nft before 1.1 prints it differently.
                let skeleton = self.skeleton.get_or_insert_default();
                skeleton.is_dormant = table.get("flags").is_some();
            }
        } else if let Some(map) = object.remove("map") {
            self.read_map(map).context("an unknown map")?;
        } else if let Some(chain) = object.remove("chain") {
            self.read_chain(chain).context("an unknown chain")?;
        } else if let Some(set) = object.remove("set") {
            self.read_set(set);
        } else if let Some(rule) = object.remove("rule") {
            self.read_rule(rule);
        }
        Ok(())
    }

    fn read_map(&mut self, map: Value) -> Result<()> {
        let map: VerdictMap = serde_json::from_value(map)?;
        if map.table == TABLE && map.name == PORTS {
            for (key, verdict) in map.elem {
                let port = key.port();
                // A key that is no valid port name serves somebody else's purpose.
                if verdict.leads_past() && port.parse::<Port>().is_ok() {
                    self.strays.insert(port.clone());
                }
                self.ports.insert(port, verdict.chain());
            }
        }
        Ok(())
    }

    fn read_chain(&mut self, chain: Value) -> Result<()> {
        let name = serde_json::from_value::<Chain>(chain.clone())?.name;
        match ChainName::parse(&name) {
            Some(name) => drop(self.chains.entry(name).or_default()),
            None => self.other_chain(&name).chain = chain,
        }
        Ok(())
    }

    fn read_set(&mut self, mut set: Value) {
        let name = set.get("name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        if let Some(set) = set.as_object_mut() {
            set.remove("elem");
        }
        let skeleton = self.skeleton.get_or_insert_default();
        skeleton.sets.insert(name, set);
    }

    fn read_rule(&mut self, mut rule: Value) {
        // A rule that the crate cannot read is somebody else's: only its place matters.
        let Some(name) = rule.get("chain").and_then(Value::as_str) else {
            return;
        };
        let name = name.to_owned();
        let Some(chain) = ChainName::parse(&name) else {
            self.other_chain(&name).rules.push(rule);
            return;
        };
        let handle = rule.get("handle").and_then(Value::as_u64);
        if let Some(handle) = handle.and_then(|handle| handle.try_into().ok()) {
            spelling::unify(&mut rule);
            let rule = serde_json::from_value::<NftRule>(rule).ok();
            let rule = rule.and_then(|listed| {
                let parsed = statement::parse(&listed.expr, listed.comment.as_deref())?;
                if statement::is_of_earlier_version(&listed.expr, &parsed.0) {
                    self.outdated.insert((chain.clone(), handle));
                }
                Some(parsed)
            });
            self.chains
                .entry(chain)
                .or_default()
                .push(ActualRule { handle, rule });
        }
    }

    /// Returns a chain that is no VM's, and adds it if needed. Later only those of the skeleton matter.
    fn other_chain(&mut self, name: &str) -> &mut skeleton::Chain {
        let skeleton = self.skeleton.get_or_insert_default();
        skeleton.chains.entry(name.to_owned()).or_default()
    }

    /// Returns our rules in a chain, each with the packets that it dropped.
    pub fn rules_of(&self, chain: &ChainName) -> impl Iterator<Item = (&Rule, u64)> + Clone {
        let rules = self.chains.get(chain).into_iter().flatten();
        rules.filter_map(|actual| actual.rule.as_ref().map(|(rule, packets)| (rule, *packets)))
    }

    /// Tells whether an earlier version wrote a rule.
    pub fn is_outdated(&self, chain: &ChainName, rule: &ActualRule) -> bool {
        !self.outdated.is_empty() && self.outdated.contains(&(chain.clone(), rule.handle))
    }

    /// Returns each port's guard as the rules of a chain make it.
    pub fn guards_of(&self, chain: &ChainName) -> Vec<ActualGuard> {
        rule::guards(self.rules_of(chain))
    }

    /// Returns every fence, sorted by VM.
    ///
    /// # Errors
    /// If our own skeleton cannot be read.
    pub fn fences(&self) -> Result<Vec<ActualFence>> {
        let shared = self.shared_defects()?;
        let mut own = self.defects();
        let fence = |chain: &ChainName| {
            let own = own.remove(chain).unwrap_or_default();
            Some(ActualFence {
                vm: Some(chain.decode()?),
                chain: chain.to_string(),
                guards: self.guards_of(chain),
                defects: shared.iter().cloned().chain(own).collect(),
            })
        };
        let mut fences: Vec<_> = self.chains.keys().filter_map(fence).collect();
        fences.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(fences)
    }

    /// Describes defects of the parts that all chains share.
    fn shared_defects(&self) -> Result<Vec<String>> {
        let skeleton = self.skeleton.as_ref().map(skeleton::Actual::defects);
        let mut defects = skeleton.transpose()?.unwrap_or_default();
        let fenced: BTreeSet<_> = self
            .chains
            .keys()
            .flat_map(|chain| self.rules_of(chain))
            .map(|(rule, _)| rule.port().as_str())
            .collect();
        let strays = self.strays.iter();
        let strays = strays.filter(|port| !fenced.contains(port.as_str()));
        defects.extend(strays.map(|port| {
            format!("the map's entry for port {port:?} leads past the chains of all VMs")
        }));
        Ok(defects)
    }

    /// Describes each chain's defects outside our rules: foreign or outdated rules, and wrong entries
    /// in the map.
    fn defects(&self) -> BTreeMap<ChainName, Vec<String>> {
        let mut defects: BTreeMap<ChainName, Vec<String>> = BTreeMap::new();
        for (chain, rules) in &self.chains {
            let mut found = Vec::new();
            let ours: Vec<_> = rules.iter().filter_map(|rule| rule.rule.as_ref()).collect();
            match rules.len() - ours.len() {
                0 => {}
                1 => found.push("the chain has a rule that is not macfence's".to_owned()),
                n => found.push(format!("the chain has {n} rules that are not macfence's")),
            }
            let outdated = rules.iter().filter(|rule| self.is_outdated(chain, rule));
            match outdated.count() {
                0 => {}
                n => found.push(format!(
                    "{n} rules of the chain drop frames without noting the sender: they are an earlier \
                     version's"
                )),
            }
            let fenced: BTreeSet<_> = ours.iter().map(|(rule, _)| rule.port().as_str()).collect();
            for port in &fenced {
                found.extend(match self.ports.get(*port) {
                    None => Some(format!("the map has no entry for port \"{port}\"")),
                    Some(to) if to.as_ref() != Some(chain) => Some(format!(
                        "the map's entry for port \"{port}\" leads elsewhere"
                    )),
                    Some(_) => None,
                });
            }
            if !found.is_empty() {
                defects.insert(chain.clone(), found);
            }
        }
        for (port, chain) in &self.ports {
            // Somebody else wrote an entry that leads to no VM's chain.
            let Some(chain) = chain else { continue };
            let rules = self.chains.get(chain).into_iter().flatten();
            let mut ours = rules.filter_map(|rule| rule.rule.as_ref());
            if !ours.any(|(rule, _)| rule.port().as_str() == port) {
                let text = format!("the chain has no rule for port {port:?}, which leads to it");
                defects.entry(chain.clone()).or_default().push(text);
            }
        }
        defects
    }

    /// Returns the ports whose frames go to a chain.
    pub fn ports_of(&self, chain: &ChainName) -> impl Iterator<Item = &str> {
        let target = move |(_, to): &(&String, &Option<ChainName>)| to.as_ref() == Some(chain);
        self.ports
            .iter()
            .filter(target)
            .map(|(port, _)| port.as_str())
    }
}

#[cfg(test)]
mod tests;
