//! Two hosts on one physical network, as in the seed: a cable joins their bridges.

use std::thread;
use std::time::Duration;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Tap, domain, until};

struct Vm {
    host: usize,
    port: &'static str,
    network: u8,
    mac: MacAddr,
    tap: Tap,
}

/// Two hosts, each with two VMs of network 0, two of network 1, and a watcher without a fence.
fn hosts() -> ([Host; 2], Vec<Vm>, [Tap; 2]) {
    let hosts = [Host::new(), Host::new()];
    hosts.iter().for_each(|host| host.bridge("br0"));
    hosts[0].cable("br0", &hosts[1], "br0");
    let mut vms = Vec::new();
    for (host, port, network) in [
        (0, "one-1-0", 0),
        (0, "one-2-0", 0),
        (0, "one-3-0", 1),
        (0, "one-4-0", 1),
        (1, "one-5-0", 0),
        (1, "one-6-0", 0),
        (1, "one-7-0", 1),
        (1, "one-8-0", 1),
    ] {
        let mac = MacAddr::new([2, 0, 192, 168, network, port.as_bytes()[4] - b'0']);
        let tap = hosts[host].tap("br0", port);
        let name = port.strip_suffix("-0").unwrap();
        hosts[host]
            .apply(&domain(name, &[(&mac.to_string(), port, "br0")]))
            .ok();
        vms.push(Vm {
            host,
            port,
            network,
            mac,
            tap,
        });
    }
    let watchers = hosts.each_ref().map(|host| host.tap("br0", "eth9"));
    (hosts, vms, watchers)
}

/// Sends a frame and returns the VMs on both hosts that hear it.
fn hearers(vms: &[Vm], watchers: &[Tap; 2], sender: &Vm, bytes: &[u8]) -> Vec<&'static str> {
    sender.tap.send(bytes);
    let id = number(bytes);
    until("a frame crosses the cable", || {
        let far = &watchers[1 - sender.host];
        far.heard().iter().any(|f| number(f) == id)
    });
    // The far bridge may not have served all of its ports yet.
    thread::sleep(Duration::from_millis(5));
    let heard = |vm: &&Vm| vm.tap.heard().iter().any(|f| number(f) == id);
    vms.iter().filter(heard).map(|vm| vm.port).collect()
}

#[test]
fn a_network_spans_hosts_and_nobody_else_hears_it() {
    let (_hosts, vms, watchers) = hosts();
    let mut id = 0;
    for sender in &vms {
        let everybody = vms.iter().map(|vm| vm.mac);
        for dst in everybody.chain([MacAddr::new([0xff; 6])]) {
            for kind in [Kind::Arp, Kind::Ipv4, Kind::Vlan] {
                id += 1;
                let own = |vm: &&Vm| vm.network == sender.network && vm.port != sender.port;
                let expected: Vec<_> = vms.iter().filter(own).map(|vm| vm.port).collect();
                let heard = hearers(&vms, &watchers, sender, &frame(kind, sender.mac, dst, id));
                assert_eq!(heard, expected, "{kind:?} from {} to {dst}", sender.port);
            }
        }
    }
}

#[test]
fn a_dhcp_discover_is_heard_in_no_other_network() {
    let (_hosts, vms, watchers) = hosts();
    let bytes = frame(Kind::Dhcp, vms[0].mac, MacAddr::new([0xff; 6]), 1);
    assert_eq!(
        hearers(&vms, &watchers, &vms[0], &bytes),
        ["one-2-0", "one-5-0", "one-6-0"]
    );
}
