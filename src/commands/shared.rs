//! What several subcommands share: the VMs that are meant, and what is said to people.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context, Result, ensure};

use crate::backend::Backend;
use crate::backend::ebtables::Ebtables;
use crate::backend::nft::Nft;
use crate::bridge;
use crate::cli::Vms;
use crate::config::Config;
use crate::fence::ActualFence;
use crate::memory::Memory;
use crate::policy::Policy;
use crate::report;
use crate::source::{Hypervisors, Running, libvirt};
use crate::survey::{self, Extent, Survey};
use crate::vm::{self, Nic, Port, Vm, VmName};

/// The VMs that the command line names or describes; and where it names any, what keeps others from
/// asking before this has been enforced.
pub fn described(config: &Config, asked: &Vms) -> Result<(Vec<Vm>, Option<Hypervisors>)> {
    let mut vms = Vec::new();
    ensure!(
        asked.xml.iter().filter(|file| is_stdin(file)).count() <= 1,
        "standard input can be read only once"
    );
    for file in &asked.xml {
        let read = read(file, libvirt::XML_LIMIT).and_then(|xml| libvirt::domain(&xml));
        vms.push(read.with_context(|| name_of(file))?);
    }
    let mut names = asked.vms.clone();
    names.sort();
    names.dedup();
    let mut hypervisors = None;
    if !names.is_empty() {
        let asked = hypervisors.insert(Hypervisors::ask(&config.connect)?);
        vms.extend(asked.named(&names)?);
    }
    vm::check_distinct(&vms)?;
    vms.iter().for_each(warn_of_skipped);
    Ok((vms, hypervisors))
}

pub fn warn_of_skipped(vm: &Vm) {
    for why in &vm.skipped {
        report::warning(&format!(
            "VM {:?}: {why}; it is not fenced",
            vm.name.as_str()
        ));
    }
}

/// Which running VM has which port and with what NIC, for firewalls whose rules name no VM.
pub fn owners(hypervisors: &Hypervisors) -> Result<BTreeMap<Port, (VmName, Nic)>> {
    let vms = hypervisors.running()?.vms;
    let owned = |vm: Vm| {
        vm.nics
            .into_iter()
            .map(move |nic| (nic.port.clone(), (vm.name.clone(), nic)))
    };
    Ok(vms.into_iter().flat_map(owned).collect())
}

/// Compares what these running VMs should have on this host with what the kernel holds. Also returns
/// what of the memory cannot be believed, a sentence for each VM.
pub fn survey(
    config: &Config,
    backend: &dyn Backend,
    memory: &Memory,
    mut running: Running,
    actual: &[ActualFence],
    extent: Extent,
) -> Result<(Survey, Vec<String>)> {
    let unknown = memory.recall(&mut running.vms);
    let host = survey::Host {
        place_of: &bridge::place,
        can_hold: &|fence| backend.check(fence),
        unknown: &unknown.ports,
    };
    let mut vms = ports(&running.vms);
    let fenced = actual.iter().flat_map(|fence| &fence.guards);
    vms.extend(fenced.map(|guard| &guard.port));
    let policy = policy(config, &vms);
    drop(vms);
    let survey = Survey::of(&policy, running, actual, &host, extent)?;
    Ok((survey, unknown.why))
}

/// Likewise for who only reads: what of the memory cannot be believed is said.
pub fn survey_read_only(
    config: &Config,
    backend: &dyn Backend,
    running: Running,
    actual: &[ActualFence],
) -> Result<Survey> {
    let memory = Memory::read(actual)?;
    let extent = Extent::Ports;
    let (survey, trouble) = survey(config, backend, &memory, running, actual, extent)?;
    trouble.iter().for_each(|trouble| report::warning(trouble));
    Ok(survey)
}

/// The ports of these VMs.
pub fn ports(vms: &[Vm]) -> BTreeSet<&Port> {
    let nics = vms.iter().flat_map(|vm| &vm.nics);
    nics.map(|nic| &nic.port).collect()
}

/// The policy on this host as it is now, where these ports are VMs'.
pub fn policy(config: &Config, vms: &BTreeSet<&Port>) -> Policy {
    let proxies = if config.policy.hears_proxies() {
        bridge::proxies()
    } else {
        Ok(BTreeMap::new())
    };
    let proxies = proxies.unwrap_or_else(|e| {
        report::warning(&format!(
            "{e:#}; OpenNebula's transparent proxy is not heard"
        ));
        BTreeMap::new()
    });
    for port in config.policy.trusted_ports().intersection(vms) {
        report::warning(&format!(
            "port \"{port}\" is in trusted-ports, but it is a VM's: it is not trusted"
        ));
    }
    let policy = config.policy.on_host(proxies, |port| vms.contains(port));
    for (bridge, port) in &policy.proxies {
        note(config, || {
            format!(
                "port \"{port}\" is OpenNebula's transparent proxy: VMs on bridge {bridge:?} may hear it"
            )
        });
    }
    policy
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn name_of(file: &Path) -> String {
    if is_stdin(file) {
        return "standard input".to_owned();
    }
    file.display().to_string()
}

/// Reads a file or standard input, and no more of it than it takes to know that it is longer than
/// `limit` bytes.
pub fn read(file: &Path, limit: usize) -> Result<String> {
    let mut source: Box<dyn Read> = if is_stdin(file) {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).context("cannot open")?)
    };
    let mut text = String::new();
    source
        .by_ref()
        .take(limit as u64 + 1)
        .read_to_string(&mut text)
        .context("cannot read")?;
    Ok(text)
}

/// A bridge that is misspelt would leave its VMs open without a word.
pub fn warn_of_unknown_bridges(config: &Config) {
    let unknown = unknown_bridges(config);
    warn_of(unknown.union(&unknown_bridges_of_networks(config)));
}

/// Warns of the bridges of networks only.
pub fn warn_of_networks_unknown_bridges(config: &Config) {
    let unknown = unknown_bridges(config);
    warn_of(unknown_bridges_of_networks(config).difference(&unknown));
}

fn warn_of<'a>(bridges: impl Iterator<Item = &'a &'a str>) {
    for bridge in bridges {
        report::warning(&format!("there is no bridge {bridge:?} on this host"));
    }
}

/// The bridges that macfence is to act on and that this host has not. Sections for networks may be
/// meant for other hosts: their bridges are not among these.
pub fn unknown_bridges(config: &Config) -> BTreeSet<&str> {
    unknown(config.policy.bridges.iter())
}

fn unknown_bridges_of_networks(config: &Config) -> BTreeSet<&str> {
    let networks = config.policy.networks.iter();
    unknown(networks.filter_map(|network| network.selector.bridge.as_ref()))
}

fn unknown<'a>(bridges: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let bridges = bridges.map(String::as_str);
    bridges.filter(|bridge| !bridge::exists(bridge)).collect()
}

/// On a host that was upgraded, fences of both kinds may be in force.
pub fn warn_of_the_other_kind(config: &Config, used: &str) {
    let (other, ports) = if used == "nft" {
        ("ebtables", Ebtables.ports())
    } else {
        ("nft", Nft.ports())
    };
    match ports {
        Ok(ports) if ports.is_empty() => {}
        Ok(ports) => report::warning(&format!(
            "{other} fences {} ports as well: macfence migrate makes nft's fences of ebtables rules",
            ports.len()
        )),
        // Most often it is not installed, or not for this user.
        Err(e) => note(config, || {
            format!("whether {other} fences anything is not known: {e:#}")
        }),
    }
}

pub fn note(config: &Config, text: impl FnOnce() -> String) {
    if config.verbose {
        report::note(&text());
    }
}

/// Says what this firewall leaves open, if asked to say more.
pub fn note_limits(config: &Config, backend: &dyn Backend) {
    for limit in backend.limits() {
        note(config, || (*limit).to_owned());
    }
}

/// Whether standard output shows colours, and nobody minds (<https://no-color.org>).
pub fn is_coloured() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Prints to standard output.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        // Whoever reads us has seen enough.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
