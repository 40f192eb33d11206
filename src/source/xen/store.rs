//! What xenstore says of the host's ends of interfaces: their bridges, and their names, where the domain's
//! configuration has chosen one (`vifname=`).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};

use crate::process;
use crate::quote::quoted;
use crate::source::limits::{self, STORE_TEXT};
use crate::vm::Port;

/// Where they are. A domain whose ports this host has can read them there, and change nothing.
const PATH: &str = "/local/domain/0/backend/vif";

/// What `xenstore-ls` says of a path that is not there.
const NO_PATH: &str = "No such file or directory";

/// The host's ends of interfaces, by their domain's number and their own.
#[derive(Debug, Default)]
pub struct Backends(BTreeMap<(u32, u32), Backend>);

/// The host's end of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    domain: u32,
    index: u32,
    /// The name that the domain's configuration has for it.
    name: Option<String>,
    /// The bridge that its configuration, or that of Xen's tools, names.
    bridge: Option<String>,
}

/// A port that Xen's script is about to put on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Its name now, which the kernel or QEMU gave it.
    pub now: Port,
    /// Its name on the bridge.
    pub port: Port,
    /// The bridge.
    pub bridge: String,
}

/// Asks for those of this domain, or of all.
pub(super) fn ask(domain: Option<u32>) -> Result<Backends> {
    let path = domain.map_or(PATH.to_owned(), |domain| format!("{PATH}/{domain}"));
    let output = process::run("xenstore-ls", &["-f", &path], "")?;
    if !output.success() && output.says(NO_PATH) {
        return Ok(Backends::default());
    }
    Backends::read(&output.checked()?)
}

impl Backends {
    /// Reads what `xenstore-ls -f` prints:
    ///
    /// ```text
    /// /local/domain/0/backend/vif/1/0 = ""
    /// /local/domain/0/backend/vif/1/0/bridge = "xenbr0"
    /// /local/domain/0/backend/vif/1/0/vifname = "tenant7"
    /// ```
    ///
    /// # Errors
    /// If there is too much of it.
    pub fn read(listing: &str) -> Result<Self> {
        limits::check_text("xenstore's list", listing, STORE_TEXT)?;
        let mut backends = BTreeMap::new();
        for (path, value) in listing.lines().filter_map(|line| line.split_once(" = ")) {
            let Some(path) = path.strip_prefix(PATH) else {
                continue;
            };
            let mut keys = path.split('/').skip(1);
            let mut number = || keys.next()?.parse().ok();
            let (Some(domain), Some(index)) = (number(), number()) else {
                continue;
            };
            let backend = backends.entry((domain, index)).or_insert(Backend {
                domain,
                index,
                name: None,
                bridge: None,
            });
            let text = || -> Result<Option<String>> {
                let text = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                let text =
                    text.with_context(|| format!("xenstore listed a name as {}", quoted(value)))?;
                Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
            };
            match (keys.next(), keys.next()) {
                (Some("vifname"), None) => backend.name = text()?,
                (Some("bridge"), None) => backend.bridge = text()?,
                _ => {}
            }
        }
        Ok(Self(backends))
    }

    /// That of an interface.
    ///
    /// # Errors
    /// If xenstore has not listed it.
    pub fn of(&self, domain: u32, index: u32) -> Result<&Backend> {
        let backend = self.0.get(&(domain, index));
        backend.with_context(|| format!("xenstore knows no interface {index} of domain {domain}"))
    }
}

impl Backend {
    /// Its device. The kernel makes it under a name of its own, and Xen's script renames it before it puts it
    /// on a bridge; a script of the operator's need not. While there is a device of the kernel's name, one of
    /// the configured name is another's: a clone of a domain may have its `vifname`.
    ///
    /// # Errors
    /// If no device can have that name.
    pub fn port(
        &self,
        is_there: impl Fn(&Port) -> bool,
        is_on_bridge: impl Fn(&Port) -> bool,
    ) -> Result<Port> {
        let own = self.to_string().parse()?;
        if self.name.is_none() || is_on_bridge(&own) {
            return Ok(own);
        }
        let named = self.named("")?;
        Ok(if is_there(&own) && is_there(&named) {
            own
        } else {
            named
        })
    }

    /// The port that Xen's script puts on a bridge for it: the device itself, or QEMU's with `-emu` as the
    /// ending. `exists` tells whether the host has a bridge of this name.
    ///
    /// # Errors
    /// If no device can have that name, or xenstore names no bridge.
    pub fn coming(&self, ending: &str, exists: impl Fn(&str) -> bool) -> Result<Coming> {
        let bridge = self.bridge.as_deref().with_context(|| {
            format!(
                "interface {} of domain {} names no bridge: add bridge= to its configuration",
                self.index, self.domain
            )
        })?;
        // As vif-bridge does for configurations of old.
        let older = bridge.strip_prefix("xenbr").map(|n| format!("eth{n}"));
        let bridge = match older {
            Some(older) if !exists(bridge) && exists(&older) => older,
            _ => bridge.to_owned(),
        };
        Ok(Coming {
            now: format!("{self}{ending}").parse()?,
            port: self.named(ending)?,
            bridge,
        })
    }

    /// The name that its configuration has for its device with this ending, or else the kernel's.
    fn named(&self, ending: &str) -> Result<Port> {
        let Some(name) = &self.name else {
            return format!("{self}{ending}").parse();
        };
        format!("{name}{ending}").parse().with_context(|| {
            format!(
                "vifname of interface {} of domain {}",
                self.index, self.domain
            )
        })
    }

    /// The device that QEMU has for it, if there is one. Few domains have, and only until their guest has
    /// loaded its drivers. Xen's script renames it after the interface's own device, which is `port` now.
    ///
    /// # Errors
    /// If `is_there` fails.
    pub fn emulated(
        &self,
        port: &Port,
        is_there: impl Fn(&Port) -> Result<bool>,
    ) -> Result<Option<Port>> {
        for name in [&*self.to_string(), port.as_str()] {
            // A domain without such a device may have a name with no room for the ending.
            if let Ok(port) = format!("{name}-emu").parse()
                && is_there(&port)?
            {
                return Ok(Some(port));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Backend {
    /// The name that the kernel gives its device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vif{}.{}", self.domain, self.index)
    }
}
