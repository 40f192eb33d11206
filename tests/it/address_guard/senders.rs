//! Additional addresses that a VM may send from, and trusted ports of the host, which a VM hears
//! under any sender address.

use std::net::{Ipv4Addr, Ipv6Addr};

use macfence::fence::{Guard, Hears, LinkLocal};
use macfence::mac::MacAddr;

use super::table::{ALL, Guarded, OWN_MAC, OWN_V4, OWN_V6};
use super::{PORT, Scene, VERSIONS, enforce, fence, guarded, host_with};
use crate::lab::Tap;
use crate::lab::frame::{Kind, frame};
use crate::lab::packet::*;

/// The MAC address of VRRP's virtual router 7.
const EXTRA: MacAddr = MacAddr::new([0, 0, 0x5e, 0, 1, 7]);
const EXTRA_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x200, 0x5eff, 0xfe00, 0x107);
const THIRD: MacAddr = MacAddr::new([0, 0, 0x5e, 0, 1, 8]);
const NEIGHBOUR: MacAddr = MacAddr::new([2, 0, 0xc0, 0xa8, 0, 6]);
/// The MAC address of a device that OpenNebula creates on the host.
const RANDOM: MacAddr = MacAddr::new([0x9a, 0x17, 3, 4, 5, 6]);

const KINDS: [Kind; 4] = [Kind::Arp, Kind::Ipv4, Kind::Ipv6, Kind::Vlan];

fn extra(guard: Guard) -> Guard {
    Guard {
        extra_macs: vec![EXTRA],
        ..guard
    }
}

fn network(trusted_ports: &[&str]) -> Hears {
    Hears::Network {
        prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
        trusted: Vec::new(),
        trusted_ports: trusted_ports.iter().map(|p| p.parse().unwrap()).collect(),
    }
}

/// Sends a frame of every kind into a port, and tells whether the VM hears them. It must hear all
/// or none.
fn vm_hears(scene: &Scene, from: &Tap, src: MacAddr, dst: MacAddr) -> bool {
    let hears = |kind| {
        scene.vm.heard();
        let sent = frame(kind, src, dst, 7);
        from.send(&sent);
        scene.vm.heard().contains(&sent)
    };
    let each = KINDS.map(hears);
    assert!(each.iter().all(|heard| *heard == each[0]), "{each:?}");
    each[0]
}

fn check_extra_macs(version: Option<&str>) {
    let scene = Scene::new(host_with(version));
    let plain = Guard::new(PORT.parse().unwrap(), OWN_MAC, Hears::All);
    enforce(&scene.host, &fence(extra(plain)));
    for kind in KINDS {
        for (src, is_heard) in [(OWN_MAC, true), (EXTRA, true), (THIRD, false)] {
            assert_eq!(scene.hears(&frame(kind, src, ALL, 7)), is_heard, "{src}");
        }
    }
    let arp = |mac, ip| {
        let arp = Arp {
            operation: 2,
            mac,
            ip,
            target: ip,
        };
        ether(EXTRA, ALL, ARP, &arp.bytes())
    };
    let ll = |src: Ipv6Addr| ether(EXTRA, ALL, IPV6, &ipv6(src, OWN_V6, UDP, &udp(9, 9)));
    let claim = |target| {
        let advert = icmpv6(136, target);
        ether(EXTRA, ALL, IPV6, &ipv6(OWN_V6, OWN_V6, ICMPV6, &advert))
    };
    let probe = |target| {
        let probe = icmpv6(135, target);
        let packet = ipv6(Ipv6Addr::UNSPECIFIED, OWN_V6, ICMPV6, &probe);
        ether(EXTRA, ALL, IPV6, &packet)
    };
    let other_ll = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4);
    // The highest network of fe80::/10, and the first one above it.
    let last_ll = Ipv6Addr::new(0xfebf, 0xffff, 0, 0, 0, 0, 0, 1);
    let site = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 1);
    for link_local in [LinkLocal::Eui64, LinkLocal::Any] {
        let mut guard = extra(guarded(Guarded::Addresses));
        if let Some(addresses) = &mut guard.addresses {
            addresses.link_local = link_local;
        }
        enforce(&scene.host, &fence(guard));
        let is_any = link_local == LinkLocal::Any;
        for (frame, is_heard) in [
            (arp(EXTRA, OWN_V4[0]), true),
            (arp(OWN_MAC, OWN_V4[0]), true),
            (arp(THIRD, OWN_V4[0]), false),
            (arp(EXTRA, Ipv4Addr::new(192, 168, 0, 7)), false),
            (ll(EXTRA_LL), true),
            (claim(EXTRA_LL), true),
            (probe(EXTRA_LL), true),
            (ll(other_ll), is_any),
            (claim(other_ll), is_any),
            (probe(other_ll), is_any),
            (ll(last_ll), is_any),
            (claim(last_ll), is_any),
            (probe(last_ll), is_any),
            (ll(site), false),
            (claim(site), false),
            (probe(site), false),
        ] {
            assert_eq!(scene.hears(&frame), is_heard, "{link_local:?} {frame:02x?}");
        }
    }
}

fn check_trusted_ports(version: Option<&str>) {
    let scene = Scene::new(host_with(version));
    let uplink = &scene.listener;
    let [trusted, also_trusted] = ["br0b", "br0c"].map(|port| scene.host.tap("br0", port));
    let hears = |from, src, dst| vm_hears(&scene, from, src, dst);
    let guard = |ports| Guard::new(PORT.parse().unwrap(), OWN_MAC, network(ports));
    enforce(&scene.host, &fence(extra(guard(&["br0b", "br0c"]))));
    for from in [&trusted, &also_trusted] {
        for dst in [OWN_MAC, EXTRA, ALL] {
            assert!(hears(from, RANDOM, dst), "{dst}");
            assert!(!hears(uplink, RANDOM, dst), "{dst}");
        }
        // A trusted port does not let the VM hear frames that the bridge floods for others.
        assert!(!hears(from, RANDOM, NEIGHBOUR));
    }
    // The VM still hears its network from anywhere.
    for from in [&trusted, uplink] {
        assert!(hears(from, NEIGHBOUR, OWN_MAC));
        assert!(hears(from, NEIGHBOUR, THIRD));
    }
    enforce(&scene.host, &fence(guard(&["br0b"])));
    assert!(hears(&trusted, RANDOM, ALL));
    assert!(!hears(&also_trusted, RANDOM, ALL));
    assert!(!hears(&trusted, RANDOM, EXTRA));
    enforce(&scene.host, &fence(guard(&[])));
    assert!(!hears(&trusted, RANDOM, ALL));
}

#[test]
fn a_vm_may_send_from_its_extra_macs_and_the_addresses_made_from_them() {
    for version in [None].into_iter().chain(VERSIONS.map(Some)) {
        check_extra_macs(version);
    }
}

#[test]
fn a_vm_hears_every_sender_at_a_trusted_port_but_nothing_for_other_vms() {
    for version in [None].into_iter().chain(VERSIONS.map(Some)) {
        check_trusted_ports(version);
    }
}
