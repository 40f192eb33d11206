//! Remembers, until a VM ends, what OpenNebula's template asks for its NICs. Only the caller knows it:
//! a hypervisor does not, and the kernel's rules, from which it could be guessed, are gone when
//! somebody flushes the ruleset.
//!
//! There is one file for each VM, in `/run/macfence/vms`, because neither VMs nor these files should
//! outlive a reboot. Files are changed only under [`crate::lock::exclusive`], and replaced as a whole,
//! so that they can be read without the lock. Links are not followed. A file that others could have
//! written, or whose contents are wrong, is not believed. Then its VM is isolated, has one MAC address
//! for each NIC, and may use only the IP addresses that the kernel's rules already let it use.

mod place;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Error, Result};
use rustix::fs::Uid;

use self::place::{Place, UNFINISHED};
pub use self::record::Record;
use crate::fence::ActualFence;
use crate::lock;
use crate::mac::MacAddr;
use crate::vm::{Port, Vm, VmName};

/// The directory of the files, in [`lock::DIR`].
const NAME: &str = "vms";

/// The memory of a host.
pub struct Memory {
    place: Place,
    /// The records to use while there is no directory yet.
    adopted: BTreeMap<VmName, Record>,
}

/// What is unknown because the memory cannot be believed.
#[derive(Debug, Default)]
pub struct Unknown {
    /// The ports whose template's wishes are unknown.
    pub ports: BTreeSet<Port>,
    /// The reason, a sentence for each VM.
    pub why: Vec<String>,
}

/// The VMs that are remembered, except for those that somebody knows already.
#[derive(Debug, Default)]
pub struct Others {
    /// What their templates said.
    pub vms: Vec<Vm>,
    /// Those whose files cannot be believed, and why.
    pub failed: Vec<(VmName, Error)>,
}

impl Memory {
    /// Opens the memory for changes; the caller must hold the lock. If there is none yet, creates it
    /// from the rules that version 0.1 left in the kernel, which `actual` reads.
    ///
    /// # Errors
    /// If others can change the directory, if it cannot be created, or if `actual` fails.
    pub fn open(actual: impl FnOnce() -> Result<Vec<ActualFence>>) -> Result<Self> {
        Self::open_in(Path::new(lock::DIR), Uid::ROOT, actual)
    }

    fn open_in(
        parent: &Path,
        owner: Uid,
        actual: impl FnOnce() -> Result<Vec<ActualFence>>,
    ) -> Result<Self> {
        if let Some(memory) = Self::existing_in(parent, owner)? {
            return Ok(memory);
        }
        lock::directory(parent, owner)?;
        let unfinished = parent.join(UNFINISHED);
        let memory = Self::of(
            Some(lock::directory(&unfinished, owner)?),
            &unfinished,
            owner,
        );
        // A run that was killed here has left some files.
        for name in memory.place.names()? {
            memory.place.delete(&name)?;
        }
        for record in actual()?.iter().filter_map(Record::adopted) {
            memory.place.write(&record)?;
        }
        let path = parent.join(NAME);
        std::fs::rename(&unfinished, &path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self::of(memory.place.dir, &path, owner))
    }

    /// The memory, if there is one.
    ///
    /// # Errors
    /// If others can change the directory.
    pub fn existing() -> Result<Option<Self>> {
        Self::existing_in(Path::new(lock::DIR), Uid::ROOT)
    }

    fn existing_in(parent: &Path, owner: Uid) -> Result<Option<Self>> {
        let path = parent.join(NAME);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        lock::directory(parent, owner)?;
        let dir = lock::directory(&path, owner)?;
        Ok(Some(Self::of(Some(dir), &path, owner)))
    }

    /// Opens the memory for reading. If there is none, returns what [`Self::open`] would create.
    ///
    /// # Errors
    /// Like [`Self::existing`].
    pub fn read(actual: &[ActualFence]) -> Result<Self> {
        if let Some(memory) = Self::existing()? {
            return Ok(memory);
        }
        let mut memory = Self::of(None, &Path::new(lock::DIR).join(NAME), Uid::ROOT);
        let adopted = actual.iter().filter_map(Record::adopted);
        memory.adopted = adopted.map(|record| (record.vm.clone(), record)).collect();
        Ok(memory)
    }

    fn of(dir: Option<OwnedFd>, path: &Path, owner: Uid) -> Self {
        Self {
            place: Place {
                dir,
                path: path.to_owned(),
                owner,
            },
            adopted: BTreeMap::new(),
        }
    }

    /// Fills in what is asked for the NICs of these VMs. Returns what is unknown.
    pub fn recall(&self, vms: &mut [Vm]) -> Unknown {
        let mut unknown = Unknown::default();
        for vm in vms {
            match self.record(&vm.name) {
                Ok(Some(record)) => record.fill(vm),
                Ok(None) => {}
                Err(e) => {
                    unknown.why.push(format!(
                        "VM {:?} is isolated, because it is unknown what its template asks for: {e:#}",
                        vm.name.as_str()
                    ));
                    let ports = vm.nics.iter().map(|nic| nic.port.clone());
                    unknown.ports.extend(ports);
                }
            }
        }
        unknown
    }

    /// The VMs that are remembered, without `known`.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn others(&self, known: &BTreeSet<&VmName>) -> Result<Others> {
        let known: BTreeSet<_> = known.iter().flat_map(|vm| record::file_name(vm)).collect();
        let mut names = self.place.names()?;
        names.retain(|name| !known.contains(name));
        names.sort();
        let mut others = Others::default();
        for name in names {
            match self.place.read(&name) {
                Ok(record) => others.vms.extend(record.map(Record::into_vm)),
                Err(e) => others.failed.extend(record::vm_of(&name).map(|vm| (vm, e))),
            }
        }
        Ok(others)
    }

    fn record(&self, vm: &VmName) -> Result<Option<Record>> {
        match record::file_name(vm) {
            Ok(name) if self.place.dir.is_some() => self.place.read(&name),
            // A VM with too long a name has no file.
            _ => Ok(self.adopted.get(vm).cloned()),
        }
    }

    /// Notes what is asked for these NICs of a VM; notes about its other NICs stay. Returns why the old
    /// record could not be believed, if so.
    ///
    /// # Errors
    /// If the file cannot be written. It is then unchanged.
    pub fn note(&self, vm: &Vm) -> Result<Option<Error>> {
        let new = Record::of(vm);
        if new.is_empty() {
            return Ok(None);
        }
        let (mut record, trouble) = match self.record(&vm.name) {
            Ok(Some(record)) => (record, None),
            Ok(None) => (Record::nothing(vm.name.clone()), None),
            Err(e) => (Record::nothing(vm.name.clone()), Some(e)),
        };
        let before = record.clone();
        record.update(new);
        if record != before {
            self.place.write(&record)?;
        }
        Ok(trouble)
    }

    /// Forgets the NICs of a VM that `which` selects by port and address. Deletes the file with the
    /// last NIC.
    ///
    /// # Errors
    /// If the file cannot be read, written or deleted.
    pub fn forget_nics(&self, vm: &VmName, which: impl Fn(&Port, MacAddr) -> bool) -> Result<()> {
        let Some(before) = self.record(vm)? else {
            return Ok(());
        };
        let mut record = before.clone();
        record.forget(which);
        if record.is_empty() {
            self.forget(vm)
        } else if record == before {
            Ok(())
        } else {
            self.place.write(&record)
        }
    }

    /// Forgets a VM, whatever its file holds.
    ///
    /// # Errors
    /// If the file cannot be deleted.
    pub fn forget(&self, vm: &VmName) -> Result<()> {
        // A VM with too long a name has no file.
        record::file_name(vm).map_or(Ok(()), |name| self.place.delete(&name))
    }

    /// Forgets a VM that does not run, unless one of its ports still exists.
    ///
    /// # Errors
    /// If the file cannot be deleted.
    pub fn forget_if_ended(&self, vm: &VmName, is_there: impl Fn(&Port) -> bool) -> Result<()> {
        match self.record(vm) {
            Ok(Some(record)) if record.ports().any(is_there) => Ok(()),
            _ => self.forget(vm),
        }
    }

    /// Forgets the VMs that have ended: those that are not `alive`, if that is known, and whose ports
    /// are all gone. Keeps those for which `may_return` is true: their ports may come back without notice.
    /// Returns the files that cannot be deleted.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn forget_ended(
        &self,
        alive: Option<&BTreeSet<VmName>>,
        is_there: impl Fn(&Port) -> bool,
        may_return: impl Fn(&VmName) -> bool,
    ) -> Result<Vec<String>> {
        let alive_files: BTreeSet<_> = alive
            .into_iter()
            .flatten()
            .flat_map(record::file_name)
            .collect();
        let mut trouble = Vec::new();
        for name in self.place.names()? {
            let has_ended = match self.place.read(&name) {
                Ok(record) => record.is_some_and(|record| !record.ports().any(&is_there)),
                // It belongs to no VM any more, if it ever did.
                Err(_) => alive.is_some(),
            };
            if has_ended
                && !alive_files.contains(&name)
                && !record::vm_of(&name).is_some_and(|vm| may_return(&vm))
                && let Err(e) = self.place.delete(&name)
            {
                trouble.push(format!("{e:#}"));
            }
        }
        Ok(trouble)
    }
}

#[cfg(test)]
mod tests;
