//! What a host should hold and what it does, for all running VMs: `check` prints it, `sync` sets it
//! right. Pure: whatever it must know about the host comes from the caller.

mod entry;
mod given_up;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

pub use self::entry::{Cause, Entry, Status, held};

use crate::compare::{Finding, State, compare};
use crate::fence::{ActualFence, Fence, Keep};
use crate::policy::{Policy, Unfenced};
use crate::source::Running;
use crate::vm::{Place, Port, Vm, VmName};

/// What a survey asks of the host.
pub struct Host<'a> {
    /// Ports of which nobody knows what is asked for: the addresses that are guarded there now stay so.
    pub unknown: &'a BTreeSet<Port>,
    /// Where a port is. An error means that nobody can tell.
    pub place_of: &'a dyn Fn(&Port) -> Result<Place>,
    /// Whether the firewall can hold a fence at all: not every name can be told to it.
    pub can_hold: &'a dyn Fn(&Fence) -> Result<()>,
}

/// How much is told of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What is to be set right.
    Fences,
    /// Each port as well: [`Survey::entries`] and [`Survey::skipped`]. With 4,000 VMs that is a tenth
    /// of the work.
    Ports,
}

/// The host at one moment.
pub struct Survey {
    /// What was found, for each VM.
    pub findings: Vec<Finding>,
    /// The running VMs that cannot be fenced, and why.
    pub failed: Vec<Finding>,
    /// The ports that running VMs should have a fence at.
    pub ports: BTreeSet<Port>,
    /// Ports that need no fence any more, where rules name no VM: they are gone from their bridges, or
    /// no VM can have them.
    pub gone: Vec<Port>,
    /// Ports that are fenced although no running VM is known to have them, a line for each VM. They
    /// stay fenced: see [`Self::keep`].
    pub unowned: Vec<Finding>,
    /// The running VMs that have a port which the configuration leaves alone, and why.
    pub skipped: Vec<Finding>,
    /// Every port of every running VM, and every held fence, sorted by VM; none if not asked for.
    pub entries: Vec<Entry>,
    /// The policy that it follows from.
    pub policy: Policy,
    /// What each VM should have. Its finding has the same place in `findings`.
    desired: Vec<Fence>,
    /// Ports that NICs had besides one that they still have, and whose fence the rules for them are in.
    /// They are no difference, but needless.
    given_up: BTreeMap<Port, VmName>,
    /// Ports of which nobody knows what is asked for.
    unknown: BTreeSet<Port>,
}

impl Survey {
    /// Compares what running VMs should have with what the kernel holds.
    ///
    /// # Errors
    /// If nobody can tell where a port is.
    pub fn of(
        policy: &Policy,
        running: Running,
        actual: &[ActualFence],
        host: &Host,
        extent: Extent,
    ) -> Result<Self> {
        // The kernel is asked once about a port.
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
            // One VM that cannot be fenced is no reason to leave the others open.
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
            survey.find_skipped();
        }
        Ok(survey)
    }

    /// Finds the VMs that the configuration leaves alone.
    fn find_skipped(&mut self) {
        let mut skipped: BTreeMap<&VmName, Vec<String>> = BTreeMap::new();
        for entry in &self.entries {
            if let (Some(vm), Some(Cause::Configuration)) = (&entry.vm, entry.cause()) {
                skipped.entry(vm).or_default().push(entry.words());
            }
        }
        let skipped = skipped.into_iter().map(|(vm, detail)| Finding {
            vm: Some(vm.clone()),
            state: State::Skipped,
            detail,
        });
        self.skipped = skipped.collect();
        let held = self.entries.iter().filter(|entry| entry.held.is_some());
        let fenced: BTreeSet<_> = held.map(|entry| &entry.vm).collect();
        let skipped: BTreeMap<_, _> = self
            .skipped
            .iter()
            .map(|found| (&found.vm, found))
            .collect();
        for found in &mut self.findings {
            let Some(skipped) = skipped.get(&found.vm) else {
                continue;
            };
            found.detail.extend(skipped.detail.iter().cloned());
            if found.state == State::Ok && !fenced.contains(&found.vm) {
                found.state = State::Skipped;
            }
        }
    }

    /// Whether there is nothing to set right.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|found| found.state.is_well())
    }

    /// The fences of the VMs whose kernel state is wrong, or holds what nobody needs.
    pub fn to_enforce(&self) -> Vec<Fence> {
        let needless: BTreeSet<_> = self.given_up.values().collect();
        let found = self.desired.iter().zip(&self.findings);
        let wrong =
            found.filter(|(fence, found)| !found.state.is_well() || needless.contains(&fence.vm));
        wrong.map(|(fence, _)| fence.clone()).collect()
    }

    /// Ports of which nobody knows what is asked for.
    pub fn unknown(&self) -> &BTreeSet<Port> {
        &self.unknown
    }

    /// What each VM should have. VMs that do not run should have none.
    pub fn desired(&self) -> &[Fence] {
        &self.desired
    }

    /// Nothing is removed in front of a port that is there and that no running VM is known to have.
    /// Others may know whose it is: a VM that has started since the hypervisor was asked, or that
    /// it could not describe; a container.
    pub fn keep<'a>(&'a self, place_of: &'a dyn Fn(&Port) -> Result<Place>) -> Keep<'a> {
        Keep {
            ports: Box::new(move |port| {
                !self.ports.contains(port) && place_of(port).map_or(true, |place| place.is_nic())
            }),
            addresses: Box::new(|port| self.unknown.contains(port)),
            ..Keep::nothing()
        }
    }

    /// Finds the ports that keep their fences although no running VM is known to have them.
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

    /// Adds whatever else the kernel holds, of VMs that do not run. Where rules name no VM, those of
    /// ports go that are gone from their bridges, or that no VM can have.
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
                            // A rule of somebody else's can look like one of ours. All of them do not.
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

/// What is worth knowing about a VM's NICs, in words.
fn remarks_on(vm: &Vm, unfenced: &[Unfenced]) -> Vec<String> {
    let unfenced = unfenced.iter().filter_map(|nic| match nic {
        Unfenced::NoBridge(port) => Some(format!("port \"{port}\" is on no Linux bridge")),
        Unfenced::OtherBridge(..) | Unfenced::NotAVms(..) => None,
    });
    vm.skipped.iter().cloned().chain(unfenced).collect()
}

#[cfg(test)]
mod tests;
