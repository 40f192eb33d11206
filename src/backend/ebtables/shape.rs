//! The shapes of our rules: what they match, where they belong, and how ebtables writes them.

use anyhow::{Result, ensure};

use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// The target that drops a frame.
pub const DROP: &str = "DROP";

/// Where a rule is: a built-in chain of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: &'static str,
}

/// Frames from the ports, before the bridge learns where their senders are.
pub const PREROUTING: Place = Place {
    table: "nat",
    chain: "PREROUTING",
};

/// Frames to the host. Some to 01:80:c2:00:00:0x come here and not to `PREROUTING`.
pub const INPUT: Place = Place {
    table: "filter",
    chain: "INPUT",
};

/// Frames that the bridge forwards.
pub const FORWARD: Place = Place {
    table: "filter",
    chain: "FORWARD",
};

/// Every place in which we have rules.
pub const PLACES: [Place; 3] = [PREROUTING, INPUT, FORWARD];

/// The tables of [`PLACES`], in the order in which rules are added: `PREROUTING` must have its rule
/// before `FORWARD` loses the one of version 0.1.
pub const TABLES: [&str; 2] = [PREROUTING.table, FORWARD.table];

/// Control frames, which no bridge forwards: 01:80:c2:00:00:00 to 0f (IEEE 802.1Q table 8-1), with the
/// mask.
pub const CONTROL: (MacAddr, MacAddr) = (
    MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0]),
    MacAddr::new([0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]),
);
/// Multicast and broadcast frames: the bit that is set in their address, with the mask.
pub const GROUPS: (MacAddr, MacAddr) = (
    MacAddr::new([1, 0, 0, 0, 0, 0]),
    MacAddr::new([1, 0, 0, 0, 0, 0]),
);

/// A target, an address if there is one, and a word. If two rules share all of these, ebtables may not
/// tell them apart.
pub type Fingerprint = (String, Option<MacAddr>, String);

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `-s ! MAC -i PORT`: frames from the port under another address.
    Spoofed(Port, MacAddr),
    /// `-d RECEIVERS -i PORT`: frames from the port to control addresses, or to any group.
    Meddling(Port, Receivers),
    /// `-s ! PREFIX/MASK -o PORT`: frames to the port from another network.
    Foreign(Port, MacPrefix),
    /// `-s ! PREFIX/MASK -d ! MAC -o PORT --pkttype-type otherhost`: unicast frames to the port
    /// from another network that are for another station. The kernel calls no multicast or
    /// broadcast frame `otherhost`.
    Overheard(Port, MacPrefix, MacAddr),
    /// `-i PORT`: all frames from the port, for the chain that guards its IP addresses.
    Addresses(Port),
}

/// The receivers of frames that meddle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receivers {
    /// 01:80:c2:00:00:0x, which no bridge forwards: control frames.
    Bridges,
    /// Any multicast or broadcast address.
    Groups,
}

impl Shape {
    /// The places in which a rule of this shape is ours: we write it there, or version 0.1 and the seed
    /// did.
    pub fn places(&self) -> &'static [Place] {
        match self {
            Self::Spoofed(..) => &[PREROUTING, FORWARD],
            Self::Meddling(_, Receivers::Bridges) => &[PREROUTING, INPUT],
            Self::Meddling(_, Receivers::Groups) | Self::Addresses(_) => &[PREROUTING],
            Self::Foreign(..) | Self::Overheard(..) => &[FORWARD],
        }
    }

    /// The port that a rule of this shape stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed(port, _)
            | Self::Meddling(port, _)
            | Self::Foreign(port, _)
            | Self::Overheard(port, ..)
            | Self::Addresses(port) => port,
        }
    }

    /// Tells whether two shapes are of the same kind and for the same port, so that one rule replaces
    /// the other.
    pub fn is_like(&self, other: &Self) -> bool {
        self.port() == other.port() && std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// What ebtables may compare to find a rule of this shape. It may take a rule that shares all of
    /// these for this one.
    pub fn fingerprints(&self, target: &str) -> Vec<Fingerprint> {
        let addresses = match self {
            Self::Spoofed(_, mac) => vec![Some(*mac)],
            Self::Meddling(_, receivers) => vec![Some(receivers.address().0)],
            Self::Foreign(_, own) => vec![Some(own.base())],
            Self::Overheard(_, own, mac) => vec![Some(own.base()), Some(*mac)],
            Self::Addresses(_) => vec![None],
        };
        let port = self.port().to_string();
        let print = |mac| (target.to_owned(), mac, port.clone());
        addresses.into_iter().map(print).collect()
    }

    /// The words that match it, in the order in which ebtables lists them.
    pub fn words(&self) -> Vec<String> {
        let text = match self {
            Self::Spoofed(port, mac) => format!("-s ! {mac} -i {port}"),
            Self::Meddling(port, receivers) => {
                let (address, mask) = receivers.address();
                format!("-d {address}/{mask} -i {port}")
            }
            Self::Foreign(port, own) => format!("-s ! {}/{} -o {port}", own.base(), own.mask()),
            Self::Overheard(port, own, mac) => {
                let (base, mask) = (own.base(), own.mask());
                format!("-s ! {base}/{mask} -d ! {mac} -o {port} --pkttype-type otherhost")
            }
            Self::Addresses(port) => format!("-i {port}"),
        };
        text.split(' ').map(str::to_owned).collect()
    }
}

impl Receivers {
    /// Their address and its mask.
    pub fn address(self) -> (MacAddr, MacAddr) {
        match self {
            Self::Bridges => CONTROL,
            Self::Groups => GROUPS,
        }
    }
}

/// Refuses port names that ebtables would not take literally: `+` is its wildcard, `!` its
/// negation, and ebtables-restore has quotes.
pub fn check_port(port: &Port) -> Result<()> {
    let literal = |c: char| c.is_ascii_alphanumeric() || "-._@#%=~^,".contains(c);
    ensure!(
        port.as_str().chars().all(literal) && !port.as_str().starts_with('-'),
        "port name \"{port}\" cannot be used with ebtables, which would misread it: rename the port, or use nft"
    );
    Ok(())
}

/// `MAC` or `MAC/MASK`, padded or not.
pub fn prefix(text: &str) -> Option<MacPrefix> {
    match text.split_once('/') {
        Some((base, mask)) => MacPrefix::from_mask(base.parse().ok()?, mask.parse().ok()?),
        None => Some(MacPrefix::of(text.parse().ok()?, PrefixLen::FULL)),
    }
}
