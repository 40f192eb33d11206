//! Compares what the kernel should hold with what it holds. Pure, like [`crate::fence`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::fence::{ActualFence, ActualGuard, Fence, Guard, Hears, Keep, Merged};
use crate::mac::MacAddr;
use crate::vm::{Port, VmName};

/// The state of a VM's fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// The VM should have one, and has none.
    Missing,
    /// It differs from what it should be.
    Differs,
    /// All of it refers to ports that are gone.
    Stale,
    /// The configuration leaves its bridge alone. The VM has no fence, or still has an old one.
    Skipped,
    /// That cannot be found out.
    Unknown,
}

impl State {
    /// Tells whether nothing needs repair.
    pub fn is_well(self) -> bool {
        matches!(self, Self::Ok | Self::Skipped)
    }
}

/// The result of comparing a VM's fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The VM; `None` if rules name none and no running VM has their port.
    pub vm: Option<VmName>,
    /// The state of its fence.
    pub state: State,
    /// What is wrong, or worth knowing.
    pub detail: Vec<String>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Differs => "differs",
            Self::Stale => "stale",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Finding {
    /// The VM and the details in one line: `one-42: port "one-42-0"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.vm {
            Some(vm) => write!(f, "{vm}")?,
            None => f.write_str("-")?,
        }
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.detail.join("; "))
    }
}

/// Compares the fences that VMs should have with those in the kernel. A fence that names no VM, as with
/// ebtables, belongs to the VM that has its port.
pub fn compare(desired: &[Fence], actual: &[ActualFence], keep: &Keep) -> Vec<Finding> {
    let mut by_vm: BTreeMap<&VmName, &ActualFence> = BTreeMap::new();
    let mut by_port: BTreeMap<&Port, &ActualFence> = BTreeMap::new();
    for fence in actual {
        match &fence.vm {
            Some(vm) => drop(by_vm.insert(vm, fence)),
            None => by_port.extend(fence.guards.iter().map(|guard| (&guard.port, fence))),
        }
    }
    let finding_of = |fence: &Fence| {
        let mut actual: Vec<_> = by_vm.get(&fence.vm).copied().into_iter().collect();
        actual.extend(fence.ports().iter().filter_map(|port| by_port.get(*port)));
        finding(fence, &actual, keep)
    };
    desired.iter().map(finding_of).collect()
}

fn finding(desired: &Fence, actual: &[&ActualFence], keep: &Keep) -> Finding {
    let guards = actual.iter().flat_map(|fence| &fence.guards);
    let should = desired.merge(guards.clone(), keep);
    let (state, detail) = if actual.is_empty() && should.is_empty() {
        (State::Ok, Vec::new())
    } else if actual.is_empty() {
        let ports = should.guards.iter().map(|guard| &guard.port);
        (State::Missing, named(ports))
    } else if should.is_empty() {
        (State::Stale, named(guards.map(|guard| &guard.port)))
    } else {
        let defects = actual.iter().flat_map(|fence| fence.defects.clone());
        let detail: Vec<_> = defects.chain(differences(&should, guards)).collect();
        let state = if detail.is_empty() {
            State::Ok
        } else {
            State::Differs
        };
        (state, detail)
    };
    Finding {
        vm: Some(desired.vm.clone()),
        state,
        detail,
    }
}

fn named<'a>(ports: impl Iterator<Item = &'a Port>) -> Vec<String> {
    let ports: BTreeSet<_> = ports.collect();
    ports
        .iter()
        .map(|port| format!("port \"{port}\""))
        .collect()
}

/// Lists missing rules, extra rules and other defects of the guards, each in words.
fn differences<'a>(
    should: &Merged,
    actual: impl Iterator<Item = &'a ActualGuard> + Clone,
) -> Vec<String> {
    let mut found = Differences::default();
    for guard in &should.guards {
        let now = actual.clone().filter(|now| now.port == guard.port);
        found.add(guard, now);
    }
    let wanted: BTreeSet<_> = should.guards.iter().map(|guard| &guard.port).collect();
    for now in actual.filter(|now| !wanted.contains(&now.port) && !should.kept.contains(&now.port))
    {
        let (macs, hears) = (now.macs.iter(), now.hears.iter());
        let port = &now.port;
        found.surplus.extend(macs.map(|mac| lets_in(*mac, port)));
        found
            .surplus
            .extend(hears.map(|hears| lets_out(hears, port)));
    }
    found.words()
}

/// Lists what is wrong with the guard of one port, each in words.
pub fn at_port(should: &Guard, now: &ActualGuard) -> Vec<String> {
    let mut found = Differences::default();
    found.add(should, std::iter::once(now));
    found.words()
}

#[derive(Default)]
struct Differences {
    missing: Vec<String>,
    surplus: Vec<String>,
    others: Vec<String>,
}

impl Differences {
    /// Adds what is wrong at the port of this guard.
    fn add<'a>(&mut self, should: &Guard, now: impl Iterator<Item = &'a ActualGuard> + Clone) {
        let port = &should.port;
        for now in now.clone() {
            self.others.extend(now.defects.iter().cloned());
            self.others.extend(other_differences(should, now));
        }
        let macs = now.clone().flat_map(|now| &now.macs);
        let hears = now.flat_map(|now| &now.hears);
        let (lacks, too_many) = difference(&should.mac, macs);
        self.missing.extend(lacks.map(|mac| lets_in(*mac, port)));
        let too_many = too_many.into_iter();
        self.surplus.extend(too_many.map(|mac| lets_in(*mac, port)));
        let (lacks, too_many) = difference(&should.hears, hears);
        // A port that hears all networks needs no rule for it.
        let lacks = lacks.filter(|hears| **hears != Hears::All);
        self.missing
            .extend(lacks.map(|hears| lets_out(hears, port)));
        let too_many = too_many.into_iter();
        self.surplus
            .extend(too_many.map(|hears| lets_out(hears, port)));
    }

    fn words(self) -> Vec<String> {
        let missing = self.missing.into_iter();
        let missing = missing.map(|what| format!("no rule that lets {what}"));
        let surplus = self.surplus.into_iter();
        let surplus = surplus.map(|what| format!("a rule too many that lets {what}"));
        missing.chain(surplus).chain(self.others).collect()
    }
}

/// Lists other differences than who sends and who is heard, each in words.
fn other_differences(should: &Guard, now: &ActualGuard) -> Vec<String> {
    let port = &now.port;
    let may = |may: bool| if may { "may" } else { "may not" };
    let mut found = Vec::new();
    if now.queries != should.queries {
        let may = may(now.queries);
        found.push(format!("port \"{port}\" {may} send multicast queries"));
    }
    if now.extra_macs != should.extra_macs {
        let macs = or_none(&now.extra_macs);
        found.push(format!(
            "port \"{port}\" may send under these further addresses: {macs}"
        ));
    }
    match (&now.addresses, &should.addresses) {
        (None, None) => {}
        (None, Some(_)) => found.push(format!("port \"{port}\" may use any IP address")),
        (Some(_), None) => found.push(format!("port \"{port}\" has an address guard")),
        (Some(now), Some(should_be)) => {
            if now.meant(should.senders()).as_ref() != Some(should_be) {
                found.push(format!(
                    "the address guard of port \"{port}\" lets other IP addresses pass"
                ));
            }
        }
    }
    if now.dhcp_guard != should.dhcp_guard {
        let may = may(!now.dhcp_guard);
        found.push(format!("port \"{port}\" {may} be a DHCP server"));
    }
    if now.ra_guard != should.ra_guard {
        let may = may(!now.ra_guard);
        found.push(format!("port \"{port}\" {may} be an IPv6 router"));
    }
    if let Some(log) = now.log
        && log != should.log
    {
        let to = |log: Option<u16>| {
            log.map_or("nowhere".to_owned(), |group| format!("to nflog:{group}"))
        };
        found.push(format!("drops at port \"{port}\" are logged {}", to(log)));
    }
    found
}

fn or_none(macs: &[MacAddr]) -> String {
    if macs.is_empty() {
        return "none".to_owned();
    }
    let macs: Vec<_> = macs.iter().map(ToString::to_string).collect();
    macs.join(", ")
}

/// Returns the value that should be there, if it is missing, and all others.
fn difference<'a, T: PartialEq>(
    should: &'a T,
    are: impl Iterator<Item = &'a T>,
) -> (Option<&'a T>, Vec<&'a T>) {
    let mut others: Vec<_> = are.collect();
    match others.iter().position(|one| *one == should) {
        Some(index) => {
            others.remove(index);
            (None, others)
        }
        None => (Some(should), others),
    }
}

fn lets_in(mac: MacAddr, port: &Port) -> String {
    format!("only {mac} in from \"{port}\"")
}

fn lets_out(hears: &Hears, port: &Port) -> String {
    match hears {
        Hears::All => format!("all networks out to \"{port}\""),
        Hears::Network { .. } => format!("only {hears} out to \"{port}\""),
    }
}

#[cfg(test)]
mod tests;
