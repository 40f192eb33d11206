//! `macfence hook`, and the program started through a link of an entry point's name.

use anyhow::Result;

use super::{apply, flush};
use crate::cli::{Entry, Vms};
use crate::config::Config;

/// Runs it.
pub fn run(config: &Config, entry: Entry) -> Result<()> {
    match entry {
        Entry::EbtablesKvm { vm } => apply::run(
            config,
            &Vms {
                vms: vec![vm],
                xml: Vec::new(),
            },
        ),
        Entry::EbtablesFlush => flush::run_patiently(config),
    }
}
