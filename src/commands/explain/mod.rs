//! `macfence explain`: tells whether TO would hear FROM, and which rule decides. [`crate::explain`]
//! judges; this collects what it needs to know about the host.

mod context;

use std::cell::OnceCell;
use std::collections::BTreeSet;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use self::context::{about, notes, rules_of_others, settings};
use super::shared::{policy, print, warn_of_the_other_kind};
use crate::backend::{self, Backend};
use crate::bridge::{self, forwarding};
use crate::cli;
use crate::config::Config;
use crate::exit::Exit;
use crate::explain::{
    Answer, Claim, Delivery, Frame, Party, PortState, Side, Way, Words, sent_by_host, verdict,
};
use crate::fence::{ActualFence, ActualGuard};
use crate::mac::MacAddr;
use crate::policy::{Policy, is_a_hosts};
use crate::quote::quoted;
use crate::source::Hypervisors;
use crate::vm::{Nic, Port, Vm, VmName};

/// Runs it.
pub fn run(config: &Config, asked: &cli::Explain) -> Result<Exit> {
    let claim = match (asked.arp, asked.ip.map(|ip| ip.to_canonical())) {
        (Some(ip), _) => Claim::Arp(ip),
        (None, Some(ip)) => {
            ensure!(is_a_hosts(ip), "--ip: {ip} is not the IP address of a host");
            Claim::Ip(ip)
        }
        (None, None) => Claim::Nothing,
    };
    if let Some(mac) = asked.source {
        ensure!(
            !mac.is_multicast(),
            "--as: {mac} is a multicast address, which no sender has"
        );
    }
    let backend = backend::choose(config.backend);
    let scene = Scene::look(config, &*backend)?;
    warn_of_the_other_kind(config, backend.name());
    let answer = scene.ask(&asked.from, &asked.to, asked.source, claim)?;
    print(&if asked.json {
        format!("{}\n", answer.json())
    } else {
        answer.text()
    })?;
    Ok(match answer.is_heard() {
        Some(true) => Exit::Done,
        Some(false) => Exit::Different,
        None => Exit::Unknown,
    })
}

/// The host at one moment, about which several questions may be asked.
pub struct Scene<'a> {
    config: &'a Config,
    policy: Policy,
    words: Words,
    fences: Vec<ActualFence>,
    /// Other people's rules, in words.
    others: Vec<String>,
    /// The running VMs: asked for only if the rules do not tell.
    running: OnceCell<Result<Vec<Vm>>>,
}

impl<'a> Scene<'a> {
    /// Asks the firewall what it holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn look(config: &'a Config, backend: &dyn Backend) -> Result<Self> {
        let fences = backend.query()?.fences()?;
        let words = Words::of(backend.name());
        let guards = fences.iter().flat_map(|fence| &fence.guards);
        let fenced: BTreeSet<_> = guards.map(|guard| &guard.port).collect();
        Ok(Self {
            config,
            policy: policy(config, &fenced),
            words,
            others: rules_of_others(words),
            fences,
            running: OnceCell::new(),
        })
    }

    /// Tells whether TO would hear FROM.
    ///
    /// # Errors
    /// If it is unknown who they are.
    pub fn ask(
        &self,
        from: &str,
        to: &str,
        source: Option<MacAddr>,
        claim: Claim,
    ) -> Result<Answer> {
        let (froms, tos) = (self.parties(from)?, self.parties(to)?);
        let (mut from, mut to) = self.pair((from, &froms), (to, &tos))?;
        let own = from.mac;
        let Some(source) = source.or(own) else {
            let port = from.port.as_ref().map_or("?", Port::as_str);
            // The port may be an uplink, through which others send.
            bail!("the address that \"{port}\" sends from is unknown: give it with --as MAC");
        };
        let to_port = to.port.clone();
        let to_port = to_port.context("TO cannot be a MAC address: name a VM or a port")?;
        let receiver = forwarding::state(&to_port)?;
        let bridge = receiver.bridge.clone().unwrap_or_default();
        if from.port.is_none() {
            from.port = self.seen_at(&bridge, own)?;
        }
        let is_host = from.port.is_none() && own == forwarding::address(&bridge)?;
        let way = way(&from, is_host, &to, receiver)?;
        let (from_side, from_defects) = self.side(from.port.as_ref());
        let (to_side, to_defects) = self.side(Some(&to_port));
        from.is_fenced = from_side.is_some();
        to.is_fenced = to_side.is_some();
        let frame = Frame { source, claim };
        let mut steps = vec![way.step()];
        if is_host {
            steps.push(sent_by_host(&bridge));
        } else {
            let from = Side {
                port: from.port.as_ref(),
                guard: from_side,
                defects: &from_defects,
            };
            let to = Side {
                port: Some(&to_port),
                guard: to_side,
                defects: &to_defects,
            };
            steps.extend(verdict(&from, &to, frame, self.words));
        }
        let settings = settings(self, &from, &to, claim)?;
        let notes = notes(self, &bridge, to_side, &settings)?;
        Ok(Answer {
            from,
            to,
            frame,
            steps,
            settings,
            notes,
        })
    }

    /// The port without a fence at which this bridge has seen an address. A fenced port does not count:
    /// the bridge learned the address there before the fence.
    fn seen_at(&self, bridge: &str, mac: Option<MacAddr>) -> Result<Option<Port>> {
        let Some(mac) = mac else { return Ok(None) };
        Ok(match forwarding::delivery(bridge, mac)? {
            Delivery::To(port) if self.guard(&port).is_none() => Some(port),
            _ => None,
        })
    }

    /// The fence and guard of a port. If two VMs' chains have rules for it, the one that frames pass.
    fn guard(&self, port: &Port) -> Option<(&ActualFence, &ActualGuard)> {
        let all = self.fences.iter().flat_map(|fence| {
            let guards = fence.guards.iter().filter(|guard| guard.port == *port);
            guards.map(move |guard| (fence, guard))
        });
        all.min_by_key(|(fence, _)| about(port, &fence.defects).count())
    }

    /// The guard of a port, and its defects.
    fn side(&self, port: Option<&Port>) -> (Option<&ActualGuard>, Vec<String>) {
        let Some(port) = port else {
            return (None, Vec::new());
        };
        match self.guard(port) {
            Some((fence, guard)) => (Some(guard), about(port, &fence.defects).collect()),
            None => {
                let name = format!("port \"{port}\"");
                let all = self.fences.iter().flat_map(|fence| &fence.defects);
                let own = all.filter(|defect| defect.contains(&name)).cloned();
                let own: BTreeSet<_> = own.collect();
                (None, own.into_iter().collect())
            }
        }
    }

    /// Finds whom a word on the command line means.
    fn parties(&self, word: &str) -> Result<Vec<Party>> {
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
    fn known(&self, is_meant: impl Fn(&Party) -> bool, by_hypervisors: bool) -> Vec<Party> {
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
        anyhow!(
            "{} is neither a running VM nor a port on a bridge{why}; a MAC address is written \
             02:00:c0:a8:00:05",
            quoted(word)
        )
    }

    /// Chooses one of each, on the same bridge if possible.
    fn pair(&self, from: (&str, &[Party]), to: (&str, &[Party])) -> Result<(Party, Party)> {
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
            let ports = pairs
                .iter()
                .take(meeting)
                .flat_map(|(_, a, b)| [&a.port, &b.port]);
            let ports: BTreeSet<_> = ports.flatten().map(|port| format!("\"{port}\"")).collect();
            let ports: Vec<_> = ports.into_iter().collect();
            bail!(
                "{} and {} share a bridge at several ports; name the two ports that you mean: {}",
                from.0,
                to.0,
                ports.join(", ")
            );
        }
        let (_, a, b) = pairs.first().context("nobody")?;
        Ok(((*a).clone(), (*b).clone()))
    }
}

/// Collects what the bridge knows.
fn way(from: &Party, is_hosts: bool, to: &Party, receiver: PortState) -> Result<Way> {
    let bridge = receiver.bridge.clone().unwrap_or_default();
    let delivery = match to.mac {
        Some(mac) => forwarding::delivery(&bridge, mac)?,
        None => Delivery::Everywhere,
    };
    Ok(Way {
        from: from.port.as_ref().map(forwarding::state).transpose()?,
        is_hosts,
        to: receiver,
        delivery,
        filters_vlans: forwarding::filters_vlans(&bridge)?,
    })
}
