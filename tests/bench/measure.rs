//! What running a program costs.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::figures::{Figure, Figures};
use crate::lab::Host;

pub const WALL: &str = "wall ms";
pub const CPU: &str = "CPU ms";

/// What it took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From the start to the end.
    pub wall: f64,
    /// Of processors, for the program and all that it ran and waited for.
    pub cpu: f64,
}

impl Cost {
    /// Adds both as figures, of which `figure` is either.
    pub fn add_to(self, figures: &mut Figures, figure: &Figure) {
        for (measure, number) in [(WALL, self.wall), (CPU, self.cpu)] {
            let measure = measure.to_owned();
            figures.add(
                Figure {
                    measure,
                    ..figure.clone()
                },
                number,
            );
        }
    }
}

/// Does something on the host that runs programs, one after the other.
pub fn cost(host: &Host, work: impl FnOnce() + Send) -> Cost {
    host.run(|| {
        let before = cpu_of_children();
        let start = Instant::now();
        work();
        Cost {
            wall: milliseconds(start.elapsed()),
            cpu: cpu_of_children() - before,
        }
    })
}

/// Runs a program that must succeed, with what is in this file as its standard input.
pub fn run(command: &mut Command, stdin: Option<&Path>) {
    let stdin = stdin.map_or(Stdio::null(), |file| {
        File::open(file).expect("a file").into()
    });
    // Cargo's own, in which every program would look for its libraries first.
    command.env_remove("LD_LIBRARY_PATH");
    let status = command.stdin(stdin).stdout(Stdio::null()).status();
    assert!(status.expect("a program").success(), "{command:?}");
}

/// What [`run`] costs on the host.
pub fn cost_of(host: &Host, mut command: Command, stdin: Option<&Path>) -> Cost {
    cost(host, || run(&mut command, stdin))
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn cpu_of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage");
    let milliseconds = |time: TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    milliseconds(usage.user_time()) + milliseconds(usage.system_time())
}
