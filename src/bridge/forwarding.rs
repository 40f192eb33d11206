//! Reads from sysfs what decides where a bridge sends frames: the states of its ports, and the
//! addresses that it has learned.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

use super::{DEVICES, is_absence, of, read};
use crate::explain::{Delivery, PortState};
use crate::mac::MacAddr;
use crate::vm::Port;

/// The length of an entry of a bridge's table, `struct __fdb_entry` of `linux/if_bridge.h`.
const ENTRY: usize = 16;

/// `BR_STATE_FORWARDING`.
const FORWARDING: &str = "3";

/// Reads the state of a port.
///
/// # Errors
/// If sysfs cannot be read.
pub fn state(port: &Port) -> Result<PortState> {
    let setting = |file: &str| read(port.as_str(), &format!("brport/{file}"));
    let is_on = |file: &str| Ok::<_, anyhow::Error>(setting(file)?.is_some_and(|on| on == "1"));
    Ok(PortState {
        port: port.clone(),
        bridge: of(port)?,
        stops: match setting("state")?.as_deref() {
            None | Some(FORWARDING) => None,
            Some("0") => Some("down, or no program has it open"),
            Some("4") => Some("blocked by spanning tree"),
            Some(_) => Some("not forwarding yet (spanning tree)"),
        },
        // Kernels before 4.18 do not have this setting.
        is_isolated: is_on("isolated")?,
        hairpin: is_on("hairpin_mode")?,
        floods: setting("unicast_flood")?.is_none_or(|on| on == "1"),
    })
}

/// Tells whether a bridge keeps VLANs apart.
///
/// # Errors
/// If sysfs cannot be read.
pub fn filters_vlans(bridge: &str) -> Result<bool> {
    Ok(read(bridge, "bridge/vlan_filtering")?.is_some_and(|on| on == "1"))
}

/// Tells whether the host's iptables see what this bridge forwards (`br_netfilter`).
///
/// # Errors
/// If sysfs cannot be read.
pub fn is_seen_by_iptables(bridge: &str) -> Result<bool> {
    let all = fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    let own = read(bridge, "bridge/nf_call_iptables")?;
    Ok(all.is_ok_and(|on| on.trim() == "1") || own.is_some_and(|on| on == "1"))
}

/// The address of a bridge as a device of the host.
///
/// # Errors
/// If sysfs cannot be read.
pub fn address(bridge: &str) -> Result<Option<MacAddr>> {
    Ok(read(bridge, "address")?.and_then(|text| text.parse().ok()))
}

/// Returns where a bridge sends frames to an address.
///
/// # Errors
/// If sysfs cannot be read.
pub fn delivery(bridge: &str, mac: MacAddr) -> Result<Delivery> {
    let mut places: Vec<(u16, bool)> = Vec::new();
    for entry in table(bridge)?.chunks_exact(ENTRY) {
        // Address, port, whether it is local, age (4 bytes), the port's high byte.
        let [a, b, c, d, e, f, port, is_local, _, _, _, _, high, ..] = *entry else {
            continue;
        };
        if MacAddr::new([a, b, c, d, e, f]) == mac {
            places.push((u16::from_be_bytes([high, port]), is_local != 0));
        }
    }
    // The table may have the address once for each VLAN.
    places.dedup();
    Ok(match places.as_slice() {
        [] => Delivery::Everywhere,
        [(_, true)] => Delivery::Host,
        [(number, false)] => match numbered(bridge, *number)? {
            Some(port) => Delivery::To(port),
            None => Delivery::Everywhere,
        },
        _ => Delivery::Differs,
    })
}

fn table(bridge: &str) -> Result<Vec<u8>> {
    let path = Path::new(DEVICES).join(bridge).join("brforward");
    let mut entries = Vec::new();
    match File::open(&path).and_then(|mut file| file.read_to_end(&mut entries)) {
        Err(e) if !is_absence(&e) => {
            Err(e).with_context(|| format!("cannot read {}", path.display()))
        }
        _ => Ok(entries),
    }
}

/// The port with this number.
fn numbered(bridge: &str, number: u16) -> Result<Option<Port>> {
    for port in ports(bridge)? {
        let text = read(port.as_str(), "brport/port_no")?.unwrap_or_default();
        if u16::from_str_radix(text.trim_start_matches("0x"), 16) == Ok(number) {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// The ports of a bridge whose names can be used in rules.
fn ports(bridge: &str) -> Result<Vec<Port>> {
    let path = Path::new(DEVICES).join(bridge).join("brif");
    let entries = fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}
