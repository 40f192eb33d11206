//! Networks with their own settings, frame by frame on the real kernel.

use std::process::Command;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Ran, Tap, domain, fake_virsh, path_with, tmpfs};

const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";

/// The routers of the first and the second network.
const ROUTERS: [&str; 2] = ["00:16:3e:00:00:01", "00:16:3e:00:00:02"];

/// Two networks on one bridge: 10.1/16 and 192.168.0/24.
const TWO: &str = "\
    [[network]]\n\
    mac = '02:00:0a:01:00:00/32'\n\
    prefix-len = 32\n\
    trusted = ['00:16:3e:00:00:01']\n\
    [[network]]\n\
    bridge = 'br0'\n\
    mac = '02:00:c0:a8:00:00/40'\n\
    trusted = ['00:16:3e:00:00:02']\n";

/// VMs, each with one NIC on br0: name, port and address.
const VMS: [(&str, &str, &str); 5] = [
    ("a", "vnet0", "02:00:0a:01:00:05"),
    ("b", "vnet1", "02:00:0a:01:07:06"),
    ("c", "vnet2", "02:00:c0:a8:00:05"),
    ("d", "vnet3", "02:00:c0:a8:00:06"),
    ("e", "vnet4", "02:00:c0:a8:01:07"),
];

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

/// A host with its VMs' ports and an uplink, and a directory with the VMs' XML and the
/// configuration.
struct Lab {
    host: Host,
    taps: Vec<Tap>,
    uplink: Tap,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new(config: &str) -> Self {
        let host = Host::new();
        host.bridge("br0");
        let taps = VMS.iter().map(|(_, port, _)| host.tap("br0", port));
        let taps = taps.collect();
        let uplink = host.tap("br0", "eth0");
        let domain = |(name, port, mac): &(&str, &str, &str)| {
            ((*name).to_owned(), domain(name, &[(mac, port, "br0")]))
        };
        let domains: Vec<_> = VMS.iter().map(domain).collect();
        let domains: Vec<_> = domains
            .iter()
            .map(|(n, x)| (n.as_str(), x.as_str()))
            .collect();
        let lab = Self {
            host,
            taps,
            uplink,
            dir: fake_virsh(&domains),
        };
        lab.configure(config);
        lab
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.dir.path().join("macfence.toml"), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Ran {
        let config = self.dir.path().join("macfence.toml");
        let mut command = Command::new(crate::lab::MACFENCE);
        command.arg("--config").arg(config).args(args);
        self.host
            .exec(command.env("PATH", path_with(&self.dir)), "")
    }

    /// Returns the VMs that hear a broadcast from this tap under this address.
    fn hear(&self, from: &Tap, src: &str) -> String {
        let all = self.taps.iter();
        all.for_each(|tap| drop(tap.heard()));
        from.send(&frame(Kind::Arp, mac(src), mac(BROADCAST), 7));
        let heard = |tap: &Tap| tap.heard().iter().any(|frame| number(frame) == Some(7));
        let vms = self.taps.iter().zip(VMS);
        let vms = vms.filter(|(tap, _)| heard(tap));
        vms.map(|(_, (name, ..))| name).collect()
    }
}

#[test]
fn each_network_hears_its_own_router_and_not_the_others() {
    let lab = Lab::new(TWO);
    lab.run(&["sync"]).ok();
    let from = |vm: usize| lab.hear(&lab.taps[vm], VMS[vm].2);
    // An IPv4 /16 network, a /24, and a /24 without a section.
    assert_eq!([0, 1, 2, 3, 4].map(from), ["b", "a", "d", "c", ""]);
    assert_eq!(ROUTERS.map(|mac| lab.hear(&lab.uplink, mac)), ["ab", "cd"]);
    for (src, expected) in [
        // A VM of the /16 on another host, and one of the /24 beside the one with a section.
        ("02:00:0a:01:99:99", "ab"),
        ("02:00:0a:02:00:01", ""),
        ("02:00:c0:a8:01:99", "e"),
        ("52:54:00:00:00:01", ""),
    ] {
        assert_eq!(lab.hear(&lab.uplink, src), expected, "{src}");
    }
}

#[test]
fn a_changed_file_is_found_by_check_and_applied_by_sync() {
    let lab = Lab::new("trusted = ['00:16:3e:00:00:01']\n");
    lab.run(&["sync"]).ok();
    lab.run(&["check"]).quiet();
    let router = |n: usize| lab.hear(&lab.uplink, ROUTERS[n]);
    assert_eq!([0, 1].map(router), ["abcde", ""]);
    lab.configure(TWO);
    let check = lab.run(&["check"]);
    let hint = "macfence: note: run macfence sync to set this right\n";
    assert_eq!((check.status, check.stderr.as_str()), (1, hint));
    let lines: Vec<_> = check.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "differs a: no rule that lets only 02:00:0a:01:00:00/32 or 00:16:3e:00:00:01/48 out to \
         \"vnet0\"; a rule too many that lets only 02:00:0a:01:00:00/40 or 00:16:3e:00:00:01/48 out \
         to \"vnet0\""
    );
    assert_eq!(lines.len(), VMS.len());
    lab.run(&["sync"]).ok();
    lab.run(&["check"]).quiet();
    assert_eq!([0, 1].map(router), ["ab", "cd"]);
}

#[test]
fn flags_do_not_override_a_section() {
    let lab = Lab::new(TWO);
    lab.run(&["--trusted", ROUTERS[1], "--prefix-len", "48", "sync"])
        .ok();
    assert_eq!(ROUTERS.map(|mac| lab.hear(&lab.uplink, mac)), ["ab", "cde"]);
    assert_eq!(lab.hear(&lab.taps[0], VMS[0].2), "b");
}

#[test]
fn only_its_network_hears_every_sender_at_a_trusted_port() {
    let lab = Lab::new(
        "[[network]]\nmac = '02:00:0a:01:00:00/32'\ntrusted-ports = ['vpn0']\nprefix-len = 32\n",
    );
    let vpn = lab.host.tap("br0", "vpn0");
    lab.run(&["sync"]).ok();
    assert_eq!(lab.hear(&vpn, "52:54:00:00:00:01"), "ab");
    assert_eq!(lab.hear(&lab.uplink, "52:54:00:00:00:01"), "");
    lab.run(&["check"]).quiet();
    // A user has chosen a port name that the configuration means for a port of the host.
    let config = "trusted-ports = ['vnet4']\n";
    lab.configure(config);
    let warning = "macfence: warning: port \"vnet4\" is in trusted-ports, but it is a VM's: it is \
                   not trusted\n";
    assert_eq!(lab.run(&["sync"]).stderr, warning);
    assert_eq!(lab.hear(&lab.taps[4], VMS[4].2), "");
    let check = lab.run(&["check"]);
    assert_eq!((check.status, check.stderr.as_str()), (0, warning));
}

/// Does what OpenNebula does for a network with a transparent proxy. The proxy's MAC address is
/// random.
fn proxy(host: &Host, namespace: &str) {
    host.ok("ip", &["netns", "add", namespace]);
    host.ip(&format!(
        "link add br0b type veth peer name br0a netns {namespace}\nlink set br0b master br0 up\n"
    ));
    for command in [
        "addr add 169.254.16.9/32 dev br0a",
        "link set br0a up",
        "route replace default dev br0a",
    ] {
        let words = command.split(' ');
        let args: Vec<_> = ["-n", namespace].into_iter().chain(words).collect();
        host.ok("ip", &args);
    }
}

/// A VM asks for the proxy's address. Tells whether the answer reaches the VM.
fn answers(lab: &Lab) -> bool {
    let vm = &lab.taps[0];
    drop(vm.heard());
    let mut request = Vec::new();
    request.extend(mac(BROADCAST).bytes());
    request.extend(mac(VMS[0].2).bytes());
    request.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(mac(VMS[0].2).bytes());
    request.extend([10, 1, 0, 5, 0, 0, 0, 0, 0, 0, 169, 254, 16, 9]);
    request.resize(60, 0);
    vm.send(&request);
    // The namespace's answer may take a moment.
    (0..50).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let is_answer = |frame: &Vec<u8>| {
            frame.get(12..14) == Some(&[0x08, 0x06])
                && frame.get(20..22) == Some(&[0, 2])
                && frame.get(28..32) == Some(&[169, 254, 16, 9])
        };
        vm.heard().iter().any(is_answer)
    })
}

#[test]
fn opennebulas_transparent_proxy_is_heard_unless_the_operator_says_otherwise() {
    for namespace in ["one_tproxy", "one_tproxy_br0"] {
        let lab = Lab::new("");
        lab.run(&["sync"]).ok();
        proxy(&lab.host, namespace);
        assert!(!answers(&lab), "{namespace}");
        // The proxy came after the fences.
        assert_eq!(lab.run(&["check"]).status, 1);
        let note = "port \"br0b\" is OpenNebula's transparent proxy";
        assert!(lab.run(&["-v", "sync"]).stderr.contains(note));
        assert!(answers(&lab), "{namespace}");
        lab.run(&["check"]).quiet();
        lab.configure("opennebula-proxy = false\n");
        let ran = lab.run(&["-v", "sync"]);
        assert!(!ran.stderr.contains(note), "{}", ran.stderr);
        assert!(!answers(&lab), "{namespace}");
        // One network may allow it.
        lab.configure(
            "opennebula-proxy = false\n[[network]]\nbridge = 'br0'\nopennebula-proxy = true\n",
        );
        lab.run(&["apply", "a"]).ok();
        assert!(answers(&lab), "{namespace}");
    }
}

#[test]
fn a_port_needs_more_than_the_proxys_name_to_be_trusted() {
    let lab = Lab::new("");
    let host = &lab.host;
    host.ok("ip", &["netns", "add", "one_tproxy"]);
    host.ok("ip", &["netns", "add", "one_tproxy_br0"]);
    host.ok("ip", &["netns", "add", "container"]);
    // A file that is no namespace.
    host.run(|| std::fs::write("/run/netns/one_tproxy_br1", "").unwrap());
    host.bridge("br1");
    host.ip(
        "link add br1b type veth peer name br1a netns container\nlink set br1b master br1 up\n",
    );
    let is_trusted = || {
        lab.run(&["sync"]).ok();
        host.ruleset().contains("br0b")
    };
    // A tap that got the name from somebody's TARGET.
    let tap = host.tap("br0", "br0b");
    assert!(!is_trusted());
    assert_eq!(lab.hear(&tap, "52:54:00:00:00:01"), "");
    drop(tap);
    // A container's veth. Its other end is in the container, or on the host.
    for peer in ["peer name far netns container", "peer name far"] {
        host.ip(&format!(
            "link add br0b type veth {peer}\nlink set br0b master br0 up\n"
        ));
        assert!(!is_trusted(), "{peer}");
        host.unplug("br0b");
    }
    // A port on another bridge, and a port with another name.
    host.ip(
        "link add br0b type veth peer name far netns one_tproxy\nlink set br0b master br1 up\n",
    );
    host.ip(
        "link add br0c type veth peer name near netns one_tproxy\nlink set br0c master br0 up\n",
    );
    assert!(!is_trusted());
    assert!(!host.ruleset().contains("br0c"));
    // The same port on the right bridge is the proxy's. So the checks above would see it.
    host.ip("link set br0b master br0\n");
    assert!(is_trusted());
    // It is not trusted if it is a running VM's port.
    let xml = domain("e", &[(VMS[4].2, "br0b", "br0")]);
    std::fs::write(lab.dir.path().join("e.xml"), xml).unwrap();
    lab.run(&["sync"]).ok();
    let list = host.list();
    let vms = list.as_array().unwrap().iter();
    let nics = vms.flat_map(|vm| vm["nics"].as_array().unwrap());
    // The port that e has left keeps its rules.
    let nics = nics.filter(|nic| nic["port"] != VMS[4].1);
    let said = nics.map(|nic| (nic["port"].as_str().unwrap(), &nic["trusted_ports"]));
    let none = serde_json::json!([]);
    let expected = ["vnet0", "vnet1", "vnet2", "vnet3", "br0b"].map(|port| (port, &none));
    assert_eq!(said.collect::<Vec<_>>(), expected);
}

#[test]
fn a_proxy_that_leaves_is_no_longer_trusted() {
    let lab = Lab::new("");
    proxy(&lab.host, "one_tproxy");
    lab.run(&["sync"]).ok();
    assert!(lab.host.ruleset().contains("br0b"));
    lab.host.unplug("br0b");
    let tap = lab.host.tap("br0", "br0b");
    assert_eq!(lab.run(&["check"]).status, 1);
    lab.run(&["sync"]).ok();
    assert_eq!(lab.hear(&tap, "52:54:00:00:00:01"), "");
}

#[test]
fn if_the_namespace_directory_is_unreadable_the_proxy_is_not_heard_and_fences_stay() {
    let lab = Lab::new("");
    lab.host.run(|| {
        tmpfs("/run/netns");
        std::fs::create_dir("/run/netns/one_tproxy").unwrap();
    });
    proxy_port_without_namespace(&lab.host);
    lab.run(&["sync"]).ok();
    assert_eq!(lab.host.fenced(), ["a", "b", "c", "d", "e"]);
    assert!(!lab.host.ruleset().contains("br0b"));
}

/// Creates a veth with the name of the proxy's port whose other end is somewhere else.
fn proxy_port_without_namespace(host: &Host) {
    host.ip("link add br0b type veth peer name br0a\nlink set br0b master br0 up\n");
}

#[test]
fn addresses_of_a_network_and_of_a_nic_are_granted() {
    let lab = Lab::new(
        "[[network]]\nmac = '02:00:c0:a8:00:00/40'\naddresses = 'mac'\nips = ['192.168.0.1']\n\
         link-local = 'any'\n[[nic]]\nmac = '02:00:c0:a8:00:05'\n\
         extra-macs = ['00:00:5e:00:01:01']\nextra-ips = ['2001:db8::1']\n",
    );
    lab.run(&["sync"]).ok();
    lab.run(&["check"]).quiet();
    let list = lab.host.list();
    let nic = |vm: usize| &list[vm]["nics"][0];
    let addresses = serde_json::json!({
        "ipv4": ["192.168.0.1", "192.168.0.5"], "ipv6": ["2001:db8::1"], "link_local": "any",
    });
    assert_eq!(nic(2)["addresses"], addresses, "{list}");
    assert_eq!(
        nic(2)["extra_macs"],
        serde_json::json!(["00:00:5e:00:01:01"])
    );
    assert_eq!(
        nic(3)["addresses"]["ipv4"],
        serde_json::json!(["192.168.0.1", "192.168.0.6"])
    );
    assert_eq!(nic(4)["addresses"], serde_json::Value::Null);
    // The frame's IP address is 192.168.0.5.
    assert_eq!(lab.hear(&lab.taps[2], VMS[2].2), "d");
    assert_eq!(lab.hear(&lab.taps[3], VMS[3].2), "");
    // The host and the cable hear the VM under its additional address. Its network does not.
    drop(lab.uplink.heard());
    assert_eq!(lab.hear(&lab.taps[2], "00:00:5e:00:01:01"), "");
    assert_eq!(lab.uplink.heard().len(), 1);
}

#[test]
fn a_wrong_section_is_an_error_that_names_it_and_changes_nothing() {
    let lab = Lab::new("");
    lab.run(&["sync"]).ok();
    let (before, generation) = (lab.host.ruleset(), lab.host.generation());
    let path = lab.dir.path().join("macfence.toml");
    for (text, words) in [
        (
            "[[network]]\nbridge = 'br1'\nprefix-len = 4\n",
            "line 3: [[network]] bridge = \"br1\": prefix-len must be a number from 8 to 48, not 4",
        ),
        (
            "[[network]]\ntrusted = []\n",
            "line 1: [[network]]: set bridge or mac to say which NICs this section is for",
        ),
        (
            "[[network]]\nbridge = 'br1'\n[[network]]\nbridge = 'br1'\n",
            "line 3: [[network]] bridge = \"br1\": [[network]] bridge = \"br1\" in line 1 is for the \
             same NICs: merge the two",
        ),
        (
            "[[nic]]\nmac = '02:00:c0:a8:00:05'\nips = []\n",
            "line 3: [[nic]] mac = \"02:00:c0:a8:00:05\": unknown key `ips`; the keys are `mac`, \
             `extra-macs`, `extra-ips`",
        ),
    ] {
        lab.configure(text);
        let expected = format!("macfence: error: {}: {words}", path.display());
        for command in [&["sync"][..], &["apply", "a"], &["remove", "a"]] {
            assert_eq!(lab.run(command).error(), expected);
        }
        assert_eq!(lab.run(&["check"]).status, 2);
        assert_eq!(lab.host.generation(), generation);
        assert_eq!(lab.host.ruleset(), before);
    }
}
