//! `macfence migrate`: moves the seed's ebtables rules to nft. It deletes an ebtables rule only after
//! the kernel has the nft fence, so that no VM is open at any moment. If it was interrupted, another
//! run completes it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::enforce::forget;
use super::shared::{owners, print};
use crate::backend::Backend;
use crate::backend::ebtables::Ebtables;
use crate::backend::nft::Nft;
use crate::bridge;
use crate::config::Config;
use crate::fence::{ActualGuard, Fence, Guard, Hears, Keep};
use crate::lock;
use crate::policy::Policy;
use crate::report;
use crate::source::Hypervisors;
use crate::vm::{Nic, Place, Port, VmName};

/// The VM and the NIC of each port.
type Owners = BTreeMap<Port, (VmName, Nic)>;

/// Runs it.
pub fn run(config: &Config, dry_run: bool) -> Result<()> {
    let hypervisors = Hypervisors::ask(&config.connect)?;
    let owners = owners(&hypervisors)?;
    let _lock = lock::exclusive()?;
    let migration = Migration::plan(&config.policy, &owners)?;
    for other in Ebtables.others()? {
        report::warning(&format!(
            "left alone, because the scripts did not write it: {other}"
        ));
    }
    let fences = migration.fences();
    let keep = Keep {
        ports: Box::new(|port| migration.kept.contains(port)),
        ..Keep::nothing()
    };
    if dry_run {
        let load = if fences.is_empty() {
            String::new()
        } else {
            Nft.preview(&fences, &keep)?
        };
        return print(&(load + &Ebtables.export_release(&migration.ports)?));
    }
    if !fences.is_empty() {
        let enforced = Nft.enforce(&fences, &keep)?;
        forget(&enforced.new_ports);
    }
    Ebtables.release(&migration.ports)?;
    print(
        &fences
            .iter()
            .map(|fence| migration.line(fence))
            .collect::<String>(),
    )
}

/// The plan of a migration.
#[derive(Default)]
struct Migration {
    /// The guards that nft should hold instead of ebtables rules.
    guards: BTreeMap<VmName, Vec<Guard>>,
    /// The ports whose ebtables rules can then go.
    ports: Vec<Port>,
    /// Ports of running VMs that nft guards already. Their guards stay.
    kept: BTreeSet<Port>,
    /// The same ports, by VM.
    kept_of: BTreeMap<VmName, BTreeSet<Port>>,
}

impl Migration {
    fn plan(policy: &Policy, owners: &Owners) -> Result<Self> {
        let mut migration = Self::default();
        let listed = Ebtables.query()?.fences()?;
        if listed.is_empty() {
            return Ok(migration);
        }
        let mut in_nft: BTreeMap<Port, ActualGuard> = BTreeMap::new();
        for fence in Nft.query()?.fences()? {
            let Some(vm) = fence.vm else { continue };
            let is_own = |port: &Port| owners.get(port).is_some_and(|(owner, _)| *owner == vm);
            for guard in fence.guards.into_iter().filter(|guard| is_own(&guard.port)) {
                let of_vm = migration.kept_of.entry(vm.clone()).or_default();
                of_vm.insert(guard.port.clone());
                migration.kept.insert(guard.port.clone());
                in_nft.insert(guard.port.clone(), guard);
            }
        }
        for guard in listed.into_iter().flat_map(|fence| fence.guards) {
            let port = &guard.port;
            let place = bridge::place(port)?;
            let why = match &place {
                _ if !policy.bridges.is_empty()
                    && !place.bridge().is_some_and(|bridge| policy.acts_on(bridge)) =>
                {
                    Some("it is not on one of the bridges in bridges".to_owned())
                }
                Place::Other(_, what) => Some(format!("it is {what}, which no VM has")),
                _ => None,
            };
            if let Some(why) = why {
                report::warning(&format!("port \"{port}\" is left alone: {why}"));
                continue;
            }
            match replacement(&guard, owners.get(port), in_nft.get(port)) {
                Ok((vm, new)) => {
                    migration.ports.push(port.clone());
                    migration.guards.entry(vm.clone()).or_default().push(new);
                }
                Err(why) => {
                    report::warning(&format!("port \"{port}\" is left alone: {why}"));
                }
            }
        }
        Ok(migration)
    }

    fn fences(&self) -> Vec<Fence> {
        let fence = |(vm, guards): (&VmName, &Vec<Guard>)| Fence {
            vm: vm.clone(),
            guards: guards.clone(),
        };
        self.guards.iter().map(fence).collect()
    }

    /// The line for a fenced VM, with all its ports that nft guards now.
    fn line(&self, fence: &Fence) -> String {
        let mut ports = fence.ports();
        ports.extend(self.kept_of.get(&fence.vm).into_iter().flatten());
        let ports: Vec<_> = ports.into_iter().map(Port::as_str).collect();
        format!("{}: {} fenced by nft\n", fence.vm, ports.join(", "))
    }
}

/// Returns the VM, and the guard that nft should hold instead of a port's ebtables rules; or why these
/// rules must stay.
fn replacement<'a>(
    listed: &ActualGuard,
    owner: Option<&'a (VmName, Nic)>,
    in_nft: Option<&ActualGuard>,
) -> Result<(&'a VmName, Guard), &'static str> {
    let (vm, nic) = owner.ok_or("no running VM has it")?;
    if let Some(in_nft) = in_nft {
        // An interrupted run left a pair of rules, or half of one.
        let whole = in_nft.whole().filter(|_| listed.is_covered_by(in_nft));
        let guard = whole.ok_or("its nft fence and its ebtables rules differ")?;
        return Ok((vm, guard));
    }
    // The scripts wrote a pair. It lacks rules that came later, but can be moved all the same.
    let guard = listed
        .meant()
        .ok_or("its ebtables rules are not a pair that the scripts write")?;
    let is_own = match &guard.hears {
        Hears::All => false,
        Hears::Network { prefix, .. } => guard.mac == nic.mac && prefix.contains(nic.mac),
    };
    if !is_own {
        return Err("its ebtables rules are for another MAC address than its VM's");
    }
    Ok((vm, guard))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: &str = "02:00:c0:a8:00:05";
    const OTHER: &str = "02:00:c0:a8:01:05";

    fn guard(macs: &[&str], networks: &[&str]) -> ActualGuard {
        let network = |prefix: &&str| Hears::Network {
            prefix: prefix.parse().unwrap(),
            trusted: Vec::new(),
            trusted_ports: Vec::new(),
        };
        ActualGuard {
            macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
            hears: networks.iter().map(network).collect(),
            ..ActualGuard::none("vnet0".parse().unwrap())
        }
    }

    #[test]
    fn only_a_pair_of_rules_with_the_address_of_a_running_vm_is_replaced() {
        let nic = Nic::new("vnet0".parse().unwrap(), MAC.parse().unwrap(), None).unwrap();
        let owner = ("a".parse().unwrap(), nic);
        let own = "02:00:c0:a8:00:00/40";
        let pair = guard(&[MAC], &[own]);
        for (listed, owner, in_nft, refusal) in [
            (pair.clone(), Some(&owner), None, None),
            // The script adds its rules at every call.
            (guard(&[MAC, MAC], &[own, own]), Some(&owner), None, None),
            (pair.clone(), None, None, Some("no running VM")),
            (guard(&[MAC], &[]), Some(&owner), None, Some("not a pair")),
            (
                guard(&[MAC, OTHER], &[own]),
                Some(&owner),
                None,
                Some("not a pair"),
            ),
            (
                guard(&[OTHER], &[own]),
                Some(&owner),
                None,
                Some("another MAC address"),
            ),
            (
                guard(&[MAC], &["02:00:c0:a8:01:00/40"]),
                Some(&owner),
                None,
                Some("another MAC address"),
            ),
            // The rules that an interrupted run left.
            (pair.clone(), Some(&owner), Some(&pair), None),
            (guard(&[MAC], &[]), Some(&owner), Some(&pair), None),
            (
                guard(&[MAC], &["02:00:c0:a8:00:00/32"]),
                Some(&owner),
                Some(&pair),
                Some("differ"),
            ),
            (
                guard(&[MAC], &[]),
                Some(&owner),
                Some(&guard(&[MAC], &[])),
                Some("differ"),
            ),
        ] {
            match (replacement(&listed, owner, in_nft), refusal) {
                (Ok((_, new)), None) => assert_eq!(Some(new), pair.whole(), "{listed:?}"),
                (Err(why), Some(words)) => assert!(why.contains(words), "{listed:?}: {why}"),
                (result, _) => panic!("{listed:?}: {result:?}"),
            }
        }
    }
}
