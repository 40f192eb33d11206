//! Many hooks at once, as OpenNebula runs them.

use std::thread;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::lab::{Host, IS_LOADING, domain, macfence_with, script};

/// The calls for a VM, one after the other. The last call decides whether the VM is fenced.
const LIVES: [&[&str]; 4] = [
    &["apply", "apply", "remove", "apply"],
    &["apply", "remove", "apply", "remove"],
    &["remove", "apply", "flush", "apply"],
    &["apply", "list", "unplug", "flush"],
];

#[test]
fn a_killed_hook_changes_nothing_after_the_next_hook_has_run() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    let dir = tempfile::tempdir().unwrap();
    mkfifo(&dir.path().join("loading"), Mode::S_IRWXU).unwrap();
    // An nft that reads its transaction, says so, and loads it a second later.
    let slow =
        format!("{IS_LOADING} && echo >${{0%/*}}/loading && sleep 1; exec /usr/sbin/nft \"$@\"");
    script(&dir, "nft", &slow);
    let xml = dir.path().join("xml");
    std::fs::write(
        &xml,
        domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]),
    )
    .unwrap();
    host.run(|| {
        let mut apply = macfence_with(&dir);
        let mut apply = apply.arg("apply").arg("--xml").arg(&xml).spawn().unwrap();
        std::fs::read(dir.path().join("loading")).unwrap();
        apply.kill().unwrap();
        apply.wait().unwrap();
    });
    // After this last call the VM must not be fenced.
    host.macfence(["remove", "one-1"]).ok();
    // If its nft outlived the hook, it would have loaded the rules by now.
    thread::sleep(Duration::from_millis(1500));
    assert!(host.fenced().is_empty());
}

#[test]
fn the_last_call_for_each_vm_counts_whatever_happens_to_the_others() {
    let host = Host::new();
    host.bridge("br0");
    let name = |vm: usize| format!("one-{vm:02}");
    for vm in 0..48 {
        host.ports("br0", &[&name(vm)]);
    }
    let live = |vm: usize| {
        let name = name(vm);
        let xml = domain(
            &name,
            &[(&format!("02:00:c0:a8:00:{vm:02x}"), &name, "br0")],
        );
        for act in LIVES[vm % LIVES.len()] {
            match *act {
                "apply" => drop(host.apply(&xml).ok()),
                "unplug" => host.unplug(&name),
                "remove" => drop(host.macfence(["remove", &name]).ok()),
                "flush" => drop(host.macfence(["hook", "ebtables-flush"]).ok()),
                act => drop(host.macfence([act]).ok()),
            }
        }
    };
    thread::scope(|scope| {
        let live = &live;
        (0..48).for_each(|vm| drop(scope.spawn(move || live(vm))));
    });
    let expected: Vec<_> = (0..48).filter(|vm| vm % 2 == 0).map(name).collect();
    assert_eq!(host.fenced(), expected);
    let ruleset = host.ruleset();
    assert_eq!(ruleset.matches("\" : jump vm-").count(), 24, "{ruleset}");
    assert_eq!(ruleset.matches("goto dropped-").count(), 48, "{ruleset}");
}

#[test]
fn two_hundred_hooks_at_once_end_as_the_last_call_for_each_vm_says() {
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
    // VMs 1 to 20 are fenced and will be removed. VMs 21 to 30 are fenced and their ports are gone.
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
    assert_eq!(ruleset.matches("goto dropped-").count(), 140, "{ruleset}");
}
