//! Tests the files in share/ for Prometheus and Grafana with the real Prometheus and the real
//! node_exporter. Debian has no package of Grafana, so the dashboard's queries are checked instead.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, domain, fake_virsh, macfence_with, need, source, until};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";

const ALERTS: &str = "share/prometheus/alerts.yml";

fn shipped(path: &str) -> String {
    fs::read_to_string(source(path)).expect(path)
}

fn promtool(args: &[&str]) {
    need("promtool");
    let output = Command::new("promtool")
        .args(args)
        .output()
        .expect("promtool");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

#[test]
fn prometheus_accepts_the_alerts_and_each_fires_in_its_case() {
    let alerts = source(ALERTS);
    let alerts = alerts.to_str().unwrap();
    promtool(&["check", "rules", alerts]);
    // A series, and the alert that must fire for it within twenty minutes. Empty: no alert must
    // fire.
    let labels = "instance=\"h\",one_host_id=\"0\"";
    let vm = "vm=\"a\",one_vm_id=\"1\",bridge=\"br0\",port=\"p\"";
    let cases = [
        (
            format!("macfence_differences{{{labels},state=\"missing\"}}"),
            "0x20",
            "",
        ),
        (
            format!("macfence_differences{{{labels},state=\"stale\"}}"),
            "1x20",
            "",
        ),
        (
            format!("macfence_differences{{{labels},state=\"missing\"}}"),
            "1x20",
            "MacfenceFenceMissing",
        ),
        (
            format!("macfence_differences{{{labels},state=\"differs\"}}"),
            "2x20",
            "MacfenceFenceMissing",
        ),
        (
            format!("macfence_unfenced_vms{{{labels}}}"),
            "1x20",
            "MacfenceVMsUnfenced",
        ),
        (
            format!("macfence_unknown_bridges{{{labels}}}"),
            "1x20",
            "MacfenceBridgeUnknown",
        ),
        (format!("macfence_checked{{{labels}}}"), "1x20", ""),
        (
            format!("macfence_checked{{{labels}}}"),
            "0x20",
            "MacfenceNotChecked",
        ),
        (
            format!("macfence_last_look_timestamp_seconds{{{labels}}}"),
            "0+60x20",
            "",
        ),
        (
            format!("macfence_last_look_timestamp_seconds{{{labels}}}"),
            "0x20",
            "MacfenceLookOld",
        ),
        (
            format!("node_textfile_mtime_seconds{{{labels},file=\"/x/macfence.prom\"}}"),
            "0x20",
            "MacfenceMetricsOld",
        ),
        (
            format!("node_textfile_mtime_seconds{{{labels},file=\"/x/apt.prom\"}}"),
            "0x20",
            "",
        ),
        (
            format!(
                "macfence_dropped_packets_total{{{labels},{vm},direction=\"from\",reason=\"spoofed\"}}"
            ),
            "0+10x20",
            "MacfenceFalseAddress",
        ),
        (
            format!(
                "macfence_dropped_packets_total{{{labels},{vm},direction=\"to\",reason=\"foreign\"}}"
            ),
            "0+10x20",
            "",
        ),
    ];
    let names: Vec<_> = shipped(ALERTS)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned))
        .collect();
    for name in &names {
        assert!(cases.iter().any(|(_, _, alert)| alert == name), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    for (number, (series, values, alert)) in cases.iter().enumerate() {
        // promtool also compares annotations. So ask for the firing alerts as a series.
        let fires = "count by (alertname) (ALERTS{alertstate=\"firing\"})";
        let samples: Vec<_> = [*alert]
            .iter()
            .filter(|alert| !alert.is_empty())
            .map(|alert| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1}))
            .collect();
        let test = json!({
            "rule_files": [alerts],
            "evaluation_interval": "1m",
            "tests": [{
                "interval": "1m",
                "input_series": [{"series": series, "values": values}],
                "promql_expr_test": [{"expr": fires, "eval_time": "20m", "exp_samples": samples}],
            }],
        });
        let file = dir.path().join(format!("{number}.yml"));
        // JSON is valid YAML.
        fs::write(&file, test.to_string()).unwrap();
        promtool(&["test", "rules", file.to_str().unwrap()]);
    }
    // Severities and annotations as in OpenNebula's own alerts.
    let text = shipped(ALERTS);
    let severe = |severity: &str| text.matches(&format!("severity: {severity} ")).count();
    assert_eq!(severe("critical") + severe("warning"), names.len());
    for annotation in ["title: ", "description: "] {
        assert_eq!(text.matches(annotation).count(), names.len());
    }
}

/// Returns the queries of a dashboard.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let text = |target: &Value| target["expr"].as_str().expect("a query").to_owned();
    targets.map(text).collect()
}

/// Fills in Grafana's variables.
fn filled(query: &str) -> String {
    query
        .replace("$one_host_id", ".*")
        .replace("$__rate_interval", "1m")
}

#[test]
fn prometheus_accepts_the_dashboards_queries_and_its_variables_are_opennebulas() {
    let dashboard: Value =
        serde_json::from_str(&shipped("share/prometheus/dashboard.json")).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["DS_PROMETHEUS", "one_host_id"]);
    let mut ids = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert_eq!(panel["datasource"]["uid"], "${DS_PROMETHEUS}", "{panel}");
        assert!(panel["title"].is_string() && panel["gridPos"]["w"].is_u64());
        ids.push(panel["id"].as_u64().unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len());
    let queries = queries(&dashboard);
    assert!(queries.iter().all(|query| query.contains("$one_host_id")));
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| json!({"record": format!("q{number}"), "expr": filled(query)}))
        .collect();
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(file.path(), rules.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

/// A program that ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(host: &Host, program: &str, args: &[&str]) -> Self {
        let path = need(program);
        let mut command = Command::new(path);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(host.run(|| command.spawn().expect("a daemon")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns Prometheus's answer; null while it does not answer yet.
fn ask(host: &Host, path: &str) -> Value {
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9090")?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = host.run(get).unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_default()
}

/// Returns the firing alerts with their labels.
fn firing(host: &Host) -> Vec<Value> {
    let said = ask(host, "/api/v1/alerts");
    let alerts = said["data"]["alerts"].as_array().cloned();
    let mut alerts = alerts.unwrap_or_default();
    alerts.retain(|alert| alert["state"] == "firing");
    alerts
}

#[test]
fn an_alert_fires_in_prometheus_for_metrics_read_by_node_exporter() {
    let host = Host::new();
    host.ip("link set lo up\n");
    host.bridge("br0");
    let tap = host.tap("br0", "one-1-0");
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    host.apply(&xml).ok();
    let virsh = fake_virsh(&[("one-1", &xml)]);
    let dir = tempfile::tempdir().unwrap();
    let (text, data) = (dir.path().join("text"), dir.path().join("data"));
    fs::create_dir(&text).unwrap();
    let output = text.join("macfence.prom");
    let write = || {
        let mut command = macfence_with(&virsh);
        command.args(["metrics", "--output"]).arg(&output);
        host.exec(&mut command, "").ok();
    };
    write();
    let _exporter = Daemon::start(
        &host,
        "prometheus-node-exporter",
        &[
            "--web.listen-address=127.0.0.1:9100",
            "--collector.disable-defaults",
            "--collector.textfile",
            &format!("--collector.textfile.directory={}", text.display()),
        ],
    );
    // The shipped rules without their `for`: here a condition need not hold for minutes.
    let rules: String = shipped(ALERTS)
        .lines()
        .filter(|line| !line.trim().starts_with("for: "))
        .map(|line| format!("{line}\n"))
        .collect();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let rules = file("alerts.yml", &rules);
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": [{
            "job_name": "node_exporter",
            "static_configs": [
                {"targets": ["127.0.0.1:9100"], "labels": {"one_host_id": "7"}},
            ],
        }],
    });
    let config = file("prometheus.yml", &config.to_string());
    let _prometheus = Daemon::start(
        &host,
        "prometheus",
        &[
            "--web.listen-address=127.0.0.1:9090",
            &format!("--config.file={}", config.display()),
            &format!("--storage.tsdb.path={}", data.display()),
        ],
    );
    let fenced = || {
        let said = ask(&host, "/api/v1/query?query=macfence_fenced_vms");
        said["data"]["result"][0]["value"][1] == "1"
    };
    until("the metrics are scraped", fenced);
    assert_eq!(firing(&host), [] as [Value; 0]);

    // The VM sends under another's address, and somebody deletes its fence.
    let everybody = "ff:ff:ff:ff:ff:ff".parse().unwrap();
    for number in 0..50 {
        tap.send(&frame(Kind::Arp, B.parse().unwrap(), everybody, number));
    }
    write();
    let false_address = |alert: &Value| {
        let labels = &alert["labels"];
        labels["alertname"] == "MacfenceFalseAddress" && labels["vm"] == "one-1"
    };
    until("an alert about false addresses", || {
        firing(&host).iter().any(false_address)
    });
    host.ok("nft", &["delete", "table", "bridge", "macfence"]);
    write();
    let missing = |alert: &Value| {
        let labels = &alert["labels"];
        labels["alertname"] == "MacfenceFenceMissing" && labels["one_host_id"] == "7"
    };
    until("an alert about a missing fence", || {
        firing(&host).iter().any(missing)
    });
    let alerts = firing(&host);
    let alert = alerts.iter().find(|alert| missing(alert)).unwrap();
    assert_eq!(alert["labels"]["severity"], "critical");
    let title = alert["annotations"]["title"].as_str().unwrap();
    assert!(
        title.ends_with("with a missing or wrong fence: 1"),
        "{title}"
    );
}

#[test]
fn systemd_accepts_the_timer_and_the_drop_in() {
    need("systemd-analyze");
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    let analyze = |args: &[&str], path: &Path| {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(args).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{output:?}");
    };
    let service = shipped("share/systemd/macfence-metrics.service");
    // The service has the same sandbox as the others.
    let others = shipped("share/systemd/macfence-sync.service");
    let (_, sandbox) = others.split_once("CapabilityBoundingSet=").unwrap();
    let (sandbox, _) = sandbox.split_once("[Install]").unwrap();
    for line in sandbox.lines().filter(|line| !line.starts_with("UMask=")) {
        assert!(service.contains(line), "{line}");
    }
    let service = service.replace("@sbindir@/macfence", "/bin/true");
    let service = put("macfence-metrics.service", &service);
    let timer = put(
        "macfence-metrics.timer",
        &shipped("share/systemd/macfence-metrics.timer"),
    );
    analyze(&["verify", "--man=no"], &service);
    analyze(&["verify", "--man=no"], &timer);
    let security = ["security", "--offline=true", "--no-pager", "--threshold=20"];
    analyze(&security, &service);
    let unit = "[Service]\nType=exec\nExecStart=/bin/false\n";
    let unit = put("opennebula-node-exporter.service", unit);
    let drop_in = shipped("share/prometheus/opennebula-node-exporter.conf");
    let drop_in = drop_in.replace("/usr/bin/node_exporter", "/bin/true");
    put("opennebula-node-exporter.service.d/macfence.conf", &drop_in);
    analyze(&["verify", "--man=no"], &unit);
}
