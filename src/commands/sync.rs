//! `macfence sync`: fences every running VM, and deletes the rules of ports that are gone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::enforce::{forget, harden};
use super::known::Known;
use super::shared::{print, survey, warn_of_unknown_bridges};
use crate::backend;
use crate::bridge::{self, Hardened, Weakness};
use crate::compare::{Finding, State};
use crate::config::Config;
use crate::fence::{ActualFence, Fence};
use crate::lock;
use crate::memory::Memory;
use crate::report::{self, Action, Change};
use crate::source::{Hypervisors, Running, may_return};
use crate::survey::{Extent, Survey};
use crate::vm::{Port, VmName};

/// Runs it.
pub fn run(config: &Config) -> Result<()> {
    warn_of_unknown_bridges(config);
    let hypervisors = Hypervisors::ask(&config.connect)?;
    let done = sync(config, hypervisors.running()?)?;
    drop(hypervisors);
    print(&report::changes(&done.changed))?;
    done.open.iter().for_each(|open| report::warning(open));
    match done.failed.as_slice() {
        [] => Ok(()),
        failed => bail!("not fenced: {}", failed.join("; ")),
    }
}

/// The result of a sync.
pub struct Done {
    /// The repairs, each of a VM or bridge.
    pub changed: Vec<Change>,
    /// What bridges leave open, and which VMs are isolated because it is unknown what their
    /// templates ask for; each with the reason.
    pub open: Vec<String>,
    /// The VMs that could not be fenced, with reasons.
    pub failed: Vec<String>,
    /// The ports that are fenced now.
    pub ports: BTreeSet<Port>,
    /// The names of the tables that hold the fences.
    pub tables: &'static [&'static str],
    /// The number of transactions that changed these tables, with nft.
    pub writes: usize,
    /// The ports for which the kernel will report a change that we made.
    pub touched: BTreeSet<Port>,
    /// What is known about the host now; `None` if something is unknown.
    pub known: Option<Known>,
}

/// Repairs the host where these VMs run. The caller still keeps others from asking the hypervisor.
///
/// # Errors
/// If nothing could be repaired.
pub fn sync(config: &Config, running: Running) -> Result<Done> {
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    let actual = backend.query()?;
    let memory = Memory::open(|| actual.fences())?;
    let alive = names(&running);
    let described = running.vms.clone();
    let held = actual.fences()?;
    let extent = Extent::Fences;
    let (survey, mut open) = survey(config, &*backend, &memory, running, &held, extent)?;
    let wrong = survey.to_enforce();
    let (mut writes, mut touched) = (0, BTreeSet::new());
    if !wrong.is_empty() {
        let enforced = actual.enforce(&wrong, &survey.keep(&bridge::place))?;
        forget(&enforced.new_ports);
        writes += usize::from(enforced.changed);
        touched.extend(enforced.new_ports);
    }
    writes += usize::from(backend.release(&survey.gone)?);
    let mut changed = changes(&survey, &held);
    open.extend(memory.forget_ended(Some(&alive), bridge::is_there, may_return)?);
    match harden(config, &survey.ports) {
        Ok(done) => {
            touched.extend(hardened(&done, &mut changed));
            open.extend(done.unsupported.iter().map(ToString::to_string));
        }
        Err(e) => open.push(format!("{e:#}")),
    }
    let known = if backend.names_vms() && survey.gone.is_empty() {
        Known::after(&survey, described, &held, &open)
    } else {
        None
    };
    Ok(Done {
        changed,
        open,
        failed: survey.failed.iter().map(ToString::to_string).collect(),
        ports: survey.ports,
        tables: backend.tables(),
        writes,
        touched,
        known,
    })
}

fn names(running: &Running) -> BTreeSet<VmName> {
    let failed = running.failed.iter().map(|(name, _)| name);
    let vms = running.vms.iter().map(|vm| &vm.name);
    vms.chain(failed).cloned().collect()
}

/// Returns the repairs of what the survey found.
fn changes(survey: &Survey, held: &[ActualFence]) -> Vec<Change> {
    let mut ports: BTreeMap<Option<&VmName>, BTreeSet<&Port>> = BTreeMap::new();
    let desired = survey.desired().iter();
    let desired = desired.map(|fence| (Some(&fence.vm), Fence::ports(fence)));
    let held = held.iter().filter(|fence| fence.vm.is_some()).map(|fence| {
        let guards = fence.guards.iter();
        (fence.vm.as_ref(), guards.map(|guard| &guard.port).collect())
    });
    for (vm, more) in desired.chain(held) {
        ports.entry(vm).or_default().extend(more);
    }
    ports.insert(None, survey.gone.iter().collect());
    let done = |found: &Finding| {
        let action = match found.state {
            State::Ok | State::Skipped | State::Unknown => return None,
            State::Missing => Action::Fenced,
            State::Differs => Action::Mended,
            State::Stale => Action::Removed,
        };
        let ports = ports.get(&found.vm.as_ref()).into_iter().flatten();
        Some(Change {
            action,
            vm: found.vm.clone(),
            ports: ports.map(|port| (*port).clone()).collect(),
            words: format!("{} {found}", action.word()),
        })
    };
    survey.findings.iter().filter_map(done).collect()
}

/// Adds the changes of bridge settings to the repairs. Returns the ports that were changed.
pub fn hardened(done: &Hardened, changed: &mut Vec<Change>) -> Vec<Port> {
    let mut touched = Vec::new();
    for change in &done.changes {
        let ports = match &change.0 {
            Weakness::LinkLocalLearning(_) => Vec::new(),
            Weakness::SpanningTree(port) => vec![port.clone()],
        };
        touched.extend(ports.clone());
        changed.push(Change {
            action: Action::Hardened,
            vm: None,
            ports,
            words: change.to_string(),
        });
    }
    touched
}
