//! `macfence list`: shows every port of every running VM, every fence, and what was dropped.

mod table;

use anyhow::{Context, Result};
use serde::Serialize;

use super::look::{Look, look};
use super::shared::{print, warn_of, warn_of_the_other_kind, warn_of_unknown_bridges};
use crate::bridge;
use crate::cli::Global;
use crate::config::Config;
use crate::fence::{ActualGuard, Addresses, Hears, LinkLocal};
use crate::graph;
use crate::report;
use crate::survey::Entry;

/// A VM, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    /// `null` if the rules name no VM and no running VM has the port.
    vm: Option<String>,
    /// `null` if the VM has no fence.
    chain: Option<String>,
    nics: Vec<NicRow>,
}

#[derive(Debug, Serialize)]
struct NicRow {
    /// `null` for an interface without a port.
    port: Option<String>,
    bridge: Option<String>,
    mac: Option<String>,
    prefix: Option<String>,
    extra_macs: Vec<String>,
    trusted_ports: Vec<String>,
    /// `null` if the VM may use any, or the rules do not tell.
    addresses: Option<AddressesRow>,
    dropped: Dropped,
    /// `fenced`, `unfenced`, `stale` or `differs`.
    state: &'static str,
    /// The reason for the state, in words.
    reason: Option<String>,
    /// As in the table; `null` if the rules do not tell.
    hears: Option<String>,
    trusted: Vec<String>,
    dhcp_guard: bool,
    ra_guard: bool,
}

/// The IP addresses that a VM may use.
#[derive(Debug, Serialize)]
struct AddressesRow {
    ipv4: Vec<String>,
    ipv6: Vec<String>,
    /// `eui64` or `any`.
    link_local: &'static str,
}

/// Dropped packets; `null` if the rule is missing or has no counter.
#[derive(Debug, Default, Serialize)]
struct Dropped {
    spoofed: Option<u64>,
    foreign: Option<u64>,
    forged: Option<u64>,
}

/// Runs it.
pub fn run(flags: &Global, json: bool, graph: bool) -> Result<()> {
    // Here, --bridge chooses what is shown, not what is fenced.
    let shown = &flags.bridges;
    let config = Config::new(Global {
        bridges: Vec::new(),
        ..flags.clone()
    })?;
    warn_of_unknown_bridges(&config);
    let asked = shown.iter().filter(|bridge| !bridge::exists(bridge));
    warn_of(asked.map(String::as_str));
    let Look {
        backend,
        survey,
        mut entries,
    } = look(&config)?;
    if let Err(e) = survey {
        let who = if backend.names_vms() || entries.is_empty() {
            "only what is fenced is shown, because macfence cannot tell which VMs run"
        } else {
            "the list cannot name VMs: ebtables rules do not, and the hypervisor does not answer"
        };
        report::warning(&format!("{who}: {e:#}"));
    }
    warn_of_the_other_kind(&config, backend.name());
    if !shown.is_empty() {
        entries.retain(|entry| entry.bridge.as_ref().is_some_and(|b| shown.contains(b)));
    }
    print(&if graph {
        graph::dot(&entries)
    } else if json {
        serde_json::to_string(&rows(&entries)).context("JSON")? + "\n"
    } else {
        table::text(&entries, backend.name())
    })
}

/// Groups the entries by VM. Each port without a VM stays apart.
fn rows(entries: &[Entry]) -> Vec<Row> {
    let same_vm = |a: &Entry, b: &Entry| a.vm.is_some() && a.vm == b.vm;
    let row = |of_vm: &[Entry]| Row {
        vm: of_vm
            .iter()
            .find_map(|entry| entry.vm.as_ref())
            .map(|vm| vm.as_str().to_owned()),
        chain: of_vm.iter().find_map(|entry| entry.chain.clone()),
        nics: of_vm
            .iter()
            .filter(|entry| !entry.is_empty_fence())
            .map(nic_row)
            .collect(),
    };
    entries.chunk_by(same_vm).map(row).collect()
}

fn nic_row(entry: &Entry) -> NicRow {
    let guard = entry.held.as_ref();
    let (prefix, trusted, trusted_ports) = match guard.and_then(ActualGuard::network) {
        Some(Hears::Network {
            prefix,
            trusted,
            trusted_ports,
        }) => (
            Some(prefix.to_string()),
            texts(trusted),
            texts(trusted_ports),
        ),
        _ => Default::default(),
    };
    let addresses = guard.and_then(|guard| {
        let macs = guard.macs.iter().take(1);
        let senders = macs.chain(&guard.extra_macs).copied();
        guard.addresses.as_ref()?.meant(senders)
    });
    let dropped = guard.map(|guard| guard.dropped).unwrap_or_default();
    NicRow {
        port: entry.port.as_ref().map(ToString::to_string),
        bridge: entry.bridge.clone(),
        mac: entry.mac.map(|mac| mac.to_string()),
        prefix,
        extra_macs: guard
            .map(|guard| texts(&guard.extra_macs))
            .unwrap_or_default(),
        trusted_ports,
        addresses: addresses.as_ref().map(AddressesRow::of),
        dropped: Dropped {
            spoofed: dropped.spoofed,
            foreign: dropped.foreign,
            forged: dropped.forged,
        },
        state: entry.status.word(),
        reason: entry.status.reason(),
        hears: table::hears(entry),
        trusted,
        dhcp_guard: guard.is_some_and(|guard| guard.dhcp_guard),
        ra_guard: guard.is_some_and(|guard| guard.ra_guard),
    }
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
