//! Measures what it costs to run a program.

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

/// A cost in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Time from start to end.
    pub wall: f64,
    /// Processor time of the program and of the children that it waited for.
    pub cpu: f64,
}

impl Cost {
    /// Adds both times as figures. Their measures replace that of `figure`.
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

/// Measures work that runs programs on the host, one after the other.
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

/// Runs a program with this file as its standard input. Panics if the program fails.
pub fn run(command: &mut Command, stdin: Option<&Path>) {
    let stdin = stdin.map_or(Stdio::null(), |file| {
        File::open(file).expect("a file").into()
    });
    // Cargo sets it for itself. Every program would search its libraries there first.
    command.env_remove("LD_LIBRARY_PATH");
    let status = command.stdin(stdin).stdout(Stdio::null()).status();
    assert!(status.expect("a program").success(), "{command:?}");
}

/// Measures [`run`] on the host.
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
