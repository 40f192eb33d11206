//! Which port is on which bridge of this host, as the kernel tells it in sysfs.
//!
//! A new network namespace shows its devices only in a sysfs mounted from inside it.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use crate::vm::Port;

const DEVICES: &str = "/sys/class/net";

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

/// Whether `port` is on a bridge, or nobody can tell.
pub fn is_on_one(port: &Port) -> bool {
    of(port).map_or(true, |bridge| bridge.is_some())
}

/// Whether `port` is on a bridge with somebody at its other end: a tap that a program has open, a
/// container's interface.
pub fn is_in_use(port: &Port) -> bool {
    let carrier = Path::new(DEVICES).join(port.as_str()).join("carrier");
    // It cannot be read of a device that is down.
    is_on_one(port) && std::fs::read_to_string(carrier).is_ok_and(|text| text.trim() == "1")
}

/// Whether a bridge of this name is on this host.
pub fn exists(bridge: &str) -> bool {
    !bridge.contains('/') && Path::new(DEVICES).join(bridge).join("bridge").is_dir()
}
