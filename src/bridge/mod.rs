//! Tells which port is on which bridge, as sysfs has it, and changes the settings of bridges and ports
//! that stop what no rule can stop: [`harden()`] and [`forget`]. A port that a script has announced is on its
//! bridge for us already: [`announce`].
//!
//! A new network namespace shows its devices only in a sysfs mounted from inside it.

mod announced;
mod device;
pub mod forwarding;
mod harden;
mod netlink;
mod proxy;
mod veth;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result};

pub use announced::announce;
pub use harden::{Change, Findings, Hardened, Unsupported, Weakness, forget, harden, weaknesses};
pub use proxy::proxies;
pub use veth::{is_veth_on_bridge, other_end, veths_on_bridges};

use self::device::Device;
use crate::vm::{Place, Port};

const DEVICES: &str = "/sys/class/net";

/// The kernel's error numbers for devices that are gone.
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// The Linux bridge that `port` is on now, or that a script is about to put it on; `None` if it is on none,
/// or the port does not exist.
///
/// # Errors
/// If sysfs cannot be read. "Unknown" must not be taken for "on no bridge".
pub fn of(port: &Port) -> Result<Option<String>> {
    if let Some(bridge) = now(port)? {
        return Ok(Some(bridge));
    }
    match announced::bridge_of(port) {
        // A script may have done meanwhile what it had announced, and ended.
        None => now(port),
        announced => Ok(announced),
    }
}

fn now(port: &Port) -> Result<Option<String>> {
    let link = Path::new(DEVICES).join(port.as_str()).join("brport/bridge");
    match std::fs::read_link(&link) {
        // A bridge whose name is not UTF-8 cannot be named in the configuration, but the port is still
        // on a bridge.
        Ok(target) => Ok(target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        // Not every entry of this directory is a device: bonding has a file there.
        Err(e)
            if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                && Path::new(DEVICES).is_dir() =>
        {
            Ok(None)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", link.display())),
    }
}

/// Returns where `port` is now, and whether it is a VM's.
///
/// # Errors
/// If the kernel does not tell.
pub fn place(port: &Port) -> Result<Place> {
    let Some(bridge) = of(port)? else {
        return Ok(Place::NoBridge);
    };
    Ok(match device::of(port)? {
        // It may get its name only when it gets its bridge.
        None => announced::bridge_of(port).map_or(Place::NoBridge, Place::Nic),
        Some(Device::Nic) => Place::Nic(bridge),
        Some(Device::Other(what)) => Place::Other(bridge, what),
    })
}

/// Tells whether `port` is on a bridge. `true` also if that is unknown.
pub fn is_on_one(port: &Port) -> bool {
    of(port).map_or(true, |bridge| bridge.is_some())
}

/// Tells whether `port` is on a bridge and something uses its other end: a program that has a tap open,
/// a container, or a Xen domain.
pub fn is_in_use(port: &Port) -> bool {
    // A persistent tap outlives its VM, and has a carrier only while a program has it open. Other ports
    // vanish with their VM, and the guest decides about their carrier. (The carrier of a device that is
    // down cannot be read.)
    let is_deserted = || {
        let is_tap = matches!(read(port.as_str(), "tun_flags"), Ok(Some(_)));
        is_tap && !matches!(read(port.as_str(), "carrier"), Ok(Some(text)) if text == "1")
    };
    is_on_one(port) && !is_deserted()
}

/// Tells whether a device of this name exists, on a bridge or not. `true` also if that is unknown.
pub fn is_there(port: &Port) -> bool {
    let devices = Path::new(DEVICES);
    devices.join(port.as_str()).exists() || !devices.is_dir()
}

/// Tells whether a bridge of this name is on this host.
pub fn exists(bridge: &str) -> bool {
    !bridge.contains('/') && Path::new(DEVICES).join(bridge).join("bridge").is_dir()
}

/// Lists the bridges of this host.
///
/// # Errors
/// If the kernel's list of devices cannot be read.
pub fn all() -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(DEVICES).with_context(|| format!("cannot read {DEVICES}"))?;
    let names = entries.map_while(Result::ok).map(|entry| entry.file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| exists(name)).collect())
}

/// Reads a file of a device, without white space around its text; `None` if the file or the device does
/// not exist.
fn read(device: &str, file: &str) -> Result<Option<String>> {
    let path = Path::new(DEVICES).join(device).join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if is_absence(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Tells whether this error means that the file or device does not exist. While a device is being
/// deleted its files still exist, but cannot be read.
fn is_absence(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || matches!(e.raw_os_error(), Some(ENODEV | EINVAL))
}
