//! Fences VMs and removes their fences, for `apply`, `remove` and the hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use anyhow::{Context, Result, bail};

use super::shared::{note, note_limits, policy, ports, warn_of_unknown_bridges};
use crate::backend::{self, Backend};
use crate::bridge::{self, Hardened};
use crate::config::Config;
use crate::fence::{ActualGuard, Fence, Hears, Keep};
use crate::lock::{self, Lock};
use crate::mac::MacAddr;
use crate::memory::{Memory, Unknown};
use crate::policy::{Policy, Unfenced};
use crate::report;
use crate::vm::{Port, Vm, VmName};

/// The source of a VM that is to be fenced. It decides what is known about the wishes of the VM's
/// owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A hypervisor; the VM runs. What its template asked for is remembered.
    OfRunning,
    /// A hypervisor; the VM is about to run. What its template asked for in an earlier run is
    /// forgotten.
    OfStarting,
    /// OpenNebula's template, which says what it asks for. That is noted.
    ByTemplate,
}

/// The result of fencing VMs.
pub struct Fenced {
    /// The firewall's name.
    pub backend: &'static str,
    /// Whether anything changed.
    pub changed: bool,
    /// The VMs that have NICs but no fence, each with the reason.
    pub open: Vec<(VmName, String)>,
}

/// Fences these VMs.
///
/// # Errors
/// If the firewall fails; the kernel's rules are then unchanged.
pub fn fence_vms(config: &Config, vms: Vec<Vm>, keep: &Keep, told: Told) -> Result<Fenced> {
    warn_of_unknown_bridges(config);
    fence_vms_under(&lock::exclusive()?, config, vms, keep, told)
}

/// Does the same for a caller that holds the lock, and warns of no bridge.
///
/// # Errors
/// Like [`fence_vms`].
pub fn fence_vms_under(
    _lock: &Lock,
    config: &Config,
    mut vms: Vec<Vm>,
    keep: &Keep,
    told: Told,
) -> Result<Fenced> {
    let backend = backend::choose(config.backend);
    let memory = Memory::open(|| {
        if backend.names_vms() {
            backend.query()?.fences()
        } else {
            // In ebtables, version 0.1 could note nothing.
            Ok(Vec::new())
        }
    })?;
    let mut unknown = Unknown::default();
    match told {
        Told::OfRunning => unknown = memory.recall(&mut vms),
        Told::OfStarting => vms.iter().try_for_each(|vm| memory.forget(&vm.name))?,
        Told::ByTemplate => {}
    }
    unknown.why.iter().for_each(|why| report::warning(why));
    let keep = Keep {
        ports: Box::new(&keep.ports),
        addresses: Box::new(|port| unknown.ports.contains(port)),
        others_ports: keep.others_ports,
    };
    let policy = policy(config, &ports(&vms));
    let mut fences = Vec::new();
    let mut open = Vec::new();
    for vm in &vms {
        let (fence, why_open) = fence(config, &policy, vm)?;
        open.extend(why_open.map(|why| (vm.name.clone(), why)));
        fences.push(fence);
    }
    let enforced = backend.enforce(&fences, &keep)?;
    if told == Told::ByTemplate {
        note_asked(&memory, &vms)?;
    }
    let ports: BTreeSet<_> = fences.iter().flat_map(Fence::ports).collect();
    forget(&enforced.new_ports);
    match harden(config, ports) {
        Ok(hardened) => {
            let changes = hardened.changes.iter().map(ToString::to_string);
            let unsupported = hardened.unsupported.iter().map(ToString::to_string);
            for line in changes.chain(unsupported) {
                note(config, || line);
            }
        }
        Err(e) => report::warning(&format!("{e:#}")),
    }
    note(config, || {
        let state = if enforced.changed {
            "the fences are now in the kernel"
        } else {
            "the kernel held these fences already"
        };
        format!("{state} ({})", backend.name())
    });
    if enforced.changed {
        note_limits(config, &*backend);
    }
    Ok(Fenced {
        backend: backend.name(),
        changed: enforced.changed,
        open,
    })
}

/// Notes what the template asks for these VMs' NICs. A failure is an error: without the note, the next
/// `sync` would remove an address guard that the template asks for.
fn note_asked(memory: &Memory, vms: &[Vm]) -> Result<()> {
    for vm in vms {
        let noted = memory.note(vm);
        let noted = noted.context(
            "the fence is in the kernel, but macfence cannot note what the template asks for",
        )?;
        if let Some(trouble) = noted {
            report::warning(&format!("{trouble:#}; the file was replaced"));
        }
    }
    Ok(())
}

/// Makes bridges forget what they learned from ports whose senders were not checked before. A failure
/// is only a warning, because a bridge forgets by itself after five minutes.
pub fn forget(ports: &[Port]) {
    for port in ports {
        if let Err(e) = bridge::forget(port) {
            report::warning(&format!("{e:#}"));
        }
    }
}

/// Changes the settings of the bridges of these fenced ports, if the configuration allows it.
///
/// # Errors
/// If the kernel refuses.
pub fn harden<'a>(config: &Config, ports: impl IntoIterator<Item = &'a Port>) -> Result<Hardened> {
    if config.harden_bridges {
        bridge::harden(ports)
    } else {
        Ok(Hardened::default())
    }
}

/// Returns the fence of a VM. If it has none, also returns why, as far as its NICs tell.
fn fence(config: &Config, policy: &Policy, vm: &Vm) -> Result<(Fence, Option<String>)> {
    let (fence, unfenced) = policy.fence(vm, |nic| bridge::place(&nic.port))?;
    let name = vm.name.as_str();
    if let Some(refusal) = unfenced.iter().find_map(Unfenced::refusal) {
        bail!("VM {name:?}: {refusal}; nothing was changed");
    }
    for port in fence.ports() {
        note(config, || format!("VM {name:?}: port \"{port}\" is fenced"));
    }
    let why_open = fence.guards.is_empty().then(|| why_open(vm, &unfenced));
    for nic in unfenced {
        match nic {
            Unfenced::NoBridge(port) => report::warning(&format!(
                "VM {name:?}: port \"{port}\" is on no Linux bridge; it is not fenced"
            )),
            Unfenced::OtherBridge(port, bridge) => note(config, || {
                format!("VM {name:?}: port \"{port}\" is on {bridge:?}, which is not in bridges")
            }),
            // This was refused above.
            Unfenced::NotAVms(..) => {}
        }
    }
    Ok((fence, why_open.flatten()))
}

fn why_open(vm: &Vm, unfenced: &[Unfenced]) -> Option<String> {
    let nics = unfenced
        .iter()
        .map(|nic| format!("port \"{}\": {}", nic.port(), nic.why()));
    let why: Vec<_> = nics.chain(vm.skipped.iter().cloned()).collect();
    (!why.is_empty()).then(|| why.join(", "))
}

/// Removes the fence of a VM, except for what `keep` keeps. Forgets what was asked for the NICs for
/// which `gone`, called with port and address, is true.
pub fn unfence(
    config: &Config,
    vm: &Vm,
    keep: &Keep,
    gone: impl Fn(&Port, MacAddr) -> bool,
) -> Result<()> {
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    backend.enforce(&[Fence::none(vm.name.clone())], keep)?;
    if !backend.names_vms() {
        by_port(&*backend, slice::from_ref(vm))?;
    }
    if let Some(memory) = Memory::existing()?
        && let Err(e) = memory.forget_nics(&vm.name, gone)
    {
        report::warning(&format!("{e:#}"));
    }
    Ok(())
}

/// For a firewall whose rules name no VM. A port may be another VM's by now, so this removes only rules
/// for the VM's own address. The caller must hold the lock.
pub fn by_port(backend: &dyn Backend, vms: &[Vm]) -> Result<bool> {
    let nics: BTreeMap<_, _> = vms
        .iter()
        .flat_map(|vm| &vm.nics)
        .map(|nic| (&nic.port, nic))
        .collect();
    let is_own = |guard: &ActualGuard| {
        nics.get(&guard.port).is_some_and(|nic| {
            let may_hear = |hears: &Hears| match hears {
                Hears::All => true,
                Hears::Network { prefix, .. } => prefix.contains(nic.mac),
            };
            guard.macs.iter().all(|mac| *mac == nic.mac) && guard.hears.iter().all(may_hear)
        })
    };
    let actual = backend.query()?.fences()?;
    let guards = actual.iter().flat_map(|fence| &fence.guards);
    let ports: Vec<_> = guards
        .filter(|guard| is_own(guard))
        .map(|guard| guard.port.clone())
        .collect();
    backend.release(&ports)
}
