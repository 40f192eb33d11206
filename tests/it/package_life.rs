//! A package's life on a running system: what an upgrade, a downgrade, a removal and a purge do to fences,
//! to the service and to what calls macfence.

use std::fs;
use std::path::Path;

use macfence::mac::MacAddr;

use crate::lab::frame::{Kind, frame, number};
use crate::lab::system::System;
use crate::lab::{Host, Tap, domain, fake_virsh, need, until};
use crate::packages::package;

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:00:06";
const FOREIGN: &str = "02:00:c0:a8:01:05";

/// What the first installation says.
const NEXT: &str = "macfence: nothing is fenced yet: see man macfence, or \
                    /usr/share/doc/macfence/docs/getting-started.md\n";

/// Two VMs of one network whose ports are held here, so that they run on whatever happens.
struct Vms {
    one: Tap,
    two: Tap,
    next: u32,
}

impl Vms {
    fn on(host: &Host) -> Self {
        host.bridge("br0");
        let [one, two] = ["one-1-0", "one-2-0"].map(|port| host.tap("br0", port));
        Self { one, two, next: 0 }
    }

    /// Whether the second VM hears a frame that the first one sends under this address.
    fn is_heard(&mut self, src: &str) -> bool {
        self.next += 1;
        let [src, dst] = [src, B].map(|mac| mac.parse::<MacAddr>().unwrap());
        self.one.send(&frame(Kind::Ipv4, src, dst, self.next));
        let heard = self.two.heard();
        heard.iter().any(|frame| number(frame) == Some(self.next))
    }

    /// Checks that the fences hold, and keep nothing honest out.
    fn are_fenced(&mut self, when: &str) {
        assert!(self.is_heard(A), "{when}: an honest frame");
        assert!(!self.is_heard(FOREIGN), "{when}: a false address");
        assert!(!self.is_heard(B), "{when}: another VM's address");
    }
}

/// The domains that virsh knows.
fn virsh() -> tempfile::TempDir {
    let xml = |name, mac, port| domain(name, &[(mac, port, "br0")]);
    fake_virsh(&[
        ("one-1", &xml("one-1", A, "one-1-0")),
        ("one-2", &xml("one-2", B, "one-2-0")),
    ])
}

/// Makes an older version of the Debian package, whose program differs a little.
fn older(host: &Host, deb: &Path, folder: &Path) {
    let tree = folder.join("tree");
    let (tree, deb) = (tree.to_str().unwrap(), deb.to_str().unwrap());
    host.ok("dpkg-deb", &["-R", deb, tree]);
    let control = Path::new(tree).join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let lines = text.lines().map(|line| match line.split_once(' ') {
        Some(("Version:", _)) => "Version: 0.1.9".to_owned(),
        _ => line.to_owned(),
    });
    let text: String = lines.map(|line| line + "\n").collect();
    fs::write(&control, text).unwrap();
    let program = Path::new(tree).join("usr/sbin/macfence");
    let mut bytes = fs::read(&program).unwrap();
    bytes.extend(b"old");
    fs::write(program, bytes).unwrap();
    let old = folder.join("old.deb");
    // Not compressed: it is read once.
    let options = ["--root-owner-group", "-Znone", "-b"];
    host.ok(
        "dpkg-deb",
        &[&options[..], &[tree, old.to_str().unwrap()]].concat(),
    );
    fs::remove_dir_all(tree).unwrap();
}

/// Checks that the service runs the installed program, and returns its process.
fn service(system: &System) -> String {
    let pid = system
        .run("systemctl show -P MainPID macfence.service")
        .ok();
    let pid = pid.trim();
    assert_ne!(
        pid,
        "0",
        "{:?}",
        system.run("systemctl status macfence.service")
    );
    let exe = system.run(&format!("readlink /proc/{pid}/exe")).ok();
    assert_eq!(exe, "/usr/sbin/macfence\n");
    pid.to_owned()
}

/// What is there of macfence, but for what the package manager remembers.
fn left(system: &System) -> String {
    let find = "find / /run -xdev \\( -path /packages -o -path /var/lib/dpkg \\) -prune -o -name '*macfence*' -print";
    let files = system.run(find).ok();
    files
        + &system
            .run("systemctl list-units --all --no-legend '*macfence*'")
            .ok()
}

const UNITS: [&str; 3] = [
    "macfence.service",
    "macfence-sync.service",
    "macfence-metrics.timer",
];

#[test]
fn fences_stay_whatever_happens_to_the_package() {
    need("dpkg-deb");
    let (host, packages, virsh) = (Host::new(), tempfile::tempdir().unwrap(), virsh());
    let new = package("deb", "macfence");
    fs::copy(&new, packages.path().join("new.deb")).unwrap();
    older(&host, &new, packages.path());
    let mut vms = Vms::on(&host);
    let folders = [
        (packages.path(), "/packages"),
        (virsh.path(), "/usr/local/bin"),
    ];
    let system = System::boot(&host, &folders);
    let install = |file: &str| {
        let ran = system.run(&format!("dpkg -i /packages/{file}"));
        assert!(!ran.stderr.contains("warning: w"), "{ran:?}");
        assert!(!format!("{ran:?}").contains("fences stay"), "{ran:?}");
        ran.ok()
    };
    // What was dropped is forgotten by and by, which is no change of a fence.
    let part =
        |kind: &str, name: &str| host.ok("nft", &["-s", "list", kind, "bridge", "macfence", name]);
    let fences = || {
        ["vm-one-1", "vm-one-2"]
            .map(|chain| part("chain", chain))
            .concat()
            + &part("map", "ports")
    };

    // Installing starts and enables nothing.
    assert!(install("old.deb").contains(NEXT));
    assert_eq!(system.run("stat -c %a /run/macfence").ok(), "700\n");
    for unit in UNITS {
        let state = |what| system.run(&format!("systemctl {what} {unit}")).stdout;
        assert_eq!(
            (&*state("is-enabled"), &*state("is-active")),
            ("disabled\n", "inactive\n")
        );
    }
    assert!(!install("new.deb").contains(NEXT));
    assert_eq!(
        system.run("systemctl is-active macfence").stdout,
        "inactive\n"
    );
    install("old.deb");

    let enable = format!(
        "systemctl enable --now {} || journalctl -b -u 'macfence*'",
        UNITS.join(" ")
    );
    assert_eq!(system.run(&enable).stdout, "");
    until("fenced", || system.run("macfence check").status == 0);
    vms.are_fenced("installed");
    system.run("systemctl start macfence-metrics.service").ok();
    let held = fences();
    let first = service(&system);
    // libvirt's hook is a copy, and so is one that its owner has changed.
    let hooks = "/etc/libvirt/hooks";
    let shipped = "/usr/share/macfence/libvirt/macfence";
    system
        .run(&format!("install -D {shipped} {hooks}/qemu.d/macfence"))
        .ok();
    system.write(
        &format!("{hooks}/qemu"),
        "#!/bin/sh\n/usr/sbin/macfence hook libvirt -- $@ # ours\n",
    );

    let mut before = first;
    for (file, what) in [
        ("new.deb", "upgraded"),
        ("old.deb", "downgraded"),
        ("new.deb", "upgraded again"),
    ] {
        install(file);
        vms.are_fenced(what);
        let now = service(&system);
        assert_ne!(
            now, before,
            "{what}: the service still runs the program that was there before"
        );
        assert_eq!(fences(), held, "{what}");
        before = now;
    }

    // What stays is what dpkg keeps, and what it says stays.
    let said = system.run("dpkg -r macfence").ok();
    for words in [
        "/etc/libvirt/hooks/qemu.d/macfence: deleted\n",
        "macfence: warning: /etc/libvirt/hooks/qemu still calls macfence",
        "the fences stay in the kernel, but VMs that start from now on are not fenced.\n",
        "macfence: to delete the fences: nft delete table bridge macfence\n",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    vms.are_fenced("removed");
    assert_eq!(system.run("pgrep -f macfence").stdout, "");
    for unit in UNITS {
        let links = system
            .run(&format!("find /etc/systemd -name {unit} -path '*.wants/*'"))
            .ok();
        assert_eq!(links, "", "{unit}");
    }
    // Nothing is enabled by installing it once more.
    install("new.deb");
    assert_eq!(
        system.run("systemctl is-enabled macfence").stdout,
        "disabled\n"
    );
    system.run("systemctl enable --now macfence").ok();
    service(&system);

    let said = system.run("dpkg -P macfence").ok();
    assert!(said.contains("nft delete table bridge macfence"), "{said}");
    // The program is gone by then.
    assert!(!said.contains("macfence remove"), "{said}");
    vms.are_fenced("purged");
    assert_eq!(left(&system), "");
    assert_eq!(fences(), held);
    system.run("nft delete table bridge macfence").ok();
    assert!(vms.is_heard(FOREIGN));
}

#[test]
fn an_rpm_restarts_the_service_and_leaves_nothing_but_fences() {
    need("rpm2cpio");
    let (host, virsh) = (Host::new(), virsh());
    let package = package("rpm", "macfence");
    let package = package.to_str().unwrap();
    let files = tempfile::tempdir().unwrap();
    let unpack = format!(
        "cd {}; rpm2cpio {package} | busybox cpio -i -d -m 2>&1",
        files.path().display()
    );
    host.ok("sh", &["-euc", &unpack]);
    let mut vms = Vms::on(&host);
    let folders = [
        (files.path(), "/packages"),
        (virsh.path(), "/usr/local/bin"),
    ];
    let system = System::boot(&host, &folders);
    // The system has no rpm: what it would do is done here, with the package's own scripts.
    let script = |name: &str, installed: u8| {
        let text = host.ok("rpm", &["-qp", "--qf", &format!("%{{{name}}}"), package]);
        system.run(&format!("set -- {installed}\n{text}")).ok()
    };
    let unpack = || system.run("cp -a --remove-destination /packages/. /").ok();
    unpack();
    assert!(script("POSTIN", 1).contains(NEXT));
    assert_eq!(system.run("stat -c %a /run/macfence").ok(), "700\n");
    let state = || system.run("systemctl is-active macfence").stdout;
    assert_eq!(state(), "inactive\n");
    let enable = format!("systemctl -q enable --now {}", UNITS.join(" "));
    system.run(&enable).ok();
    until("fenced", || system.run("macfence check").status == 0);
    let hook = "/etc/libvirt/hooks/qemu.d/macfence";
    let install = format!("install -D /usr/share/macfence/libvirt/macfence {hook}");
    system.run(&install).ok();
    let before = service(&system);
    unpack();
    assert!(!script("POSTIN", 2).contains(NEXT));
    script("PREUN", 1);
    script("POSTUN", 1);
    assert_ne!(service(&system), before);
    vms.are_fenced("upgraded");

    let said = script("PREUN", 0);
    for words in [
        "nft delete table bridge macfence\n",
        &format!("{hook}: deleted\n"),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let list = "cd /packages; find . ! -type d | (cd /; xargs rm)";
    system.run(list).ok();
    script("POSTUN", 0);
    vms.are_fenced("removed");
    assert_eq!(left(&system), "");
}
