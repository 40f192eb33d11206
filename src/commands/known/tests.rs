use super::*;
use crate::vm::{Nic, Place};

fn name(name: &str) -> VmName {
    name.parse().unwrap()
}

fn vm(of: &str, ports: &[&str]) -> Vm {
    let nic = |(n, port): (usize, &&str)| {
        let mac = format!("02:00:00:00:00:{n:02x}");
        Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
    };
    Vm {
        name: name(of),
        nics: ports.iter().enumerate().map(nic).collect(),
        skipped: Vec::new(),
    }
}

/// Returns its fence. Ports whose names start with `x` are on no bridge.
fn fence(of: &str, ports: &[&str]) -> Fence {
    let place = |nic: &Nic| {
        let is_gone = nic.port.as_str().starts_with('x');
        let place = Place::Nic("br0".to_owned());
        Ok(if is_gone { Place::NoBridge } else { place })
    };
    Policy::default().fence(&vm(of, ports), place).unwrap().0
}

/// Returns a host on which these VMs run and are fenced.
fn known(vms: &[(&str, &[&str])]) -> Known {
    let fences = vms.iter().map(|(vm, ports)| fence(vm, ports));
    let fences: BTreeMap<_, _> = fences.map(|fence| (fence.vm.clone(), fence)).collect();
    let held = fences.iter().map(|(vm, fence)| {
        let ports = fence.ports().into_iter().cloned().collect();
        (vm.clone(), ports)
    });
    Known {
        policy: Policy::default(),
        vms: vms
            .iter()
            .map(|(of, ports)| (name(of), vm(of, ports)))
            .collect(),
        held: held.collect(),
        fences,
        failed: BTreeSet::new(),
        open: Vec::new(),
    }
}

/// Returns the planned changes, one line for each VM, on a host where `a` has p0 and p1 and `b` has
/// p2. The ports `there` are still on a bridge, whether or not a VM has them.
fn planned(desired: &[Fence], runs: &[&str], there: &[&str]) -> Option<Vec<String>> {
    let known = known(&[("a", &["p0", "p1"]), ("b", &["p2"])]);
    let runs: Vec<_> = runs.iter().map(|vm| name(vm)).collect();
    let is_there = |port: &Port| there.contains(&port.as_str());
    let plan = known.plan(desired, &runs.iter().collect(), &is_there)?;
    Some(
        plan.changes()
            .into_iter()
            .map(|change| change.words)
            .collect(),
    )
}

#[test]
fn vms_come_and_go() {
    assert_eq!(
        planned(&[], &["a", "b"], &["p0", "p1", "p2"]).unwrap(),
        [""; 0]
    );
    assert_eq!(
        planned(&[fence("c", &["p3"])], &["a", "c"], &["p0", "p1", "p3"]).unwrap(),
        ["removed b: port \"p2\"", "fenced c: port \"p3\""]
    );
    // A VM without a port on a bridge has no fence.
    assert_eq!(
        planned(&[fence("c", &["x3"])], &["a", "b", "c"], &[]).unwrap(),
        [""; 0]
    );
}

#[test]
fn a_port_that_another_vm_got_moves_to_its_fence() {
    assert_eq!(
        planned(&[fence("c", &["p2"])], &["a", "c"], &["p2"]).unwrap(),
        ["removed b: port \"p2\"", "fenced c: port \"p2\""]
    );
    // Not if the old owner has another port, or still runs.
    assert_eq!(
        planned(&[fence("c", &["p1"])], &["c", "b"], &["p0", "p1"]),
        None
    );
    assert_eq!(
        planned(&[fence("c", &["p2"])], &["a", "b", "c"], &["p2"]),
        None
    );
}

#[test]
fn the_fence_of_an_existing_port_stays_when_its_vm_is_gone() {
    assert_eq!(planned(&[], &["a"], &["p2"]).unwrap(), [""; 0]);
    assert_eq!(planned(&[], &["b"], &["p1"]), None);
}

#[test]
fn a_vm_that_is_about_to_end_loses_its_fence_with_its_last_port() {
    let ending = || [fence("b", &["x2"])];
    assert_eq!(
        planned(&ending(), &["a", "b"], &[]).unwrap(),
        ["removed b: port \"p2\""]
    );
    assert_eq!(planned(&ending(), &["a", "b"], &["p2"]), None);
}

#[test]
fn a_fence_that_must_change_is_left_to_sync() {
    assert_eq!(
        planned(&[fence("b", &["p2"])], &["a", "b"], &["p2"]).unwrap(),
        [""; 0]
    );
    assert_eq!(
        planned(&[fence("b", &["p2", "p3"])], &["a", "b"], &[]),
        None
    );
    assert_eq!(
        planned(&[fence("a", &["p1", "p0"])], &["a", "b"], &[]),
        None
    );
}

#[test]
fn only_vms_in_doubt_are_examined_again() {
    let mut known = known(&[
        ("a", &["p0"]),
        ("b", &["p2"]),
        ("c", &["p3"]),
        ("d", &["p4"]),
    ]);
    known.failed.insert(name("d"));
    let running = [
        vm("a", &["p0"]),
        vm("b", &["p2", "p9"]),
        vm("c", &["p3"]),
        vm("d", &["p4"]),
        vm("e", &["p5"]),
    ];
    let doubt = Doubt {
        came: ["p3".to_owned()].into(),
        left: BTreeSet::new(),
    };
    let changed = known.changed(&running, &doubt);
    let changed: Vec<_> = changed.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(changed, ["b", "c", "d", "e"]);
}
