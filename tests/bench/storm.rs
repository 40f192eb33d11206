//! A storm: one call per VM fences a whole host, with many calls at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::figures::{Figure, Figures};
use crate::lab::Host;
use crate::measure::{CPU, WALL, cost, milliseconds, run};
use crate::vms::{Vm, Vms};

const VMS: usize = 1000;
const AT_A_TIME: usize = 64;

pub const PART: &str = "storm";
const WHAT: &str = "64 calls of apply at a time";
const ALL: &str = "all of them";
const EACH: &str = "each";

pub fn measure(figures: &mut Figures) {
    let vms = Vms::new(VMS);
    let host = Host::new();
    vms.plug_into(&host);
    let (next, vms) = (&AtomicUsize::new(1), &vms);
    let (sender, times) = mpsc::channel();
    let total = cost(&host, move || {
        // Threads inherit the host's namespaces from this thread.
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                let sender = sender.clone();
                scope.spawn(move || {
                    while let vm @ 1..=VMS = next.fetch_add(1, Ordering::Relaxed) {
                        let xml = vms.xml(Vm(vm));
                        let start = Instant::now();
                        let xml = xml.to_str().expect("a path");
                        run(&mut vms.macfence(&["apply", "--xml", xml]), None);
                        sender
                            .send(milliseconds(start.elapsed()))
                            .expect("a number");
                    }
                });
            }
        });
    });
    assert_eq!(host.fenced().len(), VMS, "fenced at the end");
    let figure = |way, measure| Figure::new(PART, WHAT, way, VMS, measure);
    total.add_to(figures, &figure(ALL, WALL));
    figures.add(figure(EACH, CPU), total.cpu / VMS as f64);
    for time in times {
        figures.add(figure(EACH, WALL), time);
    }
}
