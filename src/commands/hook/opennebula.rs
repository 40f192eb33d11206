//! `macfence hook one-post` and `one-clean`: OpenNebula's network drivers and state hooks call them,
//! with a VM template on standard input.

use std::collections::BTreeSet;
use std::path::Path;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bridge;
use crate::commands::enforce::{Told, fence_vms, unfence};
use crate::commands::shared::{note, read, warn_of_skipped};
use crate::config::Config;
use crate::fence::{Keep, Taken};
use crate::report;
use crate::source::opennebula::{Meant, TEXT_LIMIT, Template};
use crate::source::{Hypervisors, Kind};
use crate::vm::{self, Nic, Vm, VmName};

/// How long to wait for the port of a NIC that is being attached. OpenNebula calls a state hook when
/// it begins to attach, and a driver's script afterwards.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a port may take to leave its bridge after its VM has ended.
const PATIENCE_FOR_THE_END: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// Fences the whole VM, even if only one NIC is being attached. A user can write `ATTACH` into a
/// template, and would otherwise start a VM whose other NICs are open.
pub fn post(config: &Config, driver: Option<&str>, deploy_id: Option<&str>) -> Result<()> {
    let template = template()?;
    let name = template.name(deploy_id)?;
    if template.meant(driver) == Meant::One {
        wait_for_ports(&template.vm(name.clone(), driver, None)?)?;
    }
    fence_meant(config, template.without_hotplug(), name, driver)
}

/// Fences the NICs that the template means.
fn fence_meant(
    config: &Config,
    template: Template,
    name: VmName,
    driver: Option<&str>,
) -> Result<()> {
    if template.lacks_ports(driver) {
        return fence_as_hypervisor_says(config, &template, name, driver);
    }
    let vm = template.vm(name.clone(), driver, None)?;
    // The owner of another VM can give its port this name. So do not take a port that is fenced for
    // another VM only because the template names it.
    let keep = Keep {
        others_ports: true,
        ..keep()
    };
    match fence(config, vm, &keep) {
        // LXC cannot be asked.
        Err(e) if e.is::<Taken>() && template.hypervisor != Kind::Lxc => {
            note(config, || {
                format!("{e}; asking the hypervisor which port the VM has")
            });
            let template = template.without_ports();
            fence_as_hypervisor_says(config, &template, name, driver).with_context(|| e.to_string())
        }
        fenced => fenced,
    }
}

/// Keeps the guards of NICs that the template does not name or that belong to other drivers.
fn keep() -> Keep<'static> {
    Keep {
        ports: Box::new(bridge::is_on_one),
        ..Keep::nothing()
    }
}

fn fence(config: &Config, vm: Vm, keep: &Keep) -> Result<()> {
    vm::check_distinct(slice::from_ref(&vm))?;
    warn_of_skipped(&vm);
    fence_vms(config, vec![vm], keep, Told::ByTemplate).map(|_| ())
}

/// Fences the VM with the ports that the hypervisor reports and the addresses that the template has.
fn fence_as_hypervisor_says(
    config: &Config,
    template: &Template,
    name: VmName,
    driver: Option<&str>,
) -> Result<()> {
    ensure!(
        template.hypervisor != Kind::Lxc,
        "VM {:?}: a NIC's TARGET is not one-<ID>-<NIC_ID>, and LXC cannot be asked which port the \
         container has: remove TARGET from the template",
        name.as_str()
    );
    // This also keeps others from asking until the fence is in the kernel.
    let hypervisors = Hypervisors::ask_only(template.hypervisor, &config.connect)?;
    let domains = hypervisors
        .named(slice::from_ref(&name))
        .context("the VM template does not tell all ports")?;
    fence(config, template.vm(name, driver, domains.first())?, &keep())
}

/// Removes the fence of the VM, or of the NIC that was detached.
pub fn clean(config: &Config, driver: Option<&str>) -> Result<()> {
    let template = template()?;
    let name = template.name(None)?;
    if template.meant(driver) == Meant::Parent {
        return fence_meant(config, template.without_detached(), name, driver);
    }
    let template = template.without_asked();
    match template.meant(driver) {
        Meant::None | Meant::Parent => {
            note(config, || {
                format!(
                    "VM {:?}: the detached device has no port, so there is nothing to do",
                    name.as_str()
                )
            });
            Ok(())
        }
        // The VM has ended, with the NICs of all drivers.
        Meant::All => {
            let vm = ended(template.vm(name, None, None)?);
            let keep = Keep {
                ports: Box::new(bridge::is_in_use),
                ..Keep::nothing()
            };
            unfence(config, &vm, &keep, |port, _| !bridge::is_in_use(port))
        }
        Meant::One => {
            let macs = template.macs(driver);
            let vm = ended(template.vm(name, driver, None)?);
            let goes: BTreeSet<_> = vm.nics.iter().map(|nic| nic.port.clone()).collect();
            let keep = Keep {
                ports: Box::new(|port| !goes.contains(port) && bridge::is_on_one(port)),
                ..Keep::nothing()
            };
            unfence(config, &vm, &keep, |port, mac| {
                macs.contains(&mac) && !bridge::is_in_use(port)
            })
        }
    }
}

/// Waits a moment for the VM's ports to go. OpenNebula also cleans up when it could not end a VM, or
/// when a guest did not release a NIC. Ports that are still in use keep their fence, and are removed
/// from the VM returned here.
fn ended(mut vm: Vm) -> Vm {
    let deadline = Instant::now() + PATIENCE_FOR_THE_END;
    let in_use = |nic: &Nic| bridge::is_in_use(&nic.port);
    while vm.nics.iter().any(in_use) && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    vm.nics.retain(|nic| {
        let stays = in_use(nic);
        if stays {
            report::warning(&format!(
                "VM {:?}: port \"{}\" is still in use; it stays fenced",
                vm.name.as_str(),
                nic.port
            ));
        }
        !stays
    });
    vm
}

fn template() -> Result<Template> {
    let base64 = read(Path::new("-"), TEXT_LIMIT).and_then(|text| {
        ensure!(
            text.len() <= TEXT_LIMIT,
            "a VM template is no longer than {} MiB",
            TEXT_LIMIT >> 20
        );
        Template::read(&text)
    });
    base64.context("standard input")
}

fn wait_for_ports(vm: &Vm) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for nic in &vm.nics {
        while bridge::of(&nic.port)?.is_none() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}
