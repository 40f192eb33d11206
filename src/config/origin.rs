//! Tells where a setting comes from: a line of the file, the command line, or the default.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::policy::Selector;

/// The line of each key of a section.
pub type Lines = BTreeMap<&'static str, usize>;

/// Where the settings of a configuration come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// The file, whether it exists or not.
    pub file: String,
    /// The keys that the command line sets.
    pub typed: BTreeSet<&'static str>,
    /// The keys at the top of the file.
    pub global: Lines,
    /// The sections of networks: the name that errors use, and the lines of the keys.
    pub networks: BTreeMap<Selector, (String, Lines)>,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Neither the file nor the command line sets it.
    Default,
    /// A flag.
    CommandLine,
    /// The configuration file.
    File {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The section; empty: the top of the file.
        section: String,
    },
}

impl Origins {
    /// Returns where this key's value comes from, for NICs of this network.
    pub fn of(&self, network: Option<&Selector>, key: &'static str) -> Origin {
        let file = |line: &usize, section: &str| Origin::File {
            file: self.file.clone(),
            line: *line,
            section: section.to_owned(),
        };
        let own = network.and_then(|network| self.networks.get(network));
        if let Some((section, lines)) = own
            && let Some(line) = lines.get(key)
        {
            return file(line, section);
        }
        if self.typed.contains(key) {
            return Origin::CommandLine;
        }
        match self.global.get(key) {
            Some(line) => file(line, ""),
            None => Origin::Default,
        }
    }
}

impl fmt::Display for Origin {
    /// `line 4 of /etc/macfence.toml, [[network]] bridge = "br1"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::CommandLine => f.write_str("the command line"),
            Self::File {
                file,
                line,
                section,
            } if section.is_empty() => write!(f, "line {line} of {file}"),
            Self::File {
                file,
                line,
                section,
            } => write!(f, "line {line} of {file}, {section}"),
        }
    }
}
