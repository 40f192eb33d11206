//! What the operator chose to enforce, and the guards that follow from it. Pure.

use anyhow::Result;
use serde::Deserialize;

use crate::fence::{Fence, Guard, Hears};
use crate::mac::{MacPrefix, PrefixLen};
use crate::vm::{Nic, Port, Vm};

/// Whether a NIC is isolated although its owner did not ask for it. Only OpenNebula has such NICs.
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
    /// Whether VMs may send IGMP and MLD queries.
    pub multicast_querier: bool,
}

/// Why a NIC has no guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfenced {
    /// The port is on no Linux bridge.
    NoBridge(Port),
    /// The port is on a bridge that the policy leaves alone.
    OtherBridge(Port, String),
}

impl Policy {
    /// The fence of `vm`, and the NICs that it leaves out. `bridge_of` tells which bridge a NIC is
    /// on.
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
                Some(_) => fence.guards.push(self.guard(nic)),
            }
        }
        Ok((fence, unfenced))
    }

    /// Whether ports of this bridge are fenced.
    pub fn acts_on(&self, bridge: &str) -> bool {
        self.bridges.is_empty() || self.bridges.iter().any(|b| b == bridge)
    }

    /// The guard in front of a NIC's port.
    pub fn guard(&self, nic: &Nic) -> Guard {
        Guard {
            port: nic.port.clone(),
            mac: nic.mac,
            hears: if nic.hears_all && self.isolation != Isolation::Always {
                Hears::All
            } else {
                self.own_network(nic)
            },
            queries: self.multicast_querier,
        }
    }

    fn own_network(&self, nic: &Nic) -> Hears {
        let mut trusted = self.trusted.clone();
        trusted.sort_unstable();
        trusted.dedup();
        Hears::Network {
            prefix: MacPrefix::of(nic.mac, self.prefix_len),
            trusted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(nics: &[(&str, &str)]) -> Vm {
        let nic = |(port, mac): &(&str, &str)| {
            Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
        };
        Vm {
            name: "one-1".parse().unwrap(),
            nics: nics.iter().map(nic).collect(),
            skipped: Vec::new(),
        }
    }

    fn network(prefix: &str, trusted: &[&str]) -> Hears {
        Hears::Network {
            prefix: prefix.parse().unwrap(),
            trusted: trusted.iter().map(|t| t.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn by_default_a_vm_hears_the_slash_40_that_its_address_is_in() {
        let vm = vm(&[("one-1-0", "02:00:c0:a8:00:05")]);
        let (fence, unfenced) = Policy::default()
            .fence(&vm, |_| Ok(Some("br0".into())))
            .unwrap();
        let guard = Guard {
            port: "one-1-0".parse().unwrap(),
            mac: "02:00:c0:a8:00:05".parse().unwrap(),
            hears: network("02:00:c0:a8:00:00/40", &[]),
            queries: false,
        };
        assert_eq!(fence.guards, [guard]);
        assert_eq!(unfenced, []);
    }

    #[test]
    fn trusted_senders_are_sorted_and_each_is_there_once() {
        let policy = Policy {
            trusted: ["2:0:0:0:0:9", "2:0:0:0:0:1", "2:0:0:0:0:9"]
                .map(|t| t.parse().unwrap())
                .to_vec(),
            ..Policy::default()
        };
        let guard = policy.guard(&vm(&[("p", "2:0:0:0:1:1")]).nics[0]);
        let trusted = ["02:00:00:00:00:01", "02:00:00:00:00:09"];
        assert_eq!(guard.hears, network("02:00:00:00:01:00/40", &trusted));
    }

    #[test]
    fn a_nic_that_may_hear_all_networks_does_unless_isolation_is_always() {
        let mut nic = vm(&[("p", "2:0:0:0:1:1")]).nics.remove(0);
        nic.hears_all = true;
        let mut policy = Policy::default();
        assert_eq!(policy.guard(&nic).hears, Hears::All);
        policy.isolation = Isolation::Always;
        let own = network("02:00:00:00:01:00/40", &[]);
        assert_eq!(policy.guard(&nic).hears, own);
    }

    #[test]
    fn only_ports_of_the_chosen_bridges_are_fenced() {
        let vm = vm(&[
            ("p0", "2:0:0:0:0:1"),
            ("p1", "2:0:0:0:0:2"),
            ("p2", "2:0:0:0:0:3"),
        ]);
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
}
