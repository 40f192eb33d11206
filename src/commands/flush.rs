//! `macfence flush`: delete what refers to ports that no bridge has any more.

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
use crate::vm::Port;

/// How long a port may take to leave its bridge after its VM has ended: what the seed waited.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// A VM with several NICs closes one port after the other: this many polls without a change tell
/// that the last has gone.
const POLLS: u32 = 5;

/// Runs it.
pub fn run(config: &Config) -> Result<()> {
    let backend = backend::choose(config.backend);
    let _lock = lock::exclusive()?;
    flush(config, &*backend)
}

/// Like [`run`], but where every fenced port is still there, first waits for one to go, and for
/// those that go with it: the VM that this is called for has ended, and its ports are about to.
pub fn run_patiently(config: &Config) -> Result<()> {
    let backend = backend::choose(config.backend);
    // Nobody else is to wait for this, so the lock is taken only afterwards.
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

/// Waits until some ports have gone and for a few polls no other has followed.
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
        let trouble = memory.forget_ended(None, bridge::is_there)?;
        trouble.iter().for_each(|trouble| report::warning(trouble));
    }
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
