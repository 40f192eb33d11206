//! The difference between what the kernel holds and what it should: pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::name::ChainName;
use super::ruleset::Ruleset;
use super::transaction::Transaction;
use crate::fence::{self, Fence, Keep, Rule};
use crate::vm::Port;

/// What the kernel is to hold for some VMs, each in its chain; without rules, no chain.
pub type Wanted<'a> = BTreeMap<ChainName, &'a Fence>;

/// The changes that make `held` hold `wanted`, on a skeleton that is whole; `None` if it does
/// already, and none in number where only the skeleton is not whole.
///
/// Of `held` it needs the wanted chains, the map, and the chains named by [`robbed`].
pub fn enforce(held: &Ruleset, wanted: &Wanted, keep: &Keep) -> Result<Option<Transaction>> {
    let mut change = Change::default();
    let mut claims = BTreeMap::new();
    let rules: Vec<_> = wanted
        .iter()
        .map(|(chain, fence)| (chain, over(held, chain, fence, keep)))
        .collect();
    for (chain, rules) in &rules {
        for port in fence::ports(rules) {
            let other = claims.insert(port.as_str(), (port, *chain));
            ensure!(other.is_none(), "port \"{port}\" is claimed by two VMs");
        }
        change.set_rules(held, chain, rules)?;
    }
    for (port, target) in &held.ports {
        let claimed = claims.get(port.as_str()).map(|(_, chain)| *chain);
        let lost = target
            .as_ref()
            .is_some_and(|chain| wanted.contains_key(chain));
        let stray = held.strays.contains(port);
        match (target, claimed) {
            (_, None) if !lost && !stray => {}
            (_, Some(chain)) if target.as_ref() == Some(chain) => {}
            (Some(chain), _) => change.entries.delete_port_of(chain, port)?,
            (None, _) => change.entries.delete_port(port)?,
        }
    }
    for (name, (port, chain)) in &claims {
        if held.ports.get(*name).and_then(Option::as_ref) != Some(chain) {
            change.new_entries.add_port(port, chain)?;
        }
    }
    let taken: BTreeSet<_> = claims.keys().copied().collect();
    for chain in losers(held, &taken).filter(|chain| !wanted.contains_key(chain)) {
        change.take_ports(held, chain, &taken)?;
    }
    // Where nobody is to be fenced, nothing needs the base chain.
    let is_whole = match &held.base {
        Some(base) if !claims.is_empty() => base.defect()?.is_none(),
        _ => true,
    };
    Ok(change.transaction(is_whole))
}

/// The rules that a chain should hold, given those that it does.
fn over(held: &Ruleset, chain: &ChainName, fence: &Fence, keep: &Keep) -> Vec<Rule> {
    let now = held.chains.get(chain).into_iter().flatten();
    let ours = now
        .filter_map(|rule| rule.rule.as_ref())
        .map(|(rule, _)| rule);
    // A port that has become another VM's by now is not kept from it. An entry that somebody
    // deleted or bent is none of another VM's.
    let is_not_another_ones = |port: &Port| {
        let to = held.ports.get(port.as_str());
        let to = to.and_then(Option::as_ref);
        to.is_none_or(|to| to == chain) && (keep.ports)(port)
    };
    let keep = Keep {
        ports: &is_not_another_ones,
        ..*keep
    };
    fence.over(ours, &keep)
}

/// The changes that delete from `held` all that refers to these ports; `None` if there are none.
///
/// Of `held` it needs the map, and the chains named by [`robbed`].
pub fn release(held: &Ruleset, ports: &[Port]) -> Result<Option<Transaction>> {
    let mut change = Change::default();
    let taken: BTreeSet<_> = ports.iter().map(Port::as_str).collect();
    for port in held
        .ports
        .keys()
        .filter(|port| taken.contains(port.as_str()))
    {
        change.entries.delete_port(port)?;
    }
    for chain in losers(held, &taken) {
        change.take_ports(held, chain, &taken)?;
    }
    Ok(change.transaction(true))
}

/// The chains that lose some of their ports when these are taken, and keep others: only of them
/// the rules must be known.
pub fn robbed(held: &Ruleset, taken: &BTreeSet<&str>) -> Vec<ChainName> {
    losers(held, taken)
        .filter(|chain| keeps_some(held, chain, taken))
        .cloned()
        .collect()
}

fn losers<'a>(held: &'a Ruleset, taken: &BTreeSet<&str>) -> impl Iterator<Item = &'a ChainName> {
    let hit = held
        .ports
        .iter()
        .filter(|(port, _)| taken.contains(port.as_str()));
    hit.filter_map(|(_, chain)| chain.as_ref())
        .collect::<BTreeSet<_>>()
        .into_iter()
}

fn keeps_some(held: &Ruleset, chain: &ChainName, taken: &BTreeSet<&str>) -> bool {
    held.ports_of(chain).any(|port| !taken.contains(port))
}

/// The parts of a transaction, each in its place: the kernel refuses to delete a chain that the
/// map refers to, and to point the map to a chain that is not there.
#[derive(Default)]
struct Change {
    entries: Transaction,
    chains: Transaction,
    new_entries: Transaction,
    dead_chains: Transaction,
}

impl Change {
    /// Brings a chain's rules to these; those that are right stay, with their counters.
    fn set_rules(&mut self, held: &Ruleset, chain: &ChainName, wanted: &[Rule]) -> Result<()> {
        let now = held.chains.get(chain);
        if wanted.is_empty() {
            if now.is_some() || held.ports_of(chain).next().is_some() {
                self.dead_chains.delete_chain(chain)?;
            }
            return Ok(());
        }
        if now.is_none() {
            self.chains.add_chain(chain)?;
        }
        let mut missing: Vec<_> = wanted.iter().collect();
        for rule in now.into_iter().flatten() {
            let right = rule
                .rule
                .as_ref()
                .and_then(|(r, _)| missing.iter().position(|m| *m == r));
            match right {
                Some(index) => drop(missing.remove(index)),
                None => self.chains.delete_rule(chain, rule.handle)?,
            }
        }
        missing
            .into_iter()
            .try_for_each(|rule| self.chains.add_rule(chain, rule))
    }

    /// Deletes what a chain says about these ports, or the whole chain if it has no other.
    fn take_ports(
        &mut self,
        held: &Ruleset,
        chain: &ChainName,
        taken: &BTreeSet<&str>,
    ) -> Result<()> {
        if !keeps_some(held, chain, taken) {
            return self.dead_chains.delete_chain(chain);
        }
        for rule in held.chains.get(chain).into_iter().flatten() {
            if rule
                .rule
                .as_ref()
                .is_some_and(|(r, _)| taken.contains(r.port().as_str()))
            {
                self.chains.delete_rule(chain, rule.handle)?;
            }
        }
        Ok(())
    }

    /// All of it; `None` if there is nothing to change and nothing to mend.
    fn transaction(self, is_whole: bool) -> Option<Transaction> {
        let mut changes = self.entries;
        for part in [self.chains, self.new_entries, self.dead_chains] {
            changes.append(part);
        }
        (!changes.is_empty() || !is_whole).then_some(changes)
    }
}
