//! The files of the memory.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::record::{Record, file_name, is_file_name};

/// The name under which the directory, or a file in it, is created before it gets its final name. No
/// VM's file has this name, because those have a suffix.
pub const UNFINISHED: &str = "new";

/// The longest file, in bytes. One with as many NICs and addresses as a template may have takes about 5
/// MB.
const TEXT_LIMIT: usize = 8 << 20;

/// A directory that only its owner can change.
pub struct Place {
    /// `None`: it does not exist.
    pub dir: Option<OwnedFd>,
    /// Its path.
    pub path: PathBuf,
    /// The user who alone may write there.
    pub owner: Uid,
}

impl Place {
    fn dir(&self) -> Result<&OwnedFd> {
        let dir = self.dir.as_ref();
        dir.with_context(|| format!("there is no {}", self.path.display()))
    }

    /// Lists the files that may belong to VMs.
    pub fn names(&self) -> Result<Vec<String>> {
        let why = || format!("cannot read {}", self.path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = fs::openat(self.dir()?, ".", flags, Mode::empty()).with_context(why)?;
        let mut names = Vec::new();
        for entry in Dir::new(listed).with_context(why)? {
            let entry = entry.with_context(why)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if is_file_name(name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Reads the record in a file of this name; `None`: the file does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Record>> {
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

    /// Reads the text of a file that only the owner can have written.
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

    /// Replaces a record's file in one step: readers, and the next run if we are killed, find either
    /// the old or the new record.
    pub fn write(&self, record: &Record) -> Result<()> {
        let name = file_name(&record.vm)?;
        let text = record.text()?;
        ensure!(
            text.len() <= TEXT_LIMIT,
            "what the template of VM {:?} asks for takes more than {} MiB",
            record.vm.as_str(),
            TEXT_LIMIT >> 20
        );
        let dir = self.dir()?;
        let why = || format!("cannot write {}", self.path.join(&name).display());
        // No other process writes while we hold the lock, so an existing file was left by one that was
        // killed.
        self.delete(UNFINISHED)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(dir, UNFINISHED, flags, Mode::RUSR | Mode::WUSR).with_context(why)?;
        let mut file = File::from(file);
        let written = file.write_all(text.as_bytes()).map_err(Error::from);
        let placed = written.and_then(|()| Ok(fs::renameat(dir, UNFINISHED, dir, &name)?));
        placed.with_context(why)
    }

    fn is_absent(&self, name: &str) -> Result<bool> {
        let found = fs::statat(self.dir()?, name, AtFlags::SYMLINK_NOFOLLOW);
        Ok(matches!(found, Err(Errno::NOENT)))
    }

    /// Deletes a file, if it is there.
    pub fn delete(&self, name: &str) -> Result<()> {
        let dir = self.dir()?;
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // On a read-only file system, this error comes before the kernel looks for the file.
            Err(Errno::ROFS) if self.is_absent(name)? => Ok(()),
            Err(e) => Err(anyhow!(
                "cannot delete {}: {e}",
                self.path.join(name).display()
            )),
        }
    }
}
