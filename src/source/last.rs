//! What a hypervisor said when it was last asked, and which VMs to ask it about anew. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::vm::Vm;

/// What hypervisors have said of the VMs that run.
#[derive(Debug, Default)]
pub struct Last(BTreeMap<String, Said>);

/// What one of them has said.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The running VMs, by what the hypervisor is asked for.
    pub vms: BTreeMap<String, Vm>,
    /// Whether they are asked for by UUID.
    pub by_uuid: bool,
}

/// What has happened since a hypervisor was last asked.
#[derive(Debug, Default)]
pub struct Doubt {
    /// The ports that have come to a bridge, or of which something has changed there, and that have
    /// not left since.
    pub came: BTreeSet<String>,
    /// The ports that have left their bridge.
    pub left: BTreeSet<String>,
}

impl Last {
    /// What this hypervisor has said.
    pub(super) fn of(&mut self, hypervisor: &str) -> &mut Said {
        self.0.entry(hypervisor.to_owned()).or_default()
    }
}

impl Doubt {
    /// Whether something may be otherwise about this VM by now: its ports do not change without a
    /// word of the kernel's.
    pub fn is_about(&self, vm: &Vm) -> bool {
        let mut ports = vm.nics.iter().map(|nic| nic.port.as_str());
        ports.any(|port| self.came.contains(port) || self.left.contains(port))
    }

    /// Of what was said, that which still holds for the VMs that are `listed` now. All others must be
    /// asked for.
    pub(super) fn holds(
        &self,
        mut said: BTreeMap<String, Vm>,
        listed: &BTreeSet<String>,
    ) -> BTreeMap<String, Vm> {
        said.retain(|id, vm| listed.contains(id) && !self.is_about(vm));
        if said.len() == listed.len() && !self.came.is_empty() {
            // A NIC was attached to a VM that runs, and nobody tells to which. Where some VMs are to
            // be asked for, the port may be theirs; if not, it is still in doubt afterwards.
            said.clear();
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Nic;

    fn vm(name: &str, ports: &[&str]) -> Vm {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        let nic = |port: &&str| Nic::new(port.parse().unwrap(), mac, None).unwrap();
        Vm {
            name: name.parse().unwrap(),
            nics: ports.iter().map(nic).collect(),
            skipped: Vec::new(),
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Which of these VMs are asked for: `a` with p0 and p1, `b` with p2.
    fn asked(came: &[&str], left: &[&str], listed: &[&str]) -> BTreeSet<String> {
        let said = [vm("a", &["p0", "p1"]), vm("b", &["p2"])];
        let said = said.map(|vm| (vm.name.as_str().to_owned(), vm));
        let (came, left) = (set(came), set(left));
        let listed = set(listed);
        let holds = Doubt { came, left }.holds(BTreeMap::from(said), &listed);
        assert!(holds.keys().all(|id| listed.contains(id)));
        listed
            .into_iter()
            .filter(|id| !holds.contains_key(id))
            .collect()
    }

    #[test]
    fn where_no_port_changes_only_new_vms_are_asked_for() {
        assert_eq!(asked(&[], &[], &["a", "b"]), set(&[]));
        assert_eq!(asked(&[], &[], &["a", "b", "c"]), set(&["c"]));
        assert_eq!(asked(&[], &[], &["b"]), set(&[]));
        assert_eq!(asked(&["p9"], &["p2"], &["a", "c"]), set(&["c"]));
    }

    #[test]
    fn a_vm_one_of_whose_ports_has_changed_is_asked_for_again() {
        assert_eq!(asked(&[], &["p1"], &["a", "b"]), set(&["a"]));
        assert_eq!(asked(&["p2"], &[], &["a", "b"]), set(&["b"]));
        // It has been started anew, and libvirt has numbered its port anew.
        assert_eq!(asked(&["p9"], &["p2"], &["a", "b"]), set(&["b"]));
        // Its port has become another VM's.
        assert_eq!(asked(&["p2"], &["p2"], &["a", "b", "c"]), set(&["b", "c"]));
    }

    #[test]
    fn a_port_that_is_no_new_vms_may_be_any_vms() {
        assert_eq!(asked(&["p9"], &[], &["a", "b"]), set(&["a", "b"]));
        assert_eq!(
            asked(&["p9", "p2"], &[], &["a", "b", "c"]),
            set(&["b", "c"])
        );
        // The VM that had it has ended.
        assert_eq!(asked(&["p2"], &["p2"], &["a"]), set(&["a"]));
        assert_eq!(asked(&[], &["p2"], &["a"]), set(&[]));
    }
}
