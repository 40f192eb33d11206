//! Finds the ports of OpenNebula's transparent proxies. For a proxy, OpenNebula puts a veth `<bridge>b`
//! on the bridge, with a random MAC address. The veth's other end is in a network namespace of the
//! proxy.
//!
//! The name proves nothing: a user may give his VM's port this name, and a container's port is a veth
//! as well. The namespace proves it: only root can put the other end of a veth there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{DEVICES, ENODEV, device, exists, is_absence, netlink, of};
use crate::vm::Port;

/// Where `ip netns add` puts network namespaces. On most hosts one is a link to the other.
const NAMESPACES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// The namespace of all proxies, in OpenNebula 6.10. Later versions have one for each bridge, with `_`
/// and the bridge's name appended.
const COMMON: &str = "one_tproxy";

/// The proxies' ports, by bridge.
///
/// # Errors
/// If there may be a proxy, and the kernel does not tell.
pub fn proxies() -> Result<BTreeMap<String, Port>> {
    let mut found = BTreeMap::new();
    for (name, path) in namespaces()? {
        let bridges = match name.strip_prefix(COMMON) {
            Some("") => bridges()?,
            Some(bridge) => Vec::from_iter(bridge.strip_prefix('_').map(str::to_owned)),
            None => continue,
        };
        let bridges: Vec<_> = bridges.into_iter().filter(|name| exists(name)).collect();
        for bridge in bridges {
            let proxy = proxy(&bridge, &path);
            let proxy = proxy.with_context(|| format!("cannot ask about {}", path.display()))?;
            found.extend(proxy.map(|port| (bridge, port)));
        }
    }
    Ok(found)
}

/// The network namespaces that may be a proxy's: names and files.
fn namespaces() -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for dir in NAMESPACES {
        let entries = match fs::read_dir(dir) {
            Err(e) if is_absence(&e) => continue,
            entries => entries.with_context(|| format!("cannot read {dir}"))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {dir}"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(COMMON) {
                found.push((name, entry.path()));
            }
        }
    }
    Ok(found)
}

/// The bridges of this host.
fn bridges() -> Result<Vec<String>> {
    let entries = fs::read_dir(DEVICES).with_context(|| format!("cannot read {DEVICES}"))?;
    let names = entries.map_while(Result::ok).map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// The port of this bridge's proxy, if its other end is in this namespace.
fn proxy(bridge: &str, namespace: &Path) -> Result<Option<Port>> {
    let Ok(port) = format!("{bridge}b").parse::<Port>() else {
        return Ok(None);
    };
    if of(&port)?.as_deref() != Some(bridge) {
        return Ok(None);
    }
    let Some(index) = netlink::index(&port)? else {
        return Ok(None);
    };
    // This must come before asking for the namespace: the kernel gives the namespace a number when it
    // tells about the device.
    let link = match netlink::link(index) {
        Err(e) if e.raw_os_error() == Some(ENODEV) => return Ok(None),
        link => link?,
    };
    let Some(peer) = device::peer_namespace(&link) else {
        return Ok(None);
    };
    let namespace = match File::open(namespace) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    Ok((netlink::namespace(&namespace)? == Some(peer)).then_some(port))
}
