//! Adds and deletes whole fences without listing the kernel's rules, which is O(VMs). The kernel itself
//! checks what the caller believes. It refuses to create a chain that exists, to map a port that
//! already leads to another chain, and to delete a chain that a port still leads to.

use anyhow::Result;

use super::chain_name::ChainName;
use super::chain_of;
use super::program::{self, Detail};
use super::rule::Rule;
use super::skeleton::FORWARD;
use super::transaction::{Command, Transaction};
use crate::backend::{Ended, Enforced};
use crate::fence::Fence;

/// Adds fences for VMs that have none, and deletes those of VMs that have ended. `None` if the kernel
/// does not hold what the caller believes; then nothing has changed.
///
/// # Errors
/// If nft cannot be run, or cannot hold a fence.
pub fn add_and_delete(new: &[Fence], ended: &[Ended]) -> Result<Option<Enforced>> {
    let mut commands = changes(new, ended)?;
    if commands.is_empty() {
        return Ok(Some(Enforced::default()));
    }
    // For speed: see [`Command::ListChain`].
    commands.push(Command::ListChain(FORWARD));
    let answer = program::load(&Transaction(commands), Detail::Terse)?;
    let ports = new.iter().flat_map(Fence::ports).cloned().collect();
    Ok(answer.success().then_some(Enforced {
        changed: true,
        new_ports: ports,
    }))
}

/// A port may pass from a VM that has ended to a new one. So its old entry is deleted first, and the
/// chain that the entry leads to last.
fn changes(new: &[Fence], ended: &[Ended]) -> Result<Vec<Command>> {
    let (mut old_entries, mut dead_chains) = (Transaction::default(), Vec::new());
    for Ended { vm, ports } in ended {
        let chain = ChainName::of(vm)?;
        for port in ports {
            old_entries.delete_entry_of(port.as_str(), &chain);
        }
        dead_chains.push(Command::DeleteChain(chain));
    }
    let (mut chains, mut entries) = (Vec::new(), Vec::new());
    for fence in new {
        let chain = chain_of(fence)?;
        chains.push(Command::CreateChain(chain.clone()));
        let rules = fence.guards.iter().flat_map(Rule::of);
        chains.extend(rules.map(|rule| Command::AddRule(chain.clone(), rule)));
        let ports = fence.ports().into_iter().cloned();
        entries.extend(ports.map(|port| Command::AddPort(port, chain.clone())));
    }
    Ok([old_entries.0, chains, entries, dead_chains].concat())
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;
    use crate::policy::Policy;
    use crate::vm::{Nic, Place, Vm};

    fn fence(name: &str, port: &str) -> Fence {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        let vm = Vm {
            name: name.parse().unwrap(),
            nics: vec![Nic::new(port.parse().unwrap(), mac, None).unwrap()],
            skipped: Vec::new(),
        };
        let place = |_: &Nic| Ok(Place::Nic("br0".to_owned()));
        Policy::default().fence(&vm, place).unwrap().0
    }

    #[test]
    fn a_port_passes_to_a_new_vm_in_an_order_that_the_kernel_takes() {
        let port = || "vnet3".parse().unwrap();
        let (old, new) = ("old".parse().unwrap(), "new".parse().unwrap());
        let (old_chain, chain) = (ChainName::of(&old).unwrap(), ChainName::of(&new).unwrap());
        let ended = Ended {
            vm: old,
            ports: [port()].into(),
        };
        let fence = fence("new", "vnet3");
        let mut commands = changes(&[fence], &[ended]).unwrap();
        let of_rule = discriminant(&Command::AddRule(
            chain.clone(),
            Rule::of(&self::fence("new", "vnet3").guards[0]).remove(0),
        ));
        let count = commands.len();
        commands.retain(|command| discriminant(command) != of_rule);
        assert!(commands.len() < count);
        assert_eq!(
            commands,
            [
                Command::AssertEntry("vnet3".to_owned(), old_chain.clone()),
                Command::DeleteEntry("vnet3".to_owned()),
                Command::CreateChain(chain.clone()),
                Command::AddPort(port(), chain),
                Command::DeleteChain(old_chain),
            ]
        );
    }
}
