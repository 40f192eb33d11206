//! A guest on a real libvirt, with the hook as we ship it. The guest sends spoofed frames from its
//! first instruction. Whatever happens to the guest, others hear its honest frames and no spoofed
//! one.

use std::collections::BTreeMap;

use macfence::mac::MacAddr;
use serde_json::Value;

use crate::lab::frame::{Kind, frame};
use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, MACFENCE, Tap, domain, guest, until};

const BROADCAST: MacAddr = MacAddr::new([0xff; 6]);

/// The guest's own address.
const OWN: MacAddr = MacAddr::new([2, 0, 192, 168, 0, 5]);

/// The addresses that it fakes: its neighbour's, one of its network that nobody has, one of the
/// other network, and a router's.
const SPOOFED: [MacAddr; 4] = [
    NEIGHBOUR,
    MacAddr::new([2, 0, 192, 168, 0, 99]),
    MacAddr::new([2, 0, 192, 168, 1, 5]),
    MacAddr::new([0x52, 0x54, 0, 0, 0, 1]),
];

const NEIGHBOUR: MacAddr = MacAddr::new([2, 0, 192, 168, 0, 6]);
const FOREIGNER: MacAddr = MacAddr::new([2, 0, 192, 168, 1, 6]);

/// Listeners on the guest's bridge, there before the guest: an uplink without a fence, a VM of its
/// network, and a VM of another network.
struct Bridge<'a> {
    host: &'a Host,
    ports: [(&'static str, Tap); 3],
    heard: [BTreeMap<MacAddr, u64>; 3],
    /// The number of RARP packets that each listener has heard.
    announced: [u64; 3],
}

impl<'a> Bridge<'a> {
    fn of(host: &'a Host) -> Self {
        host.bridge("br0");
        let listen = |port| {
            let tap = host.tap("br0", port);
            // Room for all frames that come while nobody reads.
            host.ip(&format!("link set {port} txqueuelen 20000\n"));
            (port, tap)
        };
        let ports = ["eth0", "one-8-0", "one-9-0"].map(listen);
        for (vm, mac) in [("one-8", NEIGHBOUR), ("one-9", FOREIGNER)] {
            let nic = (&*mac.to_string(), &*format!("{vm}-0"), "br0");
            host.apply(&domain(vm, &[nic])).ok();
        }
        let sources = SPOOFED.into_iter().chain([OWN]);
        let kinds = [Kind::Arp, Kind::Unknown, Kind::Dhcp, Kind::Vlan, Kind::Ipv4];
        let frames: Vec<_> = sources
            .zip(kinds)
            .map(|(mac, kind)| frame(kind, mac, BROADCAST, 0))
            .collect();
        guest::will_send(host, &frames);
        Self {
            host,
            ports,
            heard: Default::default(),
            announced: [0; 3],
        }
    }

    /// Returns whom each listener has heard so far.
    fn heard(&mut self) -> [Vec<MacAddr>; 3] {
        let heard = self.heard.iter_mut().zip(&mut self.announced);
        for ((port, tap), (heard, announced)) in self.ports.iter().zip(heard) {
            for frame in tap.heard() {
                *announced += u64::from(frame[12..14] == [0x80, 0x35]);
                let source = MacAddr::new(frame[6..12].try_into().unwrap());
                *heard.entry(source).or_default() += 1;
            }
            let lost = format!("/sys/class/net/{port}/statistics/tx_dropped");
            let lost = self.host.run(|| std::fs::read_to_string(lost).unwrap());
            assert_eq!(lost, "0\n", "{port} has lost frames");
        }
        self.heard
            .each_ref()
            .map(|heard| heard.keys().copied().collect())
    }

    /// Forgets what was heard so far.
    fn forget(&mut self) {
        self.heard();
        self.heard = Default::default();
    }

    /// Waits until the guest's honest frames have been heard for a while.
    fn listen(&mut self) -> [Vec<MacAddr>; 3] {
        let own = |bridge: &Self| bridge.heard[1].get(&OWN).copied().unwrap_or_default();
        self.heard();
        let before = own(self);
        until("the guest is heard", || {
            self.heard();
            own(self) >= before + 100
        });
        self.heard()
    }
}

/// Returns a fenced VM, as listed.
fn listed(host: &Host, vm: &str) -> Value {
    let list = host.list();
    let vms = list.as_array().unwrap();
    vms.iter().find(|v| v["vm"] == vm).expect(vm).clone()
}

fn dropped(host: &Host, vm: &str, why: &str) -> u64 {
    listed(host, vm)["nics"][0]["dropped"][why]
        .as_u64()
        .unwrap()
}

/// Only the guest's own address is heard: in its network, and at the uplink.
fn only_its_own() -> [Vec<MacAddr>; 3] {
    [vec![OWN], vec![OWN], vec![]]
}

fn xml() -> String {
    guest::domain("one-1", &OWN.to_string(), "br0")
}

#[test]
fn nobody_hears_the_spoofed_frames_of_a_guest_even_from_its_first_instruction() {
    let host = Host::new();
    let mut bridge = Bridge::of(&host);
    let libvirt = Libvirt::start_fenced(&host);
    libvirt.try_create(&xml()).ok();
    assert_eq!(bridge.listen(), only_its_own());
    // A suspended guest sends nothing more, so that its frames can be counted. None that it sent
    // before the fence came through.
    libvirt.virsh(&["suspend", "one-1"]);
    bridge.heard();
    let own = bridge.heard[1][&OWN];
    let each = SPOOFED.len() as u64;
    let spoofed = dropped(&host, "one-1", "spoofed");
    assert!(
        (own * each..=(own + 1) * each).contains(&spoofed),
        "{spoofed} beside {own}"
    );
    assert_eq!(dropped(&host, "one-9", "foreign"), own);
    assert_eq!(dropped(&host, "one-8", "foreign"), 0);
}

#[test]
fn without_the_hook_or_with_a_late_one_the_same_guests_spoofed_frames_are_heard() {
    let late = format!("[ \"$2\" != started ] || {MACFENCE} hook libvirt -- \"$1\" start begin -");
    for hook in ["", &late] {
        let host = Host::new();
        let mut bridge = Bridge::of(&host);
        let libvirt = Libvirt::start_with_hook(&host, hook);
        libvirt.try_create(&xml()).ok();
        let [uplink, ..] = bridge.listen();
        let mut all = [&SPOOFED[..], &[OWN]].concat();
        all.sort();
        assert_eq!(uplink, all, "{hook}");
        assert_eq!(
            host.fenced().contains(&"one-1".to_owned()),
            !hook.is_empty()
        );
    }
}

#[test]
fn a_guest_that_is_suspended_and_resumed_stays_behind_the_same_fence() {
    let host = Host::new();
    let mut bridge = Bridge::of(&host);
    let libvirt = Libvirt::start_fenced(&host);
    libvirt.try_create(&xml()).ok();
    bridge.listen();
    let generation = host.generation();
    libvirt.virsh(&["suspend", "one-1"]);
    let asleep = dropped(&host, "one-1", "spoofed");
    libvirt.virsh(&["resume", "one-1"]);
    assert_eq!(bridge.listen(), only_its_own());
    assert!(dropped(&host, "one-1", "spoofed") > asleep);
    assert_eq!(host.generation(), generation);
}

#[test]
fn a_guest_that_is_restored_is_fenced_before_it_runs() {
    let host = Host::new();
    let mut bridge = Bridge::of(&host);
    let libvirt = Libvirt::start_fenced(&host);
    libvirt.define(&xml());
    libvirt.virsh(&["start", "one-1"]);
    bridge.listen();
    libvirt.virsh(&["managedsave", "one-1"]);
    assert!(!host.ruleset().contains("one-1"));
    let saved = libvirt.virsh(&["list", "--all", "--managed-save"]);
    assert!(saved.contains("saved"), "{saved}");
    libvirt.virsh(&["start", "one-1"]);
    assert_eq!(bridge.listen(), only_its_own());
}

#[test]
fn a_fence_outlives_libvirtd_and_is_restored_when_libvirtd_restarts() {
    let host = Host::new();
    let mut bridge = Bridge::of(&host);
    let mut libvirt = Libvirt::start_fenced(&host);
    libvirt.try_create(&xml()).ok();
    libvirt.stop_daemon();
    let generation = host.generation();
    assert_eq!(bridge.listen(), only_its_own());
    libvirt.start_daemon();
    assert_eq!(bridge.listen(), only_its_own());
    assert_eq!(host.generation(), generation, "nothing had to change");

    libvirt.stop_daemon();
    host.ok("nft", &["delete", "table", "bridge", "macfence"]);
    let [uplink, ..] = bridge.listen();
    assert_eq!(
        uplink.len(),
        1 + SPOOFED.len(),
        "without a fence all are heard"
    );
    libvirt.start_daemon();
    until("the fence is back", || host.fenced() == ["one-1"]);
    bridge.forget();
    let [uplink, ..] = bridge.listen();
    assert_eq!(uplink, [OWN]);
}

#[test]
fn a_migrating_guest_is_fenced_on_the_destination_before_it_runs_there() {
    let hosts = [Host::new(), Host::new()];
    let [mut here, mut there] = hosts.each_ref().map(Bridge::of);
    let [from, to] = hosts.each_ref().map(Libvirt::start_fenced);
    from.try_create(&xml()).ok();
    here.listen();
    from.try_migrate("one-1", &to).ok();
    assert_eq!(there.listen(), only_its_own());
    assert_eq!(here.heard(), only_its_own());
    assert!(!hosts[0].ruleset().contains("one-1"));
    assert!(dropped(&hosts[1], "one-1", "spoofed") > 0);
}

#[test]
fn behind_the_address_guard_a_migrating_guest_is_announced_on_the_destination() {
    let hosts = [Host::new(), Host::new()];
    let [mut here, mut there] = hosts.each_ref().map(Bridge::of);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("macfence.toml");
    std::fs::write(&file, "addresses = 'mac'\n").unwrap();
    let hook = format!(
        "exec {MACFENCE} --config {} hook libvirt -- \"$@\"",
        file.display()
    );
    let [from, to] = hosts
        .each_ref()
        .map(|host| Libvirt::start_with_hook(host, &hook));
    from.try_create(&xml()).ok();
    here.listen();
    assert_eq!(there.announced, [0; 3]);
    from.try_migrate("one-1", &to).ok();
    // QEMU tells the switches by RARP where the guest is now. The uplink and the guest's network
    // hear it.
    until("QEMU announces the guest", || {
        there.heard();
        there.announced[0] > 0 && there.announced[1] > 0
    });
    assert_eq!(there.announced[2], 0);
    assert_eq!(there.listen(), only_its_own());
    assert_eq!(dropped(&hosts[1], "one-1", "forged"), 0);
}

#[test]
fn a_guest_that_cannot_be_fenced_on_the_destination_does_not_migrate() {
    let hosts = [Host::new(), Host::new()];
    let [mut here, mut there] = hosts.each_ref().map(Bridge::of);
    hosts[1].hide("nft");
    hosts[1].hide("ebtables");
    let [from, mut to] = hosts.each_ref().map(Libvirt::start_fenced);
    from.try_create(&xml()).ok();
    let generation = hosts[0].generation();
    let refused = from.try_migrate("one-1", &to);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("macfence: error: "), "{refused:?}");
    assert_eq!(here.listen(), only_its_own());
    assert_eq!(hosts[0].generation(), generation);
    assert_eq!(there.heard(), [const { Vec::new() }; 3]);
    assert!(!to.has_qemu("one-1"));
    assert_eq!(hosts[1].ports_of("br0"), ["eth0", "one-8-0", "one-9-0"]);
}
