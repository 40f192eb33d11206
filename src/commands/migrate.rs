//! `macfence migrate`: replace the seed's ebtables rules by fences in nft. The ebtables rules go
//! only when the kernel has taken the fences, so that no VM is open at any moment; run again, it
//! completes what was interrupted.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{owners, print};
use crate::backend::ebtables::Ebtables;
use crate::backend::nft::Nft;
use crate::backend::{Backend, HeldFence};
use crate::config::Config;
use crate::fence::{Fence, Rule};
use crate::lock;
use crate::report;
use crate::vm::{Port, VmName};

/// Runs it.
pub fn run(config: &Config, dry_run: bool) -> Result<()> {
    let _asking = lock::asking()?;
    let owners = owners(config)?;
    let _lock = lock::exclusive()?;
    let (fences, ports) = migrated(&owners)?;
    for other in Ebtables.others()? {
        report::warning(&format!(
            "left alone, as it is not of the seed's shape: {other}"
        ));
    }
    if dry_run {
        let load = match fences.is_empty() {
            true => String::new(),
            false => Nft.export(&fences)?,
        };
        return print(&(load + &Ebtables.export_release(&ports)?));
    }
    if !fences.is_empty() {
        Nft.enforce(&fences)?;
        Nft.mend(&fences)?;
    }
    Ebtables.release(&ports)?;
    let line = |fence: &Fence| {
        let ports: Vec<_> = fence
            .ports()
            .iter()
            .map(|port| port.as_str().to_owned())
            .collect();
        format!("{}: {} fenced by nft\n", fence.vm, ports.join(", "))
    };
    print(&fences.iter().map(line).collect::<String>())
}

/// The fences that nft is to hold, and the ports whose ebtables rules can then go.
fn migrated(owners: &BTreeMap<Port, VmName>) -> Result<(Vec<Fence>, Vec<Port>)> {
    let mut rules: BTreeMap<&VmName, Vec<Rule>> = BTreeMap::new();
    let mut ports = Vec::new();
    for held in Ebtables.fences()? {
        let Some(port) = held.rules.first().map(|(rule, _)| rule.port().clone()) else {
            continue;
        };
        match (pair(&held), owners.get(&port)) {
            (None, _) => report::warning(&format!(
                "port \"{port}\" is left alone: its ebtables rules are no pair of the seed's"
            )),
            (Some(_), None) => report::warning(&format!(
                "port \"{port}\" is left alone: no running VM has it"
            )),
            (Some(pair), Some(vm)) => {
                rules.entry(vm).or_default().extend(pair);
                ports.push(port);
            }
        }
    }
    if rules.is_empty() {
        return Ok((Vec::new(), ports));
    }
    // What nft holds already of these VMs' other ports stays.
    for held in Nft.fences()? {
        if let Some(rules) = held.vm.as_ref().and_then(|vm| rules.get_mut(vm)) {
            let others = held.rules.into_iter().map(|(rule, _)| rule);
            rules.extend(others.filter(|rule| !ports.contains(rule.port())));
        }
    }
    let fence = |(vm, rules): (&VmName, Vec<Rule>)| Fence {
        vm: vm.clone(),
        rules,
    };
    Ok((rules.into_iter().map(fence).collect(), ports))
}

/// The seed's two rules, each once, if these are no others.
fn pair(held: &HeldFence) -> Option<[Rule; 2]> {
    let mut rules: Vec<_> = held.rules.iter().map(|(rule, _)| rule.clone()).collect();
    rules.sort_unstable();
    rules.dedup();
    match <[Rule; 2]>::try_from(rules) {
        Ok(
            [
                spoofed @ Rule::Spoofed { .. },
                foreign @ Rule::Foreign { .. },
            ],
        ) => Some([spoofed, foreign]),
        _ => None,
    }
}
