//! The one privilege boundary: whatever reads or changes firewall rules runs as root.
//!
//! Another user may call only an entry point (OpenNebula's oneadmin does). It runs itself again
//! through `sudo -n`, under a path in `libexec/macfence/` that sudoers names. Behind such a path
//! nothing is a flag, and [`crate::process`] ignores the caller's environment: the caller chooses a
//! VM and what its template says, and nothing else.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cli::{Caller, Cli, Command, Entry, Global};
use crate::config::DEFAULT_FILE;
use crate::exit::Exit;
use crate::process;
use crate::report;

/// Whether this call has to be made as root and was not.
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

/// Makes a call of an entry point again as root, and ends as that one does.
///
/// # Errors
/// If the call is of no entry point or has flags, or if sudo refuses.
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
    let sudo = process::find("sudo")
        .with_context(|| format!("cannot run {shown} as root: install sudo, or run as root"))?;
    let mut args = ["-n", "-u", "root", "--"].map(Into::into).to_vec();
    args.push(path.clone().into_os_string());
    args.extend(words.into_iter().map(Into::into));
    let ended = process::delegate(&sudo, &args)?;
    // sudo ends with 1 where it refuses, as macfence does where it fails; but macfence says why.
    let is_ours = |line: &str| line.starts_with("macfence: error: ");
    if ended.status == 1 && !ended.stderr.lines().any(is_ours) {
        let words: Vec<_> = ended.stderr.lines().map(str::trim).collect();
        bail!(
            "cannot run as root: sudo does not let user {} run {shown} without a password: \
             install the file /etc/sudoers.d/macfence that comes with this macfence ({})",
            rustix::process::getuid().as_raw(),
            words.join(" ")
        );
    }
    report::pass_on(&ended.stderr);
    Ok(Exit::AsRoot(ended.status))
}

/// What sudoers calls this entry point, and its arguments.
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

/// Flags would choose what root reads and runs: none of the caller's is passed on.
fn refuse_flags(flags: &Global) -> Result<()> {
    // Named one by one, so that a new flag cannot be forgotten here.
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

/// Where the entry points are: beside the `sbin` of the program that is running.
fn libexec() -> Result<PathBuf> {
    let program =
        env::current_exe().context("cannot tell where this program is (is /proc there?)")?;
    let prefix = program.parent().and_then(Path::parent);
    let prefix = prefix.with_context(|| format!("{} is in no sbin", program.display()))?;
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
