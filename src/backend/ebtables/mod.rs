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

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use anyhow::{Context, Result};

use self::plan::Call;
use self::ruleset::Ruleset;
use super::{Backend, Held, HeldFence};
use crate::fence::{Fence, Keep, Rule};
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

    fn look(&self) -> Result<Box<dyn Held>> {
        Ok(Box::new(list()?))
    }

    fn ports(&self) -> Result<Vec<Port>> {
        let mut ports: Vec<_> = list()?
            .rules
            .iter()
            .map(|rule| rule.port().clone())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }

    /// What a fence does not speak of stays anyway: a rule names no VM.
    fn enforce(&self, fences: &[Fence], _keep: &Keep) -> Result<bool> {
        let wanted = wanted(fences)?;
        match wanted.is_empty() {
            true => Ok(false),
            false => run(plan::enforce(&list()?, &wanted)),
        }
    }

    fn mend(&self, _fences: &[Fence], _keep: &Keep) -> Result<bool> {
        // What other people's rules let pass before ours is theirs to say, as it was the seed's.
        Ok(false)
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        match ports.is_empty() {
            true => Ok(false),
            false => run(release(ports)?),
        }
    }

    fn check(&self, fence: &Fence) -> Result<()> {
        wanted(slice::from_ref(fence)).map(drop)
    }

    fn export(&self, fences: &[Fence]) -> Result<String> {
        Ok(lines(&plan::enforce(&Ruleset::default(), &wanted(fences)?)))
    }
}

impl Held for Ruleset {
    fn fences(&self) -> Result<Vec<HeldFence>> {
        let mut rules: BTreeMap<Port, Vec<_>> = BTreeMap::new();
        for held in &self.rules {
            if let Some(rule) = &held.rule {
                rules
                    .entry(rule.port().clone())
                    .or_default()
                    .push((rule.clone(), held.packets));
            }
        }
        let fence = |rules| HeldFence {
            vm: None,
            chain: "FORWARD".to_owned(),
            rules,
            defects: Vec::new(),
        };
        Ok(rules.into_values().map(fence).collect())
    }

    /// Looks again: rules are deleted by number, and others may have changed FORWARD meanwhile.
    fn settle(&self, fences: &[Fence], keep: &Keep) -> Result<bool> {
        Ebtables.enforce(fences, keep)
    }
}

impl Ebtables {
    /// The lines of [`Backend::export`] that would delete the rules of these ports.
    pub fn export_release(&self, ports: &[Port]) -> Result<String> {
        Ok(lines(&release(ports)?))
    }

    /// The rules in `FORWARD` that are not of the seed's shape, as listed.
    pub fn others(&self) -> Result<Vec<String>> {
        Ok(list()?.others)
    }
}

fn release(ports: &[Port]) -> Result<Vec<Call>> {
    let ports: BTreeSet<_> = ports.iter().collect();
    Ok(plan::release(&list()?, |rule| ports.contains(rule.port())))
}

fn wanted(fences: &[Fence]) -> Result<Vec<Rule>> {
    let mut rules: Vec<_> = fences
        .iter()
        .flat_map(|fence| fence.rules.clone())
        .collect();
    // What ebtables has no word for: there, every rule that is missing is taken to be lost.
    for rule in &mut rules {
        if let Rule::Spoofed { alone, .. } = rule {
            *alone = false;
        }
    }
    rules
        .iter()
        .try_for_each(|rule| rule::check_port(rule.port()))?;
    Ok(rules)
}

fn lines(calls: &[Call]) -> String {
    calls
        .iter()
        .map(|call| format!("ebtables -t filter {}\n", call.join(" ")))
        .collect()
}

fn list() -> Result<Ruleset> {
    // --Lmac2: legacy prints MACs without padding otherwise, which we read as well.
    Ruleset::read(&ebtables(&["-L", "--Lc", "--Lmac2"])?.checked()?)
}

/// Does all calls, or says which were done.
fn run(calls: Vec<Call>) -> Result<bool> {
    // A restore that fails has changed nothing: one by one, the call that is wrong names itself.
    if calls.len() > FEW && can_restore()? && restore(&calls)?.success() {
        return Ok(true);
    }
    for (done, call) in calls.iter().enumerate() {
        let words: Vec<_> = call.iter().map(String::as_str).collect();
        let done = || {
            let (all, left) = (calls.len(), calls.len() - done);
            format!(
                "{left} of {all} changes are left to do; run the command again; \
                 ebtables {} failed",
                call.join(" ")
            )
        };
        ebtables(&words)
            .and_then(Output::checked)
            .with_context(done)?;
    }
    Ok(!calls.is_empty())
}

fn ebtables(words: &[&str]) -> Result<Output> {
    // --concurrent: legacy takes no lock against other programs otherwise.
    process::run_as_root(
        "ebtables",
        &[&["--concurrent", "-t", "filter"], words].concat(),
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
    let mut input = "*filter\n".to_owned();
    for call in calls {
        input += &match call.as_slice() {
            // In this format a chain is made by its policy.
            [new, name, _, policy] if new == "-N" => format!(":{name} {policy}\n"),
            call => call.join(" ") + "\n",
        };
    }
    let _lock = lock::legacy_ebtables()?;
    process::run_as_root("ebtables-restore", &["--noflush"], &input)
}
