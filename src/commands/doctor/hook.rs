//! libvirt's hook: whether libvirt will call it, and can run what it names.
//!
//! Where AppArmor confines libvirtd, it may execute files below `/etc/libvirt/hooks/`, but neither what a
//! link there leads to nor anything below `/usr/local`. A hook that cannot be executed makes libvirt
//! refuse new VMs, and end every running one when it comes back.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::finding::{Finding, Level};
use crate::process;

const TOPIC: &str = "libvirt hook";

/// Where libvirt looks for hooks: a file, and since 6.5 a directory.
const FILE: &str = "/etc/libvirt/hooks/qemu";
const DIRECTORY: &str = "/etc/libvirt/hooks/qemu.d";

/// The daemons that call hooks, as AppArmor names their profiles.
const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];

/// A hook that calls macfence.
#[derive(Clone, Debug)]
struct Hook {
    path: PathBuf,
    is_link: bool,
    is_executable: bool,
}

/// What the host says.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// libvirt's version, if it is installed.
    libvirt: Option<String>,
    hooks: Vec<Hook>,
    /// Whether AppArmor confines libvirt; `None`: this kernel has none, or it is off.
    is_confined: Option<bool>,
    /// Whether the operator lets libvirt execute things below `/usr/local`.
    is_local_allowed: bool,
    /// Where macfence is.
    program: PathBuf,
}

/// Looks at it. Also tells whether libvirt calls macfence.
pub fn look() -> (Vec<Finding>, bool) {
    match facts() {
        Ok(facts) => judge(&facts),
        Err(e) => (vec![Finding::unknown(TOPIC, &e)], false),
    }
}

fn facts() -> Result<Facts> {
    let Ok(said) = process::run("virsh", &["--version"], "") else {
        return Ok(Facts::default());
    };
    Ok(Facts {
        libvirt: Some(said.checked()?.trim().to_owned()),
        hooks: hooks()?,
        is_confined: is_confined(),
        is_local_allowed: is_local_allowed(),
        program: env::current_exe().context("cannot tell where this program is")?,
    })
}

fn hooks() -> Result<Vec<Hook>> {
    let mut paths = vec![PathBuf::from(FILE)];
    match fs::read_dir(DIRECTORY) {
        Ok(entries) => {
            for entry in entries {
                paths.push(
                    entry
                        .with_context(|| format!("cannot read {DIRECTORY}"))?
                        .path(),
                );
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot read {DIRECTORY}")),
    }
    paths.sort();
    Ok(paths.into_iter().filter_map(hook).collect())
}

/// The hook at this path, if it is one of macfence's.
fn hook(path: PathBuf) -> Option<Hook> {
    let is_link = path.symlink_metadata().ok()?.is_symlink();
    let target = fs::read_link(&path).unwrap_or_default();
    let names_us = |path: &Path| path.to_string_lossy().contains("macfence");
    let content = fs::read(&path).unwrap_or_default();
    let calls_us = String::from_utf8_lossy(&content).contains("macfence");
    // A link that leads nowhere has no content.
    if !calls_us && !names_us(&target) && path.file_name() != Some(OsStr::new("macfence")) {
        return None;
    }
    let mode = path.metadata().map(|file| file.permissions().mode());
    Some(Hook {
        is_link,
        is_executable: mode.is_ok_and(|mode| mode & 0o111 != 0),
        path,
    })
}

/// Whether AppArmor confines one of libvirt's daemons.
fn is_confined() -> Option<bool> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").ok()?;
    if enabled.trim() != "Y" {
        return None;
    }
    // Where the profiles cannot be listed, the worse is assumed.
    let profiles = fs::read_to_string("/sys/kernel/security/apparmor/profiles").ok();
    Some(profiles.is_none_or(|profiles| enforces_one(&profiles)))
}

/// Whether one of these profiles, as the kernel lists them, is of a daemon of libvirt's and enforced.
fn enforces_one(profiles: &str) -> bool {
    profiles.lines().any(|line| {
        let (name, mode) = line.rsplit_once(' ').unwrap_or_default();
        let program = name.rsplit(['/', '.']).next().unwrap_or_default();
        DAEMONS.contains(&program) && mode == "(enforce)"
    })
}

fn is_local_allowed() -> bool {
    DAEMONS.iter().any(|daemon| {
        let rules = fs::read_to_string(format!("/etc/apparmor.d/local/usr.sbin.{daemon}"));
        let rules = rules.unwrap_or_default();
        let mut rules = rules
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        rules.any(|line| line.contains("/usr/local/"))
    })
}

fn judge(facts: &Facts) -> (Vec<Finding>, bool) {
    let Some(version) = &facts.libvirt else {
        let text = "libvirt is not installed, or at least virsh is not";
        return (vec![Finding::absent(TOPIC, text)], false);
    };
    if facts.hooks.is_empty() {
        let text = format!("libvirt {version} does not call macfence");
        return (vec![Finding::absent(TOPIC, text)], false);
    }
    let mut found = Vec::new();
    let mut is_called = false;
    for hook in &facts.hooks {
        match wrong(hook, facts, version) {
            Some(wrong) => {
                // Something that only may fail elsewhere.
                is_called |= wrong.level == Level::Warn;
                found.push(wrong);
            }
            None => is_called = true,
        }
    }
    if is_called && found.is_empty() {
        let paths: Vec<_> = facts
            .hooks
            .iter()
            .map(|hook| hook.path.display().to_string())
            .collect();
        let apparmor = match facts.is_confined {
            None => "no AppArmor",
            Some(false) => "not confined by AppArmor",
            Some(true) => "AppArmor lets libvirt execute it",
        };
        let text = format!(
            "{}: a file that can be executed; {apparmor}",
            paths.join(", ")
        );
        found.push(Finding::ok(TOPIC, text));
    }
    (found, is_called)
}

/// What is wrong with a hook.
fn wrong(hook: &Hook, facts: &Facts, version: &str) -> Option<Finding> {
    let path = hook.path.display();
    let share = Path::new("share/macfence/libvirt/macfence");
    let prefix = facts.program.parent().and_then(Path::parent);
    let shipped = prefix.unwrap_or(Path::new("/usr")).join(share);
    if hook.is_link {
        let copy = format!(
            "run \"cp --remove-destination {} {path}\"",
            shipped.display()
        );
        return Some(match facts.is_confined {
            Some(true) => Finding::fail(
                TOPIC,
                format!(
                    "{path} is a link: AppArmor does not let libvirt execute what it leads to, so that \
                     libvirt starts no VM, and ends all that run when it is restarted"
                ),
            ),
            _ => Finding::warn(
                TOPIC,
                format!("{path} is a link, which libvirt cannot execute where AppArmor confines it"),
            ),
        }
        .fix(copy));
    }
    if !hook.is_executable {
        let text = format!("{path} cannot be executed: libvirt passes over it");
        return Some(Finding::fail(TOPIC, text).fix(format!("run \"chmod 755 {path}\"")));
    }
    if hook.path.starts_with(DIRECTORY) && is_older(version, (6, 5)) {
        let text = format!("libvirt {version} does not look into {DIRECTORY}");
        let fix = format!("run \"mv {path} {FILE}\" and restart libvirtd");
        return Some(Finding::fail(TOPIC, text).fix(fix));
    }
    if facts.is_confined == Some(true)
        && facts.program.starts_with("/usr/local")
        && !facts.is_local_allowed
    {
        let text = format!(
            "AppArmor does not let libvirt execute {}, nor anything else below /usr/local",
            facts.program.display()
        );
        let fix = "install the package, or run \"make install PREFIX=/usr\"";
        return Some(Finding::fail(TOPIC, text).fix(fix));
    }
    None
}

fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < than
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(path: &str, is_link: bool, is_executable: bool) -> Facts {
        Facts {
            libvirt: Some("9.0.0".to_owned()),
            hooks: vec![Hook {
                path: path.into(),
                is_link,
                is_executable,
            }],
            program: "/usr/sbin/macfence".into(),
            ..Facts::default()
        }
    }

    fn level(facts: &Facts) -> Level {
        let (found, is_called) = judge(facts);
        assert_eq!(found.len(), 1, "{found:?}");
        let works = matches!(found[0].level, Level::Ok | Level::Warn);
        assert_eq!(is_called, works);
        found[0].level
    }

    #[test]
    fn a_hook_must_be_a_copy_that_can_be_executed() {
        let path = "/etc/libvirt/hooks/qemu.d/macfence";
        assert_eq!(level(&facts(path, false, true)), Level::Ok);
        assert_eq!(level(&facts(path, false, false)), Level::Fail);
        let mut link = facts(path, true, true);
        assert_eq!(level(&link), Level::Warn);
        link.is_confined = Some(false);
        assert_eq!(level(&link), Level::Warn);
        link.is_confined = Some(true);
        assert_eq!(level(&link), Level::Fail);
        let fix = judge(&link).0.remove(0).fix.unwrap();
        assert_eq!(
            fix,
            format!("run \"cp --remove-destination /usr/share/macfence/libvirt/macfence {path}\"")
        );
    }

    #[test]
    fn apparmor_lets_libvirt_execute_nothing_below_usr_local() {
        let mut local = facts(FILE, false, true);
        local.program = "/usr/local/sbin/macfence".into();
        assert_eq!(level(&local), Level::Ok);
        local.is_confined = Some(true);
        assert_eq!(level(&local), Level::Fail);
        local.is_local_allowed = true;
        assert_eq!(level(&local), Level::Ok);
    }

    #[test]
    fn an_old_libvirt_knows_only_the_file() {
        let mut old = facts("/etc/libvirt/hooks/qemu.d/macfence", false, true);
        old.libvirt = Some("6.4.0".to_owned());
        assert_eq!(level(&old), Level::Fail);
        old.hooks[0].path = FILE.into();
        assert_eq!(level(&old), Level::Ok);
        old.hooks.clear();
        assert_eq!(level(&old), Level::Absent);
        old.libvirt = None;
        assert_eq!(level(&old), Level::Absent);
    }

    #[test]
    fn profiles_are_read_as_the_kernel_lists_them() {
        assert!(enforces_one("man_filter (enforce)\nlibvirtd (enforce)\n"));
        assert!(enforces_one("/usr/sbin/virtqemud (enforce)\n"));
        for other in [
            "libvirtd (complain)\n",
            "libvirtd//qemu_bridge_helper (enforce)\n",
            "",
        ] {
            assert!(!enforces_one(other), "{other}");
        }
    }
}
