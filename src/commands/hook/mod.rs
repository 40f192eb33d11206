//! `macfence hook`, also under the names of the entry points, which are links to the program. One
//! file for each caller.

pub mod libvirt;
mod opennebula;
mod xen;

use anyhow::Result;

use super::{apply, flush};
use crate::cli::{Entry, Vms};
use crate::config::Config;

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
        Entry::EbtablesXen { vm } => xen::by_name(config, &vm),
        Entry::EbtablesFlush => flush::run_patiently(config),
        Entry::OnePost {
            driver, deploy_id, ..
        } => opennebula::post(config, driver.as_deref(), deploy_id.as_deref()),
        Entry::OneClean { driver, .. } => opennebula::clean(config, driver.as_deref()),
        Entry::DriverPost { driver, rest } => {
            opennebula::post(config, Some(&driver), rest.first().map(String::as_str))
        }
        Entry::DriverClean { driver, .. } => opennebula::clean(config, Some(&driver)),
        Entry::Xen {
            before,
            script,
            path,
        } => xen::by_path(config, &path, before.zip(script)),
        Entry::Libvirt { vm, operation, .. } => libvirt::run(config, &vm, &operation),
    }
}
