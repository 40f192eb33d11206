//! nft notes what it drops, and never lets a frame pass because of that: not if a set is full or gone.
//! If somebody empties the chains that drop, the first command repairs them.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use macfence::mac::MacAddr;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use serde_json::Value;

use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, Tap, domain, fetched, macfence_with};

const A: &str = "02:00:c0:a8:00:05";
const NEIGHBOUR: &str = "02:00:c0:a8:00:06";
const STRANGER: &str = "02:00:0a:00:00:05";

struct Scene {
    host: Host,
    a: Tap,
    neighbour: Tap,
    stranger: Tap,
}

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

fn xml(name: &str, mac: &str) -> String {
    domain(name, &[(mac, &format!("{name}-0"), "br0")])
}

impl Scene {
    /// Two VMs of one network and one of another.
    fn new() -> Self {
        let host = Host::new();
        host.bridge("br0");
        let scene = Self {
            a: host.tap("br0", "one-1-0"),
            neighbour: host.tap("br0", "one-2-0"),
            stranger: host.tap("br0", "one-3-0"),
            host,
        };
        scene.fence();
        scene
    }

    fn fence(&self) {
        for (name, mac) in [("one-1", A), ("one-2", NEIGHBOUR), ("one-3", STRANGER)] {
            self.host.apply(&xml(name, mac)).ok();
        }
    }

    /// Writes their definitions to files, and returns the arguments that name them.
    fn files(&self) -> (tempfile::TempDir, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let mut args = Vec::new();
        for (name, mac) in [("one-1", A), ("one-2", NEIGHBOUR), ("one-3", STRANGER)] {
            let file = dir.path().join(name);
            std::fs::write(&file, xml(name, mac)).unwrap();
            args.extend(["--xml".to_owned(), file.to_str().unwrap().to_owned()]);
        }
        (dir, args)
    }

    /// Fences all of them with one command, which reads the whole table.
    fn fence_at_once(&self) {
        let (_dir, args) = self.files();
        self.host
            .macfence([&["apply".to_owned()], &args[..]].concat())
            .ok();
    }

    /// Returns the findings of `check`.
    fn check(&self) -> String {
        let (_dir, args) = self.files();
        self.host
            .macfence([&["check".to_owned()], &args[..]].concat())
            .stdout
    }

    fn drops(&self, args: &[&str]) -> Vec<Value> {
        let args = [&["drops", "--json"], args].concat();
        serde_json::from_str(&self.host.macfence(args).ok()).unwrap()
    }

    /// Returns the noted drops, as `PORT REASON SOURCE`.
    fn noted(&self) -> BTreeSet<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = self.drops(&[]);
        let row = |row: &Value| {
            ["port", "reason", "source"]
                .map(|key| text(&row[key]))
                .join(" ")
        };
        rows.iter().map(row).collect()
    }

    /// Checks that nobody hears false addresses or other networks, and that neighbours hear each other.
    fn check_drops(&self, what: &str) {
        for tap in [&self.a, &self.neighbour, &self.stranger] {
            tap.heard();
        }
        let send = |tap: &Tap, src: &str, dst: &str, number| {
            tap.send(&frame(Kind::Ipv4, mac(src), mac(dst), number));
        };
        send(&self.a, "02:00:c0:a8:00:77", NEIGHBOUR, 1);
        send(&self.a, "02:00:c0:a8:00:77", "ff:ff:ff:ff:ff:ff", 2);
        send(&self.stranger, STRANGER, A, 3);
        send(&self.stranger, STRANGER, "ff:ff:ff:ff:ff:ff", 4);
        send(&self.neighbour, NEIGHBOUR, A, 5);
        std::thread::sleep(Duration::from_millis(200));
        let heard = |tap: &Tap| -> Vec<_> {
            let heard = tap.heard();
            heard
                .iter()
                .filter_map(|frame| crate::lab::frame::number(frame))
                .collect()
        };
        assert_eq!(heard(&self.a), [5], "{what}: heard by one-1");
        assert_eq!(heard(&self.neighbour), [0; 0], "{what}: heard by one-2");
        assert_eq!(heard(&self.stranger), [0; 0], "{what}: heard by one-3");
    }

    fn nft(&self, commands: &str) {
        self.host
            .exec(Command::new("nft").args(["-f", "-"]), commands)
            .ok();
    }

    /// Sends a frame under this many false addresses.
    fn flood(&self, addresses: u32) {
        for number in 0..addresses {
            let [_, b, c, d] = number.to_be_bytes();
            let source = MacAddr::new([2, 0, 0x66, b, c, d]);
            self.a.send(&frame(Kind::Ipv4, source, mac(NEIGHBOUR), 9));
        }
    }
}

#[test]
fn drops_are_listed_with_the_owner_of_the_source_address() {
    let scene = Scene::new();
    assert_eq!(scene.drops(&[]), [Value::Null; 0]);
    let said = scene.host.macfence(["drops"]).ok();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "no drops were noted in the last 10 minutes");
    assert!(lines[1].starts_with("broadcasts of other networks are only counted"));
    assert_eq!(lines.len(), 2);
    scene.check_drops("whole");
    let find = |source: &str| {
        let rows = scene.drops(&[]);
        let row = rows.iter().find(|row| row["source"] == source);
        row.unwrap_or_else(|| panic!("{source} is not in {rows:?}"))
            .clone()
    };
    let spoofed = find("02:00:c0:a8:00:77");
    assert_eq!(spoofed["vm"], "one-1");
    assert_eq!(spoofed["direction"], "from");
    assert_eq!(spoofed["reason"], "spoofed");
    assert_eq!(spoofed["whose"]["kind"], "network");
    assert_eq!(spoofed["frames"], 2);
    assert!(spoofed["seconds_ago"].as_u64().unwrap() < 30);
    let foreign = find(STRANGER);
    assert_eq!(foreign["vm"], "one-1");
    assert_eq!(foreign["direction"], "to");
    assert_eq!(foreign["reason"], "foreign");
    assert_eq!(foreign["whose"]["name"], "one-3");
    // The broadcast was only counted.
    assert_eq!(foreign["frames"], 1);
    // The bridge did not know the port of one-1, so it would have sent the frame to one-2 as well.
    assert_eq!(scene.drops(&["one-1"]).len(), 2);
    assert_eq!(scene.drops(&["one-2"]).len(), 1);
    let ran = scene.host.macfence(["drops", "nobody"]);
    let error = &ran.stderr;
    assert!(
        ran.status == 2 && error.contains("no VM \"nobody\""),
        "{ran:?}"
    );
    let table = scene.host.macfence(["drops"]).ok();
    assert!(table.contains("VM one-3"), "{table}");
}

#[test]
fn a_flood_of_false_addresses_is_bounded_and_hides_no_other_vm() {
    let scene = Scene::new();
    scene.flood(200_000);
    let of_a = scene
        .noted()
        .iter()
        .filter(|row| row.starts_with("one-1-0 spoofed"))
        .count();
    // 32 at once, and 32 more every 20 seconds.
    assert!((32..=320).contains(&of_a), "{of_a} addresses are noted");
    scene.check_drops("flooded");
    // In the middle of the flood.
    scene
        .stranger
        .send(&frame(Kind::Ipv4, mac(A), mac(NEIGHBOUR), 0));
    assert!(scene.noted().contains(&format!("one-3-0 spoofed {A}")));
    // The counter counts all of them.
    let spoofed = &scene.host.list()[0]["nics"][0]["dropped"]["spoofed"];
    assert!(spoofed.as_u64().unwrap() >= 200_000, "{spoofed}");
}

#[test]
fn frames_are_dropped_even_if_the_sets_are_full() {
    let scene = Scene::new();
    let set = "size 16384";
    assert!(scene.host.ruleset().contains(set));
    for set in ["spoofed", "spoofed-pace", "foreign", "foreign-pace"] {
        for part in 0..16u32 {
            let element = |n: u32| {
                let n = part * 1024 + n;
                format!("\"x\" . 02:99:00:00:{:02x}:{:02x}", n >> 8, n & 0xff)
            };
            let elements: Vec<_> = (0..1024).map(element).collect();
            let elements = elements.join(", ");
            scene.nft(&format!(
                "add element bridge macfence {set} {{ {elements} }}\n"
            ));
        }
    }
    scene.check_drops("full sets");
    assert!(scene.noted().iter().all(|row| row.starts_with("x ")));
}

/// Damage done by hand, whether frames are still dropped, and the finding of `check`.
const DAMAGE: &[(&str, bool, &str)] = &[
    (
        "flush chain bridge macfence dropped-spoofed\nflush chain bridge macfence dropped-foreign\n",
        false,
        "dropped-spoofed lets frames pass that it should drop",
    ),
    (
        "insert rule bridge macfence dropped-foreign meta pkttype broadcast accept\n",
        false,
        "dropped-foreign lets frames pass that it should drop",
    ),
    (
        "flush chain bridge macfence dropped-spoofed\ndelete set bridge macfence spoofed\n\
         delete set bridge macfence spoofed-pace\nadd rule bridge macfence dropped-spoofed drop\n",
        true,
        "the table has no set spoofed",
    ),
    // Sets that one element fills, and rules that stay.
    (
        "flush chain bridge macfence dropped-foreign\ndelete set bridge macfence foreign\n\
         add set bridge macfence foreign { type ifname . ether_addr; flags dynamic,timeout; timeout 3s; \
         size 1; }\nadd element bridge macfence foreign { \"x\" . 02:99:00:00:00:01 timeout 1h }\n\
         add rule bridge macfence dropped-foreign update @foreign { oifname . ether saddr counter }\n\
         add rule bridge macfence dropped-foreign drop\n",
        true,
        "the set foreign is not as it should be",
    ),
];

#[test]
fn check_finds_damage_and_a_call_for_several_vms_repairs_it() {
    let scene = Scene::new();
    let whole = scene.host.sorted_ruleset();
    let shape = |lines: &[String]| -> Vec<String> {
        let kept = lines.iter().filter(|line| {
            !line.contains("counter") && !line.contains("expires") && !line.contains("elements")
        });
        kept.cloned().collect()
    };
    for (damage, still_drops, words) in DAMAGE {
        scene.nft(damage);
        if *still_drops {
            scene.check_drops(damage);
        }
        let found = scene.check();
        assert!(found.contains(words), "{damage}: {found}");
        // A hook reads only its own chain. Commands that read the whole table find this damage.
        scene.fence_at_once();
        assert_eq!(
            shape(&scene.host.sorted_ruleset()),
            shape(&whole),
            "{damage}"
        );
        let before = scene.host.generation();
        scene.fence();
        scene.fence_at_once();
        assert_eq!(scene.host.generation(), before, "{damage}");
        scene.check_drops("repaired");
        assert_eq!(scene.check(), "", "{damage}");
    }
}

#[test]
fn the_first_fence_renews_the_earlier_layout_and_keeps_its_counters() {
    let scene = Scene::new();
    scene.check_drops("new");
    let counted = scene.host.list();
    let noting = "goto dropped-";
    let mut old = String::new();
    let mut skipped = false;
    for line in scene.host.ruleset().lines() {
        let chain = line.trim_start();
        if chain.starts_with("set ") || chain.starts_with("chain dropped-") {
            skipped = true;
        }
        if !skipped {
            let rule = line.split(noting).next().unwrap();
            old += rule;
            if rule.len() < line.len() {
                old += "drop";
            }
            old.push('\n');
        }
        if line == "\t}" {
            skipped = false;
        }
    }
    scene.nft(&format!("flush ruleset\n{old}"));
    assert!(!scene.host.ruleset().contains("dropped-"));
    scene.check_drops("old");
    scene.host.ports("br0", &["one-4-0"]);
    scene.host.apply(&xml("one-4", "02:00:c0:a8:00:07")).ok();
    let rules = scene.host.ruleset();
    assert_eq!(rules.matches(noting).count(), 2 * 3 + 2, "{rules}");
    let spoofed = |list: &Value| list[0]["nics"][0]["dropped"]["spoofed"].as_u64().unwrap();
    assert!(spoofed(&scene.host.list()) > spoofed(&counted));
    let before = scene.host.generation();
    scene.fence();
    assert_eq!(scene.host.generation(), before);
    scene.check_drops("renewed");
    assert!(scene.noted().contains("one-1-0 spoofed 02:00:c0:a8:00:77"));
}

#[test]
fn new_drops_are_followed_until_the_reader_leaves() {
    let scene = Scene::new();
    scene.check_drops("before");
    let read = scene.host.run(|| {
        let mut follow = macfence_with(tempfile::tempdir().unwrap())
            .args(["drops", "--follow", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        scene
            .a
            .send(&frame(Kind::Ipv4, mac(STRANGER), mac(NEIGHBOUR), 0));
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(follow.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        drop(stdout);
        scene
            .a
            .send(&frame(Kind::Ipv4, mac(STRANGER), mac(NEIGHBOUR), 0));
        assert!(follow.wait().unwrap().success());
        line
    });
    let row: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(row["source"], STRANGER);
    assert_eq!(row["reason"], "spoofed");
    assert_eq!(row["whose"]["name"], "one-3");
}

#[test]
fn every_version_of_nft_lists_drops() {
    for version in ["0.9.8", "1.1.3"] {
        let nft = fetched(&format!("nft/{version}/nft"));
        let dir = nft.parent().unwrap();
        let host = Host::new();
        host.bridge("br0");
        let (a, b) = (host.tap("br0", "one-1-0"), host.tap("br0", "one-2-0"));
        let macfence = |args: &[&str], stdin: &str| host.exec(macfence_with(dir).args(args), stdin);
        for (name, mac) in [("one-1", A), ("one-2", STRANGER)] {
            macfence(&["apply", "--xml", "-"], &xml(name, mac)).ok();
        }
        a.send(&frame(Kind::Ipv4, mac(NEIGHBOUR), mac(STRANGER), 0));
        b.send(&frame(Kind::Ipv4, mac(STRANGER), mac(A), 0));
        std::thread::sleep(Duration::from_millis(200));
        let rows = macfence(&["drops", "--json"], "").ok();
        let rows: Value = serde_json::from_str(&rows).unwrap();
        let has = |source: &str, reason: &str| {
            let mut rows = rows.as_array().unwrap().iter();
            rows.any(|row| row["source"] == source && row["reason"] == reason)
        };
        assert!(
            has(NEIGHBOUR, "spoofed") && has(STRANGER, "foreign"),
            "{version}: {rows}"
        );
        let before = host.generation();
        macfence(&["apply", "--xml", "-"], &xml("one-1", A)).ok();
        assert_eq!(host.generation(), before, "{version}");
    }
}

#[test]
fn drops_fails_with_ebtables_and_says_why() {
    let host = Host::new();
    let ran = host.macfence(["--backend", "ebtables", "drops"]);
    let words = "ebtables does not note what it drops";
    assert!(ran.status == 2 && ran.stderr.contains(words), "{ran:?}");
}

/// Returns what a socket on this nflog group receives within two seconds.
fn listen(host: &Host, group: u16, meanwhile: impl FnOnce() + Send) -> String {
    host.run(|| {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        );
        let socket = socket.unwrap();
        // NFULNL_MSG_CONFIG with NFULNL_CFG_CMD_BIND for a group.
        let mut message = Vec::new();
        message.extend(28u32.to_ne_bytes());
        message.extend((4u16 << 8 | 1).to_ne_bytes());
        message.extend((1u16 | 4).to_ne_bytes());
        message.extend([0; 8]);
        message.extend([7, 0]);
        message.extend(group.to_be_bytes());
        message.extend(5u16.to_ne_bytes());
        message.extend(1u16.to_ne_bytes());
        message.extend([1, 0, 0, 0]);
        send(socket.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
        meanwhile();
        std::thread::sleep(Duration::from_secs(2));
        let mut told = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            told.extend_from_slice(&buffer[..len]);
        }
        String::from_utf8_lossy(&told).into_owned()
    })
}

#[test]
fn some_drops_are_logged_and_all_are_dropped() {
    let scene = Scene::new();
    let unlogged = scene.host.sorted_ruleset();
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&config, "log = \"nflog:5\"\n").unwrap();
    let config = config.path().to_str().unwrap();
    let apply = |args: &[&str]| {
        for (name, mac) in [("one-1", A), ("one-2", NEIGHBOUR), ("one-3", STRANGER)] {
            let args = [args, &["apply", "--xml", "-"]].concat();
            scene.host.macfence_reading(&xml(name, mac), args).ok();
        }
    };
    apply(&["--config", config]);
    let before = scene.host.generation();
    apply(&["--config", config]);
    assert_eq!(scene.host.generation(), before);
    // Nobody listens to the group.
    scene.check_drops("logged");
    std::thread::sleep(Duration::from_secs(5));
    let told = listen(&scene.host, 5, || {
        scene.flood(1000);
        scene
            .stranger
            .send(&frame(Kind::Ipv4, mac(STRANGER), mac(A), 0));
    });
    let spoofed = told.matches("macfence spoofed one-1-0: ").count();
    assert!((20..=40).contains(&spoofed), "{spoofed} entries");
    assert!(told.contains("macfence foreign one-1-0: "));
    scene.check_drops("logged to somebody");
    apply(&[]);
    let counts = |lines: Vec<String>| -> Vec<String> {
        let rules = lines.into_iter().filter(|line| !line.contains("expires"));
        rules.filter(|line| !line.contains("counter")).collect()
    };
    assert_eq!(counts(scene.host.sorted_ruleset()), counts(unlogged));
}

#[test]
fn every_version_of_nft_logs_drops_of_the_address_guard() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let keys = "log = \"nflog:6\"\naddresses = \"mac\"\ndhcp-guard = true\nra-guard = true\n";
    std::fs::write(&config, keys).unwrap();
    for version in [None, Some("0.9.8"), Some("1.1.3")] {
        let nft = version.map(|version| fetched(&format!("nft/{version}/nft")));
        let dir = nft.as_ref().and_then(|nft| nft.parent());
        let dir = dir.unwrap_or(std::path::Path::new("/usr/sbin"));
        let host = Host::new();
        host.bridge("br0");
        let (a, b) = (host.tap("br0", "one-1-0"), host.tap("br0", "one-2-0"));
        let apply = |name: &str, mac: &str| {
            let args = [
                "--config",
                config.path().to_str().unwrap(),
                "apply",
                "--xml",
                "-",
            ];
            host.exec(macfence_with(dir).args(args), &xml(name, mac))
                .ok();
        };
        apply("one-2", NEIGHBOUR);
        let before = host.generation();
        apply("one-2", NEIGHBOUR);
        assert_eq!(host.generation(), before, "{version:?}");
        // The frame's IP address does not match the MAC address.
        let told = listen(&host, 6, || {
            b.send(&frame(Kind::Ipv4, mac(NEIGHBOUR), mac(A), 1));
        });
        assert!(told.contains("macfence forged one-2-0: "), "{version:?}");
        assert!(
            a.heard()
                .iter()
                .all(|f| crate::lab::frame::number(f) != Some(1))
        );
    }
}
