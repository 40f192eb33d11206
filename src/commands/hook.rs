//! `macfence hook`, and the program started through a link of an entry point's name.

use std::path::Path;
use std::slice;

use anyhow::{Context, Result, ensure};

use super::apply::{self, as_told};
use super::{flush, opennebula, read, remove, warn_of_skipped};
use crate::cli::{Entry, Vms};
use crate::config::Config;
use crate::fence::Keep;
use crate::report;
use crate::source::{Hypervisors, Kind, libvirt};
use crate::vm::{Vm, VmName};

/// Runs it.
pub fn run(config: &Config, entry: Entry) -> Result<()> {
    match entry {
        Entry::EbtablesKvm { vm } => apply::run(
            config,
            &Vms {
                vms: vec![vm],
                xml: Vec::new(),
            },
        ),
        Entry::EbtablesXen { vm } => on_xen(config, &vm),
        Entry::EbtablesFlush => flush::run_patiently(config),
        Entry::OnePost {
            driver, deploy_id, ..
        } => opennebula::post(config, driver.as_deref(), deploy_id.as_deref()),
        Entry::OneClean { driver, .. } => opennebula::clean(config, driver.as_deref()),
        Entry::Libvirt { vm, operation, .. } => on_libvirt(config, &vm, &operation),
    }
}

fn on_xen(config: &Config, name: &VmName) -> Result<()> {
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    let vms = hypervisors.named(slice::from_ref(name))?;
    vms.iter().for_each(warn_of_skipped);
    apply::fence_vms(config, &vms, &as_told(config)).map(|_| ())
}

/// What libvirt tells a domain's hook. It must not be asked anything back: it waits for us, with
/// the domain locked. Nothing is printed, as for some operations that would be taken for XML.
fn on_libvirt(config: &Config, name: &VmName, operation: &str) -> Result<()> {
    // Read whatever it is, so that libvirt is not left with a broken pipe.
    let xml = read(Path::new("-"), libvirt::XML_LIMIT).context("standard input")?;
    match operation {
        // The ports exist and are on their bridges, and no guest instruction has been run: also
        // where a domain is restored or comes in by migration.
        "start" => fence(config, name, &xml, &Keep::nothing()),
        // libvirtd has been restarted, and ends a domain whose hook fails. It has been running all
        // the while, with the fence that it had.
        "reconnect" => {
            if let Err(e) = fence(config, name, &xml, &as_told(config)) {
                report::warning(&format!("{e:#}; the fences stay as they are"));
            }
            Ok(())
        }
        // QEMU has ended, and nobody is left who could send.
        "stopped" | "release" => {
            remove::unfence(config, &[described(name, &xml)?], &Keep::nothing())
        }
        _ => Ok(()),
    }
}

fn fence(config: &Config, name: &VmName, xml: &str, keep: &Keep) -> Result<()> {
    let vm = described(name, xml)?;
    warn_of_skipped(&vm);
    apply::fence_vms(config, &[vm], keep).map(|_| ())
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
