//! `macfence metrics`: reports fences, dropped packets and faults to Prometheus.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::look::{Look, look};
use super::shared::{print, unknown_bridges};
use crate::compare::State;
use crate::config::Config;
use crate::report;
use crate::survey::{Cause, Entry, Status, Survey};
use crate::vm::{Port, VmName};

/// The metric with the time of the last successful look.
const SUCCESS: &str = "macfence_last_look_timestamp_seconds";

/// Runs it.
pub fn run(config: &Config, output: Option<&PathBuf>) -> Result<()> {
    let text = text(config, output)?;
    match output {
        None => print(&text),
        Some(path) => {
            write(path, &text).with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

fn text(config: &Config, output: Option<&PathBuf>) -> Result<String> {
    let Look {
        backend,
        survey,
        entries,
    } = look(config)?;
    let metrics = Metrics::new()?;
    metrics.count(&entries)?;
    metrics.tell_bridges(config)?;
    // Without the hypervisor, report what is known without it.
    match survey {
        Ok(survey) => metrics.tell_survey(&survey, &entries)?,
        Err(e) => {
            report::warning(&format!(
                "cannot compare the fences with the running VMs: {e:#}"
            ));
            if let Some(last) = output.and_then(|path| last_success(path)) {
                metrics.success()?.set(last);
            }
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    metrics
        .info
        .get_metric_with_label_values(&[version, backend.name()])?
        .set(1);
    Ok(TextEncoder::new().encode_to_string(&metrics.registry.gather())?)
}

/// Reads when the fences were last compared with the running VMs, from the file that is about to be
/// replaced.
fn last_success(path: &Path) -> Option<i64> {
    let text = fs::read_to_string(path).ok()?;
    let values = text.lines().filter_map(|line| line.strip_prefix(SUCCESS));
    values.filter_map(|value| value.trim().parse().ok()).next()
}

struct Metrics {
    registry: Registry,
    info: IntGaugeVec,
    vms: IntGauge,
    ports: IntGauge,
    dropped: IntCounterVec,
    checked: IntGauge,
    differences: IntGaugeVec,
    states: IntGaugeVec,
    unfenced: IntGaugeVec,
    differing: IntGaugeVec,
    bridges: IntGaugeVec,
    unknown_bridges: IntGauge,
}

impl Metrics {
    fn new() -> Result<Self> {
        let registry = Registry::new();
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            add(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| add(&registry, IntGauge::new(name, help));
        let dropped = Opts::new(
            "macfence_dropped_packets_total",
            "Packets dropped at a VM's port since its rule was loaded: from the VM with another's MAC \
             address (spoofed) or IP address (forged), or to the VM from another network (foreign).",
        );
        let labels = ["vm", "one_vm_id", "bridge", "port", "direction", "reason"];
        Ok(Self {
            info: gauges(
                "macfence_info",
                "Version of macfence, and the firewall in use.",
                &["version", "backend"],
            )?,
            vms: gauge("macfence_fenced_vms", "VMs that have a fence.")?,
            ports: gauge("macfence_fenced_ports", "Ports that have a fence.")?,
            dropped: add(&registry, IntCounterVec::new(dropped, &labels))?,
            checked: gauge(
                "macfence_checked",
                "Whether the fences could be compared with the running VMs (1) or not (0).",
            )?,
            differences: gauges(
                "macfence_differences",
                "VMs whose fence is missing, differs from what it should be, or is stale.",
                &["state"],
            )?,
            states: gauges(
                "macfence_port_state",
                "1 for the state that a port is in: fenced, unfenced, stale or differs.",
                &["vm", "one_vm_id", "bridge", "port", "state"],
            )?,
            unfenced: gauges(
                "macfence_unfenced_vms",
                "Running VMs with a port that is not fenced, by cause: nothing has fenced it yet (missing), \
                 it cannot be fenced (failed), its bridge is not in bridges (configuration), it is on no \
                 bridge (bridgeless).",
                &["cause"],
            )?,
            differing: gauges(
                "macfence_differing_vms",
                "VMs with a port whose rules differ from what they should be.",
                &[],
            )?,
            bridges: gauges(
                "macfence_bridge_exists",
                "Whether a bridge in bridges exists on this host (1) or not (0).",
                &["bridge"],
            )?,
            unknown_bridges: gauge(
                "macfence_unknown_bridges",
                "Bridges in bridges that do not exist on this host.",
            )?,
            registry,
        })
    }

    fn count(&self, entries: &[Entry]) -> Result<()> {
        let (mut vms, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries {
            let [vm, id, bridge, port] = labels(entry);
            vms.extend(entry.vm.as_ref().filter(|_| entry.chain.is_some()));
            let Some(guard) = &entry.held else { continue };
            ports.insert(&guard.port);
            for (direction, reason, packets) in [
                ("from", "spoofed", guard.dropped.spoofed),
                ("to", "foreign", guard.dropped.foreign),
                ("from", "forged", guard.dropped.forged),
            ] {
                let labels = [vm, id, bridge, port, direction, reason];
                if let Some(packets) = packets {
                    self.dropped
                        .get_metric_with_label_values(&labels)?
                        .inc_by(packets);
                }
            }
        }
        self.vms.set(vms.len().try_into()?);
        self.ports.set(ports.len().try_into()?);
        Ok(())
    }

    fn tell_bridges(&self, config: &Config) -> Result<()> {
        let unknown = unknown_bridges(config);
        for bridge in &config.policy.bridges {
            self.bridges
                .get_metric_with_label_values(&[bridge])?
                .set((!unknown.contains(bridge.as_str())).into());
        }
        self.unknown_bridges.set(unknown.len().try_into()?);
        Ok(())
    }

    fn tell_survey(&self, survey: &Survey, entries: &[Entry]) -> Result<()> {
        self.checked.set(1);
        for state in [State::Missing, State::Differs, State::Stale] {
            let found = survey.findings.iter().chain(&survey.failed);
            let count = found.filter(|found| found.state == state).count();
            self.differences
                .get_metric_with_label_values(&[&state.to_string()])?
                .set(count.try_into()?);
        }
        for entry in entries {
            let [vm, id, bridge, port] = labels(entry);
            let labels = [vm, id, bridge, port, entry.status.word()];
            self.states.get_metric_with_label_values(&labels)?.set(1);
        }
        let vms = |is_counted: &dyn Fn(&Entry) -> bool| {
            let entries = entries.iter().filter(|entry| is_counted(entry));
            let vms: BTreeSet<_> = entries.map(|entry| &entry.vm).collect();
            i64::try_from(vms.len())
        };
        for cause in Cause::ALL {
            self.unfenced
                .get_metric_with_label_values(&[&cause.to_string()])?
                .set(vms(&|entry| entry.cause() == Some(cause))?);
        }
        let differing = vms(&|entry| matches!(entry.status, Status::Differs(_)))?;
        self.differing
            .get_metric_with_label_values::<&str>(&[])?
            .set(differing);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        self.success()?.set(now.as_secs().try_into()?);
        Ok(())
    }

    /// Registered only if there is a value, because 0 would be a time.
    fn success(&self) -> Result<IntGauge> {
        let help =
            "When the fences were last compared with the running VMs, in seconds since 1970.";
        add(&self.registry, IntGauge::new(SUCCESS, help))
    }
}

/// The labels of an entry: VM, OpenNebula's number of the VM, bridge and port.
fn labels(entry: &Entry) -> [&str; 4] {
    let vm = entry.vm.as_ref();
    [
        vm.map_or("", VmName::as_str),
        vm.and_then(VmName::one_id).unwrap_or_default(),
        entry.bridge.as_deref().unwrap_or_default(),
        entry.port.as_ref().map_or("", Port::as_str),
    ]
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> Result<C> {
    let made = made?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

/// Replaces the file in one step, so that a reader such as node_exporter finds either the old text or
/// the new.
fn write(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}
