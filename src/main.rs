//! Reads the command line, runs the command, and turns the result into an exit status.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use macfence::cli::{Cli, LINKS};
use macfence::{commands, completions, report};

fn main() -> ExitCode {
    let arguments = arguments();
    match completions::answer(&arguments) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::FAILURE,
    }
    let cli = Cli::read(arguments);
    let on_failure = commands::exit_on_failure(&cli.command);
    let exit = commands::run(cli).unwrap_or_else(|e| {
        report::error(&e);
        on_failure
    });
    exit.into()
}

/// Returns the command line. If macfence was called by the name of an entry point, this adds the `hook`
/// subcommand and `--`: nothing that the caller of a hook passes is a flag.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<_> = env::args_os().collect();
    let name = arguments
        .first()
        .and_then(|path| Path::new(path).file_name());
    if let Some(link) = LINKS.into_iter().find(|link| name == Some(link.as_ref())) {
        arguments.splice(..1, ["macfence", "hook", link, "--"].map(OsString::from));
    }
    arguments
}
