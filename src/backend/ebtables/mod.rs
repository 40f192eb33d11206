//! ebtables, legacy or on nf_tables, for hosts without nftables: the seed's two rules in `FORWARD`.
//!
//! ```text
//! -s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o one-42-0 -j DROP
//! -s ! 02:00:c0:a8:00:05 -i one-42-0 -j DROP
//! ```
//!
//! So the seed's own `ebtables-flush` cleans up after us, and we after the seed's `ebtables-kvm`.
//! A VM is not named in such a rule: whose it is, is known by its port. Rules of another shape are
//! somebody else's and are never touched. Where senders are trusted, a rule leads to a chain of
//! ours in place of `DROP`, which lets them return and drops all others.
//!
//! There are no transactions. Calls are ordered so that a VM is never less fenced in between than
//! before or after, and a run that failed half way is completed by the next.

mod plan;
mod rule;
pub mod ruleset;

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use self::plan::Call;
use self::rule::{Rule, TABLES};
use self::ruleset::Ruleset;
use super::{Backend, Enforced, Snapshot};
use crate::fence::{ActualFence, Fence, Keep};
use crate::lock;
use crate::process::{self, Output};
use crate::vm::Port;

/// The ebtables backend.
#[derive(Clone, Copy, Debug)]
pub struct Ebtables;

/// More calls than this are worth asking whether one process can do them all.
const FEW: usize = 4;

impl Backend for Ebtables {
    fn name(&self) -> &'static str {
        "ebtables"
    }

    fn table(&self) -> &'static str {
        "filter"
    }

    fn names_vms(&self) -> bool {
        false
    }

    fn query(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(list()?))
    }

    fn ports(&self) -> Result<Vec<Port>> {
        Ok(list()?.ports().into_iter().cloned().collect())
    }

    /// What a fence omits stays anyway: a rule names no VM. Whether frames reach the rules is for
    /// other people's rules before them to say, as it was with the seed's.
    fn enforce(&self, fences: &[Fence], _keep: &Keep) -> Result<Enforced> {
        let desired = desired(fences)?;
        if desired.is_empty() {
            return Ok(Enforced::default());
        }
        let changed = run(&plan::enforce(&list()?, &desired))?;
        Ok(Enforced {
            changed,
            new_ports: Vec::new(),
        })
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        if ports.is_empty() {
            return Ok(false);
        }
        run(&release(ports)?)
    }

    fn check(&self, fence: &Fence) -> Result<()> {
        desired(std::slice::from_ref(fence)).map(drop)
    }

    fn export(&self, fences: &[Fence]) -> Result<String> {
        Ok(lines(&plan::enforce(
            &Ruleset::default(),
            &desired(fences)?,
        )))
    }
}

impl Snapshot for Ruleset {
    fn fences(&self) -> Result<Vec<ActualFence>> {
        Ok(Self::fences(self))
    }

    /// Asks again: rules are deleted by number, and others may have changed the chains meanwhile.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced> {
        Ebtables.enforce(fences, keep)
    }
}

impl Ebtables {
    /// The lines of [`Backend::export`] that would delete the rules of these ports.
    ///
    /// # Errors
    /// If ebtables cannot list its rules.
    pub fn export_release(&self, ports: &[Port]) -> Result<String> {
        Ok(lines(&release(ports)?))
    }

    /// The rules that are not of our shapes, as listed.
    ///
    /// # Errors
    /// If ebtables cannot list its rules.
    pub fn others(&self) -> Result<Vec<String>> {
        Ok(list()?.others)
    }
}

fn release(ports: &[Port]) -> Result<Vec<Call>> {
    let ports: BTreeSet<_> = ports.iter().collect();
    Ok(plan::release(&list()?, |rule| ports.contains(rule.port())))
}

fn desired(fences: &[Fence]) -> Result<Vec<Rule>> {
    let guards = fences.iter().flat_map(|fence| &fence.guards);
    let rules: Vec<_> = guards.flat_map(Rule::of).collect();
    rules
        .iter()
        .try_for_each(|rule| rule::check_port(rule.shape.port()))?;
    Ok(rules)
}

fn lines(calls: &[Call]) -> String {
    let line = |call: &Call| format!("ebtables -t {} {}\n", call.table, call.words.join(" "));
    calls.iter().map(line).collect()
}

fn list() -> Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    for table in TABLES {
        // --Lmac2: legacy prints MACs without padding otherwise, which we read as well.
        ruleset.read(
            table,
            &ebtables(table, &["-L", "--Lc", "--Lmac2"])?.checked()?,
        )?;
    }
    Ok(ruleset)
}

/// Does all calls, or says which were done. Returns whether there were any.
fn run(calls: &[Call]) -> Result<bool> {
    let mut done = 0;
    for part in calls.chunk_by(|a, b| a.table == b.table) {
        // A restore that fails has changed nothing: one by one, the call that is wrong names itself.
        if part.len() <= FEW || !can_restore()? || !restore(part)?.success() {
            run_singly(part, done, calls.len())?;
        }
        done += part.len();
    }
    Ok(!calls.is_empty())
}

fn run_singly(part: &[Call], before: usize, all: usize) -> Result<()> {
    for (done, call) in part.iter().enumerate() {
        let words: Vec<_> = call.words.iter().map(String::as_str).collect();
        let explain = || {
            format!(
                "{} of {all} changes are left to do; run the command again; \
                 ebtables -t {} {} failed",
                all - before - done,
                call.table,
                call.words.join(" ")
            )
        };
        ebtables(call.table, &words)
            .and_then(Output::checked)
            .with_context(explain)?;
    }
    Ok(())
}

fn ebtables(table: &str, words: &[&str]) -> Result<Output> {
    // --concurrent: legacy takes no lock against other programs otherwise.
    process::run_as_root(
        "ebtables",
        &[&["--concurrent", "-t", table], words].concat(),
        "",
    )
}

/// Whether ebtables-restore knows `--noflush`. Before 2.0.11 it does not and would silently empty
/// the whole table.
fn can_restore() -> Result<bool> {
    if process::find("ebtables-restore").is_err() {
        return Ok(false);
    }
    let said = process::run("ebtables", &["--version"], "")?.stdout;
    let Some(version) = said.split_whitespace().nth(1) else {
        return Ok(false);
    };
    let numbers = version
        .trim_start_matches('v')
        .split(['.', '-'])
        .map(str::parse::<u32>);
    let numbers = numbers.collect::<Result<Vec<_>, _>>().unwrap_or_default();
    Ok(said.contains("(nf_tables)") || numbers >= vec![2, 0, 11])
}

fn restore(calls: &[Call]) -> Result<Output> {
    let mut input = String::new();
    for call in calls {
        if input.is_empty() {
            input = format!("*{}\n", call.table);
        }
        input += &match call.words.as_slice() {
            // In this format a chain is made by its policy.
            [new, name, _, policy] if new == "-N" => format!(":{name} {policy}\n"),
            words => words.join(" ") + "\n",
        };
    }
    let _lock = lock::legacy_ebtables()?;
    process::run_as_root("ebtables-restore", &["--noflush"], &input)
}
