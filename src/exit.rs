//! Exit statuses.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; for `check` and `doctor`: all is well; for `explain`: heard.
    Done,
    /// 1: it could not be done.
    Failed,
    /// 1: `check` found differences, as diff(1) does, or `doctor` something to set right; for `explain`: not
    /// heard.
    Different,
    /// 2: `check`, `doctor` or `explain` could not find out. clap ends with 2 as well where the command line is
    /// wrong.
    Unknown,
    /// As the same call ended that was made as root.
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
