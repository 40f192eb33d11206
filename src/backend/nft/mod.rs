//! nftables: one chain for each VM in the table `bridge macfence`, reached through a verdict map
//! from port names to chains. Only that table is read or written.
//!
//! ```text
//! table bridge macfence {
//!     map ports { type ifname : verdict; elements = { "one-42-0" : jump vm-one-42 } }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         iifname vmap @ports
//!         oifname vmap @ports
//!     }
//!     chain vm-one-42 {
//!         iifname "one-42-0" ether saddr != 02:00:c0:a8:00:05 counter drop
//!         oifname "one-42-0" ether saddr & ff:ff:ff:ff:ff:00 != 02:00:c0:a8:00:00 counter drop
//!     }
//! }
//! ```

mod listing;
pub mod name;
mod plan;
mod rule;
pub mod ruleset;
mod transaction;

use std::collections::BTreeSet;

use anyhow::{Error, Result};

use self::name::ChainName;
use self::plan::Wanted;
use self::ruleset::Ruleset;
use self::transaction::Transaction;
use super::{Backend, HeldFence};
use crate::fence::{Fence, Keep};
use crate::process::{self, Output};
use crate::vm::Port;

/// The nftables backend.
#[derive(Clone, Copy, Debug)]
pub struct Nft;

/// What nft says where it has no JSON, or its kernel no nf_tables or no bridge family.
const CANNOT: [&str; 3] = [
    "JSON support not compiled",
    "not supported",
    "Invalid argument",
];

impl Nft {
    /// Why nft cannot be used on this host at all: it is not there, speaks no JSON, or the kernel
    /// has no tables of the bridge family. `None` if it can, or if nothing can be said.
    pub fn cannot_work() -> Option<Error> {
        if let Err(missing) = process::find("nft") {
            return Some(missing);
        }
        let output = dry_run(&Transaction::probe().ok()?).ok()?;
        let failure = output.failure();
        let says = |words: &str| failure.to_string().contains(words);
        // Anything else, as no rights or no memory, is trouble and not incapacity: fences that
        // are in force would be left alone, and doubled.
        let cannot = CANNOT.iter().any(|words| says(words)) && !says("sudo: ");
        (!output.success() && cannot).then_some(failure)
    }

    /// The transaction that [`Backend::enforce`] would load now, as text; empty if none.
    pub fn preview(&self, fences: &[Fence]) -> Result<String> {
        let held = list(Transaction::list_table)?;
        match plan::enforce(&held, &wanted(fences)?, &Keep::NOTHING)? {
            Some(transaction) => transaction.to_json_lines(),
            None => Ok(String::new()),
        }
    }
}

impl Backend for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn table(&self) -> &'static str {
        transaction::TABLE
    }

    fn names_vms(&self) -> bool {
        true
    }

    fn fences(&self) -> Result<Vec<HeldFence>> {
        let held = list(Transaction::list_table)?;
        let shared = held.base.as_ref().map(|base| base.defect()).transpose()?;
        let defects = held.defects();
        let fence = |(chain, rules): (ChainName, Vec<ruleset::HeldRule>)| {
            let rules = rules.into_iter().filter_map(|rule| rule.rule);
            let own = defects.get(&chain).into_iter().flatten().cloned();
            Some(HeldFence {
                vm: Some(chain.decode()?),
                chain: chain.to_string(),
                rules: rules.map(|(rule, packets)| (rule, Some(packets))).collect(),
                defects: shared.iter().flatten().cloned().chain(own).collect(),
            })
        };
        let mut fences: Vec<_> = held.chains.into_iter().filter_map(fence).collect();
        fences.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(fences)
    }

    fn ports(&self) -> Result<Vec<Port>> {
        let held = list(Transaction::list_ports)?;
        let ours = held.ports.iter().filter(|(_, chain)| chain.is_some());
        // A key that is no port of ours cannot have been written by us.
        Ok(ours.filter_map(|(port, _)| port.parse().ok()).collect())
    }

    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        let wanted = wanted(fences)?;
        match (wanted.first_key_value(), wanted.len()) {
            (Some((chain, fence)), 1) => enforce_one(chain, fence, &wanted, keep),
            _ => self.settle(fences, keep),
        }
    }

    fn settle(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        let held = list(Transaction::list_table)?;
        commit(plan::enforce(&held, &wanted(fences)?, keep)?)
    }

    fn mend(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        let wanted = wanted(fences)?;
        if fences.len() != 1 || fences.iter().all(|fence| fence.rules.is_empty()) {
            // For several VMs the whole table was read.
            return Ok(false);
        }
        let mut look = Transaction::on_containers()?;
        for (chain, fence) in &wanted {
            // The kernel refuses an entry that is there and leads elsewhere.
            for port in fence.ports() {
                look.add_port(port, chain)?;
            }
        }
        look.list_base()?;
        let output = dry_run(&look)?;
        if output.success() {
            let mut held = Ruleset::default();
            held.read(&output.stdout)?;
            if held.base.unwrap_or_default().defect()?.is_none() {
                return Ok(false);
            }
        }
        self.settle(fences, keep)
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        if ports.is_empty() {
            return Ok(false);
        }
        let mut held = list(Transaction::list_ports)?;
        let taken = ports.iter().map(Port::as_str).collect();
        read_robbed(&mut held, &taken)?;
        commit(plan::release(&held, ports)?)
    }

    fn export(&self, fences: &[Fence]) -> Result<String> {
        let mut transaction = Transaction::on_skeleton()?;
        for (chain, fence) in wanted(fences)? {
            if fence.rules.is_empty() {
                continue;
            }
            transaction.add_chain(&chain)?;
            // In an empty kernel for nothing; in a live one the rules would be there twice.
            transaction.flush_chain(&chain)?;
            for rule in &fence.rules {
                transaction.add_rule(&chain, rule)?;
            }
            for port in fence.ports() {
                transaction.add_port(port, &chain)?;
            }
        }
        transaction.to_json_lines()
    }
}

fn wanted(fences: &[Fence]) -> Result<Wanted<'_>> {
    fences
        .iter()
        .map(|fence| Ok((ChainName::of(&fence.vm)?, fence)))
        .collect()
}

/// Enforces one fence without listing the map, which costs as much as the host has VMs: by what
/// the VM's own chain says, with the kernel checking that it says the truth. Where it does not
/// (a port was another VM's, somebody edited the map), by the map itself.
fn enforce_one(chain: &ChainName, fence: &Fence, wanted: &Wanted, keep: &Keep) -> Result<bool> {
    let look = look_at(chain, fence)?;
    let plan = plan::enforce(&look.held, wanted, keep)?;
    let refusal = match &plan {
        None if look.mapped => return Ok(false),
        Some(plan) if look.telling => match load(plan)? {
            output if output.success() => return Ok(true),
            output => Some(output),
        },
        _ => None,
    };
    let mut held = list(Transaction::list_ports)?;
    held.chains = look.held.chains;
    let taken = fence.ports().into_iter().map(Port::as_str).collect();
    read_robbed(&mut held, &taken)?;
    match (plan::enforce(&held, wanted, keep)?, refusal) {
        // Nothing new was learned: what nft said stands.
        (second, Some(output)) if second == plan => Err(refused(&output)),
        (second, _) => commit(second),
    }
}

/// What a VM's chain says.
struct Look {
    /// The chain, and the map as it must be if the chain is right.
    held: Ruleset,
    /// Whether all ports of the fence are in the map.
    mapped: bool,
    /// Whether the chain can tell which ports lead to it: it is whole, or not there at all.
    telling: bool,
}

fn look_at(chain: &ChainName, fence: &Fence) -> Result<Look> {
    let mut transaction = Transaction::on_containers()?;
    transaction.add_chain(chain)?;
    // The kernel refuses to delete what is not there; the listing is printed before it is asked.
    for port in fence.ports() {
        transaction.delete_port(port.as_str())?;
    }
    transaction.list_chain(chain)?;
    let output = dry_run(&transaction)?;
    if output.stdout.trim().is_empty() {
        return Err(output.failure());
    }
    let mut held = Ruleset::default();
    held.read(&output.stdout)?;
    let rules = held.chains.get(chain);
    let telling =
        rules.is_none_or(|rules| !rules.is_empty() && rules.iter().all(|rule| rule.rule.is_some()));
    let ours = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.rule.as_ref());
    let ports = ours.map(|(rule, _)| (rule.port().to_string(), Some(chain.clone())));
    held.ports = ports.collect();
    Ok(Look {
        held,
        mapped: output.success(),
        telling,
    })
}

fn list(what: impl FnOnce(&mut Transaction) -> Result<()>) -> Result<Ruleset> {
    let mut transaction = Transaction::on_containers()?;
    what(&mut transaction)?;
    read(&transaction)
}

fn read_robbed(held: &mut Ruleset, taken: &BTreeSet<&str>) -> Result<()> {
    for chain in plan::robbed(held, taken) {
        if !held.chains.contains_key(&chain) {
            let mut transaction = Transaction::on_containers()?;
            transaction.add_chain(&chain)?;
            transaction.list_chain(&chain)?;
            held.chains.append(&mut read(&transaction)?.chains);
        }
    }
    Ok(())
}

fn read(listing: &Transaction) -> Result<Ruleset> {
    let mut held = Ruleset::default();
    held.read(&dry_run(listing)?.checked()?)?;
    Ok(held)
}

/// Runs list commands in a transaction that is checked and thrown away (`nft -c`): what it adds
/// first is only there so that listing what does not exist is no error.
///
/// One list command each time: nft 1.1.3 lists the map without its elements beside a chain, 1.0.6
/// does not find the first of two chains, and 0.9.8 crashes listing a map that is not there.
fn dry_run(transaction: &Transaction) -> Result<Output> {
    process::run_as_root("nft", &["-c", "-j", "-f", "-"], &transaction.to_json()?)
}

fn commit(transaction: Option<Transaction>) -> Result<bool> {
    let Some(transaction) = transaction else {
        return Ok(false);
    };
    let output = load(&transaction)?;
    if !output.success() {
        return Err(refused(&output));
    }
    Ok(true)
}

fn refused(output: &Output) -> Error {
    output.failure().context("nothing was changed")
}

fn load(transaction: &Transaction) -> Result<Output> {
    process::run_as_root("nft", &["-j", "-f", "-"], &transaction.to_json()?)
}
