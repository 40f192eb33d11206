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
mod look;
pub mod name;
mod one;
mod plan;
mod rule;
pub mod ruleset;
mod transaction;

use std::collections::BTreeSet;

use anyhow::{Context, Error, Result};

use self::name::ChainName;
use self::plan::Wanted;
use self::ruleset::Ruleset;
use self::transaction::Transaction;
use super::{Backend, Held, HeldFence};
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
        let output = probe().ok()?;
        let failure = output.failure();
        let says = |words: &str| output.says(words);
        // Anything else, as no rights or no memory, is trouble and not incapacity: fences that
        // are in force would be left alone, and doubled.
        let cannot = CANNOT.iter().any(|words| says(words)) && !says("sudo: ");
        (!output.success() && cannot).then_some(failure)
    }

    /// The transaction that [`Backend::enforce`] would load now, as text; empty if none.
    pub fn preview(&self, fences: &[Fence]) -> Result<String> {
        let held = look::table()?.unwrap_or_default();
        match plan::enforce(&held, &wanted(fences)?, &Keep::NOTHING)? {
            Some(changes) => on_skeleton(changes)?.to_json_lines(),
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

    fn look(&self) -> Result<Box<dyn Held>> {
        Ok(Box::new(or_probed(look::table()?)?))
    }

    fn ports(&self) -> Result<Vec<Port>> {
        let held = or_probed(look::ports()?)?;
        let ours = held.ports.iter().filter(|(_, chain)| chain.is_some());
        // A key that is no port of ours cannot have been written by us.
        Ok(ours.filter_map(|(port, _)| port.parse().ok()).collect())
    }

    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        let wanted = wanted(fences)?;
        match (wanted.first_key_value(), wanted.len()) {
            (Some((chain, fence)), 1) => one::enforce(chain, fence, &wanted, keep),
            _ => settle(fences, keep),
        }
    }

    fn mend(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        let wanted = wanted(fences)?;
        if fences.len() != 1 || fences.iter().all(|fence| fence.rules.is_empty()) {
            // For several VMs the whole table was read.
            return Ok(false);
        }
        match one::is_passed(&wanted)? {
            true => Ok(false),
            false => settle(fences, keep),
        }
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        if ports.is_empty() {
            return Ok(false);
        }
        let mut held = look::ports()?.unwrap_or_default();
        let taken = ports.iter().map(Port::as_str).collect();
        read_robbed(&mut held, &taken)?;
        commit(plan::release(&held, ports)?)
    }

    fn check(&self, fence: &Fence) -> Result<()> {
        ChainName::of(&fence.vm).map(drop)
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

impl Held for Ruleset {
    fn fences(&self) -> Result<Vec<HeldFence>> {
        let shared = self.shared_defects()?;
        let defects = self.defects();
        let fence = |(chain, rules): (&ChainName, &Vec<ruleset::HeldRule>)| {
            let ours = rules.iter().filter_map(|rule| rule.rule.clone());
            let own = defects.get(chain).into_iter().flatten().cloned();
            Some(HeldFence {
                vm: Some(chain.decode()?),
                chain: chain.to_string(),
                rules: ours.map(|(rule, packets)| (rule, Some(packets))).collect(),
                defects: shared.iter().cloned().chain(own).collect(),
            })
        };
        let mut fences: Vec<_> = self.chains.iter().filter_map(fence).collect();
        fences.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(fences)
    }

    fn settle(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        commit(plan::enforce(self, &wanted(fences)?, keep)?)
    }
}

/// Enforces fences by all that the kernel holds.
fn settle(fences: &[Fence], keep: &Keep) -> Result<bool> {
    look::table()?.unwrap_or_default().settle(fences, keep)
}

fn wanted(fences: &[Fence]) -> Result<Wanted<'_>> {
    fences
        .iter()
        .map(|fence| Ok((ChainName::of(&fence.vm)?, fence)))
        .collect()
}

fn read_robbed(held: &mut Ruleset, taken: &BTreeSet<&str>) -> Result<()> {
    for chain in plan::robbed(held, taken) {
        if !held.chains.contains_key(&chain) {
            let mut found = look::chain(&chain, &BTreeSet::new())?.held;
            held.chains.append(&mut found.chains);
        }
    }
    Ok(())
}

/// Where there is no table yet, nothing has shown that there could be one.
fn or_probed(found: Option<Ruleset>) -> Result<Ruleset> {
    match found {
        Some(held) => Ok(held),
        None => probe()?.checked().map(|_| Ruleset::default()),
    }
}

/// Adds a table that nobody has, in a transaction that is checked and thrown away.
fn probe() -> Result<Output> {
    let probe = Transaction::probe()?.to_json()?;
    process::run_as_root("nft", &["-c", "-j", "-f", "-"], &probe)
}

fn on_skeleton(changes: Transaction) -> Result<Transaction> {
    let mut transaction = Transaction::on_skeleton()?;
    transaction.append(changes);
    Ok(transaction)
}

fn commit(changes: Option<Transaction>) -> Result<bool> {
    let Some(changes) = changes else {
        return Ok(false);
    };
    // Of an nft that does not come to an end nobody knows what it has done.
    let output = load(&on_skeleton(changes)?)?;
    let context = match output.says("File exists") {
        true => "nothing was changed, as something in table bridge macfence is not macfence's",
        false => "nothing was changed",
    };
    output.checked().context(context)?;
    Ok(true)
}

fn load(transaction: &Transaction) -> Result<Output> {
    process::run_as_root("nft", &["-j", "-f", "-"], &transaction.to_json()?)
}
