use super::super::finding::Level;
use super::*;
use crate::policy::{Network, Overrides};

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A section for this bridge and this prefix (empty: any), with networks of this length.
fn section(bridge: &str, mac: &str, len: Option<i64>) -> Network {
    Network {
        selector: Selector {
            bridge: (!bridge.is_empty()).then(|| bridge.to_owned()),
            mac: (!mac.is_empty()).then(|| mac.parse().unwrap()),
        },
        overrides: Overrides {
            prefix_len: len.map(|len| PrefixLen::try_from(len).unwrap()),
            ..Overrides::default()
        },
        extras: crate::policy::Extras::default(),
    }
}

fn policy(sections: Vec<Network>) -> Policy {
    Policy {
        networks: sections,
        ..Policy::default()
    }
}

/// Counts the warnings about these sections.
fn warnings(sections: Vec<Network>) -> usize {
    let found = judge_sections(&policy(sections));
    found
        .iter()
        .filter(|found| found.level == Level::Warn)
        .count()
}

#[test]
fn a_bridge_that_is_not_there_is_named_beside_those_that_are() {
    let mut named = policy(vec![section("br9", "", None)]);
    named.bridges = vec!["br0".to_owned(), "br9".to_owned()];
    let found = judge_bridges(&named, &set(&["br0", "br1"]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].level, Level::Fail);
    assert_eq!(
        found[0].text,
        "there is no bridge \"br9\"; this host has \"br0\", \"br1\""
    );
    let well = judge_bridges(&named, &set(&["br0", "br1", "br9"]));
    assert_eq!(well[0].text, "acts on \"br0\", \"br9\"");
    assert_eq!(
        judge_bridges(&Policy::default(), &set(&[]))[0].level,
        Level::Absent
    );
}

#[test]
fn sections_that_cross_are_told_and_nested_ones_are_not() {
    let (prefix, inside) = ("02:00:0a:01:00:00/32", "02:00:0a:01:07:00/40");
    let bridge = || section("br1", "", None);
    assert_eq!(warnings(vec![]), 0);
    assert_eq!(warnings(vec![bridge(), section("", prefix, None)]), 1);
    assert_eq!(warnings(vec![bridge(), section("br1", prefix, None)]), 0);
    assert_eq!(warnings(vec![bridge(), section("br2", prefix, None)]), 0);
    assert_eq!(
        warnings(vec![section("", prefix, None), section("", inside, None)]),
        0
    );
    // A bridge and a prefix together rank above a longer prefix.
    let both = || section("br1", prefix, None);
    assert_eq!(warnings(vec![both(), section("", inside, None)]), 1);
    let found = judge_sections(&policy(vec![section("", inside, None), both()]));
    let first = found[0].text.find("bridge = \"br1\"").unwrap();
    assert!(first < found[0].text.find(inside).unwrap(), "{found:?}");
}

#[test]
fn networks_that_hear_each_other_on_one_side_only_are_told() {
    let (a, b) = ("02:00:0a:01:00:00/32", "02:00:0a:02:00:00/32");
    // Longer than the section: networks inside it.
    assert_eq!(
        warnings(vec![section("", a, Some(32)), section("", b, Some(40))]),
        0
    );
    // 02:00:0a contains both.
    assert_eq!(
        warnings(vec![section("", a, Some(24)), section("", b, Some(32))]),
        2
    );
    assert_eq!(
        warnings(vec![
            section("br1", a, Some(24)),
            section("br2", b, Some(32))
        ]),
        1,
        "only those outside of it on br1"
    );
    // An exception within a wider network: the others hear it.
    let inside = "02:00:0a:01:07:00/40";
    assert_eq!(
        warnings(vec![
            section("", a, Some(32)),
            section("", inside, Some(40))
        ]),
        1
    );
    // One with other settings, and in the same network.
    assert_eq!(
        warnings(vec![
            section("", a, Some(32)),
            section("", inside, Some(32))
        ]),
        1
    );
    let vm = "02:00:0a:01:07:05/48";
    assert_eq!(warnings(vec![section("", vm, None)]), 0);
}

#[test]
fn a_section_for_a_bridge_that_is_left_alone_changes_nothing() {
    let mut policy = policy(vec![section("br1", "", None)]);
    policy.bridges = vec!["br0".to_owned()];
    assert_eq!(judge_sections(&policy)[0].level, Level::Warn);
    policy.bridges.clear();
    assert_eq!(judge_sections(&policy)[0].level, Level::Ok);
}
