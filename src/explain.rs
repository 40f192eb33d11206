//! Tells whether a port would hear a frame, and which rule decides. It judges by the rules in the
//! kernel, intact or damaged, not by those that should be there. Pure: the caller passes in what it
//! needs to know about the host.
//!
//! All rules of a fence only drop frames. So a frame is heard if no step drops it, and one step that
//! drops it decides, whatever the others do.

mod advice;
mod answer;
mod rule;
mod way;

use std::net::{IpAddr, Ipv4Addr};

use crate::fence::{ActualGuard, ActualIpv6, Hears};
use crate::mac::MacAddr;
use crate::vm::Port;

pub use self::advice::{Setting, Settings};
pub use self::answer::{Answer, Party};
pub use self::rule::Words;
pub use self::way::{Delivery, PortState, Way};

/// A frame to the NIC at the receiving port. So the *overheard* rule, which is for frames to others,
/// does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its source address.
    pub source: MacAddr,
    /// The IP address that it claims, if the question is about that.
    pub claim: Claim,
}

/// The IP address that a frame claims to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The question is not about IP addresses: assume that they are the sender's own.
    Nothing,
    /// ARP with this sender address.
    Arp(Ipv4Addr),
    /// A packet from this address, such as a UDP datagram.
    Ip(IpAddr),
}

/// A port and its guard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Side<'a> {
    /// The port; `None`: an unknown port without a fence.
    pub port: Option<&'a Port>,
    /// Its guard; `None` if it has no rules.
    pub guard: Option<&'a ActualGuard>,
    /// Why frames may not pass exactly these rules, each in words.
    pub defects: &'a [String],
}

/// Where a step happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// On the bridge.
    Bridge,
    /// At the port where the frame comes in.
    From,
    /// At the port where it would go out.
    To,
}

/// Why a frame is dropped. The words are those of `macfence list` and of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The bridge does not deliver it to the receiver.
    Bridge,
    /// Its source address is not the VM's.
    Spoofed,
    /// It claims an IP address that is not the VM's.
    Forged,
    /// It comes from another network.
    Foreign,
}

/// What a step does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes.
    Passes,
    /// It is dropped.
    Drops(Reason),
    /// That is unknown.
    Unknown,
}

/// One step of a frame's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it happens.
    pub at: At,
    /// What it does.
    pub outcome: Outcome,
    /// Why, in words.
    pub why: String,
    /// The rule that decides, in the words of the firewall's own program.
    pub rule: Option<String>,
    /// How many packets rules of this kind have dropped at this port.
    pub dropped: Option<u64>,
}

impl Step {
    fn new(at: At, outcome: Outcome, why: String) -> Self {
        Self {
            at,
            outcome,
            why,
            rule: None,
            dropped: None,
        }
    }

    fn by(mut self, rule: String, dropped: Option<u64>) -> Self {
        self.rule = Some(rule);
        self.dropped = dropped;
        self
    }
}

/// Tells whether a frame that takes these steps is heard; `None`: unknown.
pub fn is_heard(steps: &[Step]) -> Option<bool> {
    let is = |outcome: fn(&Outcome) -> bool| steps.iter().any(|step| outcome(&step.outcome));
    if is(|outcome| matches!(outcome, Outcome::Drops(_))) {
        Some(false)
    } else if is(|outcome| *outcome == Outcome::Unknown) {
        None
    } else {
        Some(true)
    }
}

/// The step that decides: the first that drops the frame, else the first with an unknown result, else
/// the last.
pub fn deciding(steps: &[Step]) -> Option<&Step> {
    let drops = |step: &&Step| matches!(step.outcome, Outcome::Drops(_));
    let is_unknown = |step: &&Step| step.outcome == Outcome::Unknown;
    let first = steps.iter().find(drops);
    first
        .or_else(|| steps.iter().find(is_unknown))
        .or(steps.last())
}

/// Judges what the rules do with a frame from one port to another.
pub fn verdict(from: &Side, to: &Side, frame: Frame, words: Words) -> Vec<Step> {
    let mut steps = sent(from, frame, words);
    steps.push(received(to, from.port, frame.source, words));
    steps
}

/// The step of a frame that the host itself sends, which none of our rules sees.
pub fn sent_by_host(bridge: &str) -> Step {
    let why = format!("the host itself sends it through {bridge}, and no fence checks that");
    Step::new(At::To, Outcome::Passes, why)
}

/// Judges what happens where the frame comes in.
fn sent(from: &Side, frame: Frame, words: Words) -> Vec<Step> {
    let (Some(port), Some(guard)) = (from.port, from.guard) else {
        let why = match from.port {
            Some(port) => format!("nothing is fenced at \"{port}\""),
            None => "it comes in by a port without a fence".to_owned(),
        };
        return vec![
            damaged(from, At::From).unwrap_or_else(|| Step::new(At::From, Outcome::Passes, why)),
        ];
    };
    if let Some(step) = damaged(from, At::From) {
        return vec![step];
    }
    let mut steps = vec![spoofed(port, guard, frame.source, words)];
    if frame.claim != Claim::Nothing {
        steps.push(forged(port, guard, frame.claim, words));
    }
    steps
}

/// If frames may pass other rules than the guard's, the result is unknown.
fn damaged(side: &Side, at: At) -> Option<Step> {
    let defects = side.defects;
    (!defects.is_empty()).then(|| {
        let why = format!("the fence is damaged: {}", defects.join("; "));
        Step::new(at, Outcome::Unknown, why)
    })
}

/// Judges whether the source address is one of the VM's.
fn spoofed(port: &Port, guard: &ActualGuard, source: MacAddr, words: Words) -> Step {
    let step = |outcome, why| Step::new(At::From, outcome, why);
    let by = |step: Step| {
        let rule = rule::spoofed(words, port, guard);
        step.by(rule, guard.dropped.spoofed)
    };
    let Some(first) = guard.macs.first() else {
        let why = format!("no rule limits the addresses that \"{port}\" may send from");
        return step(Outcome::Passes, why);
    };
    let is_extra = guard.extra_macs.contains(&source);
    let only = guard.macs.iter().all(|mac| mac == first);
    if guard.macs.iter().all(|mac| *mac == source) || (is_extra && guard.macs.len() == 1) {
        let why = format!("\"{port}\" may send as {source}");
        by(step(Outcome::Passes, why))
    } else if is_extra || (!only && guard.macs.contains(&source) && !guard.extra_macs.is_empty()) {
        let why = format!(
            "rules contradict each other about the addresses that \"{port}\" may send from"
        );
        step(Outcome::Unknown, why)
    } else if only {
        let own: Vec<_> = guard.macs.iter().take(1).chain(&guard.extra_macs).collect();
        let own: Vec<_> = own.iter().map(ToString::to_string).collect();
        let why = format!("\"{port}\" may send only as {}", own.join(" or "));
        by(step(Outcome::Drops(Reason::Spoofed), why))
    } else {
        let why = format!("contradicting rules let no frame in from \"{port}\"");
        by(step(Outcome::Drops(Reason::Spoofed), why))
    }
}

/// Judges whether the IP address is one of the VM's.
fn forged(port: &Port, guard: &ActualGuard, claim: Claim, words: Words) -> Step {
    let step = |outcome, why| Step::new(At::From, outcome, why);
    let Some(said) = &guard.addresses else {
        let why = format!("\"{port}\" may use any IP address");
        return step(Outcome::Passes, why);
    };
    let senders = guard.macs.iter().take(1).chain(&guard.extra_macs).copied();
    let Some(meant) = said.meant(senders.clone()) else {
        let why = format!("rules contradict each other about the IP addresses of \"{port}\"");
        return step(Outcome::Unknown, why);
    };
    let v6 = ActualIpv6::of(&meant, senders);
    let (is_own, ip, rule) = match claim {
        Claim::Nothing => return step(Outcome::Passes, String::new()),
        // A VM that asks whether an address is free claims none.
        Claim::Arp(ip) => (
            ip.is_unspecified() || meant.v4.contains(&ip),
            IpAddr::V4(ip),
            "false IP address in ARP",
        ),
        Claim::Ip(IpAddr::V4(ip)) => (meant.v4.contains(&ip), ip.into(), "false IPv4 source"),
        Claim::Ip(IpAddr::V6(ip)) => {
            let is_own =
                v6.addresses.contains(&ip) || (v6.any_link_local && ip.is_unicast_link_local());
            (is_own, ip.into(), "false IPv6 source")
        }
    };
    if is_own {
        let why = format!("\"{port}\" may use {ip}");
        return step(Outcome::Passes, why);
    }
    if let Some(defect) = guard.defects.first() {
        let why = format!("the address guard is damaged: {defect}");
        return step(Outcome::Unknown, why);
    }
    let all: Vec<_> = match ip {
        IpAddr::V4(_) => meant.v4.iter().map(ToString::to_string).collect(),
        IpAddr::V6(_) => {
            let any = v6.any_link_local.then(|| "fe80::/10".to_owned());
            v6.addresses
                .iter()
                .map(ToString::to_string)
                .chain(any)
                .collect()
        }
    };
    let own = if all.is_empty() {
        format!("no IPv{} address", if ip.is_ipv4() { 4 } else { 6 })
    } else {
        format!("only {}", all.join(" or "))
    };
    let why = format!("\"{port}\" may use {own}");
    step(Outcome::Drops(Reason::Forged), why)
        .by(rule::forged(words, port, rule), guard.dropped.forged)
}

/// Judges whether the receiver may hear this sender.
fn received(to: &Side, from: Option<&Port>, source: MacAddr, words: Words) -> Step {
    let step = |outcome, why| Step::new(At::To, outcome, why);
    if let Some(step) = damaged(to, At::To) {
        return step;
    }
    let (Some(port), Some(guard)) = (to.port, to.guard) else {
        let name = to.port.map_or("?", Port::as_str);
        return step(Outcome::Passes, format!("nothing is fenced at \"{name}\""));
    };
    let mut passes = step(
        Outcome::Passes,
        format!("no rule keeps other networks from \"{port}\": it hears all"),
    );
    for hears in &guard.hears {
        let Hears::Network {
            prefix,
            trusted,
            trusted_ports,
        } = hears
        else {
            continue;
        };
        let by = |step: Step| {
            let rule = rule::foreign(words, port, *prefix, trusted, trusted_ports);
            step.by(rule, guard.dropped.foreign)
        };
        let why = if prefix.contains(source) {
            format!("{source} is in its network {prefix}")
        } else if let Some(who) = trusted.iter().find(|who| who.contains(source)) {
            format!("{source} is trusted, as {who}")
        } else if let Some(port) = from.filter(|port| trusted_ports.contains(port)) {
            format!("what comes in through \"{port}\" is trusted")
        } else {
            let why = format!("{source} is neither in its network {prefix} nor trusted");
            return by(step(Outcome::Drops(Reason::Foreign), why));
        };
        passes = by(step(Outcome::Passes, why));
    }
    passes
}

#[cfg(test)]
mod tests;
