//! What is said to people on standard error, each in one line.

use std::io::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

/// Fewer things than this are there before a line about them could be read.
const MANY: usize = 100;

/// A line on the terminal that tells how many of so many things have come, and is gone in the end.
/// Nothing where standard error is no terminal, and for few.
pub fn progress(what: &'static str, total: usize) -> ProgressBar {
    let target = match total < MANY {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_message(what);
    // The template is a constant: should it be wrong, the crate's own is as good.
    match ProgressStyle::with_template("{msg}: {pos} of {len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn say(kind: &str, text: &str) {
    let line: Vec<_> = text.lines().map(str::trim).collect();
    // Nobody listens on a closed standard error.
    let _ = writeln!(std::io::stderr(), "macfence: {kind}: {}", line.join(" "));
}
