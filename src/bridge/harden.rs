//! Finds and changes the settings of bridges through which a VM can do what no rule can stop.
//!
//! - A bridge learns the source address of a frame to 01:80:c2:00:00:0e (LLDP) before any bridge hook
//!   sees it; with spanning tree on, also of a frame to :00. So a VM can move another VM's traffic to
//!   its own port. `no_linklocal_learn` on the bridge stops that.
//! - With spanning tree on, no bridge hook sees a VM's BPDU. So a VM can become the root bridge, or
//!   shorten the time for which addresses are remembered. BPDU guard on the port stops both.
//!   `root_block` stops only the first, and each BPDU that it stops makes the kernel send an event,
//!   which would wake `macfence watch`.
//! - A bridge remembers for 300 s the false addresses that a VM made it learn before the fence: see
//!   [`forget`].
//!
//! macfence never reverts a setting, because another program may want it too. It ends with the bridge,
//! or when the port leaves the bridge.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use super::{netlink, read};
use crate::vm::Port;

/// Something that a VM can do, and that a setting stops. As text, it ends with the command for that
/// setting.
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
            // Not "ip link set": it would also re-enable a port that BPDU guard has disabled.
            Self::SpanningTree(port) => write!(
                f,
                "port \"{port}\" takes part in spanning tree, which no rule sees: run \
                 \"bridge link set dev {port} guard on\""
            ),
        }
    }
}

/// A weakness that was removed.
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

/// Something that a VM can do and no setting of ours stops.
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

/// Weaknesses of bridges and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Those that [`harden()`] can remove.
    pub weaknesses: Vec<Weakness>,
    /// Those that it cannot.
    pub unsupported: Vec<Unsupported>,
}

/// The result of [`harden()`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardened {
    /// The weaknesses that it removed.
    pub changes: Vec<Change>,
    /// The weaknesses that it cannot remove. They are the same at each call, so report them once.
    pub unsupported: Vec<Unsupported>,
}

/// Finds the weaknesses of these ports of VMs, and of the bridges that they are on. A port that is on
/// no bridge, or is gone, has none. Changes nothing, and needs no privileges.
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

/// Removes what [`weaknesses`] finds. If it finds nothing, nothing is sent to the kernel. It is no
/// error if a port or a bridge vanishes meanwhile.
///
/// BPDU guard disables a port when the VM sends a BPDU. The port stays disabled until it is set down
/// and up, or leaves the bridge and returns. A port that returns has no guard.
///
/// Setting a guard makes the kernel send an event of the port ([`crate::events`]); setting
/// `no_linklocal_learn` does not.
///
/// # Errors
/// If sysfs cannot be read, or the kernel refuses a change (only root may make it). Earlier changes stay.
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

/// Makes the bridge forget the addresses that it learned at this port; static and permanent entries
/// stay. Call it for a port that was just fenced: otherwise the bridge believes for 300 s what the VM
/// pretended to be before. It is no error if the port is on no bridge, or gone.
///
/// Call it only once for each new fence: each call makes the kernel send an event of the port, so that
/// repeated calls would make `macfence watch` wake itself for ever.
///
/// Linux before 4.5 ignores the request without an error.
///
/// # Errors
/// If the kernel refuses it: only root may do it.
pub fn forget(port: &Port) -> Result<()> {
    netlink::flush(port).map(drop)
}

/// The state of a bridge and of some of its ports.
#[derive(Debug)]
struct Bridge {
    name: String,
    /// `None`: the kernel does not have this setting.
    no_linklocal_learn: Option<bool>,
    spanning_tree: SpanningTree,
    /// Whether each port has BPDU guard.
    guarded: Vec<(Port, bool)>,
}

/// Who runs a bridge's spanning tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpanningTree {
    Nobody,
    Kernel,
    Program,
}

impl SpanningTree {
    /// Reads the bridge's `stp_state`.
    fn from_state(state: &str) -> Self {
        match state {
            "0" => Self::Nobody,
            "1" => Self::Kernel,
            _ => Self::Program,
        }
    }
}

/// Finds the weaknesses of a bridge and its ports.
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
        // A bridge without spanning tree treats BPDUs like other frames, so rules see them.
        SpanningTree::Nobody => {}
        SpanningTree::Kernel => {
            let open = bridge.guarded.iter().filter(|(_, guarded)| !guarded);
            let open = open.map(|(port, _)| Weakness::SpanningTree(port.clone()));
            findings.weaknesses.extend(open);
        }
        // The kernel's guard has no effect then, and the state of the program's guard is unknown to us.
        SpanningTree::Program => findings.unsupported.push(Unsupported::SpanningTree(name())),
    }
    findings
}

/// The bridges that these ports are on, each with its ports among them.
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
        // Every kernel has this file, so without it the bridge has vanished. It is read last, so that a
        // bridge that vanishes does not look like an old kernel.
        let Some(state) = read(&name, "bridge/stp_state")? else {
            continue;
        };
        let mut guarded = Vec::new();
        for port in ports {
            // Every kernel since Linux 3.8 has this file, so without it the port has vanished.
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
