//! `macfence hook`, and the program started through a link of an entry point's name: one file for
//! each program that calls.

pub mod libvirt;
mod opennebula;

use std::slice;

use anyhow::Result;

use super::enforce::{Told, fence_vms};
use super::shared::warn_of_skipped;
use super::{apply, flush};
use crate::cli::{Entry, Vms};
use crate::config::Config;
use crate::fence::Keep;
use crate::source::{Hypervisors, Kind};
use crate::vm::VmName;

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
        Entry::DriverPost { driver, rest } => {
            opennebula::post(config, Some(&driver), rest.first().map(String::as_str))
        }
        Entry::DriverClean { driver, .. } => opennebula::clean(config, Some(&driver)),
        Entry::Libvirt { vm, operation, .. } => libvirt::run(config, &vm, &operation),
    }
}

fn on_xen(config: &Config, name: &VmName) -> Result<()> {
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    let vms = hypervisors.named(slice::from_ref(name))?;
    vms.iter().for_each(warn_of_skipped);
    fence_vms(config, vms, &Keep::nothing(), Told::OfRunning).map(|_| ())
}
