//! What the operator chose to enforce, and the guards that follow from it. Pure.

use anyhow::Result;
use serde::Deserialize;

use crate::fence::{Fence, Guard, Hears};
use crate::mac::{MacPrefix, PrefixLen};
use crate::vm::{Nic, Place, Port, Vm};

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
    /// The port is a device that no VM has, in words.
    NotAVms(Port, String),
}

impl Unfenced {
    /// Why it must not have a guard, where somebody says that it is a VM's and it cannot be.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::NotAVms(port, what) => Some(format!(
                "port \"{port}\" is {what}, which no VM has; it is not fenced"
            )),
            _ => None,
        }
    }
}

impl Policy {
    /// The fence of `vm`, and the NICs that it leaves out. `place_of` tells where a NIC's port is.
    ///
    /// # Errors
    /// If `place_of` fails.
    pub fn fence(
        &self,
        vm: &Vm,
        place_of: impl Fn(&Nic) -> Result<Place>,
    ) -> Result<(Fence, Vec<Unfenced>)> {
        let mut fence = Fence::none(vm.name.clone());
        let mut unfenced = Vec::new();
        for nic in &vm.nics {
            let place = place_of(nic)?;
            let port = nic.port.clone();
            match place {
                Place::NoBridge => unfenced.push(Unfenced::NoBridge(port)),
                Place::Nic(bridge) | Place::Other(bridge, _) if !self.acts_on(&bridge) => {
                    unfenced.push(Unfenced::OtherBridge(port, bridge));
                }
                Place::Other(_, what) => unfenced.push(Unfenced::NotAVms(port, what)),
                Place::Nic(_) => fence.guards.push(self.guard(nic)),
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
            queries: self.multicast_querier,
            ..Guard::new(
                nic.port.clone(),
                nic.mac,
                if nic.hears_all() && self.isolation != Isolation::Always {
                    Hears::All
                } else {
                    self.own_network(nic)
                },
            )
        }
    }

    fn own_network(&self, nic: &Nic) -> Hears {
        let mut trusted = self.trusted.clone();
        trusted.sort_unstable();
        trusted.dedup();
        Hears::Network {
            prefix: MacPrefix::of(nic.mac, self.prefix_len),
            trusted,
            trusted_ports: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Asked;

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
            trusted_ports: Vec::new(),
        }
    }

    #[test]
    fn by_default_a_vm_hears_the_slash_40_that_its_address_is_in() {
        let vm = vm(&[("one-1-0", "02:00:c0:a8:00:05")]);
        let (fence, unfenced) = Policy::default()
            .fence(&vm, |_| Ok(Place::Nic("br0".into())))
            .unwrap();
        let guard = Guard::new(
            "one-1-0".parse().unwrap(),
            "02:00:c0:a8:00:05".parse().unwrap(),
            network("02:00:c0:a8:00:00/40", &[]),
        );
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
        nic.asked = Some(Asked {
            hears_all: true,
            ..Asked::default()
        });
        let mut policy = Policy::default();
        assert_eq!(policy.guard(&nic).hears, Hears::All);
        policy.isolation = Isolation::Always;
        let own = network("02:00:00:00:01:00/40", &[]);
        assert_eq!(policy.guard(&nic).hears, own);
    }

    #[test]
    fn only_vms_ports_on_the_chosen_bridges_are_fenced() {
        let vm = vm(&[
            ("p0", "2:0:0:0:0:1"),
            ("p1", "2:0:0:0:0:2"),
            ("p2", "2:0:0:0:0:3"),
            ("p3", "2:0:0:0:0:4"),
        ]);
        let policy = Policy {
            bridges: vec!["br0".into()],
            ..Policy::default()
        };
        let place_of = |nic: &Nic| {
            Ok(match nic.port.as_str() {
                "p0" => Place::Nic("br0".into()),
                "p1" => Place::Nic("br1".into()),
                "p2" => Place::NoBridge,
                _ => Place::Other("br0".into(), "a bond".into()),
            })
        };
        let (fence, unfenced) = policy.fence(&vm, place_of).unwrap();
        assert_eq!(fence.ports(), [&"p0".parse().unwrap()].into());
        let left_out = [
            Unfenced::OtherBridge("p1".parse().unwrap(), "br1".into()),
            Unfenced::NoBridge("p2".parse().unwrap()),
            Unfenced::NotAVms("p3".parse().unwrap(), "a bond".into()),
        ];
        assert_eq!(unfenced, left_out);
    }
}
