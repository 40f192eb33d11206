//! Measures what a bridge spends on forwarding one frame from one VM to another. Compares no
//! filter, our fences on nft and on ebtables, the layout of version 0.1, and the seed's rules.
//! Frames have the smallest size and go from one port to one other.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::{Figure, Figures};
use crate::filters::{
    EBTABLES, GUARDED, HEARER, LAYOUT_0_1, NFT, NOBODY, SEED, SENDER, TIMES_LAYOUT_0_1, TIMES_NFT,
    TIMES_NOBODY, load,
};
use crate::lab::Host;
use crate::processor::stay_on_one;
use crate::raw::{BATCH, Exit, far_end, minimal, send};
use crate::turns;
use crate::vms::Vms;

const SIZES: [usize; 5] = [1, 10, 100, 1000, 4000];
const ROUNDS: usize = 15;
/// Approximate length of one slice of a measurement.
const DURATION: Duration = Duration::from_millis(20);
/// The test fails if no frame arrives for this long.
const LOST: Duration = Duration::from_secs(2);
/// The filters to compare with no filter.
const FILTERS: [&str; 5] = [NFT, GUARDED, LAYOUT_0_1, EBTABLES, SEED];

pub const PART: &str = "frame";
pub const WHAT: &str = "forwarded";
pub const NS: &str = "ns";

pub fn measure(figures: &mut Figures) {
    let figure = |way, vms| Figure::new(PART, WHAT, way, vms, NS);
    let unfiltered = Lane::new(NOBODY);
    unfiltered.check();
    let fenced = SIZES.map(|size| {
        let vms = Vms::new(size);
        FILTERS.map(|way| {
            let lane = Lane::new(way);
            load(way, &lane.host, &vms);
            lane.check();
            lane
        })
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            // The processor that sends a frame also forwards it.
            stay_on_one();
            for round in 0..ROUNDS {
                for (vms, lanes) in SIZES.into_iter().zip(&fenced) {
                    let lanes: Vec<_> = [&unfiltered].into_iter().chain(lanes).collect();
                    let costs = turns::means(round, &lanes, |lane| [lane.cost()]);
                    for (lane, [cost]) in lanes.iter().zip(costs) {
                        figures.add(figure(lane.way, vms), cost);
                    }
                }
            }
        });
    });
    for vms in SIZES {
        for way in FILTERS {
            figures.compare(figure(way, vms), &figure(NOBODY, vms), TIMES_NOBODY);
        }
        figures.compare(figure(GUARDED, vms), &figure(NFT, vms), TIMES_NFT);
        figures.compare(figure(SEED, vms), &figure(NFT, vms), TIMES_NFT);
        let layout = figure(LAYOUT_0_1, vms);
        figures.compare(figure(NFT, vms), &layout, TIMES_LAYOUT_0_1);
    }
}

/// A host with two VMs on a bridge. We hold the far ends of their ports.
struct Lane {
    way: &'static str,
    host: Host,
    sender: OwnedFd,
    hearer: OwnedFd,
    exit: Exit,
}

impl Lane {
    fn new(way: &'static str) -> Self {
        let host = Host::new();
        host.bridge("br0");
        for (vm, far) in [(SENDER, "sender"), (HEARER, "hearer")] {
            let (port, mac) = (vm.port(), vm.mac());
            host.ip(&format!(
                "link add {port} type veth peer name {far} address {mac}\n\
                 link set {port} master br0 up\nlink set {far} up\n"
            ));
        }
        let (sender, hearer) = host.run(|| (far_end("sender"), far_end("hearer")));
        let exit = Exit::of(&host);
        Self {
            way,
            host,
            sender,
            hearer,
            exit,
        }
    }

    fn check(&self) {
        self.teach();
        self.exit.check(self.way, &self.sender);
    }

    /// Teaches the bridge the hearer's port, so that it does not flood frames.
    fn teach(&self) {
        send(&self.hearer, &minimal(HEARER.mac(), SENDER.mac()), 1);
    }

    /// Measures one frame, in nanoseconds.
    fn cost(&self) -> f64 {
        self.teach();
        let each = |frames: usize| self.time(frames).as_nanos() as f64 / frames as f64;
        let guess = each(BATCH);
        let frames = (DURATION.as_nanos() as f64 / guess) as usize;
        each(frames.next_multiple_of(BATCH))
    }

    /// Measures how long this many frames take.
    fn time(&self, frames: usize) -> Duration {
        let frame = minimal(SENDER.mac(), HEARER.mac());
        let until = self.exit.frames() + frames;
        let start = Instant::now();
        send(&self.sender, &frame, frames);
        // The kernel usually forwards a frame before it takes the next; only under load does it lag
        // behind. Do not sleep here: that would measure the sleep.
        while self.exit.frames() < until {
            assert!(start.elapsed() < LOST, "{}: frames lost", self.way);
        }
        start.elapsed()
    }
}
