//! What several subcommands share: finding the VMs that are meant, and messages.

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

/// Returns the VMs that the command line names or describes. If it names any, also returns the lock
/// that keeps others from asking until the result is in the kernel.
pub fn described(config: &Config, asked: &Vms) -> Result<(Vec<Vm>, Option<Hypervisors>)> {
    let mut vms = Vec::new();
    ensure!(
        asked.xml.iter().filter(|file| is_stdin(file)).count() <= 1,
        "--xml - may be given only once, because standard input can be read only once"
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

/// Returns the VM and the NIC of each port, for firewalls whose rules name no VM.
pub fn owners(hypervisors: &Hypervisors) -> Result<BTreeMap<Port, (VmName, Nic)>> {
    let vms = hypervisors.running()?.vms;
    let owned = |vm: Vm| {
        vm.nics
            .into_iter()
            .map(move |nic| (nic.port.clone(), (vm.name.clone(), nic)))
    };
    Ok(vms.into_iter().flat_map(owned).collect())
}

/// Compares the fences that these running VMs should have on this host with those in the kernel. Also
/// returns what parts of the memory cannot be believed, a sentence for each VM.
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

/// Does the same for a command that changes nothing, and warns about the parts of the memory that
/// cannot be believed.
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

/// The policy on this host as it is now. The ports `vms` are VMs'.
pub fn policy(config: &Config, vms: &BTreeSet<&Port>) -> Policy {
    let proxies = if config.policy.hears_proxies() {
        bridge::proxies()
    } else {
        Ok(BTreeMap::new())
    };
    let proxies = proxies.unwrap_or_else(|e| {
        report::warning(&format!(
            "{e:#}; VMs do not hear OpenNebula's transparent proxy"
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

/// Reads a file or standard input, but stops after `limit` + 1 bytes: then the caller knows that it is
/// too long.
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

/// Warns of bridges that do not exist: a misspelt name would silently leave VMs open.
pub fn warn_of_unknown_bridges(config: &Config) {
    let unknown = unknown_bridges(config);
    warn_of(unknown.union(&unknown_bridges_of_networks(config)).copied());
}

/// Does so only for the bridges of networks.
pub fn warn_of_networks_unknown_bridges(config: &Config) {
    let unknown = unknown_bridges(config);
    warn_of(
        unknown_bridges_of_networks(config)
            .difference(&unknown)
            .copied(),
    );
}

/// Warns that this host has no such bridges.
pub fn warn_of<'a>(bridges: impl Iterator<Item = &'a str>) {
    for bridge in bridges {
        report::warning(&format!("there is no bridge {bridge:?} on this host"));
    }
}

/// The bridges in `bridges` or `--bridge` that this host does not have. Bridges in sections for
/// networks are not included, because a section may be meant for other hosts.
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

/// Warns if both firewalls hold fences, as they may on a host that was upgraded.
pub fn warn_of_the_other_kind(config: &Config, used: &str) {
    let (other, ports) = if used == "nft" {
        ("ebtables", Ebtables.ports())
    } else {
        ("nft", Nft.ports())
    };
    match ports {
        Ok(ports) if ports.is_empty() => {}
        Ok(ports) => report::warning(&format!(
            "{other} fences {} ports as well: \"macfence migrate\" moves ebtables rules to nft",
            ports.len()
        )),
        // Usually it is not installed, or this user may not run it.
        Err(e) => note(config, || {
            format!("cannot tell whether {other} fences any port: {e:#}")
        }),
    }
}

pub fn note(config: &Config, text: impl FnOnce() -> String) {
    if config.verbose {
        report::note(&text());
    }
}

/// Says with `-v` what this firewall leaves open.
pub fn note_limits(config: &Config, backend: &dyn Backend) {
    for limit in backend.limits() {
        note(config, || (*limit).to_owned());
    }
}

/// Tells whether standard output shows colours, and the user has not turned them off
/// (<https://no-color.org>).
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
        // The reader closed the pipe and wants no more.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
