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

/// Made-up hypervisors with these names and VMs, and a record of what they were asked for.
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
fn a_vm_that_two_hypervisors_run_has_the_ports_of_both_and_the_first_one_prevails() {
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
fn the_next_hypervisor_is_asked_only_for_names_that_the_first_does_not_know() {
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
fn a_name_that_no_hypervisor_knows_is_an_error_that_quotes_each() {
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
