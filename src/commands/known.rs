//! What `watch` knows about the host since it last examined all of it: which VMs run, and what the kernel
//! holds for them. When a few VMs start or end, `watch` does for these what `sync` does for all.
//!
//! [`Known::follow`] leaves everything that this does not explain to `sync`: it then returns `None`, and
//! has changed nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::enforce::{forget, harden};
use super::shared::{policy, ports};
use super::sync::{Done, hardened};
use crate::backend::{self, Ended};
use crate::bridge;
use crate::config::Config;
use crate::fence::{ActualFence, Fence};
use crate::lock;
use crate::memory::Memory;
use crate::policy::Policy;
use crate::report::{Action, Change};
use crate::source::{Doubt, Running, may_return};
use crate::survey::{Extent, Host, Survey};
use crate::vm::{Port, Vm, VmName};

/// What is known about a host.
#[derive(Clone, Debug)]
pub struct Known {
    policy: Policy,
    /// The running VMs, as their hypervisors describe them.
    vms: BTreeMap<VmName, Vm>,
    /// The fence that each of them should have and has.
    fences: BTreeMap<VmName, Fence>,
    /// The ports that lead to each fence in the kernel, also of VMs that have ended.
    held: BTreeMap<VmName, BTreeSet<Port>>,
    /// The VMs that could not be fenced. `watch` tries again each time.
    failed: BTreeSet<VmName>,
    /// What bridges leave open.
    open: Vec<String>,
}

/// What to load because some VMs have started or ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    new: Vec<Fence>,
    ended: Vec<Ended>,
}

impl Known {
    /// Returns what is known once everything that this survey found has been repaired. `None` if something
    /// stays unknown.
    pub fn after(
        survey: &Survey,
        vms: Vec<Vm>,
        actual: &[ActualFence],
        open: &[String],
    ) -> Option<Self> {
        // VMs have names here, so a fence without a VM's name cannot be known.
        if !survey.unknown().is_empty() || actual.iter().any(|fence| fence.vm.is_none()) {
            return None;
        }
        let keep = survey.keep(&bridge::place);
        let now = actual.iter().map(|fence| (fence.vm.as_ref(), fence));
        let now: BTreeMap<_, _> = now.collect();
        let mut held = BTreeMap::new();
        for fence in survey.desired() {
            let guards = now.get(&Some(&fence.vm)).into_iter();
            let guards = guards.flat_map(|fence| &fence.guards);
            let kept = guards.map(|guard| &guard.port).filter(|p| (keep.ports)(p));
            let ports: BTreeSet<_> = fence.ports().into_iter().chain(kept).cloned().collect();
            if !ports.is_empty() {
                held.insert(fence.vm.clone(), ports);
            }
        }
        let fences = survey.desired().iter().cloned();
        let failed = survey.failed.iter().filter_map(|found| found.vm.clone());
        Some(Self {
            policy: survey.policy.clone(),
            vms: vms.into_iter().map(|vm| (vm.name.clone(), vm)).collect(),
            fences: fences.map(|fence| (fence.vm.clone(), fence)).collect(),
            held,
            failed: failed.collect(),
            open: open.to_vec(),
        })
    }

    /// Fences the VMs that have started, and deletes the fences of those that have ended. `None` if there
    /// is more to do, or if the kernel does not hold what we know.
    ///
    /// # Errors
    /// If nothing could be done.
    pub fn follow(
        &self,
        config: &Config,
        running: &Running,
        doubt: &Doubt,
    ) -> Result<Option<Done>> {
        if !running.failed.is_empty() {
            return Ok(None);
        }
        let backend = backend::choose(config.backend);
        let _lock = lock::exclusive()?;
        let Some(memory) = Memory::existing()? else {
            return Ok(None);
        };
        let mut changed = self.changed(&running.vms, doubt);
        let described = changed.clone();
        if !memory.recall(&mut changed).why.is_empty() {
            return Ok(None);
        }
        let mut of_vms = ports(&running.vms);
        of_vms.extend(self.held.values().flatten());
        if policy(config, &of_vms) != self.policy {
            return Ok(None);
        }
        let host = Host {
            place_of: &bridge::place,
            can_hold: &|fence| backend.check(fence),
            unknown: &BTreeSet::new(),
        };
        let vms = Running {
            vms: changed,
            failed: Vec::new(),
        };
        let survey = Survey::of(&self.policy, vms, &[], &host, Extent::Fences)?;
        let is_there = |port: &Port| bridge::place(port).map_or(true, |place| place.is_nic());
        let runs: BTreeSet<_> = running.vms.iter().map(|vm| &vm.name).collect();
        let Some(plan) = self.plan(survey.desired(), &runs, &is_there) else {
            return Ok(None);
        };
        let Some(enforced) = backend.add_and_delete(&plan.new, &plan.ended)? else {
            return Ok(None);
        };
        forget(&enforced.new_ports);
        let mut known = self.clone();
        known.note(&survey, described, &runs, &plan);
        let mut open = self.open.clone();
        let ended = self.vms.keys().filter(|vm| !runs.contains(vm));
        for vm in ended.filter(|vm| !may_return(vm)) {
            if let Err(e) = memory.forget_if_ended(vm, bridge::is_there) {
                open.push(format!("{e:#}"));
            }
        }
        let mut changes = plan.changes();
        let mut touched: BTreeSet<_> = enforced.new_ports.into_iter().collect();
        match harden(config, &survey.ports) {
            Ok(done) => {
                touched.extend(hardened(&done, &mut changes));
                let more = done.unsupported.iter().map(ToString::to_string);
                open.extend(more.filter(|line| !self.open.contains(line)));
            }
            Err(e) => open.push(format!("{e:#}")),
        }
        known.open.clone_from(&open);
        Ok(Some(Done {
            changed: changes,
            open,
            failed: survey.failed.iter().map(ToString::to_string).collect(),
            ports: known
                .fences
                .values()
                .flat_map(Fence::ports)
                .cloned()
                .collect(),
            tables: backend.tables(),
            writes: usize::from(enforced.changed),
            touched,
            known: Some(known),
        }))
    }

    /// Returns the VMs that run.
    pub fn into_vms(self) -> Vec<Vm> {
        self.vms.into_values().collect()
    }

    /// Returns the VMs that are new or described differently, those with a changed port, and those that
    /// could not be fenced before.
    fn changed(&self, running: &[Vm], doubt: &Doubt) -> Vec<Vm> {
        let is_changed = |vm: &&Vm| {
            let is_new = self.vms.get(&vm.name) != Some(*vm);
            is_new || doubt.is_about(vm) || self.failed.contains(&vm.name)
        };
        running.iter().filter(is_changed).cloned().collect()
    }

    /// Returns what to load so that the changed VMs get these fences, and the VMs that do not run lose
    /// theirs. `None` if an existing fence must change, or if a port is not where we thought.
    fn plan(
        &self,
        desired: &[Fence],
        runs: &BTreeSet<&VmName>,
        is_there: &dyn Fn(&Port) -> bool,
    ) -> Option<Plan> {
        let mut plan = Plan::default();
        let claimed: BTreeSet<_> = desired.iter().flat_map(Fence::ports).collect();
        let mut is_changed = BTreeSet::new();
        for fence in desired {
            is_changed.insert(&fence.vm);
            match self.held.get(&fence.vm) {
                None if fence.guards.is_empty() => {}
                None => plan.new.push(fence.clone()),
                // All its ports are gone, so it is about to end.
                Some(ports) if fence.guards.is_empty() => {
                    if ports
                        .iter()
                        .any(|port| is_there(port) && !claimed.contains(port))
                    {
                        return None;
                    }
                    plan.end(&fence.vm, ports);
                }
                Some(ports) => {
                    let is_same = self.fences.get(&fence.vm) == Some(fence);
                    if !is_same || ports.iter().ne(fence.ports()) {
                        return None;
                    }
                }
            }
        }
        for (vm, ports) in self.held.iter().filter(|(vm, _)| !is_changed.contains(vm)) {
            let mut taken = ports.iter().filter(|port| claimed.contains(port));
            if runs.contains(vm) {
                if taken.next().is_some() {
                    return None;
                }
                continue;
            }
            let left = ports.iter().filter(|p| !claimed.contains(p) && is_there(p));
            match left.count() {
                0 => plan.end(vm, ports),
                // Leave it: another hypervisor may know who has these ports.
                left if left == ports.len() => {}
                _ => return None,
            }
        }
        Some(plan)
    }

    /// Remembers what was done.
    fn note(&mut self, survey: &Survey, described: Vec<Vm>, runs: &BTreeSet<&VmName>, plan: &Plan) {
        self.vms.retain(|vm, _| runs.contains(vm));
        self.fences.retain(|vm, _| runs.contains(vm));
        for vm in described {
            self.fences.remove(&vm.name);
            self.vms.insert(vm.name.clone(), vm);
        }
        for ended in &plan.ended {
            self.held.remove(&ended.vm);
        }
        for fence in survey.desired() {
            self.fences.insert(fence.vm.clone(), fence.clone());
            if !fence.guards.is_empty() {
                let ports = fence.ports().into_iter().cloned();
                self.held.insert(fence.vm.clone(), ports.collect());
            }
        }
        let failed = survey.failed.iter().filter_map(|found| found.vm.clone());
        self.failed = failed.collect();
    }
}

impl Plan {
    fn end(&mut self, vm: &VmName, ports: &BTreeSet<Port>) {
        self.ended.push(Ended {
            vm: vm.clone(),
            ports: ports.clone(),
        });
    }

    /// Describes the changes, one for each VM.
    fn changes(&self) -> Vec<Change> {
        let ended = self.ended.iter();
        let removed = ended.map(|ended| (Action::Removed, &ended.vm, ended.ports.iter().collect()));
        let new = self.new.iter();
        let fenced = new.map(|fence| (Action::Fenced, &fence.vm, fence.ports()));
        let change = |(action, vm, ports): (Action, &VmName, BTreeSet<&Port>)| {
            let words: Vec<_> = ports
                .iter()
                .map(|port| format!("port \"{port}\""))
                .collect();
            Change {
                action,
                vm: Some(vm.clone()),
                ports: ports.into_iter().cloned().collect(),
                words: format!("{} {vm}: {}", action.word(), words.join("; ")),
            }
        };
        removed.chain(fenced).map(change).collect()
    }
}

#[cfg(test)]
mod tests;
