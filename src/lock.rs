//! One change at a time: reading, comparing and writing the kernel's rules happen under one
//! exclusive lock, [`exclusive`].
//!
//! Asking a hypervisor may not: libvirt answers nothing about a VM while it waits for that VM's
//! own hook, which waits for the lock. So those who ask exclude each other by a lock of their own,
//! which [`crate::source::Hypervisors`] takes first and holds until what was learned is in the
//! kernel: else the older of two answers could be written last, and a NIC in between be left open.
//! libvirt's hook asks nobody and never takes it.

use std::fs::File;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};

/// How long to wait for others. Two hundred hooks at once take some ten seconds on two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is locked for writing: the network namespace itself, of which each has a ruleset of its
/// own. Whoever may run us can open it, and there is no file that could be left behind, planted
/// or filled up.
const NAMESPACE: &str = "/proc/self/ns/net";

/// What is locked for asking: the namespace's list of devices, which it has once as well.
const DEVICES: &str = "/sys/class/net";

/// What legacy ebtables locks (its `LOCKFILE`), in a folder that is root's.
const EBTABLES: &str = "/var/lib/ebtables/lock";

/// The lock, until dropped or until the process ends in any way.
#[derive(Debug)]
pub struct Lock(File);

/// Waits until nobody else reads, compares and writes the kernel's rules.
///
/// # Errors
/// If another process keeps the lock for a minute.
pub fn exclusive() -> Result<Lock> {
    let lock = take(NAMESPACE)?;
    // Programs that we run inherit the lock: should we be killed, it is theirs until they have
    // done what we told them to. The other
    // locks are not handed on, as virsh may start a libvirtd that stays.
    fcntl_setfd(&lock.0, FdFlags::empty()).context("cannot hand the lock on")?;
    Ok(lock)
}

/// Waits until nobody else asks a hypervisor or acts on what one answered.
///
/// # Errors
/// If another process keeps the lock for a minute.
pub(crate) fn asking() -> Result<Lock> {
    take(DEVICES)
}

/// Waits for other programs that change legacy ebtables' rules with `--concurrent`, which
/// ebtables-restore does not know. `None` where there is no such lock, or it is not for us.
///
/// # Errors
/// If another process keeps the lock for a minute.
pub fn legacy_ebtables() -> Result<Option<Lock>> {
    match File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(EBTABLES)
    {
        Ok(file) => wait(file, EBTABLES).map(Some),
        Err(_) => Ok(None),
    }
}

fn take(path: &'static str) -> Result<Lock> {
    wait(
        File::open(path).with_context(|| format!("cannot open {path}"))?,
        path,
    )
}

fn wait(file: File, path: &'static str) -> Result<Lock> {
    // Most often nobody has it.
    if file.try_lock().is_ok() {
        return Ok(Lock(file));
    }
    let (sender, receiver) = mpsc::channel();
    // flock(2) has no time limit, so the waiting is done beside us; a thread that waits in vain
    // ends with the process.
    thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(locked) => Ok(Lock(locked.with_context(|| format!("cannot lock {path}"))?)),
        Err(_) => bail!(
            "another process has held the lock on {path} for {} s (lslocks names it)",
            PATIENCE.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_and_is_given_back() {
        for path in [NAMESPACE, DEVICES] {
            let held = take(path).unwrap();
            let other = File::open(path).unwrap();
            assert!(other.try_lock().is_err());
            drop(held);
            assert!(other.lock().is_ok());
        }
    }
}
