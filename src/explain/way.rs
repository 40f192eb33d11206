//! Judges what the bridge itself does with a frame, apart from the rules.

use super::{At, Outcome, Reason, Step};
use crate::vm::Port;

/// A port, as its bridge sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortState {
    /// The port.
    pub port: Port,
    /// The bridge that it is on; `None`: no Linux bridge.
    pub bridge: Option<String>,
    /// Why it does not forward, in words; `None` if it does.
    pub stops: Option<&'static str>,
    /// Whether it exchanges no frames with other such ports.
    pub is_isolated: bool,
    /// Whether the bridge may send frames back where they came from.
    pub hairpin: bool,
    /// Whether frames to addresses that the bridge does not know go out here.
    pub floods: bool,
}

/// Where the bridge sends a frame to the receiver's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To all ports: the bridge has not learned the address, or we do not know it.
    Everywhere,
    /// To this port.
    To(Port),
    /// To the host: the address is also one of its own.
    Host,
    /// It differs between VLANs.
    Differs,
}

/// The bridge's knowledge about a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where the frame comes in, if known.
    pub from: Option<PortState>,
    /// Whether the host itself sends it.
    pub is_hosts: bool,
    /// Where it would go out.
    pub to: PortState,
    /// Where the bridge sends it.
    pub delivery: Delivery,
    /// Whether the bridge keeps VLANs apart.
    pub filters_vlans: bool,
}

impl Way {
    /// Judges what the bridge does with the frame.
    pub fn step(&self) -> Step {
        let (outcome, why) = self.judge();
        Step::new(At::Bridge, outcome, why)
    }

    fn judge(&self) -> (Outcome, String) {
        let unknown = |why| (Outcome::Unknown, why);
        let drops = |why| (Outcome::Drops(Reason::Bridge), why);
        let to = &self.to;
        let on_none = |state: &PortState| {
            let port = &state.port;
            unknown(format!("port \"{port}\" is on no Linux bridge"))
        };
        let Some(bridge) = &to.bridge else {
            return on_none(to);
        };
        if let Some(from) = &self.from {
            let Some(other) = &from.bridge else {
                return on_none(from);
            };
            if from.port == to.port {
                return if from.hairpin {
                    unknown(format!("the frame comes in through \"{}\" itself", to.port))
                } else {
                    drops(format!("a bridge sends no frame back to \"{}\"", to.port))
                };
            }
            if other != bridge {
                return drops(format!(
                    "\"{}\" is on bridge {other}, \"{}\" is on bridge {bridge}",
                    from.port, to.port
                ));
            }
            if from.is_isolated && to.is_isolated {
                return drops(format!(
                    "\"{}\" and \"{}\" are isolated from each other on bridge {bridge} \
                     (bridge link set dev PORT isolated on)",
                    from.port, to.port
                ));
            }
        }
        let mut both = self.from.iter().chain([to]);
        if let Some((state, why)) = both.find_map(|state| Some((state, state.stops?))) {
            return drops(format!("port \"{}\" is {why}", state.port));
        }
        match &self.delivery {
            Delivery::Host => {
                return drops(format!(
                    "bridge {bridge} keeps the frame, because the receiver's address is also the host's own"
                ));
            }
            Delivery::To(port) if *port != to.port => {
                return drops(format!(
                    "bridge {bridge} has learned the receiver's address at \"{port}\" \
                     (bridge fdb show br {bridge})"
                ));
            }
            Delivery::Everywhere if !to.floods => {
                return drops(format!(
                    "bridge {bridge} has not learned the receiver's address, and sends no such \
                     frame to \"{}\" (flood off)",
                    to.port
                ));
            }
            Delivery::Differs => {
                let why = "has learned the receiver's address at several ports";
                return unknown(format!("bridge {bridge} {why}"));
            }
            Delivery::To(_) | Delivery::Everywhere => {}
        }
        if self.filters_vlans {
            return unknown(format!(
                "bridge {bridge} keeps VLANs apart (vlan_filtering), and macfence does not check \
                 whether both ports share one"
            ));
        }
        let from = match &self.from {
            Some(from) => format!("from \"{}\"", from.port),
            None if self.is_hosts => "from the host".to_owned(),
            None => "from another port".to_owned(),
        };
        (
            Outcome::Passes,
            format!("{bridge} forwards it {from} to \"{}\"", to.port),
        )
    }
}
