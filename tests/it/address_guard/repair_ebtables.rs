//! Repairs of guards in ebtables. They do not run on old kernels under QEMU, where a hundred
//! repairs take minutes.

use macfence::compare::State;
use macfence::fence::Guard;

use super::table::Guarded;
use super::{Scene, fence, guarded};
use crate::lab::Host;
use crate::old_host::address_guard::{EXTRA_MAC, enforce, is_whole, plain, state};

#[test]
fn with_ebtables_a_guard_that_lacks_one_rule_is_found_and_repaired() {
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
                // A repaired chain has another name.
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

/// Returns the chains that have rules, with the number of rules.
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

/// Returns the chain that has replaced this one. Its name may have one `x` more or less.
fn current(host: &Host, table: &str, chain: &str) -> String {
    let same = |name: &String| name.trim_end_matches('x') == chain.trim_end_matches('x');
    let mut all = chain_lengths(host, table).into_iter().map(|(name, _)| name);
    all.find(same).unwrap()
}
