//! macfence remembers what a template asks for until the VM ends, even if somebody flushes the
//! ruleset.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{
    Host, MACFENCE, Ran, domain, fake_virsh, macfence_with, path_with, script, until,
};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:c0:a8:02:05";
const FILE: &str = "/run/macfence/vms/one-42.json";

const ISOLATED: &str = "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
const GUARDED: &str = "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>\
    <FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING><IP>192.168.2.5</IP><IP6_ULA>fd00::5</IP6_ULA>\
    <MACFENCE_MACS>02:00:00:00:00:99</MACFENCE_MACS><MACFENCE_IPS>192.168.2.250</MACFENCE_IPS>";
const ATTACH: &str = "<ATTACH>YES</ATTACH>";
const ADDRESSES: [&str; 3] = ["192.168.2.5", "192.168.2.250", "fd00::5"];

/// The NICs of VM 42. The first hears all networks, the second is isolated, and the third has
/// guarded addresses.
const NICS: [(&str, &str); 3] = [(A, ""), (B, ISOLATED), (C, GUARDED)];

fn nic(id: usize, mac: &str, more: &str) -> String {
    format!(
        "<NIC><NIC_ID>{id}</NIC_ID><MAC>{mac}</MAC><VN_MAD>bridge</VN_MAD>\
         <TARGET>one-42-{id}</TARGET>{more}</NIC>"
    )
}

fn alias(more: &str) -> String {
    format!("<NIC_ALIAS><NIC_ID>9</NIC_ID><PARENT_ID>2</PARENT_ID>{more}</NIC_ALIAS>")
}

fn template(devices: &[String]) -> String {
    let devices = devices.concat();
    BASE64_STANDARD.encode(format!(
        "<VM><ID>42</ID><TEMPLATE>{devices}</TEMPLATE></VM>"
    ))
}

fn nics() -> Vec<String> {
    let nics = NICS.iter().enumerate();
    nics.map(|(id, (mac, more))| nic(id, mac, more)).collect()
}

/// A host on which VM 42 runs, and a stand-in for virsh that says so.
struct Lab {
    host: Host,
    virsh: TempDir,
}

impl Lab {
    fn new() -> Self {
        let host = Host::new();
        host.bridge("br0");
        host.ports("br0", &["one-42-0", "one-42-1", "one-42-2"]);
        let ports = ["one-42-0", "one-42-1", "one-42-2"];
        let nics = [0, 1, 2].map(|id| (NICS[id].0, ports[id], "br0"));
        let virsh = fake_virsh(&[("one-42", &domain("one-42", &nics))]);
        let config = "template-extras = true\n";
        fs::write(virsh.path().join("macfence.toml"), config).unwrap();
        Self { host, virsh }
    }

    fn call(&self, args: &[&str], stdin: &str) -> Ran {
        let mut command = macfence_with(&self.virsh);
        command
            .arg("--config")
            .arg(self.virsh.path().join("macfence.toml"));
        self.host.exec(command.args(args), stdin)
    }

    fn post(&self, devices: &[String]) {
        self.call(&["hook", "one-post"], &template(devices)).quiet();
    }

    fn clean(&self, devices: &[String]) {
        self.call(&["hook", "one-clean"], &template(devices))
            .quiet();
    }

    fn libvirt(&self, operation: &str) {
        let xml = fs::read_to_string(self.virsh.path().join("one-42.xml")).unwrap();
        let args = ["hook", "libvirt", "--", "one-42", operation, "begin", "-"];
        self.call(&args, &xml).quiet();
    }

    /// Works with files of the host.
    fn there<R: Send>(&self, work: impl FnOnce(&Path) -> R + Send) -> R {
        self.host.run(|| work(Path::new(FILE)))
    }

    fn has_file(&self) -> bool {
        self.there(Path::exists)
    }

    /// Returns what is remembered of a NIC.
    fn remembered(&self, nic: usize) -> Value {
        let text = self.there(|file| fs::read_to_string(file).unwrap());
        let file: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&file["version"], &file["vm"]),
            (&1.into(), &"one-42".into())
        );
        let port = format!("one-42-{nic}");
        let mut nics = file["nics"].as_array().unwrap().iter();
        nics.find(|nic| nic["port"] == *port)
            .cloned()
            .unwrap_or_default()
    }

    /// Tells for each NIC whether it hears only its own network, and which addresses it may use.
    fn fenced(&self) -> Vec<(bool, Option<Vec<String>>)> {
        let list = self.host.list();
        let nic = |nic: &Value| {
            let ips = |family: &str| nic["addresses"][family].as_array().cloned();
            let all = ips("ipv4")
                .zip(ips("ipv6"))
                .map(|(v4, v6)| [v4, v6].concat());
            let text = |ip: Value| ip.as_str().unwrap().to_owned();
            let all = all.map(|all| all.into_iter().map(text).collect());
            (nic["prefix"].is_string(), all)
        };
        list[0]["nics"]
            .as_array()
            .unwrap()
            .iter()
            .map(nic)
            .collect()
    }
}

fn addresses(of: &[&str]) -> Option<Vec<String>> {
    Some(of.iter().map(|ip| (*ip).to_owned()).collect())
}

fn asked() -> Vec<(bool, Option<Vec<String>>)> {
    vec![(false, None), (true, None), (true, addresses(&ADDRESSES))]
}

#[test]
fn sync_restores_everything_after_the_ruleset_was_flushed() {
    let lab = Lab::new();
    lab.post(&nics());
    assert_eq!(lab.fenced(), asked());
    let whole = lab.host.ok("nft", &["list", "ruleset"]);
    lab.call(&["check"], "").quiet();
    lab.host.ok("nft", &["flush", "ruleset"]);
    assert_eq!(
        lab.call(&["sync"], "").ok(),
        "fenced one-42: port \"one-42-0\"; port \"one-42-1\"; port \"one-42-2\"\n"
    );
    // No frames were sent, so the counters are equal too.
    assert_eq!(lab.host.ok("nft", &["list", "ruleset"]), whole);
    lab.call(&["check"], "").quiet();
    for args in [
        &["apply", "one-42"][..],
        &["hook", "ebtables-kvm", "one-42"],
    ] {
        lab.host.ok("nft", &["flush", "ruleset"]);
        lab.call(args, "").quiet();
        assert_eq!(lab.host.ok("nft", &["list", "ruleset"]), whole, "{args:?}");
    }
    lab.host.ok("nft", &["flush", "ruleset"]);
    lab.libvirt("reconnect");
    assert_eq!(lab.host.ok("nft", &["list", "ruleset"]), whole);
}

#[test]
fn the_service_restores_what_templates_asked_for() {
    let lab = Lab::new();
    lab.post(&nics());
    let whole = lab.host.ok("nft", &["list", "ruleset"]);
    let mut watch = lab.host.run(|| {
        let mut command = Command::new(MACFENCE);
        command
            .arg("watch")
            .arg("--config")
            .arg(lab.virsh.path().join("macfence.toml"));
        command.env("PATH", path_with(&lab.virsh));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    for _ in 0..3 {
        lab.host.ok("nft", &["flush", "ruleset"]);
        until("the ruleset is restored", || {
            lab.host.ok("nft", &["list", "ruleset"]) == whole
        });
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn with_ebtables_requests_are_remembered_too() {
    let lab = Lab::new();
    let save = || {
        let all = lab.host.ok("ebtables-save", &[]);
        let mut lines: Vec<_> = all
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let with =
        |args: &[&str], stdin: &str| lab.call(&[&["--backend", "ebtables"], args].concat(), stdin);
    let nics = &nics()[..2];
    lab.call(
        &["--backend", "ebtables", "hook", "one-post"],
        &template(nics),
    )
    .quiet();
    let whole = save();
    assert!(
        !whole.iter().any(|line| line.contains("-o one-42-0")),
        "{whole:?}"
    );
    // libvirt knows a third NIC, for which no template has asked anything.
    let third = with(&["sync"], "").ok();
    assert!(third.starts_with("mended one-42: "), "{third}");
    let whole = save();
    assert!(
        whole.iter().any(|line| line.contains("-o one-42-2")),
        "{whole:?}"
    );
    assert!(
        !whole.iter().any(|line| line.contains("-o one-42-0")),
        "{whole:?}"
    );
    with(&["check"], "").quiet();
    let rules = lab.host.ok("ebtables-save", &[]);
    for table in ["filter", "nat"] {
        lab.host.ok("ebtables", &["-t", table, "-F"]);
        lab.host.ok("ebtables", &["-t", table, "-X"]);
    }
    assert_eq!(with(&["check"], "").status, 1);
    with(&["sync"], "").ok();
    assert_eq!(save(), whole, "{rules}");
    // Lose one of the rules against the open NIC's frames.
    let line = rules
        .lines()
        .find(|line| line.contains("-i one-42-0") && line.contains("PREROUTING"));
    let words: Vec<_> = line.unwrap().split_whitespace().skip(1).collect();
    lab.host
        .ok("ebtables", &[&["-t", "nat", "-D"], &*words].concat());
    assert_eq!(with(&["check"], "").status, 1);
    with(&["sync"], "").ok();
    assert_eq!(save(), whole);
}

#[test]
fn a_container_that_only_opennebula_knows_is_restored_while_its_port_is_there() {
    let lab = Lab::new();
    // Another VM's template: its ports are veths, as plain LXC makes them.
    let nics = [(0, B, ""), (1, C, GUARDED)];
    let nics = nics.map(|(id, mac, more)| nic(id, mac, more)).concat();
    let nics = nics.replace("one-42-", "one-43-");
    let container =
        BASE64_STANDARD.encode(format!("<VM><ID>43</ID><TEMPLATE>{nics}</TEMPLATE></VM>"));
    for port in ["one-43-0", "one-43-1"] {
        let end = port.replace("one", "end");
        lab.host
            .ip(&format!("link add {port} type veth peer name {end}\n"));
        lab.host.plug("br0", port);
    }
    lab.post(&self::nics());
    lab.call(&["hook", "one-post"], &container).quiet();
    let whole = lab.host.sorted_ruleset();

    // Where LXC is not installed, nothing says that such containers run.
    lab.host.ok("nft", &["flush", "ruleset"]);
    lab.call(&["sync"], "").ok();
    assert_eq!(lab.host.fenced(), ["one-42"]);
    script(&lab.virsh, "lxc-start", "exit 1");
    let checked = lab.call(&["check"], "");
    let missing = "missing one-43: port \"one-43-0\"; port \"one-43-1\"\n";
    assert_eq!((checked.status, &*checked.stdout), (1, missing));
    let listed = lab.call(&["list"], "").ok();
    assert!(listed.contains("nothing has fenced it yet"), "{listed}");
    let synced = lab.call(&["sync"], "").ok();
    assert_eq!(synced, missing.replace("missing", "fenced"));
    assert_eq!(lab.host.sorted_ruleset(), whole);
    lab.call(&["check"], "").quiet();

    // Its record is damaged: it is named, and what is fenced stays. The next post mends the record.
    let file = "/run/macfence/vms/one-43.json";
    let good = lab.host.run(|| fs::read(file).unwrap());
    let named = |ran: Ran| {
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        let why = "one-43: it is unknown which MAC addresses the container has: ";
        let said = ran.stdout + &ran.stderr;
        assert!(said.contains(why) && said.contains(file), "{said}");
    };
    lab.host.run(|| fs::write(file, "damaged").unwrap());
    for command in ["check", "sync"] {
        named(lab.call(&[command], ""));
    }
    assert_eq!(lab.host.sorted_ruleset(), whole);
    assert_eq!(lab.host.run(|| fs::read(file).unwrap()), b"damaged");
    let posted = lab.call(&["hook", "one-post"], &container);
    assert!(
        posted.stderr.contains("the file was replaced"),
        "{posted:?}"
    );
    assert_eq!(lab.host.run(|| fs::read(file).unwrap()), good);
    lab.call(&["check"], "").quiet();

    // A record without one of its NICs: what is fenced stays.
    let mut partial: Value = serde_json::from_slice(&good).unwrap();
    partial["nics"].as_array_mut().unwrap().remove(0);
    let partial = partial.to_string();
    lab.host.run(|| fs::write(file, partial).unwrap());
    lab.call(&["apply", "one-43"], "").quiet();
    assert_eq!(lab.host.sorted_ruleset(), whole);
    lab.host.run(|| fs::write(file, good).unwrap());

    // By the service, and on a host that has nothing but LXC.
    fs::write(
        lab.virsh.path().join("macfence.toml"),
        "template-extras = true\nconnect = []\n",
    )
    .unwrap();
    let log = lab.virsh.path().join("log");
    let mut watch = lab.host.run(|| {
        let log = fs::File::create(&log).unwrap();
        let mut command = macfence_with(&lab.virsh);
        command
            .arg("--config")
            .arg(lab.virsh.path().join("macfence.toml"));
        command.arg("watch").stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    });
    until("it looks", || lab.host.fenced().len() == 2);
    lab.host.ok("nft", &["flush", "ruleset"]);
    until("the container is fenced", || {
        lab.host.fenced() == ["one-43"]
    });
    lab.call(&["check"], "").quiet();

    // A port goes, and then the container with the other one.
    let there = |port: &str| lab.host.ruleset().contains(&format!("\"{port}\""));
    lab.host.ip("link del one-43-0\n");
    until("a port's rules are gone", || !there("one-43-0"));
    assert!(there("one-43-1") && lab.host.run(|| Path::new(file).exists()));
    lab.host.ip("link del one-43-1\n");
    until("the fence is gone", || lab.host.fenced().is_empty());

    // It rebooted: LXC has deleted its ports, and creates them again when others have looked meanwhile.
    lab.call(&["flush"], "").quiet();
    lab.call(&["sync"], "").quiet();
    assert!(lab.host.fenced().is_empty());
    for port in ["one-43-0", "one-43-1"] {
        let end = port.replace("one", "end");
        lab.host
            .ip(&format!("link add {port} type veth peer name {end}\n"));
        lab.host.plug("br0", port);
    }
    until("both ports are fenced again", || {
        there("one-43-0") && there("one-43-1")
    });
    lab.call(&["check"], "").quiet();

    // It ended. Only OpenNebula knows that it does not come back.
    lab.host.ip("link del one-43-0\nlink del one-43-1\n");
    until("the fence is gone", || lab.host.fenced().is_empty());
    lab.call(&["hook", "one-clean"], &container).quiet();
    assert!(!lab.host.run(|| Path::new(file).exists()));
    watch.kill().unwrap();
    watch.wait().unwrap();
    let said = fs::read_to_string(&log).unwrap();
    assert!(!said.contains("warning"), "{said}");
}

/// A file's text, a change to the file, and the words of the warning.
type Spoilt<'a> = (&'a [u8], &'a (dyn Fn(&Path) + Sync), &'a str);

#[test]
fn an_untrustworthy_file_is_reported_and_its_vm_is_isolated() {
    let lab = Lab::new();
    lab.post(&nics());
    let good = lab.there(|file| fs::read(file).unwrap());
    let whole = lab.host.sorted_ruleset();
    let put = |text: &[u8]| {
        lab.there(|file| {
            let _ = fs::remove_file(file);
            fs::write(file, text).unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        });
    };
    let another = String::from_utf8(good.clone())
        .unwrap()
        .replace("one-42\"", "one-7\"");
    let own =
        |mode| move |file: &Path| fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    let as_is = |_: &Path| {};
    let belongs = |file: &Path| chown(file, Some(9999), None).unwrap();
    let linked = |file: &Path| {
        fs::rename(file, "/run/elsewhere").unwrap();
        symlink("/run/elsewhere", file).unwrap();
    };
    let cases: [Spoilt; 8] = [
        (&good[..good.len() / 2], &as_is, "it is not a valid record"),
        (b"", &as_is, "it is not a valid record"),
        (another.as_bytes(), &as_is, "it belongs to VM \"one-7\""),
        (
            &vec![b' '; (8 << 20) + 1],
            &as_is,
            "it is longer than 8 MiB",
        ),
        (&good, &own(0o620), "other users can write to it"),
        (&good, &own(0o602), "other users can write to it"),
        (&good, &belongs, "it belongs to another user"),
        (&good, &linked, "is a symbolic link"),
    ];
    for (text, spoil, words) in cases {
        put(text);
        lab.there(|file| spoil(file));
        let begins = format!(
            "macfence: warning: VM \"one-42\" is isolated, because it is unknown what its template \
             asks for: {FILE}"
        );
        let is_said = |ran: Ran, status| {
            assert_eq!(ran.status, status, "{words}: {ran:?}");
            // check also says how to set this right.
            let hint = "macfence: note: run macfence sync to set this right";
            let said: Vec<_> = ran.stderr.lines().filter(|line| *line != hint).collect();
            let [line] = said[..] else { panic!("{ran:?}") };
            assert!(line.starts_with(&begins) && line.contains(words), "{ran:?}");
        };
        is_said(lab.call(&["check"], ""), 1);
        is_said(lab.call(&["sync"], ""), 0);
        // The VM keeps the addresses that the kernel allows it, and gets no others. It loses its
        // second MAC address.
        let isolated = vec![(true, None), (true, None), (true, addresses(&ADDRESSES))];
        assert_eq!(lab.fenced(), isolated, "{words}");
        assert!(!lab.host.ruleset().contains("02:00:00:00:00:99"));
        is_said(lab.call(&["apply", "one-42"], ""), 0);
        is_said(lab.call(&["check"], ""), 0);
        assert_eq!(lab.fenced(), isolated, "{words}");
        // The next template replaces the file.
        let ran = lab.call(&["hook", "one-post"], &template(&nics()));
        assert!(
            ran.status == 0 && ran.stderr.ends_with("; the file was replaced\n"),
            "{ran:?}"
        );
        assert_eq!(lab.host.sorted_ruleset(), whole, "{words}");
        assert_eq!(lab.there(|file| fs::read(file).unwrap()), good);
    }
    let elsewhere = lab.there(|_| fs::read("/run/elsewhere").unwrap());
    assert_eq!(elsewhere, good, "the link was not followed");
}

#[test]
fn an_unsafe_directory_stops_every_command_that_needs_it() {
    let lab = Lab::new();
    lab.post(&nics());
    let before = lab.host.generation();
    lab.there(|file| {
        let dir = file.parent().unwrap();
        fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
    });
    let words = "/run/macfence/vms can be changed by other users: delete it";
    for (args, status) in [
        (&["sync"][..], 1),
        (&["check"], 2),
        (&["apply", "one-42"], 1),
    ] {
        let ran = lab.call(args, "");
        assert_eq!(ran.status, status, "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
    let post = lab.call(&["hook", "one-post"], &template(&nics())).error();
    assert!(post.contains(words), "{post}");
    assert_eq!(lab.host.generation(), before);
}

#[test]
fn requests_are_forgotten_when_the_vm_ends() {
    let lab = Lab::new();
    let all = nics();
    let gone = |lab: &Lab| assert!(!lab.has_file());
    lab.post(&all);
    assert!(lab.has_file());
    lab.clean(&all);
    gone(&lab);
    for operation in ["stopped", "release"] {
        lab.post(&all);
        lab.libvirt(operation);
        gone(&lab);
    }
    lab.post(&all);
    lab.call(&["remove", "one-42"], "").quiet();
    gone(&lab);
    // The VM starts again. Requests of its earlier life do not count.
    lab.post(&all);
    lab.libvirt("start");
    gone(&lab);
    assert_eq!(lab.fenced(), [(true, None), (true, None), (true, None)]);
    // The VM has ended, and no hook was called.
    lab.post(&all);
    fs::write(lab.virsh.path().join("names"), "").unwrap();
    lab.call(&["sync"], "").ok();
    assert!(lab.has_file(), "its ports are there");
    for id in 0..3 {
        lab.host.unplug(&format!("one-42-{id}"));
    }
    lab.call(&["sync"], "").ok();
    gone(&lab);
    lab.host.ports("br0", &["one-42-0", "one-42-1", "one-42-2"]);
    lab.post(&all);
    lab.call(&["flush"], "").quiet();
    assert!(lab.has_file());
    for id in 0..3 {
        lab.host.unplug(&format!("one-42-{id}"));
    }
    lab.call(&["flush"], "").quiet();
    gone(&lab);
    assert!(lab.host.fenced().is_empty());
}

#[test]
fn a_nic_that_comes_or_goes_changes_only_its_own_memory() {
    let lab = Lab::new();
    let all = nics();
    lab.post(&all[..2]);
    let first = [lab.remembered(0), lab.remembered(1)];
    let attached = [
        all[0].clone(),
        all[1].clone(),
        nic(2, C, &(ATTACH.to_owned() + GUARDED)),
    ];
    lab.post(&attached);
    assert_eq!([lab.remembered(0), lab.remembered(1)], first);
    let third = lab.remembered(2);
    assert_eq!(
        (&third["guards_addresses"], &third["hears_all"]),
        (&true.into(), &false.into())
    );
    assert_eq!(lab.fenced(), asked());
    lab.clean(&attached);
    assert_eq!([lab.remembered(0), lab.remembered(1)], first);
    assert!(lab.remembered(2).is_null());
}

#[test]
fn an_alias_adds_its_addresses_to_its_nic_only_while_attached() {
    let lab = Lab::new();
    let all = nics();
    lab.post(&all);
    let without = lab.host.sorted_ruleset();
    let with_alias = |more: &str| {
        let mut devices = all.clone();
        devices.push(alias(more));
        devices
    };
    let comes = with_alias("<ATTACH>YES</ATTACH><IP>192.168.2.77</IP>");
    lab.post(&comes);
    let more = addresses(&["192.168.2.5", "192.168.2.77", "192.168.2.250", "fd00::5"]);
    assert_eq!(lab.fenced()[2].1, more);
    // The alias is there, and somebody flushes the ruleset.
    let with = lab.host.ok("nft", &["list", "ruleset"]);
    lab.host.ok("nft", &["flush", "ruleset"]);
    lab.call(&["sync"], "").ok();
    assert_eq!(lab.fenced()[2].1, more);
    let before = lab.host.generation();
    lab.post(&with_alias("<IP>192.168.2.77</IP>"));
    assert_eq!(lab.host.generation(), before, "{with}");
    // While the alias is detached, its wrong addresses are no reason to fail.
    let goes = "<ATTACH>YES</ATTACH><IP>192.168.2.77</IP><IP6>nonsense</IP6>";
    lab.clean(&with_alias(goes));
    assert_eq!(lab.host.sorted_ruleset(), without);
    assert_eq!(lab.fenced(), asked());
    assert_eq!(
        lab.remembered(2)["addresses"],
        serde_json::json!(["192.168.2.5", "fd00::5"])
    );
}

#[test]
fn nonsense_in_a_template_changes_nothing_and_does_not_keep_fences_when_the_vm_ends() {
    let lab = Lab::new();
    let all = nics();
    lab.post(&all);
    let (before, file) = (
        lab.host.generation(),
        lab.there(|file| fs::read(file).unwrap()),
    );
    let nonsense = [all[0].clone(), nic(1, B, "<IP>192.168.1.256</IP>")];
    let error = lab
        .call(&["hook", "one-post"], &template(&nonsense))
        .error();
    assert!(
        error.ends_with("VM \"one-42\", NIC 1: IP: \"192.168.1.256\" is not an IP address"),
        "{error}"
    );
    assert_eq!(lab.host.generation(), before);
    assert_eq!(lab.there(|file| fs::read(file).unwrap()), file);
    lab.clean(&nonsense);
    assert!(!lab.has_file() && lab.host.fenced().is_empty());
}

#[test]
fn vms_with_similar_names_have_separate_files() {
    let lab = Lab::new();
    lab.host.ports("br0", &["one-42-3"]);
    let names = ["a b", "a_20b", "a/../b", ".."];
    for (index, name) in names.iter().enumerate() {
        let one = template(&[nic(index, A, "")]);
        lab.call(&["hook", "one-post", name], &one).ok();
    }
    let files = lab.there(|file| {
        let entries = fs::read_dir(file.parent().unwrap()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    });
    assert_eq!(
        files,
        ["...json", "a_20b.json", "a_2f.._2fb.json", "a_5f20b.json"]
    );
}

#[test]
fn a_kill_during_a_write_leaves_the_old_file_or_the_new_one() {
    let lab = Lab::new();
    let (open, isolated) = ([nic(0, A, "")], [nic(0, A, ISOLATED)]);
    let post = |devices: &[String]| {
        let mut command = macfence_with(&lab.virsh);
        command.args(["hook", "one-post"]);
        let file = lab.virsh.path().join("template");
        fs::write(&file, template(devices)).unwrap();
        command.stdin(fs::File::open(file).unwrap());
        command
    };
    lab.post(&open);
    let old = lab.there(|file| fs::read(file).unwrap());
    let start = Instant::now();
    lab.post(&isolated);
    let whole = start.elapsed();
    let new = lab.there(|file| fs::read(file).unwrap());
    assert_ne!(old, new);
    for point in 0..40 {
        lab.post(&open);
        lab.host.run(|| {
            let mut child = post(&isolated).stderr(Stdio::null()).spawn().unwrap();
            // Most kills fall near the end, where the file is written.
            thread::sleep(whole * (40 + point) / 80);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        lab.host.ok("flock", &["/run/macfence/lock", "true"]);
        let now = lab.there(|file| fs::read(file).unwrap());
        assert!(now == old || now == new, "point {point}");
        lab.post(&isolated);
        assert_eq!(lab.there(|file| fs::read(file).unwrap()), new);
        let left = lab.there(|file| fs::read_dir(file.parent().unwrap()).unwrap().count());
        assert_eq!(left, 1, "point {point}");
    }
}

#[test]
fn the_first_command_remembers_what_version_0_1_noted_in_the_kernel() {
    let old = "table bridge macfence {\n\tchain vm-one-42 {\n\
         \t\tiifname \"one-42-0\" ether saddr != 02:00:c0:a8:00:05 counter drop comment \"hears all networks\"\n\
         \t\tiifname \"one-42-1\" ether saddr != 02:00:c0:a8:01:05 counter drop\n\
         \t\toifname \"one-42-1\" ether saddr & ff:ff:ff:ff:ff:00 != 02:00:c0:a8:01:00 counter drop\n\
         \t}\n\tmap ports {\n\t\ttype ifname : verdict\n\
         \t\telements = { \"one-42-0\" : jump vm-one-42, \"one-42-1\" : jump vm-one-42 }\n\t}\n\
         \tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname vmap @ports\n\t\toifname vmap @ports\n\t}\n}\n";
    for args in [&["sync"][..], &["apply", "one-42"]] {
        let lab = Lab::new();
        lab.host
            .exec(Command::new("nft").args(["-f", "-"]), old)
            .ok();
        let said = lab.call(&["check"], "");
        assert!(
            said.status == 1 && !said.stdout.contains("all networks"),
            "{said:?}"
        );
        lab.call(args, "").ok();
        let expected = [(false, None), (true, None), (true, None)];
        assert_eq!(lab.fenced(), expected, "{args:?}");
        assert_eq!(lab.remembered(0)["hears_all"], true);
        assert!(lab.remembered(1).is_null());
        lab.host.ok("nft", &["flush", "ruleset"]);
        lab.call(&["sync"], "").ok();
        assert_eq!(lab.fenced(), expected, "{args:?}");
        // The note in the kernel counts no longer.
        lab.there(|file| fs::remove_file(file).unwrap());
        lab.call(&["sync"], "").ok();
        assert!(lab.fenced().iter().all(|(isolated, _)| *isolated));
    }
}
