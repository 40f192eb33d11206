//! Writes rules as people find them in the listing of the firewall's own program, without counters.

use crate::fence::ActualGuard;
use crate::mac::{MacPrefix, PrefixLen};
use crate::vm::Port;

/// The program whose words are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// As `nft list ruleset` prints a rule.
    Nft,
    /// As `ebtables -L` prints a rule, after its table and chain, without its target.
    Ebtables,
}

impl Words {
    /// The words of a backend, by its name.
    pub fn of(backend: &str) -> Self {
        match backend {
            "ebtables" => Self::Ebtables,
            _ => Self::Nft,
        }
    }
}

/// The rule about who sends.
pub fn spoofed(words: Words, port: &Port, guard: &ActualGuard) -> String {
    let own = guard.macs.first();
    match words {
        Words::Nft => {
            let all = own.into_iter().chain(&guard.extra_macs);
            let macs: String = all.map(|mac| format!(" ether saddr != {mac}")).collect();
            format!("iifname \"{port}\"{macs} counter goto dropped-spoofed")
        }
        Words::Ebtables => {
            let mac = own.map(ToString::to_string).unwrap_or_default();
            format!("nat PREROUTING -s ! {mac} -i {port}")
        }
    }
}

/// The rule about who is heard.
pub fn foreign(
    words: Words,
    port: &Port,
    own: MacPrefix,
    trusted: &[MacPrefix],
    trusted_ports: &[Port],
) -> String {
    match words {
        Words::Nft => {
            let senders = [own].into_iter().chain(trusted.iter().copied());
            let mut rule = format!("oifname \"{port}\"");
            rule.extend(senders.map(|who| match who.len() {
                PrefixLen::FULL => format!(" ether saddr != {}", who.base()),
                _ => format!(" ether saddr & {} != {}", who.mask(), who.base()),
            }));
            rule.extend(
                trusted_ports
                    .iter()
                    .map(|port| format!(" iifname != \"{port}\"")),
            );
            rule + " counter goto dropped-foreign"
        }
        Words::Ebtables => {
            let (base, mask) = (own.base(), own.mask());
            format!("filter FORWARD -s ! {base}/{mask} -o {port}")
        }
    }
}

/// A rule about the sender's IP addresses, identified by its comment.
pub fn forged(words: Words, port: &Port, comment: &str) -> String {
    match words {
        Words::Nft => {
            format!("iifname \"{port}\" ... counter goto dropped-forged comment \"{comment}\"")
        }
        Words::Ebtables => format!("nat PREROUTING -i {port}, in its chain: {comment}"),
    }
}
