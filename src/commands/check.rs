//! `macfence check`: does the kernel hold what it should.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Serialize;

use super::shared::{note_limits, print, survey};
use crate::backend;
use crate::bridge::{self, Weakness};
use crate::compare::{Finding, State};
use crate::config::Config;
use crate::exit::Exit;
use crate::memory::Memory;
use crate::report;
use crate::source::Hypervisors;
use crate::vm::{Port, VmName};

#[derive(Serialize)]
struct Row<'a> {
    vm: Option<&'a str>,
    state: State,
    detail: String,
}

/// Runs it.
pub fn run(config: &Config, json: bool) -> Result<Exit> {
    // First the VMs, then the kernel: one that ends or starts meanwhile has been dealt with.
    let running = Hypervisors::ask(&config.connect)?.running()?;
    let backend = backend::choose(config.backend);
    let actual = backend.query()?.fences()?;
    let memory = Memory::read(&actual)?;
    let (survey, trouble) = survey(config, &*backend, &memory, running, &actual)?;
    trouble.iter().for_each(|trouble| report::warning(trouble));
    let bridges = bridges(config, &survey.ports)?;
    note_limits(config, &*backend);
    let found = survey.findings.iter().chain(&survey.failed).chain(&bridges);
    if json {
        let rows: Vec<_> = found.map(row).collect();
        print(&(serde_json::to_string(&rows).context("JSON")? + "\n"))?;
    } else {
        let wrong = found.filter(|found| found.state != State::Ok);
        let unowned = survey.unowned.iter();
        let unowned = unowned.map(|found| format!("unowned {found}\n"));
        print(&wrong.map(line).chain(unowned).collect::<String>())?;
    }
    Ok(
        if survey.is_well() && survey.failed.is_empty() && bridges.is_empty() {
            Exit::Done
        } else {
            Exit::Different
        },
    )
}

/// What the settings of bridges leave open.
fn bridges(config: &Config, ports: &BTreeSet<Port>) -> Result<Vec<Finding>> {
    if !config.harden_bridges {
        return Ok(Vec::new());
    }
    let found = bridge::weaknesses(ports)?;
    for open in found.unsupported {
        report::warning(&open.to_string());
    }
    let finding = |weakness: Weakness| Finding {
        vm: None,
        state: State::Differs,
        detail: vec![weakness.to_string()],
    };
    Ok(found.weaknesses.into_iter().map(finding).collect())
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
