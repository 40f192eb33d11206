//! One change happens at a time, and only root can make others wait.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use macfence::lock::exclusive;
use nix::mount::{MsFlags, mount};
use rustix::fs::{FlockOperation, flock};

use crate::lab::{Host, IS_LOADING, LOCKS, MACFENCE, domain, macfence_with, need, script, until};

const LOCK: &str = "/run/macfence/lock";
const ASKING: &str = "/run/macfence/asking";

/// A host, and the XML of a VM on it.
fn host() -> (Host, String) {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    let xml = domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]);
    (host, xml)
}

/// Tells whether somebody holds this lock.
fn is_held(host: &Host, path: &str) -> bool {
    let file = || File::open(path).unwrap();
    host.run(|| flock(file(), FlockOperation::NonBlockingLockExclusive).is_err())
}

#[test]
fn a_user_cannot_keep_hooks_waiting_with_locks() {
    let (host, xml) = host();
    host.apply(&xml).ok();
    host.macfence(["check"]);
    // Version 0.1 locked the first two, so each hook would fail there after a minute. (This thread
    // belongs to a program outside the host's namespaces, so /proc/self would not name it.)
    let paths = [
        "/proc/thread-self/ns/net",
        "/sys/class/net",
        "/run",
        LOCKS,
        LOCK,
        ASKING,
    ];
    let held: Vec<_> = paths
        .into_iter()
        .filter_map(|path| Some((path, host.run_as_nobody(|| File::open(path)).ok()?)))
        .map(|(path, file)| {
            file.try_lock().unwrap();
            (path, file)
        })
        .collect();
    let names: Vec<_> = held.iter().map(|(path, _)| *path).collect();
    assert_eq!(names, paths[..3]);
    let begun = Instant::now();
    host.macfence_reading(&xml, ["hook", "libvirt", "one-1", "start", "begin", "-"])
        .ok();
    host.macfence(["remove", "one-1"]).ok();
    host.apply(&xml).ok();
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(host.fenced(), ["one-1"]);
    // The user held the locks all the time.
    assert!(names.iter().all(|path| is_held(&host, path)));
}

#[test]
fn a_user_without_rights_is_told_to_run_as_root() {
    let (host, xml) = host();
    let refused = || {
        let error = host.run_as_nobody(exclusive).unwrap_err();
        format!("{error:#}")
    };
    assert_eq!(refused(), "cannot create /run/macfence: run as root");
    host.apply(&xml).ok();
    assert_eq!(refused(), "cannot open /run/macfence/lock: run as root");
}

#[test]
fn a_link_is_reported_and_not_followed_and_a_users_directory_is_not_used() {
    let (host, xml) = host();
    let target = Path::new("/run/target");
    let is_refused = |because: &str| {
        let before = host.generation();
        let error = host.apply(&xml).error();
        assert!(error.contains(because), "{error}");
        assert_eq!(host.generation(), before);
    };
    host.run(|| {
        fs::create_dir(LOCKS).unwrap();
        symlink(target, LOCK).unwrap();
    });
    is_refused("/run/macfence/lock is a symbolic link: delete it");
    assert!(!host.run(|| target.exists()));
    host.run(|| {
        fs::remove_dir_all(LOCKS).unwrap();
        fs::create_dir(target).unwrap();
        symlink(target, LOCKS).unwrap();
    });
    is_refused("/run/macfence is a symbolic link: delete it");
    assert_eq!(host.run(|| target.read_dir().unwrap().count()), 0);
    host.run(|| {
        fs::remove_file(LOCKS).unwrap();
        fs::create_dir(LOCKS).unwrap();
        chown(LOCKS, Some(65534), Some(65534)).unwrap();
    });
    is_refused("/run/macfence belongs to another user: delete it");
    host.run(|| fs::remove_dir(LOCKS).unwrap());
    host.apply(&xml).ok();
    let mode = |path| host.run(|| fs::metadata(path).unwrap().mode() & 0o7777);
    assert_eq!((mode(LOCKS), mode(LOCK)), (0o700, 0o600));
}

#[test]
fn an_error_names_run_if_it_cannot_be_written() {
    let (host, xml) = host();
    let remount = |options: &str, flags: MsFlags| {
        let none: Option<&str> = None;
        let flags = MsFlags::MS_REMOUNT | flags;
        host.run(|| mount(none, "/run", none, flags, Some(options)).unwrap());
    };
    let fails = |words: &str| {
        let error = host.apply(&xml).error();
        assert!(error.contains(words), "{error}");
    };
    remount("nr_inodes=1", MsFlags::empty());
    fails("cannot create /run/macfence: No space left on device");
    remount("nr_inodes=2", MsFlags::empty());
    fails("cannot open /run/macfence/lock: No space left on device");
    remount("nr_inodes=100", MsFlags::MS_RDONLY);
    fails("cannot open /run/macfence/lock: Read-only file system");
    remount("nr_inodes=100", MsFlags::empty());
    host.apply(&xml).ok();
    // When the files exist, nothing more is written.
    remount("nr_inodes=100", MsFlags::MS_RDONLY);
    host.macfence(["remove", "one-1"]).ok();
    assert!(host.fenced().is_empty());
}

#[test]
fn after_a_kill_the_lock_is_free_as_soon_as_nft_has_ended() {
    let (host, xml) = host();
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let says = format!(
        "{IS_LOADING} && echo $$ >{0}.new && mv {0}.new {0} && exec sleep 1000; exec {1} \"$@\"",
        pid.display(),
        need("nft").display()
    );
    script(&dir, "nft", &says);
    let file = dir.path().join("xml");
    fs::write(&file, &xml).unwrap();
    let mut apply = macfence_with(&dir);
    apply.arg("apply").arg("--xml").arg(&file);
    let mut apply = host.run(|| apply.spawn().unwrap());
    until("nft loads", || pid.exists());
    apply.kill().unwrap();
    apply.wait().unwrap();
    // nft has its transaction and may still change the rules.
    assert!(is_held(&host, LOCK));
    let nft = fs::read_to_string(pid).unwrap();
    host.ok("kill", &["-KILL", nft.trim()]);
    let begun = Instant::now();
    host.apply(&xml).ok();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_terminal_cannot_stop_macfence_while_it_holds_the_lock() {
    let (host, xml) = host();
    let dir = tempfile::tempdir().unwrap();
    let loads = dir.path().join("loads");
    let says = format!(
        "{IS_LOADING} && touch {} && sleep 1; exec {} \"$@\"",
        loads.display(),
        need("nft").display()
    );
    script(&dir, "nft", &says);
    let file = dir.path().join("xml");
    fs::write(&file, &xml).unwrap();
    for (signal, action) in [("TSTP", "apply"), ("TTOU", "remove")] {
        let what = if action == "apply" { "--xml" } else { "one-1" };
        let mut command = macfence_with(&dir);
        command.args([action, what]);
        if action == "apply" {
            command.arg(&file);
        }
        // These signals stop no process in a group that no shell controls.
        let mut macfence = host.run(|| command.process_group(0).spawn().unwrap());
        until("nft loads", || loads.exists());
        host.ok("kill", &[&format!("-{signal}"), &macfence.id().to_string()]);
        let begun = Instant::now();
        while macfence.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = macfence.kill();
        assert!(macfence.wait().unwrap().success(), "{signal}");
        fs::remove_file(&loads).unwrap();
    }
}

#[test]
fn calls_that_share_run_wait_for_each_other_even_in_other_network_namespaces() {
    let (host, _) = host();
    let lock = host.lock_file("lock");
    for inside in [&[][..], &["unshare", "--net"]] {
        let mut command = inside.to_vec();
        command.extend([MACFENCE, "flush"]);
        lock.lock().unwrap();
        let mut flush = host.run(|| {
            let mut flush = Command::new(command[0]);
            flush.args(&command[1..]).stderr(Stdio::piped());
            flush.spawn().unwrap()
        });
        thread::sleep(Duration::from_millis(500));
        assert!(flush.try_wait().unwrap().is_none(), "{command:?}");
        lock.unlock().unwrap();
        let mut said = String::new();
        flush
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(flush.wait().unwrap().success(), "{command:?}: {said}");
    }
}
