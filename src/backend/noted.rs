//! The senders whose dropped frames the firewall has noted.

use std::fmt;

use serde::Serialize;

use crate::mac::MacAddr;
use crate::vm::Port;

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The frame came from the port, with a source address that is not the VM's.
    Spoofed,
    /// The frame was for the port, and came from another network.
    Foreign,
    /// The frame came from the port, with an IP address that is not the VM's, or in the role of a
    /// server or router.
    Forged,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Spoofed, Self::Foreign, Self::Forged];

    /// The direction of the frames: `from` the VM or `to` it.
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
    /// Why they were dropped.
    pub reason: Reason,
    /// The VM's port.
    pub port: Port,
    /// The frames' source address.
    pub source: MacAddr,
    /// How many frames were dropped since the address was noted. `None` if the firewall does not count
    /// them.
    pub frames: Option<u64>,
    /// How many seconds ago the last frame was dropped.
    pub seconds: u64,
}
