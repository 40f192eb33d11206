//! The contents of our chains. They decide which frames meddle, and which of the frames that a rule
//! found false or foreign may still pass. The checks of [`super::address_guard`] are in chains too.
//!
//! A chain's name is a digest of its contents. So a chain in use is never edited: other contents are
//! another chain, and VMs that need the same rules share one.

use super::address_guard::AddressGuard;
use super::listed::Listed;
use super::shape::{CONTROL, DROP, GROUPS, Receivers, Shape, prefix};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::Port;

/// The start of our chains' names.
const PREFIX: &str = "macfence-";

// Protocols are numbers here, because a small system may lack the files with their names.
const IGMP: &str = "-p 0x0800 --ip-proto 2";
const MLD_QUERY: &str = "--ip6-proto 58 --ip6-icmp-type 130";
/// The IPv4 group 224.0.0.1, all systems: the receiver of queries about all groups (RFC 3376 4.1.12).
const ALL_SYSTEMS: &str = "01:00:5e:00:00:01";

/// How ebtables recognises an IGMP query. (It always knows the type of an MLD packet, and finds it
/// after the hop-by-hop header.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Igmp {
    /// By the type of the packet: needs ebtables 2.0.11 and Linux 4.17.
    #[default]
    ByType,
    /// By its receiver, [`ALL_SYSTEMS`]: misses queries about one group.
    ByReceiver,
}

/// The contents of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// For frames of a VM to groups: drops control frames and multicast queries. Stops a VM that makes
    /// itself the root bridge, makes the switch disable the host's port, or cuts other networks off
    /// from their multicast.
    Meddling(Igmp),
    /// For frames from other networks: lets some pass and drops the rest.
    Foreign {
        /// How to recognise multicast queries, which pass: a snooping bridge expects answers to them,
        /// and stops sending multicast to a VM that did not hear them. `None`: version 0.1 dropped
        /// them.
        queries: Option<Igmp>,
        /// Senders whose frames pass, sorted.
        trusted: Vec<MacPrefix>,
        /// Ports whose frames pass, sorted.
        trusted_ports: Vec<Port>,
    },
    /// For frames from a port that do not have the NIC's own source address: lets those from the VM's
    /// further addresses pass and drops the rest.
    Senders {
        /// The port. Naming it makes the chain this port's own, and so the chain's counters.
        port: Port,
        /// The further addresses.
        extra: Vec<MacAddr>,
    },
    /// For frames of trusted senders to other addresses than the NIC's own: lets those to these further
    /// addresses of the VM pass and drops the rest.
    Receivers(Vec<MacAddr>),
    /// For frames from a port: drops those from IP addresses that are not the VM's.
    Addresses(AddressGuard),
}

impl Content {
    /// The rules, each as the words that ebtables takes, separated by blanks.
    pub fn rules(&self) -> Vec<String> {
        match self {
            Self::Meddling(igmp) => meddling(*igmp),
            Self::Foreign {
                queries,
                trusted,
                trusted_ports,
            } => {
                let mut rules = queries.map(let_queries_pass).unwrap_or_default();
                rules.extend(trusted.iter().map(|sender| {
                    let (base, mask) = (sender.base(), sender.mask());
                    format!("-s {base}/{mask} -j RETURN")
                }));
                let ports = trusted_ports.iter();
                rules.extend(ports.map(|port| format!("-i {port} -j RETURN")));
                rules.push(format!("-j {DROP}"));
                rules
            }
            Self::Senders { port, extra } => {
                let pass = extra.iter().map(|mac| format!("-s {mac} -j RETURN"));
                pass.chain([format!("-i {port} -j {DROP}")]).collect()
            }
            Self::Receivers(extra) => {
                let pass = extra.iter().map(|mac| format!("-d {mac} -j RETURN"));
                pass.chain([format!("-j {DROP}")]).collect()
            }
            Self::Addresses(guard) => guard.rules(),
        }
    }

    /// Tells whether a rule of this shape may lead to a chain with these contents.
    pub fn is_for(&self, shape: &Shape) -> bool {
        match self {
            Self::Meddling(_) => matches!(shape, Shape::Meddling(_, Receivers::Groups)),
            Self::Foreign { .. } => matches!(shape, Shape::Foreign(..)),
            Self::Senders { port, .. } => matches!(shape, Shape::Spoofed(own, _) if own == port),
            Self::Receivers(_) => matches!(shape, Shape::Overheard(..)),
            Self::Addresses(guard) => {
                matches!(shape, Shape::Addresses(own) if *own == guard.port)
            }
        }
    }

    /// Tells whether the chain belongs to one port, so that its counters are that port's.
    pub fn is_of_one_port(&self) -> bool {
        matches!(self, Self::Senders { .. } | Self::Addresses(_))
    }

    /// The name of a chain with these contents.
    pub fn name(&self) -> String {
        let text = self.rules().join("\n");
        format!("{PREFIX}{:016x}", fnv1a(text.as_bytes()))
    }

    /// Reads the contents of a chain from its listed rules. `None`: it is not a chain that we would
    /// write.
    pub fn read(lines: &[&str]) -> Option<Self> {
        let rules = lines.iter().map(|line| Some(Listed::read(line)?.written()));
        let rules: Vec<_> = rules.collect::<Option<_>>()?;
        let is_written_so = |content: &Self| {
            let own = content.rules();
            let own = own.iter().map(|rule| Some(Listed::read(rule)?.written()));
            own.eq(rules.iter().cloned().map(Some))
        };
        candidates(&rules).into_iter().find(is_written_so)
    }
}

/// All contents that a chain with these rules may have, if it is ours.
fn candidates(rules: &[String]) -> Vec<Content> {
    let trusted: Vec<_> = returns(rules, "-s ").filter_map(prefix).collect();
    let trusted_ports = returns(rules, "-i ").filter_map(|port| port.parse().ok());
    let trusted_ports: Vec<_> = trusted_ports.collect();
    let foreign = |queries| Content::Foreign {
        queries,
        trusted: trusted.clone(),
        trusted_ports: trusted_ports.clone(),
    };
    let mut candidates = vec![
        Content::Meddling(Igmp::ByType),
        Content::Meddling(Igmp::ByReceiver),
        foreign(Some(Igmp::ByType)),
        foreign(Some(Igmp::ByReceiver)),
    ];
    // Version 0.1 needed no chain if no sender was trusted.
    candidates.extend((!trusted.is_empty()).then(|| foreign(None)));
    let macs = |option| returns(rules, option).filter_map(|mac| mac.parse().ok());
    let receivers: Vec<_> = macs("-d ").collect();
    candidates.extend((!receivers.is_empty()).then_some(Content::Receivers(receivers)));
    let last = rules.last().and_then(|rule| rule.strip_prefix("-i "));
    if let Some((port, DROP)) = last.and_then(|rule| rule.split_once(" -j "))
        && let Ok(port) = port.parse()
    {
        let extra: Vec<_> = macs("-s ").collect();
        candidates.extend((!extra.is_empty()).then_some(Content::Senders { port, extra }));
    }
    candidates.extend(AddressGuard::candidate(rules).map(Content::Addresses));
    candidates
}

/// The values of this option in rules that have no other condition and let frames return.
fn returns<'a>(rules: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    let value = move |rule: &'a String| rule.strip_prefix(option)?.strip_suffix(" -j RETURN");
    rules.iter().filter_map(value)
}

fn meddling(igmp: Igmp) -> Vec<String> {
    let (control, mask) = CONTROL;
    let mut rules = vec![format!("-d {control}/{mask} -j {DROP}")];
    rules.extend(match igmp {
        // A rule with a type matches only the first fragment, but a bridge reads a query in any. So
        // what is not a query returns, and all other IGMP is dropped.
        Igmp::ByType => vec![
            format!("{IGMP} --ip-igmp-type ! 17 -j RETURN"),
            format!("{IGMP} -j {DROP}"),
        ],
        Igmp::ByReceiver => vec![query_to_all_systems(DROP)],
    });
    rules.push(format!("-p 0x86dd {MLD_QUERY} -j {DROP}"));
    rules
}

/// Queries return, which leaves them to other people's rules.
fn let_queries_pass(igmp: Igmp) -> Vec<String> {
    let (group, mask) = GROUPS;
    let igmp = match igmp {
        Igmp::ByType => {
            format!("-p 0x0800 -d {group}/{mask} --ip-proto 2 --ip-igmp-type 17 -j RETURN")
        }
        Igmp::ByReceiver => query_to_all_systems("RETURN"),
    };
    let mld = format!("-p 0x86dd -d {group}/{mask} {MLD_QUERY} -j RETURN");
    vec![igmp, mld]
}

fn query_to_all_systems(target: &str) -> String {
    format!("-p 0x0800 -d {ALL_SYSTEMS} --ip-proto 2 -j {target}")
}

/// Tells whether a chain's name is of our form. We append an `x` for each time that somebody edited the
/// chain with the right name.
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|digest| {
        digest.len() >= 16
            && digest.bytes().take(16).all(|b| b.is_ascii_hexdigit())
            && digest.bytes().skip(16).all(|b| b == b'x')
    })
}

/// FNV-1a, 64 bits: the same on every host and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All kinds of contents of a chain.
    fn contents() -> Vec<Content> {
        let router = "00:16:3e:00:00:01".parse().unwrap();
        let range = "52:54:00:00:00:00/24".parse().unwrap();
        let port = |name: &str| name.parse::<Port>().unwrap();
        let further = ["00:00:5e:00:01:07", "02:00:c0:a8:00:99"];
        let further: Vec<MacAddr> = further.map(|mac| mac.parse().unwrap()).into();
        let senders = |name| Content::Senders {
            port: port(name),
            extra: further.clone(),
        };
        let foreign = |queries, trusted: &[MacPrefix]| Content::Foreign {
            queries,
            trusted: trusted.to_vec(),
            trusted_ports: Vec::new(),
        };
        vec![
            Content::Meddling(Igmp::ByType),
            Content::Meddling(Igmp::ByReceiver),
            foreign(Some(Igmp::ByType), &[]),
            foreign(Some(Igmp::ByReceiver), &[]),
            foreign(Some(Igmp::ByType), &[router, range]),
            foreign(None, &[router, range]),
            Content::Foreign {
                queries: Some(Igmp::ByType),
                trusted: vec![router],
                trusted_ports: vec![port("br0b"), port("br0c")],
            },
            Content::Foreign {
                queries: Some(Igmp::ByReceiver),
                trusted: Vec::new(),
                trusted_ports: vec![port("br0b")],
            },
            senders("one-1-0"),
            senders("one-2-0"),
            Content::Receivers(further.clone()),
        ]
    }

    #[test]
    fn the_contents_of_a_chain_are_read_back_from_its_rules() {
        for content in contents() {
            let rules = content.rules();
            let lines: Vec<_> = rules.iter().map(String::as_str).collect();
            assert_eq!(Content::read(&lines), Some(content));
        }
    }

    #[test]
    fn a_chain_with_a_rule_more_or_less_is_not_relied_on() {
        for content in contents() {
            let rules = content.rules();
            let lines: Vec<_> = rules.iter().map(String::as_str).collect();
            for index in 0..lines.len() {
                let mut fewer = lines.clone();
                fewer.remove(index);
                assert_ne!(Content::read(&fewer).as_ref(), Some(&content), "{fewer:?}");
                let mut more = lines.clone();
                more.insert(index, "-j ACCEPT");
                assert_eq!(Content::read(&more), None, "{more:?}");
            }
        }
        assert_eq!(Content::read(&[]), None);
        assert_eq!(Content::read(&["-j DROP"]), None);
    }

    #[test]
    fn each_content_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = contents().iter().map(Content::name).collect();
        assert_eq!(names.len(), contents().len());
        assert!(names.iter().all(|name| is_ours(name)), "{names:?}");
        assert!(is_ours("macfence-0123456789abcdefxx"));
        for other in ["macfence-log", "macfence-0123456789abcdefg", "FORWARD"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
