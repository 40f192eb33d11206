//! The fast path for one VM. Listing the map costs as much as the host has VMs, so what the map
//! holds is inferred from the VM's own chain, and the kernel rejects the transaction if the map says
//! otherwise.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::chain_name::ChainName;
use super::plan::{self, Desired};
use super::program::{self, Answer, Detail};
use super::query::{self, Found};
use super::ruleset::Ruleset;
use super::skeleton::Skeleton;
use super::transaction::{Command, Transaction};
use crate::fence::{Fence, Keep};
use crate::vm::Port;

/// Enforces one fence and makes sure that frames pass it: two nft processes where the chain tells
/// the truth about the map, more where somebody has edited it or a port was another VM's. Returns
/// whether anything changed.
///
/// # Errors
/// If nft cannot do it.
pub fn enforce(chain: &ChainName, fence: &Fence, keep: &Keep) -> Result<bool> {
    let desired = Desired::from([(chain.clone(), fence)]);
    let mut found = query::chain(chain, &fence.ports())?;
    let changes = plan::enforce(&infer(&found, chain, fence), &desired, keep)?;
    if changes.is_none() && fence.guards.is_empty() {
        return Ok(false);
    }
    if !found.has_map && !found.actual.chains.contains_key(chain) {
        return program::commit(changes);
    }
    if found.has_map && tells_its_ports(&found, chain) {
        match (
            try_out(&found, chain, &desired, keep, changes.is_some())?,
            &changes,
        ) {
            (Tried::Done, changes) => return Ok(changes.is_some()),
            (Tried::NotPassed(defects), Some(_)) => {
                let defects = defects.join("; ");
                return repair(&desired, keep).with_context(|| {
                    format!("the VM's own rules are loaded, but {defects}, which cannot be mended")
                });
            }
            // The rules are right, but something around them is not.
            (_, None) => return repair(&desired, keep).context("nothing was changed"),
            // An nft that failed in the end may have loaded all the same.
            (Tried::Rejected, Some(_)) => found = query::chain(chain, &BTreeSet::new())?,
        }
    }
    let mut actual = query::ports()?.unwrap_or_default();
    actual.chains = found.actual.chains;
    let taken = fence.ports().into_iter().map(Port::as_str).collect();
    query::read_robbed(&mut actual, &taken)?;
    program::commit(plan::enforce(&actual, &desired, keep)?)
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
fn infer(found: &Found, chain: &ChainName, fence: &Fence) -> Ruleset {
    let own = if found.is_mapped {
        BTreeSet::new()
    } else {
        fence.ports()
    };
    let rules = found.actual.rules_of(chain);
    let ports = rules
        .map(|(rule, _)| rule.port())
        .filter(|port| !own.contains(port));
    let entries = ports.map(|port| (port.to_string(), Some(chain.clone())));
    Ruleset {
        ports: entries.collect(),
        ..found.actual.clone()
    }
}

enum Tried {
    /// The kernel holds the fence, and frames pass it.
    Done,
    /// The kernel holds the fence, but this keeps frames from passing it.
    NotPassed(Vec<String>),
    /// The map says otherwise than the chain.
    Rejected,
}

/// Loads the changes with all entries of the map: the kernel rejects those that lead elsewhere, and
/// adding the others changes nothing. Asks in the same process whether the base chain is whole.
fn try_out(
    found: &Found,
    chain: &ChainName,
    desired: &Desired,
    keep: &Keep,
    changes: bool,
) -> Result<Tried> {
    let unmapped = Found {
        is_mapped: false,
        actual: found.actual.clone(),
        has_map: true,
    };
    let fence = desired[chain];
    let mut transaction =
        plan::enforce(&infer(&unmapped, chain, fence), desired, keep)?.unwrap_or_default();
    if changes {
        transaction = transaction.after(Command::AddContainers);
    }
    let (answer, defects) = load_and_list_base_chains(transaction)?;
    Ok(if !answer.success() {
        Tried::Rejected
    } else if defects.is_empty() || fence.guards.is_empty() {
        // What removes a fence needs no base chain.
        Tried::Done
    } else {
        Tried::NotPassed(defects)
    })
}

/// Loads a transaction, and tells what is wrong about the base chains: without replacing their rules,
/// after which the kernel waits for an RCU grace period, some 10 ms.
fn load_and_list_base_chains(transaction: Transaction) -> Result<(Answer, Vec<String>)> {
    let mut listed = Ruleset::default();
    let mut read = |answer: &Answer| {
        // What was loaded is loaded. A listing that cannot be read counts as a defect, and is then
        // looked at closely.
        let _ = listed.read(query::behind_the_other_family(answer));
    };
    let skeleton = Skeleton::read()?;
    let mut names = skeleton
        .base_chains()
        .into_keys()
        .map(Command::ListBaseChain);
    let mut transaction = transaction;
    transaction.0.extend(names.next());
    let answer = program::load(&transaction, Detail::Terse)?;
    read(&answer);
    for name in names.filter(|_| answer.success()) {
        read(&program::load(&Transaction(vec![name]), Detail::Terse)?);
    }
    let defects = listed.skeleton.unwrap_or_default().defects()?;
    Ok((answer, defects))
}

/// Makes the whole table what it should be, and replaces what all fences share.
fn repair(desired: &Desired, keep: &Keep) -> Result<bool> {
    let actual = query::table()?.unwrap_or_default();
    let changes = plan::enforce(&actual, desired, keep)?.unwrap_or_default();
    let answer = program::load(&changes.after(Command::AddSkeleton), Detail::Whole)?;
    answer.expecting(&[]).map(|_| true)
}
