//! Finds out who has a source address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

use anyhow::Result;
use serde::Serialize;

use crate::backend::Backend;
use crate::config::Config;
use crate::fence::Hears;
use crate::mac::{MacAddr, MacPrefix};
use crate::report;
use crate::source::Hypervisors;
use crate::vm::{Port, VmName};

/// The owner of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum Whose {
    /// The VM at whose port the frame was dropped.
    Own,
    /// Another VM that runs here.
    Vm(String),
    /// A trusted sender, usually a router, with its prefix as written in `trusted`.
    Trusted(String),
    /// A network device of this host.
    Host(String),
    /// Nobody here, but the address is in the network of a VM that runs here. So the sender is
    /// probably a VM on another host.
    Network(String),
    /// Unknown.
    Unknown,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("its own"),
            Self::Vm(vm) => write!(f, "VM {}", vm.escape_debug()),
            Self::Trusted(_) => f.write_str("a trusted router"),
            Self::Host(device) => write!(f, "this host ({})", device.escape_debug()),
            Self::Network(prefix) => write!(f, "another host ({prefix})"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The addresses that are known on this host.
#[derive(Debug, Default)]
pub struct Known {
    ports: BTreeMap<Port, VmName>,
    vms: BTreeMap<MacAddr, VmName>,
    trusted: Vec<MacPrefix>,
    devices: BTreeMap<MacAddr, String>,
    networks: BTreeSet<MacPrefix>,
}

impl Known {
    /// Asks the kernel, and the hypervisor if there is one.
    ///
    /// # Errors
    /// If the firewall cannot be asked.
    pub fn gather(config: &Config, backend: &dyn Backend) -> Result<Self> {
        let mut known = Self::default();
        let networks = config.policy.networks.iter();
        let of_networks = networks.filter_map(|network| network.overrides.trusted.as_ref());
        let trusted = of_networks.flatten().chain(&config.policy.global.trusted);
        known.trusted = trusted.copied().collect();
        for fence in backend.query()?.fences()? {
            let Some(vm) = fence.vm else { continue };
            for guard in fence.guards {
                for mac in guard.macs.iter().chain(&guard.extra_macs) {
                    known.vms.insert(*mac, vm.clone());
                }
                for hears in &guard.hears {
                    if let Hears::Network { prefix, .. } = hears {
                        known.networks.insert(*prefix);
                    }
                }
                known.ports.insert(guard.port, vm.clone());
            }
        }
        let running = Hypervisors::ask(&config.connect).and_then(|asked| asked.running());
        match running {
            Ok(running) => {
                for vm in running.vms {
                    for nic in vm.nics {
                        known.vms.insert(nic.mac, vm.name.clone());
                        known
                            .ports
                            .entry(nic.port)
                            .or_insert_with(|| vm.name.clone());
                    }
                }
            }
            Err(e) if config.verbose => report::note(&format!("unfenced VMs are unknown: {e:#}")),
            Err(_) => {}
        }
        known.devices = devices(&known.ports);
        Ok(known)
    }

    /// Tells whether this VM has a port here.
    pub fn has(&self, vm: &VmName) -> bool {
        self.ports.values().any(|known| known == vm)
    }

    /// Returns the VM that has a port.
    pub fn vm_at(&self, port: &Port) -> Option<&VmName> {
        self.ports.get(port)
    }

    /// Returns who has this address, as seen from the port of `vm`.
    pub fn whose(&self, source: MacAddr, vm: Option<&VmName>) -> Whose {
        if let Some(owner) = self.vms.get(&source) {
            return if Some(owner) == vm {
                Whose::Own
            } else {
                Whose::Vm(owner.as_str().to_owned())
            };
        }
        let holds = |prefix: &&MacPrefix| prefix.contains(source);
        if let Some(prefix) = self.trusted.iter().find(holds) {
            return Whose::Trusted(prefix.to_string());
        }
        if let Some(device) = self.devices.get(&source) {
            return Whose::Host(device.clone());
        }
        match self.networks.iter().find(holds) {
            Some(prefix) => Whose::Network(prefix.to_string()),
            None => Whose::Unknown,
        }
    }
}

/// Returns the addresses of this host's devices, without those of VMs' ports. Skips devices that it
/// cannot read.
fn devices(ports: &BTreeMap<Port, VmName>) -> BTreeMap<MacAddr, String> {
    let mut devices = BTreeMap::new();
    let entries = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_a_vms = name
            .parse()
            .is_ok_and(|port: Port| ports.contains_key(&port));
        let address = fs::read_to_string(entry.path().join("address"));
        if let (false, Some(mac)) = (
            is_a_vms,
            address.ok().and_then(|text| text.trim().parse().ok()),
        ) {
            devices.insert(mac, name);
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_nearest_owners() {
        let mac = |text: &str| text.parse::<MacAddr>().unwrap();
        let (a, b): (VmName, VmName) = ("one-1".parse().unwrap(), "one-2".parse().unwrap());
        let known = Known {
            vms: [
                (mac("02:00:c0:a8:00:05"), a.clone()),
                (mac("02:00:c0:a8:00:06"), b),
            ]
            .into(),
            trusted: vec!["00:16:3e:00:00:00/24".parse().unwrap()],
            devices: [(mac("02:11:22:33:44:55"), "br0".to_owned())].into(),
            networks: ["02:00:c0:a8:00:00/40".parse().unwrap()].into(),
            ..Known::default()
        };
        for (source, whose) in [
            ("02:00:c0:a8:00:05", "its own"),
            ("02:00:c0:a8:00:06", "VM one-2"),
            ("00:16:3e:00:00:01", "a trusted router"),
            ("02:11:22:33:44:55", "this host (br0)"),
            ("02:00:c0:a8:00:99", "another host (02:00:c0:a8:00:00/40)"),
            ("52:54:00:00:00:01", "unknown"),
        ] {
            assert_eq!(known.whose(mac(source), Some(&a)).to_string(), whose);
        }
    }
}
