//! The one privilege boundary: every command that reads or changes firewall rules runs as root.
//!
//! Another user may call only an entry point, as OpenNebula's oneadmin does. Then macfence runs itself
//! again through `sudo -n`, under a path in `libexec/macfence/` that sudoers names. No argument behind
//! such a path is a flag, and [`crate::process`] ignores the caller's environment. So the caller
//! chooses only a VM and the contents of its template.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cli::{Caller, Cli, Command, Entry, Global};
use crate::config::DEFAULT_FILE;
use crate::exit::Exit;
use crate::process;
use crate::report;

/// Tells whether this call needs root and we are not.
pub fn is_missing(command: &Command) -> bool {
    // OpenNebula's files are written as its own user.
    let is_for_all = matches!(
        command,
        Command::Export(_)
            | Command::InstallHook {
                caller: Caller::Opennebula { .. }
            }
    );
    !is_for_all && !rustix::process::geteuid().is_root()
}

/// Repeats a call of an entry point as root, and returns its exit status.
///
/// # Errors
/// If the call is not of an entry point or has flags, or if sudo refuses.
pub fn run_as_root(cli: &Cli) -> Result<Exit> {
    let Some((name, words)) = entry_point(&cli.command) else {
        bail!("only root can read and change firewall rules: run as root");
    };
    refuse_flags(&cli.global)?;
    let path = libexec()?.join(name);
    let shown = path.display();
    ensure!(
        path.exists(),
        "cannot run as root: {shown} is missing: install macfence with make install or a package"
    );
    let Ok(sudo) = process::find("sudo") else {
        bail!("cannot run {shown} as root: install sudo, or run as root");
    };
    let mut args = ["-n", "-u", "root", "--"].map(Into::into).to_vec();
    args.push(path.clone().into_os_string());
    args.extend(words.into_iter().map(Into::into));
    let ended = process::delegate(&sudo, &args)?;
    // sudo's exit status is 1 when it refuses, and so is macfence's when it fails; but macfence prints
    // an error.
    let is_ours = |line: &str| line.starts_with("macfence: error: ");
    if ended.status == 1 && !ended.stderr.lines().any(is_ours) {
        bail!(refusal(&ended.stderr, &shown.to_string()));
    }
    report::pass_on(&ended.stderr);
    Ok(Exit::AsRoot(ended.status))
}

/// Explains why sudo refused to run `path`. Its own words help only if its rules are not the reason.
fn refusal(stderr: &str, path: &str) -> String {
    const RULES: [&str; 4] = [
        "password is required",
        "terminal is required",
        "no tty present",
        "not allowed",
    ];
    let user = rustix::process::getuid().as_raw();
    if stderr.is_empty() || RULES.iter().any(|words| stderr.contains(words)) {
        return format!(
            "user {user} may not run {path} as root: run as root, or let this user run it: \
             install the file /etc/sudoers.d/macfence that comes with this macfence"
        );
    }
    let words: Vec<_> = stderr.lines().map(str::trim).collect();
    let words = words.join(" ");
    let words = words.trim_start_matches("sudo: ");
    format!("sudo cannot run {path} as root for user {user}: {words}")
}

/// The name of this entry point in sudoers, and its arguments.
fn entry_point(command: &Command) -> Option<(&'static str, Vec<&str>)> {
    let Command::Hook { entry } = command else {
        return None;
    };
    let none: &[String] = &[];
    let (name, mut words, rest) = match entry {
        Entry::EbtablesKvm { vm } => ("ebtables-kvm", vec![vm.as_str()], none),
        Entry::EbtablesXen { vm } => ("ebtables-xen", vec![vm.as_str()], none),
        Entry::EbtablesFlush => ("ebtables-flush", Vec::new(), none),
        Entry::OnePost {
            driver,
            deploy_id,
            rest,
        } => {
            let name = driver.as_ref().map_or("one-post", |_| "driver-post");
            let words = driver.iter().chain(deploy_id).map(String::as_str);
            (name, words.collect(), &**rest)
        }
        Entry::OneClean { driver, rest } => {
            let name = driver.as_ref().map_or("one-clean", |_| "driver-clean");
            (name, driver.iter().map(String::as_str).collect(), &**rest)
        }
        Entry::DriverPost { driver, rest } => ("driver-post", vec![driver.as_str()], &**rest),
        Entry::DriverClean { driver, rest } => ("driver-clean", vec![driver.as_str()], &**rest),
        Entry::Libvirt { .. } | Entry::Xen { .. } => return None,
    };
    words.extend(rest.iter().map(String::as_str));
    Some((name, words))
}

/// Refuses all flags, because they would choose what root reads and runs.
fn refuse_flags(flags: &Global) -> Result<()> {
    // Each field is named, so that a new flag cannot be forgotten here.
    let Global {
        config,
        backend,
        bridges,
        prefix_len,
        trusted,
        connect,
        verbose,
    } = flags;
    let given = [
        ("--config", config.is_some()),
        ("--backend", backend.is_some()),
        ("--bridge", !bridges.is_empty()),
        ("--prefix-len", prefix_len.is_some()),
        ("--trusted", !trusted.is_empty()),
        ("--connect", connect.is_some()),
        ("--verbose", *verbose),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!(
            "{flag}: only root may choose this for a hook: run as root, or set it in {DEFAULT_FILE}"
        ),
        None => Ok(()),
    }
}

/// The directory of the entry points: beside the `sbin` of the running program.
fn libexec() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program's own path in /proc")?;
    let prefix = program.parent().and_then(Path::parent);
    let prefix =
        prefix.with_context(|| format!("{} is not in an sbin directory", program.display()))?;
    Ok(prefix.join("libexec/macfence"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn parse(args: &[&str]) -> Cli {
        Cli::try_parse_from([&["macfence"], args].concat()).unwrap()
    }

    #[test]
    fn each_entry_point_has_a_path_of_its_own_and_passes_its_arguments_on() {
        for (args, name, words) in [
            (
                &["ebtables-kvm", "one-1"][..],
                "ebtables-kvm",
                &["one-1"][..],
            ),
            (&["ebtables-xen", "--", "-c"], "ebtables-xen", &["-c"]),
            (&["ebtables-flush"], "ebtables-flush", &[]),
            (&["one-post"], "one-post", &[]),
            (&["one-post", "one-1", "h"], "one-post", &["one-1", "h"]),
            (
                &["one-post", "--driver", "fw", "one-1", "h"],
                "driver-post",
                &["fw", "one-1", "h"],
            ),
            (
                &["one-post", "--driver=", "--", "--config"],
                "driver-post",
                &["", "--config"],
            ),
            (&["one-clean", "h"], "one-clean", &["h"]),
            (
                &["one-clean", "--driver", "fw", "h"],
                "driver-clean",
                &["fw", "h"],
            ),
            (
                &["driver-post", "fw", "one-1", "h"],
                "driver-post",
                &["fw", "one-1", "h"],
            ),
            (&["driver-clean", "fw", "h"], "driver-clean", &["fw", "h"]),
        ] {
            let cli = parse(&[&["hook"], args].concat());
            let expected = Some((name, words.to_vec()));
            assert_eq!(entry_point(&cli.command), expected, "{args:?}");
        }
    }

    #[test]
    fn nothing_else_has_one() {
        let libvirt = ["hook", "libvirt", "one-1", "start", "begin", "-"];
        let xen = ["hook", "xen", "/local/domain/0/backend/vif/7/0"];
        for args in [
            &libvirt[..],
            &xen,
            &["list"],
            &["sync"],
            &["apply", "one-1"],
        ] {
            assert_eq!(entry_point(&parse(args).command), None, "{args:?}");
        }
    }

    #[test]
    fn every_global_flag_is_refused_by_name() {
        let value = |flag: &str| match flag {
            "--config" | "--bridge" | "--connect" => Some("x"),
            "--backend" => Some("nft"),
            "--prefix-len" => Some("40"),
            "--trusted" => Some("02:00:00:00:00:01"),
            _ => None,
        };
        let known = <Cli as clap::CommandFactory>::command();
        let flags = known.get_arguments().filter(|arg| arg.is_global_set());
        let flags: Vec<_> = flags
            .map(|arg| format!("--{}", arg.get_long().unwrap()))
            .collect();
        assert_eq!(flags.len(), 7);
        for flag in &flags {
            let args = [
                Some("hook"),
                Some("ebtables-flush"),
                Some(flag),
                value(flag),
            ];
            let args: Vec<_> = args.into_iter().flatten().collect();
            let error = refuse_flags(&parse(&args).global).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{flag}: ")), "{error}");
        }
        refuse_flags(&parse(&["hook", "ebtables-flush"]).global).unwrap();
    }
}
