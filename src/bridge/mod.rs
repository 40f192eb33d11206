//! Which port is on which bridge of this host, as the kernel tells it in sysfs, and the settings of
//! bridges and ports that stop what no rule can: [`harden()`] and [`forget`].
//!
//! A new network namespace shows its devices only in a sysfs mounted from inside it.

mod device;
pub mod forwarding;
mod harden;
mod netlink;
mod proxy;
mod veth;

use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result};

pub use harden::{Change, Findings, Hardened, Unsupported, Weakness, forget, harden, weaknesses};
pub use proxy::proxies;
pub use veth::other_end;

use self::device::Device;
use crate::vm::{Place, Port};

const DEVICES: &str = "/sys/class/net";

/// The kernel's error numbers for devices that are gone.
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// The Linux bridge that `port` is on now; `None` if it is on none, or does not exist.
///
/// # Errors
/// If sysfs cannot be read: that nothing is known is not the same as "on no bridge".
pub fn of(port: &Port) -> Result<Option<String>> {
    let link = Path::new(DEVICES).join(port.as_str()).join("brport/bridge");
    match std::fs::read_link(&link) {
        // A name that is no UTF-8 is no reason to know nothing: it only cannot be chosen.
        Ok(target) => Ok(target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        // Not every name there is a device's: bonding has a file of its own.
        Err(e)
            if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                && Path::new(DEVICES).is_dir() =>
        {
            Ok(None)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", link.display())),
    }
}

/// Where `port` is now, and whether it is a VM's.
///
/// # Errors
/// If the kernel does not tell.
pub fn place(port: &Port) -> Result<Place> {
    let Some(bridge) = of(port)? else {
        return Ok(Place::NoBridge);
    };
    Ok(match device::of(port)? {
        None => Place::NoBridge,
        Some(Device::Nic) => Place::Nic(bridge),
        Some(Device::Other(what)) => Place::Other(bridge, what),
    })
}

/// Whether `port` is on a bridge, or nobody can tell.
pub fn is_on_one(port: &Port) -> bool {
    of(port).map_or(true, |bridge| bridge.is_some())
}

/// Whether `port` is on a bridge with somebody at its other end: a tap that a program has open, a
/// container's or a Xen domain's interface.
pub fn is_in_use(port: &Port) -> bool {
    // A tap stays where it was made to, and has a carrier while a program has it open. Other ports go
    // with their VM, and their carrier is the guest's to take away. (It cannot be read of a device
    // that is down.)
    let is_deserted = || {
        let is_tap = matches!(read(port.as_str(), "tun_flags"), Ok(Some(_)));
        is_tap && !matches!(read(port.as_str(), "carrier"), Ok(Some(text)) if text == "1")
    };
    is_on_one(port) && !is_deserted()
}

/// Whether there is a device of this name, on a bridge or not; or nobody can tell.
pub fn is_there(port: &Port) -> bool {
    let devices = Path::new(DEVICES);
    devices.join(port.as_str()).exists() || !devices.is_dir()
}

/// Whether a bridge of this name is on this host.
pub fn exists(bridge: &str) -> bool {
    !bridge.contains('/') && Path::new(DEVICES).join(bridge).join("bridge").is_dir()
}

/// A file of a device, without white space around its text; `None` if there is no such file, or the
/// device is gone.
fn read(device: &str, file: &str) -> Result<Option<String>> {
    let path = Path::new(DEVICES).join(device).join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if is_absence(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Whether this is how sysfs says that there is no such file or device. A device that is just being
/// deleted still has its files, which cannot be read.
fn is_absence(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || matches!(e.raw_os_error(), Some(ENODEV | EINVAL))
}
