//! What is said to people on standard error, each in one line.

use std::io::Write;

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
    // Nobody listens on a closed standard error.
    let _ = writeln!(std::io::stderr(), "macfence: {kind}: {}", line.join(" "));
}
