//! `macfence check`: does the kernel hold what it should.

use anyhow::{Context, Result};
use serde::Serialize;

use super::shared::{print, survey};
use crate::backend;
use crate::compare::{Finding, State};
use crate::config::Config;
use crate::exit::Exit;
use crate::source::Hypervisors;
use crate::vm::VmName;

#[derive(Serialize)]
struct Row<'a> {
    vm: Option<&'a str>,
    state: State,
    detail: String,
}

/// Runs it.
pub fn run(config: &Config, json: bool) -> Result<Exit> {
    // First the VMs, then the kernel: one that ends or starts meanwhile has been dealt with.
    let vms = Hypervisors::ask(&config.connect)?.running()?;
    let backend = backend::choose(config.backend);
    let actual = backend.query()?.fences()?;
    let survey = survey(config, &*backend, vms, &actual)?;
    let found = survey.findings.iter().chain(&survey.failed);
    if json {
        let rows: Vec<_> = found.map(row).collect();
        print(&(serde_json::to_string(&rows).context("JSON")? + "\n"))?;
    } else {
        let wrong = found.filter(|found| found.state != State::Ok);
        print(&wrong.map(line).collect::<String>())?;
    }
    Ok(if survey.is_well() && survey.failed.is_empty() {
        Exit::Done
    } else {
        Exit::Different
    })
}

fn row(found: &Finding) -> Row<'_> {
    Row {
        vm: found.vm.as_ref().map(VmName::as_str),
        state: found.state,
        detail: found.detail.join("; "),
    }
}

/// A finding in one line: `missing one-42: port "one-42-0"`.
fn line(found: &Finding) -> String {
    format!("{} {found}\n", found.state)
}
