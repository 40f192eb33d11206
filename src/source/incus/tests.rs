use proptest::prelude::*;

use super::*;

const CAPTURE: &str = include_str!("../../../tests/captures/incus-6.0.4-instances.json");

fn nic(port: &str, mac: &str, bridge: Option<&str>) -> Nic {
    let bridge = bridge.map(str::to_owned);
    Nic::new(port.parse().unwrap(), mac.parse().unwrap(), bridge).unwrap()
}

/// An instance with one bridged NIC.
fn instance(name: &str, status: &str, location: &str, port: &str) -> Instance {
    let json = format!(
        r#"[{{"name": "{name}", "project": "default", "status": "{status}", "location": "{location}",
            "config": {{"volatile.eth0.host_name": "{port}", "volatile.eth0.hwaddr": "02:00:c0:a8:00:05"}},
            "expanded_devices": {{"eth0": {{"type": "nic", "network": "lan"}}, "root": {{"type": "disk"}}}}
        }}]"#
    );
    read(&json).unwrap().remove(0)
}

/// The names of running instances, and the errors of those that cannot be described.
fn running(instances: Vec<Instance>, here: Option<&str>) -> Vec<String> {
    let told = vms(instances, here, &|port| port.as_str() != "gone").unwrap();
    let said = told.into_iter().filter_map(|(name, vm)| match vm {
        Ok(vm) => vm.map(|_| name.to_string()),
        Err(e) => Some(format!("{e:#}")),
    });
    said.collect()
}

#[test]
fn the_answer_of_incus_is_read() {
    let told = vms(read(CAPTURE).unwrap(), None, &|_| true).unwrap();
    let vms: BTreeMap<_, _> = told
        .into_iter()
        .map(|(name, vm)| (name.to_string(), vm.unwrap()))
        .collect();
    let names: Vec<_> = vms.keys().map(String::as_str).collect();
    assert_eq!(names, ["many", "off", "priv", "shop_web"]);
    assert_eq!(vms["off"], None);
    let nics = |name: &str| vms[name].as_ref().unwrap().nics.clone();
    let (many, p2p) = ("02:00:c0:a8:00:05", "10:66:6a:3f:52:e2");
    assert_eq!(
        nics("many"),
        [
            nic("many0", many, Some("br0")),
            nic("veth8e7c890b", p2p, None)
        ]
    );
    assert_eq!(
        vms["many"].as_ref().unwrap().skipped,
        [r#"the interface "eth2" of type "macvlan" has no port on a bridge"#]
    );
    assert_eq!(
        nics("shop_web"),
        [nic("veth50da0278", "10:66:6a:8b:ef:38", Some("br0"))]
    );
}

#[test]
fn in_a_cluster_only_the_instances_of_this_host_count() {
    let all = || {
        vec![
            instance("a", "Running", "node1", "p1"),
            instance("b", "Running", "node2", "p2"),
        ]
    };
    assert_eq!(running(all(), Some("node2")), ["b"]);
    assert_eq!(running(all(), None), [""; 0]);
    assert_eq!(
        running(vec![instance("a", "Running", "", "p")], None),
        ["a"]
    );
    let server = r#"{"config": {}, "environment": {"server_name": "node2", "storage": "dir"}}"#;
    assert_eq!(server_name(server).unwrap(), "node2");
}

#[test]
fn an_instance_that_starts_has_the_port_that_was_made_for_it() {
    let told = |status: &str, port: &str| running(vec![instance("a", status, "none", port)], None);
    for status in ["Running", "Frozen", "Starting", "Error", "Ready"] {
        assert_eq!(told(status, "veth1"), ["a"]);
    }
    assert_eq!(told("Stopped", "veth1"), ["a"]);
    // One note is from before the host crashed; the other is for a port that now belongs to another
    // instance.
    assert_eq!(told("Stopped", "gone"), [""; 0]);
    assert_eq!(told("Stopped", "no port's name"), [""; 0]);
    let both = vec![
        instance("a", "Stopped", "none", "veth1"),
        instance("b", "Running", "none", "veth1"),
    ];
    assert_eq!(running(both, None), ["b"]);
}

#[test]
fn an_interface_that_cannot_be_fenced_is_named() {
    let mut no_port = instance("a", "Running", "none", "");
    let vm = no_port.vm(&"a".parse().unwrap()).unwrap();
    assert_eq!(vm.skipped, [r#"the interface "eth0" has no port now"#]);
    no_port.config = BTreeMap::from([("volatile.eth0.host_name".into(), "veth1".into())]);
    let vm = no_port.vm(&"a".parse().unwrap()).unwrap();
    assert_eq!(vm.skipped, [r#"the interface "veth1" has no MAC address"#]);
    let said = running(vec![instance("a", "Running", "none", "veth*")], None);
    assert!(
        said[0].starts_with(r#"instance "a": port name "veth*""#),
        "{said:?}"
    );
}

#[test]
fn text_that_is_no_list_of_instances_is_refused() {
    for json in ["", "{}", r#"[{"name": "a"}]"#, r#"["/1.0/instances/a"]"#] {
        let error = read(json).unwrap_err().to_string();
        assert!(
            error.starts_with("Incus' list of instances cannot be read: ") && error.len() < 200,
            "{error}"
        );
    }
    let many = vec![
        r#"{"name":"a","project":"","status":"","location":"","config":{},"expanded_devices":{}}"#;
        32_753
    ];
    let error = read(&format!("[{}]", many.join(","))).unwrap_err();
    assert!(error.to_string().contains("more than 32,752 instances"));
}

proptest! {
    #[test]
    fn no_answer_makes_the_parser_panic(
        at in 0..CAPTURE.len(), len in 0..80usize, text in "\\PC{0,8}|[{}\",:\\[\\]]{0,8}",
    ) {
        let mut bytes = CAPTURE.as_bytes().to_vec();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, text.bytes());
        if let Ok(instances) = read(&String::from_utf8_lossy(&bytes)) {
            let _ = vms(instances, None, &|_| true);
        }
    }
}
