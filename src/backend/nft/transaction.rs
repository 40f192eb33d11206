//! A list of nft commands that the kernel takes as a whole or not at all.

use std::borrow::Cow;

use anyhow::{Context, Result};
use nftables::expr::{Expression, Verdict};
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Rule as NftRule};
use nftables::stmt::JumpTarget;
use nftables::types::NfFamily;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::name::ChainName;
use super::rule;
use crate::fence::Rule;
use crate::vm::Port;

/// The family of our table.
pub const FAMILY: NfFamily = NfFamily::Bridge;
/// Our table.
pub const TABLE: &str = "macfence";
/// The verdict map in it: which port belongs to which VM's chain.
pub const PORTS: &str = "ports";

/// The base chain, which sends the frames of each port to its VM's chain.
pub const BASE: &str = "forward";

/// What never varies: the table, the verdict map and the base chain. Adding what exists changes
/// nothing, and the base chain's rules are replaced by the same ones.
const SKELETON: &str = include_str!("skeleton.json");

/// nft commands, in the order in which the kernel is to see them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    #[serde(rename = "nftables")]
    commands: Vec<Value>,
}

impl Transaction {
    /// A transaction that first makes sure of the table, the map and the base chain.
    pub fn on_skeleton() -> Result<Self> {
        serde_json::from_str(SKELETON).context("skeleton.json")
    }

    /// A transaction that makes sure only of what a listing needs: the table and the map.
    pub fn on_containers() -> Result<Self> {
        let mut skeleton = Self::on_skeleton()?;
        let is_container = |added: &Value| added.get("table").or(added.get("map")).is_some();
        skeleton
            .commands
            .retain(|command| command.get("add").is_some_and(is_container));
        Ok(skeleton)
    }

    /// A transaction that any nft with JSON takes on any kernel with tables of the bridge family,
    /// whatever else is there: it adds and lists a table that nobody has.
    pub fn probe() -> Self {
        let table = json!({"table": {"family": FAMILY, "name": "macfence-probe"}});
        Self {
            commands: vec![json!({"add": table}), json!({"list": table})],
        }
    }

    /// The objects of this kind that the transaction adds.
    pub fn added<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.commands
            .iter()
            .filter_map(move |command| command.get("add")?.get(kind))
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

    /// Lists a chain and its rules.
    pub fn list_chain(&mut self, name: &ChainName) -> Result<()> {
        self.push(&NfCmd::List(NfListObject::Chain(chain(name))))
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
        let target = Cow::Owned(name.to_string());
        let jump = Expression::Verdict(Verdict::Jump(JumpTarget { target }));
        self.push(&NfCmd::Add(element(Expression::List(vec![
            key(port.as_str()),
            jump,
        ]))))
    }

    /// Deletes a port's entry in the map. Fails in the kernel if there is none.
    pub fn delete_port(&mut self, port: &str) -> Result<()> {
        self.push(&NfCmd::Delete(element(key(port))))
    }

    // What the crate's types cannot name alone is written by hand: a map of verdicts (its issue
    // 237), the table, the base chain.

    /// Lists the map.
    pub fn list_ports(&mut self) {
        let map = json!({"family": FAMILY, "table": TABLE, "name": PORTS});
        self.commands.push(json!({"list": {"map": map}}));
    }

    /// Lists the base chain.
    pub fn list_base(&mut self) {
        let chain = json!({"family": FAMILY, "table": TABLE, "name": BASE});
        self.commands.push(json!({"list": {"chain": chain}}));
    }

    /// Lists the whole table: 370 ms and 88 MB in nft with 4,000 VMs.
    pub fn list_table(&mut self) {
        self.commands
            .push(json!({"list": {"table": {"family": FAMILY, "name": TABLE}}}));
    }

    fn push(&mut self, command: &NfCmd) -> Result<()> {
        self.commands
            .push(serde_json::to_value(command).context("nft JSON")?);
        Ok(())
    }

    /// The transaction as `nft -j -f -` reads it, on one line.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).context("nft JSON")
    }

    /// The transaction as `nft -j -f -` reads it, one command a line, for people.
    pub fn to_json_lines(&self) -> Result<String> {
        let lines = self.commands.iter().map(|c| Ok(serde_json::to_string(c)?));
        let lines = lines.collect::<Result<Vec<_>>>().context("nft JSON")?;
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
