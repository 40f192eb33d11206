//! The parties on the bridge, and which of them hear each other.

use macfence::mac::MacAddr;

use crate::lab::Tap;
use crate::lab::frame::{Kind, frame, number};

/// A VM or the router, at a port of the bridge.
pub struct Party {
    pub name: &'static str,
    pub port: &'static str,
    pub mac: &'static str,
    /// The party's virtual network. `None` for the router, which serves both.
    pub network: Option<char>,
}

const fn vm(name: &'static str, port: &'static str, mac: &'static str, network: char) -> Party {
    Party {
        name,
        port,
        mac,
        network: Some(network),
    }
}

pub const PARTIES: [Party; 5] = [
    vm("one-1", "one-1-0", "02:00:c0:a8:00:05", 'A'),
    vm("one-2", "one-2-0", "02:00:c0:a8:00:06", 'A'),
    vm("one-3", "one-3-0", "02:00:c0:a8:01:05", 'B'),
    vm("one-4", "one-4-0", "02:00:c0:a8:01:06", 'B'),
    Party {
        name: "router",
        port: "eth0",
        mac: "52:54:00:12:34:56",
        network: None,
    },
];

/// Returns the parties that have a network.
pub fn vms() -> impl Iterator<Item = &'static Party> {
    PARTIES.iter().filter(|party| party.network.is_some())
}

/// A broadcast frame, given by its sender and by the owner of its source address. Both are places
/// in [`PARTIES`].
pub type Sender = (usize, usize);

/// Each party under its own address, and three that lie.
pub const SENDERS: [Sender; 8] = [
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 3),
    (4, 4),
    (0, 2),
    (2, 0),
    (2, 4),
];

/// For each sender, the parties that hear it.
pub type Hearing = Vec<[bool; PARTIES.len()]>;

/// Sends all frames from the far ends of the parties' ports, and notes who hears them.
pub fn measured(taps: &[Tap]) -> Hearing {
    let parse = |text: &str| text.parse::<MacAddr>().expect("an address");
    let mut hearing = Vec::new();
    for (id, (sender, claimed)) in SENDERS.into_iter().enumerate() {
        let everybody = MacAddr::new([0xff; 6]);
        let bytes = frame(Kind::Arp, parse(PARTIES[claimed].mac), everybody, id as u32);
        taps[sender].send(&bytes);
        let heard = |tap: &Tap| tap.heard().iter().any(|f| number(f) == Some(id as u32));
        hearing.push(std::array::from_fn(|listener| heard(&taps[listener])));
    }
    hearing
}

/// Returns who should hear each frame. Without fences everybody else hears it. With fences nobody
/// hears a false address, and a VM hears only its own network and the router.
pub fn expected(fenced: bool) -> Hearing {
    let hears = |(sender, claimed): Sender, listener: usize| {
        let (from, to) = (PARTIES[claimed].network, PARTIES[listener].network);
        let may = from.is_none() || to.is_none() || from == to;
        listener != sender && (!fenced || sender == claimed && may)
    };
    let heard = |sender| std::array::from_fn(|listener| hears(sender, listener));
    SENDERS.map(heard).to_vec()
}
