//! Collects what belongs to a verdict: the configuration, and other people's rules, which are only
//! mentioned.

use anyhow::Result;

use super::Scene;
use crate::backend::ebtables::Ebtables;
use crate::backend::nft::others::others;
use crate::bridge::{self, forwarding};
use crate::explain::{Claim, Party, Setting, Settings, Words};
use crate::fence::{ActualGuard, Guard, Hears};
use crate::mac::{MacAddr, PrefixLen};
use crate::policy::{AddressGuard, Isolation};
use crate::vm::{Nic, Port};

/// The tables that ebtables creates on nf_tables.
const EBTABLES: [&str; 3] = ["broute", "filter", "nat"];

/// Collects the settings that matter for sender and receiver.
pub fn settings(scene: &Scene, from: &Party, to: &Party, claim: Claim) -> Result<Settings> {
    let mut found = Settings {
        file: scene.config.origins.file.clone(),
        ..Settings::default()
    };
    if let Some((mac, bridge, guard)) = desired(scene, to)? {
        add(scene, &mut found, mac, &bridge, &["prefix-len", "trusted"]);
        let has_ports = matches!(&guard.hears, Hears::Network { trusted_ports, .. } if !trusted_ports.is_empty());
        if has_ports {
            add(scene, &mut found, mac, &bridge, &["trusted-ports"]);
        }
        let actual = to.port.as_ref().and_then(|port| scene.guard(port));
        if actual.is_some_and(|(_, guard)| !hears_one_network(guard)) {
            add(scene, &mut found, mac, &bridge, &["isolation"]);
        }
        found.to = Some(guard);
    }
    if let (Some(port), Some(_), false) = (&to.port, &to.vm, to.is_fenced) {
        found.left_out = bridge::of(port)?.filter(|bridge| !scene.policy.acts_on(bridge));
    }
    if found.left_out.is_some() {
        let bridges = scene.policy.bridges.iter();
        let bridges: Vec<_> = bridges.map(|name| format!("{name:?}")).collect();
        found.all.push(Setting {
            key: "bridges",
            value: list(&bridges),
            origin: scene.config.origins.of(None, "bridges"),
        });
    }
    if let Some((mac, bridge, guard)) = desired(scene, from)? {
        if claim != Claim::Nothing {
            add(scene, &mut found, mac, &bridge, &["addresses"]);
        }
        found.from = Some(guard);
    }
    Ok(found)
}

/// The guard that a fenced port would get now, as far as the configuration knows, with the MAC address
/// and the bridge for which it is.
fn desired(scene: &Scene, party: &Party) -> Result<Option<(MacAddr, String, Guard)>> {
    let (Some(port), Some(mac), true) = (&party.port, party.mac, party.is_fenced) else {
        return Ok(None);
    };
    let Some(bridge) = bridge::of(port)?.filter(|bridge| scene.policy.acts_on(bridge)) else {
        return Ok(None);
    };
    let guard = scene
        .policy
        .guard(&Nic::new(port.clone(), mac, None)?, &bridge);
    Ok(Some((mac, bridge, guard)))
}

/// Adds settings that apply to a NIC.
fn add(scene: &Scene, found: &mut Settings, mac: MacAddr, bridge: &str, keys: &[&'static str]) {
    let network = scene.policy.network(mac, bridge);
    let global = &scene.policy.global;
    let settings = network.map_or_else(|| global.clone(), |network| network.overrides.over(global));
    for key in keys {
        let value = match *key {
            "prefix-len" => settings.prefix_len.bits().to_string(),
            "trusted" => list(
                &settings
                    .trusted
                    .iter()
                    .map(|who| match who.len() {
                        PrefixLen::FULL => format!("\"{}\"", who.base()),
                        _ => format!("\"{who}\""),
                    })
                    .collect::<Vec<_>>(),
            ),
            "trusted-ports" => list(
                &settings
                    .trusted_ports
                    .iter()
                    .map(|port| format!("\"{port}\""))
                    .collect::<Vec<_>>(),
            ),
            "isolation" => match settings.isolation {
                Isolation::Template => "\"template\"".to_owned(),
                Isolation::Always => "\"always\"".to_owned(),
            },
            _ => match settings.addresses {
                AddressGuard::Template => "\"template\"",
                AddressGuard::Always => "\"always\"",
                AddressGuard::Never => "\"never\"",
                AddressGuard::Mac => "\"mac\"",
            }
            .to_owned(),
        };
        let selector = network.map(|network| &network.selector);
        found.all.push(Setting {
            key,
            value,
            origin: scene.config.origins.of(selector, key),
        });
    }
}

/// A list, as the file would write it.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(", "))
}

fn hears_one_network(guard: &ActualGuard) -> bool {
    matches!(guard.hears.as_slice(), [Hears::Network { .. }])
}

/// Lists what else may drop the frame, in words.
pub fn notes(
    scene: &Scene,
    bridge: &str,
    to: Option<&ActualGuard>,
    settings: &Settings,
) -> Result<Vec<String>> {
    let mut notes = scene.others.clone();
    if !bridge.is_empty() && forwarding::is_seen_by_iptables(bridge)? {
        notes.push(format!(
            "the host's iptables also see what bridge {bridge} forwards (br_netfilter): they may drop it, \
             which macfence did not check"
        ));
    }
    let should = settings.to.as_ref().map(|guard| &guard.hears);
    if let (Some(should), Some(guard)) = (should, to)
        && hears_one_network(guard)
        && !guard.hears.contains(should)
    {
        notes.push(format!(
            "the configuration says that \"{}\" should hear {should}, but the kernel's rules say otherwise",
            guard.port
        ));
    }
    Ok(notes)
}

/// Lists other people's rules that may drop the frame, in words.
pub fn rules_of_others(words: Words) -> Vec<String> {
    let not_looked_at = |what: String| format!("{what}: may drop it, which macfence did not check");
    let mut found = Vec::new();
    match others() {
        Ok(others) => {
            // With ebtables, these tables hold our own rules.
            let is_other = |table: &str| words != Words::Ebtables || !EBTABLES.contains(&table);
            let others = others.iter().filter(|other| is_other(&other.table));
            found.extend(others.map(|other| not_looked_at(other.to_string())));
        }
        // Usually nft is not installed then.
        Err(_) if words == Words::Ebtables => {}
        Err(e) => found.push(format!(
            "cannot tell whether other tables drop frames: {e:#}"
        )),
    }
    if words == Words::Ebtables
        && let Ok(others) = Ebtables.others()
        && !others.is_empty()
    {
        let count = others.len();
        found.push(not_looked_at(format!(
            "{count} rules of others in ebtables' FORWARD"
        )));
    }
    found
}

/// The defects of a fence that may concern this port, and not only another one of the same VM.
pub fn about<'a>(port: &Port, defects: &'a [String]) -> impl Iterator<Item = String> + 'a {
    let own = format!("port \"{port}\"");
    let concerns = move |defect: &&String| !defect.contains("port \"") || defect.contains(&own);
    defects.iter().filter(concerns).cloned()
}
