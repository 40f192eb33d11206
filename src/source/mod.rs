//! Where VMs come from: each source asks one hypervisor, or reads what one wrote, and knows
//! nothing of rules. [`Hypervisors`] is the one way to ask.

pub mod incus;
pub mod libvirt;
mod limits;
pub mod opennebula;
pub mod virsh;
pub mod xen;
mod xml;

use std::collections::BTreeMap;

use anyhow::{Error, Result, anyhow};

use crate::lock::{self, Lock};
use crate::vm::{Vm, VmName};

/// What runs on a host.
#[derive(Debug, Default)]
pub struct Running {
    /// The VMs.
    pub vms: Vec<Vm>,
    /// Those that could not be described, and why.
    pub failed: Vec<(VmName, Error)>,
}

/// A kind of hypervisor, as a caller names it that knows whose a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// libvirt
    Libvirt,
    /// LXC
    Lxc,
    /// Xen
    Xen,
}

/// Something that can be asked for VMs.
trait Hypervisor {
    /// Whether this host has it.
    fn is_there(&self) -> bool;

    /// Whether it runs VMs of this kind.
    fn runs(&self, kind: Kind) -> bool;

    /// All VMs that it runs.
    ///
    /// # Errors
    /// If it cannot tell which they are.
    fn running(&self) -> Result<Running>;

    /// For each of these names the VM, or why it cannot be described.
    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>>;
}

/// All hypervisors that we can ask, the first one first; `uris` are libvirt's.
fn known(uris: &[String]) -> Vec<Box<dyn Hypervisor>> {
    let libvirts = uris.iter().map(|uri| Box::new(virsh::Virsh::at(uri)) as _);
    let others: [Box<dyn Hypervisor>; 2] = [Box::new(xen::Xen), Box::new(incus::Incus)];
    libvirts.chain(others).collect()
}

/// The hypervisors of this host. While this value lives nobody else asks them: whoever acts on an
/// answer keeps it until the kernel holds the result, and whoever only prints one drops it first.
pub struct Hypervisors {
    asked: Vec<Box<dyn Hypervisor>>,
    _asking: Option<Lock>,
}

impl Hypervisors {
    /// Waits for its turn to ask the hypervisors that this host has; `uris` are libvirt's. Where
    /// there is none it is libvirt, so that the error says that virsh was not found.
    ///
    /// # Errors
    /// If another process keeps the lock for a minute.
    pub fn ask(uris: &[String]) -> Result<Self> {
        let mut asked = known(uris);
        if asked.iter().any(|hypervisor| hypervisor.is_there()) {
            asked.retain(|hypervisor| hypervisor.is_there());
        } else {
            asked.truncate(1);
        }
        Self::open(asked)
    }

    /// Like [`Self::ask`], but asks only the hypervisors that run VMs of this kind, whether this
    /// host has them or not.
    ///
    /// # Errors
    /// Like [`Self::ask`].
    pub fn ask_only(kind: Kind, uris: &[String]) -> Result<Self> {
        let mut asked = known(uris);
        asked.retain(|hypervisor| hypervisor.runs(kind));
        Self::open(asked)
    }

    fn open(asked: Vec<Box<dyn Hypervisor>>) -> Result<Self> {
        Ok(Self {
            asked,
            _asking: lock::asking()?,
        })
    }

    /// The VMs that run on this host. Of a VM that two hypervisors know these are the NICs of both;
    /// what the first one says of a port counts.
    ///
    /// # Errors
    /// If one of the hypervisors cannot tell which VMs it runs.
    pub fn running(&self) -> Result<Running> {
        let mut all = Running::default();
        for hypervisor in &self.asked {
            all.add(hypervisor.running()?);
        }
        Ok(all)
    }

    /// The VMs of these names, in their order: each from the first hypervisor that knows it.
    ///
    /// # Errors
    /// If no hypervisor can describe one of them; with the words of each.
    pub fn named(&self, names: &[VmName]) -> Result<Vec<Vm>> {
        named(&self.asked, names)
    }
}

impl Running {
    /// Adds what another hypervisor runs.
    fn add(&mut self, more: Self) {
        let known: BTreeMap<_, _> = self.vms.iter().map(|vm| vm.name.clone()).zip(0..).collect();
        for mut vm in more.vms {
            let same = known.get(&vm.name).copied();
            match same.and_then(|index: usize| self.vms.get_mut(index)) {
                Some(same) => {
                    vm.nics
                        .retain(|nic| same.nics.iter().all(|known| known.port != nic.port));
                    same.nics.append(&mut vm.nics);
                    same.skipped.append(&mut vm.skipped);
                }
                None => self.vms.push(vm),
            }
        }
        self.failed.extend(more.failed);
    }
}

fn named(hypervisors: &[Box<dyn Hypervisor>], names: &[VmName]) -> Result<Vec<Vm>> {
    let mut described = BTreeMap::new();
    let mut unknown = names.to_vec();
    let mut errors = Vec::new();
    for hypervisor in hypervisors {
        if unknown.is_empty() {
            break;
        }
        for (name, vm) in unknown.iter().zip(hypervisor.named(&unknown)) {
            match vm {
                Ok(vm) => drop(described.insert(name.clone(), vm)),
                Err(e) => errors.push((name.clone(), e)),
            }
        }
        unknown.retain(|name| !described.contains_key(name));
    }
    if unknown.is_empty() {
        let vms = names.iter().filter_map(|name| described.get(name));
        return Ok(vms.cloned().collect());
    }
    errors.retain(|(name, _)| unknown.contains(name));
    if hypervisors.len() == 1
        && let Some((_, only)) = errors.pop()
    {
        return Err(only);
    }
    let mut words: Vec<_> = errors.iter().map(|(_, e)| format!("{e:#}")).collect();
    // virsh says the same of all names that it was asked for at once.
    words.dedup();
    let names: Vec<_> = unknown
        .iter()
        .map(|n| format!("{:?}", n.as_str()))
        .collect();
    Err(anyhow!(
        "no hypervisor of this host knows {}: {}",
        names.join(", "),
        words.join("; ")
    ))
}

/// Whether this is a UUID as libvirt prints it.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::slice;

    use super::*;
    use crate::vm::Nic;

    fn name(name: &str) -> VmName {
        name.parse().unwrap()
    }

    /// A VM with these ports, whose addresses end in `last`.
    fn vm(of: &str, last: u8, ports: &[&str]) -> Vm {
        let mac = format!("02:00:00:00:00:{last:02x}");
        let nic = |port: &&str| Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None);
        Vm {
            name: name(of),
            nics: ports.iter().map(|port| nic(port).unwrap()).collect(),
            skipped: Vec::new(),
        }
    }

    fn running(vms: Vec<Vm>) -> Running {
        Running {
            vms,
            failed: Vec::new(),
        }
    }

    /// A hypervisor that knows these VMs, and notes which names it is asked for.
    struct Made {
        vms: Vec<Vm>,
        words: &'static str,
        asked: Asked,
    }

    impl Hypervisor for Made {
        fn is_there(&self) -> bool {
            true
        }

        fn runs(&self, _: Kind) -> bool {
            true
        }

        fn running(&self) -> Result<Running> {
            Ok(running(self.vms.clone()))
        }

        fn named(&self, names: &[VmName]) -> Vec<Result<Vm>> {
            let mut asked = self.asked.borrow_mut();
            asked.extend(names.iter().map(|name| format!("{} {name}", self.words)));
            let find = |name: &VmName| self.vms.iter().find(|vm| vm.name == *name).cloned();
            let vms = names.iter().map(find);
            vms.map(|vm| vm.ok_or_else(|| anyhow!(self.words)))
                .collect()
        }
    }

    /// What made-up hypervisors were asked for.
    type Asked = Rc<RefCell<Vec<String>>>;

    /// Hypervisors with these words and VMs, and what they are asked for.
    fn made(all: &[(&'static str, &[Vm])]) -> (Vec<Box<dyn Hypervisor>>, Asked) {
        let asked = Asked::default();
        let made = |(words, vms): &(&'static str, &[Vm])| -> Box<dyn Hypervisor> {
            Box::new(Made {
                vms: vms.to_vec(),
                words,
                asked: Rc::clone(&asked),
            })
        };
        (all.iter().map(made).collect(), asked)
    }

    #[test]
    fn of_a_vm_that_two_hypervisors_run_the_ports_of_both_count_and_the_first_ones_word() {
        let mut all = running(vec![vm("a", 1, &["a-0", "both"]), vm("b", 2, &["b-0"])]);
        all.failed.push((name("x"), anyhow!("the first")));
        let mut second = running(vec![vm("c", 3, &["c-0"]), vm("a", 4, &["both", "a-emu"])]);
        second.failed.push((name("y"), anyhow!("the second")));
        let (first, other) = ("the first: no address", "the second: no port");
        all.vms[0].skipped = vec![first.to_owned()];
        second.vms[1].skipped = vec![other.to_owned()];
        all.add(second);
        let mut a = vm("a", 1, &["a-0", "both"]);
        a.nics.extend(vm("a", 4, &["a-emu"]).nics);
        a.skipped = vec![first.to_owned(), other.to_owned()];
        assert_eq!(all.vms, [a, vm("b", 2, &["b-0"]), vm("c", 3, &["c-0"])]);
        let failed: Vec<_> = all
            .failed
            .iter()
            .map(|(name, e)| format!("{name}: {e}"))
            .collect();
        assert_eq!(failed, ["x: the first", "y: the second"]);
    }

    #[test]
    fn only_for_names_that_the_first_does_not_know_the_next_is_asked() {
        let (a, b, c) = (vm("a", 1, &["p"]), vm("b", 2, &["q"]), vm("c", 3, &["r"]));
        let other_a = vm("a", 9, &["other"]);
        let (both, asked) = made(&[("1", &[a.clone(), c.clone()]), ("2", &[other_a, b.clone()])]);
        let names = ["c", "b", "a"].map(name);
        assert_eq!(named(&both, &names).unwrap(), [c.clone(), b, a]);
        assert_eq!(*asked.borrow(), ["1 c", "1 b", "1 a", "2 b"]);
        asked.borrow_mut().clear();
        assert_eq!(named(&both, &[name("c")]).unwrap(), [c]);
        assert_eq!(*asked.borrow(), ["1 c"]);
        assert_eq!(named(&both, &[]).unwrap(), []);
    }

    #[test]
    fn a_name_that_nobody_knows_is_an_error_with_the_words_of_each() {
        let a = vm("a", 1, &["p"]);
        let error = |all: &[(&'static str, &[Vm])]| {
            let names = ["a", "x", "y"].map(name);
            named(&made(all).0, &names).unwrap_err().to_string()
        };
        assert_eq!(error(&[("no", slice::from_ref(&a))]), "no");
        assert_eq!(
            error(&[("never heard of it", &[]), ("what?", &[a])]),
            "no hypervisor of this host knows \"x\", \"y\": never heard of it; what?"
        );
    }

    #[test]
    fn only_a_uuid_is_one() {
        let uuid = "a4f5e8ab-2b5f-4d3a-9d3c-0123456789AB";
        assert!(is_uuid(uuid));
        for text in [
            "",
            "one-42",
            &uuid[1..],
            &uuid.replace('a', "g"),
            &uuid.replace('-', "0"),
        ] {
            assert!(!is_uuid(text), "{text}");
        }
        assert!(!is_uuid("a4f5e8a-b2b5f-4d3a-9d3c-0123456789AB"));
    }
}
