//! Checks OpenNebula: whether its network drivers call macfence, and whether its user may run macfence
//! as root.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::finding::Finding;
use crate::process;

const DRIVERS: &str = "OpenNebula";
const SUDO: &str = "sudo";

/// The directory of OpenNebula's network drivers on a host.
const VNM: &str = "/var/tmp/one/vnm";

const USER: &str = "oneadmin";

/// The file that lets that user run macfence.
const SUDOERS: &str = "/etc/sudoers.d/macfence";

/// The entry points that the drivers' files run as root.
const ENTRY_POINTS: [&str; 2] = ["driver-post", "driver-clean"];

/// A driver's file that calls macfence; `None`: it has none.
type Script = Option<IsExecutable>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IsExecutable(bool);

/// A network driver on this host.
#[derive(Clone, Debug)]
struct Driver {
    name: String,
    post: Script,
    clean: Script,
}

/// Checks it. Also tells whether a driver calls macfence.
pub fn look() -> (Vec<Finding>, bool) {
    match has_user() {
        Ok(true) => {}
        Ok(false) => {
            let text = format!("no user {USER}");
            return (vec![Finding::absent(DRIVERS, text)], false);
        }
        Err(e) => return (vec![Finding::unknown(DRIVERS, &e)], false),
    }
    let (mut found, is_called) = match drivers() {
        Ok(drivers) => judge(&drivers),
        Err(e) => (vec![Finding::unknown(DRIVERS, &e)], false),
    };
    found.push(rights().unwrap_or_else(|e| Finding::unknown(SUDO, &e)));
    (found, is_called)
}

fn has_user() -> Result<bool> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let is_ours = |line: &str| line.split(':').next() == Some(USER);
    if passwd.lines().any(is_ours) {
        return Ok(true);
    }
    // The user may come from a directory service. Not every system has this program.
    let known = process::run("getent", &["passwd", USER], "");
    Ok(known.is_ok_and(|known| known.success()))
}

fn drivers() -> Result<Vec<Driver>> {
    let entries = match fs::read_dir(VNM) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {VNM}"))?,
    };
    let mut drivers = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {VNM}"))?.path();
        let driver = Driver {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            post: script(&path.join("post.d"))?,
            clean: script(&path.join("clean.d"))?,
        };
        drivers.push(driver);
    }
    drivers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(drivers)
}

/// Finds the file in this directory that calls macfence.
fn script(dir: &Path) -> Result<Script> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        entries => entries.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", dir.display()))?
            .path();
        let content = fs::read(&path).unwrap_or_default();
        if String::from_utf8_lossy(&content).contains("macfence") {
            let mode = path.metadata().map(|file| file.permissions().mode());
            let is_executable = mode.is_ok_and(|mode| mode & 0o111 != 0);
            return Ok(Some(IsExecutable(is_executable)));
        }
    }
    Ok(None)
}

fn judge(drivers: &[Driver]) -> (Vec<Finding>, bool) {
    let calling: Vec<_> = drivers
        .iter()
        .filter(|driver| driver.post.is_some() || driver.clean.is_some())
        .collect();
    let is_called = calling
        .iter()
        .any(|driver| driver.post == Some(IsExecutable(true)));
    if calling.is_empty() {
        let text = format!("no network driver in {VNM} calls macfence");
        return (vec![Finding::absent(DRIVERS, text)], false);
    }
    let mut found = Vec::new();
    let wrong = |driver: &Driver, dir: &str, script: Script| {
        let path = format!("{VNM}/{}/{dir}/macfence", driver.name);
        match script {
            None => Some(
                Finding::warn(DRIVERS, format!("{path} is missing"))
                    .fix("copy it to the front-end's remotes and run \"onehost sync --force\""),
            ),
            Some(IsExecutable(false)) => Some(
                Finding::fail(
                    DRIVERS,
                    format!("{path} is not executable, so OpenNebula ignores it"),
                )
                .fix("run \"chmod 755\" on the front-end's copy and \"onehost sync --force\""),
            ),
            Some(IsExecutable(true)) => None,
        }
    };
    for driver in &calling {
        found.extend(wrong(driver, "post.d", driver.post));
        found.extend(wrong(driver, "clean.d", driver.clean));
    }
    if found.is_empty() {
        let names: Vec<_> = calling.iter().map(|driver| &*driver.name).collect();
        let text = format!("network drivers that call macfence: {}", names.join(", "));
        found.push(Finding::ok(DRIVERS, text));
    }
    (found, is_called)
}

/// Checks what its user may do as root.
fn rights() -> Result<Finding> {
    let rules = fs::read_to_string(SUDOERS).unwrap_or_default();
    let libexec = env::current_exe().context("cannot find this program's own path in /proc")?;
    let libexec = libexec
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/usr"));
    let libexec = libexec.join("libexec/macfence");
    let said = process::run("sudo", &["-n", "-l", "-U", USER], "")?.checked()?;
    Ok(judge_rights(&rules, &said, &libexec.to_string_lossy()))
}

/// `rules` is the text of [`SUDOERS`]; `said` is the output of sudo about the user.
fn judge_rights(rules: &str, said: &str, libexec: &str) -> Finding {
    let aliases = rules
        .lines()
        .filter(|line| line.starts_with("Cmnd_Alias MACFENCE"));
    if aliases.clone().any(|line| line.contains("/nft")) {
        let text = format!("{SUDOERS} is from version 0.1, and lets {USER} read root's files");
        return Finding::fail(SUDO, text).fix("delete it, and install macfence again");
    }
    let mut allowed = Vec::new();
    for commands in said.split("NOPASSWD:").skip(1) {
        let words = commands.split([' ', ',', '\n', '\t']);
        allowed.extend(words.filter(|word| word.starts_with('/')));
    }
    let all = said
        .split("NOPASSWD:")
        .skip(1)
        .any(|part| part.trim_start().starts_with("ALL"));
    if allowed.iter().any(|path| path.ends_with("/sbin/macfence")) {
        let text = format!("{USER} may run macfence as root with any flag, and so any program");
        return Finding::fail(SUDO, text)
            .fix(format!("allow only what the shipped {SUDOERS} does"));
    }
    let missing: Vec<_> = ENTRY_POINTS
        .iter()
        .map(|name| format!("{libexec}/{name}"))
        .filter(|path| !all && !allowed.contains(&path.as_str()))
        .collect();
    if missing.is_empty() {
        return Finding::ok(
            SUDO,
            format!("{USER} may run macfence's entry points as root"),
        );
    }
    let text = format!(
        "{USER} may not run {} as root: hooks fail",
        missing.join(", ")
    );
    Finding::fail(SUDO, text).fix(format!(
        "install the {SUDOERS} that comes with this macfence"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn driver(name: &str, post: Option<bool>, clean: Option<bool>) -> Driver {
        Driver {
            name: name.to_owned(),
            post: post.map(IsExecutable),
            clean: clean.map(IsExecutable),
        }
    }

    #[test]
    fn a_driver_needs_both_files_and_they_must_be_executable() {
        let levels = |drivers: &[Driver]| {
            let (found, is_called) = judge(drivers);
            let levels: Vec<_> = found.iter().map(|found| found.level).collect();
            (levels, is_called)
        };
        let (yes, no) = (Some(true), Some(false));
        let other = driver("fw", None, None);
        let good = driver("bridge", yes, yes);
        assert_eq!(levels(&[]), (vec![Level::Absent], false));
        assert_eq!(
            levels(std::slice::from_ref(&other)),
            (vec![Level::Absent], false)
        );
        assert_eq!(levels(&[good, other]), (vec![Level::Ok], true));
        assert_eq!(
            levels(&[driver("fw", yes, None)]),
            (vec![Level::Warn], true)
        );
        assert_eq!(
            levels(&[driver("fw", no, no)]),
            (vec![Level::Fail, Level::Fail], false)
        );
    }

    const SAID: &str = "Matching Defaults entries for oneadmin on host:\n    env_reset\n\n\
        User oneadmin may run the following commands on host:\n    (ALL) NOPASSWD: /usr/sbin/nft\n";

    #[test]
    fn sudo_must_allow_the_entry_points_and_no_more() {
        let libexec = "/usr/libexec/macfence";
        let level = |rules: &str, said: &str| judge_rights(rules, said, libexec).level;
        let post = format!("    (root) NOPASSWD: {libexec}/driver-post");
        let both = format!("{SAID}{post}, {libexec}/driver-clean,\n        {libexec}/one-post\n");
        assert_eq!(level("", &both), Level::Ok);
        assert_eq!(
            level("", &format!("{SAID}    (ALL) NOPASSWD: ALL\n")),
            Level::Ok
        );
        assert_eq!(level("", SAID), Level::Fail);
        let one = judge_rights("", &format!("{SAID}{post}\n"), libexec);
        assert!(one.text.contains("driver-clean") && !one.text.contains("driver-post"));
        // With a password is not without.
        assert_eq!(level("", &both.replace("NOPASSWD: ", "")), Level::Fail);
        let whole = format!("{both}    (root) NOPASSWD: /usr/sbin/macfence *\n");
        assert_eq!(level("", &whole), Level::Fail);
        let old = "Cmnd_Alias MACFENCE = /usr/sbin/nft -j -f -\n";
        assert_eq!(level(old, &both), Level::Fail);
    }
}
