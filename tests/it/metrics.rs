//! `metrics` gives the same facts as `list` and `check`, for Prometheus.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with, need, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";

fn metrics(host: &Host, virsh: &tempfile::TempDir, args: &[&str]) -> Ran {
    host.exec(macfence_with(virsh).arg("metrics").args(args), "")
}

const TIME: &str = "macfence_last_look_timestamp_seconds ";

/// Returns the metrics without their explanations and without the time.
fn values(text: &str) -> Vec<&str> {
    let values = text.lines().filter(|line| !line.starts_with('#'));
    values.filter(|line| !line.starts_with(TIME)).collect()
}

/// Returns the time of the last successful look.
fn time(text: &str) -> Option<u64> {
    let time = text.lines().find_map(|line| line.strip_prefix(TIME))?;
    Some(time.parse().unwrap())
}

fn now() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    now.as_secs()
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
    // Of three running VMs one is fenced, one is not, and one has no NIC. A fourth has ended.
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
            "macfence_differing_vms 0",
            "macfence_dropped_packets_total{bridge=\"br0\",direction=\"from\",one_vm_id=\"\",port=\"vnet0\",reason=\"spoofed\",vm=\"a\"} 3",
            "macfence_dropped_packets_total{bridge=\"br0\",direction=\"from\",one_vm_id=\"\",port=\"vnet1\",reason=\"spoofed\",vm=\"b\\\"\\\\\\n{}\"} 0",
            "macfence_dropped_packets_total{bridge=\"br0\",direction=\"to\",one_vm_id=\"\",port=\"vnet0\",reason=\"foreign\",vm=\"a\"} 1",
            "macfence_dropped_packets_total{bridge=\"br0\",direction=\"to\",one_vm_id=\"\",port=\"vnet1\",reason=\"foreign\",vm=\"b\\\"\\\\\\n{}\"} 0",
            "macfence_fenced_ports 2",
            "macfence_fenced_vms 2",
            &format!("macfence_info{{backend=\"nft\",version=\"{version}\"}} 1"),
            "macfence_port_state{bridge=\"br0\",one_vm_id=\"\",port=\"vnet0\",state=\"fenced\",vm=\"a\"} 1",
            "macfence_port_state{bridge=\"br0\",one_vm_id=\"\",port=\"vnet1\",state=\"stale\",vm=\"b\\\"\\\\\\n{}\"} 1",
            "macfence_port_state{bridge=\"br0\",one_vm_id=\"\",port=\"vnet1\",state=\"unfenced\",vm=\"c\"} 1",
            "macfence_unfenced_vms{cause=\"bridgeless\"} 0",
            "macfence_unfenced_vms{cause=\"configuration\"} 0",
            "macfence_unfenced_vms{cause=\"failed\"} 0",
            "macfence_unfenced_vms{cause=\"missing\"} 1",
            "macfence_unknown_bridges 0",
        ]
    );
    promtool_accepts(&host, &text);
    assert!(time(&text).unwrap().abs_diff(now()) < 60, "{text}");
    // Without a hypervisor there are fewer metrics.
    script(&virsh, "virsh", "exit 1");
    let ran = metrics(&host, &virsh, &[]);
    assert!(
        ran.stderr.contains("with the running VMs: virsh"),
        "{}",
        ran.stderr
    );
    let text = ran.ok();
    assert!(
        text.contains("macfence_checked 0") && text.contains("vnet0"),
        "{text}"
    );
    assert!(!text.contains("macfence_differences"), "{text}");
    assert!(!text.contains("macfence_port_state"), "{text}");
    assert_eq!(time(&text), None);
    promtool_accepts(&host, &text);
}

#[test]
fn labels_have_opennebulas_vm_number_and_the_name_of_an_unknown_bridge() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-42-0"]);
    let xml = domain("one-42", &[(A, "one-42-0", "br0")]);
    host.apply(&xml).ok();
    let virsh = fake_virsh(&[("one-42", &xml)]);
    let text = metrics(&host, &virsh, &["--bridge", "br0", "--bridge", "br0x"]).ok();
    for line in [
        "macfence_dropped_packets_total{bridge=\"br0\",direction=\"from\",one_vm_id=\"42\",\
         port=\"one-42-0\",reason=\"spoofed\",vm=\"one-42\"} 0",
        "macfence_bridge_exists{bridge=\"br0\"} 1",
        "macfence_bridge_exists{bridge=\"br0x\"} 0",
        "macfence_unknown_bridges 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    promtool_accepts(&host, &text);
    let text = metrics(&host, &virsh, &["--bridge", "br0x"]).ok();
    assert!(
        text.contains("macfence_unfenced_vms{cause=\"configuration\"} 0"),
        "{text}"
    );
    host.macfence(["remove", "one-42"]).ok();
    let text = metrics(&host, &virsh, &["--bridge", "br0x"]).ok();
    assert!(
        text.contains("macfence_unfenced_vms{cause=\"configuration\"} 1"),
        "{text}"
    );
    promtool_accepts(&host, &text);
}

#[test]
fn a_file_keeps_the_time_of_the_last_look_that_succeeded() {
    let host = Host::new();
    let virsh = fake_virsh(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("macfence.prom");
    let output = ["--output", path.to_str().unwrap()];
    metrics(&host, &virsh, &output).ok();
    let text = std::fs::read_to_string(&path).unwrap();
    let old = format!("{TIME}1234567");
    let new = format!("{TIME}{}", time(&text).unwrap());
    std::fs::write(&path, text.replace(&new, &old)).unwrap();
    script(&virsh, "virsh", "exit 1");
    for _ in 0..2 {
        metrics(&host, &virsh, &output).ok();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("macfence_checked 0"), "{text}");
        assert_eq!(time(&text), Some(1_234_567));
    }
    promtool_accepts(&host, &std::fs::read_to_string(&path).unwrap());
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
    assert_eq!(values(&text), values(&metrics(&host, &virsh, &[]).ok()));
    // Everybody may read the file, and no other file is left beside it.
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    // A reader that has the old file open keeps it.
    let old = std::fs::File::open(&path).unwrap();
    metrics(&host, &virsh, &output).ok();
    assert_eq!(std::io::read_to_string(old).unwrap(), text);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    // If the file cannot be replaced, the old one stays.
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
        "macfence_dropped_packets_total{bridge=\"br0\",direction=\"to\",one_vm_id=\"\",port=\"vnet0\",reason=\"foreign\",vm=\"a\"} 0",
        "macfence_differences{state=\"missing\"} 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    promtool_accepts(&host, &text);
}
