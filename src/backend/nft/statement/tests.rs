use super::*;
use crate::fence::{Addresses, Guard, Hears};

/// Every kind of rule.
fn rules() -> Vec<Rule> {
    let network = |trusted: &[&str]| Hears::Network {
        prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
        trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
        trusted_ports: Vec::new(),
    };
    let guard = |hears, queries| Guard {
        queries,
        ..Guard::new(
            "one-1-0".parse().unwrap(),
            "02:00:c0:a8:00:05".parse().unwrap(),
            hears,
        )
    };
    let guarded = Guard {
        addresses: Some(Addresses {
            v4: vec!["192.168.0.5".parse().unwrap()],
            v6: vec!["2001:db8::5".parse().unwrap()],
            ..Addresses::default()
        }),
        dhcp_guard: true,
        ra_guard: true,
        ..guard(network(&[]), false)
    };
    [
        guarded,
        guard(network(&[]), false),
        guard(
            network(&["00:16:3e:00:00:01", "02:00:00:00:00:00/16"]),
            true,
        ),
        guard(Hears::All, false),
    ]
    .iter()
    .flat_map(|guard| {
        let logged = Guard {
            log: Some(5),
            ..guard.clone()
        };
        let mut rules = Rule::of(guard);
        rules.extend(Rule::of(&logged).into_iter().filter(Rule::must_be_first));
        rules
    })
    .collect()
}

/// The statements as the kernel lists them, with counts.
fn listed(rule: &Rule) -> Vec<Statement<'static>> {
    let counter = AnonymousCounter {
        packets: Some(7),
        bytes: Some(420),
    };
    let counted = |statement| match statement {
        Statement::Counter(_) => Statement::Counter(Counter::Anonymous(Some(counter.clone()))),
        other => other,
    };
    of(rule).into_iter().map(counted).collect()
}

#[test]
fn every_rule_can_be_read_back_from_its_statements() {
    for rule in rules() {
        let statements = listed(&rule);
        let counts = statements
            .iter()
            .any(|s| matches!(s, Statement::Counter(_)));
        let packets = if counts { 7 } else { 0 };
        let read = parse(&statements, comment(&rule).as_deref());
        assert_eq!(read, Some((rule, packets)));
    }
}

#[test]
fn a_rule_with_a_statement_more_or_less_is_somebody_elses() {
    for rule in rules() {
        let statements = listed(&rule);
        for index in 0..statements.len() {
            let mut fewer = statements.clone();
            fewer.remove(index);
            let read = parse(&fewer, None).map(|(read, _)| read);
            assert_ne!(read.as_ref(), Some(&rule), "{fewer:?}");
            let mut more = statements.clone();
            more.insert(index, Statement::Accept(None));
            assert_eq!(parse(&more, None), None, "{more:?}");
        }
    }
}
