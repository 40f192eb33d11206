//! `macfence list`: what is fenced, and what was dropped.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::print;
use crate::backend::{self, HeldFence};
use crate::bridge;
use crate::config::Config;
use crate::fence::Rule;
use crate::vm::Port;

/// A fenced VM, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    vm: String,
    chain: String,
    nics: Vec<NicRow>,
}

#[derive(Debug, Serialize)]
struct NicRow {
    port: String,
    bridge: Option<String>,
    mac: Option<String>,
    prefix: Option<String>,
    dropped: Dropped,
}

/// Dropped packets; `null` where nobody counts, or where the rule is missing.
#[derive(Debug, Default, Serialize)]
struct Dropped {
    spoofed: Option<u64>,
    foreign: Option<u64>,
}

/// Runs it.
pub fn run(config: &Config, json: bool) -> Result<()> {
    let fences = backend::choose(config.backend).fences()?;
    if json {
        let rows = fences.into_iter().map(row).collect::<Result<Vec<_>>>()?;
        return print(&(serde_json::to_string(&rows).context("JSON")? + "\n"));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "VM", "PORT", "BRIDGE", "MAC", "PREFIX", "SPOOFED", "FOREIGN",
    ]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for fence in fences {
        let vm = fence.vm.to_string();
        let nics = row(fence)?.nics;
        if nics.is_empty() {
            table.add_row([&vm, "-", "-", "-", "-", "-", "-"]);
        }
        for nic in nics {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let count = |packets: Option<u64>| or_dash(packets.map(|p| p.to_string()));
            table.add_row([
                vm.clone(),
                nic.port,
                or_dash(nic.bridge),
                or_dash(nic.mac),
                or_dash(nic.prefix),
                count(nic.dropped.spoofed),
                count(nic.dropped.foreign),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    print(&(table.trim_fmt() + "\n"))
}

fn row(fence: HeldFence) -> Result<Row> {
    let mut nics: Vec<NicRow> = Vec::new();
    for (rule, packets) in fence.rules {
        let port = rule.port().as_str();
        let index = match nics.iter().position(|nic| nic.port == port) {
            Some(index) => index,
            None => {
                nics.push(NicRow::new(rule.port())?);
                nics.len() - 1
            }
        };
        let Some(nic) = nics.get_mut(index) else {
            continue;
        };
        match rule {
            Rule::Spoofed { mac, .. } => {
                nic.mac = Some(mac.to_string());
                nic.dropped.spoofed = packets;
            }
            Rule::Foreign { own, .. } => {
                nic.prefix = Some(own.to_string());
                nic.dropped.foreign = packets;
            }
        }
    }
    Ok(Row {
        vm: fence.vm.as_str().to_owned(),
        chain: fence.chain,
        nics,
    })
}

impl NicRow {
    fn new(port: &Port) -> Result<Self> {
        Ok(Self {
            port: port.to_string(),
            bridge: bridge::of(port)?,
            mac: None,
            prefix: None,
            dropped: Dropped::default(),
        })
    }
}
