//! `macfence hook libvirt`: libvirt's hook for QEMU domains and LXC containers. It must not ask libvirt
//! anything, because libvirt keeps the domain locked while it waits for us. It prints nothing to standard
//! output, because libvirt reads the output of some operations as XML.
//!
//! QEMU, LXC and other hypervisors each have VM names of their own, so two VMs on this host may share a
//! name and with it a fence. The hook keeps the guards of the other VM's ports.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::backend;
use crate::bridge;
use crate::commands::enforce::{Told, fence_vms, unfence};
use crate::commands::shared::{read, warn_of_skipped};
use crate::config::Config;
use crate::fence::Keep;
use crate::lock;
use crate::report;
use crate::source::libvirt;
use crate::vm::{Port, Vm, VmName};

/// A made-up operation with which `macfence install-hook libvirt` tries the hook. libvirt never uses it.
/// It needs all that fencing a domain needs, and changes nothing.
pub const TRIAL: &str = "macfence-trial";

/// Runs it.
pub fn run(config: &Config, name: &VmName, operation: &str) -> Result<()> {
    // Read standard input for every operation, so that libvirt does not write to a closed pipe.
    let xml = read(Path::new("-"), libvirt::XML_LIMIT).context("standard input")?;
    match operation {
        // The ports exist and are on their bridges, and the guest has not run yet. This is also called
        // when a domain is restored or migrated to this host.
        "start" => fence(config, name, &xml, Told::OfStarting),
        // libvirt names a container's port only now. If the port was not found at "start", it is fenced
        // here; if that fails, libvirt ends the container.
        "started" if libvirt::is_container(&xml) => fence(config, name, &xml, Told::OfStarting),
        // libvirtd has restarted, and would end a domain whose hook fails. The domain ran all the time
        // behind its old fence.
        "reconnect" => {
            if let Err(e) = fence(config, name, &xml, Told::OfRunning) {
                report::warning(&format!("{e:#}; the fences stay as they are"));
            }
            Ok(())
        }
        // QEMU has ended, so nothing can send any more.
        "stopped" | "release" => {
            let vm = described(name, &xml)?;
            let is_anothers = is_anothers(&vm);
            let keep = Keep {
                ports: Box::new(&is_anothers),
                ..Keep::nothing()
            };
            unfence(config, &vm, &keep, |port, _| !is_anothers(port))
        }
        TRIAL => {
            described(name, &xml)?;
            let _lock = lock::exclusive()?;
            backend::choose(config.backend).ports().map(|_| ())
        }
        _ => Ok(()),
    }
}

fn fence(config: &Config, name: &VmName, xml: &str, told: Told) -> Result<()> {
    let vm = described(name, xml)?;
    warn_of_skipped(&vm);
    let keep = Keep {
        ports: Box::new(is_anothers(&vm)),
        ..Keep::nothing()
    };
    fence_vms(config, vec![vm], &keep, told).map(|_| ())
}

/// Returns a test for ports of another VM with the same name: the port exists, and the domain does not
/// have it.
fn is_anothers(vm: &Vm) -> impl Fn(&Port) -> bool + use<> {
    let own: BTreeSet<_> = vm.nics.iter().map(|nic| nic.port.clone()).collect();
    move |port| !own.contains(port) && bridge::is_in_use(port)
}

fn described(name: &VmName, xml: &str) -> Result<Vm> {
    let vm = libvirt::starting(xml, &bridge::other_end).context("standard input")?;
    ensure!(
        vm.name == *name,
        "standard input describes the domain {:?}, not {:?}",
        vm.name.as_str(),
        name.as_str()
    );
    Ok(vm)
}
