use std::net::Ipv4Addr;

use super::*;

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:00:06";

fn network() -> Hears {
    Hears::Network {
        prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
        trusted: Vec::new(),
        trusted_ports: Vec::new(),
    }
}

fn guard(port: &str, mac: &str, hears: Hears) -> Guard {
    Guard::new(port.parse().unwrap(), mac.parse().unwrap(), hears)
}

fn actual(port: &str, macs: &[&str], hears: &[Hears]) -> ActualGuard {
    ActualGuard {
        macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
        hears: hears.to_vec(),
        ..ActualGuard::none(port.parse().unwrap())
    }
}

fn merged(new: &[Guard], actual: &[ActualGuard], kept: &[&str]) -> Merged {
    let fence = Fence {
        vm: "a".parse().unwrap(),
        guards: new.to_vec(),
    };
    let keep = Keep {
        ports: Box::new(|port| kept.contains(&port.as_str())),
        ..Keep::nothing()
    };
    fence.merge(actual.iter(), &keep)
}

#[test]
fn a_port_stays_only_if_the_new_fence_omits_it_and_the_caller_keeps_it() {
    let new = [guard("p0", A, network())];
    let now = [
        actual("p0", &[B], &[network()]),
        actual("p1", &[A], &[]),
        actual("p2", &[A], &[network()]),
    ];
    let merged = merged(&new, &now, &["p0", "p1"]);
    assert_eq!(merged.guards, new);
    assert_eq!(merged.kept, ["p1".parse().unwrap()].into());
}

#[test]
fn guarded_addresses_stay_guarded_if_it_is_unknown_what_is_asked() {
    let addresses = |last| Addresses {
        v4: vec![Ipv4Addr::new(10, 0, 0, last)],
        v6: Vec::new(),
        link_local: LinkLocal::Eui64,
    };
    let with = |last: Option<u8>| Guard {
        addresses: last.map(addresses),
        ..guard("p0", A, network())
    };
    let now = |mac: &'static str, last: u8| ActualGuard {
        addresses: Some(ActualAddresses {
            v4: vec![addresses(last).v4],
            v6: vec![ActualIpv6::of(
                &addresses(last),
                [mac.parse().unwrap()].into_iter(),
            )],
        }),
        ..actual("p0", &[mac], &[network()])
    };
    for (new, now, unknown, expected) in [
        (None, now(A, 5), true, Some(5)),
        (Some(6), now(A, 5), true, Some(5)),
        // What is asked is known.
        (None, now(A, 5), false, None),
        // The port had another NIC.
        (None, now(B, 5), true, None),
        // The port has no guard.
        (Some(6), actual("p0", &[A], &[network()]), true, Some(6)),
    ] {
        let fence = Fence {
            vm: "a".parse().unwrap(),
            guards: vec![with(new)],
        };
        let keep = Keep {
            addresses: Box::new(|_| unknown),
            ..Keep::nothing()
        };
        let merged = fence.merge([&now].into_iter(), &keep);
        assert_eq!(merged.guards, [with(expected)], "{now:?}");
    }
}

#[test]
fn a_fence_without_new_or_kept_ports_is_empty() {
    let now = [actual("p0", &[A], &[network()])];
    assert!(merged(&[], &now, &[]).is_empty());
    assert!(!merged(&[], &now, &["p0"]).is_empty());
    assert!(!merged(&[guard("p0", A, network())], &[], &[]).is_empty());
}

#[test]
fn a_guard_is_whole_with_one_address_and_one_network() {
    let whole = Some(guard("p0", A, network()));
    for (now, expected) in [
        (actual("p0", &[A], &[network()]), whole.clone()),
        (actual("p0", &[A, A], &[network(), network()]), whole),
        (actual("p0", &[], &[network()]), None),
        (actual("p0", &[A], &[]), None),
        (actual("p0", &[A, B], &[network()]), None),
        (actual("p0", &[A], &[network(), Hears::All]), None),
    ] {
        assert_eq!(now.whole(), expected, "{now:?}");
        let mut old = now;
        old.defects.push("a rule is missing".to_owned());
        assert_eq!((old.whole(), old.meant()), (None, expected), "{old:?}");
    }
}

#[test]
fn half_a_guard_is_covered_by_a_whole_one_with_the_same_rules() {
    let whole = actual("p0", &[A], &[network()]);
    assert!(actual("p0", &[A], &[]).is_covered_by(&whole));
    assert!(whole.is_covered_by(&whole));
    assert!(!actual("p0", &[B], &[]).is_covered_by(&whole));
    assert!(!actual("p0", &[], &[Hears::All]).is_covered_by(&whole));
    assert!(!whole.is_covered_by(&actual("p0", &[A], &[])));
}

#[test]
fn a_guard_is_not_covered_by_one_that_guards_less() {
    let plain = actual("p0", &[A], &[network()]);
    let said = ActualAddresses {
        v4: vec![vec!["10.0.0.5".parse().unwrap()]],
        v6: Vec::new(),
    };
    let mut twice = said.clone();
    twice.v4.extend(said.v4.clone());
    let with = |said: &ActualAddresses| ActualGuard {
        addresses: Some(said.clone()),
        ..plain.clone()
    };
    assert!(plain.is_covered_by(&with(&said)));
    // nft has several rules for what ebtables puts into one chain.
    assert!(with(&said).is_covered_by(&with(&twice)));
    let other = ActualAddresses::default();
    for more in [
        with(&said),
        ActualGuard {
            dhcp_guard: true,
            ..plain.clone()
        },
        ActualGuard {
            ra_guard: true,
            ..plain.clone()
        },
        ActualGuard {
            extra_macs: vec![B.parse().unwrap()],
            ..plain.clone()
        },
    ] {
        assert!(!more.is_covered_by(&plain), "{more:?}");
        assert!(more.is_covered_by(&more));
    }
    assert!(!with(&said).is_covered_by(&with(&other)));
}
