//! Where and before whom a measuring thread runs.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rustix::process::setpriority_process;

/// Keeps this thread on the last of its processors, before others.
pub fn stay_on_one() {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).expect("processors");
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rev().find(is_allowed);
    let mut one = CpuSet::new();
    one.set(last.expect("a processor")).expect("a processor");
    sched_setaffinity(me, &one).expect("one processor");
    setpriority_process(None, -20).expect("priority");
}
