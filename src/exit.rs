//! Exit statuses.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; for `check` and `doctor`: all is well; for `explain`: heard.
    Done,
    /// 1: the command failed.
    Failed,
    /// 1: `check` found differences, like diff(1); `doctor` found a problem; for `explain`: not heard.
    Different,
    /// 2: `check`, `doctor` or `explain` could not find out. clap also uses 2 for a wrong command line.
    Unknown,
    /// The status of the same call, made again as root.
    AsRoot(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed | Exit::Different => 1,
            Exit::Unknown => 2,
            Exit::AsRoot(status) => status,
        })
    }
}
