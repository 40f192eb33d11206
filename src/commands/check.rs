//! `macfence check`: does the kernel hold what it should.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

use super::print;
use super::survey::Survey;
use crate::backend;
use crate::compare::{Finding, State};
use crate::config::Config;
use crate::source;
use crate::vm::VmName;

/// The exit status where something differs, as diff(1) has it.
const DIFFERENT: u8 = 1;
/// The exit status where it could not be found out.
pub const TROUBLE: u8 = 2;

#[derive(Serialize)]
struct Row<'a> {
    vm: Option<&'a str>,
    state: State,
    detail: String,
}

/// Runs it.
pub fn run(config: &Config, json: bool) -> Result<ExitCode> {
    // First the VMs, then the kernel: one that ends or starts meanwhile has been dealt with.
    let vms = source::running(&config.connect)?;
    let backend = backend::choose(config.backend);
    let survey = Survey::of(config, &*backend, vms, &backend.fences()?)?;
    let found = survey.findings.iter().chain(&survey.failed);
    match json {
        true => {
            let rows: Vec<_> = found.map(row).collect();
            print(&(serde_json::to_string(&rows).context("JSON")? + "\n"))?;
        }
        false => {
            let wrong = found.filter(|found| found.state != State::Ok);
            print(&wrong.map(line).collect::<String>())?;
        }
    }
    Ok(match survey.is_well() && survey.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENT),
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
