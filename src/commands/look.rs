//! Looks at the host for `list` and `metrics`: which VMs run, which fences the kernel holds, and
//! whether these are right.

use anyhow::Result;

use super::shared::survey_read_only;
use crate::backend::{self, Backend};
use crate::bridge;
use crate::config::Config;
use crate::source::Hypervisors;
use crate::survey::{self, Entry, Survey};

/// The result of a look.
pub struct Look {
    /// The firewall that was asked.
    pub backend: Box<dyn Backend>,
    /// The comparison; an error if it is unknown which VMs run.
    pub survey: Result<Survey>,
    /// The ports of running VMs and those that are fenced; without a hypervisor only the latter.
    pub entries: Vec<Entry>,
}

/// Looks at the host.
///
/// # Errors
/// If the firewall cannot be read.
pub fn look(config: &Config) -> Result<Look> {
    // Ask for the VMs first, then the kernel: a VM that ends or starts meanwhile has been dealt with.
    let running = Hypervisors::ask(&config.connect).and_then(|hypervisors| hypervisors.running());
    let backend = backend::choose(config.backend);
    let actual = backend.query()?.fences()?;
    let mut survey =
        running.and_then(|running| survey_read_only(config, &*backend, running, &actual));
    let entries = match &mut survey {
        Ok(survey) => std::mem::take(&mut survey.entries),
        Err(_) => survey::held(&actual, &bridge::place)?,
    };
    Ok(Look {
        backend,
        survey,
        entries,
    })
}
