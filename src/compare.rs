//! What the kernel should hold beside what it holds. Pure, like [`crate::fence`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::backend::HeldFence;
use crate::fence::{Fence, Keep, Rule};
use crate::vm::{Port, VmName};

/// How a VM's fence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not there.
    Missing,
    /// There, and not as it should be.
    Differs,
    /// There, and all of it refers to what is gone.
    Stale,
}

/// What is found about a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The VM; `None` where rules name none and no running VM has their port.
    pub vm: Option<VmName>,
    /// How its fence is.
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
        match self.detail.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.detail.join("; ")),
        }
    }
}

/// Compares what should be, a fence for each VM, with what is. Held fences that name no VM, as
/// those of ebtables, are those of the VM whose ports they are for.
pub fn compare(desired: &[Fence], held: &[HeldFence], keep: &Keep) -> Vec<Finding> {
    let mut by_vm: BTreeMap<&VmName, &HeldFence> = BTreeMap::new();
    let mut by_port: BTreeMap<&Port, &HeldFence> = BTreeMap::new();
    for fence in held {
        match &fence.vm {
            Some(vm) => drop(by_vm.insert(vm, fence)),
            None => {
                let ports = fence.rules.iter().map(|(rule, _)| rule.port());
                by_port.extend(ports.map(|port| (port, fence)));
            }
        }
    }
    desired
        .iter()
        .map(|fence| {
            let mut held: Vec<_> = by_vm.get(&fence.vm).copied().into_iter().collect();
            held.extend(fence.ports().iter().filter_map(|port| by_port.get(*port)));
            finding(fence, &held, keep)
        })
        .collect()
}

fn finding(desired: &Fence, held: &[&HeldFence], keep: &Keep) -> Finding {
    let finding = |state, detail| Finding {
        vm: Some(desired.vm.clone()),
        state,
        detail,
    };
    let rules = held.iter().flat_map(|fence| &fence.rules);
    let mut surplus: Vec<_> = rules.map(|(rule, _)| rule).collect();
    let should = desired.over(surplus.iter().copied(), keep);
    let mut missing: Vec<_> = should.iter().collect();
    missing.retain(|rule| match surplus.iter().position(|held| held == rule) {
        Some(index) => {
            surplus.swap_remove(index);
            false
        }
        None => true,
    });
    match (held.is_empty(), should.is_empty()) {
        (true, true) => return finding(State::Ok, Vec::new()),
        (true, false) => return finding(State::Missing, ports_of(&missing)),
        (false, true) => return finding(State::Stale, ports_of(&surplus)),
        (false, false) => {}
    }
    let mut detail: Vec<_> = held.iter().flat_map(|held| held.defects.clone()).collect();
    detail.extend(
        missing
            .iter()
            .map(|rule| format!("no rule that lets {rule}")),
    );
    surplus.sort();
    detail.extend(
        surplus
            .iter()
            .map(|rule| format!("a rule too many that lets {rule}")),
    );
    match detail.is_empty() {
        true => finding(State::Ok, detail),
        false => finding(State::Differs, detail),
    }
}

fn ports_of(rules: &[&Rule]) -> Vec<String> {
    let ports: BTreeSet<_> = rules.iter().map(|rule| rule.port()).collect();
    ports
        .iter()
        .map(|port| format!("port \"{port}\""))
        .collect()
}
