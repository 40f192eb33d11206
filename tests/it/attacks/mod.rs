//! Attacks of a VM on the bridge and on the host. The bridges here learn and snoop, as Linux
//! bridges do by default, because a bridge's table decides who gets the victim's frames. Bridges of
//! other tests flood every frame, so silence means that a rule dropped it.

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

/// The firewall of a host.
#[derive(Clone, Copy, Debug)]
pub enum Firewall {
    /// This system's nft.
    Nft,
    /// ebtables, and no nft.
    Ebtables,
    /// The nft of another Debian release, by its version.
    OtherNft(&'static str),
}

impl Firewall {
    /// Creates a host with this firewall.
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

/// A party on the bridge: its place in [`PARTIES`].
pub type Party = usize;
pub const VICTIM: Party = 0;
/// A VM in the victim's network.
pub const NEIGHBOUR: Party = 1;
/// An attacker in the victim's network.
pub const INSIDER: Party = 2;
/// An attacker in another network.
pub const OUTSIDER: Party = 3;
/// A VM in the outsider's network.
pub const BYSTANDER: Party = 4;
/// The trusted router behind the uplink. The uplink has no fence.
pub const ROUTER: Party = 5;

/// The VM of each party (`None` for the uplink), its port and its address.
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

/// Tells whether the networks allow `listener` to hear `sender`.
pub fn may_hear(listener: Party, sender: Party) -> bool {
    let is_in_a = |party| party <= INSIDER;
    listener == ROUTER || sender == ROUTER || is_in_a(listener) == is_in_a(sender)
}

/// Settings of the bridge.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub stp: bool,
    /// One bit for each address 01:80:c2:00:00:0x whose frames the bridge forwards.
    pub mask: u16,
}

/// A host with one learning bridge and all parties.
pub struct Scene {
    pub firewall: Firewall,
    pub host: Host,
    pub taps: Vec<Tap>,
    pub table: Table,
    /// Hears what reaches the host through the bridge.
    pub ear: Ear,
}

impl Scene {
    /// Creates a host where nobody is fenced yet and nobody has sent a frame.
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

    /// Creates a host where everybody is fenced and known to the bridge.
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

    /// Every party sends a broadcast, so that the bridge learns their ports.
    pub fn introduce(&self) {
        for (party, tap) in self.taps.iter().enumerate() {
            tap.send(&frame(Kind::Unknown, mac(party), BROADCAST, u32::MAX));
        }
        self.forget();
    }

    /// Drops all frames heard so far.
    pub fn forget(&self) {
        for tap in &self.taps {
            tap.heard();
        }
        self.ear.heard();
    }

    /// Returns the parties that have heard the frame with this number since the last call.
    pub fn heard(&self, id: u32) -> Vec<Party> {
        // A write to a tap returns after the frame has crossed the bridge.
        let heard = |(_, tap): &(Party, &Tap)| has(&tap.heard(), id);
        let taps = self.taps.iter().enumerate();
        taps.filter(heard).map(|(party, _)| party).collect()
    }

    /// Sends a frame and returns the parties that hear it.
    pub fn hearers(&self, sender: Party, bytes: &[u8]) -> Vec<Party> {
        self.taps[sender].send(bytes);
        self.heard(number(bytes).expect("a number"))
    }

    /// Tells whether the host has heard the frame with this number.
    pub fn host_heard(&self, id: u32) -> bool {
        has(&self.ear.heard(), id)
    }

    /// Returns the addresses that the bridge has learned.
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

/// Returns the table that version 0.1 loads for all VMs. All its rules are in `forward`.
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
    /// Creates a host with the fences of version 0.1, which trust the router.
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
