use super::*;
use crate::fence::{Guard, Hears};

/// Reads the fence of the VM `one-1` from a listing.
fn listed(listing: &str) -> ActualFence {
    let mut ruleset = Ruleset::default();
    ruleset.read(listing).unwrap();
    let vm = ChainName::of(&"one-1".parse().unwrap()).unwrap();
    assert_eq!(ruleset.ports, [("one-1-0".to_owned(), Some(vm))].into());
    let mut fences = ruleset.fences().unwrap();
    assert_eq!(fences.len(), 1);
    fences.remove(0)
}

fn guard(trusted: &[&str]) -> Guard {
    Guard::new(
        "one-1-0".parse().unwrap(),
        "02:00:c0:a8:00:05".parse().unwrap(),
        Hears::Network {
            prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            trusted_ports: Vec::new(),
        },
    )
}

#[test]
fn the_listings_of_three_nft_versions_read_alike() {
    for listing in [
        include_str!("../../../../tests/captures/nft-0.9.8-list-table.json"),
        include_str!("../../../../tests/captures/nft-1.0.6-list-table.json"),
        include_str!("../../../../tests/captures/nft-1.1.3-list-table.json"),
    ] {
        let fence = listed(listing);
        assert_eq!(fence.defects, [""; 0]);
        assert_eq!(fence.guards[0].whole(), Some(guard(&["00:16:3e:00:00:01"])));
    }
}

#[test]
fn rules_that_do_not_note_senders_are_read_and_reported() {
    for listing in [
        include_str!("../../../../tests/captures/nft-0.9.8-list-table-unnoted.json"),
        include_str!("../../../../tests/captures/nft-1.0.6-list-table-unnoted.json"),
        include_str!("../../../../tests/captures/nft-1.1.3-list-table-unnoted.json"),
    ] {
        let fence = listed(listing);
        assert_eq!(fence.guards[0].whole(), Some(guard(&["00:16:3e:00:00:01"])));
        let noting = fence
            .defects
            .iter()
            .filter(|d| d.contains("without noting"));
        assert_eq!(noting.count(), 1, "{:?}", fence.defects);
    }
}

#[test]
fn a_fence_of_version_0_1_is_read_and_reported_as_incomplete() {
    for listing in [
        include_str!("../../../../tests/captures/nft-0.9.8-list-table-0.1.json"),
        include_str!("../../../../tests/captures/nft-1.0.6-list-table-0.1.json"),
        include_str!("../../../../tests/captures/nft-1.1.3-list-table-0.1.json"),
    ] {
        let fence = listed(listing);
        assert_eq!(fence.guards[0].meant(), Some(guard(&[])));
        assert_eq!(fence.guards[0].whole(), None);
        assert!(
            fence
                .defects
                .contains(&"the table has no base chain prerouting".to_owned())
        );
    }
}

#[test]
fn text_that_is_no_listing_is_an_error() {
    for listing in [
        "{",
        "[]",
        "nft> ",
        r#"{"nftables": 1}"#,
        r#"{"nftables": [{"map": 3}]}"#,
    ] {
        assert!(Ruleset::default().read(listing).is_err(), "{listing}");
    }
}

#[test]
fn rules_and_entries_of_others_are_kept_apart() {
    let listing = r#"{"nftables": [
        {"map": {"family": "bridge", "name": "ports", "table": "macfence", "elem": [
            ["eth9", {"drop": null}], [{"elem": {"val": "a", "comment": "x"}}, {"jump": {"target": "vm-b"}}]]}},
        {"rule": {"family": "bridge", "table": "macfence", "chain": "vm-b", "handle": 9, "expr": [{"future": 1}]}},
        {"flowtable": {"unheard": "of"}}]}"#;
    let mut ruleset = Ruleset::default();
    ruleset.read(listing).unwrap();
    let b = ChainName::parse("vm-b").unwrap();
    assert_eq!(ruleset.ports_of(&b).collect::<Vec<_>>(), ["a"]);
    assert_eq!(ruleset.ports["eth9"], None);
    assert_eq!(
        ruleset.chains[&b],
        [ActualRule {
            handle: 9,
            rule: None
        }]
    );
}
