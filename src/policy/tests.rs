use super::*;
use crate::vm::Asked;

fn vm(nics: &[(&str, &str)]) -> Vm {
    let nic = |(port, mac): &(&str, &str)| {
        Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
    };
    Vm {
        name: "one-1".parse().unwrap(),
        nics: nics.iter().map(nic).collect(),
        skipped: Vec::new(),
    }
}

fn network(prefix: &str, trusted: &[&str]) -> Hears {
    Hears::Network {
        prefix: prefix.parse().unwrap(),
        trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
        trusted_ports: Vec::new(),
    }
}

#[test]
fn by_default_a_vm_hears_the_slash_40_that_its_address_is_in() {
    let vm = vm(&[("one-1-0", "02:00:c0:a8:00:05")]);
    let (fence, unfenced) = Policy::default()
        .fence(&vm, |_| Ok(Place::Nic("br0".into())))
        .unwrap();
    let guard = Guard::new(
        "one-1-0".parse().unwrap(),
        "02:00:c0:a8:00:05".parse().unwrap(),
        network("02:00:c0:a8:00:00/40", &[]),
    );
    assert_eq!(fence.guards, [guard]);
    assert_eq!(unfenced, []);
}

#[test]
fn trusted_senders_are_sorted_and_each_occurs_once() {
    let mut policy = Policy::default();
    policy.global.trusted = ["2:0:0:0:0:9", "2:0:0:0:0:1", "2:0:0:0:0:9"]
        .map(|t| t.parse().unwrap())
        .to_vec();
    let guard = policy.guard(&vm(&[("p", "2:0:0:0:1:1")]).nics[0], "br0");
    let trusted = ["02:00:00:00:00:01", "02:00:00:00:00:09"];
    assert_eq!(guard.hears, network("02:00:00:00:01:00/40", &trusted));
}

#[test]
fn a_nic_that_may_hear_all_networks_does_unless_isolation_is_always() {
    let mut nic = vm(&[("p", "2:0:0:0:1:1")]).nics.remove(0);
    nic.asked = Some(Asked {
        hears_all: true,
        ..Asked::default()
    });
    let mut policy = Policy::default();
    assert_eq!(policy.guard(&nic, "br0").hears, Hears::All);
    policy.global.isolation = Isolation::Always;
    let own = network("02:00:00:00:01:00/40", &[]);
    assert_eq!(policy.guard(&nic, "br0").hears, own);
}

#[test]
fn only_vms_ports_on_the_chosen_bridges_are_fenced() {
    let vm = vm(&[
        ("p0", "2:0:0:0:0:1"),
        ("p1", "2:0:0:0:0:2"),
        ("p2", "2:0:0:0:0:3"),
        ("p3", "2:0:0:0:0:4"),
    ]);
    let policy = Policy {
        bridges: vec!["br0".into()],
        ..Policy::default()
    };
    let place_of = |nic: &Nic| {
        Ok(match nic.port.as_str() {
            "p0" => Place::Nic("br0".into()),
            "p1" => Place::Nic("br1".into()),
            "p2" => Place::NoBridge,
            _ => Place::Other("br0".into(), "a bond".into()),
        })
    };
    let (fence, unfenced) = policy.fence(&vm, place_of).unwrap();
    assert_eq!(fence.ports(), [&"p0".parse().unwrap()].into());
    let left_out = [
        Unfenced::OtherBridge("p1".parse().unwrap(), "br1".into()),
        Unfenced::NoBridge("p2".parse().unwrap()),
        Unfenced::NotAVms("p3".parse().unwrap(), "a bond".into()),
    ];
    assert_eq!(unfenced, left_out);
}

fn section(bridge: &str, mac: &str, prefix_len: i64) -> Network {
    Network {
        selector: Selector {
            bridge: Some(bridge)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            mac: Some(mac)
                .filter(|mac| !mac.is_empty())
                .map(|mac| mac.parse().unwrap()),
        },
        overrides: Overrides {
            // The tests recognise the section by this length.
            prefix_len: Some(prefix_len.try_into().unwrap()),
            ..Overrides::default()
        },
        extras: Extras::default(),
    }
}

fn nic(mac: &str) -> Nic {
    vm(&[("p", mac)]).nics.remove(0)
}

fn prefix_len(policy: &Policy, mac: &str, bridge: &str) -> u8 {
    match policy.guard(&nic(mac), bridge).hears {
        Hears::Network { prefix, .. } => prefix.len().bits(),
        Hears::All => panic!("it hears all"),
    }
}

#[test]
fn the_most_specific_section_wins_in_whatever_order_they_stand() {
    let mut policy = Policy {
        networks: vec![
            section("br1", "", 11),
            section("", "02:00:0a:00:00:00/24", 12),
            section("", "02:00:0a:01:00:00/32", 13),
            section("br1", "02:00:00:00:00:00/16", 14),
            section("br1", "02:00:0a:01:02:00/40", 15),
        ],
        ..Policy::default()
    };
    for _ in 0..2 {
        for (mac, bridge, expected) in [
            ("52:54:00:00:00:01", "br0", 40),
            ("52:54:00:00:00:01", "br1", 11),
            ("02:00:0a:09:00:01", "br0", 12),
            ("02:00:0a:01:00:01", "br0", 13),
            ("02:00:0a:01:02:01", "br0", 13),
            // A bridge and a prefix together rank above a longer prefix alone.
            ("02:00:0a:01:00:01", "br1", 14),
            ("02:00:0a:01:02:01", "br1", 15),
        ] {
            assert_eq!(prefix_len(&policy, mac, bridge), expected, "{mac} {bridge}");
        }
        policy.networks.reverse();
    }
    // A prefix ranks above a bridge alone.
    policy.networks = vec![
        section("br1", "", 11),
        section("", "02:00:00:00:00:00/8", 12),
    ];
    assert_eq!(prefix_len(&policy, "02:00:0a:01:00:01", "br1"), 12);
}

#[test]
fn a_section_overrides_key_by_key_and_takes_nothing_from_other_sections() {
    let mut policy = Policy::default();
    policy.global.trusted = vec!["00:16:3e:00:00:01".parse().unwrap()];
    policy.global.dhcp_guard = true;
    let mut wide = section("", "02:00:0a:00:00:00/24", 24);
    wide.overrides.trusted = Some(vec!["00:16:3e:00:00:02".parse().unwrap()]);
    wide.overrides.multicast_querier = Some(true);
    let mut narrow = section("", "02:00:0a:01:00:00/32", 32);
    narrow.overrides.ra_guard = Some(true);
    policy.networks = vec![wide, narrow];
    let guard = |mac| policy.guard(&nic(mac), "br0");
    let in_wide = guard("02:00:0a:02:00:01");
    let hears = network("02:00:0a:00:00:00/24", &["00:16:3e:00:00:02"]);
    assert_eq!(in_wide.hears, hears);
    let said = |guard: &Guard| (guard.queries, guard.dhcp_guard, guard.ra_guard);
    assert_eq!(said(&in_wide), (true, true, false));
    let in_narrow = guard("02:00:0a:01:00:01");
    let hears = network("02:00:0a:01:00:00/32", &["00:16:3e:00:00:01"]);
    assert_eq!(in_narrow.hears, hears);
    assert_eq!(said(&in_narrow), (false, true, true));
    // An empty list is a value.
    policy.networks[1].overrides.trusted = Some(Vec::new());
    let hears = network("02:00:0a:01:00:00/32", &[]);
    assert_eq!(policy.guard(&nic("02:00:0a:01:00:01"), "br0").hears, hears);
}

#[test]
fn each_network_sets_its_own_isolation() {
    let mut always = section("br1", "", 40);
    always.overrides.isolation = Some(Isolation::Always);
    let policy = Policy {
        networks: vec![always],
        ..Policy::default()
    };
    let mut nic = nic("02:00:c0:a8:00:05");
    nic.asked = Some(Asked {
        hears_all: true,
        ..Asked::default()
    });
    assert_eq!(policy.guard(&nic, "br0").hears, Hears::All);
    assert_ne!(policy.guard(&nic, "br1").hears, Hears::All);
    assert_eq!(policy.isolation(nic.mac, "br0"), Isolation::Template);
    assert_eq!(policy.isolation(nic.mac, "br1"), Isolation::Always);
}

fn ips(guard: &Guard) -> Option<Vec<String>> {
    let addresses = guard.addresses.as_ref()?;
    let v4 = addresses.v4.iter().map(ToString::to_string);
    Some(
        v4.chain(addresses.v6.iter().map(ToString::to_string))
            .collect(),
    )
}

#[test]
fn the_template_chooses_which_addresses_are_guarded_unless_the_operator_does() {
    let known = |guards_addresses| {
        Some(Asked {
            guards_addresses,
            addresses: ["10.1.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()].into(),
            ..Asked::default()
        })
    };
    let own = Some(&["10.1.0.5", "2001:db8::5"][..]);
    for (mode, asked, expected) in [
        (AddressGuard::Template, None, None),
        (AddressGuard::Template, known(false), None),
        (AddressGuard::Template, known(true), own),
        (AddressGuard::Never, known(true), None),
        (AddressGuard::Always, known(false), own),
        // The addresses are unknown, so it may use none.
        (AddressGuard::Always, None, Some(&[][..])),
        (AddressGuard::Mac, known(false), own),
        (AddressGuard::Mac, None, Some(&["192.168.0.5"][..])),
    ] {
        let mut policy = Policy::default();
        policy.global.addresses = mode;
        let mut nic = nic("02:00:c0:a8:00:05");
        nic.asked = asked;
        let expected = expected.map(|ips| ips.iter().map(|ip| (*ip).to_owned()).collect());
        assert_eq!(
            ips(&policy.guard(&nic, "br0")),
            expected,
            "{mode:?} {nic:?}"
        );
    }
    // This MAC address contains no host's IPv4 address.
    let mut policy = Policy::default();
    policy.global.addresses = AddressGuard::Mac;
    let guard = policy.guard(&nic("02:00:ef:00:00:01"), "br0");
    assert_eq!(ips(&guard), Some(Vec::new()));
}

#[test]
fn further_addresses_come_from_the_network_the_nics_section_and_if_allowed_the_template() {
    let mac = |text: &str| text.parse::<MacAddr>().unwrap();
    let extras = |text: &str, ip: &str| Extras {
        macs: [mac(text)].into(),
        ips: [ip.parse().unwrap()].into(),
    };
    let mut of_network = section("br0", "", 40);
    of_network.extras = extras("00:00:5e:00:01:01", "10.0.0.1");
    let own = "02:00:c0:a8:00:05";
    let mut policy = Policy {
        networks: vec![of_network],
        nics: [(mac(own), extras("00:00:5e:00:01:02", "10.0.0.2"))].into(),
        ..Policy::default()
    };
    policy.global.addresses = AddressGuard::Always;
    let mut nic = nic(own);
    nic.asked = Some(Asked {
        // Its own address does not count as a further one.
        extra_macs: [mac(own), mac("00:00:5e:00:01:03")].into(),
        extra_addresses: ["10.0.0.3".parse().unwrap()].into(),
        ..Asked::default()
    });
    let guard = policy.guard(&nic, "br0");
    let macs = [mac("00:00:5e:00:01:01"), mac("00:00:5e:00:01:02")];
    assert_eq!(guard.extra_macs, macs);
    assert_eq!(ips(&guard).unwrap(), ["10.0.0.1", "10.0.0.2"]);
    policy.global.template_extras = true;
    let guard = policy.guard(&nic, "br0");
    assert_eq!(guard.extra_macs.last(), Some(&mac("00:00:5e:00:01:03")));
    assert_eq!(guard.extra_macs.len(), 3);
    assert_eq!(ips(&guard).unwrap(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    // Another NIC of the network, and one outside any network.
    nic.mac = mac("02:00:c0:a8:00:06");
    nic.asked = None;
    assert_eq!(policy.guard(&nic, "br0").extra_macs, macs[..1]);
    assert_eq!(policy.guard(&nic, "br1").extra_macs, []);
}

#[test]
fn a_port_is_trusted_only_if_it_is_no_vms() {
    let port = |name: &str| name.parse::<Port>().unwrap();
    let mut policy = Policy::default();
    policy.global.trusted_ports = vec![port("host1"), port("host0"), port("one-3-0")];
    let mut silent = section("br1", "", 40);
    silent.overrides.opennebula_proxy = Some(false);
    silent.overrides.trusted_ports = Some(vec![port("one-3-0")]);
    policy.networks = vec![silent];
    let proxies = ["br0", "br1", "br2"].map(|name| (name.to_owned(), port(&format!("{name}b"))));
    let here = policy.on_host(proxies.into(), |port| {
        ["one-3-0", "br2b"].contains(&port.as_str())
    });
    for (bridge, expected) in [
        ("br0", &["br0b", "host0", "host1"][..]),
        ("br1", &[]),
        ("br2", &["host0", "host1"]),
    ] {
        let Hears::Network { trusted_ports, .. } = here.guard(&nic("2:0:0:0:1:1"), bridge).hears
        else {
            panic!("it hears all");
        };
        let names: Vec<_> = trusted_ports.iter().map(Port::as_str).collect();
        assert_eq!(names, expected, "{bridge}");
    }
}
