//! Compares the fences that a host should hold with those that it holds, for all running VMs. `check`
//! prints the result, `sync` repairs it. Pure: the caller passes in all facts about the host.

mod entry;
mod given_up;
mod skipped;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

pub use self::entry::{Cause, Entry, Status, held};

use crate::compare::{Finding, State, compare};
use crate::fence::{ActualFence, Fence, Keep};
use crate::policy::{Policy, Unfenced};
use crate::source::Running;
use crate::vm::{Place, Port, Vm, VmName};

/// Facts about the host that a survey needs.
pub struct Host<'a> {
    /// Ports whose owners' requests are unknown. The addresses that are guarded there now stay guarded.
    pub unknown: &'a BTreeSet<Port>,
    /// Tells where a port is. Fails if the kernel does not tell.
    pub place_of: &'a dyn Fn(&Port) -> Result<Place>,
    /// Fails if the firewall cannot hold this fence: it does not take every name.
    pub can_hold: &'a dyn Fn(&Fence) -> Result<()>,
}

/// How much a survey computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Only what needs repair.
    Fences,
    /// Also [`Survey::entries`] and [`Survey::skipped`]. With 4,000 VMs they are a tenth of the work.
    Ports,
}

/// The host at one moment.
pub struct Survey {
    /// The findings, one for each VM.
    pub findings: Vec<Finding>,
    /// The running VMs that cannot be fenced, and why.
    pub failed: Vec<Finding>,
    /// The ports of running VMs that should be fenced.
    pub ports: BTreeSet<Port>,
    /// Ports with needless rules that name no VM: the port has left its bridge, or no VM can have it.
    pub gone: Vec<Port>,
    /// Fenced ports that no known running VM has, one finding for each VM. They stay fenced: see
    /// [`Self::keep`].
    pub unowned: Vec<Finding>,
    /// The running VMs that have a port which the configuration leaves alone, and why. Such a port may still
    /// have its rules from before.
    pub skipped: Vec<Finding>,
    /// Every port of every running VM, and every held fence, sorted by VM. Empty unless the caller
    /// asked for [`Extent::Ports`].
    pub entries: Vec<Entry>,
    /// The policy that the fences follow from.
    pub policy: Policy,
    /// The fence that each VM should have. Its finding has the same index in `findings`.
    desired: Vec<Fence>,
    /// Ports that a NIC has given up while it keeps another, and the VM whose fence still has their
    /// rules. The rules are needless, but no difference.
    given_up: BTreeMap<Port, VmName>,
    /// Ports whose owners' requests are unknown.
    unknown: BTreeSet<Port>,
}

impl Survey {
    /// Compares the fences that running VMs should have with those in the kernel.
    ///
    /// # Errors
    /// If `host` cannot tell where a port is.
    pub fn of(
        policy: &Policy,
        running: Running,
        actual: &[ActualFence],
        host: &Host,
        extent: Extent,
    ) -> Result<Self> {
        // Ask the kernel only once about each port.
        let places = RefCell::new(BTreeMap::new());
        let place_of = |port: &Port| -> Result<Place> {
            if let Some(place) = places.borrow().get(port) {
                return Ok(Place::clone(place));
            }
            let place = (host.place_of)(port)?;
            places.borrow_mut().insert(port.clone(), place.clone());
            Ok(place)
        };
        let host = &Host {
            place_of: &place_of,
            can_hold: host.can_hold,
            unknown: host.unknown,
        };
        let mut survey = Self {
            findings: Vec::new(),
            failed: Vec::new(),
            ports: BTreeSet::new(),
            gone: Vec::new(),
            unowned: Vec::new(),
            skipped: Vec::new(),
            entries: Vec::new(),
            policy: policy.clone(),
            desired: Vec::new(),
            given_up: BTreeMap::new(),
            unknown: host.unknown.clone(),
        };
        for (vm, why) in running.failed {
            survey.fail(vm, format!("{why:#}"));
        }
        let claimed_twice = claimed_twice(&running.vms);
        let mut remarks = BTreeMap::new();
        let mut open = entry::Open::new();
        for vm in &running.vms {
            let (fence, unfenced) = policy.fence(vm, |nic| (host.place_of)(&nic.port))?;
            remarks.insert(vm.name.clone(), remarks_on(vm, &unfenced));
            for nic in &unfenced {
                open.insert((&vm.name, nic.port().clone()), Cause::of(nic));
            }
            for why in unfenced.iter().filter_map(Unfenced::refusal) {
                survey.fail(vm.name.clone(), why);
            }
            // If one VM cannot be fenced, still fence the others.
            let twice = fence
                .ports()
                .into_iter()
                .find(|p| claimed_twice.contains(p));
            let obstacle = match twice {
                Some(port) => Some(format!("port \"{port}\" is claimed twice")),
                None => (host.can_hold)(&fence).err().map(|e| format!("{e:#}")),
            };
            if let Some(why) = obstacle {
                for port in fence.ports() {
                    let cause = (Cause::Failed, why.clone());
                    open.insert((&vm.name, port.clone()), cause);
                }
                survey.fail(vm.name.clone(), why);
            } else {
                survey.ports.extend(fence.ports().into_iter().cloned());
                survey.desired.push(fence);
            }
        }
        survey.add_the_rest(actual, host)?;
        survey.given_up = given_up::find(&survey.desired, actual, host.place_of)?;
        let kept = survey.keep(host.place_of);
        let keep = Keep {
            ports: Box::new(|port| (kept.ports)(port) || survey.given_up.contains_key(port)),
            ..survey.keep(host.place_of)
        };
        let findings = compare(&survey.desired, actual, &keep);
        drop(keep);
        drop(kept);
        survey.findings = findings;
        for finding in &mut survey.findings {
            if let Some(remarks) = finding.vm.as_ref().and_then(|vm| remarks.get(vm)) {
                finding.detail.extend(remarks.iter().cloned());
            }
        }
        survey.find_unowned(&running.vms, actual);
        let gone = survey.gone.iter().map(|port| Finding {
            vm: None,
            state: State::Stale,
            detail: vec![format!("port \"{port}\"")],
        });
        survey.findings.extend(gone);
        if extent == Extent::Ports {
            survey.entries = survey.all_entries(&running.vms, &open, actual, host)?;
            survey.find_skipped(&open);
        }
        Ok(survey)
    }

    /// Tells whether nothing needs repair.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|found| found.state.is_well())
    }

    /// The fences of VMs whose rules in the kernel are wrong or partly needless.
    pub fn to_enforce(&self) -> Vec<Fence> {
        let needless: BTreeSet<_> = self.given_up.values().collect();
        let found = self.desired.iter().zip(&self.findings);
        let wrong =
            found.filter(|(fence, found)| !found.state.is_well() || needless.contains(&fence.vm));
        wrong.map(|(fence, _)| fence.clone()).collect()
    }

    /// Ports whose owners' requests are unknown.
    pub fn unknown(&self) -> &BTreeSet<Port> {
        &self.unknown
    }

    /// The fence that each VM should have. Fences of VMs that do not run are empty.
    pub fn desired(&self) -> &[Fence] {
        &self.desired
    }

    /// Keeps the rules of a port that is on a bridge but that no known running VM has. It may
    /// belong to a VM that started after the hypervisor was asked, to one that it could not
    /// describe, or to a container.
    pub fn keep<'a>(&'a self, place_of: &'a dyn Fn(&Port) -> Result<Place>) -> Keep<'a> {
        Keep {
            ports: Box::new(move |port| {
                !self.ports.contains(port) && place_of(port).map_or(true, |place| place.is_nic())
            }),
            addresses: Box::new(|port| self.unknown.contains(port)),
            ..Keep::nothing()
        }
    }

    /// Finds the fenced ports that no known running VM has.
    fn find_unowned(&mut self, running: &[Vm], actual: &[ActualFence]) {
        let owned: BTreeSet<_> = running
            .iter()
            .flat_map(|vm| vm.nics.iter().map(|nic| (&vm.name, &nic.port)))
            .collect();
        let mut ports: BTreeSet<_> = owned.iter().map(|(_, port)| *port).collect();
        ports.extend(&self.gone);
        let findings = self.findings.iter().zip(0..);
        let place = |(found, place): (&Finding, usize)| Some((found.vm.clone()?, place));
        let known: BTreeMap<VmName, usize> = findings.filter_map(place).collect();
        for fence in actual {
            let is_owned = |port: &Port| match &fence.vm {
                Some(vm) => owned.contains(&(vm, port)) || self.given_up.contains_key(port),
                None => ports.contains(port),
            };
            let unowned: BTreeSet<_> = fence.guards.iter().map(|guard| &guard.port).collect();
            let detail: Vec<_> = unowned
                .into_iter()
                .filter(|port| !is_owned(port))
                .map(|port| {
                    format!("port \"{port}\" is fenced, but no running VM is known to have it")
                })
                .collect();
            if detail.is_empty() {
                continue;
            }
            let unowned = Finding {
                vm: fence.vm.clone(),
                state: State::Ok,
                detail,
            };
            let place = fence.vm.as_ref().and_then(|vm| known.get(vm));
            match place.and_then(|place| self.findings.get_mut(*place)) {
                Some(found) if found.state != State::Ok => {}
                Some(found) => {
                    found.detail.extend(unowned.detail.iter().cloned());
                    self.unowned.push(unowned);
                }
                None => {
                    self.findings.push(unowned.clone());
                    self.unowned.push(unowned);
                }
            }
        }
    }

    fn fail(&mut self, vm: VmName, why: String) {
        self.failed.push(Finding {
            vm: Some(vm),
            state: State::Missing,
            detail: vec![why],
        });
    }

    /// Adds an empty fence for each VM that has rules but does not run. Where rules name no VM,
    /// notes the ports that have left their bridge or that no VM can have.
    fn add_the_rest(&mut self, actual: &[ActualFence], host: &Host) -> Result<()> {
        let known: BTreeSet<_> = self.desired.iter().map(|fence| fence.vm.clone()).collect();
        for fence in actual {
            match &fence.vm {
                Some(vm) if known.contains(vm) => {}
                Some(vm) => self.desired.push(Fence::none(vm.clone())),
                None => {
                    for guard in &fence.guards {
                        let needs_none = match (host.place_of)(&guard.port)? {
                            Place::NoBridge => true,
                            Place::Nic(_) => false,
                            // Somebody else's rule can look like one of ours, but not the whole set.
                            Place::Other(..) => guard.whole().is_some(),
                        };
                        if needs_none && !self.ports.contains(&guard.port) {
                            self.gone.push(guard.port.clone());
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

/// Remarks on a VM's NICs, for people to read.
fn remarks_on(vm: &Vm, unfenced: &[Unfenced]) -> Vec<String> {
    let unfenced = unfenced.iter().filter_map(|nic| match nic {
        Unfenced::NoBridge(port) => Some(format!("port \"{port}\" is on no Linux bridge")),
        Unfenced::OtherBridge(..) | Unfenced::NotAVms(..) => None,
    });
    vm.skipped.iter().cloned().chain(unfenced).collect()
}

#[cfg(test)]
mod tests;
