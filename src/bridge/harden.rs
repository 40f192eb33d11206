//! What a bridge lets a VM do that no rule can stop, and the settings that stop it.
//!
//! - A bridge learns the source address of a frame to 01:80:c2:00:00:0e (LLDP), and with spanning tree
//!   on also of one to :00, without asking any hook of its own: a VM moves another VM's traffic to its
//!   own port. `no_linklocal_learn` on the bridge stops that.
//! - With spanning tree on, the bridge takes a VM's BPDU without asking any hook: a VM becomes the root
//!   bridge, or shortens the time for which addresses are remembered. BPDU guard on the port stops both.
//!   `root_block` stops only the first, and each BPDU that it stops makes the kernel send an event, which
//!   would wake `macfence watch`.
//! - What a VM made the bridge learn before it was fenced stays for 300 s: see [`forget`].
//!
//! No setting is ever taken back: somebody else may want it too. It ends with the bridge, or when the
//! port leaves the bridge.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use super::{netlink, read};
use crate::vm::Port;

/// Something that a VM can do, and a setting that stops it. As text, it ends with the command that
/// does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// This bridge learns addresses from link-local frames.
    LinkLocalLearning(String),
    /// This port, which is a VM's, takes part in its bridge's spanning tree.
    SpanningTree(Port),
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkLocalLearning(bridge) => write!(
                f,
                "bridge {bridge:?} learns addresses from link-local frames, which no rule sees: run \
                 \"ip link set dev {bridge} type bridge no_linklocal_learn 1\""
            ),
            // Not "ip link set": it also enables a port again that BPDU guard has disabled.
            Self::SpanningTree(port) => write!(
                f,
                "port \"{port}\" takes part in spanning tree, which no rule sees: run \
                 \"bridge link set dev {port} guard on\""
            ),
        }
    }
}

/// A weakness that is there no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change(pub Weakness);

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Weakness::LinkLocalLearning(bridge) => write!(
                f,
                "bridge {bridge:?} no longer learns addresses from link-local frames \
                 (no_linklocal_learn)"
            ),
            Weakness::SpanningTree(port) => write!(
                f,
                "port \"{port}\" no longer takes part in spanning tree: a BPDU from it disables it \
                 (BPDU guard)"
            ),
        }
    }
}

/// Something that a VM can do, and that no setting here stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// This bridge learns addresses from link-local frames, and the kernel is older than 5.0.
    LinkLocalLearning(String),
    /// A program, not the kernel, does this bridge's spanning tree. Only that program can guard ports.
    SpanningTree(String),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkLocalLearning(bridge) => write!(
                f,
                "bridge {bridge:?} learns addresses from link-local frames, which no rule sees, and \
                 this kernel cannot stop that: use Linux 5.0 or later"
            ),
            Self::SpanningTree(bridge) => write!(
                f,
                "bridge {bridge:?} leaves spanning tree to a program, which must ignore the BPDUs of \
                 VMs: for mstpd, run \"mstpctl setbpduguard {bridge} PORT yes\" for each VM's port"
            ),
        }
    }
}

/// What is wrong with bridges and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What [`harden()`] can set right.
    pub weaknesses: Vec<Weakness>,
    /// What it cannot.
    pub unsupported: Vec<Unsupported>,
}

/// What [`harden()`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardened {
    /// What it has changed.
    pub changes: Vec<Change>,
    /// What it cannot change: the same at each call, so say it once.
    pub unsupported: Vec<Unsupported>,
}

/// What is wrong with these ports, which are VMs', and with the bridges that they are on. A port that
/// is on no bridge, or is gone, has nothing wrong with it. Changes nothing, and needs no privileges.
///
/// # Errors
/// If sysfs cannot be read.
pub fn weaknesses<'a>(ports: impl IntoIterator<Item = &'a Port>) -> Result<Findings> {
    let mut findings = Findings::default();
    for bridge in bridges(ports)? {
        let found = judge(&bridge);
        findings.weaknesses.extend(found.weaknesses);
        findings.unsupported.extend(found.unsupported);
    }
    Ok(findings)
}

/// Sets right what [`weaknesses`] finds. If it finds nothing, nothing is sent to the kernel. A port or
/// a bridge that vanishes meanwhile is no error, and no change.
///
/// BPDU guard disables a port when the VM sends a BPDU, and the port stays disabled until it is set down
/// and up, or leaves the bridge and returns. A port that returns has no guard.
///
/// Setting a guard makes the kernel send an event of the port ([`crate::events`]); setting
/// `no_linklocal_learn` does not.
///
/// # Errors
/// If sysfs cannot be read, or the kernel refuses a change (root may make it): what was changed before
/// stays changed.
pub fn harden<'a>(ports: impl IntoIterator<Item = &'a Port>) -> Result<Hardened> {
    let findings = weaknesses(ports)?;
    let mut changes = Vec::new();
    for weakness in findings.weaknesses {
        let outcome = match &weakness {
            Weakness::LinkLocalLearning(bridge) => netlink::set_no_linklocal_learn(bridge)?,
            Weakness::SpanningTree(port) => netlink::set_guard(port)?,
        };
        if outcome == netlink::Outcome::Done {
            changes.push(Change(weakness));
        }
    }
    let unsupported = findings.unsupported;
    Ok(Hardened {
        changes,
        unsupported,
    })
}

/// Makes the bridge forget the addresses that it has learned at this port; static and permanent entries
/// stay. For a port that has just been fenced: what its VM pretended to be before stays learned for
/// 300 s otherwise. A port that is on no bridge, or is gone, is no error.
///
/// Call it once for each fence, not at each look: each call makes the kernel send an event of the port,
/// so that `macfence watch` would wake itself for ever.
///
/// Linux before 4.5 does nothing, and says nothing of it.
///
/// # Errors
/// If the kernel refuses it: root may do it.
pub fn forget(port: &Port) -> Result<()> {
    netlink::flush(port).map(drop)
}

/// What the kernel says of a bridge and some of its ports.
#[derive(Debug)]
struct Bridge {
    name: String,
    /// `None`: the kernel does not know this setting.
    no_linklocal_learn: Option<bool>,
    spanning_tree: SpanningTree,
    /// Whether each port has BPDU guard.
    guarded: Vec<(Port, bool)>,
}

/// Who does a bridge's spanning tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpanningTree {
    Nobody,
    Kernel,
    Program,
}

impl SpanningTree {
    /// From the bridge's `stp_state`.
    fn from_state(state: &str) -> Self {
        match state {
            "0" => Self::Nobody,
            "1" => Self::Kernel,
            _ => Self::Program,
        }
    }
}

/// What is wrong with a bridge and its ports.
fn judge(bridge: &Bridge) -> Findings {
    let mut findings = Findings::default();
    let name = || bridge.name.clone();
    match bridge.no_linklocal_learn {
        Some(true) => {}
        Some(false) => findings
            .weaknesses
            .push(Weakness::LinkLocalLearning(name())),
        None => findings
            .unsupported
            .push(Unsupported::LinkLocalLearning(name())),
    }
    match bridge.spanning_tree {
        // A bridge without spanning tree treats BPDUs as it treats other frames: rules see them.
        SpanningTree::Nobody => {}
        SpanningTree::Kernel => {
            let open = bridge.guarded.iter().filter(|(_, guarded)| !guarded);
            let open = open.map(|(port, _)| Weakness::SpanningTree(port.clone()));
            findings.weaknesses.extend(open);
        }
        // The kernel's guard does nothing then, and the program's is not told.
        SpanningTree::Program => findings.unsupported.push(Unsupported::SpanningTree(name())),
    }
    findings
}

/// The bridges that these ports are on, each with those of them that are on it.
fn bridges<'a>(ports: impl IntoIterator<Item = &'a Port>) -> Result<Vec<Bridge>> {
    let mut ports_of: BTreeMap<String, Vec<&Port>> = BTreeMap::new();
    for port in ports {
        if let Some(bridge) = super::of(port)? {
            ports_of.entry(bridge).or_default().push(port);
        }
    }
    let mut bridges = Vec::new();
    for (name, ports) in ports_of {
        let no_linklocal_learn = read(&name, "bridge/no_linklocal_learn")?;
        // Every kernel has this one: without it the bridge has vanished. It comes last, so that a
        // bridge that vanishes does not look like an old kernel.
        let Some(state) = read(&name, "bridge/stp_state")? else {
            continue;
        };
        let mut guarded = Vec::new();
        for port in ports {
            // Since Linux 3.8: without it, the port has vanished.
            if let Some(guard) = read(port.as_str(), "brport/bpdu_guard")? {
                guarded.push((port.clone(), guard != "0"));
            }
        }
        bridges.push(Bridge {
            name,
            no_linklocal_learn: no_linklocal_learn.map(|value| value != "0"),
            spanning_tree: SpanningTree::from_state(&state),
            guarded,
        });
    }
    Ok(bridges)
}

#[cfg(test)]
mod tests;
