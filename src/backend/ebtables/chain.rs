//! What chains hold: which frames meddle, and which of those that a rule has found false or foreign may
//! pass all the same. And what ports have for themselves, in [`super::address_guard`].
//!
//! A chain's name is a digest of what it holds. So a chain that frames pass is never edited: other
//! rules are another chain, and the VMs that need the same share one.

use super::address_guard::AddressGuard;
use super::listed::Listed;
use super::shape::{CONTROL, DROP, GROUPS, Receivers, Shape, prefix};
use crate::mac::{MacAddr, MacPrefix};
use crate::vm::Port;

/// Chains of ours begin so.
const PREFIX: &str = "macfence-";

// Protocols go as numbers: their names are in files that a small system may lack.
const IGMP: &str = "-p 0x0800 --ip-proto 2";
const MLD_QUERY: &str = "--ip6-proto 58 --ip6-icmp-type 130";
/// The IPv4 group 224.0.0.1, all systems: where queries about all groups go (RFC 3376 4.1.12).
const ALL_SYSTEMS: &str = "01:00:5e:00:00:01";

/// How ebtables tells an IGMP query from other IGMP packets. (The type of an MLD packet it always
/// knows, and finds it behind the hop-by-hop header.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Igmp {
    /// By the type of the packet: since 2.0.11, and Linux 4.17.
    #[default]
    ByType,
    /// By its receiver, [`ALL_SYSTEMS`]: a query about one group is missed.
    ByReceiver,
}

/// What a chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Of the frames of a VM to groups, drops control frames and multicast queries. Stops a VM
    /// that makes itself the root bridge, that has the switch disable the host's port, or that
    /// takes other networks' multicast away.
    Meddling(Igmp),
    /// Of the frames from other networks, lets pass some and drops the rest.
    Foreign {
        /// Multicast queries: a bridge that snoops expects answers to them, and forgets a VM that
        /// has not heard them. `None`: version 0.1 dropped them.
        queries: Option<Igmp>,
        /// Frames of these senders, sorted.
        trusted: Vec<MacPrefix>,
        /// Frames that come in through these ports, sorted.
        trusted_ports: Vec<Port>,
    },
    /// Of the frames from a port that are not from the NIC's own address, lets pass those from further
    /// addresses of the VM and drops the rest.
    Senders {
        /// The port. It makes the chain this port's alone, and so what the chain has counted.
        port: Port,
        /// The further addresses.
        extra: Vec<MacAddr>,
    },
    /// Of the frames of trusted senders that are not for the NIC's own address, lets pass those for
    /// these further addresses of the VM and drops the rest.
    Receivers(Vec<MacAddr>),
    /// Of the frames from a port, drops those under IP addresses that are not the VM's.
    Addresses(AddressGuard),
}

impl Content {
    /// The rules, each as the words that ebtables takes, with a blank between.
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

    /// Whether a rule of this shape may lead to a chain that holds this.
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

    /// Whether the chain is one port's alone, so that what it has dropped is known of that port.
    pub fn is_of_one_port(&self) -> bool {
        matches!(self, Self::Senders { .. } | Self::Addresses(_))
    }

    /// The name of a chain that holds this.
    pub fn name(&self) -> String {
        let text = self.rules().join("\n");
        format!("{PREFIX}{:016x}", fnv1a(text.as_bytes()))
    }

    /// What a chain with these listed rules holds. `None`: nothing that we would write.
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

/// All that a chain with these rules may hold, if it holds anything of ours.
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
    // Where nobody was trusted, version 0.1 needed no chain.
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

/// The values of this option in rules that let return what has nothing but it.
fn returns<'a>(rules: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    let value = move |rule: &'a String| rule.strip_prefix(option)?.strip_suffix(" -j RETURN");
    rules.iter().filter_map(value)
}

fn meddling(igmp: Igmp) -> Vec<String> {
    let (control, mask) = CONTROL;
    let mut rules = vec![format!("-d {control}/{mask} -j {DROP}")];
    rules.extend(match igmp {
        // No type matches a fragment but the first, in which a bridge reads a query all the same:
        // so what is not a query returns, and all other IGMP goes.
        Igmp::ByType => vec![
            format!("{IGMP} --ip-igmp-type ! 17 -j RETURN"),
            format!("{IGMP} -j {DROP}"),
        ],
        Igmp::ByReceiver => vec![query_to_all_systems(DROP)],
    });
    rules.push(format!("-p 0x86dd {MLD_QUERY} -j {DROP}"));
    rules
}

/// They return, which leaves them to other people's rules.
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

/// Whether a chain's name is one that we give. One `x` more follows where a chain of the name that
/// is due was edited by somebody.
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

    /// All that a chain can hold.
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
    fn what_a_chain_holds_is_read_back_from_its_rules() {
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
