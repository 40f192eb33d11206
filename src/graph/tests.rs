use super::*;
use crate::fence::{ActualGuard, Hears};
use crate::survey::Cause;

/// A fenced port on `br0` or another bridge.
fn fenced(vm: &str, port: &str, mac: &str, bridge: &str, hears: Hears) -> Entry {
    let guard = ActualGuard {
        macs: vec![mac.parse().unwrap()],
        hears: vec![hears],
        ..ActualGuard::none(port.parse().unwrap())
    };
    Entry {
        vm: Some(vm.parse().unwrap()),
        chain: Some("x".to_owned()),
        port: Some(guard.port.clone()),
        bridge: Some(bridge.to_owned()),
        mac: guard.macs.first().copied(),
        status: Status::Fenced(None),
        held: Some(guard),
    }
}

fn open(vm: &str, port: &str, mac: &str) -> Entry {
    Entry {
        chain: None,
        status: Status::Unfenced(Cause::Missing, String::new()),
        held: None,
        ..fenced(vm, port, mac, "br0", Hears::All)
    }
}

fn network(prefix: &str, trusted: &[&str], ports: &[&str]) -> Hears {
    Hears::Network {
        prefix: prefix.parse().unwrap(),
        trusted: trusted.iter().map(|who| who.parse().unwrap()).collect(),
        trusted_ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
    }
}

const A: &str = "02:00:00:00:00:00/40";
const B: &str = "02:00:00:00:01:00/40";

/// The arrows of a map.
fn arrows(entries: &[Entry]) -> Vec<String> {
    let text = dot(entries);
    let arrows = text.lines().filter(|line| line.contains(" -> "));
    arrows.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_map_has_a_box_for_each_bridge_and_in_it_one_for_each_network() {
    let map = dot(&[
        fenced(
            "one-1",
            "p1",
            "02:00:00:00:00:01",
            "br0",
            network(A, &[], &[]),
        ),
        fenced(
            "one-2",
            "p2",
            "02:00:00:00:00:02",
            "br0",
            network(A, &[], &[]),
        ),
        fenced(
            "one-3",
            "p3",
            "02:00:00:00:01:03",
            "br0",
            network(B, &[], &[]),
        ),
        fenced(
            "one-4",
            "p4",
            "02:00:00:00:01:04",
            "br1",
            network(B, &[], &[]),
        ),
    ]);
    let expected = r#"// Who hears whom: those in one box hear each other, and an arrow leads from who is heard to who hears it.
digraph macfence {
	compound=true; rankdir=LR; node [shape=box, style=filled, fillcolor=white];
	subgraph cluster_0 {
		label="bridge br0";
		subgraph cluster_0_0 {
			label="network 02:00:00:00:00:00/40"; style=rounded;
			n0 [label="one-1\np1\n02:00:00:00:00:01"];
			n1 [label="one-2\np2\n02:00:00:00:00:02"];
		}
		subgraph cluster_0_1 {
			label="network 02:00:00:00:01:00/40"; style=rounded;
			n2 [label="one-3\np3\n02:00:00:00:01:03"];
		}
	}
	subgraph cluster_1 {
		label="bridge br1";
		subgraph cluster_1_0 {
			label="network 02:00:00:00:01:00/40"; style=rounded;
			n3 [label="one-4\np4\n02:00:00:00:01:04"];
		}
	}
}
"#;
    assert_eq!(map, expected);
}

#[test]
fn a_vm_that_another_network_trusts_is_heard_there_and_other_trusted_senders_have_a_place() {
    let trusting = network(
        B,
        &["02:00:00:00:00:02/48", "00:16:3e:00:00:01/48"],
        &["vpn0"],
    );
    let entries = [
        fenced(
            "one-1",
            "p1",
            "02:00:00:00:00:01",
            "br0",
            network(A, &[], &[]),
        ),
        fenced(
            "router",
            "p2",
            "02:00:00:00:00:02",
            "br0",
            network(A, &[], &[]),
        ),
        fenced("one-3", "p3", "02:00:00:00:01:03", "br0", trusting),
    ];
    assert_eq!(
        arrows(&entries),
        [
            "n1 -> n2 [lhead=cluster_0_1];",
            "t0_0 -> n2 [lhead=cluster_0_1];",
            "t0_1 -> n2 [lhead=cluster_0_1];",
        ]
    );
    let map = dot(&entries);
    for who in [
        r#"t0_0 [label="trusted\n00:16:3e:00:00:01/48", shape=ellipse];"#,
        r#"t0_1 [label="trusted\nport vpn0", shape=ellipse];"#,
    ] {
        assert!(map.contains(who), "{map}");
    }
}

#[test]
fn a_port_that_is_not_isolated_or_not_fenced_hears_everybody() {
    let entries = [
        fenced(
            "one-1",
            "p1",
            "02:00:00:00:00:01",
            "br0",
            network(A, &[], &[]),
        ),
        fenced("one-2", "p2", "02:00:00:00:01:02", "br0", Hears::All),
        open("one-3", "p3", "02:00:00:00:00:03"),
    ];
    assert_eq!(
        arrows(&entries),
        [
            // The open VM sends from its own address, which is in the first VM's network.
            "n2 -> n0 [lhead=cluster_0_0, ltail=cluster_0_2, color=red];",
            "n0 -> n1 [lhead=cluster_0_1, ltail=cluster_0_0];",
            "n2 -> n1 [lhead=cluster_0_1, ltail=cluster_0_2, color=red];",
            "n0 -> n2 [lhead=cluster_0_2, ltail=cluster_0_0, color=red];",
            "n1 -> n2 [lhead=cluster_0_2, ltail=cluster_0_1, color=red];",
        ]
    );
    let map = dot(&entries);
    assert!(map.contains("label=\"not fenced\"") && map.contains("label=\"hear all networks\""));
}

#[test]
fn a_senders_further_address_counts_and_damaged_rules_have_no_arrows() {
    let mut two = fenced(
        "one-2",
        "p2",
        "02:00:00:00:01:02",
        "br0",
        network(B, &[], &[]),
    );
    let extra = "02:00:00:00:00:22".parse().unwrap();
    two.held.as_mut().unwrap().extra_macs.push(extra);
    let mut damaged = fenced("one-3", "p3", "02:00:00:00:03:03", "br0", Hears::All);
    damaged.held.as_mut().unwrap().hears.clear();
    let one = fenced(
        "one-1",
        "p1",
        "02:00:00:00:00:01",
        "br0",
        network(A, &[], &[]),
    );
    assert_eq!(
        arrows(&[one, two, damaged]),
        ["n1 -> n0 [lhead=cluster_0_0, ltail=cluster_0_1];"]
    );
}

#[test]
fn no_name_breaks_out_of_its_label() {
    let odd = "a\"];\\N&lt;\nb<b>{}|";
    let map = dot(&[open(odd, "p{}&", "02:00:00:00:00:01")]);
    let label = r#"n0 [label="a\"];\\N&amp;lt;\\nb<b>{}|\np{}&amp;\n02:00:00:00:00:01"];"#;
    assert!(map.contains(label), "{map}");
}

#[test]
fn ports_that_are_gone_are_left_out() {
    let mut gone = open("one-1", "p1", "02:00:00:00:00:01");
    gone.bridge = None;
    assert!(!dot(&[gone]).contains("subgraph"));
}
