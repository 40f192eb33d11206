//! What to enforce for a VM: the two rules in front of each of its ports.
//!
//! Pure: knows neither a hypervisor nor a firewall, and starts no process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::{Nic, Port, Vm, VmName};

/// One rule in front of a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Drops a frame that enters the bridge from `port` with another source address than `mac`:
    /// the VM pretends to be somebody else.
    Spoofed {
        /// Where the frame comes from.
        port: Port,
        /// The only source address it may carry.
        mac: MacAddr,
        /// Whether the port is meant to have no other rule: its NIC is not isolated. Otherwise a
        /// port without the other rule has lost it.
        alone: bool,
    },
    /// Drops a frame that would leave the bridge to `port` unless its source address is in the
    /// NIC's own network or trusted: the VM would hear another network.
    Foreign {
        /// Where the frame goes.
        port: Port,
        /// The NIC's network.
        own: MacPrefix,
        /// Who else may be heard, sorted, each once.
        trusted: Vec<MacPrefix>,
    },
}

impl Rule {
    /// The port that the rule stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::Spoofed { port, .. } | Self::Foreign { port, .. } => port,
        }
    }
}

impl fmt::Display for Rule {
    /// What the rule lets pass: `only 02:00:c0:a8:00:05 in from "one-42-0"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spoofed { port, mac, .. } => write!(f, "only {mac} in from \"{port}\""),
            Self::Foreign { port, own, trusted } => {
                write!(f, "only {own}")?;
                trusted.iter().try_for_each(|who| write!(f, " or {who}"))?;
                write!(f, " out to \"{port}\"")
            }
        }
    }
}

/// A VM and the rules that hold for it. Without rules: the VM is not fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The VM.
    pub vm: VmName,
    /// Its rules, in the order of its NICs.
    pub rules: Vec<Rule>,
}

/// What of a VM's former fence stays although its new one says otherwise, or nothing.
#[derive(Clone, Copy)]
pub struct Keep<'a> {
    /// Whether what is in front of a port stays that the new fence does not speak of.
    pub ports: &'a dyn Fn(&Port) -> bool,
    /// Whether a NIC that is not isolated stays so. A hypervisor does not know which are not to be.
    pub not_isolated: bool,
}

impl Keep<'_> {
    /// Only what the new fence says is to be.
    pub const NOTHING: Self = Keep {
        ports: &|_| false,
        not_isolated: false,
    };
}

impl Fence {
    /// The fence of a VM that is to have none.
    pub fn none(vm: VmName) -> Self {
        Self {
            vm,
            rules: Vec::new(),
        }
    }

    /// Its ports.
    pub fn ports(&self) -> BTreeSet<&Port> {
        ports(&self.rules)
    }

    /// The rules that the VM should have, given those that it has.
    pub fn over<'a>(&self, held: impl Iterator<Item = &'a Rule> + Clone, keep: &Keep) -> Vec<Rule> {
        let not_isolated: BTreeSet<_> = held
            .clone()
            .filter(|_| keep.not_isolated)
            .filter_map(|rule| match rule {
                Rule::Spoofed {
                    port,
                    mac,
                    alone: true,
                } => Some((port, *mac)),
                _ => None,
            })
            .collect();
        let mut rules = Vec::new();
        let mut open = BTreeSet::new();
        for rule in &self.rules {
            match rule {
                Rule::Spoofed { port, mac, .. } if not_isolated.contains(&(port, *mac)) => {
                    open.insert(port);
                    rules.push(Rule::Spoofed {
                        port: port.clone(),
                        mac: *mac,
                        alone: true,
                    });
                }
                Rule::Foreign { port, .. } if open.contains(port) => {}
                rule => rules.push(rule.clone()),
            }
        }
        let ports = self.ports();
        let stays = |rule: &&Rule| !ports.contains(rule.port()) && (keep.ports)(rule.port());
        rules.extend(held.filter(stays).cloned());
        rules
    }
}

/// The ports that these rules stand in front of.
pub fn ports(rules: &[Rule]) -> BTreeSet<&Port> {
    rules.iter().map(Rule::port).collect()
}

/// Whether a NIC whose owner did not ask for isolation is isolated all the same. Only OpenNebula
/// has such NICs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// As the VM's template says.
    #[default]
    Template,
    /// Every NIC is isolated.
    Always,
}

/// What the operator chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Act only on these bridges. Empty: on all.
    pub bridges: Vec<String>,
    /// How many leading bits of a MAC address name its network.
    pub prefix_len: PrefixLen,
    /// Who may be heard besides the VM's own network.
    pub trusted: Vec<MacPrefix>,
    /// Which NICs hear only their own network.
    pub isolation: Isolation,
}

/// Why a NIC has no fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfenced {
    /// The port is on no Linux bridge.
    NoBridge(Port),
    /// The port is on a bridge that the policy leaves alone.
    OtherBridge(Port, String),
}

impl Policy {
    /// The fence of `vm`, given the bridge that each of its NICs is on, and the NICs that are
    /// left out of it.
    ///
    /// # Errors
    /// If `bridge_of` fails.
    pub fn fence(
        &self,
        vm: &Vm,
        bridge_of: impl Fn(&Nic) -> Result<Option<String>>,
    ) -> Result<(Fence, Vec<Unfenced>)> {
        let mut fence = Fence::none(vm.name.clone());
        let mut unfenced = Vec::new();
        for nic in &vm.nics {
            match bridge_of(nic)? {
                None => unfenced.push(Unfenced::NoBridge(nic.port.clone())),
                Some(bridge) if !self.acts_on(&bridge) => {
                    unfenced.push(Unfenced::OtherBridge(nic.port.clone(), bridge));
                }
                Some(_) => fence.rules.extend(self.rules(nic)),
            }
        }
        Ok((fence, unfenced))
    }

    /// Whether ports of this bridge are fenced.
    pub fn acts_on(&self, bridge: &str) -> bool {
        self.bridges.is_empty() || self.bridges.iter().any(|b| b == bridge)
    }

    /// The rules in front of a NIC's port: two where it is isolated, else one.
    pub fn rules(&self, nic: &Nic) -> Vec<Rule> {
        let alone = !nic.isolated && self.isolation != Isolation::Always;
        let mut rules = vec![Rule::Spoofed {
            port: nic.port.clone(),
            mac: nic.mac,
            alone,
        }];
        if alone {
            return rules;
        }
        let mut trusted = self.trusted.clone();
        trusted.sort_unstable();
        trusted.dedup();
        rules.push(Rule::Foreign {
            port: nic.port.clone(),
            own: MacPrefix::of(nic.mac, self.prefix_len),
            trusted,
        });
        rules
    }
}

/// Refuses fences that cannot hold together: a port belongs to one NIC of one VM, a VM has one
/// fence.
pub fn check_distinct(vms: &[Vm]) -> Result<()> {
    let mut names = BTreeMap::new();
    let mut ports: BTreeMap<&Port, &VmName> = BTreeMap::new();
    for vm in vms {
        if names.insert(&vm.name, ()).is_some() {
            bail!("VM {:?} is described twice", vm.name.as_str());
        }
        for nic in &vm.nics {
            if let Some(other) = ports.insert(&nic.port, &vm.name) {
                bail!(
                    "port \"{}\" is claimed twice, by VM {:?} and VM {:?}",
                    nic.port,
                    other.as_str(),
                    vm.name.as_str()
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, nics: &[(&str, &str)]) -> Vm {
        let nic = |(port, mac): &(&str, &str)| {
            Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
        };
        Vm {
            name: name.parse().unwrap(),
            nics: nics.iter().map(nic).collect(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn the_rules_are_the_seeds_two() {
        let vm = vm("one-1", &[("one-1-0", "02:00:c0:a8:00:05")]);
        let (fence, unfenced) = Policy::default()
            .fence(&vm, |_| Ok(Some("br0".into())))
            .unwrap();
        let port: Port = "one-1-0".parse().unwrap();
        let rules = [
            Rule::Spoofed {
                port: port.clone(),
                mac: "02:00:c0:a8:00:05".parse().unwrap(),
                alone: false,
            },
            Rule::Foreign {
                port,
                own: "02:00:c0:a8:00:00/40".parse().unwrap(),
                trusted: vec![],
            },
        ];
        assert_eq!(fence.rules, rules);
        assert_eq!(unfenced, []);
    }

    #[test]
    fn only_ports_of_the_chosen_bridges_are_fenced() {
        let vm = vm(
            "a",
            &[
                ("p0", "2:0:0:0:0:1"),
                ("p1", "2:0:0:0:0:2"),
                ("p2", "2:0:0:0:0:3"),
            ],
        );
        let policy = Policy {
            bridges: vec!["br0".into()],
            ..Policy::default()
        };
        let bridge_of = |nic: &Nic| {
            Ok(match nic.port.as_str() {
                "p0" => Some("br0".to_owned()),
                "p1" => Some("br1".to_owned()),
                _ => None,
            })
        };
        let (fence, unfenced) = policy.fence(&vm, bridge_of).unwrap();
        assert_eq!(fence.ports(), [&"p0".parse().unwrap()].into());
        let left_out = [
            Unfenced::OtherBridge("p1".parse().unwrap(), "br1".into()),
            Unfenced::NoBridge("p2".parse().unwrap()),
        ];
        assert_eq!(unfenced, left_out);
    }

    #[test]
    fn a_port_or_a_name_claimed_twice_is_refused() {
        let a = vm("a", &[("p0", "2:0:0:0:0:1")]);
        let b = vm("b", &[("p0", "2:0:0:0:0:2")]);
        let error = check_distinct(&[a.clone(), b]).unwrap_err().to_string();
        assert_eq!(error, r#"port "p0" is claimed twice, by VM "a" and VM "b""#);
        assert!(
            check_distinct(&[a.clone(), a])
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }
}
