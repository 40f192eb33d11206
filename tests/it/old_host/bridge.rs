//! Attacks on the bridge itself that either kind of ebtables stops.

use super::host;
use crate::lab::{Host, Tap, domain};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:00:06";
const C: &str = "02:00:c0:a8:01:05";
const ROUTER: &str = "00:16:3e:00:00:01";
const STRANGER: &str = "00:16:3e:00:00:02";
const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// An 802.1Q tag with VLAN ID 7.
const TAG_7: [u8; 4] = [0x81, 0, 0, 7];
/// A tag with VLAN ID 0: a priority and no VLAN.
const TAG_0: [u8; 4] = [0x81, 0, 0, 0];

fn frame(src: &str, dst: &str, parts: &[&[u8]]) -> Vec<u8> {
    let address = |text: &str| text.parse::<macfence::mac::MacAddr>().unwrap().bytes();
    let mut frame = [address(dst), address(src)].concat();
    frame.extend(parts.concat());
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Builds an IGMP packet of this type to 224.0.0.1, with a router alert option and this fragment
/// field.
fn igmp(kind: u8, fragment: [u8; 2]) -> Vec<u8> {
    let mut packet = vec![0x46, 0, 0, 32, 0, 1, fragment[0], fragment[1], 1, 2, 0, 0];
    packet.extend([0, 0, 0, 0, 224, 0, 0, 1, 0x94, 4, 0, 0]);
    packet.extend([kind, 100, 0, 0, 0, 0, 0, 0]);
    packet
}

/// Builds an MLD packet of this type to ff02::1, with or without a hop-by-hop header.
fn mld(kind: u8, hop_by_hop: bool) -> Vec<u8> {
    let (len, next) = if hop_by_hop { (32, 0) } else { (24, 58) };
    let mut packet = vec![0x60, 0, 0, 0, 0, len, next, 1];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    if hop_by_hop {
        packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    }
    packet.extend([kind, 0, 0, 0, 3, 232, 0, 0]);
    packet.resize(packet.len() + 16, 0);
    packet
}

const IGMP_QUERY: u8 = 0x11;
const WHOLE: [u8; 2] = [0, 0];

/// VMs A and B in one network, C in another, and an uplink.
struct Parties {
    a: Tap,
    b: Tap,
    c: Tap,
    uplink: Tap,
}

impl Parties {
    fn on(host: &Host) -> Self {
        host.bridge("br0");
        Self {
            a: host.tap("br0", "vnet0"),
            b: host.tap("br0", "vnet1"),
            c: host.tap("br0", "vnet2"),
            uplink: host.tap("br0", "eth0"),
        }
    }

    fn fence(&self, host: &Host, flags: &[&str]) {
        for (name, mac, port) in [("a", A, "vnet0"), ("b", B, "vnet1"), ("c", C, "vnet2")] {
            let args = ["apply", "--xml", "-"].iter().chain(flags);
            host.macfence_reading(&domain(name, &[(mac, port, "br0")]), args)
                .ok();
        }
    }

    /// Sends a frame and returns the letters of the parties that hear it.
    fn hear(&self, sender: &Tap, frame: &[u8]) -> String {
        let all = [("a", &self.a), ("b", &self.b), ("c", &self.c)];
        let all = all.into_iter().chain([("u", &self.uplink)]);
        all.clone().for_each(|(_, tap)| drop(tap.heard()));
        sender.send(frame);
        let hears = |(_, tap): &(&str, &Tap)| tap.heard().iter().any(|one| one == frame);
        all.filter(hears).map(|(name, _)| name).collect()
    }
}

#[test]
fn control_frames_and_queries_of_a_vm_are_dropped_and_its_answers_are_heard() {
    let host = host();
    let parties = Parties::on(&host);
    let query = igmp(IGMP_QUERY, WHOLE);
    let all = "01:00:5e:00:00:01";
    let group = "01:00:5e:01:02:03";
    let nodes = "33:33:00:00:00:01";
    let bpdu = frame(A, "01:80:c2:00:00:00", &[&[0, 38, 0x42, 0x42, 3]]);
    let meddling = [
        bpdu,
        frame(A, all, &[&IPV4, &query]),
        frame(A, group, &[&IPV4, &query]),
        // Only the first fragment has a type, but a bridge reads one in every fragment.
        frame(A, all, &[&IPV4, &igmp(IGMP_QUERY, [0x20, 0])]),
        frame(A, all, &[&IPV4, &igmp(IGMP_QUERY, [0, 16])]),
        frame(A, group, &[&IPV4, &igmp(0x16, [0, 16])]),
        frame(A, nodes, &[&IPV6, &mld(130, true)]),
        frame(A, nodes, &[&IPV6, &mld(130, false)]),
    ];
    let mut udp = igmp(0, WHOLE);
    udp[9] = 17;
    let harmless = [
        frame(A, group, &[&IPV4, &igmp(0x16, WHOLE)]),
        frame(A, "01:00:5e:00:00:16", &[&IPV4, &igmp(0x22, WHOLE)]),
        frame(A, "33:33:00:00:00:16", &[&IPV6, &mld(143, true)]),
        frame(A, group, &[&IPV4, &udp]),
        frame(A, BROADCAST, &[&ARP]),
    ];
    // ebtables cannot match these: see `Ebtables::limits`.
    let missed = [TAG_0, TAG_7].map(|tag| {
        [
            frame(A, all, &[&tag, &IPV4, &query]),
            frame(A, nodes, &[&tag, &IPV6, &mld(130, true)]),
        ]
    });
    let missed = missed.concat();
    for frame in meddling.iter().chain(&harmless).chain(&missed) {
        assert_eq!(parties.hear(&parties.a, frame), "bcu", "{frame:x?}");
    }
    parties.fence(&host, &[]);
    for frame in &meddling {
        assert_eq!(parties.hear(&parties.a, frame), "", "{frame:x?}");
    }
    for frame in harmless.iter().chain(&missed) {
        assert_eq!(parties.hear(&parties.a, frame), "bu", "{frame:x?}");
    }
}

#[test]
fn every_vm_hears_queries_of_strangers_and_none_of_their_other_frames() {
    let host = host();
    let parties = Parties::on(&host);
    parties.fence(&host, &[]);
    let igmp_query = igmp(IGMP_QUERY, WHOLE);
    let report = igmp(0x16, WHOLE);
    let all = "01:00:5e:00:00:01";
    let nodes = "33:33:00:00:00:01";
    for (dst, kind, packet, heard) in [
        (all, IPV4, &igmp_query, "abc"),
        ("01:00:5e:01:02:03", IPV4, &igmp_query, "abc"),
        (nodes, IPV6, &mld(130, true), "abc"),
        (all, IPV4, &report, ""),
        (nodes, IPV6, &mld(131, true), ""),
        // A query to a single station's MAC address is no query.
        (A, IPV4, &igmp_query, ""),
        (A, IPV6, &mld(130, true), ""),
        (BROADCAST, ARP, &Vec::new(), ""),
    ] {
        let frame = frame(STRANGER, dst, &[&kind, packet]);
        let hear = parties.hear(&parties.uplink, &frame);
        assert_eq!(hear, heard, "to {dst}: {packet:x?}");
    }
}

#[test]
fn no_other_vm_hears_what_a_trusted_sender_sends_to_one_vm() {
    let host = host();
    let parties = Parties::on(&host);
    parties.fence(&host, &["--trusted", ROUTER]);
    let group = "01:00:5e:01:02:03";
    for (src, dst, heard) in [
        (ROUTER, A, "a"),
        (ROUTER, C, "c"),
        // An address that nobody has.
        (ROUTER, "02:00:c0:a8:00:07", ""),
        (ROUTER, BROADCAST, "abc"),
        (ROUTER, group, "abc"),
        (STRANGER, A, ""),
        (STRANGER, BROADCAST, ""),
        // Inside a network the bridge still floods.
        ("02:00:c0:a8:00:07", A, "ab"),
    ] {
        let frame = frame(src, dst, &[&IPV4, &[0x45]]);
        let hear = parties.hear(&parties.uplink, &frame);
        assert_eq!(hear, heard, "from {src} to {dst}");
    }
}

#[test]
fn a_bridge_learns_no_false_address() {
    let host = host();
    let parties = Parties::on(&host);
    for port in ["vnet0", "vnet1", "vnet2", "eth0"] {
        host.ip(&format!("link set {port} type bridge_slave learning on\n"));
    }
    // Switch the bridge's setting off: the rules alone must do it.
    let no_setting_helps = || host.ip("link set br0 type bridge no_linklocal_learn 0\n");
    no_setting_helps();
    let own = frame(A, BROADCAST, &[&ARP]);
    // A frame to 03 passes the bridge's INPUT chain, all others PREROUTING.
    let false_ones = [BROADCAST, B, "01:80:c2:00:00:00", "01:80:c2:00:00:03"]
        .map(|dst| frame(A, dst, &[&[0x88, 0xb5]]));
    let to_a = frame("02:00:c0:a8:00:09", A, &[&IPV4, &[0x45]]);
    let hear_after = |false_one: &[u8]| {
        parties.a.send(&own);
        parties.c.send(false_one);
        parties.hear(&parties.uplink, &to_a)
    };
    for false_one in &false_ones {
        // Without a fence, C draws A's frames to itself.
        assert_eq!(hear_after(false_one), "c", "{false_one:x?}");
    }
    parties.fence(&host, &[]);
    no_setting_helps();
    for false_one in &false_ones {
        assert_eq!(hear_after(false_one), "a", "{false_one:x?}");
    }
}

#[test]
fn a_pair_of_version_0_1_is_completed_and_keeps_its_counters() {
    let host = host();
    let parties = Parties::on(&host);
    let net = "02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00";
    for (who, way) in [(net, "-o"), (A, "-i")] {
        let rule = ["-A", "FORWARD", "-s", "!", who, way, "vnet0", "-j", "DROP"];
        host.ok("ebtables", &rule);
    }
    for _ in 0..3 {
        let foreign = frame(STRANGER, BROADCAST, &[&ARP]);
        assert_eq!(parties.hear(&parties.uplink, &foreign), "bc");
    }
    // A flooded frame under a false address is counted once for each of three ports.
    let spoofed = frame(B, BROADCAST, &[&ARP]);
    assert_eq!(parties.hear(&parties.a, &spoofed), "");
    let dropped = || host.list()[0]["nics"][0]["dropped"].clone();
    let before = dropped();
    assert_eq!(
        (&before["spoofed"], &before["foreign"]),
        (&3.into(), &3.into())
    );
    parties.fence(&host, &[]);
    assert_eq!(dropped(), before);
    let forward = host.ok("ebtables", &["-L", "FORWARD"]);
    assert!(!forward.contains("-i vnet0"), "{forward}");
    // Now it counts once.
    assert_eq!(parties.hear(&parties.a, &spoofed), "");
    assert_eq!(dropped()["spoofed"], 4);
}
