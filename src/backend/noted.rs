//! Who was dropped, as far as a firewall notes it.

use std::fmt;

use serde::Serialize;

use crate::mac::MacAddr;
use crate::vm::Port;

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// From the port, under an address that is not its own.
    Spoofed,
    /// To the port, from another network.
    Foreign,
    /// From the port, under an IP address that is not its own, or in another's role.
    Forged,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Spoofed, Self::Foreign, Self::Forged];

    /// Which way the frames went, as seen from the port: `from` the VM or `to` it.
    pub fn direction(self) -> &'static str {
        match self {
            Self::Spoofed | Self::Forged => "from",
            Self::Foreign => "to",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Spoofed => "spoofed",
            Self::Foreign => "foreign",
            Self::Forged => "forged",
        })
    }
}

/// A source address whose frames were dropped at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Why.
    pub reason: Reason,
    /// The VM's port.
    pub port: Port,
    /// The frames' source address.
    pub source: MacAddr,
    /// How many frames, since the address was noted; `None` where nobody counts.
    pub frames: Option<u64>,
    /// How many seconds ago the last one came.
    pub seconds: u64,
}
