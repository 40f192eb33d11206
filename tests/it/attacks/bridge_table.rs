//! No frame that a VM sends under a false address changes the bridge's table, misdirects other
//! frames, or is heard by anybody. No control frame of a VM leaves by the uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use macfence::mac::MacAddr;

use super::{
    BRIDGE, BROADCAST, BYSTANDER, Firewall, INSIDER, NEIGHBOUR, OUTSIDER, PARTIES, Party, ROUTER,
    Scene, Settings, VICTIM, mac, may_hear, port,
};
use crate::lab::frame::{Kind, frame};
use crate::lab::replace;

const KINDS: [Kind; 7] = [
    Kind::Arp,
    Kind::Ipv4,
    Kind::Ipv6,
    Kind::Vlan,
    Kind::Unknown,
    Kind::Lldp,
    Kind::Bpdu,
];

/// All combinations of the settings that decide which hooks a frame passes.
pub const SETTINGS: [Settings; 4] = [
    Settings {
        stp: false,
        mask: 0,
    },
    Settings {
        stp: false,
        mask: 0xfff8,
    },
    Settings { stp: true, mask: 0 },
    Settings {
        stp: true,
        mask: 0xfff8,
    },
];

/// A harm that a frame must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// The bridge's table has changed.
    Learned,
    /// The next frame of the router or a neighbour to the victim does not reach the victim alone.
    Misled,
    /// A party hears it and should not.
    Heard,
    /// The host hears it.
    HeardByHost,
    /// It is a control frame and leaves the host.
    Left,
    /// The bridge takes a VM for the root of its spanning tree.
    Root,
}

/// A frame of an attacker.
#[derive(Clone, Copy)]
struct Attack {
    by: Party,
    src: MacAddr,
    dst: MacAddr,
    kind: Kind,
}

impl Display for Attack {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { by, src, dst, kind } = self;
        write!(f, "{kind:?} from {} as {src} to {dst}", port(*by))
    }
}

impl Attack {
    fn is_spoofed(&self) -> bool {
        self.src != mac(self.by)
    }

    fn is_control(&self) -> bool {
        is_control(self.dst)
    }

    /// Returns true for a BPDU to the address at which the bridge reads BPDUs.
    fn is_about_the_tree(&self) -> bool {
        self.kind == Kind::Bpdu && self.dst == control(0)
    }
}

/// Returns 01:80:c2:00:00:0x: an address of the device at the other end of the cable.
const fn control(x: u8) -> MacAddr {
    MacAddr::new([1, 0x80, 0xc2, 0, 0, x])
}

pub fn is_control(dst: MacAddr) -> bool {
    (0..16).any(|x| dst == control(x))
}

/// Returns every frame of both attackers: in every shape, to every kind of destination, under their
/// own address, under others' addresses, and under an address that nobody has. The frame's number
/// makes that address.
fn attacks() -> impl Iterator<Item = (u32, Attack)> {
    let to_all = [
        BROADCAST,
        mac(ROUTER),
        mac(VICTIM),
        BRIDGE,
        MacAddr::new([2, 0, 192, 168, 0, 99]),
        MacAddr::new([1, 0, 0x5e, 0, 0, 0xfb]),
        MacAddr::new([0x33, 0x33, 0, 0, 0, 1]),
    ];
    let all = [(INSIDER, NEIGHBOUR), (OUTSIDER, BYSTANDER)]
        .into_iter()
        .flat_map(move |(by, neighbour)| {
            let to = to_all.into_iter().chain([mac(neighbour)]);
            let to = to.chain((0..16).map(control));
            to.flat_map(move |dst| KINDS.map(|kind| (by, dst, kind)))
        })
        .flat_map(|(by, dst, kind)| (0..5).map(move |as_whom| (by, dst, kind, as_whom)));
    all.enumerate().map(|(id, (by, dst, kind, as_whom))| {
        let [.., high, low] = (id as u32).to_be_bytes();
        let nobody = MacAddr::new([2, 0, 192, 168, high | 0x80, low]);
        let src = [mac(by), mac(VICTIM), mac(ROUTER), BRIDGE, nobody][as_whom];
        (3 * id as u32, Attack { by, src, dst, kind })
    })
}

/// Returns one attacker's frames of these shapes, for a guest to send.
pub fn frames_of(by: Party, kinds: &[Kind]) -> Vec<Vec<u8>> {
    let chosen = |(_, attack): &(u32, Attack)| attack.by == by && kinds.contains(&attack.kind);
    let bytes = |(id, attack): (u32, Attack)| frame(attack.kind, attack.src, attack.dst, id);
    attacks().filter(chosen).map(bytes).collect()
}

/// Sends one frame and returns its harms. Restores the bridge's table.
fn harm(scene: &Scene, settings: Settings, id: u32, attack: &Attack) -> Vec<Harm> {
    let mut harm = Vec::new();
    let before = scene.learned();
    let bytes = frame(attack.kind, attack.src, attack.dst, id);
    let hearers = scene.hearers(attack.by, &bytes);
    let is_heard_by_host = scene.host_heard(id);
    let ought = ought_to_hear(attack);
    if hearers.iter().any(|party| !ought.contains(party)) {
        harm.push(Harm::Heard);
    }
    if attack.is_control() && hearers.contains(&ROUTER) {
        harm.push(Harm::Left);
    }
    if attack.is_spoofed() || attack.is_control() {
        if is_heard_by_host {
            harm.push(Harm::HeardByHost);
        }
    } else {
        // An honest frame must arrive.
        assert_eq!(hearers, ought, "{attack}");
        let is_for_host = attack.dst == BRIDGE || attack.dst.is_multicast();
        assert_eq!(is_heard_by_host, is_for_host, "{attack}, at the host");
    }
    let mut after = scene.learned();
    let mut mended = false;
    if settings.stp && attack.is_about_the_tree() {
        let root = |of: &str| scene.host.device(&format!("br0/bridge/{of}_id"));
        if root("root") != root("bridge") {
            harm.push(Harm::Root);
        }
        mended = mend_port(scene, attack.by);
        if mended {
            // A disabled port loses its own entry. That harms nobody else.
            after = after
                .into_iter()
                .chain([(mac(attack.by), port(attack.by))])
                .collect();
        }
    }
    if after != before {
        harm.push(Harm::Learned);
    }
    if !mended {
        for (n, sender) in [(1, ROUTER), (2, NEIGHBOUR)] {
            let bytes = frame(Kind::Ipv4, mac(sender), mac(VICTIM), id + n);
            if scene.hearers(sender, &bytes) != [VICTIM] {
                harm.push(Harm::Misled);
                break;
            }
        }
    }
    if after != before || mended {
        scene.introduce();
    }
    harm
}

/// Returns who should hear a frame behind fences, if the bridge knows every party.
fn ought_to_hear(attack: &Attack) -> Vec<Party> {
    if attack.is_spoofed() || attack.is_control() || attack.dst == BRIDGE {
        return Vec::new();
    }
    let known = PARTIES.iter().position(|(_, _, mac)| *mac == attack.dst);
    let out = known.map_or((VICTIM..=ROUTER).collect(), |party| vec![party]);
    out.into_iter()
        .filter(|party| *party != attack.by && may_hear(*party, attack.by))
        .collect()
}

/// Reopens a port that the bridge has disabled or takes for the way to the root. Switches spanning
/// tree off meanwhile, because the port would otherwise wait for seconds. Returns whether it had
/// to.
fn mend_port(scene: &Scene, party: Party) -> bool {
    let forwarding = "3";
    let device = |path: &str| scene.host.device(path);
    if device(&format!("{}/brport/state", port(party))) == forwarding
        && device("br0/bridge/root_id") == device("br0/bridge/bridge_id")
    {
        return false;
    }
    scene.host.stp("br0", false);
    let port = port(party);
    scene
        .host
        .ip(&format!("link set {port} down\nlink set {port} up\n"));
    scene.host.stp("br0", true);
    true
}

/// Sends the attacks, and returns each harm with its attack.
fn harms(scene: &Scene, settings: Settings, kinds: &[Kind]) -> Vec<(Harm, Attack)> {
    let mut harms = Vec::new();
    for (id, attack) in attacks().filter(|(_, attack)| kinds.contains(&attack.kind)) {
        for harm in harm(scene, settings, id, &attack) {
            harms.push((harm, attack));
        }
    }
    harms
}

/// Checks that no attack does harm behind a fence, with any setting of the bridge.
pub fn check(firewall: Firewall) {
    check_some(firewall, &SETTINGS, &KINDS);
}

/// Like [`check`], with fewer settings and shapes, for kernels on which all would take minutes.
pub fn check_a_few(firewall: Firewall) {
    check_some(
        firewall,
        &[SETTINGS[0], SETTINGS[3]],
        &[Kind::Vlan, Kind::Bpdu],
    );
}

fn check_some(firewall: Firewall, settings: &[Settings], kinds: &[Kind]) {
    for settings in settings.iter().copied() {
        check_scene(&Scene::fenced(firewall, settings), settings, kinds);
    }
}

fn check_scene(scene: &Scene, settings: Settings, kinds: &[Kind]) {
    let harms = harms(scene, settings, kinds);
    let examples: BTreeMap<_, _> = harms
        .iter()
        .map(|(harm, attack)| ((harm, attack.dst), format!("{harm:?}: {attack}")))
        .collect();
    let examples: Vec<_> = examples.into_values().collect();
    assert!(
        harms.is_empty(),
        "{:?} {settings:?}: {} harms of {} attacks, among others: {examples:#?}",
        scene.firewall,
        harms.len(),
        attacks().count()
    );
}

/// Checks that the same attacks do harm without a fence, or with rules in `forward` alone.
/// Otherwise the tests prove nothing.
fn check_harm(scene: impl Fn(Settings) -> Scene) {
    check_some_harm(scene, &SETTINGS, &KINDS);
}

/// Like [`check_harm`], with fewer settings and shapes, and without a fence.
pub fn check_harm_of_a_few() {
    let scene = |settings| Scene::new(Firewall::Nft, settings);
    check_some_harm(
        scene,
        &[SETTINGS[0], SETTINGS[3]],
        &[Kind::Vlan, Kind::Bpdu],
    );
}

fn check_some_harm(scene: impl Fn(Settings) -> Scene, settings: &[Settings], kinds: &[Kind]) {
    for settings in settings.iter().copied() {
        let scene = scene(settings);
        scene.introduce();
        let (mut learned, mut misled, mut left) = Default::default();
        let mut root = false;
        for (id, attack) in attacks().filter(|(_, attack)| kinds.contains(&attack.kind)) {
            if !attack.is_spoofed() && !attack.is_control() {
                continue;
            }
            for harm in harm(&scene, settings, id, &attack) {
                let to: &mut BTreeSet<_> = match harm {
                    Harm::Learned => &mut learned,
                    Harm::Misled => &mut misled,
                    Harm::Left => &mut left,
                    Harm::Root => {
                        root = true;
                        continue;
                    }
                    Harm::Heard | Harm::HeardByHost => continue,
                };
                to.insert(attack.dst);
            }
        }
        let all = attacks().map(|(_, attack)| attack.dst);
        let but_pause: BTreeSet<_> = all.filter(|dst| *dst != control(1)).collect();
        assert_eq!(learned, but_pause, "{settings:?}");
        assert_eq!(misled, but_pause, "{settings:?}");
        let passes = |x: &u8| settings.mask & 1 << x != 0 || !settings.stp && *x == 0;
        let passed: BTreeSet<_> = (0..16).filter(passes).map(control).collect();
        assert_eq!(left, passed, "{settings:?}");
        assert_eq!(root, settings.stp, "{settings:?}");
    }
}

#[test]
fn no_frame_of_a_vm_changes_the_bridges_table_or_is_heard_under_a_false_address() {
    check(Firewall::Nft);
}

#[test]
fn with_ebtables_no_frame_of_a_vm_changes_the_bridges_table_either() {
    check(Firewall::Ebtables);
}

#[test]
fn the_nft_of_debian_bullseye_and_trixie_protect_the_bridges_table_too() {
    check(Firewall::OtherNft("0.9.8"));
    check(Firewall::OtherNft("1.1.3"));
}

#[test]
fn nft_protects_the_bridges_table_on_a_host_without_etc_protocols() {
    let settings = Settings::default();
    let scene = Scene::new(Firewall::Nft, settings);
    // Debian's smallest system lacks this file.
    scene.host.run(|| replace("/etc/protocols", ""));
    scene.fence_all();
    scene.introduce();
    check_scene(&scene, settings, &[Kind::Arp]);
    let before = scene.host.generation();
    scene.fence_all();
    assert_eq!(scene.host.generation(), before, "all rules were in place");
}

#[test]
fn without_a_fence_every_destination_but_one_moves_the_victim_in_the_bridges_table() {
    check_harm(|settings| Scene::new(Firewall::Nft, settings));
}

#[test]
fn behind_version_0_1s_rules_the_same_destinations_move_the_victim() {
    check_harm(Scene::fenced_by_0_1);
}
