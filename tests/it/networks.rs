//! Networks with settings of their own, frame by frame on the real kernel.

use std::process::Command;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Ran, Tap, domain, fake_virsh, path_with, tmpfs};

const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";

/// The router of the first network, and that of the second.
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

/// A host, its VMs' ports, the uplink, and what knows the VMs and holds the configuration.
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

    /// Which VMs hear a broadcast that comes in here under this address.
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
    // A /16 and a /24 of IPv4, and a /24 without a section.
    assert_eq!([0, 1, 2, 3, 4].map(from), ["b", "a", "d", "c", ""]);
    assert_eq!(ROUTERS.map(|mac| lab.hear(&lab.uplink, mac)), ["ab", "cd"]);
    for (src, expected) in [
        // Of the /16, from another host; and of the /24 next to the one with a section.
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
fn what_comes_in_through_a_trusted_port_is_heard_in_that_network_only() {
    let lab = Lab::new(
        "[[network]]\nmac = '02:00:0a:01:00:00/32'\ntrusted-ports = ['vpn0']\nprefix-len = 32\n",
    );
    let vpn = lab.host.tap("br0", "vpn0");
    lab.run(&["sync"]).ok();
    assert_eq!(lab.hear(&vpn, "52:54:00:00:00:01"), "ab");
    assert_eq!(lab.hear(&lab.uplink, "52:54:00:00:00:01"), "");
    lab.run(&["check"]).quiet();
    // A user has given his port the name of one of the host's.
    let config = "trusted-ports = ['vnet4']\n";
    lab.configure(config);
    let warning = "macfence: warning: port \"vnet4\" is in trusted-ports, but it is a VM's: it is \
                   not trusted\n";
    assert_eq!(lab.run(&["sync"]).stderr, warning);
    assert_eq!(lab.hear(&lab.taps[4], VMS[4].2), "");
    let check = lab.run(&["check"]);
    assert_eq!((check.status, check.stderr.as_str()), (0, warning));
}

/// What OpenNebula does where a network has a transparent proxy. The proxy's MAC address is random.
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

/// Whether the proxy's answer to a VM that asks for its address reaches the VM.
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
    // The namespace answers at once, but not before we could look.
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
        // It came after the fences.
        assert_eq!(lab.run(&["check"]).status, 1);
        let note = "port \"br0b\" is OpenNebula's transparent proxy";
        assert!(lab.run(&["-v", "sync"]).stderr.contains(note));
        assert!(answers(&lab), "{namespace}");
        lab.run(&["check"]).quiet();
        lab.configure("opennebula-proxy = false\n");
        let ran = lab.run(&["-v", "sync"]);
        assert!(!ran.stderr.contains(note), "{}", ran.stderr);
        assert!(!answers(&lab), "{namespace}");
        // It may be heard in one network.
        lab.configure(
            "opennebula-proxy = false\n[[network]]\nbridge = 'br0'\nopennebula-proxy = true\n",
        );
        lab.run(&["apply", "a"]).ok();
        assert!(answers(&lab), "{namespace}");
    }
}

#[test]
fn no_port_is_taken_for_the_proxys_because_of_its_name() {
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
    // Somebody's TARGET: a tap.
    let tap = host.tap("br0", "br0b");
    assert!(!is_trusted());
    assert_eq!(lab.hear(&tap, "52:54:00:00:00:01"), "");
    drop(tap);
    // A container's: a veth, but its other end is in the container, or on the host.
    for peer in ["peer name far netns container", "peer name far"] {
        host.ip(&format!(
            "link add br0b type veth {peer}\nlink set br0b master br0 up\n"
        ));
        assert!(!is_trusted(), "{peer}");
        host.unplug("br0b");
    }
    // Another bridge's, and another name's.
    host.ip(
        "link add br0b type veth peer name far netns one_tproxy\nlink set br0b master br1 up\n",
    );
    host.ip(
        "link add br0c type veth peer name near netns one_tproxy\nlink set br0c master br0 up\n",
    );
    assert!(!is_trusted());
    assert!(!host.ruleset().contains("br0c"));
    // That these would show: on its bridge it is the proxy's.
    host.ip("link set br0b master br0\n");
    assert!(is_trusted());
    // Not if it is a running VM's.
    let xml = domain("e", &[(VMS[4].2, "br0b", "br0")]);
    std::fs::write(lab.dir.path().join("e.xml"), xml).unwrap();
    lab.run(&["sync"]).ok();
    let list = host.list();
    let vms = list.as_array().unwrap().iter();
    let nics = vms.flat_map(|vm| vm["nics"].as_array().unwrap());
    // What e has left stays as it was.
    let nics = nics.filter(|nic| nic["port"] != VMS[4].1);
    let said = nics.map(|nic| (nic["port"].as_str().unwrap(), &nic["trusted_ports"]));
    let none = serde_json::json!([]);
    let expected = ["vnet0", "vnet1", "vnet2", "vnet3", "br0b"].map(|port| (port, &none));
    assert_eq!(said.collect::<Vec<_>>(), expected);
}

#[test]
fn a_proxy_that_leaves_is_trusted_no_more() {
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
fn a_namespace_directory_that_cannot_be_read_costs_the_proxy_and_no_fence() {
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

/// A veth of the proxy's name whose other end is somewhere else.
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
    // The frame says that it is of 192.168.0.5.
    assert_eq!(lab.hear(&lab.taps[2], VMS[2].2), "d");
    assert_eq!(lab.hear(&lab.taps[3], VMS[3].2), "");
    // The host and the cable hear it under its further address, its network does not.
    drop(lab.uplink.heard());
    assert_eq!(lab.hear(&lab.taps[2], "00:00:5e:00:01:01"), "");
    assert_eq!(lab.uplink.heard().len(), 1);
}

#[test]
fn a_wrong_section_is_named_and_changes_nothing() {
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
            "line 1: [[network]]: bridge or mac must say which NICs it is for",
        ),
        (
            "[[network]]\nbridge = 'br1'\n[[network]]\nbridge = 'br1'\n",
            "line 3: [[network]] bridge = \"br1\": [[network]] bridge = \"br1\" in line 1 is for the \
             same NICs",
        ),
        (
            "[[nic]]\nmac = '02:00:c0:a8:00:05'\nips = []\n",
            "line 3: [[nic]] mac = \"02:00:c0:a8:00:05\": there is no key `ips`; the keys are `mac`, \
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
