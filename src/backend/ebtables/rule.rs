//! A guard as flat rules in ebtables' words. [`super::listed`] reads them back.
//!
//! ebtables asks a frame every rule of a chain, one after the other, so a guard has few rules in
//! each chain: two where frames come in, one where they go out, and one more there if somebody is
//! trusted. What is the same for all ports is in a chain that they share.
//!
//! A forwarded frame passes three rules for each VM of the host, where version 0.1 had two: measured
//! with the nft variant and 1,000 VMs, about 80 µs in place of 50. One rule for all frames to groups,
//! with the ports behind it, would save a third of that. But then a guard's rule would be reached
//! through a chain of ours that others can edit, bypass and empty; nft does that better.

use anyhow::{Result, ensure};

use super::chain::{CONTROL, Content, GROUPS, Igmp};
use crate::fence::{Guard, Hears};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::Port;

/// The target that ends a matching frame's way.
pub const DROP: &str = "DROP";

/// Where a rule is: a built-in chain of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: &'static str,
}

/// Frames from the ports, before the bridge learns where their senders are.
pub const PREROUTING: Place = Place {
    table: "nat",
    chain: "PREROUTING",
};

/// Frames to the host. Some to 01:80:c2:00:00:0x come here and not to `PREROUTING`.
pub const INPUT: Place = Place {
    table: "filter",
    chain: "INPUT",
};

/// Frames that the bridge forwards.
pub const FORWARD: Place = Place {
    table: "filter",
    chain: "FORWARD",
};

/// Every place that has rules of ours.
pub const PLACES: [Place; 3] = [PREROUTING, INPUT, FORWARD];

/// The tables of [`PLACES`], each once. What is added goes first to the first: `PREROUTING` must
/// have its rule before `FORWARD` loses the one that version 0.1 wrote there.
pub const TABLES: [&str; 2] = [PREROUTING.table, FORWARD.table];

/// A target, an address and a word: what two rules may share that ebtables cannot tell apart.
pub type Fingerprint = (String, MacAddr, String);

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `-s ! MAC -i PORT`: frames from the port under another address.
    Spoofed(Port, MacAddr),
    /// `-d RECEIVERS -i PORT`: frames from the port to what only bridges and switches listen to.
    Meddling(Port, Receivers),
    /// `-s ! PREFIX/MASK -o PORT`: frames to the port from another network.
    Foreign(Port, MacPrefix),
    /// `-s ! PREFIX/MASK -d ! MAC -o PORT --pkttype-type otherhost`: unicast frames to the port
    /// from another network that are for another station. The kernel calls no multicast or
    /// broadcast frame `otherhost`.
    Overheard(Port, MacPrefix, MacAddr),
}

/// Whom a frame that meddles is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receivers {
    /// 01:80:c2:00:00:0x, which no bridge forwards: control frames.
    Bridges,
    /// Any multicast or broadcast address.
    Groups,
}

/// What happens to a frame that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is dropped.
    Drop,
    /// A chain of ours decides.
    Chain(Content),
}

/// A rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it is.
    pub place: Place,
    /// What it matches.
    pub shape: Shape,
    /// What it does.
    pub action: Action,
}

impl Rule {
    /// The rules that make up a guard. ebtables has no word for a port that hears all networks: a
    /// port without the rule for foreign frames may as well have lost it.
    pub fn of(guard: &Guard, igmp: Igmp) -> Vec<Self> {
        let port = || guard.port.clone();
        let rule = |place, shape, action| Self {
            place,
            shape,
            action,
        };
        let control = || Shape::Meddling(port(), Receivers::Bridges);
        let spoofed = Shape::Spoofed(port(), guard.mac);
        // Not in FORWARD, where version 0.1 and the seed have it: by then the bridge has learned a
        // false address, and no frame that this drops comes so far. All that INPUT would drop
        // besides is dropped there as a control frame.
        let mut rules = vec![rule(PREROUTING, spoofed, Action::Drop)];
        rules.push(if guard.queries {
            rule(PREROUTING, control(), Action::Drop)
        } else {
            // One rule a port and a chain for all, not three rules a port.
            let groups = Shape::Meddling(port(), Receivers::Groups);
            rule(PREROUTING, groups, Action::Chain(Content::Meddling(igmp)))
        });
        rules.push(rule(INPUT, control(), Action::Drop));
        if let Hears::Network { prefix, trusted } = &guard.hears {
            let content = Content::Foreign {
                queries: Some(igmp),
                trusted: trusted.clone(),
            };
            let foreign = Shape::Foreign(port(), *prefix);
            rules.push(rule(FORWARD, foreign, Action::Chain(content)));
            if !trusted.is_empty() {
                let overheard = Shape::Overheard(port(), *prefix, guard.mac);
                rules.push(rule(FORWARD, overheard, Action::Drop));
            }
        }
        rules
    }

    /// What a guard without this rule lacks, in words.
    pub fn lack(&self) -> String {
        let port = self.shape.port();
        match self.shape {
            Shape::Spoofed(..) => {
                format!(
                    "no rule that drops false addresses from \"{port}\" before the bridge learns them"
                )
            }
            Shape::Meddling(..) => {
                format!("no rule against control frames and multicast queries from \"{port}\"")
            }
            Shape::Foreign(..) => format!("no rule that lets multicast queries out to \"{port}\""),
            Shape::Overheard(..) => {
                format!("no rule against frames of trusted senders to others, out to \"{port}\"")
            }
        }
    }
}

impl Shape {
    /// Where a rule of this shape is ours, whether we write it or version 0.1 and the seed did.
    pub fn places(&self) -> &'static [Place] {
        match self {
            Self::Spoofed(..) => &[PREROUTING, FORWARD],
            Self::Meddling(_, Receivers::Bridges) => &[PREROUTING, INPUT],
            Self::Meddling(_, Receivers::Groups) => &[PREROUTING],
            Self::Foreign(..) | Self::Overheard(..) => &[FORWARD],
        }
    }

    /// The port that a rule of this shape stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed(port, _)
            | Self::Meddling(port, _)
            | Self::Foreign(port, _)
            | Self::Overheard(port, ..) => port,
        }
    }

    /// Whether two shapes say the same kind of thing about the same port, so that a rule of one
    /// replaces a rule of the other.
    pub fn is_like(&self, other: &Self) -> bool {
        self.port() == other.port() && std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// What ebtables may know a rule of this shape by. A rule that shares all of them may be taken
    /// for this one.
    pub fn fingerprints(&self, target: &str) -> Vec<Fingerprint> {
        let addresses = match self {
            Self::Spoofed(_, mac) => vec![*mac],
            Self::Meddling(_, receivers) => vec![receivers.address().0],
            Self::Foreign(_, own) => vec![own.base()],
            Self::Overheard(_, own, mac) => vec![own.base(), *mac],
        };
        let port = self.port().to_string();
        let print = |mac| (target.to_owned(), mac, port.clone());
        addresses.into_iter().map(print).collect()
    }

    /// The words that match it, in the order in which ebtables lists them.
    pub fn words(&self) -> Vec<String> {
        let text = match self {
            Self::Spoofed(port, mac) => format!("-s ! {mac} -i {port}"),
            Self::Meddling(port, receivers) => {
                let (address, mask) = receivers.address();
                format!("-d {address}/{mask} -i {port}")
            }
            Self::Foreign(port, own) => format!("-s ! {}/{} -o {port}", own.base(), own.mask()),
            Self::Overheard(port, own, mac) => {
                let (base, mask) = (own.base(), own.mask());
                format!("-s ! {base}/{mask} -d ! {mac} -o {port} --pkttype-type otherhost")
            }
        };
        text.split(' ').map(str::to_owned).collect()
    }
}

impl Receivers {
    /// Their address, and the bits of it that count.
    pub fn address(self) -> (MacAddr, MacAddr) {
        match self {
            Self::Bridges => CONTROL,
            Self::Groups => GROUPS,
        }
    }
}

/// Refuses port names that ebtables would not take literally: `+` is its wildcard, `!` its
/// negation, and ebtables-restore has quotes.
pub fn check_port(port: &Port) -> Result<()> {
    let literal = |c: char| c.is_ascii_alphanumeric() || "-._@#%=~^,".contains(c);
    ensure!(
        port.as_str().chars().all(literal) && !port.as_str().starts_with('-'),
        "port name \"{port}\" cannot be used with ebtables, which would misread it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(trusted: &[&str], queries: bool) -> Vec<String> {
        let guard = Guard {
            port: "a".parse().unwrap(),
            mac: "02:00:c0:a8:00:05".parse().unwrap(),
            hears: Hears::Network {
                prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
                trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            },
            queries,
        };
        let words = |rule: &Rule| {
            let target = match &rule.action {
                Action::Drop => DROP,
                Action::Chain(Content::Meddling(_)) => "meddling",
                Action::Chain(Content::Foreign { .. }) => "foreign",
            };
            format!(
                "{} {} {target}",
                rule.place.chain,
                rule.shape.words().join(" ")
            )
        };
        Rule::of(&guard, Igmp::ByType).iter().map(words).collect()
    }

    const SPOOFED: &str = "PREROUTING -s ! 02:00:c0:a8:00:05 -i a DROP";
    const GROUPS: &str = "PREROUTING -d 01:00:00:00:00:00/01:00:00:00:00:00 -i a meddling";
    const CONTROL: &str = "-d 01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0 -i a DROP";
    const FOREIGN: &str = "FORWARD -s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o a foreign";
    const OVERHEARD: &str = "FORWARD -s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 \
        -d ! 02:00:c0:a8:00:05 -o a --pkttype-type otherhost DROP";

    #[test]
    fn a_guard_has_four_rules_and_one_more_where_somebody_is_trusted() {
        let input = format!("INPUT {CONTROL}");
        assert_eq!(words(&[], false), [SPOOFED, GROUPS, &input, FOREIGN]);
        assert_eq!(
            words(&["00:16:3e:00:00:01"], false),
            [SPOOFED, GROUPS, &input, FOREIGN, OVERHEARD]
        );
    }

    #[test]
    fn a_port_that_may_send_queries_may_send_no_control_frames() {
        let control = ["PREROUTING", "INPUT"].map(|place| format!("{place} {CONTROL}"));
        assert_eq!(
            words(&[], true),
            [SPOOFED, &control[0], &control[1], FOREIGN]
        );
    }

    #[test]
    fn every_rule_is_ours_where_it_is_written() {
        let guard = Guard {
            port: "a".parse().unwrap(),
            mac: "02:00:c0:a8:00:05".parse().unwrap(),
            hears: Hears::All,
            queries: true,
        };
        for rule in Rule::of(&guard, Igmp::ByType) {
            assert!(rule.shape.places().contains(&rule.place), "{rule:?}");
            assert!(TABLES.contains(&rule.place.table), "{rule:?}");
        }
    }
}
