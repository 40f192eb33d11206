//! The ports of containers, which are veths. When a container starts, libvirt names only the end that
//! the container gets, so the other one is found here.

use std::fs;

use anyhow::{Context, Result};

use super::{DEVICES, device, of, read};
use crate::mac::MacAddr;
use crate::vm::Port;

/// Returns the host's end of a veth whose other end is still on this host; `None` if the other end is
/// gone, is no veth, or has another MAC address.
///
/// # Errors
/// If sysfs cannot be read.
pub fn other_end(end: &Port, mac: MacAddr) -> Result<Option<Port>> {
    let end = end.as_str();
    let address = read(end, "address")?.and_then(|text| text.parse().ok());
    let (Some(own), Some(others)) = (read(end, "ifindex")?, read(end, "iflink")?) else {
        return Ok(None);
    };
    if address != Some(mac) {
        return Ok(None);
    }
    let devices = fs::read_dir(DEVICES).with_context(|| format!("cannot read {DEVICES}"))?;
    let names = devices.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| name != end) {
        // Each must name the other: a VLAN device and a macvlan name another device too.
        let is_it = read(&name, "ifindex")?.as_ref() == Some(&others)
            && read(&name, "iflink")?.as_ref() == Some(&own);
        if is_it && let Ok(port) = name.parse() {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// Lists the veths that are on bridges.
///
/// # Errors
/// If the kernel does not tell.
pub fn veths_on_bridges() -> Result<Vec<Port>> {
    let devices = fs::read_dir(DEVICES).with_context(|| format!("cannot read {DEVICES}"))?;
    let names = devices.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut veths = Vec::new();
    for port in names.filter_map(|name| name.parse().ok()) {
        if is_veth_on_bridge(&port)? {
            veths.push(port);
        }
    }
    Ok(veths)
}

/// Tells whether `port` is a veth on a bridge.
///
/// # Errors
/// If the kernel does not tell.
pub fn is_veth_on_bridge(port: &Port) -> Result<bool> {
    Ok(of(port)?.is_some() && device::is_veth(port)?)
}
