//! Draws a map of who hears whom, in Graphviz' DOT language. Pure.
//!
//! There is a box for each bridge, and in it a box for each network. Ports in one box hear each other,
//! which needs no arrows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::fence::{ActualGuard, Hears};
use crate::mac::{MacAddr, MacPrefix};
use crate::survey::{Entry, Status};

/// A group of ports of one bridge that hear the same senders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// A network, and the senders that it trusts.
    Network(Hears),
    /// Ports that hear all networks.
    All,
    /// Ports without a fence.
    Unfenced,
    /// Ports whose rules contradict each other, or lack one.
    Unclear,
}

/// A port on a bridge.
struct Node<'a> {
    entry: &'a Entry,
    id: usize,
}

/// Returns the map of these ports as a text for `dot`. Rules for ports that are gone are left out.
pub fn dot(entries: &[Entry]) -> String {
    let mut bridges: BTreeMap<&str, BTreeMap<Group, Vec<Node>>> = BTreeMap::new();
    for (id, entry) in entries.iter().enumerate() {
        if let (Some(bridge), Some(_)) = (&entry.bridge, &entry.port) {
            let groups = bridges.entry(bridge).or_default();
            let members = groups.entry(Group::of(entry)).or_default();
            members.push(Node { entry, id });
        }
    }
    let mut text = "// Who hears whom: those in one box hear each other, and an arrow leads from who is heard \
                    to who hears it.\n\
                    digraph macfence {\n\tcompound=true; rankdir=LR; node [shape=box, style=filled, \
                    fillcolor=white];\n"
        .to_owned();
    for (number, (bridge, groups)) in bridges.iter().enumerate() {
        add_bridge(&mut text, number, bridge, groups);
    }
    text + "}\n"
}

fn add_bridge(text: &mut String, number: usize, bridge: &str, groups: &BTreeMap<Group, Vec<Node>>) {
    // Writing to a string cannot fail.
    let mut line = |indent: usize, line: String| {
        let _ = writeln!(text, "{:\t<indent$}{line}", "");
    };
    let macs: BTreeSet<_> = groups.values().flatten().flat_map(Node::macs).collect();
    line(1, format!("subgraph cluster_{number} {{"));
    line(2, format!("label={};", quoted(&format!("bridge {bridge}"))));
    let mut trusted = BTreeMap::new();
    for (of, (group, members)) in groups.iter().enumerate() {
        line(2, format!("subgraph cluster_{number}_{of} {{"));
        line(
            3,
            format!("label={}; {}", quoted(&group.label()), group.style()),
        );
        for node in members {
            line(
                3,
                format!("n{} [label={}];", node.id, quoted(&node.label())),
            );
        }
        line(2, "}".to_owned());
        for who in group.trusted(&macs) {
            let next = trusted.len();
            trusted.entry(who).or_insert(next);
        }
    }
    for (who, id) in &trusted {
        let label = quoted(&format!("trusted\n{who}"));
        line(2, format!("t{number}_{id} [label={label}, shape=ellipse];"));
    }
    line(1, "}".to_owned());
    let members = groups.iter().enumerate();
    for (to, (group, hearing)) in members.clone() {
        let Some(head) = hearing.first() else {
            continue;
        };
        let head = format!("n{} [lhead=cluster_{number}_{to}", head.id);
        for (from, (other, sending)) in members.clone().filter(|(from, _)| *from != to) {
            let heard: Vec<_> = sending.iter().filter(|node| group.hears(node)).collect();
            let colour = if *group == Group::Unfenced || *other == Group::Unfenced {
                ", color=red"
            } else {
                ""
            };
            match heard.first() {
                Some(tail) if heard.len() == sending.len() => {
                    let tail = tail.id;
                    let ltail = format!("ltail=cluster_{number}_{from}");
                    line(1, format!("n{tail} -> {head}, {ltail}{colour}];"));
                }
                _ => {
                    for tail in heard {
                        line(1, format!("n{} -> {head}{colour}];", tail.id));
                    }
                }
            }
        }
        for who in group.trusted(&macs) {
            if let Some(id) = trusted.get(&who) {
                line(1, format!("t{number}_{id} -> {head}];"));
            }
        }
    }
}

impl Group {
    fn of(entry: &Entry) -> Self {
        let Some(guard) = &entry.held else {
            return Self::Unfenced;
        };
        match the_only(guard) {
            Some(Hears::All) => Self::All,
            Some(network) => Self::Network(network.clone()),
            None => Self::Unclear,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Network(Hears::Network { prefix, .. }) => format!("network {prefix}"),
            Self::Network(Hears::All) | Self::All => "hear all networks".to_owned(),
            Self::Unfenced => "not fenced".to_owned(),
            Self::Unclear => "rules are damaged".to_owned(),
        }
    }

    fn style(&self) -> &'static str {
        match self {
            Self::Network(_) => "style=rounded;",
            Self::All => "style=dashed;",
            Self::Unfenced | Self::Unclear => "style=dashed; color=red; fontcolor=red;",
        }
    }

    /// Tells whether its members hear what this port's VM sends from its own addresses.
    fn hears(&self, node: &Node) -> bool {
        match self {
            Self::Network(Hears::Network {
                prefix, trusted, ..
            }) => {
                let mut prefixes = trusted.iter().chain([prefix]);
                prefixes.any(|prefix| node.macs().any(|mac| prefix.contains(mac)))
            }
            Self::Network(Hears::All) | Self::All | Self::Unfenced => true,
            // That is unknown for these.
            Self::Unclear => false,
        }
    }

    /// Trusted senders other than VMs on the map.
    fn trusted(&self, macs: &BTreeSet<MacAddr>) -> Vec<String> {
        let Self::Network(Hears::Network {
            trusted,
            trusted_ports,
            ..
        }) = self
        else {
            return Vec::new();
        };
        let is_a_vm = |who: &&MacPrefix| {
            let is_single = who.len().bits() == 48;
            is_single && macs.iter().any(|mac| who.contains(*mac))
        };
        let who = trusted.iter().filter(|who| !is_a_vm(who));
        let who = who.map(ToString::to_string);
        let ports = trusted_ports.iter().map(|port| format!("port {port}"));
        who.chain(ports).collect()
    }
}

impl Node<'_> {
    /// The addresses that it may send from.
    fn macs(&self) -> impl Iterator<Item = MacAddr> {
        let held = self.entry.held.iter();
        let extra = held.flat_map(|guard| guard.extra_macs.iter().copied());
        self.entry.mac.into_iter().chain(extra)
    }

    fn label(&self) -> String {
        let Entry { vm, port, mac, .. } = self.entry;
        let vm = vm.as_ref().map(ToString::to_string);
        let port = port.as_ref().map(ToString::to_string);
        let state = match self.entry.status {
            Status::Differs(_) => Some("differs".to_owned()),
            _ => None,
        };
        let lines = [vm, port, mac.map(|mac| mac.to_string()), state];
        lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

/// Who is heard according to the rules, if they do not contradict each other.
fn the_only(guard: &ActualGuard) -> Option<&Hears> {
    let (first, others) = guard.hears.split_first()?;
    others.iter().all(|other| other == first).then_some(first)
}

/// Quotes a label. In labels, backslashes begin escapes and ampersands begin HTML entities.
fn quoted(text: &str) -> String {
    let mut label = "\"".to_owned();
    for c in text.chars() {
        match c {
            '\\' => label += "\\\\",
            '"' => label += "\\\"",
            '&' => label += "&amp;",
            '\n' => label += "\\n",
            c => label.push(c),
        }
    }
    label + "\""
}

#[cfg(test)]
mod tests;
