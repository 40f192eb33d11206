//! `macfence flush`: delete what refers to ports that no bridge has any more.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::note;
use crate::backend::{self, Backend};
use crate::bridge;
use crate::config::Config;
use crate::lock;
use crate::vm::Port;

/// How long a port may take to leave its bridge after its VM has ended: what the seed waited.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Runs it.
pub fn run(config: &Config) -> Result<()> {
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    flush(config, &*backend)
}

/// Like [`run`], but where every fenced port is still there, first waits for one to go: the VM
/// that this is called for has ended, and its port is about to.
pub fn run_patiently(config: &Config) -> Result<()> {
    let backend = backend::choose(config.backend);
    // Nobody else is to wait for this, so the lock is taken only afterwards.
    let ports = backend.ports()?;
    if !ports.is_empty() && gone(&ports)?.is_empty() {
        note(config, || {
            "waiting for a port to leave its bridge".to_owned()
        });
        let deadline = Instant::now() + PATIENCE;
        while gone(&ports)?.is_empty() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
    }
    let _lock = lock::exclusive()?;
    flush(config, &*backend)
}

fn flush(config: &Config, backend: &dyn Backend) -> Result<()> {
    let gone = gone(&backend.ports()?)?;
    backend.release(&gone)?;
    for port in gone {
        note(config, || {
            format!("port \"{port}\" is on no bridge any more; its rules are gone")
        });
    }
    Ok(())
}

fn gone(ports: &[Port]) -> Result<Vec<Port>> {
    let mut gone = Vec::new();
    for port in ports {
        if bridge::of(port)?.is_none() {
            gone.push(port.clone());
        }
    }
    Ok(gone)
}
