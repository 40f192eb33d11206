use super::*;

fn whole() -> Actual {
    Actual {
        chains: Skeleton::read().unwrap().chains(),
        sets: Skeleton::read().unwrap().sets(),
        is_dormant: false,
    }
}

#[test]
fn the_skeleton_has_no_defects_itself() {
    let skeleton = Skeleton::read().unwrap();
    let names: Vec<_> = skeleton.chains().into_keys().collect();
    assert_eq!(
        names,
        [
            DROPPED_FOREIGN,
            DROPPED_FORGED,
            DROPPED_SPOOFED,
            "forward",
            "input",
            MEDDLING,
            "prerouting"
        ]
    );
    assert_eq!(whole().defects().unwrap(), [""; 0]);
}

#[test]
fn every_chain_is_compared_separately() {
    for (name, desired) in whole().chains {
        let without_rules = if name.starts_with(DROPPED) {
            "lets frames pass that it should drop"
        } else {
            "has other rules than its own"
        };
        for (damaged, words) in [
            (Chain::default(), "the table has no"),
            (
                Chain {
                    rules: Vec::new(),
                    ..desired.clone()
                },
                without_rules,
            ),
            (
                Chain {
                    rules: [desired.rules.clone(), desired.rules.clone()].concat(),
                    ..desired.clone()
                },
                "has other rules than its own",
            ),
            (
                Chain {
                    chain: Value::Object(Default::default()),
                    ..desired.clone()
                },
                "not hooked in",
            ),
        ] {
            let mut actual = whole();
            actual.chains.insert(name.clone(), damaged);
            let defects = actual.defects().unwrap();
            assert_eq!(defects.len(), 1, "{defects:?}");
            assert!(defects[0].contains(words) && defects[0].contains(&name));
        }
    }
}

#[test]
fn a_chain_that_should_drop_ends_with_a_drop_and_lets_nothing_pass_before() {
    let rule = |statement: &str| serde_json::json!({"expr": [{statement: null}]});
    let drops = Chain {
        rules: vec![rule("counter"), rule("drop")],
        ..Chain::default()
    };
    assert!(drops.drops_in_the_end());
    for verdict in [
        "accept", "return", "jump", "goto", "queue", "vmap", "unknown",
    ] {
        let mut behind = drops.clone();
        behind.rules.push(rule(verdict));
        assert!(!behind.drops_in_the_end(), "{verdict}");
        let mut before = drops.clone();
        before.rules.insert(0, rule(verdict));
        assert_eq!(before.drops_in_the_end(), verdict == "unknown");
        // A drop that not all packets reach.
        let mut rarely = drops.clone();
        rarely.rules[1] = serde_json::json!({"expr": [{verdict: null}, {"drop": null}]});
        assert!(!rarely.drops_in_the_end(), "{verdict}");
    }
}

#[test]
fn counts_are_no_difference() {
    let mut actual = whole();
    let count = serde_json::json!({"counter": {"packets": 7, "bytes": 420}});
    let meddling = actual.chains.get_mut(MEDDLING).unwrap();
    meddling.rules[0]["expr"][1] = count;
    // A name instead of a number is no difference either.
    meddling.rules[1]["expr"][1]["match"]["right"] = "igmp".into();
    assert_eq!(actual.defects().unwrap(), [""; 0]);
}

#[test]
fn only_a_protocol_that_nft_leaves_out_is_no_difference() {
    let protocol = |name: &str| serde_json::json!({"match": {"op": "==", "left": {"meta": {"key": "protocol"}}, "right": name}});
    for (chain, index, statement, is_whole) in [
        ("prerouting", 0, protocol("ip"), false),
        ("forward", 2, protocol("ip"), false),
    ] {
        let mut actual = whole();
        let rules = &mut actual.chains.get_mut(chain).unwrap().rules;
        let statements = rules[index]["expr"].as_array_mut().unwrap();
        statements.insert(0, statement);
        assert_eq!(actual.defects().unwrap().is_empty(), is_whole, "{chain}");
    }
    let mut actual = whole();
    let rules = &mut actual.chains.get_mut(MEDDLING).unwrap().rules;
    let statements = rules[1]["expr"].as_array_mut().unwrap();
    assert_eq!(statements[0], protocol("ip"));
    statements[0] = protocol("arp");
    assert_eq!(actual.defects().unwrap().len(), 1);
    let rules = &mut actual.chains.get_mut(MEDDLING).unwrap().rules;
    rules[1]["expr"].as_array_mut().unwrap().remove(0);
    assert_eq!(actual.defects().unwrap(), [""; 0]);
}

#[test]
fn a_chain_in_another_place_is_misplaced_and_a_missing_one_is_not() {
    let mut actual = whole();
    assert_eq!(actual.misplaced().unwrap(), [""; 0]);
    actual.chains.get_mut("forward").unwrap().chain["prio"] = 10.into();
    actual.chains.remove("input");
    assert_eq!(actual.misplaced().unwrap(), ["forward"]);
}

#[test]
fn a_dormant_table_is_a_defect() {
    let actual = Actual {
        is_dormant: true,
        ..whole()
    };
    assert_eq!(actual.defects().unwrap(), ["the table is dormant"]);
}
