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
use super::skeleton::{self, FORWARD, PREROUTING};
use super::transaction::{Command, Transaction};
use crate::backend::Enforced;
use crate::fence::{Fence, Keep};
use crate::vm::Port;

/// Enforces one fence. One nft process reads the VM's chain, and beside it another reads `prerouting`. A
/// third loads what is missing, or confirms that nothing is, and reads `forward`.
///
/// The other shared chains are left to `check`, `sync` and `watch`, which list the whole table. Each would
/// cost a hook another process, as nft lists one chain at a time. Whoever flushes the table or the
/// ruleset also empties `prerouting`, so that a hook notices.
///
/// # Errors
/// If nft cannot do it.
pub fn enforce(chain: &ChainName, fence: &Fence, keep: &Keep) -> Result<Enforced> {
    let desired = Desired::from([(chain.clone(), fence)]);
    let own = fence.ports();
    // What removes a fence needs no skeleton.
    let needs_skeleton = !fence.guards.is_empty();
    let (mut found, prerouting) = if needs_skeleton {
        query::chain_and_shared_chain(chain, &own, PREROUTING)?
    } else {
        (query::chain(chain, &own)?, skeleton::Actual::default())
    };
    if !found.has_map && !found.actual.chains.contains_key(chain) {
        // There may be something of the table left, such as the sets.
        let plan = plan::enforce(&Ruleset::nothing(), &desired, keep)?;
        return program::commit(plan).or_else(|e| by_table(&desired, keep).map_err(|_| e));
    }
    if needs_skeleton && !prerouting.defects_of(Some(PREROUTING))?.is_empty() {
        // An earlier version's table, or a damaged one: all VMs are brought to this layout.
        return by_table(&desired, keep);
    }
    let plan = plan::enforce(&infer(&found, chain, fence), &desired, keep)?;
    if plan.is_none() && !needs_skeleton {
        return Ok(Enforced::default());
    }
    let is_right = plan.is_none();
    if found.has_map && tells_its_ports(&found, chain) {
        let changes = plan.iter().flat_map(|plan| plan.changes.0.clone());
        let changes = changes.chain(entries(chain, &own));
        match load(changes.collect())? {
            Some(defects) if defects.is_empty() || !needs_skeleton => {
                return Ok(plan.map(Enforced::from).unwrap_or_default());
            }
            Some(_) => return by_table(&desired, keep),
            // An nft that failed in the end may have loaded all the same.
            None => found = query::chain(chain, &BTreeSet::new())?,
        }
    }
    if is_right {
        // The rules are right, but something around them is not.
        return by_table(&desired, keep);
    }
    let mut actual = query::ports()?.unwrap_or_default();
    actual.chains = found.actual.chains;
    let taken = own.into_iter().map(Port::as_str).collect();
    query::read_robbed(&mut actual, &taken)?;
    let plan = plan::enforce(&actual, &desired, keep)?;
    // Something that nobody has looked at may be missing, such as the chain `meddling`.
    program::commit(plan).or_else(|e| by_table(&desired, keep).map_err(|_| e))
}

/// Enforces by all that the kernel holds.
fn by_table(desired: &Desired, keep: &Keep) -> Result<Enforced> {
    let actual = query::table()?.unwrap_or_else(Ruleset::nothing);
    program::commit(plan::enforce(&actual, desired, keep)?)
}

/// Loads commands in a short time, however many VMs there are. Returns what is wrong about `forward`,
/// or `None` if the kernel refuses the commands.
fn load(mut commands: Vec<Command>) -> Result<Option<Vec<String>>> {
    commands.push(Command::ListChain(FORWARD));
    let answer = program::load(&Transaction(commands), Detail::Terse)?;
    if !answer.success() {
        return Ok(None);
    }
    let forward = query::listed_behind_the_other_family(&answer);
    Ok(Some(forward.defects_of(Some(FORWARD))?))
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
fn infer(found: &Found, chain: &ChainName, fence: &Fence) -> Ruleset {
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
        ..found.actual.clone()
    }
}
