//! `macfence migrate`: replace the seed's ebtables rules by fences in nft. The ebtables rules go
//! only when the kernel has taken the fences, so that no VM is open at any moment; run again, it
//! completes what was interrupted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{owners, print};
use crate::backend::Backend;
use crate::backend::ebtables::Ebtables;
use crate::backend::nft::Nft;
use crate::bridge;
use crate::config::Config;
use crate::fence::{Fence, Keep, Policy, Rule};
use crate::lock;
use crate::report;
use crate::vm::{Nic, Port, VmName};

/// Runs it.
pub fn run(config: &Config, dry_run: bool) -> Result<()> {
    let _asking = lock::asking()?;
    let owners = owners(config)?;
    let _lock = lock::exclusive()?;
    let (fences, ports) = migrated(&config.policy, &owners)?;
    for other in Ebtables.others()? {
        report::warning(&format!(
            "left alone, as it is none of the scripts': {other}"
        ));
    }
    if dry_run {
        let load = match fences.is_empty() {
            true => String::new(),
            false => Nft.preview(&fences)?,
        };
        return print(&(load + &Ebtables.export_release(&ports)?));
    }
    if !fences.is_empty() {
        Nft.enforce(&fences, &Keep::NOTHING)?;
        Nft.mend(&fences, &Keep::NOTHING)?;
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
fn migrated(
    policy: &Policy,
    owners: &BTreeMap<Port, (VmName, Nic)>,
) -> Result<(Vec<Fence>, Vec<Port>)> {
    let listed = Ebtables.fences()?;
    if listed.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut held: BTreeMap<VmName, Vec<Rule>> = BTreeMap::new();
    for fence in Nft.fences()? {
        if let Some(vm) = fence.vm {
            held.insert(vm, fence.rules.into_iter().map(|(rule, _)| rule).collect());
        }
    }
    let mut fences: BTreeMap<&VmName, Vec<Rule>> = BTreeMap::new();
    let mut ports = Vec::new();
    for fence in listed {
        let rules: BTreeSet<_> = fence.rules.into_iter().map(|(rule, _)| rule).collect();
        let Some(port) = rules.first().map(|rule| rule.port().clone()) else {
            continue;
        };
        if !policy.bridges.is_empty() && !bridge::of(&port)?.is_some_and(|b| policy.acts_on(&b)) {
            report::warning(&format!(
                "port \"{port}\" is left alone: it is on no chosen bridge"
            ));
            continue;
        }
        match new_rules(&port, &rules, owners.get(&port), &held) {
            Ok((vm, new)) => {
                // What nft holds already of the VM's other ports stays, if they still are its own.
                let is_own = |rule: &&Rule| owners.get(rule.port()).is_some_and(|(o, _)| o == vm);
                let kept = || {
                    held.get(vm)
                        .into_iter()
                        .flatten()
                        .filter(is_own)
                        .cloned()
                        .collect()
                };
                fences.entry(vm).or_insert_with(kept).extend(new);
                ports.push(port);
            }
            Err(why) => {
                report::warning(&format!("port \"{port}\" is left alone: {why}"));
            }
        }
    }
    let fence = |(vm, rules): (&VmName, Vec<Rule>)| Fence {
        rules,
        ..Fence::none(vm.clone())
    };
    Ok((fences.into_iter().map(fence).collect(), ports))
}

/// Whose fence it is that these ebtables rules of a port make, and the rules that nft has yet to
/// take for them to go; or why they have to stay.
fn new_rules<'a>(
    port: &Port,
    rules: &BTreeSet<Rule>,
    owner: Option<&'a (VmName, Nic)>,
    held: &BTreeMap<VmName, Vec<Rule>>,
) -> Result<(&'a VmName, Vec<Rule>), &'static str> {
    let (vm, nic) = owner.ok_or("no running VM has it")?;
    let held = held.get(vm).map(Vec::as_slice).unwrap_or_default();
    let in_nft: BTreeSet<_> = held
        .iter()
        .filter(|rule| rule.port() == port)
        .cloned()
        .collect();
    if !in_nft.is_empty() {
        // Also what an interrupted run has left, of a pair or of half of one.
        return match rules.is_subset(&in_nft) {
            true => Ok((vm, Vec::new())),
            false => Err("nft fences it otherwise than its ebtables rules do"),
        };
    }
    match rules.iter().collect::<Vec<_>>().as_slice() {
        [Rule::Spoofed { mac, .. }, Rule::Foreign { own, .. }] => {
            match *mac == nic.mac && own.contains(nic.mac) {
                true => Ok((vm, rules.iter().cloned().collect())),
                false => Err("its ebtables rules are of another address than its VM's"),
            }
        }
        _ => Err("its ebtables rules are no pair of the scripts'"),
    }
}
