//! Asks Incus for its instances: containers and virtual machines. The program `incus` asks the
//! daemon, in one process for all instances.
//!
//! Each project has its own instances. We call an instance of the default project by its name, and one
//! of another project PROJECT_NAME, as Incus itself does on the host. Neither part can have a `_`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use super::limits::{self, INSTANCES, INSTANCES_TEXT, NICS};
use super::{Hypervisor, Kind, Running};
use crate::bridge;
use crate::process;
use crate::quote::{beginning, quoted};
use crate::vm::{Nic, Port, Vm, VmName};

/// Where the daemon listens. Later versions use the first place.
const SOCKETS: [&str; 2] = ["/run/incus/unix.socket", "/var/lib/incus/unix.socket"];

/// The request for all instances with their devices. Recursion 2 would look into each container for more.
const INSTANCES_PATH: &str = "/1.0/instances?recursion=1&all-projects=true";

/// The name of the answer in error messages.
const ANSWER: &str = "Incus' list of instances";

/// Where `incus` looks for its configuration: nowhere.
const NO_CONFIGURATION: (&str, &str) = ("INCUS_CONF", "/nonexistent");

/// The project whose instances go by their own names.
const DEFAULT_PROJECT: &str = "default";

/// The location of an instance on a host in no cluster; versions differ.
const NO_CLUSTER: [&str; 2] = ["none", ""];

/// Incus on this host.
pub(super) struct Incus;

impl Hypervisor for Incus {
    /// The program alone is not enough: it may serve to manage other hosts.
    fn is_there(&self) -> bool {
        process::find("incus").is_ok() && SOCKETS.iter().any(|path| Path::new(path).exists())
    }

    /// OpenNebula does not use it.
    fn runs(&self, _: Kind) -> bool {
        false
    }

    fn running(&self) -> Result<Running> {
        let mut running = Running::default();
        for (name, vm) in all()? {
            match vm {
                Ok(Some(vm)) => running.vms.push(vm),
                Ok(None) => {}
                Err(e) => running.failed.push((name, e)),
            }
        }
        Ok(running)
    }

    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>> {
        let mut all: BTreeMap<_, _> = match all() {
            Ok(all) => all.into_iter().collect(),
            Err(e) => return names.iter().map(|_| Err(anyhow!("{e:#}"))).collect(),
        };
        let mut take = |name: &VmName| match all.remove(name) {
            Some(Ok(Some(vm))) => Ok(vm),
            Some(Ok(None)) => Err(anyhow!("the instance {:?} does not run", name.as_str())),
            Some(Err(e)) => Err(e),
            None => Err(anyhow!("Incus has no instance {:?}", name.as_str())),
        };
        names.iter().map(&mut take).collect()
    }
}

fn all() -> Result<Vec<Told>> {
    let instances = read(&ask(INSTANCES_PATH)?)?;
    let here = if instances.iter().any(Instance::is_in_cluster) {
        Some(server_name(&ask("/1.0")?)?)
    } else {
        None
    };
    vms(instances, here.as_deref(), &bridge::is_there)
}

/// Asks the daemon of this host. The program does not read root's remotes and aliases: the service
/// may not look into root's home, and then the program would fail.
fn ask(path: &str) -> Result<String> {
    let args = ["query", "--force-local", path];
    process::run_with("incus", &args, NO_CONFIGURATION)?.checked()
}

/// The fields of an instance that we need: [documentation][1].
///
/// [1]: https://linuxcontainers.org/incus/docs/main/api/
#[derive(Clone, Debug, Deserialize)]
pub struct Instance {
    name: String,
    project: String,
    status: String,
    location: String,
    config: BTreeMap<String, String>,
    expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
}

/// Reads the list of instances.
///
/// # Errors
/// If the text is no list of instances, or is beyond a limit.
pub fn read(json: &str) -> Result<Vec<Instance>> {
    limits::check_text(ANSWER, json, INSTANCES_TEXT)?;
    let instances: Vec<Instance> = serde_json::from_str(json)
        .map_err(|e| anyhow!("{ANSWER} cannot be read: {}", beginning(&e.to_string())))?;
    INSTANCES.check(ANSWER, instances.len())?;
    Ok(instances)
}

/// Reads the name of this host in its cluster.
fn server_name(json: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Server {
        environment: Environment,
    }
    #[derive(Deserialize)]
    struct Environment {
        server_name: String,
    }
    let server: Server =
        serde_json::from_str(json).context("Incus' description of its server cannot be read")?;
    Ok(server.environment.server_name)
}

/// The name of an instance, and its VM if it runs, or the reason why it cannot be described.
pub type Told = (VmName, Result<Option<Vm>>);

/// Returns the instances of this host. `here` is the host's name if it is in a cluster; `is_there`
/// tells whether the host has a device of that name.
///
/// # Errors
/// If an instance has a name that no VM can have.
pub fn vms(
    mut instances: Vec<Instance>,
    here: Option<&str>,
    is_there: &dyn Fn(&Port) -> bool,
) -> Result<Vec<Told>> {
    instances.retain(|instance| {
        !instance.is_in_cluster() || here.is_some_and(|here| here == instance.location)
    });
    // Running instances come first: they win a port that a stopped one also claims.
    instances.sort_by_key(|instance| !instance.runs());
    let mut taken = BTreeSet::new();
    let mut told = Vec::new();
    for instance in instances {
        let name = instance.vm_name()?;
        let runs = instance.runs();
        let vm = instance.vm(&name).map(|mut vm| {
            if runs {
                return Some(vm);
            }
            // Incus notes a port when it makes it, before the instance runs. The note may stay when
            // the host crashes.
            vm.skipped.clear();
            vm.nics
                .retain(|nic| is_there(&nic.port) && !taken.contains(&nic.port));
            (!vm.nics.is_empty()).then_some(vm)
        });
        if let Ok(Some(vm)) = &vm {
            taken.extend(vm.nics.iter().map(|nic| nic.port.clone()));
        }
        // An instance that does not run may be impossible to describe.
        let vm = if runs { vm } else { Ok(vm.ok().flatten()) };
        told.push((name, vm));
    }
    Ok(told)
}

impl Instance {
    fn is_in_cluster(&self) -> bool {
        !NO_CLUSTER.contains(&self.location.as_str())
    }

    /// Tells whether it is not stopped. It may be frozen or starting, or Incus may not know.
    fn runs(&self) -> bool {
        self.status != "Stopped"
    }

    fn vm_name(&self) -> Result<VmName> {
        if self.project == DEFAULT_PROJECT {
            self.name.parse()
        } else {
            format!("{}_{}", self.project, self.name).parse()
        }
    }

    fn vm(&self, name: &VmName) -> Result<Vm> {
        let mut vm = Vm {
            name: name.clone(),
            nics: Vec::new(),
            skipped: Vec::new(),
        };
        let devices = self.expanded_devices.iter();
        let nics = devices.filter(|(_, device)| text(device, "type") == Some("nic"));
        for (count, (device, config)) in (1..).zip(nics) {
            NICS.check(ANSWER, count)?;
            let nic = self.nic(device, config);
            match nic.with_context(|| format!("instance {:?}", name.as_str()))? {
                Ok(nic) => vm.nics.push(nic),
                Err(why) => vm.skipped.push(why),
            }
        }
        Ok(vm)
    }

    /// Returns the NIC of a device, or the reason why it has no port on a bridge.
    fn nic(&self, device: &str, config: &BTreeMap<String, String>) -> Result<Result<Nic, String>> {
        // A NIC of a network that Incus manages has no type of its own. The kind of network shows
        // in the place of its port.
        let bridge = match (text(config, "nictype"), text(config, "network")) {
            (Some("bridged"), _) => text(config, "parent"),
            (Some("p2p"), _) => None,
            (None, Some(network)) => Some(network),
            (kind, _) => {
                let kind = quoted(kind.unwrap_or_default());
                let device = quoted(device);
                return Ok(Err(format!(
                    "the interface {device} of type {kind} has no port on a bridge"
                )));
            }
        };
        let noted = |key| text(&self.config, &format!("volatile.{device}.{key}"));
        // Incus notes the port even if the user chose its name, but the address only if Incus chose it.
        let Some(port) = noted("host_name") else {
            let device = quoted(device);
            return Ok(Err(format!("the interface {device} has no port now")));
        };
        let Some(mac) = text(config, "hwaddr").or_else(|| noted("hwaddr")) else {
            let port = quoted(port);
            return Ok(Err(format!("the interface {port} has no MAC address")));
        };
        Nic::new(port.parse()?, mac.parse()?, bridge.map(str::to_owned)).map(Ok)
    }
}

/// Returns a value unless it is missing or empty: Incus empties values that no longer apply.
fn text<'a>(config: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    let value = config.get(key)?.as_str();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests;
