//! `macfence export`: prints the rules that apply would load. Needs no privileges, and with `--xml` no
//! other program.

use anyhow::Result;

use super::shared::{described, note, policy, ports, print};
use crate::backend;
use crate::bridge;
use crate::cli::Vms;
use crate::config::Config;
use crate::policy::{Policy, Unfenced};
use crate::quote::quoted;
use crate::report;
use crate::vm::{Nic, Place};

/// Runs it.
pub fn run(config: &Config, vms: &Vms) -> Result<()> {
    let mut fences = Vec::new();
    let (vms, hypervisors) = described(config, vms)?;
    // This changes nothing in the kernel, so others may ask meanwhile.
    drop(hypervisors);
    let policy = policy(config, &ports(&vms));
    for vm in vms {
        let (fence, unfenced) = policy.fence(&vm, |nic| place_of(&policy, nic))?;
        fences.push(fence);
        for nic in unfenced {
            let name = vm.name.as_str();
            match nic {
                Unfenced::NoBridge(port) => report::warning(&format!(
                    "VM {name:?}: port \"{port}\" is on no bridge that macfence knows of; \
                     it is left out"
                )),
                Unfenced::OtherBridge(port, bridge) => note(config, || {
                    format!(
                        "VM {name:?}: port \"{port}\" is on {}; it is left out",
                        quoted(&bridge)
                    )
                }),
                Unfenced::NotAVms(port, what) => report::warning(&format!(
                    "VM {name:?}: port \"{port}\" is {what}, which no VM has; it is left out"
                )),
            }
        }
    }
    print(&backend::choose(config.backend).export(&fences)?)
}

/// The bridge that the VM's definition names, which may be on another host; else the bridge on which
/// the port is here. If all bridges are fenced in the same way, it does not matter.
fn place_of(policy: &Policy, nic: &Nic) -> Result<Place> {
    match &nic.bridge {
        Some(bridge) => Ok(Place::Nic(bridge.clone())),
        None if !policy.depends_on_bridges() => Ok(Place::Nic(String::new())),
        None => bridge::place(&nic.port),
    }
}
