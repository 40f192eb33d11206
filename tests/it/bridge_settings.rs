//! Settings of bridges and ports that stop frames which no rule sees. Each test shows the attack
//! without the setting, and that it fails with it.

use std::thread;

use macfence::bridge::{Change, Hardened, Weakness, forget, harden, weaknesses};
use macfence::events::{Event, Events};
use macfence::mac::MacAddr;
use macfence::vm::Port;

use crate::lab::frame::{Kind, frame};
use crate::lab::pages::commands;
use crate::lab::{Host, Tap, until};

const ATTACKER: &str = "02:00:c0:a8:00:05";
const VICTIM: &str = "02:00:c0:a8:01:06";
const LLDP: &str = "01:80:c2:00:00:0e";
const BPDU: &str = "01:80:c2:00:00:00";
const ALL: &str = "ff:ff:ff:ff:ff:ff";

/// Creates a bridge that learns, an attacker's port and a victim's.
fn host() -> (Host, Tap, Tap) {
    let host = Host::new();
    host.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
    let attacker = host.tap("br0", "vnet0");
    let victim = host.tap("br0", "vnet1");
    for port in ["vnet0", "vnet1"] {
        host.ip(&format!(
            "link set dev {port} type bridge_slave learning on\n"
        ));
    }
    (host, attacker, victim)
}

/// Creates the same with spanning tree.
fn host_with_spanning_tree() -> (Host, Tap, Tap) {
    let (host, attacker, victim) = host();
    host.ip("link set dev br0 type bridge stp_state 1\n");
    (host, attacker, victim)
}

fn port(name: &str) -> Port {
    name.parse().unwrap()
}

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

fn send(tap: &Tap, src: &str, dst: &str) {
    tap.send(&frame(Kind::Unknown, mac(src), mac(dst), 0));
}

/// Returns the port at which the bridge believes this address.
fn behind(host: &Host, mac: &str) -> Option<String> {
    let table = host.ok("bridge", &["-j", "fdb", "show", "br", "br0"]);
    let table: serde_json::Value = serde_json::from_str(&table).expect("JSON");
    let mut entries = table.as_array().expect("an array").iter();
    let entry = entries.find(|entry| entry["mac"] == mac)?;
    Some(entry["ifname"].as_str().expect("a port").to_owned())
}

/// Sends a frame, and waits until the bridge believes its source at this port.
fn teach(host: &Host, tap: &Tap, src: &str, dst: &str, port: &str) {
    send(tap, src, dst);
    until("learned", || behind(host, src).as_deref() == Some(port));
}

/// Reads a file of a device.
fn setting(host: &Host, file: &str) -> String {
    let path = format!("/sys/class/net/{file}");
    let text = host.run(|| std::fs::read_to_string(&path).expect(&path));
    text.trim().to_owned()
}

/// Builds a BPDU whose sender claims to be the best possible root.
fn claim_to_be_root() -> Vec<u8> {
    let mut bpdu = [mac(BPDU).bytes(), mac(ATTACKER).bytes()].concat();
    bpdu.extend([0, 38, 0x42, 0x42, 3]);
    bpdu.extend([0; 5]); // protocol, version, type, flags
    bpdu.extend([0; 8 + 4 + 8]); // root, cost, bridge
    bpdu.extend([0x80, 1, 0, 0, 20, 0, 2, 0, 15, 0]); // port, age, max age, hello, delay
    bpdu.resize(60, 0);
    bpdu
}

/// Builds a BPDU that announces a change of the topology.
fn topology_change() -> Vec<u8> {
    let mut bpdu = [mac(BPDU).bytes(), mac(ATTACKER).bytes()].concat();
    bpdu.extend([0, 7, 0x42, 0x42, 3, 0, 0, 0, 0x80]);
    bpdu.resize(60, 0);
    bpdu
}

const DISABLED: &str = "0";

fn harden_all(host: &Host) -> Hardened {
    host.run(|| harden(&[port("vnet0"), port("vnet1")]))
        .expect("hardened")
}

#[test]
fn an_lldp_frame_moves_a_victims_entry_before_the_bridge_is_hardened_and_not_after() {
    let (host, attacker, victim) = host();
    teach(&host, &victim, VICTIM, ALL, "vnet1");
    teach(&host, &attacker, VICTIM, LLDP, "vnet0");

    let weak = Weakness::LinkLocalLearning("br0".to_owned());
    let found = host.run(|| weaknesses(&[port("vnet0")])).unwrap();
    assert_eq!(found.weaknesses, std::slice::from_ref(&weak));
    let hardened = harden_all(&host);
    assert_eq!(hardened.changes, [Change(weak)]);
    assert_eq!(hardened.unsupported, []);
    assert_eq!(setting(&host, "br0/bridge/no_linklocal_learn"), "1");

    teach(&host, &victim, VICTIM, ALL, "vnet1");
    send(&attacker, VICTIM, LLDP);
    teach(&host, &attacker, ATTACKER, ALL, "vnet0");
    assert_eq!(behind(&host, VICTIM).as_deref(), Some("vnet1"));
}

#[test]
fn a_second_call_sends_nothing() {
    let (host, _attacker, _victim) = host_with_spanning_tree();
    assert_eq!(harden_all(&host).changes.len(), 3);
    assert_eq!(harden_all(&host), Hardened::default());
    // As nobody, any message to the kernel would be refused.
    let again = host.run_as_nobody(|| harden(&[port("vnet0"), port("vnet1")]));
    assert_eq!(again.unwrap(), Hardened::default());
}

#[test]
fn a_bpdu_makes_a_vm_the_root_bridge_before_its_port_is_hardened_and_not_after() {
    let (host, attacker, _victim) = host_with_spanning_tree();
    attacker.send(&claim_to_be_root());
    until("root", || setting(&host, "br0/bridge/root_port") != "0");

    harden_all(&host);
    attacker.send(&claim_to_be_root());
    until("disabled", || {
        setting(&host, "vnet0/brport/state") == DISABLED
    });
    assert_eq!(setting(&host, "br0/bridge/root_port"), "0");
    assert_eq!(
        setting(&host, "br0/bridge/root_id"),
        setting(&host, "br0/bridge/bridge_id")
    );
    assert_ne!(setting(&host, "vnet1/brport/state"), DISABLED);
}

#[test]
fn a_topology_change_from_a_vm_changes_nothing_after_its_port_is_hardened() {
    let (host, attacker, _victim) = host_with_spanning_tree();
    harden_all(&host);
    attacker.send(&topology_change());
    until("disabled", || {
        setting(&host, "vnet0/brport/state") == DISABLED
    });
    assert_eq!(setting(&host, "br0/bridge/topology_change"), "0");
}

#[test]
fn a_disabled_port_stays_disabled_until_it_is_set_down_and_up() {
    let (host, attacker, _victim) = host_with_spanning_tree();
    harden_all(&host);
    attacker.send(&claim_to_be_root());
    until("disabled", || {
        setting(&host, "vnet0/brport/state") == DISABLED
    });
    host.run(|| forget(&port("vnet0"))).unwrap();
    host.ip("link set dev vnet1 type bridge_slave guard off\n");
    assert_eq!(harden_all(&host).changes.len(), 1);
    host.ok("bridge", &["link", "set", "dev", "vnet0", "guard", "off"]);
    assert_eq!(harden_all(&host).changes.len(), 1);
    assert_eq!(setting(&host, "vnet0/brport/state"), DISABLED);

    let reset = commands("threat-model.md", "Settings of bridges");
    host.ok("sh", &["-ec", &reset.concat()]);
    assert_ne!(setting(&host, "vnet0/brport/state"), DISABLED);
    assert_eq!(setting(&host, "vnet0/brport/bpdu_guard"), "1");
}

#[test]
fn without_spanning_tree_no_port_gets_a_guard() {
    let (host, _attacker, _victim) = host();
    harden_all(&host);
    assert_eq!(setting(&host, "vnet0/brport/bpdu_guard"), "0");
}

#[test]
fn only_addresses_learned_at_the_port_are_forgotten() {
    let (host, attacker, victim) = host();
    let fixed = "02:00:c0:a8:00:99";
    let add = ["fdb", "add", fixed, "dev", "vnet0", "master", "static"];
    host.ok("bridge", &add);
    teach(&host, &victim, VICTIM, ALL, "vnet1");
    teach(&host, &attacker, ATTACKER, ALL, "vnet0");
    host.run(|| forget(&port("vnet0"))).unwrap();
    assert_eq!(behind(&host, ATTACKER), None);
    assert_eq!(behind(&host, VICTIM).as_deref(), Some("vnet1"));
    assert_eq!(behind(&host, fixed).as_deref(), Some("vnet0"));
}

#[test]
fn setting_a_guard_is_one_event_of_its_port_and_none_if_it_is_already_set() {
    let (host, _attacker, _victim) = host_with_spanning_tree();
    let events = host.run(Events::listen).unwrap();
    harden_all(&host);
    let ports = ["vnet0", "vnet1"].map(|port| Event::Port(port.to_owned()));
    assert_eq!(events.read().unwrap(), ports);
    harden_all(&host);
    assert_eq!(events.read().unwrap(), []);
    host.run(|| forget(&port("vnet1"))).unwrap();
    assert_eq!(events.read().unwrap(), [Event::Port("vnet1".to_owned())]);
}

#[test]
fn ports_and_bridges_that_are_gone_are_no_error() {
    let host = Host::new();
    host.ip("tuntap add vnet9 mode tap\n");
    for gone in ["vnet8", "vnet9"] {
        host.run(|| forget(&port(gone))).unwrap();
        let hardened = host.run(|| harden(&[port(gone)])).unwrap();
        assert_eq!(hardened, Hardened::default());
    }
}

#[test]
fn ports_and_bridges_that_disappear_meanwhile_are_no_error() {
    let host = Host::new();
    thread::scope(|scope| {
        let comes_and_goes = scope.spawn(|| {
            for _ in 0..20 {
                host.ip(
                    "link add br0 type bridge stp_state 1\ntuntap add vnet0 mode tap\n\
                     link set dev vnet0 master br0\nlink del vnet0\n\
                     tuntap add vnet0 mode tap\nlink set dev vnet0 master br0\n\
                     link del br0\nlink del vnet0\n",
                );
            }
        });
        host.run(|| {
            while !comes_and_goes.is_finished() {
                let hardened = harden(&[port("vnet0")]).expect("hardened");
                assert_eq!(hardened.unsupported, []);
                forget(&port("vnet0")).expect("forgotten");
            }
        });
    });
}

#[test]
fn a_user_who_may_not_change_a_bridge_learns_which_change_failed_and_why() {
    let (host, _attacker, _victim) = host_with_spanning_tree();
    let refused = |error: anyhow::Error| format!("{error:#}");
    let harden_one = || harden(&[port("vnet0")]);
    let end = ": the kernel allows this only to root (CAP_NET_ADMIN)";
    assert_eq!(
        refused(host.run_as_nobody(harden_one).unwrap_err()),
        format!("cannot set no_linklocal_learn of bridge \"br0\"{end}")
    );
    host.ip("link set dev br0 type bridge no_linklocal_learn 1\n");
    assert_eq!(
        refused(host.run_as_nobody(harden_one).unwrap_err()),
        format!("cannot set BPDU guard of port \"vnet0\"{end}")
    );
    assert_eq!(
        refused(host.run_as_nobody(|| forget(&port("vnet0"))).unwrap_err()),
        format!("cannot delete the addresses learned at port \"vnet0\"{end}")
    );
}
