//! What a VM may try against the bridge itself and against the host: on bridges that learn and snoop,
//! as Linux makes them. Elsewhere they flood, so that silence means a drop; but what a bridge learns
//! decides who gets the victim's frames.

pub mod before_fence;
pub mod bridge_table;
mod guest;
pub mod host;
pub mod multicast;
mod open;
pub mod overheard;
mod ports;
pub mod queries;
mod seed_verdicts;
mod upgrade;

use std::collections::BTreeMap;
use std::process::Command;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::learning::{Ear, Table};
use crate::lab::{Host, MACFENCE, Ran, Tap, domain, fetched, macfence_with};

pub const BROADCAST: MacAddr = MacAddr::new([0xff; 6]);

/// The bridge's own address.
pub const BRIDGE: MacAddr = MacAddr::new([6, 0, 0, 0, 0, 1]);

/// The firewall that macfence finds on a host.
#[derive(Clone, Copy, Debug)]
pub enum Firewall {
    /// The nft of this system.
    Nft,
    /// No nft, but ebtables.
    Ebtables,
    /// The nft of another Debian, by its version.
    OtherNft(&'static str),
}

impl Firewall {
    /// A host with this firewall.
    pub fn host(self) -> Host {
        let host = Host::new();
        if let Self::Ebtables = self {
            host.hide("nft");
        }
        host
    }

    /// Runs macfence on such a host.
    pub fn macfence(self, host: &Host, args: &[&str], stdin: &str) -> Ran {
        let mut command = match self {
            Self::OtherNft(version) => {
                let nft = fetched(&format!("nft/{version}/nft"));
                macfence_with(nft.parent().expect("a folder"))
            }
            Self::Nft | Self::Ebtables => Command::new(MACFENCE),
        };
        host.exec(command.args(args), stdin)
    }
}

/// Those on the bridge, by their place in [`PARTIES`].
pub type Party = usize;
pub const VICTIM: Party = 0;
/// Of the victim's network, as the insider is.
pub const NEIGHBOUR: Party = 1;
/// An attacker of the victim's network.
pub const INSIDER: Party = 2;
/// An attacker of another network.
pub const OUTSIDER: Party = 3;
/// Of the outsider's network.
pub const BYSTANDER: Party = 4;
/// Trusted, and behind the uplink, which nobody fences.
pub const ROUTER: Party = 5;

/// The VM (none: the uplink), the port and the address of each.
pub const PARTIES: [(Option<&str>, &str, MacAddr); 6] = [
    (
        Some("one-1"),
        "one-1-0",
        MacAddr::new([2, 0, 192, 168, 0, 5]),
    ),
    (
        Some("one-2"),
        "one-2-0",
        MacAddr::new([2, 0, 192, 168, 0, 6]),
    ),
    (
        Some("one-3"),
        "one-3-0",
        MacAddr::new([2, 0, 192, 168, 0, 7]),
    ),
    (Some("one-4"), "one-4-0", MacAddr::new([2, 0, 10, 0, 0, 5])),
    (Some("one-5"), "one-5-0", MacAddr::new([2, 0, 10, 0, 0, 6])),
    (None, "eth0", MacAddr::new([0x52, 0x54, 0, 0, 0, 1])),
];

pub const fn port(party: Party) -> &'static str {
    PARTIES[party].1
}

pub const fn mac(party: Party) -> MacAddr {
    PARTIES[party].2
}

/// Whether one may hear what the other sends to it, by their networks.
pub fn may_hear(listener: Party, sender: Party) -> bool {
    let is_in_a = |party| party <= INSIDER;
    listener == ROUTER || sender == ROUTER || is_in_a(listener) == is_in_a(sender)
}

/// How the bridge is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub stp: bool,
    /// Which frames to 01:80:c2:00:00:0x it forwards all the same: one bit each.
    pub mask: u16,
}

/// A host with one bridge that learns, and those on it.
pub struct Scene {
    pub firewall: Firewall,
    pub host: Host,
    pub taps: Vec<Tap>,
    pub table: Table,
    /// What the host hears on the bridge.
    pub ear: Ear,
}

impl Scene {
    /// Nobody is fenced yet, and nobody has said a word.
    pub fn new(firewall: Firewall, settings: Settings) -> Self {
        let host = firewall.host();
        host.learning_bridge("br0", &BRIDGE.to_string());
        host.set_device("br0/bridge/group_fwd_mask", &settings.mask.to_string());
        let taps = PARTIES.map(|(_, port, _)| host.learning_tap("br0", port));
        host.stp("br0", settings.stp);
        Self {
            firewall,
            taps: taps.into(),
            table: host.table("br0"),
            ear: host.ear("br0"),
            host,
        }
    }

    /// The same with everybody fenced and known to the bridge.
    pub fn fenced(firewall: Firewall, settings: Settings) -> Self {
        let scene = Self::new(firewall, settings);
        scene.fence_all();
        scene.introduce();
        scene
    }

    /// Fences one VM, which trusts the router.
    pub fn fence(&self, party: Party) {
        let args = ["apply", "--xml", "-", "--trusted", &mac(ROUTER).to_string()];
        self.firewall.macfence(&self.host, &args, &xml(party)).ok();
    }

    /// Fences all VMs in one call.
    pub fn fence_all(&self) {
        let dir = tempfile::tempdir().expect("a directory");
        let router = mac(ROUTER).to_string();
        let mut args = vec!["apply".to_owned(), "--trusted".to_owned(), router];
        for party in VICTIM..ROUTER {
            let file = dir.path().join(port(party));
            std::fs::write(&file, xml(party)).expect("XML");
            args.extend(["--xml".to_owned(), file.display().to_string()]);
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        self.firewall.macfence(&self.host, &args, "").ok();
    }

    /// Lets everybody say something to all, so that the bridge knows where they are.
    pub fn introduce(&self) {
        for (party, tap) in self.taps.iter().enumerate() {
            tap.send(&frame(Kind::Unknown, mac(party), BROADCAST, u32::MAX));
        }
        self.forget();
    }

    /// Drops what was heard so far.
    pub fn forget(&self) {
        for tap in &self.taps {
            tap.heard();
        }
        self.ear.heard();
    }

    /// Who has heard the frame of this number, since somebody was last asked.
    pub fn heard(&self, id: u32) -> Vec<Party> {
        // A tap's frame has crossed the bridge by the time that its write returns.
        let heard = |(_, tap): &(Party, &Tap)| has(&tap.heard(), id);
        let taps = self.taps.iter().enumerate();
        taps.filter(heard).map(|(party, _)| party).collect()
    }

    /// Who hears a frame that this one sends.
    pub fn hearers(&self, sender: Party, bytes: &[u8]) -> Vec<Party> {
        self.taps[sender].send(bytes);
        self.heard(number(bytes).expect("a number"))
    }

    /// Whether the host has heard the frame of this number.
    pub fn host_heard(&self, id: u32) -> bool {
        has(&self.ear.heard(), id)
    }

    /// What the bridge has learned.
    pub fn learned(&self) -> BTreeMap<MacAddr, &str> {
        self.table.learned()
    }
}

/// The domain XML of a VM.
pub fn xml(party: Party) -> String {
    let (vm, port, mac) = PARTIES[party];
    domain(vm.expect("a VM"), &[(&mac.to_string(), port, "br0")])
}

fn has(frames: &[Vec<u8>], id: u32) -> bool {
    frames.iter().any(|frame| number(frame) == Some(id))
}

/// The table that version 0.1 loads for everybody: its rules are in `forward` alone.
pub fn table_of_0_1(trusted: Option<MacAddr>, hears_all: Option<Party>) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    let trusted = trusted.map_or_else(String::new, |mac| format!("ether saddr != {mac} "));
    for (party, (vm, port, mac)) in PARTIES.iter().enumerate() {
        let Some(vm) = vm else { continue };
        let spoofed = format!("iifname \"{port}\" ether saddr != {mac} counter drop");
        let rules = if hears_all == Some(party) {
            format!("{spoofed} comment \"hears all networks\"")
        } else {
            let [a, b, c, d, e, _] = mac.bytes();
            let net = MacAddr::new([a, b, c, d, e, 0]);
            format!(
                "{spoofed}\n\t\toifname \"{port}\" ether saddr & ff:ff:ff:ff:ff:00 != {net} \
                 {trusted}counter drop"
            )
        };
        chains += &format!("\tchain vm-{vm} {{\n\t\t{rules}\n\t}}\n");
        elements.push(format!("\"{port}\" : jump vm-{vm}"));
    }
    format!(
        "table bridge macfence {{\n{chains}\tmap ports {{\n\t\ttype ifname : verdict\n\
         \t\telements = {{ {} }}\n\t}}\n\tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname vmap @ports\n\t\toifname vmap @ports\n\t}}\n}}\n",
        elements.join(", ")
    )
}

impl Scene {
    /// The same behind the fences of version 0.1, which trusts the router.
    pub fn fenced_by_0_1(settings: Settings) -> Self {
        let scene = Self::new(Firewall::Nft, settings);
        let table = table_of_0_1(Some(mac(ROUTER)), None);
        scene
            .host
            .exec(Command::new("nft").args(["-f", "-"]), &table)
            .ok();
        scene.introduce();
        scene
    }
}
