//! Many hooks at once, as OpenNebula runs them.

use std::thread;

use crate::lab::{Host, domain};

#[test]
fn two_hundred_hooks_at_once_end_as_the_last_word_on_each_vm_says() {
    let host = Host::new();
    host.bridge("br0");
    let port = |vm: usize| format!("one-{vm}-0");
    let name = |vm: usize| format!("one-{vm}");
    let xml = |vm: usize| {
        let mac = format!("02:00:c0:a8:00:{vm:02x}");
        domain(&name(vm), &[(&mac, &port(vm), "br0")])
    };
    for vm in 1..=100 {
        host.ports("br0", &[&port(vm)]);
    }
    // 1 to 20 are fenced and to be removed, 21 to 30 are fenced and their ports gone.
    for vm in 1..=30 {
        host.apply(&xml(vm)).ok();
    }
    for vm in 21..=30 {
        host.unplug(&port(vm));
    }
    let host = &host;
    thread::scope(|scope| {
        for vm in 1..=20 {
            scope.spawn(move || host.macfence(["remove", &name(vm)]).ok());
        }
        for _ in 0..40 {
            scope.spawn(|| host.macfence(["flush"]).ok());
        }
        for vm in (31..=100).chain(31..=100) {
            scope.spawn(move || host.apply(&xml(vm)).ok());
        }
    });
    let mut expected: Vec<_> = (31..=100).map(name).collect();
    expected.sort();
    assert_eq!(host.fenced(), expected);
    let ruleset = host.ruleset();
    assert_eq!(ruleset.matches("\" : jump vm-").count(), 70, "{ruleset}");
    assert_eq!(ruleset.matches("ether saddr").count(), 140, "{ruleset}");
}
