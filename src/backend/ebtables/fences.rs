//! Puts the rules in front of each port together: the fence of each port. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::chain::{Content, Igmp};
use super::listed::Counters;
use super::rule::{Action, Rule};
use super::ruleset::{ActualRule, Ruleset};
use super::shape::{PREROUTING, Receivers, Shape};
use crate::fence::{ActualFence, ActualGuard, Fence, Hears, Taken};
use crate::mac::MacPrefix;
use crate::vm::Port;

/// The fence of each port that has an intact rule of ours. Rules name no VM.
pub fn of(ruleset: &Ruleset) -> Vec<ActualFence> {
    of_rules(&ruleset.rules, ruleset.igmp)
}

/// Refuses fences that claim another VM's port. Rules name no VM, so a port counts as another VM's if
/// its rules are for another MAC address.
///
/// # Errors
/// With [`Taken`].
pub fn leave_others_ports(actual: &[ActualFence], fences: &[Fence]) -> Result<()> {
    let guards: BTreeMap<_, _> = actual
        .iter()
        .flat_map(|fence| &fence.guards)
        .map(|guard| (&guard.port, guard))
        .collect();
    for desired in fences.iter().flat_map(|fence| &fence.guards) {
        let macs = guards.get(&desired.port).map(|guard| guard.macs.as_slice());
        if macs.is_some_and(|macs| !macs.is_empty() && !macs.contains(&desired.mac)) {
            bail!(Taken(desired.port.clone()));
        }
    }
    Ok(())
}

fn of_rules(rules: &[ActualRule], igmp: Igmp) -> Vec<ActualFence> {
    let mut by_port: BTreeMap<&Port, Vec<(&Rule, Option<Counters>)>> = BTreeMap::new();
    let is_broken =
        |actual: &&ActualRule| actual.rule.is_none() && matches!(actual.shape, Shape::Addresses(_));
    let broken: BTreeSet<_> = rules
        .iter()
        .filter(is_broken)
        .map(ActualRule::port)
        .collect();
    for actual in rules {
        if let Some(rule) = &actual.rule {
            let of_port = by_port.entry(actual.port()).or_default();
            of_port.push((rule, actual.counters));
        }
    }
    let fence = |(port, rules): (&Port, Vec<_>)| ActualFence {
        vm: None,
        chain: "FORWARD".to_owned(),
        guards: vec![guard(port, &rules, broken.contains(port), igmp)],
        defects: Vec::new(),
    };
    by_port.into_iter().map(fence).collect()
}

fn guard(
    port: &Port,
    rules: &[(&Rule, Option<Counters>)],
    is_broken: bool,
    igmp: Igmp,
) -> ActualGuard {
    let mut guard = ActualGuard::none(port.clone());
    for (rule, counters) in rules {
        let count = |dropped: &mut Option<u64>| {
            if let Some(counters) = counters {
                *dropped = Some(dropped.unwrap_or_default() + counters.packets);
            }
        };
        match &rule.shape {
            Shape::Spoofed(_, mac) => {
                guard.macs.push(*mac);
                if let Action::Chain(Content::Senders { extra, .. }) = &rule.action {
                    guard.extra_macs.clone_from(extra);
                }
                count(&mut guard.dropped.spoofed);
            }
            Shape::Foreign(_, own) => {
                let (trusted, trusted_ports) = trusted(&rule.action);
                guard.hears.push(Hears::Network {
                    prefix: *own,
                    trusted,
                    trusted_ports,
                });
                count(&mut guard.dropped.foreign);
            }
            Shape::Meddling(_, receivers) => {
                let lets_queries_in = *receivers == Receivers::Bridges && rule.place == PREROUTING;
                guard.queries |= lets_queries_in;
            }
            Shape::Overheard(..) => {}
            Shape::Addresses(_) => {
                if let Action::Chain(Content::Addresses(checks)) = &rule.action {
                    checks.tell(&mut guard);
                }
                count(&mut guard.dropped.forged);
            }
        }
    }
    let rules = rules.iter().map(|(rule, _)| *rule).collect();
    guard.defects = defects(&guard, rules, igmp);
    if is_broken {
        let defect = format!("the chain that checks the IP addresses of \"{port}\" was edited");
        guard.defects.push(defect);
    }
    guard
}

fn trusted(action: &Action) -> (Vec<MacPrefix>, Vec<Port>) {
    match action {
        Action::Chain(Content::Foreign {
            trusted,
            trusted_ports,
            ..
        }) => (trusted.clone(), trusted_ports.clone()),
        _ => Default::default(),
    }
}

/// Finds missing and extra rules, besides those that name the MAC address and who is heard; each in
/// words.
fn defects(guard: &ActualGuard, mut rules: Vec<&Rule>, igmp: Igmp) -> Vec<String> {
    let Some(meant) = guard.meant() else {
        return lacks(guard, &rules, igmp);
    };
    let mut defects = Vec::new();
    for rule in Rule::of(&meant, igmp) {
        match rules.iter().position(|actual| **actual == rule) {
            Some(index) => drop(rules.remove(index)),
            None => defects.push(rule.lack()),
        }
    }
    defects.dedup();
    // A second rule about the MAC address or the network shows in the guard itself.
    let is_extra = |rule: &&&Rule| !matches!(rule.shape, Shape::Spoofed(..) | Shape::Foreign(..));
    let extras = rules.iter().filter(is_extra).count();
    if extras > 0 {
        let port = &guard.port;
        defects.push(format!("extra rules for port \"{port}\": {extras}"));
    }
    defects
}

/// Finds missing rules if no rule says who is heard. Either that rule was lost, or the NIC hears all
/// networks and never had one. The caller knows which; other rules are needed in both cases.
fn lacks(guard: &ActualGuard, rules: &[&Rule], igmp: Igmp) -> Vec<String> {
    let mut any = guard.clone();
    if any.hears.is_empty() {
        any.hears.push(Hears::All);
    }
    let meant = any.meant();
    let needed = meant.iter().flat_map(|meant| Rule::of(meant, igmp));
    let missing = needed.filter(|rule| !rules.contains(&rule));
    let mut lacks: Vec<_> = missing.map(|rule| rule.lack()).collect();
    lacks.dedup();
    lacks
}

#[cfg(test)]
mod tests;
