//! The fast path for one VM. Listing the map is O(VMs). So we infer its entries from the VM's own
//! chain, and the kernel rejects the transaction if they lead elsewhere.

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

/// Enforces one fence. One nft process reads the VM's chain, and another reads `prerouting` at the same
/// time. A third loads missing rules, or confirms that none are missing, and reads `forward`.
///
/// Only `check`, `sync` and `watch`, which list the whole table, look at the other shared chains. Each
/// chain would cost a hook another process, as nft lists one chain at a time. If somebody flushes the
/// table or the ruleset, a hook notices: `prerouting` is empty then.
///
/// # Errors
/// If nft cannot do it.
pub fn enforce(chain: &ChainName, fence: &Fence, keep: &Keep) -> Result<Enforced> {
    let desired = Desired::from([(chain.clone(), fence)]);
    let own = fence.ports();
    // Removing a fence needs no skeleton.
    let needs_skeleton = !fence.guards.is_empty();
    let (mut found, prerouting) = if needs_skeleton {
        query::chain_and_shared_chain(chain, &own, PREROUTING)?
    } else {
        (query::chain(chain, &own)?, skeleton::Actual::default())
    };
    if !found.has_map && !found.actual.chains.contains_key(chain) {
        // If this fails, a part of the table may be left, such as the sets.
        let plan = plan::enforce(&Ruleset::nothing(), &desired, keep)?;
        return program::commit(plan).or_else(|e| by_table(&desired, keep).map_err(|_| e));
    }
    if needs_skeleton && !prerouting.defects_of(Some(PREROUTING))?.is_empty() {
        // The table is damaged or an earlier version's: bring all VMs to this layout.
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
            // nft may have loaded the commands even if it failed in the end.
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
    // If this fails, a part that we have not read may be missing, such as the chain `meddling`.
    program::commit(plan).or_else(|e| by_table(&desired, keep).map_err(|_| e))
}

/// Enforces after listing the whole table.
fn by_table(desired: &Desired, keep: &Keep) -> Result<Enforced> {
    let actual = query::table()?.unwrap_or_else(Ruleset::nothing);
    program::commit(plan::enforce(&actual, desired, keep)?)
}

/// Loads commands in a time that does not grow with the number of VMs. Returns the defects of
/// `forward`, or `None` if the kernel refuses the commands.
fn load(mut commands: Vec<Command>) -> Result<Option<Vec<String>>> {
    commands.push(Command::ListChain(FORWARD));
    let answer = program::load(&Transaction(commands), Detail::Terse)?;
    if !answer.success() {
        return Ok(None);
    }
    let forward = query::listed_behind_the_other_family(&answer);
    Ok(Some(forward.defects_of(Some(FORWARD))?))
}

/// Returns commands that add the entries of these ports. Adding an existing entry changes nothing, but
/// the kernel refuses it if the existing one leads elsewhere.
fn entries(chain: &ChainName, ports: &BTreeSet<&Port>) -> Vec<Command> {
    let add = |port: &&Port| Command::AddPort((*port).clone(), chain.clone());
    ports.iter().map(add).collect()
}

/// Tells whether we can infer from a chain which ports lead to it: it has only our rules, or does not
/// exist.
fn tells_its_ports(found: &Found, chain: &ChainName) -> bool {
    found
        .actual
        .chains
        .get(chain)
        .is_none_or(|rules| !rules.is_empty() && rules.iter().all(|actual| actual.rule.is_some()))
}

/// Infers a VM's part of the ruleset: all ports that the chain's rules name lead to it. For the fence's
/// own ports we know more, as we asked the map for them.
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
