//! `macfence hook libvirt`: libvirt's hook for QEMU domains and LXC containers. It must not ask libvirt
//! anything back: libvirt waits for us, with the domain locked. It prints nothing, because for some
//! operations libvirt would take that for XML.
//!
//! QEMU's domains and LXC's have names of their own, and so has what other hypervisors run: the fence of a
//! VM may have ports of another one with the same name. They keep their guards.

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

/// What `macfence install-hook libvirt` calls the hook for, and libvirt never: needs all that fencing a
/// domain needs, and changes nothing.
pub const TRIAL: &str = "macfence-trial";

/// Runs it.
pub fn run(config: &Config, name: &VmName, operation: &str) -> Result<()> {
    // Read whatever it is, so that libvirt is not left with a broken pipe.
    let xml = read(Path::new("-"), libvirt::XML_LIMIT).context("standard input")?;
    match operation {
        // The ports exist and are on their bridges, and no guest instruction has been run: also
        // where a domain is restored or comes in by migration.
        "start" => fence(config, name, &xml, Told::OfStarting),
        // A container's port is told by its name only now. Had it not been found at the start, it is
        // fenced here; if that fails, libvirt ends the container.
        "started" if libvirt::is_container(&xml) => fence(config, name, &xml, Told::OfStarting),
        // libvirtd has been restarted, and ends a domain whose hook fails. It has been running all
        // the while, with the fence that it had.
        "reconnect" => {
            if let Err(e) = fence(config, name, &xml, Told::OfRunning) {
                report::warning(&format!("{e:#}; the fences stay as they are"));
            }
            Ok(())
        }
        // QEMU has ended, and nobody is left who could send.
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

/// Which ports are those of another VM with the same name: they are there, and not the domain's.
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
