//! What is remembered of one VM: what was asked for each of its NICs. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::fence::{ActualFence, ActualGuard, Hears};
use crate::mac::MacAddr;
use crate::vm::{Asked, Nic, Port, Vm, VmName};

/// The version of the files. One of another version is not believed.
const VERSION: u32 = 1;

/// The longest name of a file, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;

const SUFFIX: &str = ".json";

/// What was asked for the NICs of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The VM.
    pub vm: VmName,
    nics: Vec<Entry>,
}

/// What was asked for a NIC. Its port is another one where the VM runs anew; its address is the
/// same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    port: Port,
    mac: MacAddr,
    asked: Asked,
}

/// The name of a VM's file: no two VMs share one, and no VM can choose a path.
///
/// # Errors
/// If no file can have it.
pub fn file_name(vm: &VmName) -> Result<String> {
    let name = vm.escaped() + SUFFIX;
    ensure!(
        name.len() <= NAME_MAX,
        "the name of VM {:?} is too long to remember what is asked for it",
        vm.as_str()
    );
    Ok(name)
}

/// Whether a file can be a VM's.
pub fn is_file_name(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

impl Record {
    /// What is asked for those NICs of a VM of which it is known.
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

    /// A VM of which nothing is remembered.
    pub fn nothing(vm: VmName) -> Self {
        Self {
            vm,
            nics: Vec::new(),
        }
    }

    /// What version 0.1 has left in the kernel: which NICs of a VM hear all networks.
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
    /// If it is not what [`Self::text`] writes, or is another VM's.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let Version { version } = serde_json::from_str(text).context("it is not readable")?;
        ensure!(
            version == VERSION,
            "it is of version {version}, and this macfence knows {VERSION}"
        );
        let file: File = serde_json::from_str(text).context("it is not readable")?;
        let record = Self::try_from(file)?;
        ensure!(
            file_name(&record.vm).is_ok_and(|own| own == name),
            "it is that of VM {:?}",
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

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.nics.is_empty()
    }

    /// The ports that its NICs had when something was asked for them.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.nics.iter().map(|entry| &entry.port)
    }

    /// Takes over what is said of some NICs anew. Where one has a port or an address that another
    /// had, the other is gone.
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

    /// Fills in what is asked for the NICs of which the source does not know it. A NIC is found by
    /// its port and address, or by its address alone, if all that have it asked for the same.
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

/// A file. What is not understood is not believed: it might ask for a stricter guard.
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
            parsed.context("an IP address")
        };
        // An address that no station can have is refused here as in a source.
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
