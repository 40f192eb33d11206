//! `watch` keeps VMs fenced whatever others change, and costs nothing while nothing changes.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, MACFENCE, domain, fake_virsh, path_with, until};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";

/// A running `macfence watch`, started as systemd starts it.
struct Watch<'a> {
    host: &'a Host,
    child: Child,
    manager: UnixDatagram,
    dir: tempfile::TempDir,
}

impl<'a> Watch<'a> {
    /// Starts it and waits until it is ready. A stand-in replaces virsh, if given.
    fn start(host: &'a Host, virsh: Option<&tempfile::TempDir>) -> Self {
        Self::start_with(host, virsh, &[])
    }

    /// Starts it with these flags.
    fn start_with(host: &'a Host, virsh: Option<&tempfile::TempDir>, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
        let child = host.run(|| {
            let mut command = Command::new(MACFENCE);
            command
                .arg("watch")
                .args(flags)
                .env("NOTIFY_SOCKET", dir.path().join("notify"));
            command
                .stdin(Stdio::null())
                .stdout(file("stdout"))
                .stderr(file("stderr"));
            if let Some(virsh) = virsh {
                command.env("PATH", path_with(virsh));
            }
            command.spawn().unwrap()
        });
        let watch = Self {
            host,
            child,
            manager,
            dir,
        };
        assert_eq!(watch.told(), "READY=1\n", "{}", watch.said("stderr"));
        watch
    }

    fn told(&self) -> String {
        let mut buffer = [0; 100];
        let len = self.manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    fn said(&self, stream: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(stream)).unwrap()
    }

    fn until_fenced(&self, vms: &[&str]) {
        until("fenced", || self.host.fenced() == vms);
    }

    /// Ends it as systemd does.
    fn end(mut self) -> String {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        assert_eq!(self.told(), "STOPPING=1\n");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        self.said("stderr")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Returns its resident memory in KiB, and its number of open files.
    fn size(&self) -> (u64, usize) {
        let proc = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        let kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        (
            kib,
            std::fs::read_dir(format!("{proc}/fd")).unwrap().count(),
        )
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host with two VMs, and a virsh that notes each request for a list.
fn host() -> (Host, tempfile::TempDir) {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1"]);
    let virsh = fake_virsh(&[
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &domain("b", &[(B, "vnet1", "br0")])),
    ]);
    let path = virsh.path().join("virsh");
    let counting = std::fs::read_to_string(&path).unwrap();
    let counting = counting.replace(
        "'list --name') exec",
        "'list --name') echo >>$d/asked; [ -e $d/away ] && { echo 'error: no libvirtd' >&2; exit 1; }; exec",
    );
    std::fs::write(path, counting).unwrap();
    (host, virsh)
}

fn asked(virsh: &tempfile::TempDir) -> usize {
    std::fs::read(virsh.path().join("asked")).unwrap().len()
}

#[test]
fn flushed_fences_come_back_and_fences_of_ended_vms_go() {
    let (host, virsh) = host();
    let watch = Watch::start(&host, Some(&virsh));
    assert_eq!(host.fenced(), ["a", "b"]);
    let whole = host.ok("nft", &["list", "ruleset"]);
    for damage in [
        "flush ruleset",
        "delete table bridge macfence",
        "flush chain bridge macfence forward",
        "delete element bridge macfence ports { \"vnet0\" }",
        "insert rule bridge macfence vm-b accept",
        "add table bridge macfence { flags dormant; }",
    ] {
        host.ok("nft", &[damage]);
        until("it is back", || {
            host.ok("nft", &["list", "ruleset"]) == whole
        });
    }
    // A VM ends.
    std::fs::write(virsh.path().join("names"), "a\n").unwrap();
    host.unplug("vnet1");
    watch.until_fenced(&["a"]);
    // Another VM starts: its port exists before the hypervisor reports it.
    host.ports("br0", &["vnet2"]);
    std::fs::write(
        virsh.path().join("c.xml"),
        domain("c", &[(B, "vnet2", "br0")]),
    )
    .unwrap();
    std::fs::write(virsh.path().join("names"), "a\nc\n").unwrap();
    watch.until_fenced(&["a", "c"]);
    let said = watch.said("stdout");
    assert!(
        said.starts_with("fenced a: port \"vnet0\"\nfenced b: port \"vnet1\"\n"),
        "{said}"
    );
    assert!(
        said.ends_with("removed b: port \"vnet1\"\nfenced c: port \"vnet2\"\n"),
        "{said}"
    );
    assert_eq!(watch.end(), "");
    assert_eq!(host.fenced(), ["a", "c"]);
}

#[test]
fn a_nic_that_is_attached_to_a_running_domain_is_fenced() {
    let host = Host::new();
    host.bridge("br0");
    let libvirt = Libvirt::start(&host);
    let watch = Watch::start(&host, None);
    let interface = |mac: &str| {
        format!(
            "<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/>\
             <rom enabled='no'/></interface>"
        )
    };
    libvirt.create("one-1", &interface(A));
    watch.until_fenced(&["one-1"]);
    libvirt.attach("one-1", &interface(B));
    until("the second NIC is fenced", || {
        host.list()[0]["nics"].as_array().unwrap().len() == 2
    });
    libvirt.virsh(&["detach-interface", "one-1", "bridge", "--mac", B, "--live"]);
    libvirt.virsh(&["destroy", "one-1"]);
    watch.until_fenced(&[]);
    assert_eq!(watch.end(), "");
}

#[test]
fn the_vm_of_a_port_is_looked_for_after_many_ports_without_a_vm() {
    let (host, virsh) = host();
    let watch = Watch::start(&host, Some(&virsh));
    for n in 0..9 {
        host.ports("br0", &[&format!("veth{n}")]);
        // `watch` looks for the VM of each port separately.
        thread::sleep(Duration::from_millis(300));
    }
    // One VM leaves a port and another one gets it. libvirt reports that late.
    host.unplug("vnet1");
    host.ports("br0", &["vnet1", "vnet2"]);
    // Long enough for `watch` to look more than once and find nothing.
    thread::sleep(Duration::from_millis(1500));
    let file = |name: &str, text: &str| std::fs::write(virsh.path().join(name), text).unwrap();
    file("c.xml", &domain("c", &[(A, "vnet1", "br0")]));
    file("d.xml", &domain("d", &[(B, "vnet2", "br0")]));
    file("names", "a\nc\nd\n");
    watch.until_fenced(&["a", "c", "d"]);
}

#[test]
fn a_burst_costs_few_looks_and_changes_in_other_tables_none() {
    let (host, virsh) = host();
    let watch = Watch::start(&host, Some(&virsh));
    // Changes in other people's tables are no reason to look.
    let before = asked(&virsh);
    for n in 0..20 {
        host.ok(
            "nft",
            &[&format!(
                "add table bridge other{n}; add table inet other{n}"
            )],
        );
        host.ip(&format!(
            "tuntap add dummy{n} mode tap\nlink set dummy{n} up\n"
        ));
    }
    let whole = host.ok("nft", &["list", "ruleset"]);
    // Many changes of our own table, in many transactions. Once the table is whole again, `watch` has
    // seen all earlier events too.
    let mut script = String::new();
    for _ in 0..60 {
        script += "nft add rule bridge macfence vm-a accept; \
                   nft delete element bridge macfence ports { vnet1 } 2>/dev/null;";
    }
    host.ok("sh", &["-c", &(script + "true")]);
    until("it is back", || {
        host.ok("nft", &["list", "ruleset"]) == whole
    });
    let looks = asked(&virsh) - before;
    assert!((1..60).contains(&looks), "{looks} looks");
    watch.end();
}

#[test]
fn without_libvirt_known_vms_are_fenced_again_and_the_danger_is_reported() {
    let (host, virsh) = host();
    let away = virsh.path().join("away");
    let watch = Watch::start(&host, Some(&virsh));
    let whole = host.ok("nft", &["list", "ruleset"]);
    let is_whole = || host.ok("nft", &["list", "ruleset"]) == whole;
    std::fs::write(&away, "").unwrap();
    let before = asked(&virsh);
    let damage = [
        "flush ruleset",
        "flush chain bridge macfence forward",
        "insert rule bridge macfence vm-a accept",
    ];
    for damage in damage {
        host.ok("nft", &[damage]);
        until("it is mended without libvirt", is_whole);
    }
    until("libvirt is asked again and again", || {
        asked(&virsh) > before + 2
    });
    let away_said = "macfence: warning: virsh: no libvirtd; the fences stay as they are\n";
    let danger =
        "macfence: error: somebody changed macfence's rules while the hypervisor does not answer; ";
    let fix = "may be open until it answers: start it, for example with \"systemctl start libvirtd\", or \"virtqemud\"\n";
    let again =
        |count| format!("{danger}VMs that it knew are fenced again ({count}), others {fix}");
    // Two changes that come quickly may be mended, and reported, as one.
    let said = watch.said("stderr");
    let reported = (1..=3).map(|times| format!("{away_said}{}", again(2).repeat(times)));
    assert!(reported.into_iter().any(|all| all == said), "{said}");

    // What leaves its bridge, even for a moment, may be another VM's afterwards.
    host.unplug("vnet1");
    host.ports("br0", &["vnet1"]);
    thread::sleep(Duration::from_millis(500));
    host.ok("nft", &["flush ruleset"]);
    watch.until_fenced(&["a"]);
    host.unplug("vnet0");
    host.ports("br0", &["vnet0"]);
    thread::sleep(Duration::from_millis(500));
    host.ok("nft", &["flush ruleset"]);
    let last = format!("{danger}VMs {fix}");
    until("the danger is reported", || {
        watch.said("stderr").ends_with(&last)
    });
    assert!(host.fenced().is_empty());
    assert!(watch.said("stderr").contains(&again(1)));

    std::fs::remove_file(&away).unwrap();
    watch.until_fenced(&["a", "b"]);
    let back = "macfence: note: all running VMs can be fenced again\n";
    until("it says so", || watch.said("stderr").ends_with(back));
    let said = watch.end();
    assert_eq!(said.matches(away_said).count(), 1, "{said}");
    // A missing libvirt does not keep the service from starting either.
    std::fs::write(&away, "").unwrap();
    let watch = Watch::start(&host, Some(&virsh));
    assert_eq!(host.fenced(), ["a", "b"]);
    watch.end();
}

#[test]
fn ten_thousand_events_do_not_make_it_grow() {
    let (host, virsh) = host();
    let watch = Watch::start(&host, Some(&virsh));
    let whole = host.ok("nft", &["list", "ruleset"]);
    // 200 events: rules that come one by one, and a new port.
    let round = "add rule bridge macfence vm-a counter\n".repeat(199);
    let (mut kib, files) = watch.size();
    for n in 0..50 {
        host.exec(Command::new("nft").args(["-f", "-"]), &round)
            .ok();
        host.ip(&format!(
            "link set vnet0 type bridge_slave hairpin {}\n",
            ["on", "off"][n % 2]
        ));
        until("it is mended", || {
            host.ok("nft", &["list", "ruleset"]) == whole
        });
        if n == 5 {
            kib = watch.size().0;
        }
    }
    until("as few files are open as at first", || {
        watch.size().1 == files
    });
    let kib_now = watch.size().0;
    assert!(
        kib_now <= kib + 1024,
        "{kib} KiB at first, {kib_now} in the end"
    );
    assert_eq!(watch.end(), "");
}

#[test]
fn sighup_reloads_the_configuration_unless_it_is_wrong() {
    let (host, virsh) = host();
    let file = virsh.path().join("macfence.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "").unwrap();
    let watch = Watch::start_with(&host, Some(&virsh), &["--config", path]);
    let prefix = || host.list()[0]["nics"][0]["prefix"].clone();
    assert_eq!(prefix(), "02:00:c0:a8:00:00/40");
    // A rule of a network changes, and nothing else.
    let section = "[[network]]\nmac = '02:00:c0:a8:00:00/40'\nprefix-len = 32\n";
    std::fs::write(&file, section).unwrap();
    kill(watch.pid(), Signal::SIGHUP).unwrap();
    until("the new settings apply", || {
        prefix() == "02:00:c0:a8:00:00/32"
    });
    assert_eq!(host.list()[1]["nics"][0]["prefix"], "02:00:c0:a8:01:00/40");
    let said = watch.said("stdout");
    assert!(said.contains("mended a: no rule that lets only"), "{said}");
    let before = host.generation();
    for (text, words) in [
        (
            "prefix-len = 64",
            "line 1: prefix-len must be a number from 8 to 48, not 64",
        ),
        ("\n[[network]]", "line 2: [[network]]: set bridge or mac to"),
    ] {
        std::fs::write(&file, text).unwrap();
        kill(watch.pid(), Signal::SIGHUP).unwrap();
        until("it complains", || {
            let said = watch.said("stderr");
            let last = said.lines().last().unwrap_or_default();
            last.starts_with(&format!("macfence: warning: {path}: {words}"))
                && last.ends_with("; the settings stay as they are")
        });
    }
    std::fs::remove_file(&file).unwrap();
    kill(watch.pid(), Signal::SIGHUP).unwrap();
    until("it complains", || {
        watch
            .said("stderr")
            .contains(&format!("cannot read {path}"))
    });
    // The service defends the old settings against changes by others.
    assert_eq!(host.generation(), before);
    host.ok("nft", &["flush ruleset"]);
    watch.until_fenced(&["a", "b"]);
    assert_eq!(prefix(), "02:00:c0:a8:00:00/32");
    let said = watch.end();
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn sync_and_the_service_agree_on_a_changed_file() {
    let (host, virsh) = host();
    let file = virsh.path().join("macfence.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "").unwrap();
    let watch = Watch::start_with(&host, Some(&virsh), &["--config", path]);
    let run = |command: &str| {
        let mut macfence = Command::new(MACFENCE);
        let path_of_programs = path_with(&virsh);
        macfence
            .args(["--config", path, command])
            .env("PATH", path_of_programs);
        host.exec(&mut macfence, "")
    };
    let prefix = || host.list()[0]["nics"][0]["prefix"].clone();
    // Longer than the service takes to answer an event, and to look at the file once more.
    let settle = || thread::sleep(Duration::from_millis(2500));
    for (text, len) in [("prefix-len = 32\n", 32), ("prefix-len = 24\n", 24)] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(run("check").status, 1);
        run("sync").ok();
        settle();
        assert_eq!(run("check").ok(), "");
        // Another program changes the rules.
        host.ok("nft", &["flush ruleset"]);
        watch.until_fenced(&["a", "b"]);
        assert!(prefix().as_str().unwrap().ends_with(&format!("/{len}")));
        assert_eq!(run("check").ok(), "");
    }
    let ruleset = || host.ok("nft", &["list", "ruleset"]);
    let before = ruleset();
    // A wrong file: the old settings stay.
    std::fs::write(&file, "prefix-len = 64\n").unwrap();
    for _ in 0..2 {
        host.ok("nft", &["flush ruleset"]);
        watch.until_fenced(&["a", "b"]);
        settle();
    }
    assert_eq!(ruleset(), before);
    // So they do while an editor has moved the file away or has not yet written it.
    for write in [false, true] {
        std::fs::remove_file(&file).unwrap();
        if write {
            std::fs::write(&file, "").unwrap();
        }
        host.ok("nft", &["flush ruleset"]);
        watch.until_fenced(&["a", "b"]);
        assert_eq!(ruleset(), before);
        std::fs::write(&file, "prefix-len = 24\n").unwrap();
        settle();
        assert_eq!(ruleset(), before);
    }
    let said = watch.end();
    let warning = format!(
        "macfence: warning: {path}: line 1: prefix-len must be a number from 8 to 48, not 64; \
         the settings stay as they are\n"
    );
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains(&warning), "{said}");
    let note = "macfence: note: the configuration has been read again\n";
    assert_eq!(said.matches(note).count(), 4, "{said}");
}
