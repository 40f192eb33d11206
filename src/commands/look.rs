//! A look at the host, for `list` and `metrics`: what runs, what is held, and how it is.

use anyhow::Result;

use super::shared::survey_read_only;
use crate::backend::{self, Backend};
use crate::bridge;
use crate::config::Config;
use crate::source::Hypervisors;
use crate::survey::{self, Entry, Survey};

/// What was seen.
pub struct Look {
    /// The firewall that was asked.
    pub backend: Box<dyn Backend>,
    /// How the host is; an error where nobody tells which VMs run.
    pub survey: Result<Survey>,
    /// The ports of running VMs and those that are fenced; without a hypervisor only the latter.
    pub entries: Vec<Entry>,
}

/// Looks.
///
/// # Errors
/// If the firewall does not tell what it holds.
pub fn look(config: &Config) -> Result<Look> {
    // First the VMs, then the kernel: one that ends or starts meanwhile has been dealt with.
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
