//! A list of nft commands that the kernel takes as a whole or not at all.

use std::borrow::Cow;

use anyhow::{Context, Result};
use nftables::expr::{Expression, Verdict};
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Rule as NftRule};
use nftables::stmt::JumpTarget;
use nftables::types::NfFamily;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::name::ChainName;
use super::{look, rule};
use crate::fence::Rule;
use crate::vm::Port;

/// The family of our table.
pub const FAMILY: NfFamily = NfFamily::Bridge;
/// Its name in nft's language.
pub const FAMILY_NAME: &str = "bridge";
/// Our table.
pub const TABLE: &str = "macfence";
/// The verdict map in it: which port belongs to which VM's chain.
pub const PORTS: &str = "ports";

/// The base chain, which sends the frames of each port to its VM's chain.
pub const BASE: &str = "forward";

/// What never varies: the table, the verdict map and the base chain. Adding what exists changes
/// nothing, and the base chain's rules are replaced by the same ones.
const SKELETON: &str = include_str!("skeleton.json");

/// nft commands, in the order in which the kernel is to see them; each as text already, of which
/// 4,000 VMs need a tenth of the memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Transaction {
    #[serde(rename = "nftables")]
    commands: Vec<Box<RawValue>>,
}

impl PartialEq for Transaction {
    fn eq(&self, other: &Self) -> bool {
        let (own, others) = (self.commands.iter(), other.commands.iter());
        own.map(|command| command.get())
            .eq(others.map(|command| command.get()))
    }
}

impl Transaction {
    /// A transaction that first makes sure of the table, the map and the base chain.
    pub fn on_skeleton() -> Result<Self> {
        serde_json::from_str(SKELETON).context("skeleton.json")
    }

    /// A transaction that makes sure only of the table and the map. The kernel refuses it if there
    /// is a map of this name of another kind, and counts it as a change even if there is none.
    pub fn on_map() -> Result<Self> {
        let skeleton = Self::on_skeleton()?;
        let mut containers = Self::default();
        for kind in ["table", "map"] {
            for added in skeleton.added(kind)? {
                containers.push(&json!({"add": {kind: added}}))?;
            }
        }
        Ok(containers)
    }

    /// A transaction that any nft with JSON takes on any kernel with tables of the bridge family,
    /// whatever else is there: it adds and lists a table that nobody has.
    pub fn probe() -> Result<Self> {
        let table = json!({"table": {"family": FAMILY, "name": "macfence-probe"}});
        let mut probe = Self::default();
        probe.push(&json!({"add": table}))?;
        probe.push(&json!({"list": table}))?;
        Ok(probe)
    }

    /// The objects of this kind that the transaction adds.
    pub fn added(&self, kind: &str) -> Result<Vec<Value>> {
        let mut added = Vec::new();
        for command in &self.commands {
            let mut command: Value = serde_json::from_str(command.get()).context("nft JSON")?;
            let object = command.get_mut("add").and_then(|add| add.get_mut(kind));
            added.extend(object.map(Value::take));
        }
        Ok(added)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Adds another transaction's commands behind the own ones.
    pub fn append(&mut self, mut other: Self) {
        self.commands.append(&mut other.commands);
    }

    /// Adds a chain, unless it exists.
    pub fn add_chain(&mut self, name: &ChainName) -> Result<()> {
        self.push(&NfCmd::Add(NfListObject::Chain(chain(name))))
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &ChainName) -> Result<()> {
        self.push(&NfCmd::Flush(FlushObject::Chain(chain(name))))
    }

    /// Deletes a chain with its rules. Fails in the kernel while the map refers to it.
    pub fn delete_chain(&mut self, name: &ChainName) -> Result<()> {
        self.flush_chain(name)?;
        self.push(&NfCmd::Delete(NfListObject::Chain(chain(name))))
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, name: &ChainName, rule: &Rule) -> Result<()> {
        self.push(&NfCmd::Add(NfListObject::Rule(NftRule {
            expr: rule::statements(rule).into(),
            comment: rule::comment(rule),
            ..nft_rule(name)
        })))
    }

    /// Deletes a rule. Fails in the kernel if it is not there.
    pub fn delete_rule(&mut self, name: &ChainName, handle: u32) -> Result<()> {
        let handle = Some(handle);
        self.push(&NfCmd::Delete(NfListObject::Rule(NftRule {
            handle,
            ..nft_rule(name)
        })))
    }

    /// Makes a port's frames pass a chain. Fails in the kernel if they pass another one.
    pub fn add_port(&mut self, port: &Port, name: &ChainName) -> Result<()> {
        self.add_entry(port.as_str(), name)
    }

    fn add_entry(&mut self, port: &str, name: &ChainName) -> Result<()> {
        let target = Cow::Owned(name.to_string());
        let jump = Expression::Verdict(Verdict::Jump(JumpTarget { target }));
        self.push(&NfCmd::Add(element(Expression::List(vec![
            key(port),
            jump,
        ]))))
    }

    /// Deletes a port's entry in the map if there is one. Fails in the kernel if it leads to another
    /// chain.
    pub fn delete_port_of(&mut self, name: &ChainName, port: &str) -> Result<()> {
        // Deleting looks at the port alone; adding what is there changes nothing.
        self.add_entry(port, name)?;
        self.delete_port(port)
    }

    /// Deletes a port's entry in the map. Fails in the kernel if there is none.
    pub fn delete_port(&mut self, port: &str) -> Result<()> {
        self.push(&NfCmd::Delete(element(key(port))))
    }

    /// Lists the base chain as it is beforehand, and whether the table is in force.
    pub fn list_base(&mut self) -> Result<()> {
        // The crate's types cannot list what has but a name.
        let base = json!({"family": FAMILY, "table": TABLE, "name": BASE});
        self.push(&json!({"list": {"ruleset": {"family": look::OTHER_FAMILY}}}))?;
        self.push(&json!({"list": {"tables": {"family": FAMILY}}}))?;
        self.push(&json!({"list": {"chain": base}}))
    }

    fn push(&mut self, command: &impl Serialize) -> Result<()> {
        self.commands
            .push(to_raw_value(command).context("nft JSON")?);
        Ok(())
    }

    /// The transaction as `nft -j -f -` reads it, on one line.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).context("nft JSON")
    }

    /// The transaction as `nft -j -f -` reads it, one command a line, for people.
    pub fn to_json_lines(&self) -> Result<String> {
        let lines: Vec<_> = self.commands.iter().map(|command| command.get()).collect();
        Ok(format!("{{\"nftables\": [\n{}\n]}}\n", lines.join(",\n")))
    }
}

fn chain(name: &ChainName) -> Chain<'static> {
    Chain {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: Cow::Owned(name.to_string()),
        ..Chain::default()
    }
}

fn nft_rule(name: &ChainName) -> NftRule<'static> {
    NftRule {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        chain: Cow::Owned(name.to_string()),
        ..NftRule::default()
    }
}

fn element(element: Expression<'static>) -> NfListObject<'static> {
    NfListObject::Element(Element {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: Cow::Borrowed(PORTS),
        elem: vec![element].into(),
    })
}

fn key(port: &str) -> Expression<'static> {
    Expression::String(Cow::Owned(port.to_owned()))
}
