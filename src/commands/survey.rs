//! What the host should hold and what it does, for all running VMs: what `check` tells and `sync`
//! sets right.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::backend::{Backend, Held, HeldFence};
use crate::bridge;
use crate::compare::{Finding, State, compare};
use crate::config::Config;
use crate::fence::{Fence, Isolation, Keep, Unfenced};
use crate::source::Running;
use crate::vm::{Port, Vm, VmName};

/// Said of a fence whose VM the hypervisor does not know, with ports that are there.
const UNKNOWN: &str = "no running VM that the hypervisor knows, but its ports are there";

/// The host at one moment.
pub struct Survey {
    /// What was found, for each VM.
    pub findings: Vec<Finding>,
    /// The running VMs that cannot be fenced, and why.
    pub failed: Vec<Finding>,
    /// The ports that running VMs should have a fence at.
    pub ports: BTreeSet<Port>,
    fences: Vec<Fence>,
    /// Ports that are gone from their bridges, where rules name no VM.
    gone: Vec<Port>,
    not_isolated: bool,
}

impl Survey {
    /// Compares what running VMs should have with what the kernel holds.
    ///
    /// # Errors
    /// If sysfs does not tell where ports are.
    pub fn of(
        config: &Config,
        backend: &dyn Backend,
        running: Running,
        held: &[HeldFence],
    ) -> Result<Self> {
        let mut survey = Self {
            findings: Vec::new(),
            failed: Vec::new(),
            ports: BTreeSet::new(),
            fences: Vec::new(),
            gone: Vec::new(),
            not_isolated: config.policy.isolation == Isolation::Template,
        };
        for (vm, why) in running.failed {
            survey.fail(vm, format!("{why:#}"));
        }
        let claimed_twice = claimed_twice(&running.vms);
        let mut remarks = BTreeMap::new();
        for vm in &running.vms {
            let (fence, unfenced) = config.policy.fence(vm, |nic| bridge::of(&nic.port))?;
            remarks.insert(vm.name.clone(), said_of(vm, &unfenced));
            // That one VM cannot be fenced is no reason to leave the others open.
            if let Some(port) = fence
                .ports()
                .into_iter()
                .find(|p| claimed_twice.contains(p))
            {
                survey.fail(vm.name.clone(), format!("port \"{port}\" is claimed twice"));
            } else if let Err(e) = backend.check(&fence) {
                survey.fail(vm.name.clone(), format!("{e:#}"));
            } else {
                survey.ports.extend(fence.ports().into_iter().cloned());
                survey.fences.push(fence);
            }
        }
        survey.add_the_rest(held)?;
        survey.findings = survey.with_keep(|keep| compare(&survey.fences, held, keep));
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

    /// Makes the kernel hold what it should: with nft, in one transaction.
    ///
    /// # Errors
    /// If the backend cannot; the kernel's rules are then what they were.
    pub fn set_right(&self, backend: &dyn Backend, held: &dyn Held) -> Result<()> {
        self.with_keep(|keep| held.settle(&self.fences, keep))?;
        backend.release(&self.gone)?;
        Ok(())
    }

    fn fail(&mut self, vm: VmName, why: String) {
        self.failed.push(Finding {
            vm: Some(vm),
            state: State::Missing,
            detail: vec![why],
        });
    }

    /// Adds whatever else is held. What is gone from its bridge is to go.
    fn add_the_rest(&mut self, held: &[HeldFence]) -> Result<()> {
        let known: BTreeSet<_> = self.fences.iter().map(|fence| fence.vm.clone()).collect();
        for held in held {
            match &held.vm {
                Some(vm) if known.contains(vm) => {}
                Some(vm) => self.fences.push(Fence::none(vm.clone())),
                None => {
                    let ports: BTreeSet<_> = held.rules.iter().map(|(r, _)| r.port()).collect();
                    for port in ports {
                        if !self.ports.contains(port) && bridge::of(port)?.is_none() {
                            self.gone.push(port.clone());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Nothing is taken away in front of a port that is there and that no running VM is known to
    /// have. Whose it is may be known to somebody else: a VM that has started since the hypervisor
    /// was asked, or that it could not describe; a container.
    fn with_keep<R>(&self, act: impl FnOnce(&Keep) -> R) -> R {
        act(&Keep {
            ports: &|port| !self.ports.contains(port) && bridge::is_on_one(port),
            not_isolated: self.not_isolated,
        })
    }
}

/// The ports that more than one VM says it has.
fn claimed_twice(vms: &[Vm]) -> BTreeSet<&Port> {
    let mut seen = BTreeSet::new();
    let ports = vms.iter().flat_map(|vm| &vm.nics).map(|nic| &nic.port);
    ports.filter(|port| !seen.insert(*port)).collect()
}

fn said_of(vm: &Vm, unfenced: &[Unfenced]) -> Vec<String> {
    let unfenced = unfenced.iter().filter_map(|nic| match nic {
        Unfenced::NoBridge(port) => Some(format!("port \"{port}\" is on no Linux bridge")),
        Unfenced::OtherBridge(..) => None,
    });
    vm.skipped.iter().cloned().chain(unfenced).collect()
}
