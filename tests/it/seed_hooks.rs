//! The seed's scripts under their own names.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::lab::oneadmin::Oneadmin;
use crate::lab::{Host, MACFENCE, PROGRAM, Ran, domain, path_with, script, source};

const A: &str = "02:00:c0:a8:00:05";

/// A host, and a directory with links of the seed's names and a virsh that knows this domain.
fn host(xml: &str) -> (Host, tempfile::TempDir) {
    let host = Host::new();
    host.bridge("br0");
    let dir = tempfile::tempdir().unwrap();
    for name in ["ebtables-kvm", "ebtables-flush"] {
        symlink(MACFENCE, dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("domain.xml"), xml).unwrap();
    script(
        &dir,
        "virsh",
        "case $4 in *\"'one-1'\"*) cat ${0%/*}/domain.xml;; \
        *) echo \"error: failed to get domain '$4'\" >&2; exit 1;; esac",
    );
    (host, dir)
}

fn call(host: &Host, dir: &tempfile::TempDir, name: &str, args: &[&str]) -> Ran {
    let path = path_with(dir);
    let mut command = Command::new(dir.path().join(name));
    host.exec(command.args(args).env("PATH", path), "")
}

#[test]
fn ebtables_kvm_fences_and_ebtables_flush_cleans_up() {
    let (host, dir) = host(&domain("one-1", &[(A, "one-1-0", "br0")]));
    host.ports("br0", &["one-1-0"]);
    call(&host, &dir, "ebtables-kvm", &["one-1"]).ok();
    assert_eq!(host.fenced(), ["one-1"]);
    let before = host.generation();
    call(&host, &dir, "ebtables-kvm", &["one-1"]).ok();
    assert_eq!(host.generation(), before);
    host.unplug("one-1-0");
    call(&host, &dir, "ebtables-flush", &[]).ok();
    assert!(host.fenced().is_empty());
}

#[test]
fn the_entry_points_are_subcommands_as_well() {
    let (host, dir) = host(&domain("one-1", &[(A, "one-1-0", "br0")]));
    host.ports("br0", &["one-1-0"]);
    symlink(MACFENCE, dir.path().join("macfence")).unwrap();
    call(&host, &dir, "macfence", &["hook", "ebtables-kvm", "one-1"]).ok();
    assert_eq!(host.fenced(), ["one-1"]);
    host.unplug("one-1-0");
    call(&host, &dir, "macfence", &["hook", "ebtables-flush"]).ok();
    assert!(host.fenced().is_empty());
}

#[test]
fn no_argument_of_a_caller_is_taken_for_a_flag() {
    let (host, dir) = host("");
    for name in ["--help", "-c", "--version", "-v", "--config=/dev/null"] {
        let error = call(&host, &dir, "ebtables-kvm", &[name]).error();
        assert!(error.contains(&format!("'{name}'")), "{error}");
    }
    assert_eq!(host.generation(), Host::new().generation());
}

/// Runs ebtables-flush. As soon as it says that it waits, deletes these ports.
fn flush_while_going(host: &Host, dir: &tempfile::TempDir, ports: &[&str]) {
    let fifo = dir.path().join("said");
    let fifo = &fifo;
    thread::scope(|scope| {
        mkfifo(fifo, Mode::S_IRWXU).unwrap();
        let flush = scope.spawn(|| {
            let say = format!(
                "exec 2>{}; exec {MACFENCE} -v hook ebtables-flush",
                fifo.display()
            );
            host.ok("sh", &["-c", &say])
        });
        let mut said = BufReader::new(File::open(fifo).unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("waiting for a port"), "{line}");
        // One process deletes all of them, one after the other.
        host.ip(&ports
            .iter()
            .map(|port| format!("link del {port}\n"))
            .collect::<String>());
        said.read_to_string(&mut line).unwrap();
        flush.join().unwrap();
    });
}

#[test]
fn flush_waits_for_a_port_that_is_about_to_leave() {
    let (host, dir) = host("");
    host.ports("br0", &["one-1-0", "one-2-0"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    host.apply(&domain("one-2", &[(A, "one-2-0", "br0")])).ok();
    flush_while_going(&host, &dir, &["one-1-0"]);
    assert_eq!(host.fenced(), ["one-2"]);
}

#[test]
fn flush_waits_for_all_ports_of_a_vm_that_ends() {
    let (host, dir) = host("");
    let names: Vec<_> = (0..6).map(|n| format!("one-1-{n}")).collect();
    let ports: Vec<_> = names.iter().map(String::as_str).collect();
    host.ports("br0", &ports);
    host.ports("br0", &["one-2-0"]);
    let nics: Vec<_> = ports.iter().map(|port| (A, *port, "br0")).collect();
    host.apply(&domain("one-1", &nics)).ok();
    host.apply(&domain("one-2", &[(A, "one-2-0", "br0")])).ok();
    flush_while_going(&host, &dir, &ports);
    assert_eq!(host.fenced(), ["one-2"]);
}

#[test]
fn the_newer_of_two_answers_about_a_vm_wins() {
    let (host, dir) = host("");
    host.ports("br0", &["one-1-0", "one-1-1"]);
    let one = [(A, "one-1-0", "br0")];
    let two = [(A, "one-1-0", "br0"), ("2:0:0:0:0:1", "one-1-1", "br0")];
    std::fs::write(dir.path().join("domain.xml"), domain("one-1", &one)).unwrap();
    // A virsh that first reads its answer, and then waits for a signal before it prints it.
    let fifo = |name: &str| {
        let path = dir.path().join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    };
    let (read, go) = (fifo("read"), fifo("go"));
    let slow = "d=${0%/*}; x=$(cat $d/domain.xml); \
                if mkdir $d/first 2>/dev/null; then echo >$d/read; cat $d/go; fi; echo \"$x\"";
    script(&dir, "virsh", slow);
    let (host, dir) = (&host, &dir);
    thread::scope(|scope| {
        let older = scope.spawn(|| call(host, dir, "ebtables-kvm", &["one-1"]).ok());
        std::fs::read(&read).unwrap();
        // Meanwhile the VM gets another NIC, and the hook for it runs.
        std::fs::write(dir.path().join("domain.xml"), domain("one-1", &two)).unwrap();
        let newer = scope.spawn(|| call(host, dir, "ebtables-kvm", &["one-1"]).ok());
        // Time for the newer hook to overtake the older one, if it can.
        thread::sleep(std::time::Duration::from_millis(200));
        std::fs::write(&go, "").unwrap();
        older.join().unwrap();
        newer.join().unwrap();
    });
    assert_eq!(host.list()[0]["nics"].as_array().unwrap().len(), 2);
}

#[test]
fn flush_does_not_wait_if_no_port_can_leave() {
    let (host, _dir) = host("");
    let flush = || host.macfence(["-v", "hook", "ebtables-flush"]);
    let ran = flush();
    assert!(
        !ran.stderr.contains("waiting"),
        "nothing is fenced: {}",
        ran.stderr
    );
    host.ports("br0", &["one-1-0", "one-2-0"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    host.apply(&domain("one-2", &[(A, "one-2-0", "br0")])).ok();
    host.unplug("one-1-0");
    let ran = flush();
    assert!(
        !ran.stderr.contains("waiting"),
        "one is gone already: {}",
        ran.stderr
    );
    assert_eq!(host.fenced(), ["one-2"]);
}

#[test]
fn flush_removes_nothing_of_a_vm_that_stays() {
    let (host, dir) = host("");
    host.ports("br0", &["one-1-0"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    let before = (host.generation(), host.ruleset());
    call(&host, &dir, "ebtables-flush", &[]).ok();
    assert_eq!((host.generation(), host.ruleset()), before);
}

/// Returns the command line of a `VM_HOOK` in an oned.conf, as OpenNebula passes it to the host's
/// shell.
fn command_line(conf: &str, name: &str, vm: u32) -> String {
    let hook = conf
        .split("VM_HOOK")
        .find(|hook| hook.contains(&format!("\"{name}\"")));
    let value = |key: &str| {
        let line = hook
            .unwrap()
            .lines()
            .find(|line| line.trim().starts_with(key))
            .unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    assert_eq!(value("remote"), "yes");
    let arguments = value("arguments").replace("$VMID", &vm.to_string());
    format!("{} {arguments}", value("command"))
}

#[test]
fn the_hooks_of_an_oned_conf_work_for_oneadmin() {
    let conf = std::fs::read_to_string(source("share/opennebula/oned.conf")).unwrap();
    let (host, dir) = host(&domain("one-1", &[(A, "one-1-0", "br0")]));
    let one = Oneadmin::of(&host);
    host.put(&dir, "virsh");
    host.run(|| {
        let hooks = "/usr/local/share/macfence/hooks";
        std::fs::create_dir_all(hooks).unwrap();
        for name in ["ebtables-kvm", "ebtables-flush"] {
            symlink(PROGRAM, format!("{hooks}/{name}")).unwrap();
        }
    });
    let conf = conf.replace("@datadir@", "/usr/local/share");
    let call = |name: &str| {
        let said = one.run(&command_line(&conf, name, 1), "");
        assert_eq!(
            (said.status, &*said.stdout, &*said.stderr),
            (0, "", ""),
            "{said:?}"
        );
    };
    host.ports("br0", &["one-1-0"]);
    call("ebtables-start");
    assert_eq!(host.fenced(), ["one-1"]);
    host.unplug("one-1-0");
    call("ebtables-flush");
    assert!(host.fenced().is_empty());
}
