//! `macfence check`: tells whether the kernel holds the right fences.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::shared::{
    described, note_limits, ports, print, survey_read_only, unknown_bridges,
    warn_of_networks_unknown_bridges,
};
use crate::backend;
use crate::bridge::{self, Weakness};
use crate::cli::Vms;
use crate::compare::{Finding, State};
use crate::config::Config;
use crate::exit::Exit;
use crate::fence::ActualFence;
use crate::report;
use crate::source::{Hypervisors, Running};
use crate::vm::{Port, VmName};

#[derive(Serialize)]
struct Row<'a> {
    vm: Option<&'a str>,
    state: State,
    detail: String,
    /// `unowned`: no running VM is known to have some of the fenced ports. Else `null`.
    note: Option<&'static str>,
}

/// Runs it.
pub fn run(config: &Config, json: bool, xml: Vec<PathBuf>) -> Result<Exit> {
    // Ask for the VMs first, then the kernel: a VM that ends or starts meanwhile has been dealt with.
    let is_of_running = xml.is_empty();
    let (vms, only) = if is_of_running {
        (Hypervisors::ask(&config.connect)?.running()?, None)
    } else {
        let (vms, _) = described(config, &Vms { vms: vec![], xml })?;
        let names = vms.iter().map(|vm| vm.name.clone()).collect();
        let only = (names, ports(&vms).into_iter().cloned().collect());
        let failed = Vec::new();
        (Running { vms, failed }, Some(only))
    };
    let backend = backend::choose(config.backend);
    let mut actual = backend.query()?.fences()?;
    if let Some((vms, ports)) = only {
        actual.retain(|fence| is_of(fence, &vms, &ports));
    }
    let survey = survey_read_only(config, &*backend, vms, &actual)?;
    let bridges = bridges(config, &survey.ports)?;
    warn_of_networks_unknown_bridges(config);
    let unknown: Vec<_> = unknown_bridges(config).into_iter().map(no_bridge).collect();
    note_limits(config, &*backend);
    let found = survey.findings.iter().chain(&survey.failed).chain(&bridges);
    let found = found.chain(&unknown);
    if json {
        let rows: Vec<_> = found.map(|found| row(found, &survey.unowned)).collect();
        print(&(serde_json::to_string(&rows).context("JSON")? + "\n"))?;
    } else {
        let wrong = found.filter(|found| !found.state.is_well());
        let skipped = survey.skipped.iter();
        let unowned = survey.unowned.iter();
        let unowned = unowned.map(|found| format!("unowned {found}\n"));
        let lines = wrong.chain(skipped).map(line).chain(unowned);
        print(&lines.collect::<String>())?;
        // Not with --xml, because sync asks for the running VMs instead.
        if !survey.is_well() && is_of_running {
            report::note("run macfence sync to set this right");
        }
    }
    Ok(if !unknown.is_empty() {
        Exit::Unknown
    } else if survey.is_well() && survey.failed.is_empty() && bridges.is_empty() {
        Exit::Done
    } else {
        Exit::Different
    })
}

/// Tells whether a fence belongs to one of these VMs or ports.
fn is_of(fence: &ActualFence, vms: &BTreeSet<VmName>, ports: &BTreeSet<Port>) -> bool {
    match &fence.vm {
        Some(vm) => vms.contains(vm),
        None => fence.guards.iter().any(|guard| ports.contains(&guard.port)),
    }
}

/// The finding for a bridge that the configuration names and this host does not have. If the VMs'
/// bridge has another name, they are open.
fn no_bridge(name: &str) -> Finding {
    Finding {
        vm: None,
        state: State::Unknown,
        detail: vec![format!(
            "there is no bridge {name:?} on this host, which `bridges` or --bridge names"
        )],
    }
}

/// Finds what the settings of bridges leave open.
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

fn row<'a>(found: &'a Finding, unowned: &[Finding]) -> Row<'a> {
    let is_part = |unowned: &Finding| {
        let mut detail = unowned.detail.iter();
        unowned.vm == found.vm && detail.all(|detail| found.detail.contains(detail))
    };
    Row {
        note: unowned.iter().any(is_part).then_some("unowned"),
        vm: found.vm.as_ref().map(VmName::as_str),
        state: found.state,
        detail: found.detail.join("; "),
    }
}

/// Writes a finding in one line: `missing one-42: port "one-42-0"`.
fn line(found: &Finding) -> String {
    format!("{} {found}\n", found.state)
}
