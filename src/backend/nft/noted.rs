//! Reads whose frames were dropped from the sets that the chains `dropped-…` fill.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::listing::Listing;
use super::program::{self, Detail, Problem};
use super::skeleton::{FAMILY_NAME, TABLE};
use crate::backend::{Noted, Reason};

/// A set, as nft lists it.
#[derive(Deserialize)]
struct Set {
    #[serde(default)]
    timeout: u64,
    #[serde(default)]
    elem: Vec<Value>,
}

#[derive(Deserialize)]
struct Detailed {
    elem: Element,
}

/// An element. One that somebody added by hand may look different.
#[derive(Deserialize)]
struct Element {
    val: Key,
    /// In seconds.
    expires: u64,
    /// nft 0.9.8 has no counters in sets.
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Key {
    concat: (String, String),
}

#[derive(Deserialize)]
struct Counter {
    packets: u64,
}

/// Asks nft for all noted senders, newest first. A missing set counts as empty.
///
/// # Errors
/// If nft cannot be asked, or its output is no listing.
pub fn query() -> Result<Vec<Noted>> {
    let mut noted = Vec::new();
    for reason in Reason::ALL {
        let question = format!("list set {FAMILY_NAME} {TABLE} {reason}\n");
        let answer = program::ask(&question, Detail::Whole)?;
        let answer = answer.expecting(&[Problem::NotThere])?;
        if answer.success() {
            read(reason, &answer.listing, &mut noted)?;
        }
    }
    noted.sort_by(|a, b| {
        let key = |noted: &Noted| (noted.seconds, noted.reason);
        key(a).cmp(&key(b)).then_with(|| a.port.cmp(&b.port))
    });
    Ok(noted)
}

fn read(reason: Reason, listing: &str, noted: &mut Vec<Noted>) -> Result<()> {
    let mut read = |mut object: BTreeMap<String, Value>| {
        if let Some(set) = object.remove("set") {
            let set: Set = serde_json::from_value(set)?;
            let elements = set.elem.into_iter();
            noted.extend(elements.filter_map(|element| of(reason, set.timeout, element)));
        }
        Ok(())
    };
    Listing(&mut read)
        .read(listing)
        .context("nft printed an unknown listing")
}

/// Reads an element. `None`: not ours.
fn of(reason: Reason, timeout: u64, element: Value) -> Option<Noted> {
    let element = serde_json::from_value::<Detailed>(element).ok()?.elem;
    let (port, source) = element.val.concat;
    Some(Noted {
        reason,
        port: port.parse().ok()?,
        source: source.parse().ok()?,
        // The kernel counts each frame but the first twice: for the lookup of the address and for the
        // update of the element.
        frames: element.counter.map(|counter| counter.packets.div_ceil(2)),
        // nft rounds down.
        seconds: timeout.saturating_sub(element.expires + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In these listings a VM has sent frames under false addresses, two of them under one address. One
    /// frame from another network was kept from it.
    #[test]
    fn three_versions_of_nft_list_who_was_dropped() {
        for (listing, counts) in [
            (
                include_str!("../../../tests/captures/nft-0.9.8-list-table.json"),
                false,
            ),
            (
                include_str!("../../../tests/captures/nft-1.0.6-list-table.json"),
                true,
            ),
            (
                include_str!("../../../tests/captures/nft-1.1.3-list-table.json"),
                true,
            ),
        ] {
            let mut noted = Vec::new();
            read(Reason::Spoofed, listing, &mut noted).unwrap();
            let frames = |source: &str| {
                let source = source.parse().unwrap();
                let found = noted.iter().find(|noted| noted.source == source);
                let found = found.unwrap();
                assert_eq!(found.port.as_str(), "one-1-0");
                assert!(found.seconds < 5, "{found:?}");
                found.frames
            };
            assert_eq!(frames("02:00:00:00:00:01"), counts.then_some(2));
            assert_eq!(frames("02:00:00:00:00:02"), counts.then_some(1));
            assert_eq!(frames("02:00:00:00:00:09"), counts.then_some(1));
        }
    }

    #[test]
    fn elements_that_somebody_added_by_hand_are_left_out() {
        let listing = r#"{"nftables": [{"set": {"timeout": 600, "elem": [
            "eth0", {"concat": ["a", "02:00:00:00:00:01"]},
            {"elem": {"val": {"concat": ["../x", "02:00:00:00:00:01"]}, "expires": 3}},
            {"elem": {"val": {"concat": ["a", "02:00:00:00:00:01"]}, "expires": 590}}]}}]}"#;
        let mut noted = Vec::new();
        read(Reason::Foreign, listing, &mut noted).unwrap();
        assert_eq!(noted.len(), 1);
        assert_eq!(noted[0].seconds, 9);
        assert_eq!(noted[0].frames, None);
    }
}
