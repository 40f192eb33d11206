//! A host with a thousand running VMs: `watch` asks only about changes. libvirt's own test driver runs the
//! domains, which are lines of a file. (It would forget ports named `vnet1`.)

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Host, MACFENCE, need, path_with, script, until};

const VMS: usize = 1000;
const BRIDGES: usize = 5;
const BURST: usize = 200;

/// The NICs of a VM: MAC address and port.
type Nics = Vec<(String, String)>;

/// A host that runs `watch`, with a virsh and an nft that count their calls.
struct Large {
    host: Host,
    domains: BTreeMap<String, Nics>,
    dir: tempfile::TempDir,
    watch: Option<Child>,
}

impl Large {
    fn new() -> Self {
        let host = Host::new();
        for bridge in 0..BRIDGES {
            host.bridge(&format!("br{bridge}"));
        }
        let dir = tempfile::tempdir().unwrap();
        for program in ["virsh", "nft"] {
            let real = need(program);
            let says = format!(
                "echo {program} >>${{0%/*}}/calls; exec {} \"$@\"",
                real.display()
            );
            script(&dir, program, &says);
        }
        let mut large = Self {
            host,
            domains: BTreeMap::new(),
            dir,
            watch: None,
        };
        large.plug(1..=VMS);
        (1..=VMS).for_each(|vm| large.starts(vm));
        large.tell();
        large
    }

    /// Creates ports with these numbers on their bridges.
    fn plug(&self, ports: impl Iterator<Item = usize>) {
        let mut batch = String::new();
        for port in ports {
            let bridge = port % BRIDGES;
            write!(
                batch,
                "tuntap add port{port} mode tap\nlink set port{port} master br{bridge} up\n"
            )
            .unwrap();
        }
        self.host.ip(&batch);
    }

    /// Starts a VM with this number, a port with this number, and an address of its own.
    fn starts(&mut self, vm: usize) {
        self.domains
            .insert(format!("vm{vm}"), vec![(mac(vm), format!("port{vm}"))]);
    }

    /// Writes the domains that libvirt knows from now on.
    fn tell(&self) {
        let mut node = "<node>\n".to_owned();
        for (name, nics) in &self.domains {
            let nics: String = nics
                .iter()
                .map(|(mac, port)| {
                    format!(
                        "<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/>\
                         <target dev='{port}'/></interface>"
                    )
                })
                .collect();
            writeln!(
                node,
                "<domain type='test'><name>{name}</name><memory>1024</memory>\
                 <os><type>hvm</type></os><devices>{nics}</devices></domain>"
            )
            .unwrap();
        }
        let new = self.dir.path().join("new");
        std::fs::write(&new, node + "</node>\n").unwrap();
        std::fs::rename(new, self.node()).unwrap();
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("node.xml")
    }

    fn watch(&mut self) {
        let uri = format!("test://{}", self.node().display());
        let log = |name| std::fs::File::create(self.dir.path().join(name)).unwrap();
        let (out, err) = (log("out"), log("err"));
        let path = path_with(&self.dir);
        let spawn = || {
            let mut command = Command::new(MACFENCE);
            command.args(["--connect", &uri, "watch"]).env("PATH", path);
            command.stdin(Stdio::null()).stdout(out).stderr(err);
            command.spawn().unwrap()
        };
        self.watch = Some(self.host.run(spawn));
        until("all are fenced", || self.said().lines().count() == VMS);
        self.settle();
        self.calls();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    /// Waits until `watch` has been idle for a second.
    fn settle(&self) {
        let size = || self.log().len();
        let mut before = size();
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(50));
            if size() != before {
                (before, since) = (size(), Instant::now());
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("calls")).unwrap()
    }

    /// Returns how many virsh and nft processes ran since the last call.
    fn calls(&self) -> (usize, usize) {
        let log = self.log();
        std::fs::write(self.dir.path().join("calls"), "").unwrap();
        let count = |program| log.lines().filter(|line| *line == program).count();
        (count("virsh"), count("nft"))
    }

    /// Waits until these are the last lines of `watch`. Checks that it ran at most two processes of each
    /// kind.
    fn expect(&self, lines: &[&str]) {
        until(lines[0], || {
            let said = self.said();
            said.ends_with(&(lines.join("\n") + "\n"))
        });
        self.took_few();
    }

    /// Checks, once `watch` is idle, that it ran at most two processes of each kind.
    fn took_few(&self) {
        self.settle();
        let (virsh, nft) = self.calls();
        let said = self.said();
        assert!(
            virsh <= 2 && nft <= 2,
            "{virsh} virsh, {nft} nft: {:?}",
            said.lines().last()
        );
    }

    /// Returns the chains to which the map leads for these ports.
    fn chains(&self, ports: &[&str]) -> Vec<String> {
        let list = self
            .host
            .ok("nft", &["list", "map", "bridge", "macfence", "ports"]);
        let entry = |port: &&str| {
            let entry = list.split(&format!("\"{port}\" : jump ")).nth(1);
            entry.map(|rest| rest.split([' ', ',']).next().unwrap().trim().to_owned())
        };
        ports.iter().filter_map(entry).collect()
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        if thread::panicking() {
            let read = |name| std::fs::read_to_string(self.dir.path().join(name));
            let (said, warned) = (self.said(), read("err").unwrap_or_default());
            let last: Vec<_> = said.lines().rev().take(5).collect();
            println!(
                "watch said {} lines, last {last:?}, and warned: {warned}",
                said.lines().count()
            );
        }
        if let Some(watch) = &mut self.watch {
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

fn mac(vm: usize) -> String {
    format!("02:00:c0:a8:{:02x}:{:02x}", vm / 256, vm % 256)
}

#[test]
fn no_change_takes_more_than_two_virsh_and_two_nft() {
    let mut large = Large::new();
    large.watch();

    // A VM starts.
    large.starts(1001);
    large.tell();
    large.plug(1001..=1001);
    large.expect(&["fenced vm1001: port \"port1001\""]);

    // Two VMs end.
    large.domains.remove("vm1001");
    large.domains.remove("vm7");
    large.tell();
    large.host.ip("link del port1001\nlink del port7\n");
    large.expect(&[
        "removed vm1001: port \"port1001\"",
        "removed vm7: port \"port7\"",
    ]);

    // Another VM gets the port of one that ended, before `watch` looks.
    large.domains.remove("vm3");
    large
        .domains
        .insert("other".to_owned(), vec![(mac(1003), "port3".to_owned())]);
    large.tell();
    large
        .host
        .ip("link del port3\ntuntap add port3 mode tap\nlink set port3 master br3 up\n");
    large.expect(&[
        "removed vm3: port \"port3\"",
        "fenced other: port \"port3\"",
    ]);
    assert_eq!(large.chains(&["port3"]), ["vm-other"]);

    // A VM restarts with another address.
    large
        .domains
        .insert("vm4".to_owned(), vec![(mac(1004), "port4".to_owned())]);
    large.tell();
    large
        .host
        .ip("link del port4\ntuntap add port4 mode tap\nlink set port4 master br4 up\n");
    until("the new address counts", || {
        let chain = large
            .host
            .ok("nft", &["list", "chain", "bridge", "macfence", "vm-vm4"]);
        chain.contains(&mac(1004)) && !chain.contains(&mac(4))
    });
    large.took_few();

    // A running VM gets a NIC.
    large
        .domains
        .get_mut("vm5")
        .unwrap()
        .push((mac(1005), "port1005".to_owned()));
    large.tell();
    large.plug(1005..=1005);
    until("the NIC is fenced", || {
        !large.chains(&["port1005"]).is_empty()
    });
    large.took_few();

    // Somebody deletes all rules.
    large.host.ok("nft", &["flush table bridge macfence"]);
    until("all are back", || {
        large
            .said()
            .lines()
            .filter(|l| l.starts_with("mended"))
            .count()
            > 999
    });
    large.took_few();

    // Many VMs start.
    let burst = 2001..2001 + BURST;
    for some in burst.clone().collect::<Vec<_>>().chunks(10) {
        some.iter().for_each(|vm| large.starts(*vm));
        large.tell();
        large.plug(some.iter().copied());
    }
    let ports: Vec<_> = burst.map(|vm| format!("port{vm}")).collect();
    let ports: Vec<_> = ports.iter().map(String::as_str).collect();
    until("all are fenced", || large.chains(&ports).len() == BURST);
    // The number of processes does not depend on how slow virsh is here.
    let (virsh, nft) = large.calls();
    assert!(virsh <= 30 && nft <= 30, "{virsh} virsh, {nft} nft");

    // In the end `watch` examines everything. It had missed nothing.
    let uri = format!("test://{}", large.node().display());
    large.host.macfence(["--connect", &uri, "check"]).ok();
    assert_eq!(
        std::fs::read_to_string(large.dir.path().join("err")).unwrap(),
        ""
    );
}
