//! Reads the VM template that OpenNebula passes to network drivers and state hooks, as base64.
//!
//! Since 6.x a driver gets an extract of the VM's XML in which every element has its own parents:
//! one `<TEMPLATE>` for each `<NIC>`, one `<HISTORY>` for each value (`get_vnm_drivers` in
//! `one_vmm_exec.rb`).

mod asked;
mod nic;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use roxmltree::Node;

use self::nic::{Alias, TemplateNic, in_hotplug, text, within};
pub use super::limits::TEMPLATE_TEXT as TEXT_LIMIT;
use super::xml::Format;
use super::{Kind, is_uuid, limits};
use crate::mac::MacAddr;
use crate::quote::{beginning, quoted};
use crate::vm::{Asked, Nic, Vm, VmName};

const FORMAT: Format = Format {
    name: "the VM template",
    not_it: "the VM template is not XML",
};

/// A VM as OpenNebula describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    id: u32,
    deploy_id: Option<String>,
    /// The hypervisor to ask for a port that the template does not name. Names of LXC's ports
    /// follow from the template.
    pub hypervisor: Kind,
    nics: Vec<TemplateNic>,
    aliases: Vec<Alias>,
    /// Whether the template's port names may be used.
    names_ports: bool,
    /// Whether a PCI device, which has no port, is being attached or detached.
    pci_hotplug: bool,
}

/// The NICs that a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// All of them.
    All,
    /// The one that is being attached or detached.
    One,
    /// The one whose alias is being attached or detached. An alias is more addresses at the same port.
    Parent,
    /// None: the device that is being attached or detached has no port, or belongs to another driver.
    None,
}

impl Template {
    /// Reads the standard input of a driver's script or a hook.
    ///
    /// # Errors
    /// If it is not base64, or [`Self::parse`] refuses it.
    pub fn read(base64: &str) -> Result<Self> {
        // Some releases break the text into lines.
        let text: Vec<u8> = base64
            .bytes()
            .filter(|b| !b.is_ascii_whitespace())
            .collect();
        ensure!(!text.is_empty(), "no VM template was given");
        let xml = BASE64_STANDARD
            .decode(text)
            .context("the VM template is not base64")?;
        let xml = String::from_utf8(xml).context("the VM template is not UTF-8")?;
        Self::parse(&xml)
    }

    /// Reads the XML of a VM.
    ///
    /// # Errors
    /// If it is no XML, not a VM's, or beyond a limit; or if a MAC address is invalid.
    pub fn parse(xml: &str) -> Result<Self> {
        Self::of(FORMAT.parse(xml)?.root_element())
    }

    fn of(vm: Node<'_, '_>) -> Result<Self> {
        ensure!(
            vm.has_tag_name("VM"),
            "not a VM template: its root is <{}>",
            beginning(vm.tag_name().name())
        );
        let id = text(vm, "ID").context("the VM template has no ID")?;
        let id = id
            .parse()
            .with_context(|| format!("the VM template's ID {} is not a number", quoted(id)))?;
        let mut nics = Vec::new();
        let mut aliases = Vec::new();
        let mut pci_hotplug = false;
        for device in within(vm, "TEMPLATE").flat_map(|template| template.children()) {
            match device.tag_name().name() {
                "NIC" => {
                    limits::NICS.check(FORMAT.name, nics.len() + 1)?;
                    nics.push(TemplateNic::of(device).with_context(|| format!("VM {id}"))?);
                }
                "NIC_ALIAS" => {
                    limits::ALIASES.check(FORMAT.name, aliases.len() + 1)?;
                    aliases.push(Alias::of(device));
                }
                "PCI" => pci_hotplug |= in_hotplug(device),
                _ => {}
            }
        }
        let histories = within(vm, "HISTORY_RECORDS").flat_map(|all| within(all, "HISTORY"));
        // The newest record comes last.
        let driver = histories.filter_map(|record| text(record, "VM_MAD")).last();
        Ok(Self {
            id,
            deploy_id: text(vm, "DEPLOY_ID").map(str::to_owned),
            hypervisor: driven_by(driver.unwrap_or_default()),
            nics,
            aliases,
            names_ports: true,
            pci_hotplug,
        })
    }

    /// Returns the VM's name at its hypervisor. That is `one-<ID>`, except for a VM that OpenNebula
    /// imported from the hypervisor: its deploy id is its name. Since 5.14 the deploy id of other
    /// VMs is libvirt's UUID.
    ///
    /// # Errors
    /// If the deploy id is the name of another of OpenNebula's VMs.
    pub fn name(&self, deploy_id: Option<&str>) -> Result<VmName> {
        let known = [deploy_id, self.deploy_id.as_deref()];
        let name = known
            .into_iter()
            .flatten()
            .find(|id| !id.is_empty() && *id != "-" && !is_uuid(id));
        let own = format!("one-{}", self.id);
        let Some(name) = name else {
            return own.parse();
        };
        let name: VmName = name.parse()?;
        ensure!(
            name.one_id().is_none() || name.as_str() == own,
            "the deploy id {} is another VM's: this template is that of {own:?}",
            quoted(name.as_str())
        );
        Ok(name)
    }

    /// Returns which NICs this call is about. If a driver is named, only its own NICs count (`VN_MAD`).
    pub fn meant(&self, driver: Option<&str>) -> Meant {
        let aliases = || self.aliases.iter().filter(|alias| alias.in_hotplug);
        let parent = |nic: &&TemplateNic| aliases().any(|alias| alias.parent == nic.id);
        let (all, mut nics) = (self.nics.iter(), self.nics.iter());
        if let Some(nic) = nics.find(|nic| nic.in_hotplug) {
            if nic.is_of(driver) {
                Meant::One
            } else {
                Meant::None
            }
        } else if all.filter(parent).any(|nic| nic.is_of(driver)) {
            Meant::Parent
        } else if self.pci_hotplug || aliases().next().is_some() {
            Meant::None
        } else {
            Meant::All
        }
    }

    /// Tells whether the hypervisor must be asked for the port of a NIC that is meant. A `TARGET`
    /// that OpenNebula did not choose does not count: a user may have written it.
    pub fn lacks_ports(&self, driver: Option<&str>) -> bool {
        self.meant_nics(driver)
            .any(|nic| nic.mac.is_some() && self.port_name(nic).is_none())
    }

    /// Makes the template [lack](Self::lacks_ports) all ports.
    pub fn without_ports(self) -> Self {
        Self {
            names_ports: false,
            ..self
        }
    }

    /// Makes the template [mean all NICs](Meant::All).
    pub fn without_hotplug(mut self) -> Self {
        self.pci_hotplug = false;
        for nic in &mut self.nics {
            nic.in_hotplug = false;
        }
        for alias in &mut self.aliases {
            alias.in_hotplug = false;
        }
        self
    }

    /// Removes the addresses of an alias that is being detached.
    pub fn without_detached(mut self) -> Self {
        for alias in self.aliases.iter_mut().filter(|alias| alias.in_hotplug) {
            alias.addresses = Ok(BTreeSet::new());
        }
        self
    }

    /// Removes all requests from the template. Removing fences needs none, and must not fail
    /// because a user requested nonsense.
    pub fn without_asked(mut self) -> Self {
        for nic in &mut self.nics {
            nic.asked = Ok(Asked::default());
        }
        for alias in &mut self.aliases {
            alias.addresses = Ok(BTreeSet::new());
        }
        self
    }

    /// Returns the VM with the NICs that are meant. If the template [lacks](Self::lacks_ports)
    /// ports, `domain` is the hypervisor's description.
    ///
    /// # Errors
    /// If a port's name or a NIC's address is invalid, or if the requests for a NIC cannot be read.
    pub fn vm(&self, name: VmName, driver: Option<&str>, domain: Option<&Vm>) -> Result<Vm> {
        let mut vm = Vm {
            name,
            nics: Vec::new(),
            skipped: Vec::new(),
        };
        // It does not matter which port belongs to which NIC of the same address: they get the same
        // rules. On Xen each NIC also has an emulated port.
        let mut known: BTreeMap<MacAddr, Vec<String>> = BTreeMap::new();
        for nic in domain.into_iter().flat_map(|vm| &vm.nics) {
            known.entry(nic.mac).or_default().push(nic.port.to_string());
        }
        for nic in self.meant_nics(driver) {
            let who = format!("NIC {}", beginning(&nic.id));
            let Some(mac) = nic.mac else {
                vm.skipped.push(format!("{who} has no MAC address"));
                continue;
            };
            let ports = match (self.port_name(nic), known.get_mut(&mac)) {
                (Some(name), _) => vec![name],
                // Empty if another NIC with this address has taken them.
                (None, Some(ports)) => mem::take(ports),
                (None, None) => {
                    vm.skipped.push(format!("{who} ({mac}) has no port"));
                    continue;
                }
            };
            let asked = self.asked(nic);
            for port in ports {
                let named = asked.clone().and_then(|asked| {
                    let port = port.parse().map_err(|e| format!("{e:#}"))?;
                    let named = Nic::new(port, mac, nic.bridge.clone());
                    let named = named.map_err(|e| format!("{e:#}"))?;
                    Ok(Nic {
                        asked: Some(asked),
                        ..named
                    })
                });
                let whose = |e| anyhow!("VM {:?}, {who}: {e}", vm.name.as_str());
                let named = named.map_err(whose)?;
                vm.nics.push(named);
            }
        }
        Ok(vm)
    }

    /// Returns the requests for a NIC, with the addresses that its aliases add.
    fn asked(&self, nic: &TemplateNic) -> Result<Asked, String> {
        let mut asked = nic.asked.clone()?;
        for alias in self.aliases.iter().filter(|alias| alias.parent == nic.id) {
            asked.addresses.extend(alias.addresses.clone()?);
        }
        limits::ADDRESSES
            .check("it", asked.addresses.len())
            .map_err(|e| e.to_string())?;
        Ok(asked)
    }

    /// Returns the MAC addresses of the NICs that are meant.
    pub fn macs(&self, driver: Option<&str>) -> BTreeSet<MacAddr> {
        self.meant_nics(driver).filter_map(|nic| nic.mac).collect()
    }

    fn meant_nics(&self, driver: Option<&str>) -> impl Iterator<Item = &TemplateNic> {
        let meant = self.meant(driver);
        self.nics.iter().filter(move |nic| match meant {
            Meant::All => nic.is_of(driver),
            Meant::One => nic.in_hotplug,
            Meant::Parent => {
                let mut aliases = self.aliases.iter();
                nic.is_of(driver) && aliases.any(|alias| alias.in_hotplug && alias.parent == nic.id)
            }
            Meant::None => false,
        })
    }

    /// Returns the port that the template names, or whose name follows from it.
    fn port_name(&self, nic: &TemplateNic) -> Option<String> {
        let own = format!("one-{}-{}", self.id, nic.id);
        let is_own = match &nic.target {
            Some(target) => *target == own,
            None => self.hypervisor == Kind::Lxc,
        };
        (self.names_ports && is_own).then_some(own)
    }
}

/// Returns the hypervisor of a virtualization driver: `kvm`, `qemu`, `lxc`, `xen3`, ...
fn driven_by(driver: &str) -> Kind {
    if driver.contains("xen") {
        Kind::Xen
    } else if driver.contains("lxc") {
        Kind::Lxc
    } else {
        Kind::Libvirt
    }
}

#[cfg(test)]
mod tests;
