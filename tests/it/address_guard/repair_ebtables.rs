//! The same with ebtables. Not on old kernels under QEMU, where a hundred repairs take minutes.

use macfence::compare::State;
use macfence::fence::Guard;

use super::table::Guarded;
use super::{Scene, fence, guarded};
use crate::lab::Host;
use crate::old_host::address_guard::{EXTRA_MAC, enforce, is_whole, plain, state};

#[test]
fn a_guard_without_any_one_of_its_rules_is_found_and_repaired_by_ebtables() {
    let host = Scene::new(Host::new()).host;
    let all = Guard {
        extra_macs: vec![EXTRA_MAC],
        hears: plain().hears,
        ..guarded(Guarded::All)
    };
    let fence = fence(all);
    enforce(&host, &fence);
    for table in ["nat", "filter"] {
        for (chain, count) in chain_lengths(&host, table) {
            for number in (1..=count).map(|number| number.to_string()) {
                // What was repaired has another name.
                let chain = current(&host, table, &chain);
                host.ok("ebtables", &["-t", table, "-D", &chain, &number]);
                let (state, detail) = state(&host, &fence);
                assert_eq!(state, State::Differs, "{table} {chain} {number}");
                assert_ne!(detail, "", "{table} {chain} {number}");
                assert!(enforce(&host, &fence), "{table} {chain} {number}");
                is_whole(&host, &fence);
            }
        }
    }
}

/// The chains that have rules, and how many.
fn chain_lengths(host: &Host, table: &str) -> Vec<(String, usize)> {
    let listed = host.ok("ebtables", &["-t", table, "-L"]);
    let length = |line: &str| {
        let (name, rest) = line.strip_prefix("Bridge chain: ")?.split_once(',')?;
        let entries = rest.split_once("entries: ")?.1.split(',').next()?;
        Some((name.to_owned(), entries.parse().ok()?))
    };
    let chains = listed.lines().filter_map(length);
    chains.filter(|(_, count)| *count > 0).collect()
}

/// The chain that has taken the place of this one, which may have one `x` more or less.
fn current(host: &Host, table: &str, chain: &str) -> String {
    let same = |name: &String| name.trim_end_matches('x') == chain.trim_end_matches('x');
    let mut all = chain_lengths(host, table).into_iter().map(|(name, _)| name);
    all.find(same).unwrap()
}
