//! Asks the kernel for parts of our table. The questions are in nft's own language, because its JSON
//! cannot ask for one element of a map. They change nothing and are quick. (A discarded transaction,
//! `nft -c`, would end in an RCU grace period of some 10 ms.)

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Result, anyhow, ensure};

use super::chain_name::ChainName;
use super::plan;
use super::program::{self, Answer, Detail, Failure, Problem};
use super::ruleset::Ruleset;
use super::skeleton::{self, FAMILY_NAME, PORTS, TABLE};
use super::transaction::OTHER_FAMILY;
use crate::vm::Port;

/// The commands that ask for a chain, and for an element of a map.
const LIST: &str = "list chain";
const GET: &str = "get element";

/// How many elements to ask for in one command. With 146, nft 0.9.8 to 1.1.3 overflow their stack.
const KEYS: usize = 64;

/// A VM's chain, and whether ports lead to it.
pub struct Found {
    /// The chain with its rules. Empty if there is no chain.
    pub actual: Ruleset,
    /// Whether all the ports are in the map. It is not known which chains they lead to.
    pub is_mapped: bool,
    /// Whether the table and the map exist.
    pub has_map: bool,
}

/// Asks for a VM's chain and these ports, without listing the map.
///
/// # Errors
/// If nft cannot be asked, or its output is no listing.
pub fn chain(chain: &ChainName, ports: &BTreeSet<&Port>) -> Result<Found> {
    let list = format!("{LIST} {FAMILY_NAME} {TABLE} {chain}\n");
    let mut question = format!("list ruleset {OTHER_FAMILY}\n{list}");
    let keys: Vec<_> = ports.iter().map(|port| format!("\"{port}\"")).collect();
    for keys in keys.chunks(KEYS) {
        let keys = keys.join(", ");
        question += &format!("{GET} {FAMILY_NAME} {TABLE} {PORTS} {{ {keys} }}\n");
    }
    if !keys.is_empty() {
        // Ask for the chain first, because nft stops at the first port that is not in the map. Ask for
        // it again at the end, because before 1.1 nft reads only the part of the ruleset that its last
        // command needs.
        question += &list;
    }
    let answer = program::ask(&question, Detail::Terse)?;
    let answer = answer.expecting(&[Problem::NotThere, Problem::Changed])?;
    // nft prints the elements in its own language, and the chain again after them.
    let listing = behind_the_other_family(&answer).split("\ntable ").next();
    let mut actual = Ruleset::default();
    actual.read(listing.unwrap_or_default())?;
    let is_there = actual.chains.contains_key(chain);
    ensure!(
        is_there || !answer.success(),
        "nft printed an unknown listing: the chain {chain} is not in it"
    );
    // nft blames every command whose object is missing, before it executes any.
    let blames = |command| {
        answer
            .failure
            .as_ref()
            .is_some_and(|f: &Failure| f.blames(command))
    };
    let has_map = is_there || !blames(GET);
    if !has_map && !blames(LIST) {
        // The chain exists without the map.
        actual = self::chain(chain, &BTreeSet::new())?.actual;
    }
    Ok(Found {
        actual,
        is_mapped: answer.success(),
        has_map,
    })
}

/// Asks for one chain of the skeleton, and whether the table is dormant. (nft 1.0.6 and 1.1.3 cannot
/// list two different chains: they fail with "No such file or directory".)
///
/// # Errors
/// As for [`chain`].
fn shared_chain(name: &str) -> Result<skeleton::Actual> {
    let question = format!(
        "list ruleset {OTHER_FAMILY}\nlist tables {FAMILY_NAME}\n\
         {LIST} {FAMILY_NAME} {TABLE} {name}\n"
    );
    let answer = program::ask(&question, Detail::Terse)?;
    let answer = answer.expecting(&[Problem::NotThere])?;
    if answer.success() {
        Ok(listed_behind_the_other_family(&answer))
    } else {
        Ok(skeleton::Actual::default())
    }
}

/// Asks for one VM's chain and, at the same time, one chain of the skeleton.
///
/// # Errors
/// As for [`chain`].
pub fn chain_and_shared_chain(
    chain: &ChainName,
    ports: &BTreeSet<&Port>,
    name: &str,
) -> Result<(Found, skeleton::Actual)> {
    thread::scope(|scope| {
        let asked = scope.spawn(|| shared_chain(name));
        let found = self::chain(chain, ports);
        let shared = asked.join();
        let shared = shared.map_err(|_| anyhow!("a thread that asked nft has panicked"))?;
        Ok((found?, shared?))
    })
}

/// Returns the chains of the skeleton in a listing. A listing that cannot be read counts as empty, so
/// that the caller then looks at the whole table.
pub fn listed_behind_the_other_family(answer: &Answer) -> skeleton::Actual {
    let mut listed = Ruleset::default();
    let read = listed.read(behind_the_other_family(answer));
    read.ok().and(listed.skeleton).unwrap_or_default()
}

/// Asks for the map. `None` if there is none.
///
/// # Errors
/// As for [`chain`].
pub fn ports() -> Result<Option<Ruleset>> {
    whole(&format!("list map {FAMILY_NAME} {TABLE} {PORTS}\n"))
}

/// Asks for the whole table. `None` if there is none. With 4,000 VMs nft takes 370 ms and 88 MB.
///
/// # Errors
/// As for [`chain`].
pub fn table() -> Result<Option<Ruleset>> {
    whole(&format!("list table {FAMILY_NAME} {TABLE}\n"))
}

/// Adds to a listed map the rules that [`plan`] must know when it takes these ports from their chains.
///
/// # Errors
/// As for [`chain`].
pub fn read_robbed(actual: &mut Ruleset, taken: &BTreeSet<&str>) -> Result<()> {
    for chain in plan::robbed(actual, taken) {
        if !actual.chains.contains_key(&chain) {
            let mut found = self::chain(&chain, &BTreeSet::new())?.actual;
            actual.chains.append(&mut found.chains);
        }
    }
    Ok(())
}

fn whole(question: &str) -> Result<Option<Ruleset>> {
    let answer = program::ask(question, Detail::Whole)?;
    let answer = answer.expecting(&[Problem::NotThere])?;
    if !answer.success() {
        return Ok(None);
    }
    let mut actual = Ruleset::default();
    actual.read(&answer.listing)?;
    Ok(Some(actual))
}

/// Returns all listings but the first, which is of [`OTHER_FAMILY`]. It is somebody else's, and no
/// valid JSON if nft before 1.0 prints a table's flags.
fn behind_the_other_family(answer: &Answer) -> &str {
    answer.listing.split_once('\n').map_or("", |(_, rest)| rest)
}
