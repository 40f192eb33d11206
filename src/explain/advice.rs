//! The part of the configuration that matters for a verdict, and what would change the verdict.

use super::{Answer, At, Claim, Outcome, Reason, deciding};
use crate::config::origin::Origin;
use crate::fence::{Guard, Hears};
use crate::mac::MacAddr;

/// A setting that applies, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the configuration file.
    pub key: &'static str,
    /// Its value, as the file would write it.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// The current configuration. The kernel may hold something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The settings that matter for the question.
    pub all: Vec<Setting>,
    /// The file, whether it exists or not.
    pub file: String,
    /// The bridge of the receiver's port, if `bridges` leaves it out.
    pub left_out: Option<String>,
    /// The guard that the sender's port would get, if it is a VM's.
    pub from: Option<Guard>,
    /// The guard that the receiver's port would get, if it is a VM's.
    pub to: Option<Guard>,
}

impl Settings {
    fn origin(&self, key: &str) -> Option<&Origin> {
        let mut all = self.all.iter();
        all.find(|setting| setting.key == key)
            .map(|setting| &setting.origin)
    }

    /// Tells whether the receiver would hear this sender.
    fn lets_hear(&self, source: MacAddr) -> bool {
        self.to.as_ref().is_some_and(|guard| match &guard.hears {
            Hears::All => true,
            Hears::Network {
                prefix, trusted, ..
            } => prefix.contains(source) || trusted.iter().any(|who| who.contains(source)),
        })
    }

    /// Tells whether the sender would be allowed to send from this address.
    fn lets_send(&self, source: MacAddr) -> bool {
        let mut from = self.from.iter();
        from.any(|guard| guard.senders().any(|mac| mac == source))
    }

    /// Tells whether the sender would be allowed to use this IP address.
    fn lets_claim(&self, claim: Claim) -> bool {
        self.from.as_ref().is_some_and(|guard| {
            let Some(own) = &guard.addresses else {
                return true;
            };
            match claim {
                Claim::Nothing => true,
                Claim::Arp(ip) | Claim::Ip(std::net::IpAddr::V4(ip)) => own.v4.contains(&ip),
                Claim::Ip(std::net::IpAddr::V6(ip)) => own.v6.contains(&ip),
            }
        })
    }
}

/// Returns what would change the answer; `None`: nothing that we know.
pub fn change(answer: &Answer) -> Option<String> {
    let step = deciding(&answer.steps)?;
    let settings = &answer.settings;
    let frame = answer.frame;
    let sync = "run \"macfence sync\"";
    match step.outcome {
        Outcome::Drops(Reason::Foreign) if settings.lets_hear(frame.source) => Some(format!(
            "the configuration allows it, but the kernel's rules do not yet: {sync}"
        )),
        // Whoever trusts another tenant's VM opens the fence to it.
        Outcome::Drops(Reason::Foreign) if answer.owner.is_some() => None,
        Outcome::Drops(Reason::Foreign) => Some(trust(settings, frame.source, sync)),
        Outcome::Drops(Reason::Spoofed) if settings.lets_send(frame.source) => Some(format!(
            "the configuration lets the VM send so, but the kernel's rules do not yet: {sync}"
        )),
        Outcome::Drops(Reason::Spoofed) => {
            let section = section(answer)?;
            Some(format!(
                "if the VM may send as {}, add it to `extra-macs` in {section}, then {sync}",
                frame.source
            ))
        }
        Outcome::Drops(Reason::Forged) if settings.lets_claim(frame.claim) => Some(format!(
            "the configuration lets the VM use it, but the kernel's rules do not yet: {sync}"
        )),
        Outcome::Drops(Reason::Forged) => {
            let ip = match frame.claim {
                Claim::Nothing => return None,
                Claim::Arp(ip) => ip.to_string(),
                Claim::Ip(ip) => ip.to_string(),
            };
            let section = section(answer)?;
            Some(format!(
                "if the VM may use {ip}, add it to `extra-ips` in {section}, then {sync}"
            ))
        }
        Outcome::Drops(Reason::Bridge) => None,
        Outcome::Unknown if step.at == At::Bridge => None,
        Outcome::Unknown => {
            Some("\"macfence check\" shows what is wrong, \"macfence sync\" repairs it".to_owned())
        }
        Outcome::Passes => {
            let vm = answer.to.vm.as_ref().filter(|_| !answer.to.is_fenced)?;
            if let Some(bridge) = &settings.left_out {
                return Some(act_on(settings, bridge, sync));
            }
            let name = vm.as_str();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            // People paste the command into a shell, and a user may have chosen the name.
            let call = if name.chars().all(is_plain) && !name.starts_with('-') {
                format!("apply {name}")
            } else {
                "sync".to_owned()
            };
            Some(format!(
                "to fence it, run \"macfence {call}\"; docs/service.md shows how to have that done automatically"
            ))
        }
    }
}

/// Says how to let macfence act on the receiver's bridge.
fn act_on(settings: &Settings, bridge: &str, sync: &str) -> String {
    let how = match settings.origin("bridges") {
        Some(Origin::CommandLine) => "add another --bridge for it".to_owned(),
        Some(origin) => format!("add it to `bridges` in {origin}"),
        None => "add it to `bridges`".to_owned(),
    };
    format!("`bridges` leaves out its bridge {bridge:?}: to fence it, {how}, then {sync}")
}

/// Says that the fence drops what it is meant to drop: frames of a VM of another network. `None`: it is
/// about something else.
pub fn intent(answer: &Answer) -> Option<String> {
    let step = deciding(&answer.steps)?;
    let owner = answer.owner.as_ref()?;
    if step.outcome != Outcome::Drops(Reason::Foreign)
        || answer.settings.lets_hear(answer.frame.source)
    {
        return None;
    }
    let source = answer.frame.source;
    Some(format!(
        "{source} belongs to VM {owner} of another network, and the fence is there to keep the two apart"
    ))
}

/// Says how to let the receiver hear a router.
fn trust(settings: &Settings, source: MacAddr, sync: &str) -> String {
    let file = &settings.file;
    let how = match settings.origin("trusted") {
        Some(Origin::File { line, .. }) => format!("add it to `trusted` in line {line} of {file}"),
        Some(Origin::CommandLine) => "add another --trusted for it".to_owned(),
        _ => format!("add it to `trusted`: write `trusted = [\"{source}\"]` at the top of {file}"),
    };
    format!("if {source} is the network's router, {how}, then {sync}")
}

/// The configuration section for the sender's NIC.
fn section(answer: &Answer) -> Option<String> {
    let mac = answer.from.mac?;
    let file = &answer.settings.file;
    Some(format!(
        "a section `[[nic]]` with `mac = \"{mac}\"` of {file}"
    ))
}

#[cfg(test)]
mod tests;
