//! Lists the programs that a command runs, with the peak memory of each. The kernel stops each
//! process just before it ends, so neither a short process nor a late peak is missed. (The peak
//! that wait4(2) reports for a child may be that of its parent before exec.)

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::lab::Host;

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Program {
    /// The first 15 bytes of the program's name.
    pub name: String,
    /// Peak memory in MB (10^6 bytes).
    pub peak: f64,
}

/// Runs a command on a host, and returns it and all its descendants. No other child of this program
/// may end meanwhile.
pub fn of(host: &Host, mut command: Command, stdin: Option<&Path>) -> Vec<Program> {
    host.run(|| {
        let stdin = stdin.map_or(Stdio::null(), |file| {
            File::open(file).expect("a file").into()
        });
        command.stdin(stdin).stdout(Stdio::null());
        // SAFETY: between fork and exec there is only one system call, which touches no memory.
        unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
        #[expect(
            clippy::zombie_processes,
            reason = "it is waited for with all others, below"
        )]
        let child = command.spawn().expect("a program");
        let first = Pid::from_raw(child.id() as i32);
        let mut programs = Vec::new();
        let mut alive = BTreeSet::from([first]);
        while !alive.is_empty() {
            match waitpid(None, Some(WaitPidFlag::__WALL)).expect("a process") {
                WaitStatus::Exited(pid, status) => {
                    assert!(pid != first || status == 0, "{command:?}: {status}");
                    alive.remove(&pid);
                }
                WaitStatus::Signaled(pid, ..) => drop(alive.remove(&pid)),
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXIT) => {
                    programs.extend(program(pid));
                    go_on(pid, None);
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event != libc::PTRACE_EVENT_EXEC {
                        let new = ptrace::getevent(pid).expect("a process");
                        alive.insert(Pid::from_raw(new as i32));
                    }
                    go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => {
                    alive.insert(pid);
                    go_on(pid, stopped(pid == first, pid, signal));
                }
                _ => {}
            }
        }
        programs
    })
}

/// Returns the signal to pass on to a process that stopped for it. `None` if the process only
/// stopped because we began to trace it.
fn stopped(is_first: bool, pid: Pid, signal: Signal) -> Option<Signal> {
    match signal {
        Signal::SIGTRAP if is_first => {
            let options = Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_TRACEEXIT
                | Options::PTRACE_O_EXITKILL;
            ptrace::setoptions(pid, options).expect("options");
            None
        }
        Signal::SIGSTOP => None,
        signal => Some(signal),
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    // Fails if somebody has killed the process meanwhile.
    let _ = ptrace::cont(pid, signal);
}

/// Reads the process that is about to end. `None` if this is only one of its threads.
fn program(pid: Pid) -> Option<Program> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        Some(line?.trim().to_owned())
    };
    if field("Tgid:")? != pid.to_string() {
        return None;
    }
    let peak = field("VmHWM:")?;
    let kib: f64 = peak.strip_suffix(" kB")?.parse().expect("a number");
    Some(Program {
        name: field("Name:")?,
        peak: kib * 1024.0 / 1e6,
    })
}
