//! `macfence metrics`: what is fenced, dropped and amiss, for Prometheus.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::list;
use super::shared::{print, survey};
use crate::backend;
use crate::compare::State;
use crate::config::Config;
use crate::fence::ActualFence;
use crate::memory::Memory;
use crate::report;
use crate::source::Hypervisors;

/// Runs it.
pub fn run(config: &Config, output: Option<&PathBuf>) -> Result<()> {
    let text = text(config)?;
    match output {
        None => print(&text),
        Some(path) => {
            write(path, &text).with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

fn text(config: &Config) -> Result<String> {
    let vms = Hypervisors::ask(&config.connect).and_then(|hypervisors| hypervisors.running());
    let backend = backend::choose(config.backend);
    let actual = list::fences(config, &*backend)?;
    let metrics = Metrics::new()?;
    metrics.count(&actual)?;
    // What can be said without the hypervisor is said without it.
    let checked = vms.and_then(|vms| {
        let memory = Memory::read(&actual)?;
        survey(config, &*backend, &memory, vms, &actual)
    });
    match checked {
        Ok((survey, trouble)) => {
            trouble.iter().for_each(|trouble| report::warning(trouble));
            metrics.checked.set(1);
            for state in [State::Missing, State::Differs, State::Stale] {
                let found = survey.findings.iter().chain(&survey.failed);
                let count = found.filter(|found| found.state == state).count();
                metrics
                    .differences
                    .get_metric_with_label_values(&[&state.to_string()])?
                    .set(count.try_into()?);
            }
        }
        Err(e) => report::warning(&format!("the fences cannot be checked: {e:#}")),
    }
    let version = env!("CARGO_PKG_VERSION");
    metrics
        .info
        .get_metric_with_label_values(&[version, backend.name()])?
        .set(1);
    Ok(TextEncoder::new().encode_to_string(&metrics.registry.gather())?)
}

struct Metrics {
    registry: Registry,
    info: IntGaugeVec,
    vms: IntGauge,
    ports: IntGauge,
    dropped: IntCounterVec,
    checked: IntGauge,
    differences: IntGaugeVec,
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
            "Packets dropped in front of a VM's port, since its rule was loaded: from the VM under \
             another's MAC address (spoofed) or IP address (forged), or to the VM out of another network \
             (foreign).",
        );
        Ok(Self {
            info: gauges(
                "macfence_info",
                "Version of macfence, and the firewall in use.",
                &["version", "backend"],
            )?,
            vms: gauge("macfence_fenced_vms", "VMs that have a fence.")?,
            ports: gauge("macfence_fenced_ports", "Ports that have a fence.")?,
            dropped: add(
                &registry,
                IntCounterVec::new(dropped, &["vm", "port", "direction", "reason"]),
            )?,
            checked: gauge(
                "macfence_checked",
                "Whether the fences could be compared with the running VMs (1) or not (0).",
            )?,
            differences: gauges(
                "macfence_differences",
                "VMs whose fence is missing, differs from what it should be, or is stale.",
                &["state"],
            )?,
            registry,
        })
    }

    fn count(&self, actual: &[ActualFence]) -> Result<()> {
        let mut ports = BTreeSet::new();
        for fence in actual {
            let vm = fence.vm.as_ref().map_or("", |vm| vm.as_str());
            for guard in &fence.guards {
                ports.insert(&guard.port);
                for (direction, reason, packets) in [
                    ("from", "spoofed", guard.dropped.spoofed),
                    ("to", "foreign", guard.dropped.foreign),
                    ("from", "forged", guard.dropped.forged),
                ] {
                    let labels = [vm, guard.port.as_str(), direction, reason];
                    if let Some(packets) = packets {
                        self.dropped
                            .get_metric_with_label_values(&labels)?
                            .inc_by(packets);
                    }
                }
            }
        }
        let vms: BTreeSet<_> = actual
            .iter()
            .filter_map(|fence| fence.vm.as_ref())
            .collect();
        self.vms.set(vms.len().try_into()?);
        self.ports.set(ports.len().try_into()?);
        Ok(())
    }
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> Result<C> {
    let made = made?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

/// Puts the text in a file's place as a whole: who reads it, as node_exporter does, reads the old
/// text or the new.
fn write(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}
