//! The answer to a question, as text for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{At, Claim, Frame, Outcome, Reason, Settings, Step, advice, deciding, is_heard};
use crate::config::origin::Origin;
use crate::mac::MacAddr;
use crate::vm::{Port, VmName};

/// A sender or receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// The VM, if it is one.
    pub vm: Option<VmName>,
    /// The port, if it is known.
    pub port: Option<Port>,
    /// Its own MAC address, if it is known.
    pub mac: Option<MacAddr>,
    /// Whether there are rules in front of the port.
    pub is_fenced: bool,
}

impl Party {
    /// Its name in a sentence.
    fn name(&self) -> String {
        match (&self.vm, &self.port, self.mac) {
            (Some(vm), ..) => vm.to_string(),
            (None, Some(port), None) => format!("port \"{port}\""),
            (None, Some(port), _) if self.is_fenced => format!("port \"{port}\""),
            (None, _, Some(mac)) => mac.to_string(),
            (None, None, None) => "it".to_owned(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "vm": self.vm.as_ref().map(VmName::as_str),
            "port": self.port.as_ref().map(Port::as_str),
            "mac": self.mac.map(|mac| mac.to_string()),
            "fenced": self.is_fenced,
        })
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who sends.
    pub from: Party,
    /// Who may hear the frame.
    pub to: Party,
    /// The frame.
    pub frame: Frame,
    /// The VM on this host that has the frame's source address, if one has it.
    pub owner: Option<VmName>,
    /// What happens to the frame.
    pub steps: Vec<Step>,
    /// The settings that matter.
    pub settings: Settings,
    /// What else may drop the frame and was not checked.
    pub notes: Vec<String>,
}

impl Answer {
    /// Tells whether the frame is heard; `None`: unknown.
    pub fn is_heard(&self) -> Option<bool> {
        is_heard(&self.steps)
    }

    /// Returns what would change the answer, as far as we know.
    pub fn change(&self) -> Option<String> {
        advice::change(self)
    }

    /// The answer in one sentence.
    pub fn sentence(&self) -> String {
        let (to, mut from) = (self.to.name(), self.from.name());
        if self.from.mac != Some(self.frame.source) {
            from += &format!(" as {}", self.frame.source);
        }
        match self.frame.claim {
            Claim::Nothing => {}
            Claim::Arp(ip) => from += &format!(" claim {ip} in ARP"),
            Claim::Ip(ip) => from += &format!(" send from {ip}"),
        }
        let why = deciding(&self.steps).map_or("", |step| &step.why);
        let mut text = match self.is_heard() {
            Some(true) => format!("heard: {to} hears {from}, because {why}"),
            Some(false) => format!("not heard: {to} does not hear {from}, because {why}"),
            None => format!("unknown: it is not clear whether {to} hears {from}, because {why}"),
        };
        for more in self.change().into_iter().chain(advice::intent(self)) {
            text += &format!("; {more}");
        }
        text
    }

    /// The answer for people: each step, the configuration, and the sentence.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, what: &str| {
            let _ = writeln!(text, "{label:<8}{what}");
        };
        let receiver = self
            .to
            .mac
            .map_or_else(|| self.to.name(), |mac| mac.to_string());
        let claim = match self.frame.claim {
            Claim::Nothing => String::new(),
            Claim::Arp(ip) => format!(", ARP of {ip}"),
            Claim::Ip(ip) => format!(", a packet of {ip}"),
        };
        let source = self.frame.source;
        line("frame", &format!("from {source} to {receiver}{claim}"));
        for step in &self.steps {
            let outcome = outcome(step.outcome);
            line(at(step.at), &format!("{outcome:<9}{}", step.why));
            if let Some(rule) = &step.rule {
                line("", &format!("{:<9}{rule}", "rule"));
            }
            if let Some(dropped) = step.dropped {
                line("", &format!("{:<9}{dropped} so far", "dropped"));
            }
        }
        for setting in &self.settings.all {
            let (key, value, origin) = (setting.key, &setting.value, &setting.origin);
            line("config", &format!("{key} = {value} ({origin})"));
        }
        for note in &self.notes {
            line("note", note);
        }
        text + &self.sentence() + "\n"
    }

    /// The answer for programs.
    pub fn json(&self) -> Value {
        let step = |step: &Step| {
            json!({
                "at": at(step.at),
                "outcome": outcome(step.outcome),
                "reason": reason(step.outcome),
                "why": step.why,
                "rule": step.rule,
                "dropped": step.dropped,
            })
        };
        let setting = |setting: &super::Setting| {
            let (line, section) = match &setting.origin {
                Origin::File { line, section, .. } => (Some(line), Some(section)),
                _ => (None, None),
            };
            json!({
                "key": setting.key,
                "value": setting.value,
                "origin": setting.origin.to_string(),
                "line": line,
                "section": section,
            })
        };
        let (arp, ip) = match self.frame.claim {
            Claim::Nothing => (None, None),
            Claim::Arp(ip) => (Some(ip.to_string()), None),
            Claim::Ip(ip) => (None, Some(ip.to_string())),
        };
        json!({
            "heard": self.is_heard(),
            "from": self.from.json(),
            "to": self.to.json(),
            "frame": {
                "source": self.frame.source.to_string(),
                "destination": self.to.mac.map(|mac| mac.to_string()),
                "arp": arp,
                "ip": ip,
            },
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "settings": self.settings.all.iter().map(setting).collect::<Vec<_>>(),
            "notes": self.notes,
            "why": deciding(&self.steps).map(|step| &step.why),
            "change": self.change(),
        })
    }
}

fn at(at: At) -> &'static str {
    match at {
        At::Bridge => "bridge",
        At::From => "from",
        At::To => "to",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passes => "passes",
        Outcome::Drops(_) => "drops",
        Outcome::Unknown => "unknown",
    }
}

fn reason(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Drops(Reason::Bridge) => Some("bridge"),
        Outcome::Drops(Reason::Spoofed) => Some("spoofed"),
        Outcome::Drops(Reason::Forged) => Some("forged"),
        Outcome::Drops(Reason::Foreign) => Some("foreign"),
        Outcome::Passes | Outcome::Unknown => None,
    }
}
