//! `macfence explain`: tells whether TO would hear FROM, and which rule decides. [`crate::explain`]
//! judges; this collects what it needs to know about the host.

mod context;
mod whom;

use std::cell::OnceCell;
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use self::context::{about, notes, rules_of_others, settings};
use super::shared::{policy, print, warn_of_the_other_kind};
use crate::backend::{self, Backend};
use crate::bridge::forwarding;
use crate::cli;
use crate::config::Config;
use crate::exit::Exit;
use crate::explain::{
    Answer, Claim, Delivery, Frame, Party, PortState, Side, Way, Words, sent_by_host, verdict,
};
use crate::fence::{ActualFence, ActualGuard};
use crate::mac::MacAddr;
use crate::policy::{Policy, is_a_hosts};
use crate::vm::{Port, Vm};

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
        let to_port = to_port.context(
            "TO cannot be a MAC address: name a VM or a port; if it is a router, name the port of the \
             uplink that leads to it",
        )?;
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
        let owner = self.owner(&from, source);
        let notes = notes(self, &bridge, to_side, &settings)?;
        Ok(Answer {
            from,
            to,
            frame,
            owner,
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
