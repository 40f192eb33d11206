//! Remembers the last answers of hypervisors, and tells which VMs to ask about again. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::vm::Vm;

/// The last answer of each hypervisor.
#[derive(Debug, Default)]
pub struct Last(BTreeMap<String, Said>);

/// The last answer of one hypervisor.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The running VMs by id: their name or UUID.
    pub vms: BTreeMap<String, Vm>,
    /// Whether the ids are UUIDs.
    pub by_uuid: bool,
}

/// Changes since a hypervisor was last asked.
#[derive(Debug, Default)]
pub struct Doubt {
    /// The ports that have joined a bridge or changed there, and have not left since.
    pub came: BTreeSet<String>,
    /// The ports that have left their bridge.
    pub left: BTreeSet<String>,
}

impl Last {
    /// The last answer of this hypervisor.
    pub(super) fn of(&mut self, hypervisor: &str) -> &mut Said {
        self.0.entry(hypervisor.to_owned()).or_default()
    }
}

impl Doubt {
    /// Tells whether this VM may have changed since. The kernel reports every change of its ports.
    pub fn is_about(&self, vm: &Vm) -> bool {
        let mut ports = vm.nics.iter().map(|nic| nic.port.as_str());
        ports.any(|port| self.came.contains(port) || self.left.contains(port))
    }

    /// Returns the remembered VMs that are still `listed` and have not changed. The caller must ask
    /// for all others.
    pub(super) fn holds(
        &self,
        mut said: BTreeMap<String, Vm>,
        listed: &BTreeSet<String>,
    ) -> BTreeMap<String, Vm> {
        said.retain(|id, vm| listed.contains(id) && !self.is_about(vm));
        if said.len() == listed.len() && !self.came.is_empty() {
            // A NIC was attached to a running VM, but we cannot tell to which: ask for all. If some VMs
            // must be asked for anyway, the port may be theirs; otherwise it is still in doubt afterwards.
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

    /// Returns which VMs must be asked for. Remembered are `a` with p0 and p1, and `b` with p2.
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
    fn only_new_vms_are_asked_for_if_no_port_changes() {
        assert_eq!(asked(&[], &[], &["a", "b"]), set(&[]));
        assert_eq!(asked(&[], &[], &["a", "b", "c"]), set(&["c"]));
        assert_eq!(asked(&[], &[], &["b"]), set(&[]));
        assert_eq!(asked(&["p9"], &["p2"], &["a", "c"]), set(&["c"]));
    }

    #[test]
    fn a_vm_with_a_changed_port_is_asked_for_again() {
        assert_eq!(asked(&[], &["p1"], &["a", "b"]), set(&["a"]));
        assert_eq!(asked(&["p2"], &[], &["a", "b"]), set(&["b"]));
        // `b` was restarted, and libvirt gave its port a new number.
        assert_eq!(asked(&["p9"], &["p2"], &["a", "b"]), set(&["b"]));
        // The port now belongs to another VM.
        assert_eq!(asked(&["p2"], &["p2"], &["a", "b", "c"]), set(&["b", "c"]));
    }

    #[test]
    fn a_new_port_without_a_new_vm_may_belong_to_any_vm() {
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
