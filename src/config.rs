//! Reads what the operator wants: the command line overrides the configuration file, which overrides
//! the defaults.

mod file;
pub mod origin;
mod section;
mod syntax;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::backend;
use crate::cli::Global;
use crate::policy::{Policy, Settings};

pub use self::file::File;
use self::origin::Origins;

/// The configuration file, unless the command line names another. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/macfence.toml";

/// The longest configuration file, in bytes. A file with every key and comment has a few KiB.
const SIZE_LIMIT: u64 = 1 << 20;

/// The libvirt that is asked by default.
const DEFAULT_CONNECT: &str = "qemu:///system";

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The firewall to use.
    pub backend: backend::Choice,
    /// What to enforce.
    pub policy: Policy,
    /// The libvirts to ask, as `virsh -c` takes them.
    pub connect: Vec<String>,
    /// Whether to change settings of bridges that rules cannot make up for.
    pub harden_bridges: bool,
    /// Whether to report what is done.
    pub verbose: bool,
    /// Where the policy's settings come from.
    pub origins: Origins,
}

impl Config {
    /// Merges these flags and the file that they name.
    ///
    /// # Errors
    /// If the file cannot be read, or has a mistake.
    pub fn new(flags: Global) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => File::read(path)?,
            None => File::read_default(Path::new(DEFAULT_FILE))?,
        };
        let path = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let typed = [
            ("prefix-len", flags.prefix_len.is_some()),
            ("trusted", !flags.trusted.is_empty()),
            ("bridges", !flags.bridges.is_empty()),
        ];
        let typed = typed.into_iter().filter(|(_, is_typed)| *is_typed);
        let origins = Origins {
            file: path.display().to_string(),
            typed: typed.map(|(key, _)| key).collect::<BTreeSet<_>>(),
            ..file.origins
        };
        // The command line overrides the file's global settings, but not those of a single network.
        let mut global = file.global;
        global.prefix_len = flags.prefix_len.or(global.prefix_len);
        global.trusted = typed_or_filed(flags.trusted, global.trusted);
        let bridges = typed_or_filed(flags.bridges, file.bridges).unwrap_or_default();
        for name in &bridges {
            file::bridge(name)?;
        }
        Ok(Self {
            backend: flags.backend.or(file.backend).unwrap_or_default(),
            policy: Policy {
                bridges,
                global: global.over(&Settings::default()),
                networks: file.networks,
                nics: file.nics,
                log: file.log.flatten(),
                proxies: BTreeMap::new(),
            },
            connect: flags
                .connect
                .map(|uri| vec![uri])
                .or(file.connect)
                .unwrap_or_else(|| vec![DEFAULT_CONNECT.to_owned()]),
            harden_bridges: file.harden_bridges.unwrap_or(true),
            verbose: flags.verbose,
            origins,
        })
    }
}

/// A list on the command line replaces the file's list.
fn typed_or_filed<T>(typed: Vec<T>, filed: Option<Vec<T>>) -> Option<Vec<T>> {
    if typed.is_empty() { filed } else { Some(typed) }
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let read = || -> std::io::Result<String> {
            let mut text = String::new();
            let file = fs::File::open(path)?;
            file.take(SIZE_LIMIT + 1).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            text.len() as u64 <= SIZE_LIMIT,
            "{} is longer than {} KiB, which is the most for a configuration file",
            path.display(),
            SIZE_LIMIT >> 10
        );
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn read_default(path: &Path) -> Result<Self> {
        match path.symlink_metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::default()),
            _ => Self::read(path),
        }
    }
}

#[cfg(test)]
mod tests;
