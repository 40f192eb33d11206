//! Checks libvirt's hook: whether libvirt will call it, and whether it can run macfence.
//!
//! If AppArmor confines libvirtd, libvirtd may execute files below `/etc/libvirt/hooks/`, but neither
//! the target of a link there nor anything below `/usr/local`. If a hook cannot be executed, libvirt
//! refuses to start VMs, and ends every running VM when it is restarted.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::finding::{Finding, Level};
use crate::commands::install_hook::apparmor::{self, Profile};
use crate::commands::install_hook::libvirt::{
    DAEMONS, DRIVERS, Driver, LXC, WITH_DIRECTORY, attempt, is_older, is_shipped,
};
use crate::process;

const TOPIC: &str = "libvirt hook";

/// The command that installs the hook.
const INSTALL: &str = "run \"macfence install-hook libvirt\"";

/// What is said of a libvirt without a hook.
const NO_HOOK: &str = "does not call macfence";

/// A hook that calls macfence.
#[derive(Clone, Debug)]
struct Hook {
    driver: &'static Driver,
    path: PathBuf,
    is_link: bool,
    is_executable: bool,
    /// Why it fails when libvirt calls it. Only the shipped script is tried.
    failure: Option<String>,
}

/// The facts about the host.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// libvirt's version, if it is installed.
    libvirt: Option<String>,
    hooks: Vec<Hook>,
    /// Whether AppArmor confines libvirt; `None`: this kernel has no AppArmor, or it is off.
    is_confined: Option<bool>,
    /// Whether the configuration names libvirt's LXC driver, and the host has it.
    has_containers: bool,
}

/// Checks the hook. Also tells whether libvirt calls macfence. `connect` names the libvirts that are asked
/// for VMs; `None`: the configuration is wrong, so that every hook fails, whatever else is wrong with it.
pub fn look(connect: Option<&Vec<String>>) -> (Vec<Finding>, bool) {
    let is_right = connect.is_some();
    match facts(connect.map_or(&[], Vec::as_slice), is_right) {
        Ok(facts) => {
            let (mut found, is_called) = judge(&facts);
            for found in found
                .iter_mut()
                .filter(|found| !is_right && found.level == Level::Ok)
            {
                *found = super::unchecked(TOPIC);
            }
            (found, is_called)
        }
        Err(e) => (vec![Finding::unknown(TOPIC, &e)], false),
    }
}

/// Proposes the hook where libvirt has none, for hosts on which nothing else fences VMs.
pub fn propose(found: &mut [Finding]) {
    for found in found {
        if found.topic == TOPIC && found.level == Level::Absent && found.text.ends_with(NO_HOOK) {
            found.fix = Some(INSTALL.to_owned());
        }
    }
}

/// `tries`: whether to try hooks.
fn facts(connect: &[String], tries: bool) -> Result<Facts> {
    let Ok(said) = process::run("virsh", &["--version"], "") else {
        return Ok(Facts::default());
    };
    let is_confined = match apparmor::enforced(&DAEMONS) {
        Ok(_) if !apparmor::is_on() => None,
        Ok(profiles) => Some(!profiles.is_empty()),
        // If the profiles cannot be listed, assume the worse.
        Err(_) => Some(true),
    };
    let mut hooks = hooks()?;
    for hook in hooks.iter_mut().filter(|_| tries) {
        hook.failure = failure(hook);
    }
    let has_containers = connect.iter().any(|uri| uri.starts_with("lxc:")) && LXC.is_there();
    Ok(Facts {
        libvirt: Some(said.checked()?.trim().to_owned()),
        hooks,
        is_confined,
        has_containers,
    })
}

fn hooks() -> Result<Vec<Hook>> {
    let mut hooks = Vec::new();
    for driver in DRIVERS {
        let cannot = || format!("cannot read {}", driver.directory);
        let mut paths = vec![PathBuf::from(driver.file)];
        match fs::read_dir(driver.directory) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry.with_context(cannot)?.path());
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(cannot),
        }
        paths.sort();
        hooks.extend(paths.into_iter().filter_map(|path| hook(driver, path)));
    }
    Ok(hooks)
}

/// The hook at this path, if it is one of macfence's.
fn hook(driver: &'static Driver, path: PathBuf) -> Option<Hook> {
    let is_link = path.symlink_metadata().ok()?.is_symlink();
    let target = fs::read_link(&path).unwrap_or_default();
    let names_us = |path: &Path| path.to_string_lossy().contains("macfence");
    let content = fs::read(&path).unwrap_or_default();
    let calls_us = String::from_utf8_lossy(&content).contains("macfence");
    // A broken link has no content, so its name and target count too.
    if !calls_us && !names_us(&target) && path.file_name() != Some(OsStr::new("macfence")) {
        return None;
    }
    let mode = path.metadata().map(|file| file.permissions().mode());
    Some(Hook {
        driver,
        is_link,
        is_executable: mode.is_ok_and(|mode| mode & 0o111 != 0),
        failure: None,
        path,
    })
}

/// Calls the shipped script as libvirt would, and returns why it fails. Other people's scripts are not
/// called, because their effects are unknown.
fn failure(hook: &Hook) -> Option<String> {
    if hook.is_link || !hook.is_executable || !is_shipped(&hook.path) {
        return None;
    }
    if let Err(e) = attempt(hook.driver, None, &hook.path) {
        return Some(format!("{} fails: {e:#}", hook.path.display()));
    }
    let refused = |profile: &Profile| attempt(hook.driver, Some(profile), &hook.path).is_err();
    let profiles = hook.driver.profiles().unwrap_or_default();
    profiles.iter().find(|profile| refused(profile)).map(|profile| {
        format!(
            "AppArmor's profile {} does not let libvirt execute {} or what it runs, so that libvirt starts no \
             VM, and ends all that run when it is restarted",
            profile.name,
            hook.path.display()
        )
    })
}

fn judge(facts: &Facts) -> (Vec<Finding>, bool) {
    let Some(version) = &facts.libvirt else {
        let text = "libvirt is not installed, or virsh is missing";
        return (vec![Finding::absent(TOPIC, text)], false);
    };
    if facts.hooks.is_empty() {
        let text = format!("libvirt {version} {NO_HOOK}");
        return (vec![Finding::absent(TOPIC, text)], false);
    }
    let mut found = Vec::new();
    let mut is_called = false;
    for hook in &facts.hooks {
        match wrong(hook, facts, version) {
            Some(wrong) => {
                // The hook works here, and may fail only elsewhere.
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
    let is_for_containers = |hook: &Hook| *hook.driver == LXC;
    if facts.has_containers && !facts.hooks.iter().any(is_for_containers) {
        let text = "libvirt's LXC driver does not call macfence, so that containers start unfenced";
        found.push(Finding::warn(TOPIC, text).fix(INSTALL));
    }
    (found, is_called)
}

/// Finds what is wrong with a hook.
fn wrong(hook: &Hook, facts: &Facts, version: &str) -> Option<Finding> {
    let path = hook.path.display();
    if hook.is_link {
        return Some(match facts.is_confined {
            Some(true) => Finding::fail(
                TOPIC,
                format!(
                    "{path} is a link: AppArmor does not let libvirt execute its target, so libvirt \
                     starts no VM, and ends all that run when it is restarted"
                ),
            ),
            _ => Finding::warn(
                TOPIC,
                format!("{path} is a link, which libvirt cannot execute if AppArmor confines it"),
            ),
        }
        .fix(INSTALL));
    }
    if !hook.is_executable {
        let text = format!("{path} is not executable, so libvirt ignores it");
        return Some(Finding::fail(TOPIC, text).fix(format!("run \"chmod 755 {path}\"")));
    }
    let directory = hook.driver.directory;
    if hook.path.starts_with(directory) && is_older(version, WITH_DIRECTORY) {
        let text = format!("libvirt {version} does not look into {directory}");
        let fix = format!("delete {path} and {INSTALL}");
        return Some(Finding::fail(TOPIC, text).fix(fix));
    }
    if let Some(failure) = &hook.failure {
        return Some(Finding::fail(TOPIC, failure).fix(INSTALL));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(path: &str, is_link: bool, is_executable: bool) -> Facts {
        Facts {
            libvirt: Some("9.0.0".to_owned()),
            hooks: vec![Hook {
                driver: DRIVERS[0],
                path: path.into(),
                is_link,
                is_executable,
                failure: None,
            }],
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
        assert_eq!(fix, INSTALL);
    }

    #[test]
    fn a_hook_that_fails_when_it_is_tried_is_reported() {
        let mut failing = facts(DRIVERS[0].file, false, true);
        failing.hooks[0].failure = Some("no".to_owned());
        assert_eq!(level(&failing), Level::Fail);
    }

    #[test]
    fn containers_that_the_configuration_names_need_a_hook_of_their_own() {
        let mut facts = facts("/etc/libvirt/hooks/qemu.d/macfence", false, true);
        facts.has_containers = true;
        let (found, is_called) = judge(&facts);
        let levels: Vec<_> = found.iter().map(|found| found.level).collect();
        assert!(is_called && levels == [Level::Ok, Level::Warn], "{found:?}");
        assert_eq!(found[1].fix.as_deref(), Some(INSTALL));
        let mut hook = facts.hooks[0].clone();
        hook.driver = &LXC;
        hook.path = LXC.in_directory.into();
        facts.hooks.push(hook);
        assert_eq!(level(&facts), Level::Ok);
    }

    #[test]
    fn an_old_libvirt_knows_only_the_file() {
        let mut old = facts("/etc/libvirt/hooks/qemu.d/macfence", false, true);
        old.libvirt = Some("6.4.0".to_owned());
        assert_eq!(level(&old), Level::Fail);
        old.hooks[0].path = DRIVERS[0].file.into();
        assert_eq!(level(&old), Level::Ok);
        old.hooks.clear();
        assert_eq!(level(&old), Level::Absent);
        let mut found = judge(&old).0;
        propose(&mut found);
        assert_eq!(found[0].fix.as_deref(), Some(INSTALL));
        old.libvirt = None;
        assert_eq!(level(&old), Level::Absent);
        let mut found = judge(&old).0;
        propose(&mut found);
        assert_eq!(found[0].fix, None);
    }
}
