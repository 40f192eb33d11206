//! nftables: one chain for each VM in the table `bridge macfence`, reached through a verdict map
//! from port names to chains. Only that table is read or written.
//!
//! ```text
//! table bridge macfence { map ports { type ifname : verdict; elements = { "one-42-0" : jump vm-one-42
//! } } chain prerouting { type filter hook prerouting priority dstnat - 1; policy accept; iifname vmap
//! @ports } chain input { … only frames to link-local addresses: iifname vmap @ports } chain forward {
//! … all but multicast queries: oifname vmap @ports } chain dropped-spoofed { … notes the source
//! address in the set spoofed; drop } chain vm-one-42 { iifname "one-42-0" ether saddr !=
//! 02:00:c0:a8:00:05 counter goto dropped-spoofed iifname "one-42-0" meta pkttype multicast jump
//! meddling oifname "one-42-0" ether saddr & ff:ff:ff:ff:ff:00 != 02:00:c0:a8:00:00 counter \ goto
//! dropped-foreign … and where IP addresses or roles are guarded, what `address_guard` adds } }
//! ```

mod address_guard;
mod blind;
pub mod chain_name;
mod listing;
mod matching;
mod noted;
pub mod others;
mod plan;
mod program;
mod query;
mod rule;
pub mod ruleset;
mod single;
mod skeleton;
mod spelling;
mod statement;
mod transaction;

use anyhow::{Error, Result};

use self::chain_name::ChainName;
use self::plan::Desired;
use self::program::commit;
use self::rule::Rule;
use self::ruleset::Ruleset;
use self::transaction::{Command, Transaction};
use super::{Backend, Ended, Enforced, Noted, Snapshot};
use crate::fence::{ActualFence, Fence, Keep};
use crate::vm::Port;

/// The nftables backend.
#[derive(Clone, Copy, Debug)]
pub struct Nft;

impl Nft {
    /// Says why this host cannot use nft at all: it is not installed, speaks no JSON, or the kernel has
    /// no tables of the bridge family. `None` if nft works, or if that cannot be found out.
    pub fn incapacity() -> Option<Error> {
        program::incapacity()
    }

    /// Returns the transaction that [`Backend::enforce`] would load now, as text. Empty if nothing
    /// needs to change.
    ///
    /// # Errors
    /// If nft cannot be asked, or cannot hold a fence.
    pub fn preview(&self, fences: &[Fence], keep: &Keep) -> Result<String> {
        let actual = query::table()?.unwrap_or_else(Ruleset::nothing);
        match plan::enforce(&actual, &desired(fences)?, keep)? {
            Some(plan) => plan.changes.to_json_lines(),
            None => Ok(String::new()),
        }
    }
}

impl Backend for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn tables(&self) -> &'static [&'static str] {
        &[skeleton::TABLE]
    }

    fn names_vms(&self) -> bool {
        true
    }

    fn query(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(or_probed(query::table()?)?))
    }

    fn ports(&self) -> Result<Vec<Port>> {
        let actual = or_probed(query::ports()?)?;
        let ours = actual.ports.iter().filter(|(_, chain)| chain.is_some());
        // We only write valid port names: any other key is somebody else's.
        Ok(ours.filter_map(|(port, _)| port.parse().ok()).collect())
    }

    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced> {
        if let [fence] = fences {
            return single::enforce(&chain_of(fence)?, fence, keep);
        }
        let actual = query::table()?.unwrap_or_else(Ruleset::nothing);
        actual.enforce(fences, keep)
    }

    fn release(&self, ports: &[Port]) -> Result<bool> {
        if ports.is_empty() {
            return Ok(false);
        }
        let mut actual = query::ports()?.unwrap_or_default();
        let taken = ports.iter().map(Port::as_str).collect();
        query::read_robbed(&mut actual, &taken)?;
        Ok(commit(plan::release(&actual, ports))?.changed)
    }

    fn add_and_delete(&self, new: &[Fence], ended: &[Ended]) -> Result<Option<Enforced>> {
        blind::add_and_delete(new, ended)
    }

    fn check(&self, fence: &Fence) -> Result<()> {
        chain_of(fence).map(drop)
    }

    fn noted(&self) -> Result<Option<Vec<Noted>>> {
        noted::query().map(Some)
    }

    fn export(&self, fences: &[Fence]) -> Result<String> {
        export(fences)?.to_json_lines()
    }
}

impl Snapshot for Ruleset {
    fn fences(&self) -> Result<Vec<ActualFence>> {
        Self::fences(self)
    }

    fn enforce(&self, fences: &[Fence], keep: &Keep) -> Result<Enforced> {
        commit(plan::enforce(self, &desired(fences)?, keep)?)
    }
}

fn desired(fences: &[Fence]) -> Result<Desired<'_>> {
    fences
        .iter()
        .map(|fence| Ok((chain_of(fence)?, fence)))
        .collect()
}

/// Returns the name of the chain for a fence, if nft can hold the fence.
fn chain_of(fence: &Fence) -> Result<ChainName> {
    // Check this here: the kernel would only say "Invalid argument", as it does without bridge tables.
    fence.guards.iter().try_for_each(address_guard::check)?;
    ChainName::of(&fence.vm)
}

/// Probes the kernel if there is no table yet: nothing else has shown that it could have one.
fn or_probed(found: Option<Ruleset>) -> Result<Ruleset> {
    if let Some(actual) = found {
        return Ok(actual);
    }
    program::probe()?.expecting(&[]).map(|_| Ruleset::nothing())
}

/// Returns a transaction that makes these fences in an empty kernel. It can be loaded repeatedly.
fn export(fences: &[Fence]) -> Result<Transaction> {
    let sets = skeleton::Actual::default().missing_sets()?;
    let mut commands = vec![Command::AddSets(sets), Command::AddSkeleton];
    for (chain, fence) in desired(fences)? {
        if fence.guards.is_empty() {
            continue;
        }
        commands.push(Command::AddChain(chain.clone()));
        // Needless in an empty kernel, but in a live one it keeps rules from being there twice.
        commands.push(Command::FlushChain(chain.clone()));
        let rules = fence.guards.iter().flat_map(Rule::of);
        commands.extend(rules.map(|rule| Command::AddRule(chain.clone(), rule)));
        let ports = fence.ports().into_iter().cloned();
        commands.extend(ports.map(|port| Command::AddPort(port, chain.clone())));
    }
    commands.push(Command::ListPorts);
    Ok(Transaction(commands))
}
