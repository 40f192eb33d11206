//! One change at a time: reading, comparing and writing the kernel's rules happen under one
//! exclusive lock.

use std::fs::File;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long to wait for others. Two hundred hooks at once take some ten seconds on two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is locked: the network namespace itself, of which each has a ruleset of its own. Whoever
/// may run us can open it, and there is no file that could be left behind, planted or filled up.
const NAMESPACE: &str = "/proc/self/ns/net";

/// The lock, until dropped or until the process ends in any way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holds the lock while it is open")] File);

/// Waits for the lock and takes it.
///
/// # Errors
/// If another process keeps it for a minute.
pub fn exclusive() -> Result<Lock> {
    let file = File::open(NAMESPACE).with_context(|| format!("cannot open {NAMESPACE}"))?;
    let (sender, receiver) = mpsc::channel();
    // flock(2) has no time limit, so the waiting is done beside us; a thread that waits in vain
    // ends with the process.
    thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(locked) => Ok(Lock(
            locked.with_context(|| format!("cannot lock {NAMESPACE}"))?,
        )),
        Err(_) => bail!(
            "another process has held the lock on {NAMESPACE} for {} s (lslocks names it)",
            PATIENCE.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_excludes_and_is_given_back() {
        let held = exclusive().unwrap();
        let other = File::open(NAMESPACE).unwrap();
        assert!(other.try_lock().is_err());
        drop(held);
        assert!(other.lock().is_ok());
    }
}
