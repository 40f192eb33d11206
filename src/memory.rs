//! What only callers know, remembered until the VM ends: what OpenNebula's template asks for its
//! NICs. A hypervisor does not know it, and the kernel's rules, from which it could be guessed, are
//! gone when somebody flushes the ruleset.
//!
//! There is one file for each VM, in `/run/macfence/vms`: a VM does not outlive a reboot, so neither
//! must they. Files are changed only under [`crate::lock::exclusive`], and only as a whole, so
//! that they can be read without it. Links are not followed. A file that others could have written, or
//! that does not tell what it should, is not believed: its VM is isolated, has one MAC address for
//! each NIC, and may use no IP addresses beyond those that the kernel's rules let it use, if any do.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Uid};
use rustix::io::Errno;

pub use self::record::Record;
use crate::fence::ActualFence;
use crate::lock;
use crate::mac::MacAddr;
use crate::vm::{Port, Vm, VmName};

/// Where the files are, in [`lock::DIR`].
const NAME: &str = "vms";

/// Where the directory, or a file in it, is made before it gets its name. It is no VM's: that of
/// each VM has a suffix.
const UNFINISHED: &str = "new";

/// The most that is read of a file, in bytes. One with as many NICs and addresses as a template may
/// have takes some 5 MB.
const TEXT_LIMIT: usize = 8 << 20;

/// The memory of a host.
pub struct Memory {
    place: Place,
    /// What takes the place of the files where there is no directory yet.
    adopted: BTreeMap<VmName, Record>,
}

/// What nobody knows, because the memory cannot be believed.
#[derive(Debug, Default)]
pub struct Unknown {
    /// The ports of which it is not known what is asked for.
    pub ports: BTreeSet<Port>,
    /// Why, a sentence for each VM.
    pub why: Vec<String>,
}

/// A directory that nobody but its owner can change.
struct Place {
    dir: Option<OwnedFd>,
    path: PathBuf,
    owner: Uid,
}

impl Memory {
    /// Opens the memory to change it, which must be done under the lock. If there is none yet, makes
    /// it: of what version 0.1 has left in the kernel, which `actual` asks for.
    ///
    /// # Errors
    /// If others can change the directory, if it cannot be made, or if `actual` fails.
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
        // Who was killed here has left some.
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

    /// The memory, to read it only; if there is none, what [`Self::open`] would make.
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

    /// Fills in what is asked for the NICs of these VMs. Returns what cannot be believed.
    pub fn recall(&self, vms: &mut [Vm]) -> Unknown {
        let mut unknown = Unknown::default();
        for vm in vms {
            match self.record(&vm.name) {
                Ok(Some(record)) => record.fill(vm),
                Ok(None) => {}
                Err(e) => {
                    unknown.why.push(format!(
                        "VM {:?}: what is asked for it is not known: {e:#}; it is isolated",
                        vm.name.as_str()
                    ));
                    let ports = vm.nics.iter().map(|nic| nic.port.clone());
                    unknown.ports.extend(ports);
                }
            }
        }
        unknown
    }

    fn record(&self, vm: &VmName) -> Result<Option<Record>> {
        match record::file_name(vm) {
            Ok(name) if self.place.dir.is_some() => self.place.read(&name),
            // Nothing is remembered of a VM whose name is too long.
            _ => Ok(self.adopted.get(vm).cloned()),
        }
    }

    /// Notes what is asked for these NICs of a VM; what it says of others stays. Returns what was
    /// there and could not be believed.
    ///
    /// # Errors
    /// If it cannot be written. It is then what it was.
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

    /// Forgets some NICs of a VM, each told by its port and address. Without a NIC, there is no file.
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
        // No file has a name that is too long.
        record::file_name(vm).map_or(Ok(()), |name| self.place.delete(&name))
    }

    /// Forgets the VMs that have ended: those that are not `alive`, where that is known, and of which
    /// no port is there. Returns what cannot be deleted.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn forget_ended(
        &self,
        alive: Option<&BTreeSet<VmName>>,
        is_there: impl Fn(&Port) -> bool,
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
                // Nobody's any more, if it was a VM's at all.
                Err(_) => alive.is_some(),
            };
            if has_ended
                && !alive_files.contains(&name)
                && let Err(e) = self.place.delete(&name)
            {
                trouble.push(format!("{e:#}"));
            }
        }
        Ok(trouble)
    }
}

impl Place {
    fn dir(&self) -> Result<&OwnedFd> {
        let dir = self.dir.as_ref();
        dir.with_context(|| format!("there is no {}", self.path.display()))
    }

    /// The names of all files that can be a VM's.
    fn names(&self) -> Result<Vec<String>> {
        let why = || format!("cannot read {}", self.path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = fs::openat(self.dir()?, ".", flags, Mode::empty()).with_context(why)?;
        let mut names = Vec::new();
        for entry in Dir::new(listed).with_context(why)? {
            let entry = entry.with_context(why)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if record::is_file_name(name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Option<Record>> {
        let of = || self.path.join(name).display().to_string();
        // O_NONBLOCK: opening a pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(self.dir()?, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => bail!("{} is a symbolic link", of()),
            opened => opened.with_context(of)?,
        };
        self.believe(file)
            .and_then(|text| Record::parse(&text, name))
            .map(Some)
            .with_context(of)
    }

    /// The text of a file that nobody but the owner can have written.
    fn believe(&self, file: OwnedFd) -> Result<String> {
        let stat = fs::fstat(&file)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        ensure!(
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            "it is not a file"
        );
        ensure!(
            stat.st_uid == self.owner.as_raw(),
            "it belongs to another user"
        );
        ensure!(
            !mode.intersects(Mode::WGRP | Mode::WOTH),
            "other users can write to it"
        );
        let mut text = String::new();
        File::from(file)
            .take(TEXT_LIMIT as u64 + 1)
            .read_to_string(&mut text)?;
        ensure!(
            text.len() <= TEXT_LIMIT,
            "it is longer than {} MiB",
            TEXT_LIMIT >> 20
        );
        Ok(text)
    }

    /// Puts a record in the place of its file: who reads it, and who comes after we were killed, has
    /// the old one or the new one.
    fn write(&self, record: &Record) -> Result<()> {
        let name = record::file_name(&record.vm)?;
        let text = record.text()?;
        ensure!(
            text.len() <= TEXT_LIMIT,
            "what is asked for VM {:?} takes more than {} MiB",
            record.vm.as_str(),
            TEXT_LIMIT >> 20
        );
        let dir = self.dir()?;
        let why = || format!("cannot write {}", self.path.join(&name).display());
        // Nobody else writes while we have the lock: what is there is of one who was killed.
        self.delete(UNFINISHED)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(dir, UNFINISHED, flags, Mode::RUSR | Mode::WUSR).with_context(why)?;
        let mut file = File::from(file);
        let written = file.write_all(text.as_bytes()).map_err(Error::from);
        let placed = written.and_then(|()| Ok(fs::renameat(dir, UNFINISHED, dir, &name)?));
        placed.with_context(why)
    }

    fn delete(&self, name: &str) -> Result<()> {
        match fs::unlinkat(self.dir()?, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(anyhow!(
                "cannot delete {}: {e}",
                self.path.join(name).display()
            )),
        }
    }
}

#[cfg(test)]
mod tests;
