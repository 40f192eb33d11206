//! `macfence sync`: fence every running VM, and delete what refers to ports that are gone.

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
use crate::source::{Hypervisors, Running};
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

/// What a sync has done.
pub struct Done {
    /// What was changed, of each VM or bridge.
    pub changed: Vec<Change>,
    /// What bridges leave open, and which VMs are isolated because nobody knows what is asked for
    /// them; and why.
    pub open: Vec<String>,
    /// The VMs that cannot be fenced, and why.
    pub failed: Vec<String>,
    /// The ports that are fenced now.
    pub ports: BTreeSet<Port>,
    /// The tables in which they are.
    pub tables: &'static [&'static str],
    /// How many transactions changed these tables, with nft.
    pub writes: usize,
    /// The ports of which the kernel tells a change that was ours.
    pub touched: BTreeSet<Port>,
    /// What is known of the host now, if all of it is.
    pub known: Option<Known>,
}

/// Sets right what is wrong, where these VMs run. The caller still excludes others who ask.
///
/// # Errors
/// If nothing could be set right.
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
    open.extend(memory.forget_ended(Some(&alive), bridge::is_there)?);
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

/// What was set right of what was found.
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

/// Adds what was done about bridges to what was changed. Returns the ports that it was done to.
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
