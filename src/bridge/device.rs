//! Tells what kind of device a port is, because only a VM's port may be fenced. A fence on the host's
//! uplink would cut off every VM, and a user can name any port in a VM's definition.

use std::path::Path;

use anyhow::{Context, Result};
use netlink_packet_core::NlasIterator;

use super::{DEVICES, netlink, read};
use crate::vm::Port;

/// The kind of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// A tap, veth, macvtap or Xen's vif: the host's end of a VM's or container's NIC.
    Nic,
    /// Anything else, in words.
    Other(String),
}

/// `IFF_TAP` of `linux/if_tun.h`.
const IFF_TAP: u32 = 2;

/// The attributes of `linux/if_link.h` that hold a device's kind.
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

/// The length of the header of a link message, `struct ifinfomsg`.
const HEADER: usize = 16;

/// Returns the kind of device that `port` is; `None` if it is gone.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn of(port: &Port) -> Result<Option<Device>> {
    // Most ports are taps, and this file takes a tenth of the time of a netlink request.
    if let Some(flags) = read(port.as_str(), "tun_flags")? {
        return Ok(Some(if is_tap(&flags) {
            Device::Nic
        } else {
            Device::Other("a tun device".to_owned())
        }));
    }
    if let Some(bus) = bus(port)? {
        return Ok(Some(match bus.as_str() {
            "xen-backend" => Device::Nic,
            _ => Device::Other("a physical device".to_owned()),
        }));
    }
    let link = link(port)?;
    Ok(link.map(|link| virtual_device(kind(&link).as_deref())))
}

/// Tells whether a device is one end of a veth. `false` also if it is gone.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn is_veth(port: &Port) -> Result<bool> {
    Ok(link(port)?.is_some_and(|link| kind(&link).as_deref() == Some("veth")))
}

/// The kernel's answer about a device; `None` if it is gone.
fn link(port: &Port) -> Result<Option<Vec<u8>>> {
    let Some(index) = netlink::index(port)? else {
        return Ok(None);
    };
    match netlink::link(index) {
        Err(e) if e.raw_os_error() == Some(super::ENODEV) => Ok(None),
        link => link
            .map(Some)
            .with_context(|| format!("cannot ask the kernel about device \"{port}\"")),
    }
}

fn is_tap(flags: &str) -> bool {
    let digits = flags.trim_start_matches("0x");
    u32::from_str_radix(digits, 16).is_ok_and(|flags| flags & IFF_TAP != 0)
}

/// The bus of the hardware behind a device: `pci`, `virtio`, `xen-backend`; `None` if it has no hardware.
fn bus(port: &Port) -> Result<Option<String>> {
    let link = Path::new(DEVICES)
        .join(port.as_str())
        .join("device/subsystem");
    match std::fs::read_link(&link) {
        Ok(bus) => Ok(bus
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        Err(e) if super::is_absence(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", link.display())),
    }
}

/// A device without hardware, by its kind as `ip -d link` shows it.
fn virtual_device(kind: Option<&str>) -> Device {
    match kind {
        Some("veth" | "macvtap") => Device::Nic,
        Some(kind) => Device::Other(format!("a device of kind {kind:?}")),
        None => Device::Other("a device of unknown kind".to_owned()),
    }
}

/// Finds the kind in the kernel's answer about a link. Other attributes are not parsed: a kernel newer
/// than our libraries may have changed them.
fn kind(link: &[u8]) -> Option<String> {
    let info = attribute(link.get(HEADER..)?, IFLA_LINKINFO)?;
    let kind = attribute(&info, IFLA_INFO_KIND)?;
    let text = kind.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The number by which our network namespace knows the one at the other end of a veth; `None` if that
/// end is in ours, or this is no veth.
pub(super) fn peer_namespace(link: &[u8]) -> Option<i32> {
    if kind(link)? != "veth" {
        return None;
    }
    let number = attribute(link.get(HEADER..)?, IFLA_LINK_NETNSID)?;
    number.try_into().ok().map(i32::from_ne_bytes)
}

fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut known = NlasIterator::new(attributes).map_while(std::result::Result::ok);
    known
        .find(|attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_told_from_a_tun() {
        assert!(is_tap("0x1002"));
        assert!(is_tap("0x5102"));
        assert!(!is_tap("0x1001"));
        assert!(!is_tap(""));
    }

    #[test]
    fn only_kinds_that_vms_have_are_nics() {
        assert_eq!(virtual_device(Some("veth")), Device::Nic);
        for kind in ["bond", "vlan", "bridge", "team", "dummy", "vxlan"] {
            assert!(
                matches!(virtual_device(Some(kind)), Device::Other(words) if words.contains(kind))
            );
        }
        assert!(matches!(virtual_device(None), Device::Other(_)));
    }

    #[test]
    fn the_kind_is_found_among_other_attributes() {
        let mut link = vec![0; HEADER];
        link.extend([5, 0, 16, 0, 6, 0, 0, 0]); // operstate
        link.extend([16, 0, 18, 0, 4, 0, 2, 0, 8, 0, 1, 0]); // link info: data, kind
        link.extend(*b"veth");
        assert_eq!(kind(&link).as_deref(), Some("veth"));
        assert_eq!(kind(&link[..HEADER + 8]), None);
        assert_eq!(kind(&[]), None);
        assert_eq!(peer_namespace(&link), None);
        link.extend([8, 0, 37, 0, 3, 0, 0, 0]);
        assert_eq!(peer_namespace(&link), Some(3));
        // Lengths that lie.
        link[HEADER] = 3;
        assert_eq!(kind(&link), None);
    }
}
