//! `macfence sync`: fence every running VM, and delete what refers to ports that are gone.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::enforce::{forget, harden};
use super::shared::{print, survey, warn_of_unknown_bridges};
use crate::backend;
use crate::bridge;
use crate::compare::{Finding, State};
use crate::config::Config;
use crate::lock;
use crate::memory::Memory;
use crate::report;
use crate::source::{Hypervisors, Running};
use crate::survey::Extent;
use crate::vm::{Port, VmName};

/// Runs it.
pub fn run(config: &Config) -> Result<()> {
    warn_of_unknown_bridges(config);
    let done = sync(config)?;
    print(&done.changed.join(""))?;
    done.open.iter().for_each(|open| report::warning(open));
    match done.failed.as_slice() {
        [] => Ok(()),
        failed => bail!("not fenced: {}", failed.join("; ")),
    }
}

/// What a sync has done.
pub struct Done {
    /// A line for each VM or bridge of which something changed.
    pub changed: Vec<String>,
    /// What bridges leave open, and which VMs are isolated because nobody knows what is asked for
    /// them; and why.
    pub open: Vec<String>,
    /// The VMs that cannot be fenced, and why.
    pub failed: Vec<String>,
    /// The ports that are fenced now.
    pub ports: BTreeSet<Port>,
    /// The tables in which they are.
    pub tables: &'static [&'static str],
}

/// Sets right what is wrong.
///
/// # Errors
/// If nothing could be set right.
pub fn sync(config: &Config) -> Result<Done> {
    let hypervisors = Hypervisors::ask(&config.connect)?;
    let running = hypervisors.running()?;
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    let actual = backend.query()?;
    let memory = Memory::open(|| actual.fences())?;
    let alive = names(&running);
    let (held, extent) = (actual.fences()?, Extent::Fences);
    let (survey, mut open) = survey(config, &*backend, &memory, running, &held, extent)?;
    let wrong = survey.to_enforce();
    if !wrong.is_empty() {
        let enforced = actual.enforce(&wrong, &survey.keep(&bridge::place))?;
        forget(&enforced.new_ports);
    }
    backend.release(&survey.gone)?;
    let mut changed: Vec<_> = survey.findings.iter().filter_map(done).collect();
    open.extend(memory.forget_ended(Some(&alive), bridge::is_there)?);
    match harden(config, &survey.ports) {
        Ok(hardened) => {
            changed.extend(hardened.changes.iter().map(|change| format!("{change}\n")));
            open.extend(hardened.unsupported.iter().map(ToString::to_string));
        }
        Err(e) => open.push(format!("{e:#}")),
    }
    Ok(Done {
        changed,
        open,
        failed: survey.failed.iter().map(ToString::to_string).collect(),
        ports: survey.ports,
        tables: backend.tables(),
    })
}

fn names(running: &Running) -> BTreeSet<VmName> {
    let failed = running.failed.iter().map(|(name, _)| name);
    let vms = running.vms.iter().map(|vm| &vm.name);
    vms.chain(failed).cloned().collect()
}

fn done(found: &Finding) -> Option<String> {
    let verb = match found.state {
        State::Ok | State::Skipped | State::Unknown => return None,
        State::Missing => "fenced",
        State::Differs => "mended",
        State::Stale => "removed",
    };
    Some(format!("{verb} {found}\n"))
}
