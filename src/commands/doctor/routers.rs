//! Checks whether VMs hear the routers that the host knows on their bridges. The most common mistake is
//! a router that is not in `trusted`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::finding::Finding;
use crate::bridge;
use crate::config::DEFAULT_FILE;
use crate::fence::Hears;
use crate::mac::MacAddr;
use crate::policy::Policy;
use crate::process;
use crate::vm::Vm;

const ROUTERS: &str = "trusted";

/// A router that the host knows on a bridge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Router {
    bridge: String,
    mac: MacAddr,
    /// Its IP addresses.
    ips: BTreeSet<String>,
}

/// Checks the routers that the host knows on the bridges of these VMs.
pub fn look(policy: &Policy, vms: &[Vm]) -> Vec<Finding> {
    let mut listeners = Vec::new();
    for nic in vms.iter().flat_map(|vm| &vm.nics) {
        match bridge::place(&nic.port) {
            Ok(place) => {
                let bridge = place.bridge().filter(|name| policy.acts_on(name));
                let Some(bridge) = bridge.filter(|_| place.is_nic()) else {
                    continue;
                };
                let hears = policy.guard(nic, bridge).hears;
                listeners.push((bridge.to_owned(), hears));
            }
            Err(e) => return vec![Finding::unknown(ROUTERS, &e)],
        }
    }
    let bridges: BTreeSet<_> = listeners.iter().map(|(bridge, _)| bridge).collect();
    let mut routers = Vec::new();
    for bridge in bridges {
        match routers_on(bridge) {
            Ok(found) => routers.extend(found),
            Err(e) => return vec![Finding::unknown(ROUTERS, &e)],
        }
    }
    judge_routers(&routers, &listeners)
}

fn routers_on(bridge: &str) -> Result<Vec<Router>> {
    let ask = |args: &[&str]| -> Result<Vec<Value>> {
        let said = process::run("ip", args, "")?.checked()?;
        if said.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&said).context("cannot read the JSON that ip prints")
    };
    let neighbours = ask(&["-json", "neigh", "show", "dev", bridge])?;
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        routes.extend(ask(&[
            "-json", family, "route", "show", "table", "all", "dev", bridge,
        ])?);
    }
    Ok(routers(bridge, &neighbours, &routes))
}

/// Finds the default gateways of these routes, and neighbours that announce themselves as routers.
fn routers(bridge: &str, neighbours: &[Value], routes: &[Value]) -> Vec<Router> {
    let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
    let defaults = routes
        .iter()
        .filter(|route| text(route, "dst").as_deref() == Some("default"));
    let gateways: BTreeSet<_> = defaults
        .filter_map(|route| text(route, "gateway"))
        .collect();
    let mut by_mac: BTreeMap<MacAddr, BTreeSet<String>> = BTreeMap::new();
    for neighbour in neighbours {
        let mac = text(neighbour, "lladdr").and_then(|mac| mac.parse().ok());
        let (Some(mac), Some(ip)) = (mac, text(neighbour, "dst")) else {
            continue;
        };
        if gateways.contains(&ip) || neighbour.get("router").is_some() {
            by_mac.entry(mac).or_default().insert(ip);
        }
    }
    let router = |(mac, ips)| Router {
        bridge: bridge.to_owned(),
        mac,
        ips,
    };
    by_mac.into_iter().map(router).collect()
}

/// `listeners` are the NICs of VMs, each with its bridge.
fn judge_routers(routers: &[Router], listeners: &[(String, Hears)]) -> Vec<Finding> {
    if listeners.is_empty() {
        return Vec::new();
    }
    if routers.is_empty() {
        let trusts_somebody = listeners.iter().any(|(_, hears)| match hears {
            Hears::All => true,
            Hears::Network {
                trusted,
                trusted_ports,
                ..
            } => !trusted.is_empty() || !trusted_ports.is_empty(),
        });
        return vec![if trusts_somebody {
            Finding::ok(
                ROUTERS,
                "trusted is set; this host knows no router on the VMs' bridges",
            )
        } else {
            let text = "trusted is empty, so VMs hear only their own network; this host knows no router on their bridges";
            Finding::absent(ROUTERS, text)
        }];
    }
    routers
        .iter()
        .map(|router| judge_router(router, listeners))
        .collect()
}

fn judge_router(router: &Router, listeners: &[(String, Hears)]) -> Finding {
    let Router { bridge, mac, ips } = router;
    let here: Vec<_> = listeners
        .iter()
        .filter(|(name, _)| name == bridge)
        .collect();
    let deaf = here.iter().filter(|(_, hears)| match hears {
        Hears::All => false,
        Hears::Network {
            prefix,
            trusted,
            trusted_ports,
        } => {
            // The router may be behind a trusted port.
            let is_trusted = trusted.iter().any(|who| who.contains(*mac));
            !prefix.contains(*mac) && !is_trusted && trusted_ports.is_empty()
        }
    });
    let ips: Vec<_> = ips.iter().map(String::as_str).collect();
    let who = format!("router {mac} ({}) on bridge {bridge:?}", ips.join(", "));
    match deaf.count() {
        0 => Finding::ok(ROUTERS, format!("VMs hear {who}")),
        count => {
            let text = format!("{count} of {} NICs of VMs do not hear {who}", here.len());
            Finding::warn(ROUTERS, text).fix(format!(
                "if it is their router, add \"{mac}\" to trusted in {DEFAULT_FILE} and run \
                 \"macfence sync\""
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Level;
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    const ROUTER: &str = "52:54:00:aa:bb:01";

    fn known() -> Vec<Router> {
        let neighbours = [
            json!({"dst": "192.0.2.1", "lladdr": ROUTER, "state": ["STALE"]}),
            json!({"dst": "192.0.2.7", "lladdr": "52:54:00:aa:bb:07", "state": ["STALE"]}),
            json!({"dst": "192.0.2.8", "state": ["FAILED"]}),
            json!({"dst": "fe80::1", "lladdr": ROUTER, "router": null, "state": ["REACHABLE"]}),
        ];
        let routes = [
            json!({"dst": "default", "gateway": "192.0.2.1", "flags": []}),
            json!({"dst": "192.0.2.0/24", "protocol": "kernel"}),
        ];
        routers("br0", &neighbours, &routes)
    }

    #[test]
    fn a_router_is_who_the_host_routes_through_or_who_says_so() {
        let routers = known();
        assert_eq!(routers.len(), 1);
        assert_eq!(routers[0].mac.to_string(), ROUTER);
        assert_eq!(routers[0].ips, set(&["192.0.2.1", "fe80::1"]));
    }

    #[test]
    fn a_router_outside_the_network_must_be_trusted() {
        let hears = |trusted: &[&str]| {
            let hears = Hears::Network {
                prefix: "02:00:c0:a8:00:00/40".parse().unwrap(),
                trusted: trusted.iter().map(|who| who.parse().unwrap()).collect(),
                trusted_ports: Vec::new(),
            };
            ("br0".to_owned(), hears)
        };
        let level = |listeners: &[(String, Hears)]| judge_routers(&known(), listeners)[0].level;
        assert_eq!(level(&[hears(&[])]), Level::Warn);
        assert_eq!(level(&[hears(&[ROUTER])]), Level::Ok);
        assert_eq!(level(&[hears(&["52:54:00:aa:00:00/32"])]), Level::Ok);
        let (bridge, all) = ("br0".to_owned(), Hears::All);
        assert_eq!(level(&[(bridge, all)]), Level::Ok);
        let both = &judge_routers(&known(), &[hears(&[]), hears(&[ROUTER])])[0];
        assert!(
            both.text.starts_with("1 of 2 NICs of VMs do not hear"),
            "{both:?}"
        );
        assert!(both.fix.as_ref().unwrap().contains(ROUTER));
        // Without listeners or without routers.
        assert_eq!(judge_routers(&known(), &[]), []);
        assert_eq!(judge_routers(&[], &[hears(&[])])[0].level, Level::Absent);
        assert_eq!(judge_routers(&[], &[hears(&[ROUTER])])[0].level, Level::Ok);
    }
}
