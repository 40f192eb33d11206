//! One VM's fence, without listing the map, which costs as much as the host has VMs: by what the
//! VM's own chain says, with the kernel checking that it says the truth.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::look::{self, Look};
use super::name::ChainName;
use super::plan::{self, Wanted};
use super::ruleset::{Base, Ruleset};
use super::transaction::Transaction;
use super::{commit, load, on_skeleton, read_robbed};
use crate::fence::{Fence, Keep};
use crate::process::{self, Output};
use crate::vm::Port;

/// Enforces one fence. Where its chain does not tell the truth (a port was another VM's, somebody
/// edited the map), by the map itself.
pub fn enforce(chain: &ChainName, fence: &Fence, wanted: &Wanted, keep: &Keep) -> Result<bool> {
    let mut look = look::chain(chain, &fence.ports())?;
    let rules = look.held.chains.get(chain);
    // Whether the chain can tell which ports lead to it: it is whole, or not there at all.
    let is_telling =
        rules.is_none_or(|rules| !rules.is_empty() && rules.iter().all(|rule| rule.rule.is_some()));
    let assumed = as_the_chain_says(&look, chain, fence, look.mapped);
    if plan::enforce(&assumed, wanted, keep)?.is_none() {
        return Ok(false);
    }
    // With all its entries, of which the kernel refuses those that are there and lead elsewhere.
    let assumed = as_the_chain_says(&look, chain, fence, false);
    let changes = plan::enforce(&assumed, wanted, keep)?.unwrap_or_default();
    if !look.has_map && rules.is_none() {
        return commit(Some(changes));
    }
    if look.has_map && is_telling {
        let mut transaction = Transaction::on_map()?;
        transaction.append(changes);
        let (output, base) = load_and_list_base(transaction)?;
        match (output.success(), base.defect()?) {
            (true, None) => return Ok(true),
            // What takes a VM away needs no base chain.
            (true, Some(_)) if fence.rules.is_empty() => return Ok(true),
            // Nor did frames come to the VMs' chains before.
            (true, Some(defect)) => {
                let mended = load_the_skeleton(wanted, keep).with_context(|| {
                    format!("the VM's own rules are loaded, but {defect}, which cannot be mended")
                });
                return mended.map(|()| true);
            }
            // An nft that failed at last may have loaded all the same.
            (false, _) => look = look::chain(chain, &BTreeSet::new())?,
        }
    }
    let mut held = look::ports()?.unwrap_or_default();
    held.chains = look.held.chains;
    let taken = fence.ports().into_iter().map(Port::as_str).collect();
    read_robbed(&mut held, &taken)?;
    commit(plan::enforce(&held, wanted, keep)?)
}

/// Whether frames really pass the chains of fences that were found in place: whether their entries
/// lead there, and the base chain is whole.
pub fn is_passed(wanted: &Wanted) -> Result<bool> {
    // These entries are there, so that adding them changes nothing; but the kernel refuses those
    // that lead elsewhere.
    let mut entries = Transaction::default();
    for (chain, fence) in wanted {
        for port in fence.ports() {
            entries.add_port(port, chain)?;
        }
    }
    let (output, base) = load_and_list_base(entries)?;
    Ok(output.success() && base.defect()?.is_none())
}

fn load_the_skeleton(wanted: &Wanted, keep: &Keep) -> Result<()> {
    let held = look::table()?.unwrap_or_default();
    let rest = plan::enforce(&held, wanted, keep)?.unwrap_or_default();
    load(&on_skeleton(rest)?)?.checked().map(drop)
}

/// A VM's chain, and the map as it must be if the chain is right; whether the fence's own ports are
/// in it is told.
fn as_the_chain_says(look: &Look, chain: &ChainName, fence: &Fence, mapped: bool) -> Ruleset {
    let mut held = look.held.clone();
    let rules = look.held.chains.get(chain).into_iter().flatten();
    let ours = rules.filter_map(|rule| rule.rule.as_ref());
    let ports = ours.map(|(rule, _)| rule.port());
    let own = fence.ports();
    let leads_here = ports.filter(|port| mapped || !own.contains(port));
    held.ports = leads_here
        .map(|port| (port.to_string(), Some(chain.clone())))
        .collect();
    held
}

/// Loads what is not on the whole skeleton: the kernel would replace the base chain's rules and wait
/// an RCU grace period for the old ones, some 10 ms. Tells what the base chain is like instead.
fn load_and_list_base(mut transaction: Transaction) -> Result<(Output, Base)> {
    transaction.list_base()?;
    let output = process::run_as_root("nft", &look::TERSE, &transaction.to_json()?)?;
    let mut held = Ruleset::default();
    let base = match held.read(look::behind_the_other_family(&output)) {
        Ok(()) => held.base.unwrap_or_default(),
        // What was loaded is loaded; a closer look will tell.
        Err(_) => Base::default(),
    };
    Ok((output, base))
}
