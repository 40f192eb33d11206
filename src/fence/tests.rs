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

fn merged(new: &[Guard], actual: &[ActualGuard], kept: &[&str], hears_all: bool) -> Merged {
    let fence = Fence {
        vm: "a".parse().unwrap(),
        guards: new.to_vec(),
    };
    let keep = Keep {
        ports: Box::new(|port| kept.contains(&port.as_str())),
        hears_all: Box::new(move |_| hears_all),
        ..Keep::nothing()
    };
    fence.merge(actual.iter(), &keep)
}

#[test]
fn a_port_stays_only_if_the_new_fence_omits_it_and_it_is_to_be_kept() {
    let new = [guard("p0", A, network())];
    let now = [
        actual("p0", &[B], &[network()]),
        actual("p1", &[A], &[]),
        actual("p2", &[A], &[network()]),
    ];
    let merged = merged(&new, &now, &["p0", "p1"], false);
    assert_eq!(merged.guards, new);
    assert_eq!(merged.kept, ["p1".parse().unwrap()].into());
}

#[test]
fn a_nic_goes_on_to_hear_all_networks_only_if_it_certainly_did() {
    let new = [guard("p0", A, network())];
    let all = [guard("p0", A, Hears::All)];
    for (now, hears_all, expected) in [
        // It did.
        (actual("p0", &[A], &[Hears::All]), true, &all),
        // What it did does not count: a template says otherwise now.
        (actual("p0", &[A], &[Hears::All]), false, &new),
        // It was another NIC, on a port of the same name.
        (actual("p0", &[B], &[Hears::All]), true, &new),
        (actual("p1", &[A], &[Hears::All]), true, &new),
        // Its rule was lost.
        (actual("p0", &[A], &[]), true, &new),
        // Two rules contradict each other: the stricter one counts.
        (actual("p0", &[A], &[Hears::All, network()]), true, &new),
    ] {
        let merged = merged(&new, std::slice::from_ref(&now), &[], hears_all);
        assert_eq!(&merged.guards, expected, "{now:?}");
    }
}

#[test]
fn nothing_is_wanted_where_nothing_is_new_or_kept() {
    let now = [actual("p0", &[A], &[network()])];
    assert!(merged(&[], &now, &[], true).is_empty());
    assert!(!merged(&[], &now, &["p0"], true).is_empty());
    assert!(!merged(&[guard("p0", A, network())], &[], &[], true).is_empty());
}

#[test]
fn a_guard_is_whole_with_one_address_and_one_say_about_who_is_heard() {
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
fn half_a_guard_is_covered_by_a_whole_one_that_says_the_same() {
    let whole = actual("p0", &[A], &[network()]);
    assert!(actual("p0", &[A], &[]).is_covered_by(&whole));
    assert!(whole.is_covered_by(&whole));
    assert!(!actual("p0", &[B], &[]).is_covered_by(&whole));
    assert!(!actual("p0", &[], &[Hears::All]).is_covered_by(&whole));
    assert!(!whole.is_covered_by(&actual("p0", &[A], &[])));
}
