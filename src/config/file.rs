//! Reads the configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use super::origin::{Lines, Origins};
use super::section::Section;
use crate::backend;
use crate::fence::LinkLocal;
use crate::mac::{MacAddr, MacPrefix};
use crate::policy::{AddressGuard, Extras, Isolation, Network, Overrides, Selector, is_a_hosts};

/// The settings in the configuration file.
#[derive(Debug, Default)]
pub struct File {
    pub(super) backend: Option<backend::Choice>,
    pub(super) bridges: Option<Vec<String>>,
    pub(super) connect: Option<Vec<String>>,
    pub(super) harden_bridges: Option<bool>,
    pub(super) log: Option<Option<u16>>,
    pub(super) global: Overrides,
    pub(super) networks: Vec<Network>,
    pub(super) nics: BTreeMap<MacAddr, Extras>,
    pub(super) origins: Origins,
}

impl File {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is not TOML, or has a mistake; the error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut file = Section::file(text)?;
        let backends = [
            ("auto", backend::Choice::Auto),
            ("nft", backend::Choice::Nft),
            ("ebtables", backend::Choice::Ebtables),
        ];
        let mut sections = BTreeMap::new();
        let mut parsed = Self {
            backend: file.word("backend", &backends)?,
            bridges: file.list("bridges", "a list of bridge names", bridge)?,
            connect: file.text_or_list("connect", "a libvirt URI or a list of them")?,
            harden_bridges: file.flag("harden-bridges")?,
            log: file.text(
                "log",
                "\"none\", or \"nflog:\" and a group from 0 to 65535",
                log,
            )?,
            global: overrides(&mut file)?,
            networks: networks(file.sections("network")?, &mut sections)?,
            nics: nics(file.sections("nic")?)?,
            origins: Origins::default(),
        };
        parsed.origins.global.clone_from(&file.lines);
        parsed.origins.networks = sections;
        file.end()?;
        Ok(parsed)
    }
}

/// Reads the keys that are allowed both at the top of the file and in a network's section.
fn overrides(section: &mut Section) -> Result<Overrides> {
    let isolations = [
        ("template", Isolation::Template),
        ("always", Isolation::Always),
    ];
    let guards = [
        ("template", AddressGuard::Template),
        ("always", AddressGuard::Always),
        ("never", AddressGuard::Never),
        ("mac", AddressGuard::Mac),
    ];
    let link_locals = [("eui64", LinkLocal::Eui64), ("any", LinkLocal::Any)];
    Ok(Overrides {
        prefix_len: section.number("prefix-len", "a number from 8 to 48")?,
        trusted: section.list_of("trusted", "a list of MAC addresses or prefixes")?,
        trusted_ports: section.list_of("trusted-ports", "a list of port names")?,
        opennebula_proxy: section.flag("opennebula-proxy")?,
        isolation: section.word("isolation", &isolations)?,
        multicast_querier: section.flag("multicast-querier")?,
        addresses: section.word("addresses", &guards)?,
        link_local: section.word("link-local", &link_locals)?,
        dhcp_guard: section.flag("dhcp-guard")?,
        ra_guard: section.flag("ra-guard")?,
        template_extras: section.flag("template-extras")?,
    })
}

/// Reads the sections of networks, and notes their names and lines in `origins`.
fn networks(
    sections: Vec<Section>,
    origins: &mut BTreeMap<Selector, (String, Lines)>,
) -> Result<Vec<Network>> {
    let mut networks = Vec::new();
    // The line of each selector, and the name of its section for errors.
    let mut seen: BTreeMap<Selector, (usize, String)> = BTreeMap::new();
    for mut section in sections {
        let selector = Selector {
            bridge: section.text("bridge", "a bridge name", bridge)?,
            mac: section.text("mac", "a MAC address or prefix", str::parse)?,
        };
        let named = [
            selector
                .bridge
                .as_ref()
                .map(|name| format!("bridge = {name:?}")),
            selector.mac.map(|prefix| format!("mac = \"{prefix}\"")),
        ];
        let named: Vec<_> = named.into_iter().flatten().collect();
        if named.is_empty() {
            return Err(section.error("set bridge or mac to say which NICs this section is for"));
        }
        section.name = format!("{} {}", section.name, named.join(", "));
        let here = (section.line(), section.name.clone());
        if let Some((line, name)) = seen.insert(selector.clone(), here) {
            return Err(section.error(format!(
                "{name} in line {line} is for the same NICs: merge the two"
            )));
        }
        let overrides = overrides(&mut section)?;
        let mut extras = extras(&mut section)?;
        extras.ips.extend(ips(&mut section, "ips")?);
        let origin = (section.name.clone(), section.lines.clone());
        origins.insert(selector.clone(), origin);
        section.end()?;
        networks.push(Network {
            selector,
            overrides,
            extras,
        });
    }
    Ok(networks)
}

fn nics(sections: Vec<Section>) -> Result<BTreeMap<MacAddr, Extras>> {
    let mut nics = BTreeMap::new();
    let mut seen: BTreeMap<MacAddr, usize> = BTreeMap::new();
    for mut section in sections {
        let Some(mac) = section.text("mac", "a MAC address", station)? else {
            return Err(section.error("set mac to say which NIC this section is for"));
        };
        section.name = format!("{} mac = \"{mac}\"", section.name);
        if let Some(line) = seen.insert(mac, section.line()) {
            return Err(section.error(format!(
                "line {line} has a section for the same NIC: merge the two"
            )));
        }
        nics.insert(mac, extras(&mut section)?);
        section.end()?;
    }
    Ok(nics)
}

fn extras(section: &mut Section) -> Result<Extras> {
    let macs = section.list("extra-macs", "a list of MAC addresses", station)?;
    Ok(Extras {
        macs: macs.unwrap_or_default().into_iter().collect(),
        ips: ips(section, "extra-ips")?,
    })
}

fn ips(section: &mut Section, key: &'static str) -> Result<BTreeSet<IpAddr>> {
    let ips = section.list(key, "a list of IP addresses", ip)?;
    Ok(ips.unwrap_or_default().into_iter().collect())
}

/// Reads where dropped frames are logged.
fn log(text: &str) -> Result<Option<u16>> {
    if text == "none" {
        return Ok(None);
    }
    let group = text
        .strip_prefix("nflog:")
        .and_then(|group| group.parse().ok());
    let group = group.with_context(|| format!("{text:?} is neither of them"))?;
    Ok(Some(group))
}

/// Checks the name of a bridge.
pub(super) fn bridge(name: &str) -> Result<String> {
    ensure!(!name.is_empty(), "a bridge name cannot be empty");
    Ok(name.to_owned())
}

/// Reads a MAC address that a NIC can have. Parsing it as a prefix too refuses multicast and all-zero
/// addresses.
fn station(text: &str) -> Result<MacAddr> {
    let mac: MacAddr = text.parse()?;
    text.parse::<MacPrefix>()?;
    Ok(mac)
}

fn ip(text: &str) -> Result<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        anyhow::bail!("{text:?} is not an IP address");
    };
    let address = address.to_canonical();
    ensure!(
        is_a_hosts(address),
        "{text:?} is not the IP address of a host"
    );
    Ok(address)
}
