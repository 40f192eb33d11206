//! What is asked of the kernel: in nft's own language, because its JSON has no words for asking
//! about one element of a map; the listings come as JSON. Nothing is changed, and nothing waits: a
//! transaction that is thrown away (`nft -c`) ends in an RCU grace period of some 10 ms.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::name::ChainName;
use super::ruleset::Ruleset;
use super::transaction::{FAMILY_NAME, PORTS, TABLE};
use crate::process::{self, Output};
use crate::vm::Port;

/// nft's options for listing all that was asked for.
const WHOLE: [&str; 3] = ["-j", "-f", "-"];
/// nft's options for listing chains without reading the maps beside them.
pub const TERSE: [&str; 4] = ["-j", "-t", "-f", "-"];

/// A family whose rules nobody wants to know: after a listing of it, nft 1.0.6 heeds `-t` where a
/// chain is listed as well, and does not read all elements of the map, 12 ms at 4,000 VMs.
pub const OTHER_FAMILY: &str = "arp";

/// What nft says where something is not there, be it that it knows itself or that the kernel tells
/// it.
const NOT_THERE: [&str; 2] = [
    "Error: No such file or directory",
    "Error: Could not process rule: No such file or directory",
];
/// What it says where the ruleset changed while it asked for an element. (What it lists, it lists
/// again.)
const CHANGED: &str = "Error: Could not process rule: Interrupted system call";

/// What asks for a chain, and for an element of a map.
const LIST: &str = "list chain";
const GET: &str = "get element";

/// How many elements are asked for at a time: with 146 nft 0.9.8 to 1.1.3 overflow their stack.
const KEYS: usize = 64;

/// A VM's chain, and whether ports lead to it.
pub struct Look {
    /// The chain with its rules; nothing if there is none.
    pub held: Ruleset,
    /// Whether all the ports are known to be in the map. Where they lead is not looked at.
    pub mapped: bool,
    /// Whether there are the table and the map, where that was asked for.
    pub has_map: bool,
}

/// Looks at a VM's chain and these ports, without listing the map.
pub fn chain(chain: &ChainName, ports: &BTreeSet<&Port>) -> Result<Look> {
    let list = format!("{LIST} {FAMILY_NAME} {TABLE} {chain}\n");
    let mut question = format!("list ruleset {OTHER_FAMILY}\n{list}");
    let keys: Vec<_> = ports.iter().map(|port| format!("\"{port}\"")).collect();
    for keys in keys.chunks(KEYS) {
        let keys = keys.join(", ");
        question += &format!("{GET} {FAMILY_NAME} {TABLE} {PORTS} {{ {keys} }}\n");
    }
    if !keys.is_empty() {
        // The chain comes first, because nft ends with the first port that is not in the map; and
        // last, because before 1.1 it reads as little of the ruleset as its last command needs.
        question += &list;
    }
    let expected = [&NOT_THERE[..], &[CHANGED]].concat();
    let output = ask(&TERSE, &question, &expected)?;
    // The element is printed in nft's own language, and the chain once more behind it.
    let listing = behind_the_other_family(&output).split("\ntable ").next();
    let mut held = Ruleset::default();
    held.read(listing.unwrap_or_default())?;
    let is_there = held.chains.contains_key(chain);
    ensure!(
        is_there || !output.success(),
        "nft printed an unknown listing: the chain {chain} is not in it"
    );
    // What nft misses before it has asked the kernel for the elements, it names at once.
    let has_map = is_there || !output.says(GET);
    if !has_map && !output.says(LIST) {
        held = self::chain(chain, &BTreeSet::new())?.held;
    }
    Ok(Look {
        held,
        mapped: output.success(),
        has_map,
    })
}

/// The map; `None` where there is none.
pub fn ports() -> Result<Option<Ruleset>> {
    whole(&format!("list map {FAMILY_NAME} {TABLE} {PORTS}\n"))
}

/// The whole table: 370 ms and 88 MB in nft with 4,000 VMs; `None` where there is none.
pub fn table() -> Result<Option<Ruleset>> {
    whole(&format!("list table {FAMILY_NAME} {TABLE}\n"))
}

fn whole(question: &str) -> Result<Option<Ruleset>> {
    let output = ask(&WHOLE, question, &NOT_THERE)?;
    if !output.success() {
        return Ok(None);
    }
    let mut held = Ruleset::default();
    held.read(&output.stdout)?;
    Ok(Some(held))
}

/// The listings but the first, of [`OTHER_FAMILY`]: somebody else's, and no JSON where nft before
/// 1.0 prints a table's flags.
pub fn behind_the_other_family(output: &Output) -> &str {
    output.stdout.split_once('\n').map_or("", |(_, rest)| rest)
}

/// What nft answers, if it found all or failed in one of the ways that are expected.
fn ask(options: &[&str], question: &str, expected: &[&str]) -> Result<Output> {
    let output = process::run_as_root("nft", options, question)?;
    if !output.success() && !expected.iter().any(|words| output.says(words)) {
        return Err(output.failure());
    }
    // nft before 1.1 reads its standard input twice, first in search of JSON: of a pipe, which
    // sudo puts in between where it logs input, nothing is left then, and it is content with that.
    if output.success() && output.stdout.is_empty() {
        let hint = "nft took no question (does sudo log its input? let it not: !log_input)";
        return Err(output.failure().context(hint));
    }
    Ok(output)
}
