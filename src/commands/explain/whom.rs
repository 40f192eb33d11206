//! Finds out whom the words on the command line mean.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use super::Scene;
use crate::bridge;
use crate::explain::{Party, Words};
use crate::mac::MacAddr;
use crate::quote::quoted;
use crate::source::Hypervisors;
use crate::vm::{Nic, Port, Vm, VmName};

impl Scene<'_> {
    /// Finds whom a word on the command line means.
    pub(super) fn parties(&self, word: &str) -> Result<Vec<Party>> {
        if let Ok(mac) = word.parse::<MacAddr>() {
            ensure!(
                !mac.is_multicast(),
                "{mac} is a multicast address, which no sender has"
            );
            let is_its = |party: &Party| party.mac == Some(mac);
            let mut found = self.known(is_its, false);
            if found.is_empty() {
                found = self.known(is_its, true);
            }
            if found.is_empty() {
                found.push(Party {
                    mac: Some(mac),
                    ..Party::default()
                });
            }
            return Ok(found);
        }
        let is_named = |party: &Party| party.vm.as_ref().is_some_and(|vm| vm.as_str() == word);
        let mut found = self.known(is_named, false);
        if found.is_empty() && self.words == Words::Ebtables {
            found = self.known(is_named, true);
        }
        let port = word.parse::<Port>().ok();
        let is_port = |party: &Party| party.port == port;
        if let (true, Some(port)) = (found.is_empty(), &port) {
            found = self.known(is_port, false);
            if found.is_empty() && bridge::of(port)?.is_some() {
                found = self.known(is_port, true);
                if found.is_empty() {
                    found.push(Party {
                        port: Some(port.clone()),
                        ..Party::default()
                    });
                }
            }
        }
        if found.is_empty() {
            found = self.known(is_named, true);
        }
        if found.is_empty() {
            return Err(self.nobody(word));
        }
        Ok(found)
    }

    /// The VMs' ports that are meant, according to the rules or to the hypervisors.
    pub(super) fn known(
        &self,
        is_meant: impl Fn(&Party) -> bool,
        by_hypervisors: bool,
    ) -> Vec<Party> {
        let mut all = Vec::new();
        if by_hypervisors {
            for vm in self.running() {
                all.extend(vm.nics.iter().map(|nic| Party {
                    vm: Some(vm.name.clone()),
                    port: Some(nic.port.clone()),
                    mac: Some(nic.mac),
                    is_fenced: false,
                }));
            }
        } else {
            for fence in &self.fences {
                all.extend(fence.guards.iter().map(|guard| Party {
                    vm: fence.vm.clone(),
                    port: Some(guard.port.clone()),
                    mac: guard.macs.first().copied(),
                    is_fenced: true,
                }));
            }
        }
        all.retain(is_meant);
        all.sort_by(|a, b| a.port.cmp(&b.port));
        all.dedup_by(|a, b| a.port == b.port);
        for party in &mut all {
            if party.vm.is_none() || party.mac.is_none() {
                let own = self.nic(party.port.as_ref());
                party.vm = party.vm.take().or(own.map(|(vm, _)| vm.clone()));
                party.mac = party.mac.or(own.map(|(_, nic)| nic.mac));
            }
        }
        all
    }

    /// The VM on this host that has the address from which a frame comes.
    pub(super) fn owner(&self, from: &Party, source: MacAddr) -> Option<VmName> {
        if from.mac == Some(source) {
            return from.vm.clone();
        }
        let is_its = |party: &Party| party.mac == Some(source);
        let found = [false, true].map(|asks| self.known(is_its, asks));
        found.into_iter().flatten().find_map(|party| party.vm)
    }

    /// The VM and the NIC of a port, according to the hypervisors.
    fn nic(&self, port: Option<&Port>) -> Option<(&VmName, &Nic)> {
        let port = port?;
        self.running().iter().find_map(|vm| {
            let nic = vm.nics.iter().find(|nic| nic.port == *port)?;
            Some((&vm.name, nic))
        })
    }

    /// The running VMs; none if that is unknown.
    fn running(&self) -> &[Vm] {
        let ask = || Ok(Hypervisors::ask(&self.config.connect)?.running()?.vms);
        self.running.get_or_init(ask).as_deref().unwrap_or_default()
    }

    /// The error for a word that means nothing here.
    fn nobody(&self, word: &str) -> Error {
        let why = match self.running.get() {
            Some(Err(e)) => format!(" ({e:#})"),
            _ => String::new(),
        };
        let hint = if word.parse::<IpAddr>().is_ok() {
            "ask about an IP address with --ip or --arp"
        } else {
            "a MAC address is written 02:00:c0:a8:00:05"
        };
        anyhow!(
            "{} is neither a running VM nor a port on a bridge{why}; {hint}",
            quoted(word)
        )
    }

    /// Chooses one of each, on the same bridge if possible.
    pub(super) fn pair(
        &self,
        from: (&str, &[Party]),
        to: (&str, &[Party]),
    ) -> Result<(Party, Party)> {
        let bridge = |party: &Party| match &party.port {
            Some(port) => bridge::of(port),
            None => Ok(None),
        };
        let mut pairs = Vec::new();
        for a in from.1 {
            for b in to.1 {
                let meet = a.port.is_none()
                    || bridge(a)?.is_some_and(|on| bridge(b).ok() == Some(Some(on)));
                pairs.push((!meet, a, b));
            }
        }
        pairs.sort_by_key(|(apart, ..)| *apart);
        let meeting = pairs.iter().filter(|(apart, ..)| !apart).count();
        if meeting > 1 {
            let meet = || pairs.iter().take(meeting);
            bail!(
                "{} and {} share a bridge at several ports; name the two ports that you mean: {}{}",
                from.0,
                to.0,
                ports(from.0, meet().map(|(_, a, _)| *a), "; "),
                ports(to.0, meet().map(|(_, _, b)| *b), ""),
            );
        }
        let (_, a, b) = pairs.first().context("nobody")?;
        Ok(((*a).clone(), (*b).clone()))
    }
}

/// Lists the ports of these parties, with the word that means them all: `web-1: vnet15, vnet16`. Empty
/// if they have none.
fn ports<'a>(word: &str, parties: impl Iterator<Item = &'a Party>, end: &str) -> String {
    let ports: BTreeSet<_> = parties.filter_map(|party| party.port.as_ref()).collect();
    if ports.is_empty() {
        return String::new();
    }
    let ports: Vec<_> = ports.into_iter().map(Port::as_str).collect();
    format!("{word}: {}{end}", ports.join(", "))
}
