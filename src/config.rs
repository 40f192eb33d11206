//! What the operator wants: the command line over the configuration file over the defaults.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::backend;
use crate::cli::Global;
use crate::mac::{MacPrefix, PrefixLen};
use crate::policy::{Isolation, Policy};

/// Where the configuration is, unless the command line says otherwise. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/macfence.toml";

/// The longest configuration file, in bytes. One with every key and comment has two KiB.
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
    /// The libvirt to ask, as `virsh -c` takes it.
    pub connect: String,
    /// Whether to change settings of bridges that rules cannot make up for.
    pub harden_bridges: bool,
    /// Whether to tell what is done.
    pub verbose: bool,
}

/// The configuration file: what it sets.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct File {
    backend: Option<backend::Choice>,
    bridges: Option<Vec<String>>,
    prefix_len: Option<PrefixLen>,
    trusted: Option<Vec<MacPrefix>>,
    connect: Option<String>,
    isolation: Option<Isolation>,
    multicast_querier: Option<bool>,
    harden_bridges: Option<bool>,
}

impl Config {
    /// The configuration that these flags and the file that they name make.
    ///
    /// # Errors
    /// If the file cannot be read, or says what cannot be.
    pub fn new(flags: Global) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => File::read(path)?,
            None => File::read_default(Path::new(DEFAULT_FILE))?,
        };
        let bridges = typed_or_filed(flags.bridges, file.bridges);
        ensure!(
            bridges.iter().all(|bridge| !bridge.is_empty()),
            "the name of a bridge is empty"
        );
        Ok(Self {
            backend: flags.backend.or(file.backend).unwrap_or_default(),
            policy: Policy {
                bridges,
                prefix_len: flags.prefix_len.or(file.prefix_len).unwrap_or_default(),
                trusted: typed_or_filed(flags.trusted, file.trusted),
                isolation: file.isolation.unwrap_or_default(),
                multicast_querier: file.multicast_querier.unwrap_or_default(),
            },
            connect: flags
                .connect
                .or(file.connect)
                .unwrap_or_else(|| DEFAULT_CONNECT.to_owned()),
            harden_bridges: file.harden_bridges.unwrap_or(true),
            verbose: flags.verbose,
        })
    }
}

/// A list on the command line replaces the file's.
fn typed_or_filed<T>(typed: Vec<T>, filed: Option<Vec<T>>) -> Vec<T> {
    if typed.is_empty() {
        filed.unwrap_or_default()
    } else {
        typed
    }
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
            "{}: a configuration file has at most {} KiB",
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

    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is no TOML, or says what cannot be; with the line.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e: toml::de::Error| {
            let start = e.span().map_or(0, |span| span.start);
            let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
            anyhow!("line {line}: {}", e.message())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let file = File::parse(
            "backend = 'nft'\nbridges = ['br0', 'br1']\nprefix-len = 32\n\
             trusted = ['02:00:0a:00:00:01', '2:0:a:1:0:0/32']\nconnect = 'xen:///'\n\
             isolation = 'always'\nmulticast-querier = true\nharden-bridges = false",
        )
        .unwrap();
        assert_eq!(file.backend, Some(backend::Choice::Nft));
        assert_eq!(file.bridges.unwrap(), ["br0", "br1"]);
        assert_eq!(file.prefix_len.unwrap().bits(), 32);
        let trusted: Vec<_> = file
            .trusted
            .unwrap()
            .iter()
            .map(|t| t.to_string())
            .collect();
        assert_eq!(trusted, ["02:00:0a:00:00:01/48", "02:00:0a:01:00:00/32"]);
        assert_eq!(file.connect.unwrap(), "xen:///");
        assert_eq!(file.isolation, Some(Isolation::Always));
        assert_eq!(file.multicast_querier, Some(true));
        assert_eq!(file.harden_bridges, Some(false));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, words) in [
            ("\nprefix-length = 40", ["line 2", "`prefix-length`"]),
            ("prefix-len = 7", ["line 1", "prefix length 7"]),
            ("prefix-len = 'x'", ["line 1", "string \"x\""]),
            (
                "trusted = [\n'02:00']",
                ["line 1", "\"02:00\" is not a MAC address"],
            ),
            ("backend = 'pf'", ["line 1", "`pf`"]),
            ("bridges = 'br0", ["line 1", "string"]),
        ] {
            let error = File::parse(text).unwrap_err().to_string();
            assert!(
                words.iter().all(|w| error.contains(w)) && !error.contains('\n'),
                "{error}"
            );
        }
    }
}
