//! Uses the best firewall that works on this host: nft, or else ebtables.
//!
//! If nft works, this costs nothing: nft is simply used. Only if it fails do we find out whether it can
//! work at all. A failed nft has changed nothing, so ebtables can take over.

use std::cell::Cell;

use anyhow::{Result, anyhow};

use super::ebtables::Ebtables;
use super::nft::Nft;
use super::{Backend, Ended, Enforced, Noted, Snapshot};
use crate::fence::{Fence, Keep};
use crate::vm::Port;

/// nft if it works, otherwise ebtables.
#[derive(Debug, Default)]
pub struct Auto {
    fell_back: Cell<bool>,
}

impl Auto {
    fn chosen(&self) -> &dyn Backend {
        if self.fell_back.get() {
            &Ebtables
        } else {
            &Nft
        }
    }

    /// Returns the ports in ebtables rules on a host that now uses nft. Hooks that ran here before
    /// macfence left them, and nothing else would delete them.
    fn left_behind(&self) -> Vec<Port> {
        if self.fell_back.get() {
            return Vec::new();
        }
        // A host without ebtables has none.
        Ebtables.ports().unwrap_or_default()
    }

    fn try_both<T>(&self, act: impl Fn(&dyn Backend) -> Result<T>) -> Result<T> {
        let refusal = match act(self.chosen()) {
            Err(refusal) if !self.fell_back.get() => refusal,
            done => return done,
        };
        let Some(nft) = Nft::incapacity() else {
            return Err(refusal);
        };
        if let Err(ebtables) = Ebtables.ports() {
            return Err(anyhow!(
                "neither firewall can be used: {nft:#}; {ebtables:#}"
            ));
        }
        self.fell_back.set(true);
        act(&Ebtables)
    }
}

impl Backend for Auto {
    fn name(&self) -> &'static str {
        self.chosen().name()
    }

    fn tables(&self) -> &'static [&'static str] {
        self.chosen().tables()
    }

    fn limits(&self) -> &'static [&'static str] {
        self.chosen().limits()
    }

    fn names_vms(&self) -> bool {
        self.chosen().names_vms()
    }

    fn query(&self) -> Result<Box<dyn Snapshot>> {
        self.try_both(|backend| backend.query())
    }

    fn ports(&self) -> Result<Vec<Port>> {
        let mut ports = self.try_both(|backend| backend.ports())?;
        ports.extend(self.left_behind());
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }

    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced> {
        self.try_both(|backend| backend.enforce(fences, keep))
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        if ports.is_empty() {
            return Ok(false);
        }
        let released = self.try_both(|backend| backend.release(ports))?;
        let left = self.left_behind().iter().any(|port| ports.contains(port));
        Ok(released | (left && Ebtables.release(ports)?))
    }

    fn noted(&self) -> Result<Option<Vec<Noted>>> {
        self.try_both(|backend| backend.noted())
    }

    fn add_and_delete(&self, new: &[Fence], ended: &[Ended]) -> Result<Option<Enforced>> {
        self.chosen().add_and_delete(new, ended)
    }

    fn check(&self, fence: &Fence) -> Result<()> {
        self.chosen().check(fence)
    }

    fn export(&self, fences: &[Fence]) -> Result<String> {
        self.chosen().export(fences)
    }
}
