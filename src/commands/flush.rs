//! `macfence flush`: deletes rules of ports that are no longer on any bridge.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::shared::note;
use crate::backend::{self, Backend};
use crate::bridge;
use crate::config::Config;
use crate::lock;
use crate::memory::Memory;
use crate::report;
use crate::source::may_return;
use crate::vm::Port;

/// How long a port may take to leave its bridge after its VM has ended. The seed waited as long.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// A VM with several NICs closes one port after the other. After this many polls without a change, the
/// last one has gone.
const POLLS: u32 = 5;

/// Runs it.
pub fn run(config: &Config) -> Result<()> {
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    flush(config, &*backend)
}

/// Like [`run`], but if every fenced port still exists, first waits until one goes, and the others that
/// go with it. The caller's VM has ended, and its ports are about to go.
pub fn run_patiently(config: &Config) -> Result<()> {
    let backend = backend::choose(config.backend);
    // Take the lock only after the wait, so that no other process has to wait too.
    let ports = backend.ports()?;
    if !ports.is_empty() && gone(&ports)?.is_empty() {
        note(config, || {
            "waiting for a port to leave its bridge".to_owned()
        });
        wait_until_settled(&ports)?;
    }
    let _lock = lock::exclusive()?;
    flush(config, &*backend)
}

/// Waits until ports have gone, and no further one has gone for a few polls.
fn wait_until_settled(ports: &[Port]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let (mut before, mut polls) = (0, 0);
    while (before == 0 || polls < POLLS) && Instant::now() < deadline {
        thread::sleep(PAUSE);
        let now = gone(ports)?.len();
        polls = if now == before { polls + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

fn flush(config: &Config, backend: &dyn Backend) -> Result<()> {
    let gone = gone(&backend.ports()?)?;
    backend.release(&gone)?;
    if let Some(memory) = Memory::existing()? {
        let trouble = memory.forget_ended(None, bridge::is_there, may_return)?;
        trouble.iter().for_each(|trouble| report::warning(trouble));
    }
    for port in gone {
        note(config, || {
            format!("port \"{port}\" is no longer on a bridge: its rules were deleted")
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
