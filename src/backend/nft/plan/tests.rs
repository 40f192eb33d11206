use super::*;
use crate::backend::nft::address_guard::Check;
use crate::backend::nft::ruleset::ActualRule;
use crate::backend::nft::skeleton::{self, Skeleton};
use crate::fence::{Guard, Hears};

/// The guard of a port. The fifth byte of its address is the last digit of its name.
fn guard(port: &str) -> Guard {
    let number = &port[port.len() - 1..];
    Guard::new(
        port.parse().unwrap(),
        format!("02:00:00:00:0{number}:05").parse().unwrap(),
        Hears::Network {
            prefix: format!("02:00:00:00:0{number}:00/40").parse().unwrap(),
            trusted: Vec::new(),
            trusted_ports: Vec::new(),
        },
    )
}

fn fence(vm: &str, ports: &[&str]) -> Fence {
    Fence {
        vm: vm.parse().unwrap(),
        guards: ports.iter().map(|port| guard(port)).collect(),
    }
}

fn chain(vm: &str) -> ChainName {
    ChainName::of(&vm.parse().unwrap()).unwrap()
}

/// A whole table that holds these fences. Handles count from 1 in each chain.
fn holding(fences: &[Fence]) -> Ruleset {
    let mut ruleset = Ruleset {
        skeleton: Some(skeleton::Actual {
            chains: Skeleton::read().unwrap().chains(),
            sets: Skeleton::read().unwrap().sets(),
            is_dormant: false,
        }),
        ..Ruleset::default()
    };
    for fence in fences {
        let rules = fence.guards.iter().flat_map(Rule::of);
        let rules = (1..).zip(rules).map(|(handle, rule)| ActualRule {
            handle,
            rule: Some((rule, 0)),
        });
        let chain = chain(fence.vm.as_str());
        ruleset.chains.insert(chain.clone(), rules.collect());
        for port in fence.ports() {
            ruleset.ports.insert(port.to_string(), Some(chain.clone()));
        }
    }
    ruleset
}

fn foreign(handle: u32) -> ActualRule {
    ActualRule { handle, rule: None }
}

/// The plan, one line for each command.
fn lines(plan: Option<Plan>) -> Option<Vec<String>> {
    let line = |command: &Command| match command {
        Command::AddSets(sets) => format!("{} sets", sets.len()),
        Command::DropSet(set) => format!("delete set {set}"),
        Command::RenewRule(chain, handle, _, packets) => {
            format!("renew {chain} {handle} with {packets}")
        }
        Command::AddSkeleton => "skeleton".to_owned(),
        Command::AddSkeletonButForward => "skeleton but forward".to_owned(),
        Command::DropBaseChain(name) => format!("drop {name}"),
        Command::CreateChain(chain) => format!("create {chain}"),
        Command::AddChain(chain) => format!("add chain {chain}"),
        Command::FlushChain(chain) => format!("flush chain {chain}"),
        Command::DeleteChain(chain) => format!("delete chain {chain}"),
        Command::AddRule(chain, rule) => format!("add {chain} {}", shown(rule)),
        Command::DeleteRule(chain, handle) => format!("delete {chain} {handle}"),
        Command::AddPort(port, chain) => format!("map {port} {chain}"),
        Command::AssertEntry(port, chain) => format!("assert {port} {chain}"),
        Command::DeleteEntry(port) => format!("unmap {port}"),
        Command::ListPorts => "list map".to_owned(),
        Command::ListChain(name) => format!("list {name}"),
    };
    plan.map(|plan| plan.changes.0.iter().map(line).collect())
}

fn shown(rule: &Rule) -> String {
    let port = rule.port();
    match rule {
        Rule::Spoofed {
            hears_all: true, ..
        } => format!("{port} spoofed, hears all"),
        Rule::Spoofed { .. } => format!("{port} spoofed"),
        Rule::Meddling { queries: true, .. } => format!("{port} control"),
        Rule::Meddling { .. } => format!("{port} meddling"),
        Rule::Foreign { .. } => format!("{port} foreign"),
        Rule::Overheard { .. } => format!("{port} overheard"),
        Rule::Forged { check, .. } => format!("{port} {}", check.name()),
        Rule::Logged { of, .. } => format!("log of {}", shown(of)),
    }
}

fn enforced(actual: &Ruleset, desired: &[Fence], keep: &Keep) -> Option<Vec<String>> {
    let desired = desired
        .iter()
        .map(|fence| (chain(fence.vm.as_str()), fence));
    lines(enforce(actual, &desired.collect(), keep).unwrap())
}

fn keeping(ports: &'static [&'static str]) -> Keep<'static> {
    Keep {
        ports: Box::new(|port| ports.contains(&port.as_str())),
        ..Keep::nothing()
    }
}

const NEW_A: [&str; 5] = [
    "add chain vm-a",
    "add vm-a p0 spoofed",
    "add vm-a p0 meddling",
    "add vm-a p0 foreign",
    "map p0 vm-a",
];

#[test]
fn other_vms_are_left_alone() {
    let actual = holding(&[fence("b", &["p1"]), fence("c", &["p2"])]);
    let planned = enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing());
    assert_eq!(planned.unwrap(), NEW_A);
}

#[test]
fn a_port_is_taken_from_the_vm_that_had_it() {
    for (b, expected) in [
        // Its last port: the chain is deleted too.
        (
            &["p0"][..],
            &[
                "assert p0 vm-b",
                "unmap p0",
                "add chain vm-a",
                "add vm-a p0 spoofed",
                "add vm-a p0 meddling",
                "add vm-a p0 foreign",
                "map p0 vm-a",
                "delete chain vm-b",
            ][..],
        ),
        (
            &["p0", "p1"],
            &[
                "assert p0 vm-b",
                "unmap p0",
                "add chain vm-a",
                "add vm-a p0 spoofed",
                "add vm-a p0 meddling",
                "add vm-a p0 foreign",
                "delete vm-b 1",
                "delete vm-b 2",
                "delete vm-b 3",
                "map p0 vm-a",
            ],
        ),
    ] {
        let actual = holding(&[fence("b", b)]);
        let planned = enforced(&actual, &[fence("a", &["p0"])], &Keep::nothing());
        assert_eq!(planned.unwrap(), expected, "{b:?}");
    }
}

#[test]
fn a_port_of_another_vm_is_not_taken_if_it_must_stay() {
    let actual = holding(&[fence("a", &["p0"]), fence("b", &["p1"])]);
    let keep = Keep {
        others_ports: true,
        ..Keep::nothing()
    };
    let plan = |ports: &[&str]| {
        let fence = fence("a", ports);
        enforce(&actual, &[(chain("a"), &fence)].into(), &keep)
    };
    let error = plan(&["p0", "p1"]).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Taken("p1".parse().unwrap())));
    assert!(plan(&["p0", "p2"]).unwrap().is_some());
}

#[test]
fn a_kept_port_keeps_its_rules_and_gets_its_entry_back() {
    let mut actual = holding(&[fence("a", &["p0", "p1"])]);
    let desired = [fence("a", &["p0"])];
    assert_eq!(enforced(&actual, &desired, &keeping(&["p1"])), None);
    actual.ports.remove("p1");
    let planned = enforced(&actual, &desired, &keeping(&["p1"]));
    assert_eq!(planned.unwrap(), ["map p1 vm-a"]);
    // Unless the port has passed to another VM.
    actual.ports.insert("p1".to_owned(), Some(chain("b")));
    let planned = enforced(&actual, &desired, &keeping(&["p1"]));
    let expected = ["delete vm-a 4", "delete vm-a 5", "delete vm-a 6"];
    assert_eq!(planned.unwrap(), expected);
}

#[test]
fn a_port_hears_all_networks_or_its_own_as_the_fence_says() {
    let mut all = fence("a", &["p0"]);
    all.guards[0].hears = Hears::All;
    let actual = holding(std::slice::from_ref(&all));
    let own = [fence("a", &["p0"])];
    let isolated = [
        "delete vm-a 1",
        "add vm-a p0 spoofed",
        "add vm-a p0 foreign",
    ];
    assert_eq!(enforced(&actual, &own, &Keep::nothing()).unwrap(), isolated);
    let back = enforced(&holding(&own), &[all], &keeping(&[])).unwrap();
    let expected = [
        "delete vm-a 1",
        "delete vm-a 3",
        "add vm-a p0 spoofed, hears all",
    ];
    assert_eq!(back, expected);
}

#[test]
fn two_vms_cannot_have_one_port() {
    let (a, b) = (fence("a", &["p0"]), fence("b", &["p0"]));
    let desired = [(chain("a"), &a), (chain("b"), &b)].into();
    let error = enforce(&holding(&[]), &desired, &Keep::nothing()).unwrap_err();
    assert_eq!(error.to_string(), "port \"p0\" is claimed by two VMs");
}

mod address_guard;
mod logging;
mod release;
mod skeleton_repair;
mod states;
