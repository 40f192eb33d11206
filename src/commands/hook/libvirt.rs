//! `macfence hook libvirt`: libvirt's hook for QEMU domains. It must not ask libvirt anything back:
//! libvirt waits for us, with the domain locked. It prints nothing, because for some operations libvirt
//! would take that for XML.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::commands::enforce::{Told, fence_vms, unfence};
use crate::commands::shared::{read, warn_of_skipped};
use crate::config::Config;
use crate::fence::Keep;
use crate::report;
use crate::source::libvirt;
use crate::vm::{Vm, VmName};

/// Runs it.
pub fn run(config: &Config, name: &VmName, operation: &str) -> Result<()> {
    // Read whatever it is, so that libvirt is not left with a broken pipe.
    let xml = read(Path::new("-"), libvirt::XML_LIMIT).context("standard input")?;
    match operation {
        // The ports exist and are on their bridges, and no guest instruction has been run: also
        // where a domain is restored or comes in by migration.
        "start" => fence(config, name, &xml, Told::OfStarting),
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
            unfence(config, &described(name, &xml)?, &Keep::nothing(), |_, _| {
                true
            })
        }
        _ => Ok(()),
    }
}

fn fence(config: &Config, name: &VmName, xml: &str, told: Told) -> Result<()> {
    let vm = described(name, xml)?;
    warn_of_skipped(&vm);
    fence_vms(config, vec![vm], &Keep::nothing(), told).map(|_| ())
}

fn described(name: &VmName, xml: &str) -> Result<Vm> {
    let vm = libvirt::domain(xml).context("standard input")?;
    ensure!(
        vm.name == *name,
        "standard input describes the domain {:?}, not {:?}",
        vm.name.as_str(),
        name.as_str()
    );
    Ok(vm)
}
