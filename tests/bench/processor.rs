//! Processor and priority of a measuring thread.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rustix::process::setpriority_process;

/// Pins this thread to the last of its processors, at a higher priority.
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
