//! Prints messages for people on standard error, each in one line. If standard error is systemd's
//! journal, adds fields that `journalctl` can search.

mod journal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use self::journal::Priority;
use crate::vm::{Port, VmName};

/// A repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What was done.
    pub action: Action,
    /// The VM, if known.
    pub vm: Option<VmName>,
    /// The ports.
    pub ports: Vec<Port>,
    /// The repair in words.
    pub words: String,
}

/// The kinds of repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A fence was missing.
    Fenced,
    /// A fence was wrong.
    Mended,
    /// A fence was for a VM or port that is gone.
    Removed,
    /// A setting of a bridge or a port left something open.
    Hardened,
}

impl Action {
    /// Its word in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::Mended => "mended",
            Self::Removed => "removed",
            Self::Hardened => "hardened",
        }
    }
}

/// How long to wait for a slow reader of messages: we may hold the lock that others wait for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a message is still being written.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// Prints what the operator should know, though the command goes on.
pub fn warning(text: &str) {
    say("warning", text);
}

/// Writes repairs to the journal, with `MACFENCE_ACTION`, `MACFENCE_VM` and a `MACFENCE_PORT` for each
/// port. If standard error is not the journal, returns the lines to print instead.
pub fn changes(changes: &[Change]) -> String {
    let left = changes.iter().filter(|change| {
        let mut fields = vec![("MACFENCE_ACTION", change.action.word())];
        let vm = change.vm.as_ref();
        fields.extend(vm.map(|vm| ("MACFENCE_VM", vm.as_str())));
        let ports = change.ports.iter();
        fields.extend(ports.map(|port| ("MACFENCE_PORT", port.as_str())));
        !journal::send(Priority::Notice, &change.words, &fields)
    });
    left.map(|change| format!("{}\n", change.words)).collect()
}

/// Prints why the command failed: the whole chain of causes.
pub fn error(error: &anyhow::Error) {
    say("error", &format!("{error:#}"));
}

/// Prints a detail, for `-v`.
pub fn note(text: &str) {
    say("note", text);
}

/// Prints another program's messages unchanged.
pub fn pass_on(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn say(kind: &str, text: &str) {
    let line: Vec<_> = text.lines().map(str::trim).collect();
    let line = line.join(" ");
    let priority = match kind {
        "error" => Priority::Error,
        "warning" => Priority::Warning,
        _ => Priority::Info,
    };
    if !journal::send(priority, &format!("{kind}: {line}"), &[]) {
        write(format!("macfence: {kind}: {line}\n"));
    }
}

/// Writes to standard error, but gives up if no one reads it: a full pipe would block us for ever, and
/// a terminal can be halted.
fn write(text: String) {
    if IS_STUCK.swap(true, Ordering::SeqCst) {
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let work = move || {
        // Not through `io::stderr()`, whose lock other threads would then wait for.
        if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
            // Standard error may be closed; then no one reads the message.
            let _ = File::from(stderr).write_all(text.as_bytes());
        }
        IS_STUCK.store(false, Ordering::SeqCst);
        let _ = sender.send(());
    };
    if thread::Builder::new().spawn(work).is_err() {
        IS_STUCK.store(false, Ordering::SeqCst);
    }
    let _ = receiver.recv_timeout(PATIENCE);
}
