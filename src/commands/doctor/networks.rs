//! Checks whether the configuration makes sense on this host: its bridges and its networks.

use std::collections::BTreeSet;
use std::path::Path;

use super::finding::Finding;
use crate::bridge;
use crate::config::DEFAULT_FILE;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::policy::{Policy, Selector};

const CONFIGURATION: &str = "configuration";
const BRIDGES: &str = "bridges";
const NETWORKS: &str = "networks";

/// The finding for a configuration that could be read.
pub fn file(named: Option<&Path>) -> Finding {
    match named {
        Some(file) => Finding::ok(CONFIGURATION, file.display().to_string()),
        None if Path::new(DEFAULT_FILE).exists() => Finding::ok(CONFIGURATION, DEFAULT_FILE),
        None => Finding::absent(
            CONFIGURATION,
            format!("{DEFAULT_FILE} does not exist; every setting has its default"),
        ),
    }
}

/// Checks the bridges and the sections `[[network]]`.
pub fn look(policy: &Policy) -> Vec<Finding> {
    let mut found = match bridge::all() {
        Ok(there) => judge_bridges(policy, &there),
        Err(e) => vec![Finding::unknown(BRIDGES, &e)],
    };
    found.extend(judge_sections(policy));
    found
}

fn judge_bridges(policy: &Policy, there: &BTreeSet<String>) -> Vec<Finding> {
    let sections = policy.networks.iter();
    let of_sections = sections.filter_map(|section| section.selector.bridge.as_ref());
    let named: BTreeSet<_> = policy.bridges.iter().chain(of_sections).collect();
    let list = |names: &mut dyn Iterator<Item = &String>| -> String {
        let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
        names.join(", ")
    };
    let mut found = Vec::new();
    for name in named.iter().filter(|name| !there.contains(**name)) {
        let here = if there.is_empty() {
            "this host has no bridge".to_owned()
        } else {
            format!("this host has {}", list(&mut there.iter()))
        };
        found.push(
            Finding::fail(BRIDGES, format!("there is no bridge {name:?}; {here}"))
                .fix(format!("correct the name in {DEFAULT_FILE}")),
        );
    }
    if !found.is_empty() {
        return found;
    }
    vec![if there.is_empty() {
        Finding::absent(BRIDGES, "this host has none")
    } else {
        let mut fenced = there.iter().filter(|name| policy.acts_on(name));
        Finding::ok(BRIDGES, format!("acts on {}", list(&mut fenced)))
    }]
}

/// Describes a section as the configuration has it: `mac = "02:00:0a:01:00:00/32"`.
fn describe(selector: &Selector) -> String {
    let bridge = selector
        .bridge
        .iter()
        .map(|name| format!("bridge = {name:?}"));
    let mac = selector.mac.iter().map(|mac| format!("mac = \"{mac}\""));
    bridge.chain(mac).collect::<Vec<_>>().join(", ")
}

fn judge_sections(policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for section in &policy.networks {
        let selector = &section.selector;
        let left_alone = selector
            .bridge
            .as_ref()
            .filter(|bridge| !policy.acts_on(bridge));
        if let Some(bridge) = left_alone {
            let text = format!(
                "the section with {} has no effect, because its bridge is not in bridges",
                describe(selector)
            );
            found.push(
                Finding::warn(NETWORKS, text)
                    .fix(format!("add {bridge:?} to bridges in {DEFAULT_FILE}")),
            );
        }
    }
    for (index, one) in policy.networks.iter().enumerate() {
        for other in policy.networks.iter().skip(index + 1) {
            found.extend(crossing(&one.selector, &other.selector));
        }
    }
    found.extend(one_sided(policy));
    if found.is_empty() && !policy.networks.is_empty() {
        let count = policy.networks.len();
        found.push(Finding::ok(
            NETWORKS,
            format!("sections [[network]]: {count}, without overlaps"),
        ));
    }
    found
}

/// Finds two sections that select the same NICs although neither is more special than the other. There,
/// one of the two has no effect.
fn crossing(one: &Selector, other: &Selector) -> Option<Finding> {
    let share_bridges = may_share_bridge(one, other);
    let share_macs = match (one.mac, other.mac) {
        (Some(one), Some(other)) => one.contains(other.base()) || other.contains(one.base()),
        _ => true,
    };
    if !share_bridges || !share_macs || is_within(one, other) || is_within(other, one) {
        return None;
    }
    let (winner, loser) = if one.rank() >= other.rank() {
        (one, other)
    } else {
        (other, one)
    };
    let text = format!(
        "sections overlap: for NICs that match both {} and {}, only the first one applies",
        describe(winner),
        describe(loser)
    );
    Some(Finding::warn(NETWORKS, text).fix("write a section with both the bridge and the prefix"))
}

fn may_share_bridge(one: &Selector, other: &Selector) -> bool {
    one.bridge.is_none() || other.bridge.is_none() || one.bridge == other.bridge
}

/// Tells whether `outer` selects all that `inner` selects.
fn is_within(inner: &Selector, outer: &Selector) -> bool {
    (outer.bridge.is_none() || outer.bridge == inner.bridge)
        && outer.mac.is_none_or(|outer| {
            let inner = inner
                .mac
                .filter(|inner| inner.len().bits() >= outer.len().bits());
            inner.is_some_and(|inner| outer.contains(inner.base()))
        })
}

/// Finds sections whose VMs hear those of another section, but are not heard by them: the networks
/// overlap and have different sizes.
fn one_sided(policy: &Policy) -> Vec<Finding> {
    let global = policy.global.prefix_len;
    let bits = PrefixLen::bits;
    let sections: Vec<_> = policy
        .networks
        .iter()
        .filter_map(|network| {
            let mac = network.selector.mac?;
            let len = network.overrides.prefix_len.unwrap_or(global);
            Some((&network.selector, mac, bits(len)))
        })
        .collect();
    let mut found = Vec::new();
    let mut report = |hearing: String, heard: String| {
        let text =
            format!("networks overlap: VMs with {hearing} hear {heard}, which do not hear them");
        found.push(Finding::warn(NETWORKS, text).fix(
            "give both the same prefix-len, or one that is not shorter than the section's mac",
        ));
    };
    for (index, &(one, mac, len)) in sections.iter().enumerate() {
        let outside = || "VMs outside of it".to_owned();
        if len < bits(mac.len()) && bits(global) >= bits(mac.len()) {
            report(describe(one), outside());
        }
        for &(other, other_mac, other_len) in sections.iter().skip(index + 1) {
            if !may_share_bridge(one, other) {
                continue;
            }
            let forth = hears(mac, len, other_mac);
            let back = hears(other_mac, other_len, mac);
            if forth && !back {
                report(describe(one), format!("those with {}", describe(other)));
            } else if back && !forth {
                report(describe(other), format!("those with {}", describe(one)));
            }
        }
    }
    found
}

/// Tells whether a NIC in the prefix `from`, whose network has `len` bits, hears a NIC in `to`, if not
/// both are in the longer of the two prefixes.
fn hears(from: MacPrefix, len: u8, to: MacPrefix) -> bool {
    let (shorter, longer) = if from.len().bits() <= to.len().bits() {
        (from, to)
    } else {
        (to, from)
    };
    if shorter.contains(longer.base()) {
        return len < longer.len().bits();
    }
    let xor = |a: MacAddr, b: MacAddr| {
        let pairs = a.bytes().into_iter().zip(b.bytes());
        pairs.map(|(a, b)| a ^ b).collect::<Vec<_>>()
    };
    let mut common = 0;
    for byte in xor(from.base(), to.base()) {
        common += byte.leading_zeros();
        if byte != 0 {
            break;
        }
    }
    u32::from(len) <= common
}

#[cfg(test)]
mod tests;
