//! What shells complete: subcommands, flags, and names of this host's VMs, ports and bridges.
//!
//! The installed scripts call the program itself after each tab, as [`clap_complete::env`] describes.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use crate::bridge;
use crate::cli::{Cli, Global};
use crate::config::Config;
use crate::source::Hypervisors;
use crate::vm::Vm;

/// The variable that names the shell that asks.
pub const VARIABLE: &str = "MACFENCE_COMPLETE";

/// Answers a shell that asks what could come next. Returns `false` if this is an ordinary call.
///
/// A shell's call begins with `--`. Without that condition, a variable left in the environment would turn a
/// hook into a program that fences nothing and succeeds.
///
/// # Errors
/// If the shell is unknown, or standard output is closed.
pub fn answer(arguments: &[OsString]) -> Result<bool> {
    if arguments.get(1).is_none_or(|first| first != "--") {
        return Ok(false);
    }
    // To complete `~/`, the C library would look up the user, and load the host's libraries for that. A
    // statically linked program cannot rely on them.
    if env::var_os("HOME").is_none() {
        return Ok(true);
    }
    let answer = CompleteEnv::with_factory(command).var(VARIABLE);
    let directory = env::current_dir().ok();
    Ok(answer.try_complete(arguments, directory.as_deref())?)
}

/// The command line, with the candidates for its names.
fn command() -> Command {
    let command = Cli::command().mut_args(with_candidates);
    command.mut_subcommands(|subcommand| subcommand.mut_args(with_candidates))
}

fn with_candidates(arg: Arg) -> Arg {
    let candidates: fn() -> Vec<CompletionCandidate> = match arg.get_id().as_str() {
        "vms" => || candidates(running().into_iter().map(|vm| vm.name.to_string())),
        "from" | "to" => || candidates(running().into_iter().flat_map(names)),
        "bridges" => || candidates(bridge::all().unwrap_or_default()),
        _ => return arg,
    };
    arg.add(ArgValueCandidates::new(candidates))
}

/// The names of a VM and of its ports.
fn names(vm: Vm) -> Vec<String> {
    let ports = vm.nics.into_iter().map(|nic| nic.port.to_string());
    ports.chain([vm.name.to_string()]).collect()
}

/// The running VMs. A user who may not ask a hypervisor gets none.
fn running() -> Vec<Vm> {
    let config = Config::new(Global::default());
    config.map_or_else(
        |_| Vec::new(),
        |config| Hypervisors::glance(&config.connect),
    )
}

/// Bash puts a candidate into the command line as it is, and a tenant may have chosen a VM's name. So
/// only names that no shell takes for anything else are offered.
fn candidates(names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    let plain = |name: &String| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        name.bytes().all(is_plain) && !name.starts_with('-')
    };
    let names: BTreeSet<_> = names.into_iter().filter(plain).collect();
    names.into_iter().map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_plain_words_in_every_shell_are_offered() {
        let names = [
            "one-7",
            "web.example",
            "a b",
            "x;reboot",
            "$(id)",
            "-f",
            "~root",
            "b",
            "b",
        ];
        let offered = candidates(names.map(str::to_owned));
        let offered: Vec<_> = offered.iter().map(CompletionCandidate::get_value).collect();
        assert_eq!(offered, ["b", "one-7", "web.example"]);
    }
}
