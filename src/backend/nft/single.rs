//! The fast path for one VM. Listing the map costs as much as the host has VMs, so what the map
//! holds is inferred from the VM's own chain, and the kernel rejects the transaction if the map says
//! otherwise.

use std::collections::BTreeSet;

use anyhow::Result;

use super::chain_name::ChainName;
use super::plan::{self, Desired};
use super::program::{self, Detail};
use super::query::{self, Found};
use super::ruleset::Ruleset;
use super::skeleton;
use super::transaction::{Command, Transaction};
use crate::backend::Enforced;
use crate::fence::{Fence, Keep};
use crate::vm::Port;

/// Enforces one fence: one nft process asks about the VM's chain, beside one for each chain of the
/// skeleton, and one loads what is missing or makes sure that nothing is.
///
/// # Errors
/// If nft cannot do it.
pub fn enforce(chain: &ChainName, fence: &Fence, keep: &Keep) -> Result<Enforced> {
    let desired = Desired::from([(chain.clone(), fence)]);
    let own = fence.ports();
    let (mut found, skeleton) = if fence.guards.is_empty() {
        // What removes a fence needs no skeleton.
        (query::chain(chain, &own)?, None)
    } else {
        let (found, skeleton) = query::chain_and_skeleton(chain, &own)?;
        (found, Some(skeleton))
    };
    let is_whole = match &skeleton {
        Some(skeleton) => skeleton.defects()?.is_empty(),
        None => true,
    };
    let inferred = infer(&found, chain, fence, skeleton.clone());
    let plan = plan::enforce(&inferred, &desired, keep)?;
    if plan.is_none() && lead_here(chain, &own)? {
        return Ok(Enforced::default());
    }
    let is_new = !found.has_map && !found.actual.chains.contains_key(chain);
    if is_new {
        return program::commit(plan);
    }
    if let Some(mut plan) = plan
        && found.has_map
        && is_whole
        && tells_its_ports(&found, chain)
    {
        plan.changes.0.extend(entries(chain, &own));
        if load(plan.changes.clone())? {
            return Ok(plan.into());
        }
        // An nft that failed in the end may have loaded all the same.
        found = query::chain(chain, &BTreeSet::new())?;
    }
    let mut actual = if is_whole {
        let mut actual = query::ports()?.unwrap_or_default();
        actual.chains = found.actual.chains;
        let taken = own.into_iter().map(Port::as_str).collect();
        query::read_robbed(&mut actual, &taken)?;
        actual
    } else {
        // An earlier version's table, or a damaged one: all VMs are brought to this layout.
        query::table()?.unwrap_or_default()
    };
    actual.skeleton = skeleton;
    program::commit(plan::enforce(&actual, &desired, keep)?)
}

/// Whether these ports, which are in the map, lead to this chain.
fn lead_here(chain: &ChainName, ports: &BTreeSet<&Port>) -> Result<bool> {
    let entries = Transaction(entries(chain, ports));
    Ok(entries.0.is_empty() || load(entries)?)
}

/// Loads a transaction in a short time, however many VMs there are. Returns whether the kernel took
/// it.
fn load(mut transaction: Transaction) -> Result<bool> {
    transaction.0.push(Command::ListChain(skeleton::MEDDLING));
    Ok(program::load(&transaction, Detail::Terse)?.success())
}

/// The entries of these ports. Adding one that is there changes nothing, but the kernel refuses it if
/// it leads elsewhere.
fn entries(chain: &ChainName, ports: &BTreeSet<&Port>) -> Vec<Command> {
    let add = |port: &&Port| Command::AddPort((*port).clone(), chain.clone());
    ports.iter().map(add).collect()
}

/// Whether a chain can tell which ports lead to it: it is whole, or not there at all.
fn tells_its_ports(found: &Found, chain: &ChainName) -> bool {
    found
        .actual
        .chains
        .get(chain)
        .is_none_or(|rules| !rules.is_empty() && rules.iter().all(|actual| actual.rule.is_some()))
}

/// What the kernel holds of a VM if its chain tells the truth: all ports that its rules name lead to
/// it. About the fence's own ports more is known, as the map was asked for them.
fn infer(
    found: &Found,
    chain: &ChainName,
    fence: &Fence,
    skeleton: Option<skeleton::Actual>,
) -> Ruleset {
    let unknown = if found.is_mapped {
        BTreeSet::new()
    } else {
        fence.ports()
    };
    let rules = found.actual.rules_of(chain);
    let ports = rules.map(|(rule, _)| rule.port());
    let entries = ports
        .filter(|port| !unknown.contains(port))
        .map(|port| (port.to_string(), Some(chain.clone())));
    Ruleset {
        ports: entries.collect(),
        skeleton,
        ..found.actual.clone()
    }
}
