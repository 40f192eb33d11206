//! What is said to people on standard error, each in one line.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long to wait for a reader that lets a message stand. We may hold the lock that others wait for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a message has not been taken yet.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// Something that the operator should know, though the command goes on.
pub fn warning(text: &str) {
    say("warning", text);
}

/// Why the command failed: the whole chain of causes.
pub fn error(error: &anyhow::Error) {
    say("error", &format!("{error:#}"));
}

/// A detail, for `-v`.
pub fn note(text: &str) {
    say("note", text);
}

/// What another program said to people, word for word.
pub fn pass_on(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn say(kind: &str, text: &str) {
    let line: Vec<_> = text.lines().map(str::trim).collect();
    write(format!("macfence: {kind}: {}\n", line.join(" ")));
}

/// Writes to standard error, as far as somebody reads it: a full pipe would keep us for ever, and a
/// terminal can be halted.
fn write(text: String) {
    if IS_STUCK.swap(true, Ordering::SeqCst) {
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let work = move || {
        // Without the lock of `io::stderr()`, which others would then wait for.
        if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
            // Nobody listens on a closed standard error.
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
