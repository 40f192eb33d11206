//! Plans the changes from the kernel's rules to the desired ones. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::chain_name::ChainName;
use super::rule::Rule;
use super::ruleset::{ActualRule, Ruleset};
use super::skeleton::FORWARD;
use super::transaction::{Command, Transaction};
use crate::backend::Enforced;
use crate::fence::{ActualGuard, Fence, Keep, Taken};
use crate::vm::Port;

/// The fences that the kernel should hold for some VMs, by chain. A fence without guards has no chain.
pub type Desired<'a> = BTreeMap<ChainName, &'a Fence>;

/// The commands to load, and their effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The commands to load.
    pub changes: Transaction,
    /// Commands to load in a second step, if needed.
    pub afterwards: Option<Transaction>,
    /// The ports whose senders were not checked before, and are from then on.
    pub new_ports: Vec<Port>,
}

impl From<Plan> for Enforced {
    fn from(plan: Plan) -> Self {
        Self {
            changed: true,
            new_ports: plan.new_ports,
        }
    }
}

/// Turns `actual` into `desired`. `None`: nothing to do.
///
/// `actual` must have the skeleton, the desired chains, the map, and the chains named by [`robbed`]. If
/// the skeleton is damaged, it must have all chains: each is brought to this version's layout if its
/// rules show what it was made for.
///
/// # Errors
/// If two VMs claim a port, or our own skeleton cannot be read.
pub fn enforce(actual: &Ruleset, desired: &Desired, keep: &Keep) -> Result<Option<Plan>> {
    let mut change = Change::default();
    let mut claims = BTreeMap::new();
    let rules: Vec<_> = desired
        .iter()
        .map(|(chain, fence)| (chain, rules(actual, chain, fence, keep)))
        .collect();
    for (chain, rules) in &rules {
        let ports: BTreeSet<_> = rules.iter().map(Rule::port).collect();
        for port in ports {
            let other = claims.insert(port.as_str(), (port, *chain));
            ensure!(other.is_none(), "port \"{port}\" is claimed by two VMs");
        }
        change.set_rules(actual, chain, rules);
    }
    for (port, target) in &actual.ports {
        let claim = claims.get(port.as_str());
        let claimed = claim.map(|(_, chain)| *chain);
        let is_lost = target
            .as_ref()
            .is_some_and(|chain| desired.contains_key(chain));
        let is_stray = actual.strays.contains(port);
        match (target, claimed) {
            (_, None) if !is_lost && !is_stray => {}
            (_, Some(chain)) if target.as_ref() == Some(chain) => {}
            (Some(chain), _) => {
                if let Some((port, _)) = claim.filter(|_| keep.others_ports) {
                    bail!(Taken((*port).clone()));
                }
                change.entries.delete_entry_of(port, chain);
            }
            (None, _) => change.entries.0.push(Command::DeleteEntry(port.clone())),
        }
    }
    for (name, (port, chain)) in &claims {
        if actual.ports.get(*name).and_then(Option::as_ref) != Some(chain) {
            change.new_ports.push((*port).clone());
            let add = Command::AddPort((*port).clone(), (*chain).clone());
            change.new_entries.0.push(add);
        }
    }
    let taken: BTreeSet<_> = claims.keys().copied().collect();
    for chain in losers(actual, &taken).filter(|chain| !desired.contains_key(chain)) {
        change.take_ports(actual, chain, &taken);
    }
    // Repair the skeleton only if a VM is fenced. Otherwise nothing needs it.
    if let Some(skeleton) = actual.skeleton.as_ref().filter(|_| !claims.is_empty())
        && !skeleton.defects()?.is_empty()
    {
        let other_sets = skeleton.other_sets()?;
        let sets = [skeleton.missing_sets()?, other_sets.clone()].concat();
        let drops = other_sets.into_iter().map(Command::DropSet);
        change.skeleton.0.extend(drops);
        if !sets.is_empty() {
            change.skeleton.0.push(Command::AddSets(sets));
        }
        let misplaced = skeleton.misplaced()?;
        let drop = |name: &String| Command::DropBaseChain(name.clone());
        if skeleton.checks_senders_in_forward() {
            // A frame may pass `prerouting` before the change and `forward` after it. If `forward` no
            // longer checked its sender, nothing would. So `forward` changes in a second step.
            let others = misplaced.iter().filter(|name| *name != FORWARD);
            change.skeleton.0.extend(others.map(drop));
            change.skeleton.0.push(Command::AddSkeletonButForward);
            let forward = misplaced.iter().filter(|name| *name == FORWARD);
            let mut second: Vec<_> = forward.map(drop).collect();
            second.push(Command::AddSkeleton);
            change.afterwards = Some(Transaction(second));
        } else {
            change.skeleton.0.extend(misplaced.iter().map(drop));
            change.skeleton.0.push(Command::AddSkeleton);
        }
        for chain in actual.chains.keys() {
            if !desired.contains_key(chain) {
                change.renew(actual, chain);
            }
            change.complete(actual, chain, |port| {
                let owner = claims.get(port.as_str()).map(|(_, owner)| *owner);
                match desired.get(chain) {
                    // A port that is only kept.
                    Some(fence) => owner == Some(chain) && !fence.ports().contains(port),
                    None => owner.is_none(),
                }
            });
        }
        // Nothing has checked the addresses that the bridges have learned from these ports until now.
        let ports = actual.ports.iter().filter(|(_, chain)| chain.is_some());
        let ports = ports.filter_map(|(port, _)| port.parse().ok());
        change.new_ports.extend(ports);
        change.new_ports.sort_unstable();
        change.new_ports.dedup();
    }
    Ok(change.plan())
}

/// Returns the rules that a chain should hold, given its present ones.
fn rules(actual: &Ruleset, chain: &ChainName, fence: &Fence, keep: &Keep) -> Vec<Rule> {
    // Do not keep a port that has passed to another VM. If somebody deleted or edited its entry, it has
    // not.
    let is_not_another_vms = |port: &Port| {
        let to = actual.ports.get(port.as_str()).and_then(Option::as_ref);
        to.is_none_or(|to| to == chain)
    };
    let keep = Keep {
        ports: Box::new(|port| is_not_another_vms(port) && (keep.ports)(port)),
        addresses: Box::new(&keep.addresses),
        others_ports: keep.others_ports,
    };
    let merged = fence.merge(actual.guards_of(chain).iter(), &keep);
    let kept = actual.rules_of(chain).map(|(rule, _)| rule);
    let kept = kept.filter(|rule| merged.kept.contains(rule.port()));
    let new = merged.guards.iter().flat_map(Rule::of);
    new.chain(kept.cloned()).collect()
}

/// Deletes all rules and entries of these ports. `None`: there are none.
///
/// `actual` must have the map, and the chains named by [`robbed`].
pub fn release(actual: &Ruleset, ports: &[Port]) -> Option<Plan> {
    let mut change = Change::default();
    let taken: BTreeSet<_> = ports.iter().map(Port::as_str).collect();
    for port in actual
        .ports
        .keys()
        .filter(|port| taken.contains(port.as_str()))
    {
        change.entries.0.push(Command::DeleteEntry(port.clone()));
    }
    for chain in losers(actual, &taken) {
        change.take_ports(actual, chain, &taken);
    }
    change.plan()
}

/// Returns the chains that lose some of their ports when these are taken, and keep others. Only their
/// rules must be known: a chain that loses all its ports is deleted.
pub fn robbed(actual: &Ruleset, taken: &BTreeSet<&str>) -> Vec<ChainName> {
    losers(actual, taken)
        .filter(|chain| keeps_some(actual, chain, taken))
        .cloned()
        .collect()
}

fn losers<'a>(actual: &'a Ruleset, taken: &BTreeSet<&str>) -> impl Iterator<Item = &'a ChainName> {
    let hit = actual
        .ports
        .iter()
        .filter(|(port, _)| taken.contains(port.as_str()));
    hit.filter_map(|(_, chain)| chain.as_ref())
        .collect::<BTreeSet<_>>()
        .into_iter()
}

fn keeps_some(actual: &Ruleset, chain: &ChainName, taken: &BTreeSet<&str>) -> bool {
    actual.ports_of(chain).any(|port| !taken.contains(port))
}

/// The parts of a transaction in their order. The kernel refuses to delete a chain that the map refers
/// to, and to point the map to a missing chain.
#[derive(Default)]
struct Change {
    skeleton: Transaction,
    entries: Transaction,
    chains: Transaction,
    new_entries: Transaction,
    dead_chains: Transaction,
    new_ports: Vec<Port>,
    afterwards: Option<Transaction>,
}

impl Change {
    /// Gives a chain these rules. Rules that are right stay, with their counters.
    fn set_rules(&mut self, actual: &Ruleset, chain: &ChainName, desired: &[Rule]) {
        let now = actual.chains.get(chain);
        if desired.is_empty() {
            if now.is_some() || actual.ports_of(chain).next().is_some() {
                self.dead_chains.0.push(Command::DeleteChain(chain.clone()));
            }
            return;
        }
        if now.is_none() {
            self.chains.0.push(Command::AddChain(chain.clone()));
        }
        let mut missing: Vec<_> = desired.iter().collect();
        let mut before: Vec<&Rule> = Vec::new();
        for rule in now.into_iter().flatten() {
            let own = rule.rule.as_ref().map(|(rule, _)| rule);
            let own = own.filter(|own| !before.iter().any(|before| own.is_void_behind(before)));
            before.extend(own.filter(|own| !own.must_be_first()));
            match own.and_then(|own| missing.iter().position(|m| *m == own)) {
                Some(index) => {
                    missing.remove(index);
                    self.renew_rule(actual, chain, rule);
                }
                None => {
                    let delete = Command::DeleteRule(chain.clone(), rule.handle);
                    self.chains.0.push(delete);
                }
            }
        }
        let add = |rule: &Rule| Command::AddRule(chain.clone(), rule.clone());
        self.chains.0.extend(missing.into_iter().map(add));
    }

    /// Deletes a chain's rules for these ports, or the whole chain if it has no other ports.
    fn take_ports(&mut self, actual: &Ruleset, chain: &ChainName, taken: &BTreeSet<&str>) {
        if !keeps_some(actual, chain, taken) {
            return self.dead_chains.0.push(Command::DeleteChain(chain.clone()));
        }
        for rule in actual.chains.get(chain).into_iter().flatten() {
            let own = rule.rule.as_ref();
            if own.is_some_and(|(own, _)| taken.contains(own.port().as_str())) {
                let delete = Command::DeleteRule(chain.clone(), rule.handle);
                self.chains.0.push(delete);
            }
        }
    }

    /// Replaces a chain's rules of an earlier version with the present ones.
    fn renew(&mut self, actual: &Ruleset, chain: &ChainName) {
        for rule in actual.chains.get(chain).into_iter().flatten() {
            self.renew_rule(actual, chain, rule);
        }
    }

    fn renew_rule(&mut self, actual: &Ruleset, chain: &ChainName, rule: &ActualRule) {
        if let Some((own, packets)) = &rule.rule
            && actual.is_outdated(chain, rule)
        {
            let renew = Command::RenewRule(chain.clone(), rule.handle, own.clone(), *packets);
            self.chains.0.push(renew);
        }
    }

    /// Adds missing rules for these ports if the port's other rules show what the guard should be.
    fn complete(&mut self, actual: &Ruleset, chain: &ChainName, of: impl Fn(&Port) -> bool) {
        let guards = actual.guards_of(chain);
        let meant = guards.iter().filter(|guard| of(&guard.port));
        let meant = meant.filter_map(ActualGuard::meant);
        for rule in meant.flat_map(|guard| Rule::of(&guard)) {
            if actual.rules_of(chain).all(|(own, _)| *own != rule) {
                self.chains.0.push(Command::AddRule(chain.clone(), rule));
            }
        }
    }

    /// Joins the parts. `None`: nothing to do.
    fn plan(self) -> Option<Plan> {
        let parts = [
            self.skeleton,
            self.entries,
            self.chains,
            self.new_entries,
            self.dead_chains,
        ];
        let changes = Transaction(parts.into_iter().flat_map(|part| part.0).collect());
        (!changes.0.is_empty()).then_some(Plan {
            changes,
            afterwards: self.afterwards,
            new_ports: self.new_ports,
        })
    }
}

#[cfg(test)]
mod tests;
