//! What the chains hold that ports share: which frames meddle, and which foreign ones may be heard.
//!
//! A chain's name is a digest of what it holds. So a chain that frames pass is never edited: other
//! rules are another chain, and the VMs that need the same share one.

use super::listed::Listed;
use super::shape::{CONTROL, DROP, GROUPS, prefix};
use crate::mac::MacPrefix;

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
    },
}

impl Content {
    /// The rules, each as the words that ebtables takes, with a blank between.
    pub fn rules(&self) -> Vec<String> {
        match self {
            Self::Meddling(igmp) => meddling(*igmp),
            Self::Foreign { queries, trusted } => {
                let mut rules = queries.map(let_queries_pass).unwrap_or_default();
                rules.extend(trusted.iter().map(|sender| {
                    let (base, mask) = (sender.base(), sender.mask());
                    format!("-s {base}/{mask} -j RETURN")
                }));
                rules.push(format!("-j {DROP}"));
                rules
            }
        }
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
        let written = |content: &Self| {
            let own = content.rules();
            let own = own.iter().map(|rule| Some(Listed::read(rule)?.written()));
            own.eq(rules.iter().cloned().map(Some))
        };
        let senders = rules.iter().filter_map(|rule| sender(rule));
        let trusted: Vec<_> = senders.collect();
        let foreign = |queries| Self::Foreign {
            queries,
            trusted: trusted.clone(),
        };
        let mut candidates = vec![
            Self::Meddling(Igmp::ByType),
            Self::Meddling(Igmp::ByReceiver),
            foreign(Some(Igmp::ByType)),
            foreign(Some(Igmp::ByReceiver)),
        ];
        // Where nobody was trusted, version 0.1 needed no chain.
        candidates.extend((!trusted.is_empty()).then(|| foreign(None)));
        candidates.into_iter().find(written)
    }
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

/// The sender that a rule lets return.
fn sender(rule: &str) -> Option<MacPrefix> {
    let text = rule.strip_prefix("-s ")?.strip_suffix(" -j RETURN")?;
    prefix(text)
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
        let foreign = |queries, trusted: &[MacPrefix]| Content::Foreign {
            queries,
            trusted: trusted.to_vec(),
        };
        vec![
            Content::Meddling(Igmp::ByType),
            Content::Meddling(Igmp::ByReceiver),
            foreign(Some(Igmp::ByType), &[]),
            foreign(Some(Igmp::ByReceiver), &[]),
            foreign(Some(Igmp::ByType), &[router, range]),
            foreign(None, &[router, range]),
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
