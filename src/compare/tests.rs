use super::*;
use crate::fence::{ActualAddresses, ActualIpv6, Addresses, Guard};

const MAC: &str = "02:00:c0:a8:00:05";
const OTHER: &str = "02:00:c0:a8:00:06";

fn network(prefix: &str) -> Hears {
    Hears::Network {
        prefix: prefix.parse().unwrap(),
        trusted: Vec::new(),
        trusted_ports: Vec::new(),
    }
}

fn own() -> Hears {
    network("02:00:c0:a8:00:00/40")
}

/// The fence of VM `a`, with the same guard at each of these ports.
fn desired(ports: &[&str]) -> Fence {
    let guard = |port: &&str| Guard::new(port.parse().unwrap(), MAC.parse().unwrap(), own());
    Fence {
        vm: "a".parse().unwrap(),
        guards: ports.iter().map(guard).collect(),
    }
}

fn guard(port: &str, macs: &[&str], hears: &[Hears]) -> ActualGuard {
    ActualGuard {
        macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
        hears: hears.to_vec(),
        ..ActualGuard::none(port.parse().unwrap())
    }
}

fn actual(vm: Option<&str>, guards: &[ActualGuard]) -> ActualFence {
    ActualFence {
        vm: vm.map(|vm| vm.parse().unwrap()),
        chain: "x".to_owned(),
        guards: guards.to_vec(),
        defects: Vec::new(),
    }
}

fn keeping(ports: &'static [&'static str]) -> Keep<'static> {
    Keep {
        ports: Box::new(|port| ports.contains(&port.as_str())),
        ..Keep::nothing()
    }
}

/// The result for VM `a`.
fn found(desired: &Fence, actual: &[ActualFence], keep: &Keep) -> (State, String) {
    let findings = compare(std::slice::from_ref(desired), actual, keep);
    let [finding] = findings.as_slice() else {
        panic!("{findings:?}");
    };
    assert_eq!(finding.vm, Some(desired.vm.clone()));
    (finding.state, finding.detail.join("; "))
}

#[test]
fn every_difference_of_a_guard_is_named() {
    let desired = desired(&["p0"]);
    let wide = network("02:00:c0:a8:00:00/32");
    for (now, state, detail) in [
        (guard("p0", &[MAC], &[own()]), State::Ok, ""),
        (
            guard("p0", &[], &[own()]),
            State::Differs,
            "no rule that lets only 02:00:c0:a8:00:05 in from \"p0\"",
        ),
        (
            guard("p0", &[MAC], &[]),
            State::Differs,
            "no rule that lets only 02:00:c0:a8:00:00/40 out to \"p0\"",
        ),
        (
            guard("p0", &[OTHER], &[own()]),
            State::Differs,
            "no rule that lets only 02:00:c0:a8:00:05 in from \"p0\"; \
             a rule too many that lets only 02:00:c0:a8:00:06 in from \"p0\"",
        ),
        (
            guard("p0", &[MAC, MAC], &[own()]),
            State::Differs,
            "a rule too many that lets only 02:00:c0:a8:00:05 in from \"p0\"",
        ),
        (
            guard("p0", &[MAC], &[own(), wide]),
            State::Differs,
            "a rule too many that lets only 02:00:c0:a8:00:00/32 out to \"p0\"",
        ),
        (
            guard("p0", &[MAC], &[Hears::All]),
            State::Differs,
            "no rule that lets only 02:00:c0:a8:00:00/40 out to \"p0\"; \
             a rule too many that lets all networks out to \"p0\"",
        ),
    ] {
        let held = [actual(Some("a"), std::slice::from_ref(&now))];
        let found = found(&desired, &held, &keeping(&[]));
        assert_eq!(found, (state, detail.to_owned()), "{now:?}");
    }
}

#[test]
fn a_guard_that_lacks_a_rule_or_lets_queries_pass_differs() {
    let whole = guard("p0", &[MAC], &[own()]);
    let mut old = whole.clone();
    old.defects.push("port \"p0\" lacks a rule".to_owned());
    let mut router = whole.clone();
    router.queries = true;
    let mut querier = desired(&["p0"]);
    querier.guards[0].queries = true;
    for (desired, now, detail) in [
        (&desired(&["p0"]), &old, "port \"p0\" lacks a rule"),
        (
            &desired(&["p0"]),
            &router,
            "port \"p0\" may send multicast queries",
        ),
        (
            &querier,
            &whole,
            "port \"p0\" may not send multicast queries",
        ),
    ] {
        let held = [actual(Some("a"), std::slice::from_ref(now))];
        let differs = (State::Differs, detail.to_owned());
        assert_eq!(found(desired, &held, &Keep::nothing()), differs);
    }
    let held = [actual(Some("a"), &[router])];
    assert_eq!(found(&querier, &held, &Keep::nothing()).0, State::Ok);
}

#[test]
fn a_fence_is_missing_or_stale_as_a_whole() {
    let whole = |port| guard(port, &[MAC], &[own()]);
    let none = Keep::nothing;
    let two = [actual(Some("a"), &[whole("p1"), whole("p0")])];
    let ports = "port \"p0\"; port \"p1\"".to_owned();
    let missing = found(&desired(&["p1", "p0"]), &[], &none());
    assert_eq!(missing, (State::Missing, ports.clone()));
    assert_eq!(found(&desired(&[]), &two, &none()), (State::Stale, ports));
    let nothing = (State::Ok, String::new());
    assert_eq!(found(&desired(&[]), &[], &none()), nothing);
    // A port that the caller keeps also keeps the fence.
    assert_eq!(found(&desired(&[]), &two, &keeping(&["p0", "p1"])), nothing);
    let chain_without_rules = [actual(Some("a"), &[])];
    let stale = (State::Stale, String::new());
    assert_eq!(found(&desired(&[]), &chain_without_rules, &none()), stale);
}

#[test]
fn an_extra_port_is_named_unless_it_is_kept() {
    let now = [actual(
        Some("a"),
        &[guard("p0", &[MAC], &[own()]), guard("p1", &[OTHER], &[])],
    )];
    let detail = "a rule too many that lets only 02:00:c0:a8:00:06 in from \"p1\"";
    let differs = (State::Differs, detail.to_owned());
    let desired = desired(&["p0"]);
    assert_eq!(found(&desired, &now, &keeping(&[])), differs);
    let ok = (State::Ok, String::new());
    assert_eq!(found(&desired, &now, &keeping(&["p1"])), ok);
}

#[test]
fn a_backends_defects_are_differences() {
    let mut now = actual(Some("a"), &[guard("p0", &[MAC], &[own()])]);
    now.defects.push("the table is dormant".to_owned());
    let differs = (State::Differs, "the table is dormant".to_owned());
    assert_eq!(found(&desired(&["p0"]), &[now], &Keep::nothing()), differs);
}

#[test]
fn fences_without_a_name_belong_to_the_vm_that_has_the_port() {
    let whole = |port| guard(port, &[MAC], &[own()]);
    let of_ports = ["p0", "p1", "p9"].map(|port| actual(None, &[whole(port)]));
    let desired = desired(&["p0", "p1"]);
    let ok = (State::Ok, String::new());
    assert_eq!(found(&desired, &of_ports, &Keep::nothing()), ok);
    let (state, detail) = found(&desired, &of_ports[1..], &Keep::nothing());
    assert_eq!(state, State::Differs);
    assert!(detail.starts_with("no rule that lets only 02:00:c0:a8:00:05 in from \"p0\""));
}

#[test]
fn the_other_filters_of_a_guard_are_compared() {
    let plain = Guard::new("p".parse().unwrap(), MAC.parse().unwrap(), own());
    let full = Guard {
        extra_macs: vec![OTHER.parse().unwrap()],
        queries: true,
        addresses: Some(Addresses::default()),
        dhcp_guard: true,
        ra_guard: true,
        ..plain.clone()
    };
    let held = |guard: &Guard| ActualGuard {
        extra_macs: guard.extra_macs.clone(),
        queries: guard.queries,
        addresses: guard.addresses.as_ref().map(|allowed| ActualAddresses {
            v4: vec![allowed.v4.clone()],
            v6: vec![ActualIpv6::of(allowed, guard.senders())],
        }),
        dhcp_guard: guard.dhcp_guard,
        ra_guard: guard.ra_guard,
        ..self::guard("p", &[MAC], &[own()])
    };
    let found = |desired: &Guard, actual: &Guard| {
        let desired = Fence {
            vm: "a".parse().unwrap(),
            guards: vec![desired.clone()],
        };
        let actual = self::actual(Some("a"), &[held(actual)]);
        found(&desired, &[actual], &Keep::nothing())
    };
    for guard in [&plain, &full] {
        assert_eq!(found(guard, guard), (State::Ok, String::new()));
    }
    let lacks = "port \"p\" may not send multicast queries; \
        port \"p\" may send under these further addresses: none; port \"p\" may use any IP address; \
        port \"p\" may be a DHCP server; port \"p\" may be an IPv6 router";
    assert_eq!(found(&full, &plain), (State::Differs, lacks.to_owned()));
    let has = "port \"p\" may send multicast queries; \
        port \"p\" may send under these further addresses: 02:00:c0:a8:00:06; port \"p\" has an address guard; \
        port \"p\" may not be a DHCP server; port \"p\" may not be an IPv6 router";
    assert_eq!(found(&plain, &full), (State::Differs, has.to_owned()));
    let mut other = full.clone();
    other.addresses = Some(Addresses {
        v4: vec![[192, 168, 0, 5].into()],
        ..Addresses::default()
    });
    let differs = "the address guard of port \"p\" lets other IP addresses pass";
    assert_eq!(found(&full, &other), (State::Differs, differs.to_owned()));
}

#[test]
fn a_port_that_may_hear_all_networks_needs_no_rule_for_it() {
    let mut desired = desired(&["p0"]);
    desired.guards[0].hears = Hears::All;
    for (hears, state) in [
        (&[Hears::All][..], State::Ok),
        // ebtables cannot note this in its rules.
        (&[], State::Ok),
        (&[own()], State::Differs),
    ] {
        let held = [actual(Some("a"), &[guard("p0", &[MAC], hears)])];
        let found = found(&desired, &held, &Keep::nothing());
        assert_eq!(found.0, state, "{hears:?}: {}", found.1);
    }
}
