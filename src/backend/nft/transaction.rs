//! A list of nft commands. The kernel executes all of them or none.

use std::borrow::Cow;

use anyhow::{Context, Result};
use nftables::expr::{Expression, Verdict};
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Rule as NftRule};
use nftables::stmt::JumpTarget;
use serde_json::json;

use super::chain_name::ChainName;
use super::rule::Rule;
use super::skeleton::{self, FAMILY, FORWARD, PORTS, Skeleton, TABLE};
use super::statement;
use crate::vm::Port;

/// nft commands, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction(pub Vec<Command>);

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds the table, the map and the shared chains unless they exist. It replaces these chains'
    /// rules, so the kernel waits for an RCU grace period, some 10 ms.
    AddSkeleton,
    /// Does the same, except that the chain `forward` stays as it is.
    AddSkeletonButForward,
    /// Adds the table and these sets of the skeleton. nft 1.0.6 fails if a set exists: see
    /// [`Skeleton::commands_for_sets`].
    AddSets(Vec<String>),
    /// Deletes a set of the skeleton and the rules that fill it, so that it can be added again as it
    /// should be.
    DropSet(String),
    /// Deletes a chain of the skeleton, so that it can be added again in its place.
    DropBaseChain(String),
    /// Adds a chain, unless it exists.
    AddChain(ChainName),
    /// Adds a chain. Fails in the kernel if it exists.
    CreateChain(ChainName),
    /// Deletes all rules of a chain.
    FlushChain(ChainName),
    /// Deletes a chain with its rules. Fails in the kernel while the map refers to it.
    DeleteChain(ChainName),
    /// Adds a rule to a chain: at its end, or at its beginning if the rule must see frames that others
    /// drop.
    AddRule(ChainName, Rule),
    /// Replaces the rule with this handle by a new one, whose counter starts at this number of packets.
    /// Fails in the kernel if there is no rule with this handle.
    RenewRule(ChainName, u32, Rule, u64),
    /// Deletes the rule with this handle. Fails in the kernel if there is none.
    DeleteRule(ChainName, u32),
    /// Sends a port's frames to a chain. Fails in the kernel if they go to another one.
    AddPort(Port, ChainName),
    /// Checks that a port's entry leads to a chain: fails in the kernel if it leads elsewhere. Adds the
    /// entry if there is none.
    AssertEntry(String, ChainName),
    /// Deletes an entry of the map. Fails in the kernel if there is none.
    DeleteEntry(String),
    /// Lists the map of ports. As the last command it keeps nft before 1.0.7 from reading the sets of
    /// the skeleton. Then [`Command::AddSets`] does not fail if they exist.
    ListPorts,
    /// Lists this chain of the skeleton. As the last command it keeps nft 1.0.6 from reading all chains
    /// and all elements of the map, which takes 12 ms with 4,000 VMs.
    ListChain(&'static str),
}

/// A family that we list but ignore. nft 1.0.6 heeds `-t` for a chain only after a listing of another
/// family.
pub const OTHER_FAMILY: &str = "arp";

impl Transaction {
    /// Deletes a port's entry in the map, if there is one. Fails in the kernel if the entry leads to
    /// another chain.
    pub fn delete_entry_of(&mut self, port: &str, name: &ChainName) {
        // Deleting compares only the port. Adding compares the chain too, and changes nothing if the
        // entry exists.
        self.0
            .push(Command::AssertEntry(port.to_owned(), name.clone()));
        self.0.push(Command::DeleteEntry(port.to_owned()));
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
    /// Writes the command in nft's JSON, which may need several objects.
    fn to_json(&self) -> Result<Vec<String>> {
        let commands = match self {
            Self::AddSkeleton => {
                let skeleton = Skeleton::read()?;
                return Ok(skeleton.commands().map(str::to_owned).collect());
            }
            Self::AddSkeletonButForward => {
                let skeleton = Skeleton::read()?;
                return Ok(skeleton.commands_but(FORWARD).map(str::to_owned).collect());
            }
            Self::AddSets(names) => {
                let skeleton = Skeleton::read()?;
                let commands = skeleton.commands_for_sets(names);
                return Ok(commands.map(str::to_owned).collect());
            }
            Self::DropSet(name) => return Ok(drop_set(name)),
            Self::ListChain(name) => return Ok(list_chain(name)),
            Self::ListPorts => return Ok(vec![list_ports()]),
            Self::DropBaseChain(name) => vec![
                NfCmd::Flush(FlushObject::Chain(chain(name.as_str()))),
                NfCmd::Delete(NfListObject::Chain(chain(name.as_str()))),
            ],
            Self::AddChain(name) => vec![NfCmd::Add(NfListObject::Chain(chain(name.as_str())))],
            Self::CreateChain(name) => {
                vec![NfCmd::Create(NfListObject::Chain(chain(name.as_str())))]
            }
            Self::FlushChain(name) => vec![NfCmd::Flush(FlushObject::Chain(chain(name.as_str())))],
            Self::DeleteChain(name) => vec![
                NfCmd::Flush(FlushObject::Chain(chain(name.as_str()))),
                NfCmd::Delete(NfListObject::Chain(chain(name.as_str()))),
            ],
            Self::AddRule(name, rule) => {
                let object = NfListObject::Rule(NftRule {
                    expr: statement::of(rule).into(),
                    comment: statement::comment(rule),
                    ..nft_rule(name)
                });
                vec![if rule.must_be_first() {
                    NfCmd::Insert(object)
                } else {
                    NfCmd::Add(object)
                }]
            }
            Self::RenewRule(name, handle, rule, packets) => vec![
                NfCmd::Delete(NfListObject::Rule(NftRule {
                    handle: Some(*handle),
                    ..nft_rule(name)
                })),
                NfCmd::Add(NfListObject::Rule(NftRule {
                    expr: statement::with_packets(rule, *packets).into(),
                    comment: statement::comment(rule),
                    ..nft_rule(name)
                })),
            ],
            Self::DeleteRule(name, handle) => vec![NfCmd::Delete(NfListObject::Rule(NftRule {
                handle: Some(*handle),
                ..nft_rule(name)
            }))],
            Self::AddPort(port, name) => vec![NfCmd::Add(entry(port.as_str(), name))],
            Self::AssertEntry(port, name) => vec![NfCmd::Add(entry(port, name))],
            Self::DeleteEntry(port) => vec![NfCmd::Delete(element(key(port)))],
        };
        let json = commands.iter().map(serde_json::to_string);
        json.collect::<Result<_, _>>().context("nft JSON")
    }
}

/// Written by hand: the crate's types cannot list an object by its name alone.
fn list_chain(name: &str) -> Vec<String> {
    let lists = [
        json!({"list": {"ruleset": {"family": OTHER_FAMILY}}}),
        json!({"list": {"chain": {"family": FAMILY, "table": TABLE, "name": name}}}),
    ];
    lists.iter().map(ToString::to_string).collect()
}

fn list_ports() -> String {
    json!({"list": {"map": {"family": FAMILY, "table": TABLE, "name": PORTS}}}).to_string()
}

/// Written by hand: the crate's types need a set's type and flags to delete it.
fn drop_set(name: &str) -> Vec<String> {
    let chain = json!({"family": FAMILY, "table": TABLE, "name": skeleton::chain_that_fills(name)});
    let commands = [
        // The kernel flushes only chains that exist.
        json!({"add": {"chain": chain}}),
        json!({"flush": {"chain": chain}}),
        json!({"delete": {"set": {"family": FAMILY, "table": TABLE, "name": name}}}),
    ];
    commands.iter().map(ToString::to_string).collect()
}

fn chain(name: &str) -> Chain<'static> {
    Chain {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: Cow::Owned(name.to_owned()),
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

fn entry(port: &str, name: &ChainName) -> NfListObject<'static> {
    let target = Cow::Owned(name.to_string());
    let jump = Expression::Verdict(Verdict::Jump(JumpTarget { target }));
    element(Expression::List(vec![key(port), jump]))
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
