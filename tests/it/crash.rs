//! macfence may be killed at any moment. The kernel then holds either the old fences or the new
//! ones, and the next command works.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Host, domain, fake_virsh, macfence_with};

const VMS: usize = 20;
const POINTS: u32 = 25;

fn name(vm: usize) -> String {
    format!("one-{vm:02}")
}

fn xml(vm: usize) -> String {
    let mac = format!("02:00:c0:a8:{vm:02x}:05");
    domain(&name(vm), &[(&mac, &name(vm), "br0")])
}

/// Waits until no process changes rules any more.
fn settle(host: &Host) {
    host.ok("flock", &["/run/macfence/lock", "true"]);
}

/// Kills a command at points spread over its run. At every second point it also kills the command's
/// children.
fn kill_at_every_point(args: &[&str], files: &[usize]) {
    let host = Host::new();
    host.bridge("br0");
    for vm in 0..VMS {
        host.ports("br0", &[&name(vm)]);
    }
    // Of the fenced VMs two have ended and two have other fences than they should. The rest is
    // right.
    for vm in 0..VMS / 2 {
        let len = if vm < 4 { "32" } else { "40" };
        let apply = ["apply", "--xml", "-", "--prefix-len", len];
        host.macfence_reading(&xml(vm), apply).ok();
    }
    (0..2).for_each(|vm| host.unplug(&name(vm)));
    let running: Vec<_> = (2..VMS).map(|vm| (name(vm), xml(vm))).collect();
    let running: Vec<_> = running
        .iter()
        .map(|(name, xml)| (&**name, &**xml))
        .collect();
    let virsh = fake_virsh(&running);
    let mut command = macfence_with(&virsh);
    command.args(args).stderr(Stdio::null());
    for vm in files {
        command
            .arg("--xml")
            .arg(virsh.path().join(format!("{}.xml", name(*vm))));
    }
    let saved = "flush ruleset\n".to_owned() + &host.ok("nft", &["list", "ruleset"]);
    let before = host.sorted_ruleset();
    let start = Instant::now();
    host.exec(&mut command, "").ok();
    let whole = start.elapsed();
    let after = host.sorted_ruleset();
    assert_ne!(before, after);
    for point in 0..POINTS {
        host.exec(Command::new("nft").args(["-f", "-"]), &saved)
            .ok();
        host.run(|| {
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            thread::sleep(whole * point / POINTS);
            let tasks = format!("/proc/{0}/task/{0}/children", child.id());
            let children = std::fs::read_to_string(tasks).unwrap_or_default();
            child.kill().unwrap();
            for pid in children.split_whitespace().filter(|_| point % 2 == 0) {
                let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
            }
            child.wait().unwrap();
        });
        settle(&host);
        let now = host.sorted_ruleset();
        assert!(now == before || now == after, "point {point}: {now:#?}");
        host.exec(&mut command, "").ok();
        assert_eq!(host.sorted_ruleset(), after, "point {point}");
    }
}

#[test]
fn an_apply_that_is_killed_has_done_all_or_nothing() {
    kill_at_every_point(&["apply"], &[2, 3, 12, 13, 14, 15]);
}

#[test]
fn a_sync_that_is_killed_has_done_all_or_nothing() {
    kill_at_every_point(&["sync"], &[]);
}

#[test]
fn a_flush_that_is_killed_has_done_all_or_nothing() {
    kill_at_every_point(&["flush"], &[]);
}

#[test]
fn a_remove_that_is_killed_has_done_all_or_nothing() {
    kill_at_every_point(&["remove", "one-02", "one-03", "one-04", "one-05"], &[]);
}
