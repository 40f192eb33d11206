//! ebtables, legacy or on nf_tables, for hosts without nftables.
//!
//! ```text
//! -t nat    -A PREROUTING -s ! 02:00:c0:a8:00:05 -i one-42-0 -j DROP
//! -t nat    -A PREROUTING -d 01:00:00:00:00:00/01:00:00:00:00:00 -i one-42-0 -j macfence-1f…
//! -t filter -A INPUT      -d 01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0 -i one-42-0 -j DROP
//! -t filter -A FORWARD    -s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o one-42-0 -j macfence-2e…
//! ```
//!
//! All ports share the chains `macfence-…`. The first drops control frames and multicast queries. The
//! second lets multicast queries and trusted senders pass and drops the rest. If senders or ports are
//! trusted, a fifth rule drops what they send to other stations. If a VM's IP addresses are guarded,
//! `-i one-42-0` leads to a chain of the port's own: see `address_guard`. If a VM has further MAC
//! addresses, the first and the fifth rule lead to chains that let them pass.
//!
//! The seed and version 0.1 wrote two rules, the first and the last of these, both to `FORWARD` and
//! with `DROP`. Such a pair is completed in place, and its counters are kept. The seed's own
//! `ebtables-flush` also cleans up our rules in `FORWARD`.
//!
//! Rules do not name VMs; the port tells whose a rule is. Rules of other shapes belong to others and
//! are never touched.
//!
//! ebtables has no transactions. The order of calls keeps a VM at every moment at least as fenced as
//! before or after. The next run completes one that failed half way.

mod address_guard;
mod chain;
pub mod fences;
mod listed;
mod plan;
mod rule;
pub mod ruleset;
mod shape;
mod spelling;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use self::address_guard::AddressGuard;
use self::chain::Igmp;
use self::plan::Call;
use self::rule::Rule;
use self::ruleset::Ruleset;
use self::shape::TABLES;
use super::{Backend, Enforced, Snapshot};
use crate::fence::{ActualFence, Fence, Hears, Keep};
use crate::lock;
use crate::process::{self, Output};
use crate::vm::Port;

/// The ebtables backend.
#[derive(Clone, Copy, Debug)]
pub struct Ebtables;

/// With more calls than this, it is worth checking whether one process can make them all.
const FEW: usize = 4;

const LIMITS: [&str; 8] = [
    "ebtables cannot look inside an 802.1Q tag. It does not drop a VM's multicast queries with a \
     tag, even with VLAN ID 0, and a snooping bridge believes them. Multicast queries of others \
     with a tag do not reach VMs of other networks.",
    "ebtables before 2.0.11 cannot read the type of IGMP packets. It treats every IGMP packet to \
     224.0.0.1 as a query, and no other. So a VM can send queries about single groups.",
    "The count of foreign frames also includes frames that pass: those of trusted senders, those \
     from trusted ports, and multicast queries.",
    "A rule of another program lets a frame pass if it accepts the frame before our rules in nat \
     PREROUTING, filter INPUT or filter FORWARD.",
    "ebtables cannot read the target of an IPv6 neighbour advertisement. A VM with an address guard \
     can claim another VM's IPv6 address in one. In duplicate address detection it can claim only \
     addresses that end in the same 24 bits as its own.",
    "ebtables lets the first fragment of a DHCP request without a source address pass like a whole \
     one, and does not check the version of an IP packet.",
    "If a VM may not be a DHCP server or router but may use any IP address, ebtables drops all its \
     frames with VLAN ID 0 or a provider's tag, and does not look inside those of a VLAN.",
    "ebtables does not note drops for \"macfence drops\", and does not log them.",
];

impl Backend for Ebtables {
    fn name(&self) -> &'static str {
        "ebtables"
    }

    fn tables(&self) -> &'static [&'static str] {
        &TABLES
    }

    fn limits(&self) -> &'static [&'static str] {
        &LIMITS
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

    /// Rules of ports that a fence omits stay in any case, because rules name no VM. Other people's
    /// rules in front of ours decide whether frames reach ours, as with the seed's rules.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced> {
        if fences.iter().all(|fence| fence.guards.is_empty()) {
            return Ok(Enforced::default());
        }
        let actual = list()?;
        if keep.others_ports {
            fences::leave_others_ports(&fences::of(&actual), fences)?;
        }
        let desired = desired(fences, actual.igmp)?;
        let changed = run(&plan::enforce(&actual, &desired))?;
        Ok(Enforced {
            changed,
            new_ports: plan::new_ports(&actual, &desired),
        })
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        if ports.is_empty() {
            return Ok(false);
        }
        run(&release(ports)?)
    }

    fn check(&self, fence: &Fence) -> Result<()> {
        check(std::slice::from_ref(fence))
    }

    fn export(&self, fences: &[Fence]) -> Result<String> {
        let nothing = Ruleset::default();
        let desired = desired(fences, nothing.igmp)?;
        Ok(lines(&plan::enforce(&nothing, &desired)))
    }
}

impl Snapshot for Ruleset {
    fn fences(&self) -> Result<Vec<ActualFence>> {
        Ok(fences::of(self))
    }

    /// Lists the rules again: they are deleted by number, and others may have changed the chains
    /// meanwhile.
    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced> {
        Ebtables.enforce(fences, keep)
    }
}

impl Ebtables {
    /// Returns lines like those of [`Backend::export`] that would delete the rules of these ports.
    ///
    /// # Errors
    /// If ebtables cannot list its rules.
    pub fn export_release(&self, ports: &[Port]) -> Result<String> {
        Ok(lines(&release(ports)?))
    }

    /// The rules of `FORWARD` that are not of our shapes, as listed.
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

fn desired(fences: &[Fence], igmp: Igmp) -> Result<Vec<Rule>> {
    check(fences)?;
    let guards = fences.iter().flat_map(|fence| &fence.guards);
    Ok(guards.flat_map(|guard| Rule::of(guard, igmp)).collect())
}

fn check(fences: &[Fence]) -> Result<()> {
    for guard in fences.iter().flat_map(|fence| &fence.guards) {
        shape::check_port(&guard.port)?;
        if let Hears::Network { trusted_ports, .. } = &guard.hears {
            trusted_ports.iter().try_for_each(shape::check_port)?;
        }
        if let Some(checks) = AddressGuard::of(guard) {
            checks.check()?;
        }
    }
    Ok(())
}

fn lines(calls: &[Call]) -> String {
    let line = |call: &Call| format!("ebtables -t {} {}\n", call.table, call.words.join(" "));
    calls.iter().map(line).collect()
}

fn list() -> Result<Ruleset> {
    let igmp = if is_current()? {
        Igmp::ByType
    } else {
        Igmp::ByReceiver
    };
    let mut ruleset = Ruleset::new(igmp);
    for table in TABLES {
        // --Lmac2: without it, legacy prints MACs without padding, which we can read as well.
        ruleset.read(
            table,
            &ebtables(table, &["-L", "--Lc", "--Lmac2"])?.checked()?,
        )?;
    }
    Ok(ruleset)
}

/// Makes all calls, or fails and says how many are left. Returns whether there were any.
fn run(calls: &[Call]) -> Result<bool> {
    let mut done = 0;
    for part in calls.chunk_by(|a, b| a.table == b.table) {
        // A restore that fails has changed nothing. Then make the calls one by one, so that the error
        // names the wrong one.
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
                "{} of {all} changes are not made yet, so run the command again; \
                 the call \"-t {} {}\" failed",
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
    // --concurrent: without it, legacy does not lock out other programs.
    process::run(
        "ebtables",
        &[&["--concurrent", "-t", table], words].concat(),
        "",
    )
}

/// Tells whether ebtables-restore can be used. Before 2.0.11 it does not know `--noflush` and would
/// silently empty the whole table.
fn can_restore() -> Result<bool> {
    Ok(process::find("ebtables-restore").is_ok() && is_current()?)
}

/// Tells whether this is ebtables 2.0.11 or later, or the nft variant. Asks the program.
fn is_current() -> Result<bool> {
    // Ask only once: the program does not change while we run.
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return Ok(*answer);
    }
    let said = process::run("ebtables", &["--version"], "")?.stdout;
    Ok(*ANSWER.get_or_init(|| names_current_version(&said)))
}

/// Reads `ebtables v2.0.11 (legacy) (December 2011)`.
fn names_current_version(said: &str) -> bool {
    let version = said.split_whitespace().nth(1).unwrap_or_default();
    let numbers = version
        .trim_start_matches('v')
        .split(['.', '-'])
        .map(str::parse::<u32>);
    let numbers = numbers.collect::<Result<Vec<_>, _>>().unwrap_or_default();
    said.contains("(nf_tables)") || numbers >= vec![2, 0, 11]
}

fn restore(calls: &[Call]) -> Result<Output> {
    let mut input = String::new();
    for call in calls {
        if input.is_empty() {
            input = format!("*{}\n", call.table);
        }
        input += &match call.words.as_slice() {
            // In this format, a line with the policy creates a chain.
            [new, name, _, policy] if new == "-N" => format!(":{name} {policy}\n"),
            words => words.join(" ") + "\n",
        };
    }
    let _lock = lock::legacy_ebtables()?;
    process::run("ebtables-restore", &["--noflush"], &input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_told_by_its_own_word() {
        for (said, current) in [
            ("ebtables v2.0.11 (legacy) (December 2011)", true),
            ("ebtables v2.0.12 (legacy)", true),
            ("ebtables 1.8.9 (nf_tables)", true),
            ("ebtables v2.0.10-4 (December 2011)", false),
            ("ebtables v2.0.10.4 (legacy) (December 2011)", false),
            ("ebtables", false),
            ("", false),
        ] {
            assert_eq!(names_current_version(said), current, "{said}");
        }
    }
}
