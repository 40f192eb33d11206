//! What `explain` prints, word for word, and the transcript in docs/troubleshooting.md.

use std::path::Path;
use std::process::Command;

use macfence::mac::MacAddr;
use serde_json::json;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::pages::text;
use crate::lab::{
    Host, MACFENCE, Ran, Tap, domain, fake_virsh, need, path_with, prepend, source, tmpfs,
};

const ROUTER: &str = "52:54:00:aa:bb:01";

/// VMs on br0: name, port and address.
const VMS: [(&str, &str, &str); 4] = [
    ("web-1", "vnet0", "02:00:c0:a8:00:05"),
    ("web-2", "vnet1", "02:00:c0:a8:00:06"),
    ("db-1", "vnet2", "02:00:c0:a8:01:05"),
    ("new-1", "vnet3", "02:00:c0:a8:01:06"),
];

/// Those of them that are fenced, mostly.
const FENCED: [&str; 3] = ["web-1", "web-2", "db-1"];

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

/// A host with these VMs, whose configuration is its own `/etc/macfence.toml`.
struct Lab {
    host: Host,
    taps: Vec<Tap>,
    uplink: Tap,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new(config: &str, fenced: &[&str]) -> Self {
        let host = Host::new();
        host.run(|| tmpfs("/etc"));
        host.bridge("br0");
        host.ip("link set br0 address 52:54:00:00:00:0f\n");
        let taps = VMS.iter().map(|(_, port, _)| host.tap("br0", port));
        let taps = taps.collect();
        let uplink = host.tap("br0", "eth0");
        let xml = VMS.map(|(name, port, mac)| domain(name, &[(mac, port, "br0")]));
        let domains: Vec<_> = VMS
            .iter()
            .zip(&xml)
            .map(|(vm, xml)| (vm.0, xml.as_str()))
            .collect();
        let lab = Self {
            host,
            taps,
            uplink,
            dir: fake_virsh(&domains),
        };
        lab.configure(config);
        let names = ["apply"].iter().chain(fenced);
        lab.run(&names.copied().collect::<Vec<_>>()).ok();
        lab
    }

    fn configure(&self, text: &str) {
        let file = "/etc/macfence.toml";
        self.host.run(|| std::fs::write(file, text).unwrap());
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(MACFENCE);
        let command = command.args(args).env("PATH", path_with(&self.dir));
        self.host.exec(command, "")
    }

    fn explain(&self, words: &str) -> Ran {
        let args: Vec<_> = ["explain"].into_iter().chain(words.split(' ')).collect();
        self.run(&args)
    }

    fn says(&self, words: &str, status: i32, expected: &str) {
        let ran = self.explain(words);
        assert_eq!(ran.stdout, expected, "{words}");
        assert_eq!((ran.status, &*ran.stderr), (status, ""), "{words}");
    }

    /// The answer is 0, 1 or 2, and its last line is this one.
    fn concludes(&self, words: &str, status: i32, expected: &str) {
        let ran = self.explain(words);
        assert_eq!(ran.stdout.lines().last(), Some(expected), "{ran:?}");
        assert_eq!(ran.status, status, "{words}");
    }

    /// Whether a VM hears a frame that comes in there under this address.
    fn hears(&self, vm: usize, from: &Tap, src: &str) -> bool {
        self.taps[vm].heard();
        from.send(&frame(Kind::Unknown, mac(src), mac(VMS[vm].2), 7));
        let heard = self.taps[vm].heard();
        heard.iter().any(|frame| number(frame) == Some(7))
    }
}

#[test]
fn a_forgotten_router_is_named_with_the_setting_that_lets_it_be_heard() {
    let lab = Lab::new("", &FENCED);
    assert!(!lab.hears(0, &lab.uplink, ROUTER));
    lab.says(
        &format!("{ROUTER} web-1"),
        1,
        "\
frame   from 52:54:00:aa:bb:01 to 02:00:c0:a8:00:05
bridge  passes   br0 forwards it from another port to \"vnet0\"
from    passes   it comes in by a port without a fence
to      drops    52:54:00:aa:bb:01 is neither in its network 02:00:c0:a8:00:00/40 nor trusted
        rule     oifname \"vnet0\" ether saddr & ff:ff:ff:ff:ff:00 != 02:00:c0:a8:00:00 counter goto dropped-foreign
        dropped  1 so far
config  prefix-len = 40 (the default)
config  trusted = [] (the default)
not heard: web-1 does not hear 52:54:00:aa:bb:01, because 52:54:00:aa:bb:01 is neither in its network \
02:00:c0:a8:00:00/40 nor trusted; if 52:54:00:aa:bb:01 is the network's router, add it to `trusted`: \
write `trusted = [\"52:54:00:aa:bb:01\"]` at the top of /etc/macfence.toml, then run \"macfence sync\"
",
    );
    // The same words lead to the fix.
    lab.configure("trusted = [\"52:54:00:aa:bb:01\"]\n");
    lab.concludes(
        &format!("{ROUTER} web-1"),
        1,
        "not heard: web-1 does not hear 52:54:00:aa:bb:01, because 52:54:00:aa:bb:01 is neither in its \
         network 02:00:c0:a8:00:00/40 nor trusted; the configuration allows it, but the kernel's \
         rules do not yet: run \"macfence sync\"",
    );
    lab.run(&["apply", "web-1"]).ok();
    assert!(lab.hears(0, &lab.uplink, ROUTER));
    lab.concludes(
        &format!("{ROUTER} web-1"),
        0,
        "heard: web-1 hears 52:54:00:aa:bb:01, because 52:54:00:aa:bb:01 is trusted, as \
         52:54:00:aa:bb:01/48",
    );
}

/// A network with settings of its own, and global ones.
const CONFIG: &str = "\
# ours
trusted = [\"00:16:3e:00:00:01\"]

[[network]]
mac = \"02:00:c0:a8:01:00/40\"
prefix-len = 48
addresses = \"mac\"
trusted = [
\t\"00:16:3e:00:00:02\",
]
";

#[test]
fn the_line_of_the_configuration_is_named_wherever_the_setting_is() {
    let lab = Lab::new(CONFIG, &FENCED);
    lab.says(
        "00:16:3e:00:00:01 vnet2",
        1,
        "\
frame   from 00:16:3e:00:00:01 to 02:00:c0:a8:01:05
bridge  passes   br0 forwards it from another port to \"vnet2\"
from    passes   it comes in by a port without a fence
to      drops    00:16:3e:00:00:01 is neither in its network 02:00:c0:a8:01:05/48 nor trusted
        rule     oifname \"vnet2\" ether saddr != 02:00:c0:a8:01:05 ether saddr != 00:16:3e:00:00:02 counter goto dropped-foreign
        dropped  0 so far
config  prefix-len = 48 (line 6 of /etc/macfence.toml, [[network]] mac = \"02:00:c0:a8:01:00/40\")
config  trusted = [\"00:16:3e:00:00:02\"] (line 8 of /etc/macfence.toml, [[network]] mac = \"02:00:c0:a8:01:00/40\")
not heard: db-1 does not hear 00:16:3e:00:00:01, because 00:16:3e:00:00:01 is neither in its network \
02:00:c0:a8:01:05/48 nor trusted; if 00:16:3e:00:00:01 is the network's router, add it to `trusted` in \
line 8 of /etc/macfence.toml, then run \"macfence sync\"
",
    );
    lab.says(
        "db-1 new-1 --arp 192.168.1.1",
        1,
        "\
frame   from 02:00:c0:a8:01:05 to 02:00:c0:a8:01:06, ARP of 192.168.1.1
bridge  passes   br0 forwards it from \"vnet2\" to \"vnet3\"
from    passes   \"vnet2\" may send as 02:00:c0:a8:01:05
        rule     iifname \"vnet2\" ether saddr != 02:00:c0:a8:01:05 counter goto dropped-spoofed
        dropped  0 so far
from    drops    \"vnet2\" may use only 192.168.1.5
        rule     iifname \"vnet2\" ... counter goto dropped-forged comment \"false IP address in ARP\"
        dropped  0 so far
to      passes   nothing is fenced at \"vnet3\"
config  addresses = \"mac\" (line 7 of /etc/macfence.toml, [[network]] mac = \"02:00:c0:a8:01:00/40\")
not heard: new-1 does not hear db-1 claim 192.168.1.1 in ARP, because \"vnet2\" may \
use only 192.168.1.5; if the VM may use 192.168.1.1, add it to `extra-ips` in a section `[[nic]]` with \
`mac = \"02:00:c0:a8:01:05\"` of /etc/macfence.toml, then run \"macfence sync\"
",
    );
    let ran = lab.run(&["explain", "00:16:3e:00:00:01", "web-1", "--trusted", ROUTER]);
    let lines: Vec<_> = ran
        .stdout
        .lines()
        .filter(|l| l.starts_with("config"))
        .collect();
    assert_eq!(
        lines,
        [
            "config  prefix-len = 40 (the default)",
            "config  trusted = [\"52:54:00:aa:bb:01\"] (the command line)",
        ]
    );
    let ran = lab.run(&["explain", "00:16:3e:00:00:01", "web-1"]);
    let line = "config  trusted = [\"00:16:3e:00:00:01\"] (line 2 of /etc/macfence.toml)";
    assert!(ran.stdout.lines().any(|l| l == line), "{}", ran.stdout);
}

#[test]
fn each_answer_says_why_and_what_would_change_it() {
    let lab = Lab::new(CONFIG, &FENCED);
    for (words, status, sentence) in [
        (
            "web-1 web-2",
            0,
            "heard: web-2 hears web-1, because 02:00:c0:a8:00:05 is in its network 02:00:c0:a8:00:00/40",
        ),
        (
            "02:00:c0:a8:00:05 vnet1",
            0,
            "heard: web-2 hears web-1, because 02:00:c0:a8:00:05 is in its network 02:00:c0:a8:00:00/40",
        ),
        (
            "web-2 db-1",
            1,
            "not heard: db-1 does not hear web-2, because 02:00:c0:a8:00:06 is neither in its network \
             02:00:c0:a8:01:05/48 nor trusted; 02:00:c0:a8:00:06 belongs to VM web-2 of another network, and \
             the fence is there to keep the two apart",
        ),
        (
            "web-1 web-2 --as 02:00:c0:a8:00:09",
            1,
            "not heard: web-2 does not hear web-1 as 02:00:c0:a8:00:09, because \"vnet0\" may send only \
             as 02:00:c0:a8:00:05; if the VM may send as 02:00:c0:a8:00:09, add it to `extra-macs` in a \
             section `[[nic]]` with `mac = \"02:00:c0:a8:00:05\"` of /etc/macfence.toml, then run \
             \"macfence sync\"",
        ),
        (
            "db-1 new-1",
            0,
            "heard: new-1 hears db-1, because nothing is fenced at \"vnet3\"; to fence it, run \
             \"macfence apply new-1\"; docs/service.md shows how to have that done automatically",
        ),
        (
            "db-1 eth0 --ip 192.168.1.5",
            0,
            "heard: port \"eth0\" hears db-1 send from 192.168.1.5, because nothing is fenced at \"eth0\"",
        ),
        (
            "new-1 web-1",
            1,
            "not heard: web-1 does not hear new-1, because 02:00:c0:a8:01:06 is neither in its network \
             02:00:c0:a8:00:00/40 nor trusted; 02:00:c0:a8:01:06 belongs to VM new-1 of another network, and \
             the fence is there to keep the two apart",
        ),
        (
            "web-1 web-1",
            1,
            "not heard: web-1 does not hear web-1, because a bridge sends no frame back to \"vnet0\"",
        ),
    ] {
        lab.concludes(words, status, sentence);
    }
}

#[test]
fn what_the_bridge_and_others_decide_is_said() {
    let lab = Lab::new("", &FENCED);
    let host = &lab.host;
    host.bridge("br1");
    let _other = host.tap("br1", "eth1");
    lab.concludes(
        "web-1 eth1",
        1,
        "not heard: port \"eth1\" does not hear web-1, because \"vnet0\" is on bridge br0, \"eth1\" is on \
         bridge br1",
    );
    host.ok(
        "bridge",
        &["fdb", "add", VMS[1].2, "dev", "eth0", "master", "static"],
    );
    lab.concludes(
        "web-1 web-2",
        1,
        "not heard: web-2 does not hear web-1, because bridge br0 has learned the receiver's address at \
         \"eth0\" (bridge fdb show br br0)",
    );
    host.ok("bridge", &["fdb", "del", VMS[1].2, "dev", "eth0", "master"]);
    host.ip("link set vnet1 down\n");
    lab.concludes(
        "web-1 web-2",
        1,
        "not heard: web-2 does not hear web-1, because port \"vnet1\" is down, or no program has it open",
    );
    host.ip("link set vnet1 up\n");
    host.ok("nft", &["add table bridge mine"]);
    let chain = "add chain bridge mine x { type filter hook forward priority 0; }";
    host.ok("nft", &[chain]);
    let notes = |words: &str| {
        let stdout = lab.explain(words).stdout;
        let notes = stdout
            .lines()
            .filter_map(|line| line.strip_prefix("note    "));
        notes.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(notes("web-1 web-2"), [""; 0]);
    host.ok("nft", &["add rule bridge mine x ether type 0x88b5 drop"]);
    let note = "chain \"x\" of table bridge \"mine\", in hook forward, with 1 rule: may drop it, which \
                macfence did not check";
    assert_eq!(notes("web-1 web-2"), [note]);
    host.ok("nft", &["delete table bridge mine"]);
    host.ok(
        "nft",
        &["delete element bridge macfence ports { \"vnet1\" }"],
    );
    lab.concludes(
        "web-1 web-2",
        2,
        "unknown: it is not clear whether web-2 hears web-1, because the fence is damaged: the map has no \
         entry for port \"vnet1\"; \"macfence check\" shows what is wrong, \"macfence sync\" repairs it",
    );
}

#[test]
fn what_the_host_itself_sends_is_heard_by_all() {
    let lab = Lab::new("", &FENCED);
    lab.concludes(
        "52:54:00:00:00:0f web-1",
        0,
        "heard: web-1 hears 52:54:00:00:00:0f, because the host itself sends it through br0, and no \
         fence checks that",
    );
    lab.host.ip("addr add 192.168.0.1/24 dev br0\n");
    lab.taps[0].heard();
    lab.host.run(|| {
        let socket = std::net::UdpSocket::bind("192.168.0.1:0").unwrap();
        let _ = socket.send_to(b"x", "192.168.0.5:9");
    });
    let heard = lab.taps[0].heard();
    let own = mac("52:54:00:00:00:0f").bytes();
    assert!(
        heard.iter().any(|frame| frame[6..12] == own),
        "{heard:02x?}"
    );
}

#[test]
fn a_router_that_the_bridge_has_seen_at_a_trusted_port_is_heard() {
    let lab = Lab::new("trusted-ports = [\"eth0\"]\n", &FENCED);
    let question = format!("{ROUTER} web-1");
    assert_eq!(lab.explain(&question).status, 1);
    lab.host.ok(
        "bridge",
        &["fdb", "add", ROUTER, "dev", "eth0", "master", "static"],
    );
    lab.concludes(
        &question,
        0,
        "heard: web-1 hears 52:54:00:aa:bb:01, because what comes in through \"eth0\" is trusted",
    );
    assert!(lab.hears(0, &lab.uplink, ROUTER));
}

#[test]
fn who_cannot_be_told_is_an_error_that_ends_with_2() {
    let lab = Lab::new("", &FENCED);
    let error = |words: &str| {
        let ran = lab.explain(words);
        assert_eq!((ran.status, &*ran.stdout), (2, ""), "{words}");
        let line = ran.stderr.trim_end().to_owned();
        line.strip_prefix("macfence: error: ")
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned()
    };
    assert_eq!(
        error("web-9 web-1"),
        "\"web-9\" is neither a running VM nor a port on a bridge; a MAC address is written \
         02:00:c0:a8:00:05"
    );
    assert_eq!(
        error("eth0 web-1"),
        "the address that \"eth0\" sends from is unknown: give it with --as MAC"
    );
    let to_mac = format!("web-1 {ROUTER}");
    assert_eq!(
        error(&to_mac),
        "TO cannot be a MAC address: name a VM or a port; if it is a router, name the port of the uplink \
         that leads to it"
    );
    assert_eq!(
        error("web-1 192.168.1.5"),
        "\"192.168.1.5\" is neither a running VM nor a port on a bridge; ask about an IP address with \
         --ip or --arp"
    );
    assert_eq!(
        error("web-1 web-2 --ip ::"),
        "--ip: :: is not the IP address of a host"
    );
    assert_eq!(lab.explain("web-1").status, 2);
    assert_eq!(lab.explain("web-1 web-2 --arp x").status, 2);
    let both = "web-1 web-2 --arp 10.0.0.1 --ip 10.0.0.1";
    assert_eq!(lab.explain(both).status, 2);
    // A VM with two ports on the same bridge.
    let nics = [
        (VMS[0].2, "vnet0", "br0"),
        ("02:00:c0:a8:00:07", "vnet1", "br0"),
    ];
    let two = lab
        .host
        .macfence_reading(&domain("two", &nics), ["apply", "--xml", "-"]);
    two.ok();
    assert_eq!(
        error("db-1 two"),
        "db-1 and two share a bridge at several ports; name the two ports that you mean: db-1: \
         vnet2; two: vnet0, vnet1"
    );
}

#[test]
fn rules_of_ebtables_name_no_vm_and_the_hypervisor_does() {
    need("ebtables");
    let host = Host::new();
    host.bridge("br0");
    let _taps = ["vnet0", "vnet2"].map(|port| host.tap("br0", port));
    let xml = [VMS[0], VMS[2]].map(|(name, port, mac)| domain(name, &[(mac, port, "br0")]));
    let dir = fake_virsh(&[("web-1", &xml[0]), ("db-1", &xml[1])]);
    let run = |args: &[&str]| {
        let mut command = Command::new(MACFENCE);
        let command = command.args(["--backend", "ebtables"]).args(args);
        host.exec(command.env("PATH", path_with(&dir)), "")
    };
    run(&["apply", "web-1", "db-1"]).ok();
    let ran = run(&["explain", "web-1", "db-1"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let rule = "        rule     filter FORWARD -s ! 02:00:c0:a8:01:00/ff:ff:ff:ff:ff:00 -o vnet2";
    assert!(
        ran.stdout.lines().any(|line| line == rule),
        "{}",
        ran.stdout
    );
    let last = "not heard: db-1 does not hear web-1, because 02:00:c0:a8:00:05 is neither in its network \
                02:00:c0:a8:01:00/40 nor trusted; 02:00:c0:a8:00:05 belongs to VM web-1 of another network, \
                and the fence is there to keep the two apart";
    assert_eq!(ran.stdout.lines().last(), Some(last));
}

#[test]
fn json_has_all_that_the_text_has() {
    let lab = Lab::new("trusted = [\"00:16:3e:00:00:01\"]\n", &FENCED);
    let ran = lab.explain(&format!("{ROUTER} web-1 --json"));
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let why = "52:54:00:aa:bb:01 is neither in its network 02:00:c0:a8:00:00/40 nor trusted";
    let nobody = serde_json::Value::Null;
    let expected = json!({
        "heard": false,
        "from": {"vm": nobody, "port": nobody, "mac": ROUTER, "fenced": false},
        "to": {"vm": "web-1", "port": "vnet0", "mac": VMS[0].2, "fenced": true},
        "frame": {"source": ROUTER, "destination": VMS[0].2, "arp": nobody, "ip": nobody},
        "steps": [
            {"at": "bridge", "outcome": "passes", "reason": nobody,
             "why": "br0 forwards it from another port to \"vnet0\"", "rule": nobody, "dropped": nobody},
            {"at": "from", "outcome": "passes", "reason": nobody,
             "why": "it comes in by a port without a fence", "rule": nobody, "dropped": nobody},
            {"at": "to", "outcome": "drops", "reason": "foreign", "why": why,
             "rule": "oifname \"vnet0\" ether saddr & ff:ff:ff:ff:ff:00 != 02:00:c0:a8:00:00 ether saddr \
                      != 00:16:3e:00:00:01 counter goto dropped-foreign", "dropped": 0},
        ],
        "settings": [
            {"key": "prefix-len", "value": "40", "origin": "the default", "line": nobody,
             "section": nobody},
            {"key": "trusted", "value": "[\"00:16:3e:00:00:01\"]",
             "origin": "line 1 of /etc/macfence.toml", "line": 1, "section": ""},
        ],
        "notes": [],
        "why": why,
        "change": "if 52:54:00:aa:bb:01 is the network's router, add it to `trusted` in line 1 of \
                   /etc/macfence.toml, then run \"macfence sync\"",
    });
    assert_eq!(found, expected);
    assert_eq!(ran.status, 1);
}

#[test]
fn rules_are_printed_as_nft_lists_them() {
    let config = "trusted = [\"00:16:3e:00:00:01\", \"00:16:3f:00:00:00/24\"]\n\
        trusted-ports = [\"eth0\"]\n[[nic]]\nmac = \"02:00:c0:a8:00:05\"\n\
        extra-macs = [\"00:00:5e:00:01:07\"]\n";
    let lab = Lab::new(config, &FENCED);
    let listed = lab.host.ok("nft", &["list", "ruleset"]);
    let listed = listed.replace("packets 0 bytes 0 ", "");
    let said = lab.explain("web-1 web-2").stdout;
    let rules = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rule "));
    let rules: Vec<_> = rules.map(str::trim).collect();
    assert_eq!(rules.len(), 2);
    for rule in rules {
        assert!(
            listed.lines().any(|line| line.trim() == rule),
            "{rule}\n{listed}"
        );
    }
}

/// README.md, or a page below `docs/`, with what its commands print now. Each line that starts with `# ` in a console block
/// is run.
pub fn played(page: &str, run: impl Fn(&str) -> String) -> String {
    let page = text(page);
    let mut played = String::new();
    // Whether we are in a console block, and whether something in it was run.
    let (mut is_console, mut is_run) = (false, false);
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            (is_console, is_run) = (language == "console", false);
        }
        match line.strip_prefix("# ") {
            Some(command) if is_console => {
                is_run = true;
                played += &format!("{line}\n{}", run(command));
            }
            None if is_run => {}
            _ => played += &format!("{line}\n"),
        }
    }
    played
}

/// What is in the page has really been run. `INSTA_UPDATE=always` writes it anew.
#[test]
fn from_a_vm_without_its_router_to_the_fix_by_what_the_program_prints() {
    let config = "# Who keeps VMs apart here: see macfence.toml(5).\n";
    let lab = Lab::new(config, &VMS.map(|(name, ..)| name));
    let neighbour = "addr add 192.168.0.2/24 dev br0\n\
        neigh add 192.168.0.1 lladdr 52:54:00:aa:bb:01 dev br0 nud reachable\n";
    lab.host.ip(neighbour);
    for _ in 0..3 {
        assert!(!lab.hears(0, &lab.uplink, ROUTER));
    }
    let page = source("docs/troubleshooting.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let own = Path::new(MACFENCE).parent().unwrap();
    let path = prepend(own, &path_with(&lab.dir));
    let played = played("troubleshooting.md", |line| {
        let mut shell = Command::new("/bin/sh");
        let ran = lab
            .host
            .exec(shell.args(["-c", line]).env("PATH", &path), "");
        // Some versions of ip end a line with a blank.
        let lines = ran
            .stdout
            .lines()
            .chain(ran.stderr.lines())
            .map(str::trim_end);
        lines.map(|line| format!("{line}\n")).collect()
    });
    assert!(lab.hears(0, &lab.uplink, ROUTER));
    if std::env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
        std::fs::write(&page, played).unwrap();
    } else {
        assert_eq!(played, text);
    }
}
