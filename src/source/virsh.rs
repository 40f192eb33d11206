//! libvirt, asked through `virsh`: which VMs run, and what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, ensure};
use indicatif::ProgressBar;
use roxmltree::Document;

use super::libvirt;
use crate::process;
use crate::report;
use crate::vm::{Vm, VmName};

/// One argument of a program holds at most 128 KiB (`MAX_ARG_STRLEN`), which is 4,500 names like
/// `one-1234`: a virsh call asks for as many domains as fit.
const SCRIPT_LIMIT: usize = 127 << 10;

/// How much longer a virsh may take for each domain that it is asked for.
const TIME_FOR_EACH: Duration = Duration::from_millis(20);

/// How often it is asked again for domains that it listed as running but did not describe.
const ATTEMPTS: u32 = 5;

/// The VMs of these names, from the libvirt at `uri`: one virsh process for all.
///
/// # Errors
/// If virsh fails or one of the VMs is unknown.
pub fn domains(uri: &str, names: &[VmName]) -> Result<Vec<Vm>> {
    let answer = ask(uri, names)?;
    // virsh goes on after a domain that it does not know, and its status is that of the last.
    if let Some(failure) = answer.failure {
        return Err(failure);
    }
    let described: Vec<_> = answer.vms.into_iter().map(|(_, vm)| vm).collect();
    for (vm, name) in described.iter().zip(names) {
        // virsh takes a number for an id, and a UUID, before it takes them for a name.
        ensure!(
            vm.name == *name,
            "{:?} is libvirt's number for the domain {:?}: give its name",
            name.as_str(),
            vm.name.as_str()
        );
    }
    Ok(described)
}

/// The VMs that run on the libvirt at `uri`: two virsh processes, however many there are; more only
/// where VMs end meanwhile.
///
/// # Errors
/// If virsh fails.
pub fn running(uri: &str) -> Result<Vec<Vm>> {
    let mut described = BTreeMap::new();
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        let names = names_of_running(uri)?;
        described.retain(|name, _| names.contains(name));
        let new: Vec<_> = names
            .into_iter()
            .filter(|name| !described.contains_key(name))
            .collect();
        if new.is_empty() {
            return Ok(described.into_values().collect());
        }
        let answer = ask(uri, &new)?;
        let running = answer.vms.into_iter().filter(|(is_running, _)| *is_running);
        described.extend(running.map(|(_, vm)| (vm.name.clone(), vm)));
        match answer.failure {
            None => return Ok(described.into_values().collect()),
            // One of them has ended, most likely: what does the list say now?
            left => failure = left,
        }
    }
    Err(failure.unwrap_or_else(|| anyhow!("virsh lists VMs that it cannot describe")))
}

fn names_of_running(uri: &str) -> Result<BTreeSet<VmName>> {
    let names = process::run("virsh", &["-q", "-c", uri, "list --name"], "")?.checked()?;
    let names = names.lines().filter(|name| !name.is_empty());
    names.map(str::parse).collect()
}

/// What virsh said about some domains.
#[derive(Default)]
struct Answer {
    /// Those that it described, and whether each is running.
    vms: Vec<(bool, Vm)>,
    /// What it said of one that it could not describe.
    failure: Option<Error>,
}

fn ask(uri: &str, names: &[VmName]) -> Result<Answer> {
    let progress = report::progress("reading domains from libvirt", names.len());
    let mut answer = Answer::default();
    let mut left = names;
    while !left.is_empty() {
        let mut script = String::new();
        let mut asked = 0;
        while let Some(name) = left.get(asked) {
            let call = format!("dumpxml --domain {}; ", quoted(name.as_str()));
            if asked > 0 && script.len() + call.len() > SCRIPT_LIMIT {
                break;
            }
            script += &call;
            asked += 1;
        }
        let (now, later) = left.split_at(asked);
        ask_for(uri, &script, now.len(), &progress, &mut answer)?;
        left = later;
    }
    progress.finish_and_clear();
    Ok(answer)
}

fn ask_for(
    uri: &str,
    script: &str,
    count: usize,
    progress: &ProgressBar,
    answer: &mut Answer,
) -> Result<()> {
    let mut domains = Domains::default();
    let output = process::run_patiently(
        "virsh",
        &["-q", "-c", uri, script],
        process::TIME_LIMIT + TIME_FOR_EACH * u32::try_from(count)?,
        &mut |text| progress.inc(domains.read(text)),
    )?;
    let vms = domains.end()?;
    if !output.success() || vms.len() != count {
        answer.failure = Some(output.failure());
    }
    answer.vms.extend(vms);
    Ok(())
}

/// Reads one domain after the other, so that no more than one's XML need be kept.
#[derive(Debug, Default)]
pub struct Domains {
    text: Vec<u8>,
    /// Up to where the text has been looked through.
    seen: usize,
    vms: Vec<Result<(bool, Vm)>>,
}

impl Domains {
    /// Takes more text; returns how many domains have come to their end in it.
    pub fn read(&mut self, text: &[u8]) -> u64 {
        const END: &[u8] = b"</domain>";
        self.text.extend(text);
        let before = self.vms.len();
        while let Some(end) = find(&self.text[self.seen..], END) {
            self.seen += end + END.len();
            let xml = std::str::from_utf8(&self.text[..self.seen]).unwrap_or_default();
            // Where this is no XML an element of somebody's metadata has the same name: the next
            // end is the domain's.
            if let Ok(document) = Document::parse(xml.trim_start()) {
                let domain = document.root_element();
                // Only a domain that is running has a number.
                let is_running = domain.has_attribute("id");
                self.vms
                    .push(libvirt::vm(domain).map(|vm| (is_running, vm)));
                self.text.drain(..self.seen);
                self.seen = 0;
            }
        }
        // The end may have been cut in two.
        let tail = self.text.len().saturating_sub(END.len());
        self.seen = self.seen.max(tail);
        (self.vms.len() - before) as u64
    }

    /// All of them, each with whether it is running.
    ///
    /// # Errors
    /// If one could not be read, or what is left is no domain's XML.
    pub fn end(self) -> Result<Vec<(bool, Vm)>> {
        let text = String::from_utf8_lossy(&self.text);
        let rest: String = text.trim().chars().take(60).collect();
        ensure!(
            rest.is_empty(),
            "virsh printed what is not domain XML: {rest:?}"
        );
        self.vms.into_iter().collect()
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A word that virsh's own parser of command strings reads as this text, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURE: &str = include_str!("../../tests/captures/virsh-9.0-dumpxml-one-1.xml");

    #[test]
    fn one_domain_after_the_other_is_read_however_the_text_is_cut() {
        let inner = "<metadata><a xmlns='x'><domain>\n</domain></a></metadata></domain>";
        let odd = CAPTURE.replace("</domain>", inner);
        let text = format!("{CAPTURE}\n{odd}\n\n<domain id='3'><name>c</name></domain>\n");
        for size in [1, 7, 100, 4096, text.len()] {
            let mut domains = Domains::default();
            let chunks = text.as_bytes().chunks(size);
            let count: u64 = chunks.map(|chunk| domains.read(chunk)).sum();
            let vms = domains.end().unwrap();
            let names: Vec<_> = vms.iter().map(|(_, vm)| vm.name.as_str()).collect();
            assert_eq!(
                (count, &*names),
                (3, &["one-1", "one-1", "c"][..]),
                "{size}"
            );
            assert_eq!(vms[1].1.nics.len(), 1);
        }
        for text in ["hello", "<domain>", "<domain id='1'></domain>", "</domain>"] {
            let mut domains = Domains::default();
            domains.read(text.as_bytes());
            assert!(domains.end().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_one_word_to_virsh() {
        assert_eq!(quoted("a b; drop"), "'a b; drop'");
        assert_eq!(quoted("we'ird"), r"'we'\''ird'");
    }
}
