//! Checks the VMs: how many are fenced, open, or differ from what they should be, and what the settings
//! of their bridges leave open.

use std::collections::BTreeSet;

use anyhow::Result;

use super::super::shared::survey;
use super::finding::Finding;
use crate::backend::Backend;
use crate::bridge;
use crate::compare;
use crate::config::{Config, DEFAULT_FILE};
use crate::memory::Memory;
use crate::source::Running;
use crate::survey::{Extent, Survey};
use crate::vm::{Port, Vm};

const HYPERVISOR: &str = "hypervisor";
const FENCES: &str = "fences";
const HARDENING: &str = "hardening";

/// The most names in a line.
const NAMES: usize = 3;

/// Checks whether the hypervisor answers.
pub fn hypervisor(running: &Result<Running>) -> Finding {
    match running {
        Err(e) => {
            let why = format!("{e:#}");
            let fix = if why.contains("was not found") {
                "install libvirt's client or Xen's tools"
            } else {
                "start the hypervisor's daemon, or set connect in /etc/macfence.toml"
            };
            Finding::fail(HYPERVISOR, why).fix(fix)
        }
        Ok(running) => {
            let count = running.vms.len() + running.failed.len();
            Finding::ok(HYPERVISOR, format!("answers; VMs that run: {count}"))
        }
    }
}

/// Checks the fences and the settings of bridges. `running`: the VMs, if the hypervisor answers.
pub fn look(config: &Config, backend: &dyn Backend, running: Option<Running>) -> Vec<Finding> {
    let actual = match backend.query().and_then(|snapshot| snapshot.fences()) {
        Ok(actual) => actual,
        Err(e) => return vec![Finding::unknown(FENCES, &e)],
    };
    let guards = actual.iter().flat_map(|fence| &fence.guards);
    let fenced: BTreeSet<_> = guards.map(|guard| guard.port.clone()).collect();
    let Some(running) = running else {
        let finding = if fenced.is_empty() {
            let text = "nothing is fenced, and it is unknown which VMs run";
            Finding::warn(FENCES, text).fix("when the hypervisor answers, run \"macfence sync\"")
        } else {
            let text = format!(
                "ports that are fenced: {}; it is unknown which VMs they belong to",
                fenced.len()
            );
            Finding::absent(FENCES, text)
        };
        return [finding]
            .into_iter()
            .chain(hardening(config, &fenced))
            .collect();
    };
    let vms = running.vms.clone();
    let extent = Extent::Ports;
    let survey = Memory::read(&actual)
        .and_then(|memory| survey(config, backend, &memory, running, &actual, extent));
    match survey {
        Ok((survey, trouble)) => {
            let mut found = judge(&vms, &survey, &fenced);
            let unbelieved = trouble.into_iter().map(|why| Finding::warn(FENCES, why));
            found.extend(unbelieved.map(|finding| {
                finding.fix("delete that file; OpenNebula's driver writes it again when it is next called for the VM")
            }));
            found.extend(hardening(config, &survey.ports));
            found
        }
        Err(e) => vec![Finding::unknown(FENCES, &e)],
    }
}

fn judge(vms: &[Vm], survey: &Survey, fenced: &BTreeSet<Port>) -> Vec<Finding> {
    let wrong = wrong(survey.findings.iter().chain(&survey.failed));
    let differing: BTreeSet<_> = wrong.iter().map(String::as_str).collect();
    let mut found = count(vms, &differing, fenced);
    let skipped = survey.skipped.iter().filter_map(|found| found.vm.as_ref());
    let skipped: BTreeSet<_> = skipped.collect();
    let is_skipped = |vm: &Vm| skipped.contains(&vm.name);
    if survey.ports.is_empty() && !vms.is_empty() && vms.iter().all(is_skipped) {
        let text = found
            .pop()
            .map_or_else(String::new, |last| last.text + "; ");
        let text = text + "bridges leaves out every VM that runs";
        let fix = format!(
            "add the VMs' bridges to bridges in {DEFAULT_FILE}, then run \"macfence sync\""
        );
        found.push(Finding::warn(FENCES, text).fix(fix));
    }
    found
}

/// Names the VMs whose fence is wrong.
fn wrong<'a>(found: impl Iterator<Item = &'a compare::Finding>) -> BTreeSet<String> {
    found
        .filter(|found| !found.state.is_well())
        .map(|found| match &found.vm {
            Some(vm) => vm.as_str().to_owned(),
            None => found.detail.join("; "),
        })
        .collect()
}

fn count(vms: &[Vm], differing: &BTreeSet<&str>, fenced: &BTreeSet<Port>) -> Vec<Finding> {
    let well = vms
        .iter()
        .filter(|vm| !differing.contains(vm.name.as_str()));
    let (whole, open): (Vec<_>, Vec<_>) = well.partition(|vm| {
        let mut ports = vm.nics.iter().map(|nic| &nic.port);
        vm.skipped.is_empty() && ports.all(|port| fenced.contains(port))
    });
    let open: BTreeSet<_> = open.iter().map(|vm| vm.name.as_str()).collect();
    let mut found = Vec::new();
    if !differing.is_empty() {
        let text = format!(
            "fences that are not as they should be: {} ({})",
            differing.len(),
            names(differing)
        );
        found.push(
            Finding::fail(FENCES, text)
                .fix("run \"macfence check\" to see why, then \"macfence sync\" to repair them"),
        );
    }
    let mut text = format!("VMs that are fenced: {}", whole.len());
    if !open.is_empty() {
        text += &format!(
            "; open, at least in part, because they are on no bridge or on one that is not in bridges: {} ({})",
            open.len(),
            names(&open)
        );
    }
    found.push(Finding::ok(FENCES, text));
    found
}

/// Lists the first of these names.
fn names(all: &BTreeSet<&str>) -> String {
    let mut names: Vec<_> = all.iter().take(NAMES).copied().collect();
    if all.len() > NAMES {
        names.push("…");
    }
    names.join(", ")
}

/// Finds what the settings of the bridges of these ports leave open.
fn hardening(config: &Config, ports: &BTreeSet<Port>) -> Vec<Finding> {
    if !config.harden_bridges {
        return vec![Finding::absent(HARDENING, "harden-bridges = false")];
    }
    let found = match bridge::weaknesses(ports) {
        Ok(found) => found,
        Err(e) => return vec![Finding::unknown(HARDENING, &e)],
    };
    let weaknesses = found.weaknesses.iter().map(ToString::to_string);
    let unsupported = found.unsupported.iter().map(ToString::to_string);
    let all: Vec<_> = weaknesses
        .chain(unsupported)
        .map(|text| told(&text))
        .collect();
    if !all.is_empty() {
        return all;
    }
    if ports.is_empty() {
        return Vec::new();
    }
    vec![Finding::ok(
        HARDENING,
        "bridges and ports of VMs are set as they should be",
    )]
}

/// Makes a finding of a weakness, whose text ends with the fix.
fn told(text: &str) -> Finding {
    match text.rsplit_once(": ") {
        Some((text, fix)) => Finding::warn(HARDENING, text).fix(fix),
        None => Finding::warn(HARDENING, text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::bridge::Weakness;
    use crate::policy::Policy;
    use crate::survey::Host;
    use crate::vm::{Nic, Place};

    fn vm(name: &str, ports: &[&str]) -> Vm {
        let nic = |port: &&str| {
            let mac = "02:00:00:00:00:01".parse().unwrap();
            Nic::new(port.parse().unwrap(), mac, None).unwrap()
        };
        Vm {
            name: name.parse().unwrap(),
            nics: ports.iter().map(nic).collect(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn vms_are_fenced_open_or_otherwise() {
        let fenced: BTreeSet<Port> = ["p0", "p1"].map(|port| port.parse().unwrap()).into();
        let vms = [vm("a", &["p0", "p1"]), vm("b", &["p2"]), vm("c", &["p3"])];
        let differing = ["c", "gone"].into();
        let found = count(&vms, &differing, &fenced);
        assert_eq!(found[0].level, Level::Fail);
        assert_eq!(
            found[0].text,
            "fences that are not as they should be: 2 (c, gone)"
        );
        assert_eq!(found[1].level, Level::Ok);
        assert!(
            found[1].text.starts_with("VMs that are fenced: 1; open"),
            "{found:?}"
        );
        assert!(found[1].text.ends_with(": 1 (b)"), "{found:?}");
        let found = count(&vms[..1], &BTreeSet::new(), &fenced);
        assert_eq!(
            (found.len(), found[0].text.as_str()),
            (1, "VMs that are fenced: 1")
        );
        assert_eq!(names(&["1", "2", "3", "4"].into()), "1, 2, 3, …");
    }

    #[test]
    fn it_is_a_warning_if_bridges_leaves_out_all_vms() {
        let (vms, policy) = (vec![vm("a", &["p0"])], |bridge: &str| Policy {
            bridges: vec![bridge.to_owned()],
            ..Policy::default()
        });
        let levels = |bridge| {
            let host = Host {
                unknown: &BTreeSet::new(),
                place_of: &|_| Ok(Place::Nic("br0".to_owned())),
                can_hold: &|_| Ok(()),
            };
            let running = Running {
                vms: vms.clone(),
                failed: Vec::new(),
            };
            let survey = Survey::of(&policy(bridge), running, &[], &host, Extent::Ports).unwrap();
            let found = judge(&vms, &survey, &BTreeSet::new());
            found.iter().map(|found| found.level).collect::<Vec<_>>()
        };
        assert_eq!(levels("br1"), [Level::Warn]);
        assert_eq!(levels("br0"), [Level::Fail, Level::Ok]);
    }

    #[test]
    fn a_weakness_comes_with_its_command() {
        let weakness = Weakness::LinkLocalLearning("br0".to_owned());
        let found = told(&weakness.to_string());
        let command = "run \"ip link set dev br0 type bridge no_linklocal_learn 1\"";
        assert_eq!(found.fix.as_deref(), Some(command));
        assert!(found.text.ends_with("which no rule sees"), "{found:?}");
    }
}
