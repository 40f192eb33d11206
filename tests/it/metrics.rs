//! What `metrics` says is what `list` and `check` say, as Prometheus reads it.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with, need, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";

fn metrics(host: &Host, virsh: &tempfile::TempDir, args: &[&str]) -> Ran {
    host.exec(macfence_with(virsh).arg("metrics").args(args), "")
}

/// Metrics without their explanations.
fn values(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn promtool_accepts(host: &Host, text: &str) {
    need("promtool");
    let said = host.exec(Command::new("promtool").args(["check", "metrics"]), text);
    assert_eq!(
        (said.status, &*said.stdout, &*said.stderr),
        (0, "", ""),
        "{said:?}"
    );
}

#[test]
fn drops_fences_and_differences_are_counted() {
    let host = Host::new();
    host.bridge("br0");
    let a = host.tap("br0", "vnet0");
    let b = host.tap("br0", "vnet1");
    let odd = "b\"\\\n{}";
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    let xml = domain(odd, &[(B, "vnet1", "br0")]);
    host.apply(&xml).ok();
    let everybody = "ff:ff:ff:ff:ff:ff".parse().unwrap();
    for number in 0..3 {
        a.send(&frame(Kind::Arp, B.parse().unwrap(), everybody, number));
    }
    b.send(&frame(Kind::Arp, B.parse().unwrap(), everybody, 4));
    // Of three VMs that run one is fenced, one not, and one otherwise; a fourth has ended.
    let virsh = fake_virsh(&[
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("c", &domain("c", &[(A, "vnet1", "br0")])),
        ("d", &domain("d", &[])),
    ]);
    let text = metrics(&host, &virsh, &[]).ok();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        values(&text),
        [
            "macfence_checked 1",
            "macfence_differences{state=\"differs\"} 0",
            "macfence_differences{state=\"missing\"} 1",
            "macfence_differences{state=\"stale\"} 1",
            "macfence_dropped_packets_total{direction=\"from\",port=\"vnet0\",reason=\"spoofed\",vm=\"a\"} 3",
            "macfence_dropped_packets_total{direction=\"from\",port=\"vnet1\",reason=\"spoofed\",vm=\"b\\\"\\\\\\n{}\"} 0",
            "macfence_dropped_packets_total{direction=\"to\",port=\"vnet0\",reason=\"foreign\",vm=\"a\"} 1",
            "macfence_dropped_packets_total{direction=\"to\",port=\"vnet1\",reason=\"foreign\",vm=\"b\\\"\\\\\\n{}\"} 0",
            "macfence_fenced_ports 2",
            "macfence_fenced_vms 2",
            &format!("macfence_info{{backend=\"nft\",version=\"{version}\"}} 1"),
        ]
    );
    promtool_accepts(&host, &text);
    // Without a hypervisor there is less to say.
    script(&virsh, "virsh", "exit 1");
    let ran = metrics(&host, &virsh, &[]);
    assert!(
        ran.stderr.contains("cannot be checked: virsh"),
        "{}",
        ran.stderr
    );
    let text = ran.ok();
    assert!(
        text.contains("macfence_checked 0") && text.contains("vnet0"),
        "{text}"
    );
    assert!(!text.contains("macfence_differences"), "{text}");
    promtool_accepts(&host, &text);
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let host = Host::new();
    host.bridge("br0");
    let virsh = fake_virsh(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("macfence.prom");
    let output = ["--output", path.to_str().unwrap()];
    assert_eq!(metrics(&host, &virsh, &output).ok(), "");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, metrics(&host, &virsh, &[]).ok());
    // Everybody may read it, and nothing is left beside it.
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    // A reader that has the old one open keeps the old one.
    let old = std::fs::File::open(&path).unwrap();
    metrics(&host, &virsh, &output).ok();
    assert_eq!(std::io::read_to_string(old).unwrap(), text);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    // Where it cannot be replaced it stays as it was.
    let wrong = dir.path().join("missing/macfence.prom");
    let error = metrics(&host, &virsh, &["--output", wrong.to_str().unwrap()]).error();
    assert!(error.contains(wrong.to_str().unwrap()), "{error}");
}

#[test]
fn an_old_host_has_metrics_too() {
    let host = Host::new();
    host.hide("nft");
    host.bridge("br0");
    host.ports("br0", &["vnet0"]);
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    host.apply(&xml).ok();
    let text = metrics(&host, &fake_virsh(&[("a", &xml)]), &[]).ok();
    for line in [
        "macfence_fenced_vms 1",
        "macfence_dropped_packets_total{direction=\"to\",port=\"vnet0\",reason=\"foreign\",vm=\"a\"} 0",
        "macfence_differences{state=\"missing\"} 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    promtool_accepts(&host, &text);
}
