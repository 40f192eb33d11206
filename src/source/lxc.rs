//! OpenNebula's LXC containers. Its driver starts them with LXC's own tools, which do not tell the MAC
//! addresses of a container's NICs. So they are taken from [`Memory`], where `hook one-post` has noted
//! what the template said.

use std::collections::BTreeSet;

use anyhow::{Error, Result, anyhow};

use super::{Doubt, Hypervisor, Kind, Last, Running};
use crate::bridge;
use crate::memory::Memory;
use crate::process;
use crate::vm::{Nic, Port, Vm, VmName};

/// LXC on this host.
pub(super) struct Lxc;

/// Tells whether this VM may be a container whose ports come back without notice. When a container
/// reboots, LXC deletes its ports and creates them again, and OpenNebula runs no hook. Without its record
/// the new ports would stay open, and nobody would know. So the record stays until `hook one-clean`.
/// Until then it does no harm, because only a port with the VM's own number is fenced by it.
#[must_use]
pub fn may_return(vm: &VmName) -> bool {
    vm.one_id().is_some() && Lxc.is_there()
}

/// Tells whether one of these VMs may be a container that has this port. Its record may lack a NIC.
#[must_use]
pub fn may_have(vms: &[VmName], port: &Port) -> bool {
    let is_veth = || bridge::is_veth_on_bridge(port).unwrap_or(true);
    vms.iter().any(|vm| is_own(port, vm)) && is_veth()
}

impl Hypervisor for Lxc {
    fn is_there(&self) -> bool {
        process::find("lxc-start").is_ok()
    }

    fn runs(&self, kind: Kind) -> bool {
        kind == Kind::Lxc
    }

    fn running(&self) -> Result<Running> {
        containers(&Running::default())
    }

    fn update(&self, _: &mut Last, _: &Doubt, others: &Running) -> Result<Running> {
        containers(others)
    }

    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>> {
        let all = match self.running() {
            Ok(all) => all,
            Err(e) => return names.iter().map(|_| Err(anyhow!("{e:#}"))).collect(),
        };
        let find = |name: &VmName| {
            if let Some((_, why)) = all.failed.iter().find(|(failed, _)| failed == name) {
                return Err(anyhow!("{why:#}"));
            }
            let vm = all.vms.iter().find(|vm| vm.name == *name).cloned();
            vm.ok_or_else(|| anyhow!("no LXC container {:?} is remembered", name.as_str()))
        };
        names.iter().map(find).collect()
    }
}

/// The containers that are remembered and run, and that are not among `others`.
fn containers(others: &Running) -> Result<Running> {
    let Some(memory) = Memory::existing()? else {
        return Ok(Running::default());
    };
    let failed = others.failed.iter().map(|(name, _)| name);
    let known = others.vms.iter().map(|vm| &vm.name).chain(failed).collect();
    let remembered = memory.others(&known)?;
    let veths = if remembered.failed.is_empty() {
        Vec::new()
    } else {
        bridge::veths_on_bridges()?
    };
    Ok(Running {
        vms: running(remembered.vms, others, &bridge::is_veth_on_bridge)?,
        failed: undescribed(remembered.failed, &veths),
    })
}

/// Of the VMs whose records cannot be believed, those with a port now. `veths` are the ones on bridges.
fn undescribed(failed: Vec<(VmName, Error)>, veths: &[Port]) -> Vec<(VmName, Error)> {
    let runs = |(vm, _): &(VmName, Error)| veths.iter().any(|port| is_own(port, vm));
    let failed = failed.into_iter().filter(runs);
    let why = "it is unknown which MAC addresses the container has";
    failed.map(|(vm, e)| (vm, e.context(why))).collect()
}

/// Of these VMs those with a port now, with these ports only. A port must be `one-<ID>-<NIC_ID>`, and a
/// veth on a bridge: the tap of a VM is for its hypervisor to tell. Nor may one of `others` have it
/// with the same address. If one has it with another address, both claim it, and the caller reports that.
/// What the template asks for is left out: the caller reads it under the lock, and it may be newer then.
fn running(
    remembered: Vec<Vm>,
    others: &Running,
    is_veth: &dyn Fn(&Port) -> Result<bool>,
) -> Result<Vec<Vm>> {
    let taken = others.vms.iter().flat_map(|vm| &vm.nics);
    let taken: BTreeSet<_> = taken.map(|nic| (&nic.port, nic.mac)).collect();
    let mut running = Vec::new();
    for mut vm in remembered {
        let mut nics = Vec::new();
        for nic in vm.nics {
            let is_taken = taken.contains(&(&nic.port, nic.mac));
            if is_own(&nic.port, &vm.name) && !is_taken && is_veth(&nic.port)? {
                nics.push(Nic { asked: None, ..nic });
            }
        }
        if !nics.is_empty() {
            vm.nics = nics;
            running.push(vm);
        }
    }
    Ok(running)
}

/// Whether OpenNebula gives this name to a port of the VM.
fn is_own(port: &Port, vm: &VmName) -> bool {
    let nic = vm.one_id().and_then(|id| {
        let rest = port.as_str().strip_prefix("one-")?;
        rest.strip_prefix(id)?.strip_prefix('-')
    });
    nic.is_some_and(|nic| !nic.is_empty() && nic.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Asked;

    fn vm(name: &str, ports: &[&str]) -> Vm {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        let nic = |port: &&str| Nic::new(port.parse().unwrap(), mac, None).unwrap();
        Vm {
            name: name.parse().unwrap(),
            nics: ports.iter().map(nic).collect(),
            skipped: Vec::new(),
        }
    }

    /// Which ports of this VM are yielded, where `others` run and `veths` are on a bridge.
    fn yielded(name: &str, ports: &[&str], others: &[Vm], veths: &[&str]) -> Vec<String> {
        let others = Running {
            vms: others.to_vec(),
            failed: Vec::new(),
        };
        let is_veth = |port: &Port| Ok(veths.contains(&port.as_str()));
        let vms = running(vec![vm(name, ports)], &others, &is_veth).unwrap();
        assert!(vms.iter().all(|vm| vm.name.as_str() == name));
        let nics = vms.iter().flat_map(|vm| &vm.nics);
        nics.map(|nic| nic.port.to_string()).collect()
    }

    #[test]
    fn a_container_runs_while_a_veth_of_its_is_on_a_bridge() {
        let ports = ["one-7-0", "one-7-1"];
        assert_eq!(yielded("one-7", &ports, &[], &ports), ports);
        assert_eq!(yielded("one-7", &ports, &[], &["one-7-1"]), ["one-7-1"]);
        assert!(yielded("one-7", &ports, &[], &[]).is_empty());
    }

    #[test]
    fn what_the_template_asks_for_is_not_told_because_it_may_be_outdated() {
        let mut remembered = vm("one-7", &["one-7-0"]);
        remembered.nics[0].asked = Some(Asked {
            hears_all: true,
            ..Asked::default()
        });
        let vms = running(vec![remembered], &Running::default(), &|_| Ok(true)).unwrap();
        assert_eq!(vms, [vm("one-7", &["one-7-0"])]);
    }

    #[test]
    fn a_container_whose_record_is_damaged_is_reported_while_a_veth_of_its_is_there() {
        let failed = |veths: &[&str]| {
            let veths: Vec<_> = veths.iter().map(|veth| veth.parse().unwrap()).collect();
            let failed = vec![("one-7".parse().unwrap(), anyhow!("it is damaged"))];
            let failed = undescribed(failed, &veths).into_iter();
            let failed = failed.map(|(vm, why)| format!("{vm}: {why:#}"));
            failed.collect::<Vec<_>>()
        };
        assert_eq!(
            failed(&["one-70-0", "one-7-3"]),
            ["one-7: it is unknown which MAC addresses the container has: it is damaged"]
        );
        assert!(failed(&["one-70-0", "one-7", "eth0"]).is_empty());
    }

    #[test]
    fn only_ports_that_opennebula_named_after_the_vm_are_believed() {
        for port in [
            "eth0",
            "one-7",
            "one-7-",
            "one-8-0",
            "one-70-0",
            "one-7-x",
            "one-7-0-1",
        ] {
            assert!(yielded("one-7", &[port], &[], &[port]).is_empty(), "{port}");
        }
        assert!(yielded("web", &["one-7-0"], &[], &["one-7-0"]).is_empty());
    }

    #[test]
    fn a_port_that_another_hypervisor_tells_of_is_left_to_it() {
        let mut other = vm("web", &["one-7-0"]);
        assert!(yielded("one-7", &["one-7-0"], &[other.clone()], &["one-7-0"]).is_empty());
        // The same NIC has the same address. A container's port is not somebody's for its name alone.
        other.nics[0].mac = "02:00:00:00:00:02".parse().unwrap();
        let both = yielded("one-7", &["one-7-0"], &[other], &["one-7-0"]);
        assert_eq!(both, ["one-7-0"]);
    }
}
