//! A virtual machine as a source describes it, checked once: values of these types are safe to put into
//! a ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Error, Result, bail, ensure};

use crate::mac::MacAddr;
use crate::quote::quoted;

/// The name of a VM, as its hypervisor knows it: any text that is neither empty nor too long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl VmName {
    /// The longest name, in bytes: the limit of file names (`NAME_MAX`), because libvirt and Xen name
    /// files after a VM. OpenNebula's limit is 128. nft's limit may be lower; its backend checks that.
    pub const MAX_LEN: usize = 255;

    /// The name as text. It may contain control characters: print it with `{:?}`, or in a table through
    /// [`fmt::Display`], which escapes them.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with every byte outside `[A-Za-z0-9.-]` written as `_` and two lower-case hex digits.
    /// No two names give the same result, and none is a path.
    pub fn escaped(&self) -> String {
        let mut escaped = String::new();
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => escaped.push(byte.into()),
                _ => escaped += &format!("_{byte:02x}"),
            }
        }
        escaped
    }

    /// The number of the VM, if its name is of OpenNebula's form: `one-42`.
    pub fn one_id(&self) -> Option<&str> {
        let id = self.0.strip_prefix("one-")?;
        (!id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())).then_some(id)
    }
}

impl FromStr for VmName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.is_empty(), "a VM's name is empty");
        ensure!(
            text.len() <= Self::MAX_LEN,
            "the VM's name {} is longer than {} bytes",
            quoted(text),
            Self::MAX_LEN
        );
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// The host-side device of a NIC: an interface name that Linux accepts and nft takes literally.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(String);

impl Port {
    /// The longest interface name, in bytes: `IFNAMSIZ` less the final zero.
    pub const MAX_LEN: usize = 15;

    /// The name as text: no control characters, no white space.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Port {
    type Err = Error;

    /// Refuses what the kernel's `dev_valid_name` refuses, and what nft would not take literally. A `*`
    /// is a wildcard; `"` and `\` do not survive quoting. In nft's JSON, a leading `@` names a set, and
    /// the name of a protocol stands for that protocol's number.
    fn from_str(text: &str) -> Result<Self> {
        let len = text.len();
        ensure!(len > 0, "a port's name is empty");
        ensure!(
            len <= Self::MAX_LEN,
            "port name {} is longer than {} bytes",
            quoted(text),
            Self::MAX_LEN
        );
        ensure!(
            text != "." && text != "..",
            "port name {text:?} is not an interface name"
        );
        // The kernel's isspace() works on Latin-1 bytes, where 0xa0 is a space.
        let bad = |c: char| c.is_control() || c.is_whitespace() || "/:*\"\\".contains(c);
        ensure!(
            !text.contains(bad) && !text.bytes().any(|b| b == 0xa0) && !text.starts_with('@'),
            "port name {text:?} has a character that is not allowed"
        );
        ensure!(
            !NFT_CONSTANTS.contains(&text),
            "port name {text:?} cannot be used, because nft reads it as a protocol: rename the port"
        );
        Ok(Self(text.to_owned()))
    }
}

/// Names that nft's JSON reads as a number wherever a value may stand (0.9.8 to 1.1.3, tried out).
const NFT_CONSTANTS: [&str; 11] = [
    "ah", "comp", "dccp", "esp", "icmp", "icmpv6", "redirect", "sctp", "tcp", "udp", "udplite",
];

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a port is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On no Linux bridge, or the device does not exist.
    NoBridge,
    /// On this bridge, and of a kind that VMs have: a tap, veth, macvtap or vif.
    Nic(String),
    /// On this bridge, but something else, in words: `a physical device`. The uplink is such a port.
    Other(String, String),
}

impl Place {
    /// The bridge, for a port of any kind.
    pub fn bridge(&self) -> Option<&str> {
        match self {
            Self::NoBridge => None,
            Self::Nic(bridge) | Self::Other(bridge, _) => Some(bridge),
        }
    }

    /// Tells whether a VM's NIC can be there.
    pub fn is_nic(&self) -> bool {
        matches!(self, Self::Nic(_))
    }
}

/// One network interface of a VM: its port on the host and its MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The host-side device.
    pub port: Port,
    /// The guest-side address: unicast, not zero.
    pub mac: MacAddr,
    /// The bridge that the VM's definition names, if any. The bridge that the port is really on counts:
    /// see [`crate::bridge`].
    pub bridge: Option<String>,
    /// What its owner asked for. `None` if that is unknown: a hypervisor does not know it.
    pub asked: Option<Asked>,
}

/// What the owner of a NIC asked for in OpenNebula's template. The operator's policy decides how much
/// of it is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whether the NIC may hear all networks. Even so, it must not send under another address.
    pub hears_all: bool,
    /// Whether the NIC may use no other IP addresses than its own.
    pub guards_addresses: bool,
    /// The NIC's own IP addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Further MAC addresses that it may send under.
    pub extra_macs: BTreeSet<MacAddr>,
    /// Further IP addresses that it may use.
    pub extra_addresses: BTreeSet<IpAddr>,
}

impl Nic {
    /// A NIC that hears only its own network.
    ///
    /// # Errors
    /// If no station can have its address.
    pub fn new(port: Port, mac: MacAddr, bridge: Option<String>) -> Result<Self> {
        ensure!(
            !mac.is_multicast(),
            "port \"{port}\" has the multicast address {mac}"
        );
        ensure!(
            !mac.is_zero(),
            "port \"{port}\" has the all-zero MAC address"
        );
        Ok(Self {
            port,
            mac,
            bridge,
            asked: None,
        })
    }

    /// Tells whether its owner lets it hear all networks, as far as is known.
    pub fn hears_all(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.hears_all)
    }
}

/// A virtual machine and its NICs, as a source describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// Its NICs, in the order of its definition.
    pub nics: Vec<Nic>,
    /// Interfaces that have no port or no address and so cannot be fenced, each in words.
    pub skipped: Vec<String>,
}

/// Refuses VMs that cannot exist side by side: a port belongs to one NIC of one VM, and a name to
/// one VM.
///
/// # Errors
/// If a port or a name occurs twice.
pub fn check_distinct(vms: &[Vm]) -> Result<()> {
    let mut names = BTreeSet::new();
    let mut ports: BTreeMap<&Port, &VmName> = BTreeMap::new();
    for vm in vms {
        if !names.insert(&vm.name) {
            bail!("VM {:?} is described twice", vm.name.as_str());
        }
        for nic in &vm.nics {
            if let Some(other) = ports.insert(&nic.port, &vm.name) {
                bail!(
                    "port \"{}\" is claimed twice, by VM {:?} and VM {:?}",
                    nic.port,
                    other.as_str(),
                    vm.name.as_str()
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
