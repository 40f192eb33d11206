//! `macfence list`: what is fenced, and what was dropped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::shared::{owners, print, warn_of_the_other_kind};
use crate::backend::{self, Backend};
use crate::bridge;
use crate::config::Config;
use crate::fence::{ActualFence, ActualGuard, Addresses, Hears, LinkLocal};
use crate::report;
use crate::source::Hypervisors;
use crate::vm::{Port, VmName};

/// A fenced VM, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    /// `null` where the rules name no VM and no running VM has the port.
    vm: Option<String>,
    chain: String,
    nics: Vec<NicRow>,
}

#[derive(Debug, Serialize)]
struct NicRow {
    port: String,
    bridge: Option<String>,
    mac: Option<String>,
    prefix: Option<String>,
    #[serde(skip)]
    hears_all: bool,
    extra_macs: Vec<String>,
    trusted_ports: Vec<String>,
    /// `null` where the VM may use any, or the rules do not tell.
    addresses: Option<AddressesRow>,
    dropped: Dropped,
}

/// The IP addresses that a VM may use.
#[derive(Debug, Serialize)]
struct AddressesRow {
    ipv4: Vec<String>,
    ipv6: Vec<String>,
    /// `eui64` or `any`.
    link_local: &'static str,
}

/// Dropped packets; `null` where nobody counts, or where the rule is missing.
#[derive(Debug, Default, Serialize)]
struct Dropped {
    spoofed: Option<u64>,
    foreign: Option<u64>,
    forged: Option<u64>,
}

/// Runs it.
pub fn run(config: &Config, json: bool) -> Result<()> {
    let backend = backend::choose(config.backend);
    let fences = fences(config, &*backend)?;
    warn_of_the_other_kind(config, backend.name());
    if json {
        let rows = fences.into_iter().map(row).collect::<Result<Vec<_>>>()?;
        return print(&(serde_json::to_string(&rows).context("JSON")? + "\n"));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "VM", "PORT", "BRIDGE", "MAC", "PREFIX", "SPOOFED", "FOREIGN", "FORGED",
    ]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let (mut hear_all, mut ports) = (0, 0);
    for fence in fences {
        let vm = fence.vm.as_ref().map_or("-".to_owned(), VmName::to_string);
        let nics = row(fence)?.nics;
        if nics.is_empty() {
            table.add_row([&vm, "-", "-", "-", "-", "-", "-", "-"]);
        }
        for nic in nics {
            ports += 1;
            hear_all += usize::from(nic.hears_all);
            let network = nic.hears_all.then(|| "all networks".to_owned());
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let count = |packets: Option<u64>| or_dash(packets.map(|p| p.to_string()));
            table.add_row([
                vm.clone(),
                nic.port,
                or_dash(nic.bridge),
                or_dash(nic.mac),
                or_dash(nic.prefix.or(network)),
                count(nic.dropped.spoofed),
                count(nic.dropped.foreign),
                count(nic.dropped.forged),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let open = if hear_all == 0 {
        String::new()
    } else {
        format!(
            "{hear_all} of {ports} ports hear all networks: no template asked to isolate them\n"
        )
    };
    print(&format!(
        "{}\n{open}fenced by {}\n",
        table.trim_fmt(),
        backend.name()
    ))
}

/// What the kernel holds, each with the name of its VM if it can be told.
pub fn fences(config: &Config, backend: &dyn Backend) -> Result<Vec<ActualFence>> {
    let fences = backend.query()?.fences()?;
    if backend.names_vms() || fences.is_empty() {
        return Ok(fences);
    }
    Ok(named(config, fences))
}

/// Puts the fences of single ports together to those of VMs, as libvirt tells whose they are.
fn named(config: &Config, fences: Vec<ActualFence>) -> Vec<ActualFence> {
    let owners = Hypervisors::ask(&config.connect).and_then(|hypervisors| owners(&hypervisors));
    let owners = owners.unwrap_or_else(|e| {
        report::warning(&format!(
            "ebtables rules name no VM, and libvirt does not tell: {e:#}"
        ));
        BTreeMap::new()
    });
    let mut named: BTreeMap<(Option<VmName>, Option<Port>), ActualFence> = BTreeMap::new();
    for mut fence in fences {
        let port = fence.guards.first().map(|guard| guard.port.clone());
        let owner = port.as_ref().and_then(|port| owners.get(port));
        fence.vm = owner.map(|(vm, _)| vm.clone());
        // Nobody's ports stay apart.
        let key = (fence.vm.clone(), port.filter(|_| fence.vm.is_none()));
        match named.entry(key) {
            Entry::Occupied(mut other) => other.get_mut().guards.extend(fence.guards),
            Entry::Vacant(place) => drop(place.insert(fence)),
        }
    }
    named.into_values().collect()
}

fn row(fence: ActualFence) -> Result<Row> {
    Ok(Row {
        vm: fence.vm.map(|vm| vm.as_str().to_owned()),
        chain: fence.chain,
        nics: fence.guards.iter().map(nic_row).collect::<Result<_>>()?,
    })
}

fn nic_row(guard: &ActualGuard) -> Result<NicRow> {
    let network = guard.hears.iter().find_map(|hears| match hears {
        Hears::All => None,
        Hears::Network {
            prefix,
            trusted_ports,
            ..
        } => Some((prefix.to_string(), trusted_ports.as_slice())),
    });
    let (prefix, trusted_ports) = network.unzip();
    let senders = guard.macs.iter().take(1).chain(&guard.extra_macs).copied();
    let addresses = guard.addresses.as_ref();
    let addresses = addresses.and_then(|said| said.meant(senders));
    Ok(NicRow {
        port: guard.port.to_string(),
        bridge: bridge::of(&guard.port)?,
        mac: guard.macs.first().map(ToString::to_string),
        hears_all: prefix.is_none() && guard.hears.contains(&Hears::All),
        prefix,
        extra_macs: texts(&guard.extra_macs),
        trusted_ports: texts(trusted_ports.unwrap_or_default()),
        addresses: addresses.as_ref().map(AddressesRow::of),
        dropped: Dropped {
            spoofed: guard.dropped.spoofed,
            foreign: guard.dropped.foreign,
            forged: guard.dropped.forged,
        },
    })
}

impl AddressesRow {
    fn of(addresses: &Addresses) -> Self {
        Self {
            ipv4: texts(&addresses.v4),
            ipv6: texts(&addresses.v6),
            link_local: match addresses.link_local {
                LinkLocal::Eui64 => "eui64",
                LinkLocal::Any => "any",
            },
        }
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}
