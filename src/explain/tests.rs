use super::*;
use crate::fence::{ActualAddresses, Dropped};

const OWN: &str = "02:00:c0:a8:00:05";
const NEIGHBOUR: &str = "02:00:c0:a8:00:06";
const OTHER: &str = "02:00:c0:a8:01:05";
const ROUTER: &str = "00:16:3e:00:00:01";

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

fn port(name: &str) -> Port {
    name.parse().unwrap()
}

/// A whole guard that hears its own network and these.
fn guard(trusted: &[&str], trusted_ports: &[&str]) -> ActualGuard {
    ActualGuard {
        macs: vec![mac(OWN)],
        hears: vec![Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: trusted.iter().map(|who| who.parse().unwrap()).collect(),
            trusted_ports: trusted_ports.iter().map(|name| port(name)).collect(),
        }],
        dropped: Dropped {
            spoofed: Some(3),
            foreign: Some(5),
            forged: Some(7),
        },
        ..ActualGuard::none(port("a"))
    }
}

fn side<'a>(port: &'a Port, guard: &'a ActualGuard) -> Side<'a> {
    Side {
        port: Some(port),
        guard: Some(guard),
        defects: &[],
    }
}

/// The verdict of a receiver's guard on a sender at the port "b".
fn hears(guard: &ActualGuard, source: &str) -> Outcome {
    let (own, other) = (port("a"), port("b"));
    let from = Side {
        port: Some(&other),
        ..Side::default()
    };
    let frame = Frame {
        source: mac(source),
        claim: Claim::Nothing,
    };
    let steps = verdict(&from, &side(&own, guard), frame, Words::Nft);
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[0].outcome, Outcome::Passes);
    steps[1].outcome
}

/// The verdict of a sender's guard.
fn sends(guard: &ActualGuard, source: &str, claim: Claim) -> Outcome {
    let own = port("a");
    let frame = Frame {
        source: mac(source),
        claim,
    };
    let other = port("b");
    let to = Side {
        port: Some(&other),
        ..Side::default()
    };
    let steps = verdict(&side(&own, guard), &to, frame, Words::Nft);
    assert_eq!(steps.last().unwrap().outcome, Outcome::Passes);
    deciding(&steps).unwrap().outcome
}

#[test]
fn only_the_own_network_and_trusted_senders_are_heard() {
    let plain = guard(&[], &[]);
    let foreign = Outcome::Drops(Reason::Foreign);
    assert_eq!(hears(&plain, NEIGHBOUR), Outcome::Passes);
    assert_eq!(hears(&plain, OTHER), foreign);
    assert_eq!(hears(&plain, ROUTER), foreign);
    assert_eq!(hears(&guard(&[ROUTER], &[]), ROUTER), Outcome::Passes);
    assert_eq!(
        hears(&guard(&["00:16:3e:00:00:00/24"], &[]), ROUTER),
        Outcome::Passes
    );
    assert_eq!(hears(&guard(&[ROUTER], &[]), OTHER), foreign);
    assert_eq!(hears(&guard(&[], &["b"]), OTHER), Outcome::Passes);
    assert_eq!(hears(&guard(&[], &["c"]), OTHER), foreign);
}

#[test]
fn every_rule_about_who_is_heard_must_pass_and_without_rules_all_pass() {
    let mut twice = guard(&[ROUTER], &[]);
    twice.hears.extend(guard(&[], &[]).hears);
    assert_eq!(hears(&twice, NEIGHBOUR), Outcome::Passes);
    assert_eq!(hears(&twice, ROUTER), Outcome::Drops(Reason::Foreign));
    for hears_all in [vec![], vec![Hears::All]] {
        let guard = ActualGuard {
            hears: hears_all,
            ..guard(&[], &[])
        };
        assert_eq!(hears(&guard, OTHER), Outcome::Passes);
    }
}

#[test]
fn a_vm_sends_from_its_own_addresses_only() {
    let mut guard = guard(&[], &[]);
    let spoofed = Outcome::Drops(Reason::Spoofed);
    assert_eq!(sends(&guard, OWN, Claim::Nothing), Outcome::Passes);
    assert_eq!(sends(&guard, NEIGHBOUR, Claim::Nothing), spoofed);
    guard.extra_macs = vec![mac(NEIGHBOUR)];
    assert_eq!(sends(&guard, NEIGHBOUR, Claim::Nothing), Outcome::Passes);
    assert_eq!(sends(&guard, OTHER, Claim::Nothing), spoofed);
}

#[test]
fn a_lost_rule_drops_nothing_and_contradicting_rules_drop_what_any_one_drops() {
    let lost = ActualGuard {
        macs: vec![],
        ..guard(&[], &[])
    };
    assert_eq!(sends(&lost, OTHER, Claim::Nothing), Outcome::Passes);
    let mut two = guard(&[], &[]);
    two.macs.push(mac(OWN));
    assert_eq!(sends(&two, OWN, Claim::Nothing), Outcome::Passes);
    two.macs.push(mac(OTHER));
    for source in [OWN, OTHER, NEIGHBOUR] {
        let outcome = sends(&two, source, Claim::Nothing);
        assert_eq!(outcome, Outcome::Drops(Reason::Spoofed), "{source}");
    }
    // It is unknown which rule allows the further address.
    two.extra_macs = vec![mac(OTHER)];
    assert_eq!(sends(&two, OTHER, Claim::Nothing), Outcome::Unknown);
}

#[test]
fn guarded_ip_addresses_are_judged_as_the_rules_name_them() {
    let mut guard = guard(&[], &[]);
    let arp = |ip: &str| Claim::Arp(ip.parse().unwrap());
    let ip = |ip: &str| Claim::Ip(ip.parse().unwrap());
    assert_eq!(sends(&guard, OWN, ip("10.0.0.1")), Outcome::Passes);
    let v4 = vec!["192.168.0.5".parse().unwrap()];
    let v6 = ActualIpv6 {
        addresses: vec![
            "2001:db8::5".parse().unwrap(),
            "fe80::c0ff:fea8:5".parse().unwrap(),
        ],
        any_link_local: false,
    };
    guard.addresses = Some(ActualAddresses {
        v4: vec![v4.clone(), v4],
        v6: vec![v6; 3],
    });
    for own in [
        arp("192.168.0.5"),
        arp("0.0.0.0"),
        ip("192.168.0.5"),
        ip("2001:db8::5"),
        ip("fe80::c0ff:fea8:5"),
    ] {
        assert_eq!(sends(&guard, OWN, own), Outcome::Passes, "{own:?}");
    }
    let others = [
        arp("192.168.0.1"),
        ip("192.168.0.6"),
        ip("fe80::1"),
        ip("2001:db8::6"),
    ];
    for other in others {
        let outcome = sends(&guard, OWN, other);
        assert_eq!(outcome, Outcome::Drops(Reason::Forged), "{other:?}");
    }
    // If rules are missing, the rule that decides may be one of them.
    guard.defects = vec!["no rule against \"false IPv4 source\" from \"a\"".to_owned()];
    for other in others {
        assert_eq!(sends(&guard, OWN, other), Outcome::Unknown, "{other:?}");
    }
    assert_eq!(sends(&guard, OWN, arp("192.168.0.5")), Outcome::Passes);
}

#[test]
fn a_fence_that_frames_may_bypass_proves_nothing() {
    let (own, other) = (port("a"), port("b"));
    let guard = guard(&[], &[]);
    let defects = ["the table is dormant".to_owned()];
    let damaged = Side {
        defects: &defects,
        ..side(&own, &guard)
    };
    let whole = side(&other, &guard);
    let frame = |source| Frame {
        source: mac(source),
        claim: Claim::Nothing,
    };
    let heard = |from, to, source| is_heard(&verdict(from, to, frame(source), Words::Nft));
    assert_eq!(heard(&damaged, &whole, OWN), None);
    assert_eq!(heard(&whole, &damaged, OWN), None);
    // A frame that another step drops for certain is not heard all the same.
    assert_eq!(heard(&damaged, &whole, OTHER), Some(false));
    assert_eq!(heard(&whole, &damaged, OTHER), Some(false));
}

#[test]
fn the_rule_that_decides_comes_with_its_counter() {
    let (own, other) = (port("a"), port("b"));
    let guard = guard(&[ROUTER], &["br0b"]);
    let frame = Frame {
        source: mac(OTHER),
        claim: Claim::Nothing,
    };
    let from = Side {
        port: Some(&other),
        ..Side::default()
    };
    let steps = verdict(&from, &side(&own, &guard), frame, Words::Nft);
    let step = deciding(&steps).unwrap();
    let rule = "oifname \"a\" ether saddr & ff:ff:ff:ff:ff:00 != 02:00:c0:a8:00:00 ether saddr != \
                00:16:3e:00:00:01 iifname != \"br0b\" counter goto dropped-foreign";
    assert_eq!((step.rule.as_deref(), step.dropped), (Some(rule), Some(5)));
    let steps = verdict(&from, &side(&own, &guard), frame, Words::Ebtables);
    let rule = "filter FORWARD -s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o a";
    assert_eq!(deciding(&steps).unwrap().rule.as_deref(), Some(rule));
    let steps = verdict(&side(&own, &guard), &from, frame, Words::Nft);
    let step = deciding(&steps).unwrap();
    let rule = "iifname \"a\" ether saddr != 02:00:c0:a8:00:05 counter goto dropped-spoofed";
    assert_eq!((step.rule.as_deref(), step.dropped), (Some(rule), Some(3)));
}

fn state(name: &str) -> PortState {
    PortState {
        port: port(name),
        bridge: Some("br0".to_owned()),
        stops: None,
        is_isolated: false,
        hairpin: false,
        floods: true,
    }
}

#[test]
fn the_bridge_decides_before_any_rule() {
    let way = || Way {
        from: Some(state("a")),
        is_hosts: false,
        to: state("b"),
        delivery: Delivery::Everywhere,
        filters_vlans: false,
    };
    let outcome = |change: &dyn Fn(&mut Way)| {
        let mut way = way();
        change(&mut way);
        way.step().outcome
    };
    let drops = Outcome::Drops(Reason::Bridge);
    assert_eq!(outcome(&|_| ()), Outcome::Passes);
    assert_eq!(outcome(&|way| way.from = None), Outcome::Passes);
    assert_eq!(
        outcome(&|way| way.delivery = Delivery::To(port("b"))),
        Outcome::Passes
    );
    assert_eq!(
        outcome(&|way| way.delivery = Delivery::To(port("c"))),
        drops
    );
    assert_eq!(outcome(&|way| way.delivery = Delivery::Host), drops);
    assert_eq!(
        outcome(&|way| way.delivery = Delivery::Differs),
        Outcome::Unknown
    );
    assert_eq!(outcome(&|way| way.to.floods = false), drops);
    assert_eq!(outcome(&|way| way.to.stops = Some("down")), drops);
    assert_eq!(
        outcome(&|way| way.from.as_mut().unwrap().stops = Some("down")),
        drops
    );
    assert_eq!(
        outcome(&|way| way.to.bridge = Some("br1".to_owned())),
        drops
    );
    assert_eq!(outcome(&|way| way.to.bridge = None), Outcome::Unknown);
    assert_eq!(
        outcome(&|way| way.from.as_mut().unwrap().bridge = None),
        Outcome::Unknown
    );
    assert_eq!(outcome(&|way| way.filters_vlans = true), Outcome::Unknown);
    assert_eq!(outcome(&|way| way.from = Some(state("b"))), drops);
    assert_eq!(outcome(&|way| way.to.is_isolated = true), Outcome::Passes);
    let isolate = |way: &mut Way| {
        way.to.is_isolated = true;
        way.from.as_mut().unwrap().is_isolated = true;
    };
    assert_eq!(outcome(&isolate), drops);
}
