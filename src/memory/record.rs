//! The record of one VM: what its template asked for each of its NICs. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::fence::{ActualFence, ActualGuard, Hears};
use crate::mac::MacAddr;
use crate::vm::{Asked, Nic, Port, Vm, VmName};

/// The version of the files. Files of another version are not believed.
const VERSION: u32 = 1;

/// The longest name of a file, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;

const SUFFIX: &str = ".json";

/// What the template asked for the NICs of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The VM.
    pub vm: VmName,
    nics: Vec<Entry>,
}

/// What the template asked for a NIC. When the VM runs again, its port may differ; its address stays.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    port: Port,
    mac: MacAddr,
    asked: Asked,
}

/// The name of a VM's file. No two VMs share one, and no VM's name can lead to another directory.
///
/// # Errors
/// If it is too long for a file.
pub fn file_name(vm: &VmName) -> Result<String> {
    let name = vm.escaped() + SUFFIX;
    ensure!(
        name.len() <= NAME_MAX,
        "the name of VM {:?} is too long for a file that remembers what its template asks for",
        vm.as_str()
    );
    Ok(name)
}

/// The VM whose file has this name; `None` if the name has escapes, which names of OpenNebula's form have
/// not.
pub fn vm_of(name: &str) -> Option<VmName> {
    let vm: VmName = name.strip_suffix(SUFFIX)?.parse().ok()?;
    file_name(&vm).is_ok_and(|own| own == name).then_some(vm)
}

/// Tells whether a file of this name may belong to a VM.
pub fn is_file_name(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

impl Record {
    /// The record of the NICs for which something is asked.
    pub fn of(vm: &Vm) -> Self {
        let entry = |nic: &Nic| {
            Some(Entry {
                port: nic.port.clone(),
                mac: nic.mac,
                asked: nic.asked.clone()?,
            })
        };
        Self {
            vm: vm.name.clone(),
            nics: vm.nics.iter().filter_map(entry).collect(),
        }
    }

    /// An empty record.
    pub fn nothing(vm: VmName) -> Self {
        Self {
            vm,
            nics: Vec::new(),
        }
    }

    /// Reads from the rules of version 0.1 which NICs of a VM hear all networks.
    pub fn adopted(fence: &ActualFence) -> Option<Self> {
        let entry = |guard: &ActualGuard| match (&*guard.macs, &*guard.hears) {
            ([mac], [Hears::All]) => Some(Entry {
                port: guard.port.clone(),
                mac: *mac,
                asked: Asked {
                    hears_all: true,
                    ..Asked::default()
                },
            }),
            _ => None,
        };
        let nics: Vec<_> = fence.guards.iter().filter_map(entry).collect();
        let vm = fence.vm.clone().filter(|_| !nics.is_empty())?;
        Some(Self { vm, nics })
    }

    /// Reads the text of a file of this name.
    ///
    /// # Errors
    /// If it is not the output of [`Self::text`], or belongs to another VM.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let Version { version } = serde_json::from_str(text).context("it is not a valid record")?;
        ensure!(
            version == VERSION,
            "it has version {version}, and this macfence reads only version {VERSION}"
        );
        let file: File = serde_json::from_str(text).context("it is not a valid record")?;
        let record = Self::try_from(file)?;
        ensure!(
            file_name(&record.vm).is_ok_and(|own| own == name),
            "it belongs to VM {:?}",
            record.vm.as_str()
        );
        Ok(record)
    }

    /// The text of its file.
    ///
    /// # Errors
    /// Never, as far as known.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&File::from(self)).context("JSON")? + "\n")
    }

    /// Tells whether it has no NICs.
    pub fn is_empty(&self) -> bool {
        self.nics.is_empty()
    }

    /// The ports that its NICs had when the template was read.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.nics.iter().map(|entry| &entry.port)
    }

    /// The VM as its template described it.
    pub fn into_vm(self) -> Vm {
        let nic = |Entry { port, mac, asked }| Nic {
            port,
            mac,
            bridge: None,
            asked: Some(asked),
        };
        Vm {
            name: self.vm,
            nics: self.nics.into_iter().map(nic).collect(),
            skipped: Vec::new(),
        }
    }

    /// Takes over a newer record of some NICs. An older NIC with the same port or address is gone, and
    /// is forgotten.
    pub fn update(&mut self, newer: Self) {
        self.forget(|port, mac| {
            let mut newer = newer.nics.iter();
            newer.any(|new| new.port == *port || new.mac == mac)
        });
        self.nics.extend(newer.nics);
    }

    /// Forgets some NICs.
    pub fn forget(&mut self, which: impl Fn(&Port, MacAddr) -> bool) {
        self.nics.retain(|entry| !which(&entry.port, entry.mac));
    }

    /// Fills in what is asked for NICs if the source does not know it. A NIC is found by its port and
    /// address, or by its address alone if all NICs with that address asked for the same.
    pub fn fill(&self, vm: &mut Vm) {
        for nic in vm.nics.iter_mut().filter(|nic| nic.asked.is_none()) {
            let mut same = self.nics.iter().filter(|entry| entry.mac == nic.mac);
            let asked = |entry: &Entry| entry.asked.clone();
            nic.asked = match same.clone().find(|entry| entry.port == nic.port) {
                Some(entry) => Some(asked(entry)),
                None => {
                    let first = same.next().map(asked);
                    first.filter(|first| same.all(|entry| entry.asked == *first))
                }
            };
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A file. Unknown fields are an error: they might ask for a stricter guard.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    vm: String,
    nics: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    port: String,
    mac: String,
    hears_all: bool,
    guards_addresses: bool,
    addresses: Vec<String>,
    extra_macs: Vec<String>,
    extra_addresses: Vec<String>,
}

impl From<&Record> for File {
    fn from(record: &Record) -> Self {
        Self {
            version: VERSION,
            vm: record.vm.as_str().to_owned(),
            nics: record.nics.iter().map(Row::from).collect(),
        }
    }
}

impl From<&Entry> for Row {
    fn from(Entry { port, mac, asked }: &Entry) -> Self {
        Self {
            port: port.to_string(),
            mac: mac.to_string(),
            hears_all: asked.hears_all,
            guards_addresses: asked.guards_addresses,
            addresses: texts(&asked.addresses),
            extra_macs: texts(&asked.extra_macs),
            extra_addresses: texts(&asked.extra_addresses),
        }
    }
}

fn texts<'a, T: ToString + 'a>(values: impl IntoIterator<Item = &'a T>) -> Vec<String> {
    values.into_iter().map(T::to_string).collect()
}

impl TryFrom<File> for Record {
    type Error = anyhow::Error;

    fn try_from(file: File) -> Result<Self> {
        let nics: Vec<Entry> = file
            .nics
            .into_iter()
            .map(Entry::try_from)
            .collect::<Result<_>>()?;
        for (index, entry) in nics.iter().enumerate() {
            if nics
                .iter()
                .take(index)
                .any(|other| other.port == entry.port)
            {
                bail!("it names port \"{}\" twice", entry.port);
            }
        }
        Ok(Self {
            vm: file.vm.parse()?,
            nics,
        })
    }
}

impl TryFrom<Row> for Entry {
    type Error = anyhow::Error;

    fn try_from(row: Row) -> Result<Self> {
        let extra_macs = row.extra_macs.iter().map(|mac| mac.parse());
        let addresses = |texts: &[String]| {
            let parsed: Result<BTreeSet<IpAddr>, _> = texts.iter().map(|ip| ip.parse()).collect();
            parsed.context("it has an invalid IP address")
        };
        // Refuses addresses that no station can have, as a source does.
        let nic = Nic::new(row.port.parse()?, row.mac.parse()?, None)?;
        Ok(Self {
            asked: Asked {
                hears_all: row.hears_all,
                guards_addresses: row.guards_addresses,
                addresses: addresses(&row.addresses)?,
                extra_macs: extra_macs.collect::<Result<_>>()?,
                extra_addresses: addresses(&row.extra_addresses)?,
            },
            port: nic.port,
            mac: nic.mac,
        })
    }
}

#[cfg(test)]
mod tests;
