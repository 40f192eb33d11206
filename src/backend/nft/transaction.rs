//! A list of nft commands that the kernel takes as a whole or not at all.

use std::borrow::Cow;

use anyhow::{Context, Result};
use nftables::expr::{Expression, Verdict};
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Rule as NftRule};
use nftables::stmt::JumpTarget;
use serde_json::json;

use super::chain_name::ChainName;
use super::rule::{self, Rule};
use super::skeleton::{FAMILY, PORTS, Skeleton, TABLE};

/// nft commands, in the order in which the kernel is to see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction(pub Vec<Command>);

/// A change, or a question beside changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes sure of the table, the map and the base chains. The base chains' rules are replaced, so
    /// that the kernel waits for an RCU grace period, some 10 ms.
    AddSkeleton,
    /// Makes sure of the table and the map only. The kernel refuses this if there is a map of this
    /// name of another kind, and counts it as a change even if there is nothing to do.
    AddContainers,
    /// Adds a chain, unless it exists.
    AddChain(ChainName),
    /// Deletes all rules of a chain.
    FlushChain(ChainName),
    /// Deletes a chain with its rules. Fails in the kernel while the map refers to it.
    DeleteChain(ChainName),
    /// Appends a rule to a chain.
    AddRule(ChainName, Rule),
    /// Deletes the rule with this handle. Fails in the kernel if it is not there.
    DeleteRule(ChainName, u32),
    /// Makes a port's frames pass a chain. Fails in the kernel if they pass another one.
    AddPort(String, ChainName),
    /// Deletes a port's entry in the map. Fails in the kernel if there is none.
    DeletePort(String),
    /// Lists one base chain as it was before the transaction, and whether the table is in force.
    /// Listing two different chains fails in nft 1.0.6 ("No such file or directory").
    ListBaseChain(String),
}

/// nft 1.0.6 heeds `-t` where a chain is listed only after a listing of another family, and then
/// does not read all elements of the map, 12 ms with 4,000 VMs. Nobody wants to know this family's
/// rules.
pub const OTHER_FAMILY: &str = "arp";

impl Transaction {
    /// The same, with this command before it.
    pub fn after(mut self, first: Command) -> Self {
        self.0.insert(0, first);
        self
    }

    /// Deletes a port's entry in the map if there is one. Fails in the kernel if it leads to another
    /// chain.
    pub fn delete_port_of(&mut self, port: &str, name: &ChainName) {
        // Deleting looks at the port alone; adding what is there changes nothing.
        self.0.push(Command::AddPort(port.to_owned(), name.clone()));
        self.0.push(Command::DeletePort(port.to_owned()));
    }

    /// The transaction as `nft -j -f -` reads it, on one line.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        self.joined("", ",", "")
    }

    /// The transaction as `nft -j -f -` reads it, one command a line, for people.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json_lines(&self) -> Result<String> {
        self.joined("\n", ",\n", "\n")
    }

    fn joined(&self, first: &str, between: &str, last: &str) -> Result<String> {
        let mut json = format!("{{\"nftables\": [{first}");
        let mut separator = "";
        for command in &self.0 {
            for object in command.to_json()? {
                json += separator;
                json += &object;
                separator = between;
            }
        }
        Ok(json + last + "]}" + last)
    }
}

impl Command {
    /// The command in nft's JSON, which may need several objects for it.
    fn to_json(&self) -> Result<Vec<String>> {
        let commands = match self {
            Self::AddSkeleton => return Ok(owned(Skeleton::read()?.commands())),
            Self::AddContainers => return Ok(owned(Skeleton::read()?.containers())),
            Self::ListBaseChain(name) => return list_base_chain(name),
            Self::AddChain(name) => vec![NfCmd::Add(NfListObject::Chain(chain(name)))],
            Self::FlushChain(name) => vec![NfCmd::Flush(FlushObject::Chain(chain(name)))],
            Self::DeleteChain(name) => vec![
                NfCmd::Flush(FlushObject::Chain(chain(name))),
                NfCmd::Delete(NfListObject::Chain(chain(name))),
            ],
            Self::AddRule(name, rule) => vec![NfCmd::Add(NfListObject::Rule(NftRule {
                expr: rule::statements(rule).into(),
                comment: rule::comment(rule),
                ..nft_rule(name)
            }))],
            Self::DeleteRule(name, handle) => vec![NfCmd::Delete(NfListObject::Rule(NftRule {
                handle: Some(*handle),
                ..nft_rule(name)
            }))],
            Self::AddPort(port, name) => {
                let target = Cow::Owned(name.to_string());
                let jump = Expression::Verdict(Verdict::Jump(JumpTarget { target }));
                let entry = Expression::List(vec![key(port), jump]);
                vec![NfCmd::Add(element(entry))]
            }
            Self::DeletePort(port) => vec![NfCmd::Delete(element(key(port)))],
        };
        let json = commands.iter().map(serde_json::to_string);
        json.collect::<Result<_, _>>().context("nft JSON")
    }
}

fn owned<'a>(commands: impl Iterator<Item = &'a str>) -> Vec<String> {
    commands.map(str::to_owned).collect()
}

/// The crate's types cannot list what has only a name.
fn list_base_chain(name: &str) -> Result<Vec<String>> {
    let lists = [
        json!({"list": {"ruleset": {"family": OTHER_FAMILY}}}),
        json!({"list": {"tables": {"family": FAMILY}}}),
        json!({"list": {"chain": {"family": FAMILY, "table": TABLE, "name": name}}}),
    ];
    Ok(lists.iter().map(ToString::to_string).collect())
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
