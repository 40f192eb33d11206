//! Finds out which VMs run and which ports they have. Each source asks one hypervisor, or reads
//! text that one wrote, and knows nothing of rules. All callers ask through [`Hypervisors`].

pub mod incus;
mod last;
pub mod libvirt;
mod limits;
mod lxc;
pub mod opennebula;
pub mod virsh;
pub mod xen;
mod xml;

use std::collections::BTreeMap;

use anyhow::{Error, Result, anyhow};

pub use self::last::{Doubt, Last};
pub use self::lxc::{may_have, may_return};
use crate::lock::{self, Lock};
use crate::vm::{Vm, VmName};

/// The VMs that run on a host.
#[derive(Debug, Default)]
pub struct Running {
    /// The VMs that the hypervisors describe.
    pub vms: Vec<Vm>,
    /// Those that they could not describe, and why.
    pub failed: Vec<(VmName, Error)>,
}

/// A kind of hypervisor. OpenNebula tells it for each VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// libvirt
    Libvirt,
    /// LXC
    Lxc,
    /// Xen
    Xen,
}

/// A hypervisor that we can ask for VMs.
trait Hypervisor {
    /// Tells whether this host has it.
    fn is_there(&self) -> bool;

    /// Tells whether it runs VMs of this kind.
    fn runs(&self, kind: Kind) -> bool;

    /// Returns all VMs that it runs.
    ///
    /// # Errors
    /// If it cannot tell which VMs run.
    fn running(&self) -> Result<Running>;

    /// Does the same, but asks only about VMs that may have changed since the last answer, and
    /// remembers the new answer in `last`. The default asks about all. `others` is what other
    /// hypervisors run.
    ///
    /// # Errors
    /// Like [`Self::running`]; `last` is then useless.
    fn update(&self, _last: &mut Last, _doubt: &Doubt, _others: &Running) -> Result<Running> {
        self.running()
    }

    /// Returns for each of these names the VM, or why it cannot be described.
    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>>;
}

/// All hypervisors that we can ask, the first one first; `uris` are libvirt's.
fn known(uris: &[String]) -> Vec<Box<dyn Hypervisor>> {
    let libvirts = uris.iter().map(|uri| Box::new(virsh::Virsh::at(uri)) as _);
    let others: [Box<dyn Hypervisor>; 3] = [
        Box::new(xen::Xen),
        Box::new(incus::Incus),
        // Last, because it yields only what no other one knows.
        Box::new(lxc::Lxc),
    ];
    libvirts.chain(others).collect()
}

/// The hypervisors of this host. While this value lives, no other process asks them. A caller that
/// acts on an answer keeps the value until the kernel holds the result. A caller that prints an
/// answer drops the value first.
pub struct Hypervisors {
    asked: Vec<Box<dyn Hypervisor>>,
    _asking: Option<Lock>,
}

impl Hypervisors {
    /// Waits for its turn to ask the hypervisors that this host has; `uris` are libvirt's. On a
    /// host without a hypervisor it asks libvirt, so that the error says that virsh was not found.
    ///
    /// # Errors
    /// If another process keeps the lock for a minute.
    pub fn ask(uris: &[String]) -> Result<Self> {
        let mut asked = known(uris);
        if asked.iter().any(|hypervisor| hypervisor.is_there()) {
            asked.retain(|hypervisor| hypervisor.is_there());
        } else {
            asked.truncate(1);
        }
        Self::open(asked)
    }

    /// Like [`Self::ask`], but asks only the hypervisors that run VMs of this kind, whether this
    /// host has them or not.
    ///
    /// # Errors
    /// Like [`Self::ask`].
    pub fn ask_only(kind: Kind, uris: &[String]) -> Result<Self> {
        let mut asked = known(uris);
        asked.retain(|hypervisor| hypervisor.runs(kind));
        Self::open(asked)
    }

    /// Returns the running VMs of every hypervisor that answers, without waiting for a turn: good enough for
    /// suggestions, not for rules.
    #[must_use]
    pub fn glance(uris: &[String]) -> Vec<Vm> {
        let asked = known(uris).into_iter();
        let asked = asked.filter(|hypervisor| hypervisor.is_there());
        let running = asked.filter_map(|hypervisor| hypervisor.running().ok());
        running.flat_map(|running| running.vms).collect()
    }

    fn open(asked: Vec<Box<dyn Hypervisor>>) -> Result<Self> {
        Ok(Self {
            asked,
            _asking: lock::asking()?,
        })
    }

    /// Returns the VMs that run on this host. If two hypervisors know a VM, it has the NICs of
    /// both. If both know a port, the first one's description counts.
    ///
    /// # Errors
    /// If one of the hypervisors cannot tell which VMs it runs.
    pub fn running(&self) -> Result<Running> {
        self.update(&mut Last::default(), &Doubt::default())
    }

    /// Does the same, but asks only about VMs that may have changed since the answers in [`Last`].
    /// If that is empty, it asks about all.
    ///
    /// # Errors
    /// Like [`Self::running`]; `last` is then useless.
    pub fn update(&self, last: &mut Last, doubt: &Doubt) -> Result<Running> {
        let mut all = Running::default();
        for hypervisor in &self.asked {
            let more = hypervisor.update(last, doubt, &all)?;
            all.add(more);
        }
        Ok(all)
    }

    /// Returns Xen's domain with this number.
    ///
    /// # Errors
    /// If Xen cannot be asked, or has no domain with this number.
    pub fn domain(&self, number: u32) -> Result<Vm> {
        xen::numbered(number)
    }

    /// Returns the port that Xen's script is about to put on a bridge for an interface of this domain: the device
    /// itself, or QEMU's with `-emu` as the ending.
    ///
    /// # Errors
    /// If xenstore cannot be asked, or does not tell.
    pub fn coming(&self, domain: u32, index: u32, ending: &str) -> Result<xen::Coming> {
        xen::coming(domain, index, ending)
    }

    /// Returns the VMs with these names, in the same order, each from the first hypervisor that knows it.
    ///
    /// # Errors
    /// If no hypervisor can describe one of them. The error quotes each hypervisor.
    pub fn named(&self, names: &[VmName]) -> Result<Vec<Vm>> {
        named(&self.asked, names)
    }
}

impl Running {
    /// Adds what another hypervisor runs.
    fn add(&mut self, more: Self) {
        let known: BTreeMap<_, _> = self.vms.iter().map(|vm| vm.name.clone()).zip(0..).collect();
        for mut vm in more.vms {
            let same = known.get(&vm.name).copied();
            match same.and_then(|index: usize| self.vms.get_mut(index)) {
                Some(same) => {
                    vm.nics
                        .retain(|nic| same.nics.iter().all(|known| known.port != nic.port));
                    same.nics.append(&mut vm.nics);
                    same.skipped.append(&mut vm.skipped);
                }
                None => self.vms.push(vm),
            }
        }
        self.failed.extend(more.failed);
    }
}

fn named(hypervisors: &[Box<dyn Hypervisor>], names: &[VmName]) -> Result<Vec<Vm>> {
    let mut described = BTreeMap::new();
    let mut unknown = names.to_vec();
    let mut errors = Vec::new();
    for hypervisor in hypervisors {
        if unknown.is_empty() {
            break;
        }
        for (name, vm) in unknown.iter().zip(hypervisor.named(&unknown)) {
            match vm {
                Ok(vm) => drop(described.insert(name.clone(), vm)),
                Err(e) => errors.push((name.clone(), e)),
            }
        }
        unknown.retain(|name| !described.contains_key(name));
    }
    if unknown.is_empty() {
        let vms = names.iter().filter_map(|name| described.get(name));
        return Ok(vms.cloned().collect());
    }
    errors.retain(|(name, _)| unknown.contains(name));
    if hypervisors.len() == 1
        && let Some((_, only)) = errors.pop()
    {
        return Err(only);
    }
    let mut words: Vec<_> = errors.iter().map(|(_, e)| format!("{e:#}")).collect();
    // virsh gives one message for all names in a call.
    words.dedup();
    let names: Vec<_> = unknown
        .iter()
        .map(|n| format!("{:?}", n.as_str()))
        .collect();
    Err(anyhow!(
        "no hypervisor of this host knows {}: {}",
        names.join(", "),
        words.join("; ")
    ))
}

/// Tells whether this is a UUID as libvirt prints it.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
