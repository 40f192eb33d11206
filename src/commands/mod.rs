//! The subcommands, one file each. `enforce` and `shared` have what several of them need; `hook` is for
//! the programs that call us.

mod apply;
mod check;
mod columns;
mod doctor;
mod drops;
mod enforce;
pub mod explain;
mod export;
mod flush;
mod hook;
mod install_hook;
mod known;
mod list;
mod look;
mod metrics;
mod migrate;
mod remove;
mod shared;
mod sync;
mod watch;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::exit::Exit;
use crate::privilege;

/// Runs the command.
///
/// # Errors
/// If the command fails; the kernel's rules are then unchanged.
pub fn run(cli: Cli) -> Result<Exit> {
    if privilege::is_missing(&cli.command) {
        return privilege::run_as_root(&cli);
    }
    if let Command::Doctor { json } = cli.command {
        // doctor reports a configuration that cannot be read as a finding.
        return doctor::run(cli.global, json);
    }
    if let Command::InstallHook { caller } = cli.command {
        return install_hook::run(caller).map(|()| Exit::Done);
    }
    if let Command::Watch = cli.command {
        // It reads the configuration more than once.
        return watch::run(cli.global).map(|()| Exit::Done);
    }
    let flags = cli.global.clone();
    let config = Config::new(cli.global)?;
    match cli.command {
        Command::Apply(vms) => apply::run(&config, &vms),
        Command::Remove { vms } => remove::run(&config, vms),
        Command::Flush => flush::run(&config),
        Command::Sync => sync::run(&config),
        Command::List { json, graph } => list::run(&flags, json, graph),
        Command::Check { json, xml } => return check::run(&config, json, xml),
        Command::Explain(question) => return explain::run(&config, &question),
        Command::Drops { vms, follow, json } => drops::run(&config, &vms, follow, json),
        Command::Metrics { output } => metrics::run(&config, output.as_ref()),
        Command::Export(vms) => export::run(&config, &vms),
        Command::Migrate { dry_run } => migrate::run(&config, dry_run),
        Command::Hook { entry } => hook::run(&config, entry),
        // They have already run above.
        Command::Doctor { .. } | Command::InstallHook { .. } | Command::Watch => Ok(()),
    }
    .map(|()| Exit::Done)
}

/// The exit status of a command that failed.
pub fn exit_on_failure(command: &Command) -> Exit {
    match command {
        Command::Check { .. }
        | Command::Doctor { .. }
        | Command::Drops { .. }
        | Command::Explain(_) => Exit::Unknown,
        _ => Exit::Failed,
    }
}
