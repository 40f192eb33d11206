//! Lists every port of every running VM, and every held fence, with its status. `list`, `check` and
//! `metrics` show these entries. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter;

use anyhow::Result;
use serde::Serialize;

use super::{Host, Survey};
use crate::compare::at_port;
use crate::fence::{ActualFence, ActualGuard, Fence, Guard, Keep};
use crate::mac::MacAddr;
use crate::policy::Unfenced;
use crate::vm::{Nic, Place, Port, Vm, VmName};

/// A port of a running VM, or one that the kernel has rules for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The VM; `None` if the rules name none and no running VM has the port.
    pub vm: Option<VmName>,
    /// The backend's name for the VM's fence, if rules are held for the port.
    pub chain: Option<String>,
    /// The port; `None` for an interface that has none, and for a fence whose rules name none.
    pub port: Option<Port>,
    /// The bridge that the port is on now.
    pub bridge: Option<String>,
    /// The NIC's own address according to the rules or, without rules, the hypervisor.
    pub mac: Option<MacAddr>,
    /// Whether it has the right rules.
    pub status: Status,
    /// The guard that the rules make, if there are rules.
    pub held: Option<ActualGuard>,
}

/// Whether a port has the right rules, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has the guard that it should have. The text is a remark.
    Fenced(Option<String>),
    /// It belongs to a running VM and has no rules.
    Unfenced(Cause, String),
    /// It has rules, but is gone or not the VM's.
    Stale(String),
    /// Its rules differ from those that it should have.
    Differs(Vec<String>),
}

/// Why a running VM's port has no fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// It should have one, but nothing has fenced it yet.
    Missing,
    /// It cannot be fenced.
    Failed,
    /// The configuration leaves its bridge alone.
    Configuration,
    /// It is on no Linux bridge: there is nothing to fence.
    Bridgeless,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 4] = [
        Self::Missing,
        Self::Failed,
        Self::Configuration,
        Self::Bridgeless,
    ];

    /// Why the policy left this NIC out.
    pub(super) fn of(nic: &Unfenced) -> (Self, String) {
        let cause = match nic {
            Unfenced::NoBridge(_) => Self::Bridgeless,
            Unfenced::OtherBridge(..) => Self::Configuration,
            Unfenced::NotAVms(..) => Self::Failed,
        };
        (cause, nic.why())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Failed => "failed",
            Self::Configuration => "configuration",
            Self::Bridgeless => "bridgeless",
        })
    }
}

impl Status {
    /// The status in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Fenced(_) => "fenced",
            Self::Unfenced(..) => "unfenced",
            Self::Stale(_) => "stale",
            Self::Differs(_) => "differs",
        }
    }

    /// The reason for the status, if there is one.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Fenced(remark) => remark.clone(),
            Self::Unfenced(_, why) | Self::Stale(why) => Some(why.clone()),
            Self::Differs(how) => Some(how.join("; ")),
        }
    }
}

impl Entry {
    /// Why the port has no fence, if it has none.
    pub fn cause(&self) -> Option<Cause> {
        match self.status {
            Status::Unfenced(cause, _) => Some(cause),
            _ => None,
        }
    }

    /// Tells whether this is a fence whose rules name no port.
    pub fn is_empty_fence(&self) -> bool {
        self.port.is_none() && self.chain.is_some()
    }

    /// The port and the reason: `port "vnet1": on no Linux bridge`.
    pub fn words(&self) -> String {
        let reason = self.status.reason().unwrap_or_default();
        match &self.port {
            Some(port) => format!("port \"{port}\": {reason}"),
            None => reason,
        }
    }

    fn held(vm: Option<&VmName>, fence: &ActualFence, guard: &ActualGuard, place: &Place) -> Self {
        Self {
            vm: vm.cloned(),
            chain: Some(fence.chain.clone()),
            port: Some(guard.port.clone()),
            bridge: place.bridge().map(str::to_owned),
            mac: guard.macs.first().copied(),
            status: by_itself(fence, guard, place),
            held: Some(guard.clone()),
        }
    }

    fn without_port(fence: &ActualFence) -> Self {
        Self {
            vm: fence.vm.clone(),
            chain: Some(fence.chain.clone()),
            port: None,
            bridge: None,
            mac: None,
            status: Status::Stale("no rule names a port".to_owned()),
            held: None,
        }
    }

    fn open(vm: &VmName, nic: Option<&Nic>, place: &Place, why: (Cause, String)) -> Self {
        Self {
            vm: Some(vm.clone()),
            chain: None,
            port: nic.map(|nic| nic.port.clone()),
            bridge: place.bridge().map(str::to_owned),
            mac: nic.map(|nic| nic.mac),
            status: Status::Unfenced(why.0, why.1),
            held: None,
        }
    }
}

/// Why NICs of running VMs have no guard.
pub(super) type Open<'a> = BTreeMap<(&'a VmName, Port), (Cause, String)>;

/// Lists the held fences if it is unknown which VMs run.
///
/// # Errors
/// If `place_of` cannot tell where a port is.
pub fn held(
    actual: &[ActualFence],
    place_of: &dyn Fn(&Port) -> Result<Place>,
) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for fence in actual {
        if fence.guards.is_empty() {
            entries.push(Entry::without_port(fence));
        }
        for guard in &fence.guards {
            let place = place_of(&guard.port)?;
            entries.push(Entry::held(fence.vm.as_ref(), fence, guard, &place));
        }
    }
    Ok(entries)
}

/// Judges rules by themselves, without knowing what they should be.
fn by_itself(fence: &ActualFence, guard: &ActualGuard, place: &Place) -> Status {
    match place {
        Place::NoBridge => return Status::Stale("on no Linux bridge".to_owned()),
        // Somebody else's rule can look like a nameless one of ours, but not the whole set.
        Place::Other(_, what) if fence.vm.is_none() && guard.whole().is_none() => {
            return Status::Differs(vec![format!("somebody else's rules, at {what}")]);
        }
        Place::Other(_, what) => return Status::Stale(format!("{what}, which no VM has")),
        Place::Nic(_) => {}
    }
    let mut how: Vec<_> = fence
        .defects
        .iter()
        .chain(&guard.defects)
        .cloned()
        .collect();
    if guard.meant().is_none() && guard.defects.is_empty() {
        how.push("its rules are incomplete, or contradict each other".to_owned());
    }
    if how.is_empty() {
        Status::Fenced(None)
    } else {
        Status::Differs(how)
    }
}

impl Survey {
    /// Lists every port of these running VMs and every held fence.
    pub(super) fn all_entries(
        &self,
        running: &[Vm],
        open: &Open,
        actual: &[ActualFence],
        host: &Host,
    ) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let nics = running.iter().flat_map(|vm| iter::repeat(vm).zip(&vm.nics));
        let owners: BTreeMap<&Port, &VmName> =
            nics.map(|(vm, nic)| (&nic.port, &vm.name)).collect();
        let desired = self.desired.iter().flat_map(|fence| {
            let guards = fence.guards.iter();
            guards.map(|guard| ((&fence.vm, &guard.port), guard))
        });
        let desired: BTreeMap<_, _> = desired.collect();
        let keep = self.keep(host.place_of);
        for fence in actual {
            if fence.guards.is_empty() {
                entries.push(Entry::without_port(fence));
            }
            for guard in &fence.guards {
                let port = &guard.port;
                let place = (host.place_of)(port)?;
                let owner = owners.get(port).copied();
                let vm = fence.vm.as_ref().or(owner);
                let mut entry = Entry::held(vm, fence, guard, &place);
                let should = vm.and_then(|vm| desired.get(&(vm, port)));
                if let (Some(should), Some(vm)) = (should, vm) {
                    entry.status = compared(vm, should, fence, guard, &keep);
                } else if let (Some(named), Some(owner)) = (&fence.vm, owner)
                    && named != owner
                    && self.ports.contains(port)
                {
                    entry.status = Status::Stale(format!("the port is VM {:?}'s", owner.as_str()));
                } else if let Status::Fenced(remark) = &mut entry.status {
                    let why = vm.and_then(|vm| open.get(&(vm, port.clone())));
                    let unowned = "no running VM is known to have it".to_owned();
                    *remark = Some(why.map_or(unowned, |(_, why)| why.clone()));
                }
                entries.push(entry);
            }
        }
        let fenced: BTreeSet<_> = entries
            .iter()
            .filter_map(|entry| Some((entry.vm.clone()?, entry.port.clone()?)))
            .collect();
        for vm in running {
            for nic in &vm.nics {
                if fenced.contains(&(vm.name.clone(), nic.port.clone())) {
                    continue;
                }
                let why = open.get(&(&vm.name, nic.port.clone())).cloned();
                let nothing = || (Cause::Missing, "nothing has fenced it yet".to_owned());
                let place = (host.place_of)(&nic.port)?;
                let why = why.unwrap_or_else(nothing);
                entries.push(Entry::open(&vm.name, Some(nic), &place, why));
            }
            for why in &vm.skipped {
                let why = (Cause::Bridgeless, why.clone());
                entries.push(Entry::open(&vm.name, None, &Place::NoBridge, why));
            }
        }
        let mut known: BTreeSet<_> = entries
            .iter()
            .filter_map(|entry| entry.vm.clone())
            .collect();
        for found in &self.failed {
            if let Some(vm) = &found.vm
                && known.insert(vm.clone())
            {
                let why = (Cause::Failed, found.detail.join("; "));
                entries.push(Entry::open(vm, None, &Place::NoBridge, why));
            }
        }
        entries.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(entries)
    }
}

/// Compares the rules at a running VM's port with the guard that it should have.
fn compared(
    vm: &VmName,
    should: &Guard,
    fence: &ActualFence,
    guard: &ActualGuard,
    keep: &Keep,
) -> Status {
    let desired = Fence {
        vm: vm.clone(),
        guards: vec![should.clone()],
    };
    let should = desired.merge(iter::once(guard), keep).guards;
    let at_port = should.iter().flat_map(|should| at_port(should, guard));
    let how: Vec<_> = fence.defects.iter().cloned().chain(at_port).collect();
    if how.is_empty() {
        Status::Fenced(None)
    } else {
        Status::Differs(how)
    }
}

#[cfg(test)]
mod tests;
