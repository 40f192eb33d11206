//! What a host should hold and what it does, for all running VMs: `check` prints it, `sync` sets it
//! right. Pure: whatever it must know about the host comes from the caller.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::compare::{Finding, State, compare};
use crate::fence::{ActualFence, Fence, Keep};
use crate::policy::{Isolation, Policy, Unfenced};
use crate::source::Running;
use crate::vm::{Port, Vm, VmName};

/// Said of a fence whose VM the hypervisor does not know, with ports that are there.
const UNKNOWN: &str = "no running VM that the hypervisor knows, but its ports are there";

/// What a survey asks of the host.
pub struct Host<'a> {
    /// Which bridge a port is on. An error means that nobody can tell.
    pub bridge_of: &'a dyn Fn(&Port) -> Result<Option<String>>,
    /// Whether the firewall can hold a fence at all: not every name can be told to it.
    pub can_hold: &'a dyn Fn(&Fence) -> Result<()>,
}

/// The host at one moment.
pub struct Survey {
    /// What was found, for each VM.
    pub findings: Vec<Finding>,
    /// The running VMs that cannot be fenced, and why.
    pub failed: Vec<Finding>,
    /// The ports that running VMs should have a fence at.
    pub ports: BTreeSet<Port>,
    /// Ports that are gone from their bridges, where rules name no VM.
    pub gone: Vec<Port>,
    /// What each VM should have. Its finding has the same place in `findings`.
    desired: Vec<Fence>,
    hears_all: bool,
}

impl Survey {
    /// Compares what running VMs should have with what the kernel holds.
    ///
    /// # Errors
    /// If nobody can tell which bridge a port is on.
    pub fn of(
        policy: &Policy,
        running: Running,
        actual: &[ActualFence],
        host: &Host,
    ) -> Result<Self> {
        let mut survey = Self {
            findings: Vec::new(),
            failed: Vec::new(),
            ports: BTreeSet::new(),
            gone: Vec::new(),
            desired: Vec::new(),
            hears_all: policy.isolation == Isolation::Template,
        };
        for (vm, why) in running.failed {
            survey.fail(vm, format!("{why:#}"));
        }
        let claimed_twice = claimed_twice(&running.vms);
        let mut remarks = BTreeMap::new();
        for vm in &running.vms {
            let (fence, unfenced) = policy.fence(vm, |nic| (host.bridge_of)(&nic.port))?;
            remarks.insert(vm.name.clone(), remarks_on(vm, &unfenced));
            // One VM that cannot be fenced is no reason to leave the others open.
            let twice = fence
                .ports()
                .into_iter()
                .find(|p| claimed_twice.contains(p));
            if let Some(port) = twice {
                survey.fail(vm.name.clone(), format!("port \"{port}\" is claimed twice"));
            } else if let Err(e) = (host.can_hold)(&fence) {
                survey.fail(vm.name.clone(), format!("{e:#}"));
            } else {
                survey.ports.extend(fence.ports().into_iter().cloned());
                survey.desired.push(fence);
            }
        }
        survey.add_the_rest(actual, host)?;
        let findings = compare(&survey.desired, actual, &survey.keep(host.bridge_of));
        survey.findings = findings;
        for finding in &mut survey.findings {
            match finding.vm.as_ref().and_then(|vm| remarks.get(vm)) {
                Some(remarks) => finding.detail.extend(remarks.iter().cloned()),
                None if finding.state == State::Ok => finding.detail.push(UNKNOWN.to_owned()),
                None => {}
            }
        }
        let gone = survey.gone.iter().map(|port| Finding {
            vm: None,
            state: State::Stale,
            detail: vec![format!("port \"{port}\"")],
        });
        survey.findings.extend(gone);
        Ok(survey)
    }

    /// Whether there is nothing to set right.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|found| found.state == State::Ok)
    }

    /// The fences of the VMs whose kernel state is wrong.
    pub fn to_enforce(&self) -> Vec<Fence> {
        let found = self.desired.iter().zip(&self.findings);
        let wrong = found.filter(|(_, finding)| finding.state != State::Ok);
        wrong.map(|(fence, _)| fence.clone()).collect()
    }

    /// Nothing is removed in front of a port that is there and that no running VM is known to have.
    /// Others may know whose it is: a VM that has started since the hypervisor was asked, or that
    /// it could not describe; a container.
    pub fn keep<'a>(&'a self, bridge_of: &'a dyn Fn(&Port) -> Result<Option<String>>) -> Keep<'a> {
        let may_be_there = |port: &Port| bridge_of(port).map_or(true, |bridge| bridge.is_some());
        Keep {
            ports: Box::new(move |port| !self.ports.contains(port) && may_be_there(port)),
            hears_all: self.hears_all,
        }
    }

    fn fail(&mut self, vm: VmName, why: String) {
        self.failed.push(Finding {
            vm: Some(vm),
            state: State::Missing,
            detail: vec![why],
        });
    }

    /// Adds whatever else the kernel holds, of VMs that do not run. Where rules name no VM, those of
    /// ports that are gone from their bridges go.
    fn add_the_rest(&mut self, actual: &[ActualFence], host: &Host) -> Result<()> {
        let known: BTreeSet<_> = self.desired.iter().map(|fence| fence.vm.clone()).collect();
        for fence in actual {
            match &fence.vm {
                Some(vm) if known.contains(vm) => {}
                Some(vm) => self.desired.push(Fence::none(vm.clone())),
                None => {
                    for port in fence.guards.iter().map(|guard| &guard.port) {
                        if !self.ports.contains(port) && (host.bridge_of)(port)?.is_none() {
                            self.gone.push(port.clone());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The ports that more than one NIC claims.
fn claimed_twice(vms: &[Vm]) -> BTreeSet<&Port> {
    let mut seen = BTreeSet::new();
    let ports = vms.iter().flat_map(|vm| &vm.nics).map(|nic| &nic.port);
    ports.filter(|port| !seen.insert(*port)).collect()
}

/// What is worth knowing about a VM's NICs, in words.
fn remarks_on(vm: &Vm, unfenced: &[Unfenced]) -> Vec<String> {
    let unfenced = unfenced.iter().filter_map(|nic| match nic {
        Unfenced::NoBridge(port) => Some(format!("port \"{port}\" is on no Linux bridge")),
        Unfenced::OtherBridge(..) => None,
    });
    vm.skipped.iter().cloned().chain(unfenced).collect()
}

#[cfg(test)]
mod tests;
