//! Xen: what `xl`, or `xm` where there is no `xl`, tells about a domain, and what xenstore does of its
//! ports' names.
//!
//! `xl list -l` tells these as well, but lists nothing of a domain that is still being created, which is
//! when hooks ask (4.17, tried out).

mod store;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::limits::{self, DOMAINS, NICS, TABLE_TEXT};
use super::{Hypervisor, Kind, Running};
use crate::bridge;
use crate::process;
use crate::quote::quoted;
use crate::vm::{Nic, Vm, VmName};

pub use self::store::{Backend, Backends, Coming};

/// What Xen's library says where its hypervisor does not answer (`tools/libs/call/linux.c`).
const NOT_BOOTED: &str = "Could not obtain handle on privileged command interface";

/// What its tools print, in the words of error messages.
const TABLE: &str = "Xen's list";

/// Xen on this host.
pub(super) struct Xen;

impl Hypervisor for Xen {
    fn is_there(&self) -> bool {
        ["xl", "xm"].iter().any(|tool| process::find(tool).is_ok())
    }

    fn runs(&self, kind: Kind) -> bool {
        kind == Kind::Xen
    }

    /// All running domains but the host's own: two processes, and one for each.
    fn running(&self) -> Result<Running> {
        let mut running = Running::default();
        let listing = match ask(&["list"]) {
            // Its tools are installed, but Xen was not booted: it runs nothing.
            Err(e) if format!("{e:#}").contains(NOT_BOOTED) => return Ok(running),
            listing => listing?,
        };
        let mut listed = Vec::new();
        for (name, id) in domains(&listing)? {
            match ask(&["network-list", &id.to_string()]) {
                Ok(interfaces) => listed.push((name, id, interfaces)),
                Err(e) => running.failed.push((name, e)),
            }
        }
        // Once for all: what has been listed is in there.
        let backends = store::ask(None)?;
        for (name, id, interfaces) in listed {
            match vm(&name, id, &interfaces, &backends) {
                Ok(vm) => running.vms.push(vm),
                Err(e) => running.failed.push((name, e)),
            }
        }
        if !running.failed.is_empty() {
            // Those that have ended meanwhile are no failures.
            let left: BTreeSet<_> = domains(&ask(&["list"])?)?
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            running.failed.retain(|(name, _)| left.contains(name));
        }
        Ok(running)
    }

    /// The running domains of these names: three processes for each.
    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>> {
        let domain = |name| domid(name).and_then(|id| one(name, id));
        names.iter().map(domain).collect()
    }
}

/// The domain of this number, which need not run yet: its ports may be there already.
///
/// # Errors
/// If Xen cannot be asked, or has no such domain.
pub(super) fn numbered(id: u32) -> Result<Vm> {
    let domains = domains(&ask(&["list", &id.to_string()])?)?;
    let name = domains.into_iter().find(|(_, listed)| *listed == id);
    let (name, _) = name.with_context(|| format!("Xen lists no domain {id}"))?;
    one(&name, id)
}

/// The running domains that have an interface whose port is in a domain other than the host's own.
///
/// # Errors
/// If Xen cannot be asked.
pub fn with_driver_domains() -> Result<Vec<VmName>> {
    let mut names = Vec::new();
    let listing = match ask(&["list"]) {
        Err(e) if format!("{e:#}").contains(NOT_BOOTED) => return Ok(names),
        listing => listing?,
    };
    for (name, id) in domains(&listing)? {
        let listing = ask(&["network-list", &id.to_string()])?;
        let mut backends = listing.lines().map(|line| line.split_whitespace().nth(1));
        if backends.any(|backend| backend.is_some_and(is_other_domain)) {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_other_domain(word: &str) -> bool {
    word.parse::<u32>().is_ok_and(|domain| domain != 0)
}

/// The port that Xen's script is about to put on a bridge for this interface: see [`Backend::coming`].
///
/// # Errors
/// If xenstore cannot be asked, or does not tell.
pub(super) fn coming(id: u32, index: u32, ending: &str) -> Result<Coming> {
    let backends = store::ask(Some(id))?;
    backends.of(id, index)?.coming(ending, bridge::exists)
}

fn one(name: &VmName, id: u32) -> Result<Vm> {
    let interfaces = ask(&["network-list", &id.to_string()])?;
    vm(name, id, &interfaces, &store::ask(Some(id))?)
}

fn vm(name: &VmName, id: u32, listing: &str, backends: &Backends) -> Result<Vm> {
    let interfaces = interfaces(listing)?;
    if interfaces.is_empty() {
        // xl lists nothing, and does not fail, for a domain that has ended or was started anew.
        ensure!(
            domid(name).is_ok_and(|now| now == id),
            "the domain {:?} ended while Xen was asked about it",
            name.as_str()
        );
    }
    let mut vm = Vm {
        name: name.clone(),
        nics: Vec::new(),
        skipped: Vec::new(),
    };
    for interface in interfaces {
        let (index, mac) = match interface {
            Ok(interface) => interface,
            Err(why) => {
                vm.skipped.push(why);
                continue;
            }
        };
        let backend = backends.of(id, index)?;
        let port = backend.port(bridge::is_there, bridge::is_on_one)?;
        // What an HVM guest sends through until it has loaded its drivers; others have none.
        let is_on_one = |port: &_| bridge::of(port).map(|bridge| bridge.is_some());
        let emulated = backend.emulated(&port, is_on_one)?;
        for port in [Some(port), emulated].into_iter().flatten() {
            vm.nics.push(Nic::new(port, mac.parse()?, None)?);
        }
    }
    Ok(vm)
}

fn domid(name: &VmName) -> Result<u32> {
    ensure!(
        !name.as_str().starts_with('-'),
        "Xen's tools would take the name {:?} for a flag",
        name.as_str()
    );
    let said = ask(&["domid", name.as_str()])?;
    let said = said.trim();
    said.parse().with_context(|| {
        format!(
            "Xen's number for the domain {:?} is {}",
            name.as_str(),
            quoted(said)
        )
    })
}

/// Asks Xen, which answers root only.
fn ask(words: &[&str]) -> Result<String> {
    let tool = match process::find("xl") {
        Ok(_) => "xl",
        Err(_) => "xm",
    };
    process::run(tool, words, "")?.checked()
}

/// The domains of a `list`, but for the host's own. A name may hold anything, so that its columns
/// are counted from the right:
///
/// ```text
/// Name                                        ID   Mem VCPUs   State   Time(s)
/// one-7                                        7   128     1     -b----      12.4
/// ```
///
/// # Errors
/// If a line is none of such a table, or there are too many.
pub fn domains(listing: &str) -> Result<Vec<(VmName, u32)>> {
    limits::check_text(TABLE, listing, TABLE_TEXT)?;
    let mut domains = Vec::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        let unknown = || format!("Xen listed a domain as {}", quoted(line));
        let mut rest = line.trim_end();
        let mut last = "";
        for _ in 0..5 {
            let (before, word) = rest
                .rsplit_once(char::is_whitespace)
                .with_context(unknown)?;
            (rest, last) = (before.trim_end(), word);
        }
        if last == "ID" {
            continue;
        }
        let id = last.parse().with_context(unknown)?;
        if id != 0 {
            DOMAINS.check(TABLE, domains.len() + 1)?;
            domains.push((rest.trim_start().parse().with_context(unknown)?, id));
        }
    }
    Ok(domains)
}

/// An interface's index and MAC address, or why it has no port here.
pub type Interface<'a> = Result<(u32, &'a str), String>;

/// What a `network-list` lists. The columns of interest are the first three of both tools:
///
/// ```text
/// Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path
/// 0   0  02:00:c0:a8:00:05 0      4     14       768/769         /local/domain/0/backend/vif/1/0
/// ```
///
/// # Errors
/// If a line is none of such a table, or there are too many.
pub fn interfaces(listing: &str) -> Result<Vec<Interface<'_>>> {
    limits::check_text(TABLE, listing, TABLE_TEXT)?;
    let lines = listing.lines().filter(|line| !line.trim().is_empty());
    let unknown = |line| format!("Xen listed an interface as {}", quoted(line));
    (1..)
        .zip(lines.filter(|line| !line.starts_with("Idx")))
        .map(|(count, line)| {
            NICS.check(TABLE, count)?;
            interface(line).with_context(|| unknown(line))
        })
        .collect()
}

fn interface(line: &str) -> Option<Interface<'_>> {
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse::<u32>().ok();
    let (index, backend) = (number()?, number()?);
    Some(match (backend, words.next()?) {
        // xm's word for an address that it does not know.
        (0, "??") => Err(format!("interface {index} has no MAC address")),
        (0, mac) => Ok((index, mac)),
        (other, _) => Err(format!("interface {index} has its port in domain {other}")),
    })
}

#[cfg(test)]
mod tests;
