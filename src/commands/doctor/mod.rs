//! `macfence doctor`: checks whether this host is set up so that fences work and VMs are fenced
//! automatically. Changes nothing.
//!
//! Each topic has a file here. One part of it looks at the host; another, which is pure, judges the
//! facts. A topic that cannot be checked is reported, and the others go on.

mod finding;
mod firewall;
mod hook;
mod networks;
mod opennebula;
mod routers;
mod service;
mod vms;

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use self::finding::{Finding, Level};
use super::shared::{is_coloured, print};
use crate::backend;
use crate::cli::Global;
use crate::config::Config;
use crate::exit::Exit;
use crate::source::Hypervisors;

/// Runs it.
///
/// # Errors
/// If nothing can be printed.
pub fn run(flags: Global, json: bool) -> Result<Exit> {
    let findings = findings(flags)?;
    let text = if json {
        serde_json::to_string(&findings).context("JSON")? + "\n"
    } else {
        finding::table(&findings, is_coloured())
    };
    print(&text)?;
    Ok(exit(&findings))
}

/// A fault counts more than an unknown.
fn exit(findings: &[Finding]) -> Exit {
    let has = |level| findings.iter().any(|found| found.level == level);
    if has(Level::Fail) || has(Level::Warn) {
        Exit::Different
    } else if has(Level::Unknown) {
        Exit::Unknown
    } else {
        Exit::Done
    }
}

/// The topics that follow from the configuration.
const CONFIGURED: [&str; 4] = ["bridges", "trusted", "fences", "hardening"];

fn findings(flags: Global) -> Result<Vec<Finding>> {
    let mut all = Vec::new();
    let (config, is_right) = configured(flags, &mut all)?;
    all.extend(firewall::look(config.backend));
    // This must come before the lock is taken, which creates the directory.
    let directory = service::look_at_locks();
    let running = Hypervisors::ask(&config.connect).and_then(|hypervisors| hypervisors.running());
    all.push(match vms::hypervisor(&running) {
        // The file may name another hypervisor.
        failed if !is_right && running.is_err() => unchecked(failed.topic),
        found => found,
    });
    let (found, has_hook) = hook::look(is_right.then_some(&config.connect));
    all.extend(found);
    let (found, has_driver) = opennebula::look();
    all.extend(found);
    let found = service::look(has_hook || has_driver);
    if found.iter().any(|found| found.text == service::NOTHING) {
        hook::propose(&mut all);
    }
    all.extend(found);
    all.extend(directory);
    if !is_right {
        all.extend(CONFIGURED.map(unchecked));
        return Ok(all);
    }
    all.extend(networks::look(&config.policy));
    if let Ok(running) = &running {
        all.extend(routers::look(&config.policy, &running.vms));
    }
    let backend = backend::choose(config.backend);
    all.extend(vms::look(&config, &*backend, running.ok()));
    Ok(all)
}

/// The finding for what follows from a configuration that is wrong.
fn unchecked(topic: &'static str) -> Finding {
    Finding::unknown(
        topic,
        &anyhow!("cannot be checked: the configuration is wrong"),
    )
}

/// Reads the configuration. If the file has a mistake, returns the defaults and false.
fn configured(flags: Global, all: &mut Vec<Finding>) -> Result<(Config, bool)> {
    let file = flags.config.clone();
    match Config::new(flags.clone()) {
        Ok(config) => {
            all.push(networks::file(file.as_deref()));
            Ok((config, true))
        }
        Err(e) => {
            let found = Finding::fail("configuration", format!("{e:#}"));
            all.push(found.fix("correct the file; until then no command works"));
            let config = Config::new(Global {
                config: Some(PathBuf::from("/dev/null")),
                ..flags
            })?;
            Ok((config, false))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_findings_from_what_could_not_be_looked_at() {
        let (ok, absent) = (Finding::ok("a", "x"), Finding::absent("a", "x"));
        let (warn, fail) = (Finding::warn("a", "x"), Finding::fail("a", "x"));
        let unknown = Finding::unknown("a", &anyhow::anyhow!("x"));
        assert_eq!(exit(&[ok.clone(), absent]), Exit::Done);
        assert_eq!(exit(&[ok.clone(), unknown.clone()]), Exit::Unknown);
        for wrong in [warn, fail] {
            assert_eq!(exit(&[ok.clone(), unknown.clone(), wrong]), Exit::Different);
        }
    }
}
