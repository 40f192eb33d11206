//! Asks libvirt through `virsh` which VMs run, and for their descriptions.

mod domain;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};

pub use self::domain::{Domain, domains};
use super::last::Said;
use super::{Doubt, Hypervisor, Kind, Last, Running, is_uuid};
use crate::process;
use crate::quote;
use crate::vm::{Vm, VmName};

/// The longest script for one virsh call, in bytes. An argument of a program holds at most 128 KiB
/// (`MAX_ARG_STRLEN`), which is 4,500 names like `one-1234`.
const SCRIPT_LIMIT: usize = 127 << 10;

/// How much longer a virsh call may take for each domain in it.
const TIME_FOR_EACH: Duration = Duration::from_millis(20);

/// How often to ask for domains that virsh listed as running but did not describe.
const ATTEMPTS: u32 = 4;

/// The libvirt at a URI.
pub(super) struct Virsh {
    uri: String,
}

impl Virsh {
    pub(super) fn at(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
        }
    }
}

impl Hypervisor for Virsh {
    fn is_there(&self) -> bool {
        process::find("virsh").is_ok()
    }

    /// libvirt can run LXC's containers as well.
    fn runs(&self, kind: Kind) -> bool {
        kind != Kind::Xen
    }

    /// Runs two virsh processes for any number of VMs. It runs more only if VMs end meanwhile, if
    /// libvirt does not answer about one, or if virsh would misread a name.
    fn running(&self) -> Result<Running> {
        update(&self.uri, &mut Said::default(), &Doubt::default())
    }

    fn update(&self, last: &mut Last, doubt: &Doubt, _: &Running) -> Result<Running> {
        update(&self.uri, last.of(&self.uri), doubt)
    }

    /// Runs one virsh process for all.
    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>> {
        let mut answer = match ask(&self.uri, names.iter().map(VmName::as_str)) {
            Ok(answer) => answer,
            Err(e) => Answer {
                failure: Some(e),
                ..Answer::default()
            },
        };
        let taken: Vec<_> = names.iter().map(|name| answer.take(name)).collect();
        let named = names.iter().zip(taken);
        named
            .map(|(name, vm)| vm.unwrap_or_else(|| by_uuid(&self.uri, name, &answer)))
            .collect()
    }
}

/// Finds a VM by its UUID after virsh did not describe it by its name. `answer` has the domains
/// that virsh described instead.
fn by_uuid(uri: &str, name: &VmName, answer: &Answer) -> Result<Vm> {
    // virsh reads a number as an id, and a UUID as a UUID, before it reads them as names. Then it
    // has described another domain.
    if let Some(failure) = &answer.failure
        && (answer.domains.is_empty() || !is_read_otherwise(name.as_str()))
    {
        return Err(anyhow!("{failure:#}"));
    }
    let answer = ask(uri, listed(uri, "--uuid")?.iter().map(String::as_str))?;
    let vms = answer
        .domains
        .into_iter()
        .filter_map(|domain| domain.vm.ok());
    let mut same = vms.filter(|vm| vm.name == *name);
    same.next().with_context(|| {
        format!(
            "libvirt describes another domain for {:?}, and none of this name runs",
            name.as_str()
        )
    })
}

fn update(uri: &str, said: &mut Said, doubt: &Doubt) -> Result<Running> {
    let mut described = BTreeMap::new();
    let mut failed = BTreeMap::new();
    for attempt in 1..=ATTEMPTS {
        let ids = running_ids(uri, &mut said.by_uuid)?;
        if attempt == 1 {
            let holds = doubt.holds(mem::take(&mut said.vms), &ids);
            described.extend(holds.into_iter().map(|(id, vm)| (id, Ok(vm))));
        }
        described.retain(|id, _| ids.contains(id));
        failed.retain(|id, _| ids.contains(id));
        let new: Vec<_> = ids
            .iter()
            .filter(|id| !described.contains_key(*id) && !failed.contains_key(*id))
            .collect();
        if new.is_empty() {
            break;
        }
        let mut answer = ask(uri, new.iter().map(|id| id.as_str()))?;
        let running = answer
            .domains
            .into_iter()
            .filter(|domain| domain.is_running);
        described.extend(running.filter_map(|domain| {
            let id = [&domain.name, &domain.uuid]
                .into_iter()
                .find(|id| ids.contains(*id))?
                .clone();
            Some((id, domain.vm))
        }));
        let mut left = new
            .into_iter()
            .filter(|id| !described.contains_key(*id))
            .peekable();
        if left.peek().is_none() {
            break;
        }
        match (answer.hung, attempt) {
            // libvirt does not answer about a busy domain, and virsh did not ask for those after it.
            (true, 1..ATTEMPTS) => failed.extend(
                left.next()
                    .zip(answer.failure.take())
                    .map(|(id, e)| (id.clone(), e)),
            ),
            // Most likely one of them has ended: list them again.
            (false, 1..ATTEMPTS) => {}
            _ => failed.extend(left.map(|id| (id.clone(), anyhow!("virsh does not describe it")))),
        }
    }
    let mut running = Running::default();
    for (id, vm) in described {
        match vm {
            Ok(vm) => {
                said.vms.insert(id, vm.clone());
                running.vms.push(vm);
            }
            Err(e) => running.failed.push((id.parse()?, e)),
        }
    }
    for (id, e) in failed {
        running.failed.push((id.parse()?, e));
    }
    Ok(running)
}

/// Returns the ids to ask for: names, or UUIDs if virsh would misread a name. If it returned UUIDs
/// the last time, it lists UUIDs at once.
fn running_ids(uri: &str, by_uuid: &mut bool) -> Result<BTreeSet<String>> {
    if !*by_uuid {
        let names = listed(uri, "--name")?;
        if !names.iter().any(|name| is_read_otherwise(name)) {
            return Ok(names);
        }
        *by_uuid = true;
    }
    listed(uri, "--uuid")
}

/// Tells whether virsh would misread this name as an id or a UUID.
fn is_read_otherwise(name: &str) -> bool {
    name.parse::<i64>().is_ok() || is_uuid(name)
}

fn listed(uri: &str, by: &str) -> Result<BTreeSet<String>> {
    let list = format!("list {by}");
    let listed = process::run("virsh", &["-q", "-c", uri, &list], "")?.checked()?;
    let lines = listed
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// An answer of virsh about some domains.
#[derive(Default)]
struct Answer {
    /// The domains that it described.
    domains: Vec<Domain>,
    /// Its message about a domain that it could not describe.
    failure: Option<Error>,
    /// Whether it took too long and was stopped.
    hung: bool,
}

impl Answer {
    /// Removes and returns the VM with this name, if virsh described it.
    fn take(&mut self, name: &VmName) -> Option<Result<Vm>> {
        let mut names = self.domains.iter().map(|domain| domain.name.as_str());
        let index = names.position(|described| described == name.as_str())?;
        let domain = self.domains.swap_remove(index);
        if domain.is_running || domain.vm.is_err() {
            return Some(domain.vm);
        }
        // A user wrote its port names. They may be those of a running VM.
        Some(Err(anyhow!("the VM {:?} does not run", name.as_str())))
    }
}

fn ask<'a>(uri: &str, ids: impl Iterator<Item = &'a str>) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut calls = ids
        .map(|id| format!("dumpxml --domain {}; ", quoted(id)))
        .peekable();
    while calls.peek().is_some() && !answer.hung {
        let (mut script, mut asked) = (String::new(), 0);
        while let Some(call) =
            calls.next_if(|call| asked == 0 || script.len() + call.len() <= SCRIPT_LIMIT)
        {
            script += &call;
            asked += 1;
        }
        ask_for(uri, &script, asked, &mut answer)?;
    }
    Ok(answer)
}

fn ask_for(uri: &str, script: &str, count: usize, answer: &mut Answer) -> Result<()> {
    let limit = process::TIME_LIMIT + TIME_FOR_EACH * u32::try_from(count)?;
    match process::run_patiently("virsh", &["-q", "-c", uri, script], limit) {
        Ok(output) => {
            let (described, rest) = domains(&output.stdout);
            let rest = rest.trim();
            ensure!(
                rest.is_empty(),
                "virsh printed text that is not domain XML: {}",
                quote::quoted(rest)
            );
            // virsh goes on after a domain that it does not know, and exits with the status of the
            // last call.
            if !output.success() || described.len() != count {
                answer.failure = Some(output.failure());
            }
            answer.domains.extend(described);
        }
        // Its output up to then is valid.
        Err(unfinished) => {
            answer.domains.extend(domains(&unfinished.stdout).0);
            answer.failure = Some(unfinished.error);
            answer.hung = true;
        }
    }
    Ok(())
}

/// Quotes any text so that virsh's parser of command strings reads it as one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
