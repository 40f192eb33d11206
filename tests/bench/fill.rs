//! Measures what it costs to fence a whole host at once, and to read it back. `nft -f`, which loads
//! the same ruleset from a file, is the comparison. A stand-in replaces the hypervisor; its small
//! cost is subtracted.

use std::process::Command;

use crate::call;
use crate::figures::{Figure, Figures};
use crate::lab::Host;
use crate::measure::{Cost, WALL, cost, cost_of, run};
use crate::programs;
use crate::vms::{Vms, load_nft};

const SIZES: [usize; 4] = [10, 100, 1000, 4000];
const ROUNDS: usize = 5;

pub const PART: &str = "fill";
/// The work.
pub const ALL: &str = "from nothing";
pub const NOTHING: &str = "with nothing to do";
pub const ONE: &str = "with one VM changed";
const LISTING: &str = "description of all VMs";
/// The programs that do it.
pub const SYNC: &str = "macfence sync";
pub const NFT: &str = "nft -f";
pub const NFT_JSON: &str = "nft -j -f";
const HYPERVISOR: &str = "the stand-in for virsh";
/// The measured quantities besides time.
pub const OWN: &str = "wall ms without the hypervisor";
pub const WRITES: &str = "changes of the ruleset";
pub const PEAK: &str = "peak MB";
pub const PEAK_NFT: &str = "peak MB of nft";
/// The comparison.
pub const TIMES_NFT: &str = "times nft -f";

/// Commands that look at every VM, for a host whose VMs are all fenced.
const CALLS: [(&str, &[&str]); 3] = [
    ("flush with nothing to do", &["flush"]),
    ("list", &["list"]),
    ("check", &["check"]),
];

pub fn measure(figures: &mut Figures) {
    let hosts = SIZES.map(Filled::new);
    for _ in 0..ROUNDS {
        hosts.iter().for_each(|host| host.round(figures));
    }
    for host in &hosts {
        host.peaks(figures);
    }
    for size in SIZES {
        let (nft, small) = (figure(ALL, NFT, size, WALL), call::SIZES[0]);
        for way in [SYNC, NFT_JSON] {
            let measure = if way == SYNC { OWN } else { WALL };
            figures.compare(figure(ALL, way, size, measure), &nft, TIMES_NFT);
        }
        for (what, _) in CALLS.iter().filter(|_| call::SIZES.contains(&size)) {
            let figure = |size| Figure::new(call::PART, what, call::OURS, size, WALL);
            figures.compare(figure(size), &figure(small), call::TIMES_SMALL);
        }
    }
}

fn figure(what: &str, way: &str, size: usize, measure: &str) -> Figure {
    Figure::new(PART, what, way, size, measure)
}

/// A host with the ports of its VMs, and the ruleset that fences them.
struct Filled {
    vms: Vms,
    host: Host,
    dir: tempfile::TempDir,
}

impl Filled {
    fn new(size: usize) -> Self {
        let filled = Self {
            vms: Vms::new(size),
            host: Host::new(),
            dir: tempfile::tempdir().expect("a directory"),
        };
        filled.vms.plug_into(&filled.host);
        let json = filled.vms.for_nft(&filled.host);
        load_nft(&filled.host, &json);
        let text = filled.host.ok("nft", &["list", "ruleset"]);
        std::fs::write(filled.dir.path().join("json"), json).expect("a ruleset");
        std::fs::write(filled.dir.path().join("text"), text).expect("a ruleset");
        filled
    }

    fn round(&self, figures: &mut Figures) {
        let size = self.vms.count;
        for (way, file, flags) in [
            (NFT, "text", &["-f"][..]),
            (NFT_JSON, "json", &["-j", "-f"]),
        ] {
            self.empty();
            let mut nft = Command::new("nft");
            nft.args(flags).arg(self.dir.path().join(file));
            cost_of(&self.host, nft, None).add_to(figures, &figure(ALL, way, size, WALL));
        }
        self.empty();
        let hypervisor = self.hypervisor();
        hypervisor.add_to(figures, &figure(LISTING, HYPERVISOR, size, WALL));
        self.sync(figures, ALL, hypervisor);
        self.sync(figures, NOTHING, hypervisor);
        if call::SIZES.contains(&size) {
            for (what, args) in CALLS {
                let cost = cost_of(&self.host, self.vms.macfence(args), None);
                let figure = Figure::new(call::PART, what, call::OURS, size, WALL);
                cost.add_to(figures, &figure);
            }
        }
        self.vms.tell("changed");
        self.sync(figures, ONE, hypervisor);
        self.vms.tell("all");
    }

    fn sync(&self, figures: &mut Figures, what: &str, hypervisor: Cost) {
        let figure = |measure| figure(what, SYNC, self.vms.count, measure);
        let before = self.host.generation();
        let cost = cost_of(&self.host, self.vms.macfence(&["sync"]), None);
        cost.add_to(figures, &figure(WALL));
        figures.add(figure(OWN), cost.wall - hypervisor.wall);
        let writes = self.host.generation() - before;
        figures.add(figure(WRITES), f64::from(writes));
    }

    /// Measures the stand-in's answers to everything that a sync asks.
    fn hypervisor(&self) -> Cost {
        let path = self.vms.path();
        cost(&self.host, || {
            for words in ["list --name", "dumpxml"] {
                let mut virsh = Command::new("virsh");
                let output = virsh
                    .args(["-q", "-c", "", words])
                    .env("PATH", &path)
                    .output();
                assert!(!output.expect("virsh").stdout.is_empty());
            }
        })
    }

    fn empty(&self) {
        let mut nft = Command::new("nft");
        nft.args(["delete", "table", "bridge", "macfence"]);
        self.host.run(|| run(&mut nft, None));
    }

    /// Measures the peak memory of macfence and of nft.
    fn peaks(&self, figures: &mut Figures) {
        self.empty();
        let sync: &[&str] = &["sync"];
        let syncs = [(PART, ALL, SYNC, sync), (PART, NOTHING, SYNC, sync)];
        let calls = CALLS.map(|(what, args)| (call::PART, what, call::OURS, args));
        for (part, what, way, args) in syncs.into_iter().chain(calls) {
            let programs = programs::of(&self.host, self.vms.macfence(args), None);
            for (program, measure) in [("macfence", PEAK), ("nft", PEAK_NFT)] {
                let ours = programs.iter().filter(|p| p.name == program);
                let peak = ours.map(|program| program.peak).fold(0.0, f64::max);
                let size = self.vms.count;
                if part == PART || call::SIZES.contains(&size) {
                    figures.add(Figure::new(part, what, way, size, measure), peak);
                }
            }
        }
    }
}
