//! The pages on installing and on the service, followed on a small Debian that systemd has booted: each
//! command as the page has it, in the order of the page.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::lab::pages::{blocks, commands};
use crate::lab::system::System;
use crate::lab::{Host, Ran, built, domain, fake_virsh, fetched, script, source, until};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:07";

/// What the Debian does not have: a compiler, and the package manager of EL. `sudo` is there for root alone.
const STAND_INS: [(&str, &str); 3] = [
    ("sudo", "exec \"$@\""),
    ("make", "echo \"make $*\" >>/tmp/made"),
    (
        "dnf",
        "[ $# = 2 ] && [ -e \"$2\" ] && echo \"dnf $1 $2\" >>/tmp/made",
    ),
];

/// A Debian with two VMs and this project's packages, in which pages are followed.
struct Reader<'a> {
    host: &'a Host,
    system: System<'a>,
}

impl Reader<'_> {
    /// Runs a block in a folder, as somebody does who answers yes to each question.
    fn run(&self, folder: &str, block: &str) -> Ran {
        let script = format!("cd {folder} && yes | {{\nset -e\n{block}}}");
        self.system.run(&script)
    }

    /// Runs each block below a heading, which must succeed.
    fn follow(&self, folder: &str, blocks: &[String]) -> String {
        let run = |block: &String| self.run(folder, block).ok();
        blocks.iter().map(run).collect()
    }

    /// Waits until exactly these VMs are fenced.
    #[track_caller]
    fn fenced(&self, vms: &[&str]) {
        for _ in 0..150 {
            if self.host.fenced() == vms {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let journal = self.system.run("journalctl -u 'macfence*' -n 30").stdout;
        panic!("{vms:?} are not fenced: {journal}");
    }

    fn state(&self, what: &str, unit: &str) -> String {
        let ran = self.system.run(&format!("systemctl {what} {unit}"));
        ran.stdout.trim().to_owned()
    }

    /// Checks that the service runs without a warning since it was started last.
    fn runs_well(&self) {
        let id = self.state("show -P InvocationID", "macfence");
        assert_eq!(self.state("is-active", "macfence"), "active");
        let journal = format!("journalctl -o cat -p warning _SYSTEMD_INVOCATION_ID={id}");
        assert_eq!(self.system.run(&journal).ok(), "");
        // In its sandbox.
        let pid = self.state("show -P MainPID", "macfence");
        let look = format!("grep -E '^(NoNewPrivs|Seccomp):' /proc/{pid}/status");
        let status = self.system.run(&look).ok();
        assert_eq!(status, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    }
}

/// Incus' daemon, as far as macfence asks it: it runs one instance.
fn serve(listener: &UnixListener) {
    let instance = serde_json::json!({
        "name": "web", "project": "default", "status": "Running", "location": "none",
        "config": {"volatile.eth0.host_name": "web0", "volatile.eth0.hwaddr": A},
        "expanded_devices": {"eth0": {"type": "nic", "nictype": "bridged", "parent": "br0"}},
    });
    for stream in listener.incoming() {
        let mut stream = stream.expect("a client");
        let mut asked = Vec::new();
        let mut byte = [0];
        while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
            asked.push(byte[0]);
        }
        let metadata = if asked.starts_with(b"GET /1.0/instances?") {
            serde_json::json!([instance])
        } else {
            serde_json::json!({"auth": "trusted", "api_extensions": []})
        };
        let answer = serde_json::json!({
            "type": "sync", "status": "Success", "status_code": 200, "metadata": metadata,
        });
        let answer = answer.to_string();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        // It may have gone.
        let _ = write!(
            stream,
            "{head}\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
    }
}

/// The targets of the Makefile that a page names are there.
pub fn can_be_made(target: &str) {
    let mut make = std::process::Command::new("make");
    let words = target
        .strip_prefix("make")
        .expect("make")
        .split_whitespace();
    let make = make.arg("-n").args(words).current_dir(source(""));
    let output = make.output().expect("make");
    assert!(output.status.success(), "{target}: {output:?}");
}

/// What the page says that `doctor` looks at.
fn topics(lines: &str) -> Vec<String> {
    let topic = |line: &str| line.get(6..21).map(|topic| topic.trim().to_owned());
    lines.lines().filter_map(topic).collect()
}

#[test]
fn what_the_readme_makes_can_be_made() {
    let commands = commands("README.md", "Try it, test it").concat();
    assert_eq!(commands.lines().count(), 2);
    for line in commands.lines() {
        let (target, _) = line.split_once('#').unwrap_or((line, ""));
        can_be_made(target.trim());
    }
}

fn installing(reader: &Reader) {
    reader.follow("/build", &commands("README.md", "Install"));
    let made = reader.system.run("cat /tmp/made").ok();
    let (dnf, make): (Vec<_>, Vec<_>) = made.lines().partition(|line| line.starts_with("dnf"));
    make.iter().for_each(|target| can_be_made(target));
    assert_eq!(make.len(), 5, "{made}");
    assert!(
        dnf.len() == 1 && dnf[0].starts_with("dnf install ./target/rpm/macfence-0"),
        "{made}"
    );
    // Nothing is enabled.
    for unit in [
        "macfence.service",
        "macfence-sync.service",
        "macfence-metrics.timer",
    ] {
        assert_eq!(reader.state("is-enabled", unit), "disabled", "{unit}");
    }
    assert_eq!(reader.host.ruleset(), "");
}

fn service(reader: &Reader) {
    let blocks = commands("service.md", "On each host");
    let [service, sync] = &blocks[..] else {
        panic!("{blocks:?}")
    };
    // The smaller unit, with Debian's file, which empties the ruleset.
    reader.run("/", "systemctl start nftables\n").ok();
    reader.run("/", sync).ok();
    reader.fenced(&["one-42", "one-43"]);
    for verb in ["reload", "restart"] {
        reader
            .run("/", &format!("systemctl {verb} nftables\n"))
            .ok();
        reader.fenced(&["one-42", "one-43"]);
    }
    reader.follow("/", &commands("service.md", "How to undo it"));
    assert_eq!(reader.state("is-enabled", "macfence-sync"), "disabled");
    reader.run("/", service).ok();
    reader.fenced(&["one-42", "one-43"]);
    reader.runs_well();

    let blocks = commands("service.md", "How to see that it works");
    // A person looks at what the journal says before the next command.
    let see = blocks[0].replace(
        "-fu macfence &",
        "-fu macfence -n 0 >/tmp/seen 2>&1 </dev/null & shown=$!",
    );
    let see = see.replace("macfence check", "sleep 1; macfence check");
    assert_ne!(see, blocks[0]);
    let said = reader
        .run("/", &format!("{see}kill $shown; cat /tmp/seen\n"))
        .ok();
    assert!(said.starts_with("well\n"), "{said}");
    assert!(
        said.contains(": fenced one-42: port \"one-42-0\"\n"),
        "{said}"
    );
    reader.host.ok(
        "nft",
        &["flush", "chain", "bridge", "macfence", "vm-one-42"],
    );
    let journal = || reader.follow("/", &blocks[1..]);
    until("mended", || journal().contains("mended one-42: "));
    let lines = journal();
    assert!(
        lines.contains("fenced one-42: ") && !lines.contains("one-43"),
        "{lines}"
    );
    assert!(lines.contains("-- No entries --"), "a warning: {lines}");
}

fn monitoring(reader: &Reader) {
    let doctor = &commands("service.md", "Monitoring")[0];
    let ran = reader.run("/", doctor);
    // The small Debian has no ip, which is why it cannot look for routers.
    assert_eq!(ran.status, 2, "{ran:?}");
    let shown = blocks("service.md").into_iter();
    let shown = shown.filter(|block| block.heading == "Monitoring");
    let shown: String = shown.map(|block| block.text).collect();
    let (_, shown) = shown.split_once('\n').unwrap();
    assert_eq!(topics(&ran.stdout), topics(shown), "{}", ran.stdout);

    reader.follow("/", &commands("service.md", "Prometheus"));
    assert_eq!(
        reader.state("is-active", "macfence-metrics.timer"),
        "active"
    );
    reader.run("/", "systemctl start macfence-metrics\n").ok();
    let file = "/var/lib/prometheus/node-exporter/macfence.prom";
    let metrics = reader.system.run(&format!("cat {file}")).ok();
    assert!(metrics.contains("macfence_fenced_vms 2\n"), "{metrics}");
}

fn reload(reader: &Reader) {
    let page = fs::read_to_string(source("docs/service.md")).unwrap();
    let reload = "systemctl reload macfence";
    assert!(page.contains(&format!("`{reload}`")));
    let set = |line: &str| {
        let set = format!("sed -i '1i {line}' /etc/macfence.toml; {reload}\n");
        reader.run("/", &set)
    };
    let log = "journalctl -u macfence -p warning -o cat";
    assert_ne!(set("prefix-len = \"all\"").status, 0);
    assert_eq!(reader.state("is-active", "macfence"), "active");
    until("it says why", || {
        reader.system.run(log).stdout.contains("prefix-len must be")
    });
    reader.fenced(&["one-42", "one-43"]);
    reader.run("/", "sed -i 1d /etc/macfence.toml\n").ok();
    set("prefix-len = 32").ok();
    until("it is applied", || {
        reader.host.ruleset().contains("ff:ff:ff:ff:00:00")
    });
}

/// The real program `incus` in the sandbox of each unit.
fn incus(reader: &Reader, folder: &Path) {
    reader.host.ports("br0", &["web0"]);
    let listener = UnixListener::bind(folder.join("unix.socket")).expect("a socket");
    std::thread::spawn(move || serve(&listener));
    reader.run("/", "systemctl restart macfence\n").ok();
    reader.fenced(&["one-42", "one-43", "web"]);
    reader.runs_well();
    let flush = "systemctl stop macfence; nft flush ruleset; systemctl start macfence-sync\n";
    reader.run("/", flush).ok();
    reader.fenced(&["one-42", "one-43", "web"]);
    let metrics = "systemctl start macfence-metrics\ncat /var/lib/prometheus/node-exporter/*\n";
    let metrics = reader.run("/", metrics).ok();
    assert!(metrics.contains("macfence_checked 1\n"), "{metrics}");
    assert!(metrics.contains("macfence_fenced_vms 3\n"), "{metrics}");
    reader.run("/", "systemctl start macfence\n").ok();
    fs::remove_file(folder.join("unix.socket")).expect("a socket");
    reader.host.ip("link del web0\n");
    reader.fenced(&["one-42", "one-43"]);
}

/// The drop-ins, each in force at once. What they are for is shown elsewhere: legacy ebtables in the booted
/// system, Xen under a real Xen.
fn drop_ins(reader: &Reader) {
    const HEADING: &str = "On hosts with only legacy ebtables, or with Xen";
    const UNITS: [&str; 3] = ["macfence", "macfence-sync", "macfence-metrics"];
    let page = fs::read_to_string(source("docs/service.md")).unwrap();
    let found = blocks("service.md").into_iter();
    let found: Vec<_> = found
        .filter(|block| block.heading == HEADING && block.language == "ini")
        .collect();
    let names = ["ebtables-legacy.conf", "xen.conf", "remote.conf"];
    assert_eq!(found.len(), names.len());
    for (block, name) in found.iter().zip(names) {
        assert!(page.contains(&format!("`{name}`")));
        for unit in UNITS {
            let path = format!("/etc/systemd/system/{unit}.service.d/{name}");
            reader.system.write(&path, &block.text);
            reader.system.run(&format!("chmod 644 {path}")).ok();
        }
    }
    let verify = "systemd-analyze verify --man=no macfence.service macfence-sync.service macfence-metrics.service";
    let verified = reader.system.run(verify);
    assert_eq!((verified.status, &*verified.stderr), (0, ""));
    reader
        .run("/", "mkdir /dev/xen && touch /dev/xen/privcmd\n")
        .ok();
    reader
        .run(
            "/",
            "systemctl daemon-reload\nsystemctl restart macfence macfence-sync\n",
        )
        .ok();
    reader.fenced(&["one-42", "one-43"]);
    reader.runs_well();
    let shown = |what: &str| reader.state(&format!("show -P {what}"), "macfence");
    assert_eq!(shown("CapabilityBoundingSet"), "cap_net_admin cap_net_raw");
    let families = shown("RestrictAddressFamilies");
    for family in ["AF_UNIX", "AF_NETLINK", "AF_INET", "AF_INET6"] {
        assert!(
            families.split(' ').any(|known| known == family),
            "{families}"
        );
    }
    assert_eq!(shown("IPAddressDeny"), "");
    assert!(shown("DeviceAllow").contains("/dev/xen/privcmd rw"));
    let pid = shown("MainPID");
    // In the service's own view of the files.
    let look =
        format!("nsenter -m -t {pid} sh -c 'ls /dev/xen; ls -a /root >/dev/null && echo home'");
    assert_eq!(reader.system.run(&look).ok(), "privcmd\nhome\n");
    assert_eq!(
        reader.system.run("stat -c %a /var/lib/ebtables").ok(),
        "700\n"
    );
    reader
        .run(
            "/",
            "rm -r /etc/systemd/system/macfence*.service.d\nsystemctl daemon-reload\n",
        )
        .ok();
}

fn removing(reader: &Reader) {
    let blocks = commands("installing.md", "Remove");
    let [remove, delete] = &blocks[..] else {
        panic!("{blocks:?}")
    };
    let said = reader.run("/", remove).ok();
    assert!(said.contains(delete.trim()), "{said}");
    assert_eq!(reader.state("is-active", "macfence"), "inactive");
    reader.fenced(&["one-42", "one-43"]);
    reader.run("/", delete).ok();
    assert_eq!(reader.host.ruleset(), "");
    // Not what belongs to an administrator of EL or of a machine with the sources.
    let page = fs::read_to_string(source("docs/installing.md")).unwrap();
    assert!(page.contains("`make uninstall`"));
    can_be_made("make uninstall");
}

fn again(reader: &Reader) {
    reader.follow(
        "/build/target/deb",
        &commands("installing.md", "Debian and Ubuntu"),
    );
    reader.follow(
        "/build/target/rpm",
        &commands("installing.md", "EL and Fedora"),
    );
    reader.follow(
        "/build/target/deb",
        &commands("installing.md", "On an OpenNebula front-end"),
    );
    reader.follow("/build", &commands("installing.md", "From the sources"));
    let list = "dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' 'macfence*'";
    assert_eq!(
        reader.system.run(list).ok(),
        "ii macfence\nii macfence-opennebula\n"
    );
    reader
        .system
        .run("dpkg -P macfence macfence-opennebula")
        .ok();

    let tarball = commands("installing.md", "From the tarball");
    reader.follow("/build/target/dist", &tarball);
    reader
        .run(
            "/",
            "systemctl daemon-reload\nsystemctl enable --now macfence\n",
        )
        .ok();
    reader.fenced(&["one-42", "one-43"]);
    let pid = || reader.state("show -P MainPID", "macfence");
    let before = pid();
    reader.follow("/build/target/dist", &tarball);
    reader.follow("/", &commands("installing.md", "Upgrade"));
    assert_ne!(pid(), before);
    let exe = reader
        .system
        .run(&format!("readlink /proc/{}/exe", pid()))
        .ok();
    assert_eq!(exe, "/usr/local/sbin/macfence\n");
    reader.follow("/", &commands("service.md", "How to undo it"));
    assert_eq!(reader.state("is-active", "macfence"), "inactive");
    assert_eq!(reader.host.ruleset(), "");
}

#[test]
fn installing_and_the_service_do_what_their_pages_say() {
    built("target/deb", "make deb");
    built("target/rpm", "make rpm");
    built("target/dist/SHA256SUMS", "make dist");
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-42-0", "one-43-0"]);
    let bin = fake_virsh(&[
        ("one-42", &domain("one-42", &[(A, "one-42-0", "br0")])),
        ("one-43", &domain("one-43", &[(B, "one-43-0", "br0")])),
    ]);
    for (name, does) in STAND_INS {
        script(&bin, name, does);
    }
    script(&bin, "incus", "exec /incus/usr/bin/incus \"$@\"");
    let socket = tempfile::tempdir().unwrap();
    let (target, client) = (source("target"), fetched("incus/fs"));
    let folders = [
        (bin.path(), "/usr/local/bin"),
        (&*target, "/build/target"),
        (&*client, "/incus"),
        (socket.path(), "/var/lib/incus"),
    ];
    let system = System::boot(&host, &folders);
    let reader = Reader {
        host: &host,
        system,
    };
    // It knows its mirror, and has no network.
    let config = "APT::Install-Recommends \"false\";\n";
    reader.system.write("/etc/apt/apt.conf.d/offline", config);
    installing(&reader);
    service(&reader);
    monitoring(&reader);
    reload(&reader);
    incus(&reader, socket.path());
    drop_ins(&reader);
    removing(&reader);
    again(&reader);
}
