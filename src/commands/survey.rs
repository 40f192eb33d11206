//! What the host should hold and what it does, for all running VMs: what `check` tells and `sync`
//! sets right.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use anyhow::Result;

use crate::backend::{Backend, HeldFence};
use crate::bridge;
use crate::compare::{Finding, State, compare};
use crate::config::Config;
use crate::fence::{Fence, Isolation, Rule, Unfenced};
use crate::vm::{Port, Vm, VmName};

/// Said of a fence whose VM the hypervisor does not know, with ports that are there.
const UNKNOWN: &str = "no running VM that the hypervisor knows, but its ports are there";

/// The host at one moment.
pub struct Survey {
    /// What was found, for each VM.
    pub findings: Vec<Finding>,
    /// The running VMs that cannot be fenced, and why.
    pub failed: Vec<Finding>,
    fences: Vec<Fence>,
    gone: Vec<Port>,
}

impl Survey {
    /// Compares what these running VMs should have with what the kernel holds.
    ///
    /// # Errors
    /// If sysfs does not tell where ports are.
    pub fn of(
        config: &Config,
        backend: &dyn Backend,
        mut vms: Vec<Vm>,
        held: &[HeldFence],
    ) -> Result<Self> {
        let mut known = Vec::new();
        let mut fences = Vec::new();
        let mut failed = Vec::new();
        as_held(config, &mut vms, held);
        for vm in &vms {
            let (fence, unfenced) = config.policy.fence(vm, |nic| bridge::of(&nic.port))?;
            known.push((&vm.name, remarks(vm, &unfenced)));
            // A name that no chain can have is no reason to leave the others open.
            match backend.export(slice::from_ref(&fence)) {
                Ok(_) => fences.push(fence),
                Err(e) => failed.push(Finding {
                    vm: Some(vm.name.clone()),
                    state: State::Missing,
                    detail: vec![format!("{e:#}")],
                }),
            }
        }
        let gone = leave_what_is_there(config, &mut fences, held)?;
        let mut findings = compare(&fences, held);
        let remarks: BTreeMap<_, _> = known.into_iter().collect();
        for finding in &mut findings {
            match finding.vm.as_ref().and_then(|vm| remarks.get(vm)) {
                Some(remarks) => finding.detail.extend(remarks.iter().cloned()),
                None if finding.state == State::Ok => finding.detail.push(UNKNOWN.to_owned()),
                None => {}
            }
        }
        findings.extend(gone.iter().map(|port| Finding {
            vm: None,
            state: State::Stale,
            detail: vec![format!("port \"{port}\"")],
        }));
        Ok(Self {
            findings,
            failed,
            fences,
            gone,
        })
    }

    /// Whether there is nothing to set right.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|found| found.state == State::Ok)
    }

    /// The ports that should be fenced, or are and stay so.
    pub fn ports(&self) -> BTreeSet<Port> {
        let all = self.fences.iter();
        all.flat_map(|fence| fence.ports().into_iter().chain(&fence.untouched))
            .cloned()
            .collect()
    }

    /// Makes the kernel hold what it should: with nft, in one transaction.
    ///
    /// # Errors
    /// If the backend cannot; the kernel's rules are then what they were.
    pub fn set_right(&self, backend: &dyn Backend) -> Result<()> {
        backend.settle(&self.fences)?;
        backend.release(&self.gone)?;
        Ok(())
    }
}

/// A hypervisor does not know which NICs of OpenNebula's are not to be isolated; the kernel does.
fn as_held(config: &Config, vms: &mut [Vm], held: &[HeldFence]) {
    if config.policy.isolation == Isolation::Always {
        return;
    }
    let rules = held.iter().flat_map(|fence| &fence.rules);
    let alone: BTreeSet<_> = rules
        .filter_map(|(rule, _)| match rule {
            Rule::Spoofed {
                port,
                mac,
                alone: true,
            } => Some((port, *mac)),
            _ => None,
        })
        .collect();
    for nic in vms.iter_mut().flat_map(|vm| &mut vm.nics) {
        nic.isolated &= !alone.contains(&(&nic.port, nic.mac));
    }
}

/// Adds what is held and belongs to no running VM: whatever is gone from its bridge is to go, but
/// nothing is taken away in front of a port that is there. Whose it is may be known to somebody
/// else: a VM that has started since the hypervisor was asked, a container. Returns the ports that
/// are gone where rules name no VM.
fn leave_what_is_there(
    config: &Config,
    fences: &mut Vec<Fence>,
    held: &[HeldFence],
) -> Result<Vec<Port>> {
    let claimed: BTreeSet<Port> = fences.iter().flat_map(Fence::ports).cloned().collect();
    let mut index: BTreeMap<VmName, usize> = BTreeMap::new();
    for (number, fence) in fences.iter().enumerate() {
        index.insert(fence.vm.clone(), number);
    }
    let mut gone = Vec::new();
    for held in held {
        let ports: BTreeSet<_> = held.rules.iter().map(|(rule, _)| rule.port()).collect();
        let mut there = BTreeSet::new();
        for port in ports.into_iter().filter(|port| !claimed.contains(*port)) {
            match bridge::of(port)?.filter(|bridge| config.policy.acts_on(bridge)) {
                Some(_) => drop(there.insert(port.clone())),
                None if held.vm.is_none() => gone.push(port.clone()),
                None => {}
            }
        }
        let Some(vm) = &held.vm else { continue };
        match index.get(vm).and_then(|number| fences.get_mut(*number)) {
            Some(fence) => fence.untouched = there,
            None => fences.push(Fence {
                untouched: there,
                ..Fence::none(vm.clone())
            }),
        }
    }
    Ok(gone)
}

fn remarks(vm: &Vm, unfenced: &[Unfenced]) -> Vec<String> {
    let unfenced = unfenced.iter().filter_map(|nic| match nic {
        Unfenced::NoBridge(port) => Some(format!("port \"{port}\" is on no Linux bridge")),
        Unfenced::OtherBridge(..) => None,
    });
    vm.skipped.iter().cloned().chain(unfenced).collect()
}
