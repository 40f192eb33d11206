//! Measures how long `watch` takes to fence a VM that starts, on a host with few VMs and with many, and
//! to fence many VMs that start at once. libvirt's own test driver runs the domains. Each time, it reads
//! all of them from a file, as no other driver does, so that time is subtracted.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::call::{OURS, TIMES_SMALL};
use crate::figures::{Figure, Figures};
use crate::lab::{Host, MACFENCE, need, until};
use crate::vms::{BRIDGES, Vm};

pub const PART: &str = "large";
/// The work.
pub const ONE: &str = "a VM that starts";
pub const BURST: &str = "200 VMs that start";
/// The measured quantity.
const WALL: &str = "ms from port to fence";
const VIRSH: &str = "ms of two virsh that list";
pub const OWN: &str = "ms from port to fence without virsh";
pub const MORE: &str = "ms more than with 10 VMs";
pub const SETTLED: &str = "s from the last port to the last fence";

const SIZES: [usize; 2] = [10, 1000];
const ROUNDS: usize = 9;
const BURSTS: usize = 3;
const IN_A_BURST: usize = 200;

pub fn measure(figures: &mut Figures) {
    let mut hosts = SIZES.map(Large::new);
    let figure = |what, size, measure| Figure::new(PART, what, OURS, size, measure);
    for _ in 0..ROUNDS {
        let mut small = None;
        for large in &mut hosts {
            let (wall, virsh) = large.one();
            let (size, own) = (large.size, wall - virsh);
            figures.add(figure(ONE, size, WALL), wall);
            figures.add(figure(ONE, size, VIRSH), virsh);
            figures.add(figure(ONE, size, OWN), own);
            match small {
                None => small = Some(own),
                Some(small) => figures.add(figure(ONE, size, MORE), own - small),
            }
        }
    }
    for _ in 0..BURSTS {
        for large in &mut hosts {
            let took = large.burst();
            figures.add(figure(BURST, large.size, SETTLED), took.as_secs_f64());
        }
    }
    let [small, large] = SIZES;
    for (what, measure) in [(ONE, OWN), (BURST, SETTLED)] {
        let here = figure(what, large, measure);
        figures.compare(here, &figure(what, small, measure), TIMES_SMALL);
    }
}

/// A host that runs `watch`.
struct Large {
    size: usize,
    host: Host,
    dir: tempfile::TempDir,
    /// The number of running VMs: the first ones.
    count: usize,
    /// The number of VMs started so far.
    started: usize,
    watch: Child,
}

impl Large {
    fn new(size: usize) -> Self {
        need("virsh");
        let host = Host::new();
        for bridge in 0..BRIDGES {
            host.bridge(&format!("br{bridge}"));
        }
        let dir = tempfile::tempdir().expect("a directory");
        let node = dir.path().join("node.xml");
        plug(&host, 1..=size);
        tell(&node, size);
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut watch = Command::new(MACFENCE);
        let uri = format!("test://{}", node.display());
        watch
            .args(["--connect", &uri, "watch"])
            .stdin(Stdio::null());
        watch.stdout(log);
        let watch = host.run(|| watch.spawn().expect("macfence"));
        let large = Self {
            size,
            host,
            dir,
            count: size,
            started: size,
            watch,
        };
        until("all VMs are fenced", || large.fenced() == size);
        large.rest();
        large
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("node.xml")
    }

    /// Returns how many VMs `watch` has reported as fenced.
    fn fenced(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("log")).expect("a log");
        log.matches("fenced ").count()
    }

    /// Waits until `watch` has rested after its last look.
    fn rest(&self) {
        thread::sleep(Duration::from_secs(2));
    }

    /// Starts VMs, and returns when the last one's port was created.
    fn start(&mut self, vms: usize) -> Instant {
        tell(&self.node(), self.count + vms);
        let start = Instant::now();
        plug(&self.host, self.count + 1..=self.count + vms);
        self.count += vms;
        self.started += vms;
        start
    }

    /// Returns the milliseconds until a starting VM is fenced, and those that two virsh take.
    fn one(&mut self) -> (f64, f64) {
        let generation = self.host.generation();
        let start = self.start(1);
        while self.host.generation() == generation {
            thread::sleep(Duration::from_millis(1));
        }
        let wall = start.elapsed();
        until("it is said", || self.fenced() >= self.started);
        self.rest();
        let uri = format!("test://{}", self.node().display());
        let start = Instant::now();
        for _ in 0..2 {
            self.host.ok("virsh", &["-q", "-c", &uri, "list --name"]);
        }
        (ms(wall), ms(start.elapsed()))
    }

    /// Returns how long after the last of many ports all are fenced. Ends these VMs again.
    fn burst(&mut self) -> Duration {
        let before = self.count;
        for _ in 0..IN_A_BURST / 10 {
            self.start(10);
        }
        let end = Instant::now();
        until("all are fenced", || self.fenced() >= self.started);
        let took = end.elapsed();
        self.rest();
        tell(&self.node(), before);
        let unplug = |vm| format!("link del {}\n", Vm(vm).port());
        let batch: String = (before + 1..=self.count).map(unplug).collect();
        self.host.ip(&batch);
        self.count = before;
        until("they are unfenced", || {
            let map = self
                .host
                .ok("nft", &["list", "map", "bridge", "macfence", "ports"]);
            map.matches("jump").count() == before
        });
        self.rest();
        took
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn plug(host: &Host, vms: impl Iterator<Item = usize>) {
    let plug = |vm: Vm| {
        let (port, bridge) = (vm.port(), vm.bridge());
        format!("tuntap add {port} mode tap\nlink set {port} master {bridge} up\n")
    };
    host.ip(&vms.map(Vm).map(plug).collect::<String>());
}

/// Makes the test driver run this many VMs.
fn tell(node: &PathBuf, count: usize) {
    let mut text = "<node>\n".to_owned();
    for vm in (1..=count).map(Vm) {
        let (name, mac, bridge, port) = (vm.name(), vm.mac(), vm.bridge(), vm.port());
        writeln!(
            text,
            "<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os>\
             <devices><interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/>\
             <target dev='{port}'/></interface></devices></domain>"
        )
        .expect("text");
    }
    let new = node.with_extension("new");
    std::fs::write(&new, text + "</node>\n").expect("a node");
    std::fs::rename(new, node).expect("a node");
}
