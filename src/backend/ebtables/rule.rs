//! Writes a guard as flat rules in ebtables' words. [`super::listed`] reads them back.
//!
//! ebtables checks a frame against every rule of a chain, one after the other, so a guard has few rules
//! in each chain. There are two for incoming frames, and one more if IP addresses, DHCP servers or
//! routers are guarded; one for outgoing frames, and one more if somebody is trusted. Rules that are
//! the same for all ports are in a chain that they share.
//!
//! A forwarded frame passes three rules for each VM of the host; with version 0.1 it passed two.
//! Measured with the nft variant and 1,000 VMs: about 80 µs instead of 50. One rule for all frames to
//! groups, leading to rules for the ports, would save a third of that. But then frames would reach a
//! guard's rule through a chain of ours that others can edit, bypass and empty. Use nft for speed.

use super::address_guard::AddressGuard;
use super::chain::{Content, Igmp};
use super::shape::{FORWARD, INPUT, PREROUTING, Place, Receivers, Shape};
use crate::fence::{Guard, Hears};
use crate::mac::MacAddr;

/// What to do with a frame that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drop it.
    Drop,
    /// Send it to a chain of ours.
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
    /// The rules of a guard. ebtables cannot mark a port that hears all networks: a port without the
    /// rule for foreign frames may also have lost it.
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
        // false address. No frame that this rule drops gets that far. INPUT needs no such rule: the
        // control rule there drops all that it would.
        let extra = &guard.extra_macs;
        let senders = |extra: &[MacAddr]| Content::Senders {
            port: port(),
            extra: extra.to_vec(),
        };
        let mut rules = vec![rule(PREROUTING, spoofed, drop_but(extra, senders))];
        rules.push(if guard.queries {
            rule(PREROUTING, control(), Action::Drop)
        } else {
            // One rule for each port and one shared chain, instead of three rules for each port.
            let groups = Shape::Meddling(port(), Receivers::Groups);
            rule(PREROUTING, groups, Action::Chain(Content::Meddling(igmp)))
        });
        rules.push(rule(INPUT, control(), Action::Drop));
        // This adds one rule for all frames from the port. Only they pass the chain behind it.
        if let Some(checks) = AddressGuard::of(guard) {
            let all = Shape::Addresses(port());
            rules.push(rule(
                PREROUTING,
                all,
                Action::Chain(Content::Addresses(checks)),
            ));
        }
        if let Hears::Network {
            prefix,
            trusted,
            trusted_ports,
        } = &guard.hears
        {
            let content = Content::Foreign {
                queries: Some(igmp),
                trusted: trusted.clone(),
                trusted_ports: trusted_ports.clone(),
            };
            let foreign = Shape::Foreign(port(), *prefix);
            rules.push(rule(FORWARD, foreign, Action::Chain(content)));
            if !trusted.is_empty() || !trusted_ports.is_empty() {
                let overheard = Shape::Overheard(port(), *prefix, guard.mac);
                let receivers = |extra: &[MacAddr]| Content::Receivers(extra.to_vec());
                rules.push(rule(FORWARD, overheard, drop_but(extra, receivers)));
            }
        }
        rules
    }

    /// Says in words what a guard without this rule lacks.
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
                format!("no rule against frames of trusted senders to other VMs, out to \"{port}\"")
            }
            Shape::Addresses(..) => {
                format!("no complete chain that checks the IP addresses in frames from \"{port}\"")
            }
        }
    }
}

/// Drops all frames, except those that a chain lets pass if a VM has further addresses.
fn drop_but(extra: &[MacAddr], chain: impl Fn(&[MacAddr]) -> Content) -> Action {
    if extra.is_empty() {
        Action::Drop
    } else {
        Action::Chain(chain(extra))
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::{DROP, TABLES};
    use super::*;

    fn words(trusted: &[&str], queries: bool) -> Vec<String> {
        let guard = Guard {
            queries,
            ..Guard::new(
                "a".parse().unwrap(),
                "02:00:c0:a8:00:05".parse().unwrap(),
                Hears::Network {
                    prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
                    trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
                    trusted_ports: Vec::new(),
                },
            )
        };
        let words = |rule: &Rule| {
            let target = match &rule.action {
                Action::Drop => DROP,
                Action::Chain(Content::Meddling(_)) => "meddling",
                Action::Chain(Content::Foreign { .. }) => "foreign",
                Action::Chain(other) => panic!("{other:?}"),
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
            queries: true,
            ..Guard::new(
                "a".parse().unwrap(),
                "02:00:c0:a8:00:05".parse().unwrap(),
                Hears::All,
            )
        };
        for rule in Rule::of(&guard, Igmp::ByType) {
            assert!(rule.shape.places().contains(&rule.place), "{rule:?}");
            assert!(TABLES.contains(&rule.place.table), "{rule:?}");
        }
    }
}
