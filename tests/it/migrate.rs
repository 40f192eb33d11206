//! Migrates the seed's ebtables rules to nft. No VM is open at any moment.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::Duration;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::{Host, Ran, Tap, domain, fake_virsh, macfence_with, need, until};

const VMS: usize = 50;

fn mac(vm: usize) -> String {
    format!("02:00:c0:a8:{:02x}:{vm:02x}", vm % 2)
}

fn port(vm: usize) -> String {
    format!("one-{vm}-0")
}

/// A host with the seed's rules for `vms` VMs, each twice as the seed leaves them, and a virsh that
/// knows the VMs.
fn seeded(vms: usize) -> (Host, tempfile::TempDir) {
    need("ebtables-restore");
    let host = Host::new();
    host.bridge("br0");
    let mut rules = "*filter\n-A FORWARD -p ARP -i eth7 -j ACCEPT\n".to_owned();
    let mut xml = Vec::new();
    for vm in 0..vms {
        let (mac, port) = (mac(vm), port(vm));
        let net = format!("{}:00", &mac[..14]);
        for _ in 0..1 + vm % 2 {
            rules += &format!("-A FORWARD -s ! {net}/ff:ff:ff:ff:ff:00 -o {port} -j DROP\n");
            rules += &format!("-A FORWARD -s ! {mac} -i {port} -j DROP\n");
        }
        xml.push((
            format!("one-{vm}"),
            domain(&format!("one-{vm}"), &[(&mac, &port, "br0")]),
        ));
    }
    host.exec(Command::new("ebtables-restore").arg("--noflush"), &rules)
        .ok();
    let xml: Vec<_> = xml
        .iter()
        .map(|(name, xml)| (name.as_str(), xml.as_str()))
        .collect();
    (host, fake_virsh(&xml))
}

fn migrate(host: &Host, virsh: &tempfile::TempDir, flags: &[&str]) -> Ran {
    host.exec(macfence_with(virsh).arg("migrate").args(flags), "")
}

fn ebtables_rules(host: &Host) -> Vec<String> {
    let listed = host.ok("ebtables", &["-L", "FORWARD"]);
    listed
        .lines()
        .filter(|line| line.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_pair_becomes_a_fence_and_other_rules_stay() {
    let (host, virsh) = seeded(4);
    for vm in 0..4 {
        host.ports("br0", &[&port(vm)]);
    }
    let add = |rule: &str| drop(host.ok("ebtables", &rule.split(' ').collect::<Vec<_>>()));
    // A pair of no VM, half a pair, and somebody else's rule.
    add("-A FORWARD -s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o stray -j DROP");
    add("-A FORWARD -s ! 02:00:c0:a8:00:09 -i stray -j DROP");
    add("-A FORWARD -s ! 02:00:c0:a8:00:09 -i half -j DROP");
    let before = (host.generation(), ebtables_rules(&host));
    let dry = migrate(&host, &virsh, &["--dry-run"]);
    assert!(
        dry.stderr
            .contains("\"stray\" is left alone: no running VM has it"),
        "{}",
        dry.stderr
    );
    assert!(
        dry.stderr.contains("\"half\" is left alone"),
        "{}",
        dry.stderr
    );
    assert!(
        dry.stderr.contains("-p ARP -i eth7 -j ACCEPT"),
        "{}",
        dry.stderr
    );
    let dry = dry.ok();
    assert!(
        dry.contains("\"vm-one-3\"") && dry.matches("ebtables -t filter -D").count() == 12,
        "{dry}"
    );
    assert_eq!((host.generation(), ebtables_rules(&host)), before);

    let said = migrate(&host, &virsh, &[]).ok();
    assert!(said.contains("one-3: one-3-0 fenced by nft"), "{said}");
    assert_eq!(host.fenced(), ["one-0", "one-1", "one-2", "one-3"]);
    assert_eq!(
        ebtables_rules(&host),
        [
            "-p ARP -i eth7 -j ACCEPT",
            "-s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o stray -j DROP",
            "-s ! 02:00:c0:a8:00:09 -i stray -j DROP",
            "-s ! 02:00:c0:a8:00:09 -i half -j DROP",
        ]
    );
    let before = (host.generation(), host.ruleset());
    assert_eq!(migrate(&host, &virsh, &[]).ok(), "");
    assert_eq!((host.generation(), host.ruleset()), before);
    // A migrated fence is the one that apply would make.
    let list = host.list();
    assert_eq!(list[1]["nics"][0]["mac"], mac(1));
    assert_eq!(list[1]["nics"][0]["prefix"], "02:00:c0:a8:01:00/40");
}

#[test]
fn stale_rules_do_not_replace_right_fences() {
    let (host, virsh) = seeded(2);
    host.ports("br0", &[&port(0), &port(1)]);
    // VM 0 has another address now. First it has no fence in nft, then one.
    let now = domain("one-0", &[("02:00:c0:a8:09:05", &port(0), "br0")]);
    std::fs::write(virsh.path().join("one-0.xml"), &now).unwrap();
    let all = ebtables_rules(&host);
    let ran = migrate(&host, &virsh, &[]);
    assert!(
        ran.stderr.contains("for another MAC address"),
        "{}",
        ran.stderr
    );
    assert_eq!(host.fenced(), ["one-1"]);
    assert_eq!(ebtables_rules(&host), all[..3]);
    host.apply(&now).ok();
    let ran = migrate(&host, &virsh, &[]);
    assert!(
        ran.stderr.contains("its ebtables rules differ"),
        "{}",
        ran.stderr
    );
    assert_eq!(host.list()[0]["nics"][0]["mac"], "02:00:c0:a8:09:05");
    assert_eq!(ebtables_rules(&host), all[..3]);
}

#[test]
fn a_port_that_nft_holds_for_its_former_vm_goes_to_its_present_vm() {
    for former in ["a-former", "z-former"] {
        let (host, _) = seeded(0);
        host.ports("br0", &["vnet0", "vnet1", "vnet2"]);
        let (old, own, new) = (
            "02:00:c0:a8:09:05",
            "02:00:c0:a8:09:06",
            "02:00:c0:a8:01:20",
        );
        host.apply(&domain(
            former,
            &[(old, "vnet0", "br0"), (own, "vnet1", "br0")],
        ))
        .ok();
        let now = domain(former, &[(own, "vnet1", "br0"), (old, "vnet2", "br0")]);
        let b = domain("b", &[(new, "vnet0", "br0")]);
        // Of the former VM's ports, only the new one has rules of the seed.
        for (mac, port) in [(old, "vnet2"), (new, "vnet0")] {
            let net = format!("{}:00/ff:ff:ff:ff:ff:00", &mac[..14]);
            for (who, way) in [(&*net, "-o"), (mac, "-i")] {
                host.ok(
                    "ebtables",
                    &["-A", "FORWARD", "-s", "!", who, way, port, "-j", "DROP"],
                );
            }
        }
        let virsh = fake_virsh(&[(former, &now), ("b", &b)]);
        migrate(&host, &virsh, &[]).ok();
        let ruleset = host.ruleset();
        assert!(
            ruleset.contains("\"vnet0\" : jump vm-b"),
            "{former}: {ruleset}"
        );
        // One entry in the map, and three rules.
        assert_eq!(ruleset.matches("vnet0").count(), 4, "{former}: {ruleset}");
        let list = host.list();
        let b = list
            .as_array()
            .unwrap()
            .iter()
            .find(|vm| vm["vm"] == "b")
            .unwrap();
        assert_eq!(b["nics"][0]["mac"], new);
        assert_eq!(
            ebtables_rules(&host),
            ["-p ARP -i eth7 -j ACCEPT"],
            "{former}"
        );
    }
}

#[test]
fn fences_of_our_own_ebtables_backend_migrate_with_their_trusted_senders() {
    let (host, virsh) = seeded(1);
    host.ports("br0", &[&port(0)]);
    let xml = domain("one-0", &[(&mac(0), &port(0), "br0")]);
    let trusting = ["--trusted", "00:16:3e:00:00:01"];
    let apply = ["--backend", "ebtables", "apply", "--xml", "-"];
    host.macfence_reading(&xml, apply.iter().chain(&trusting))
        .ok();
    migrate(&host, &virsh, &[]).ok();
    let left = host.ok("ebtables-save", &[]);
    let left: Vec<_> = left.lines().filter(|line| line.starts_with("-A")).collect();
    assert_eq!(left, ["-A FORWARD -p ARP -i eth7 -j ACCEPT"]);
    // A second run with the same trusted senders has nothing to do.
    let before = host.generation();
    let apply = ["apply", "--xml", "-"];
    host.macfence_reading(&xml, apply.iter().chain(&trusting))
        .ok();
    assert_eq!(host.generation(), before);
}

#[test]
fn only_ports_of_chosen_bridges_migrate() {
    let (host, virsh) = seeded(2);
    host.bridge("br1");
    host.ports("br0", &[&port(0)]);
    host.ports("br1", &[&port(1)]);
    let ran = migrate(&host, &virsh, &["--bridge", "br0"]);
    assert!(
        ran.stderr.contains("\"one-1-0\" is left alone"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        (host.fenced(), ebtables_rules(&host).len()),
        (vec!["one-0".to_owned()], 5)
    );
}

#[test]
fn a_dry_run_prints_what_the_run_then_loads() {
    let (host, virsh) = seeded(1);
    host.ports("br0", &[&port(0)]);
    // In nft the port belongs to another VM, so its entry has to go first.
    host.apply(&domain("old", &[("02:00:c0:a8:09:05", &port(0), "br0")]))
        .ok();
    let dry = migrate(&host, &virsh, &["--dry-run"]).ok();
    let json: String = dry
        .lines()
        .take_while(|line| !line.starts_with("ebtables"))
        .collect();
    let copy = Host::new();
    copy.exec(
        Command::new("nft").args(["-f", "-"]),
        &host.ok("nft", &["list", "table", "bridge", "macfence"]),
    )
    .ok();
    // Handles in a new namespace count from one. This transaction needs no handles.
    copy.exec(Command::new("nft").args(["-j", "-f", "-"]), &json)
        .ok();
    migrate(&host, &virsh, &[]).ok();
    let table = ["list", "table", "bridge", "macfence"];
    assert_eq!(copy.ok("nft", &table), host.ok("nft", &table));
    assert_eq!(host.fenced(), ["one-0"]);
}

#[test]
fn a_migration_that_stops_between_two_rules_is_completed() {
    let (host, virsh) = seeded(1);
    host.ports("br0", &[&port(0)]);
    // A few rules are deleted by one call each. The second call fails.
    crate::lab::script(
        &virsh,
        "ebtables",
        "case $* in *-D*) mkdir ${0%/*}/one 2>/dev/null || { echo no >&2; exit 1; };; esac; \
         exec /usr/sbin/ebtables \"$@\"",
    );
    let error = migrate(&host, &virsh, &[]);
    assert_eq!(error.status, 1, "{error:?}");
    assert_eq!(
        (ebtables_rules(&host).len(), host.fenced()),
        (2, vec!["one-0".to_owned()])
    );
    std::fs::remove_file(virsh.path().join("ebtables")).unwrap();
    migrate(&host, &virsh, &[]).ok();
    assert_eq!(ebtables_rules(&host), ["-p ARP -i eth7 -j ACCEPT"]);
    assert_eq!(host.fenced(), ["one-0"]);
}

/// VM 0 (network 0) sends under VM 1's address and under its own. VM 1 (network 1) must hear
/// neither frame. The uplink must not hear the spoofed one.
struct Forbidden {
    vm0: Tap,
    vm1: Tap,
    uplink: Tap,
}

impl Forbidden {
    /// Creates the ports of all VMs of a host, and keeps the far ends of these three.
    fn on(host: &Host) -> Self {
        (2..VMS).for_each(|vm| host.ports("br0", &[&port(vm)]));
        Self {
            vm0: host.tap("br0", &port(0)),
            vm1: host.tap("br0", &port(1)),
            uplink: host.tap("br0", "eth0"),
        }
    }

    /// Sends one frame of each kind, and returns how many were heard wrongly.
    fn heard(&self, id: u32) -> usize {
        let parse = |text: String| text.parse::<MacAddr>().unwrap();
        let (own, other) = (parse(mac(0)), parse(mac(1)));
        let all = MacAddr::new([0xff; 6]);
        let mut heard = 0;
        for (n, (src, may_leave)) in [(other, false), (own, true)].into_iter().enumerate() {
            let id = 2 * id + n as u32;
            self.vm0.send(&frame(Kind::Arp, src, all, id));
            let has = |tap: &Tap| tap.heard().iter().any(|f| number(f) == Some(id));
            heard += usize::from(has(&self.vm1));
            heard += usize::from(has(&self.uplink) && !may_leave);
        }
        heard
    }
}

#[test]
fn no_forbidden_frame_is_heard_while_fifty_vms_migrate() {
    let (host, virsh) = seeded(VMS);
    let frames = Forbidden::on(&host);
    let number_sent = AtomicU32::new(0);
    let sent = || number_sent.load(Ordering::Relaxed);
    thread::scope(|scope| {
        // The sender stops when this is dropped, also if something here fails.
        let (lasting, over) = mpsc::channel::<()>();
        let (frames, number_sent) = (&frames, &number_sent);
        let sender = scope.spawn(move || {
            let mut heard = 0;
            while over.try_recv() == Err(TryRecvError::Empty) {
                heard += frames.heard(number_sent.fetch_add(1, Ordering::Relaxed));
            }
            heard
        });
        until("100 are sent", || sent() >= 100);
        migrate(&host, &virsh, &[]).ok();
        let after = sent();
        until("100 more are sent", || sent() >= after + 100);
        drop(lasting);
        assert_eq!(sender.join().unwrap(), 0);
    });
    println!("{} frames sent, none heard", 2 * sent());
    assert_eq!(host.fenced().len(), VMS);
    assert_eq!(ebtables_rules(&host), ["-p ARP -i eth7 -j ACCEPT"]);
}

#[test]
fn a_migration_that_is_killed_leaves_all_fenced_and_a_second_run_completes_it() {
    let (host, virsh) = seeded(VMS);
    let frames = Forbidden::on(&host);
    let saved = host.ok("ebtables-save", &[]);
    for point in 0..40 {
        host.ok("nft", &["flush", "ruleset"]);
        host.exec(Command::new("ebtables-restore").arg("--noflush"), &saved)
            .ok();
        host.run(|| {
            let mut migrate = macfence_with(&virsh);
            let migrate = migrate.arg("migrate").stdout(Stdio::null());
            let mut migrate = migrate.stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(point * 8));
            migrate.kill().unwrap();
            migrate.wait().unwrap();
        });
        (0..20).for_each(|n| assert_eq!(frames.heard(n), 0, "point {point}"));
        migrate(&host, &virsh, &[]).ok();
        assert_eq!(host.fenced().len(), VMS, "point {point}");
        assert_eq!(
            ebtables_rules(&host),
            ["-p ARP -i eth7 -j ACCEPT"],
            "point {point}"
        );
        assert_eq!(frames.heard(21), 0);
    }
}
