//! libvirt's hook for QEMU domains and, where that driver is there, LXC containers: a copy of the shipped
//! script that names this program by its path.
//!
//! libvirt ends every running domain whose hook cannot be executed when it comes back. So the hook is
//! tried under a name that libvirt does not look for, the way libvirt would execute it, and again in its
//! place.

mod driver;
mod script;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tempfile::Builder;

pub use self::driver::{DRIVERS, Driver, LXC, WITH_DIRECTORY, is_older};
pub use self::script::is_shipped;
use self::script::{Found, find, script};
use super::apparmor::{self, PATIENCE, Profile};
use super::changes::Changes;
use super::{program, selinux};
use crate::commands::hook::libvirt::TRIAL;
use crate::commands::shared::print;
use crate::process;

/// The daemons that call hooks.
pub const DAEMONS: [&str; 3] = ["virtqemud", "virtlxcd", "libvirtd"];

/// Where all hooks are.
const HOOKS: &str = "/etc/libvirt/hooks";

/// The name of the domain that a hook is tried with.
const TRIED_AS: &str = "macfence-install-hook";

/// Installs it.
pub fn install() -> Result<()> {
    let program = program::path()?;
    let version = driver::version()?;
    let mut drivers = DRIVERS.to_vec();
    drivers.retain(|driver| driver.is_there());
    for target in drivers.iter().map(|driver| driver.target(&version)) {
        if find(target)? == Found::Others {
            bail!(
                "{} is there and is not macfence's. It may call macfence itself, with the arguments and \
                 the standard input that it gets: {} hook libvirt -- \"$@\"; it must then fail where \
                 macfence does, but never when its second argument is reconnect",
                target.display(),
                program.display()
            );
        }
    }
    let mut changes = Changes::default();
    match put(&drivers, &version, &program, &mut changes) {
        Ok(said) => print(&said),
        Err(e) => Err(changes.undo(e)),
    }
}

/// Puts the hooks of these drivers in their places. Returns what to tell the operator.
fn put(
    drivers: &[&'static Driver],
    version: &str,
    program: &Path,
    changes: &mut Changes,
) -> Result<String> {
    let text = script(program);
    changes.directory(Path::new(HOOKS))?;
    let mut said = try_aside(drivers, &text, program, changes)?;
    for driver in drivers {
        said += &put_in_place(driver, driver.target(version), &text, changes)?;
    }
    said += &format!(
        "now run \"systemctl restart {}\": running VMs and containers go on, and are fenced as it \
         comes back\n",
        daemons(drivers)
    );
    Ok(said)
}

fn put_in_place(
    driver: &Driver,
    target: &Path,
    text: &str,
    changes: &mut Changes,
) -> Result<String> {
    if let Some(dir) = target.parent() {
        changes.directory(dir)?;
    }
    changes.write_through(Path::new(HOOKS), target, text, 0o755)?;
    selinux::label(target)?;
    // A profile or a policy may name just this path.
    let confined = driver.profiles()?;
    for profile in &confined {
        try_under(driver, profile, target)?;
    }
    let unchecked = check_selinux(driver, target)?;
    // libvirt would call both.
    let other = Path::new(driver.file);
    if target != other && find(other)? == Found::Ours {
        changes.delete(other)?;
    }
    let tried: String = confined
        .iter()
        .map(|profile| format!(", and under AppArmor's profile {}", profile.name))
        .collect();
    Ok(format!(
        "{}: installed and tried{tried}{unchecked}\n",
        target.display()
    ))
}

/// Tries the hook under a name that libvirt does not look for, and adds to AppArmor's profiles what it
/// needs.
fn try_aside(
    drivers: &[&'static Driver],
    text: &str,
    program: &Path,
    changes: &mut Changes,
) -> Result<String> {
    let place = || format!("cannot write to {HOOKS}");
    let file = Builder::new().prefix(".macfence-").tempfile_in(HOOKS);
    // Closed: what somebody can still write to cannot be executed.
    let trial = file.with_context(place)?.into_temp_path();
    fs::write(&trial, text).with_context(place)?;
    fs::set_permissions(&trial, Permissions::from_mode(0o755)).with_context(place)?;
    selinux::label(&trial)?;
    let mut said = String::new();
    for driver in drivers {
        attempt(driver, None, &trial)
            .context("the hook fails, and with it libvirt would start no VM")?;
        for profile in driver.profiles()? {
            if attempt(driver, Some(&profile), &trial).is_err() {
                let file = profile.allow(program, changes)?;
                said += &format!(
                    "{}: lets libvirt execute {}\n",
                    file.display(),
                    program.display()
                );
                try_under(driver, &profile, &trial)?;
            }
        }
        check_selinux(driver, &trial)?;
    }
    Ok(said)
}

/// Calls a hook as this driver does, but for nothing that changes anything.
pub fn attempt(driver: &Driver, profile: Option<&Profile>, hook: &Path) -> Result<()> {
    let args = [TRIED_AS, TRIAL, "begin", "-"];
    match profile {
        Some(profile) => profile.run(&hook.to_string_lossy(), &args, driver.domain),
        None => process::run_path(hook, &args, driver.domain, PATIENCE)?
            .checked()
            .map(|_| ()),
    }
}

fn try_under(driver: &Driver, profile: &Profile, hook: &Path) -> Result<()> {
    attempt(driver, Some(profile), hook).with_context(|| {
        format!(
            "AppArmor's profile {} does not let libvirt run {}, and the profile includes nothing that would \
             allow it: see \"journalctl -k --grep DENIED\", and what forbids it in {}",
            profile.name,
            hook.display(),
            profile.file().display()
        )
    })
}

/// Makes sure that SELinux lets the driver's daemon execute a hook. Returns what to add where nobody can
/// tell: most hosts with the driver of containers never start its daemon.
fn check_selinux(driver: &Driver, hook: &Path) -> Result<String> {
    if !selinux::is_enforced() {
        return Ok(String::new());
    }
    let daemon = driver.daemon();
    if *driver == LXC && !driver.runs() {
        return Ok(format!(
            "; whether SELinux lets {daemon} execute it is unknown, as that does not run: run this \
             again once it does"
        ));
    }
    selinux::check(daemon, hook)?;
    Ok(String::new())
}

/// The daemons to restart, as words.
fn daemons(drivers: &[&Driver]) -> String {
    let daemons: BTreeSet<_> = drivers.iter().map(|driver| driver.daemon()).collect();
    Vec::from_iter(daemons).join(" ")
}

/// Removes it.
pub fn remove() -> Result<()> {
    let mut changes = Changes::default();
    match take_away(&mut changes) {
        Ok(said) => print(&said),
        Err(e) => Err(changes.undo(e)),
    }
}

fn take_away(changes: &mut Changes) -> Result<String> {
    let mut said = String::new();
    let mut had = Vec::new();
    for driver in DRIVERS {
        for path in [driver.in_directory, driver.file].map(Path::new) {
            match find(path)? {
                Found::Ours => {
                    changes.delete(path)?;
                    said += &format!("{}: deleted\n", path.display());
                    had.push(driver);
                }
                Found::Others => {
                    said += &format!("{}: left, it is not macfence's\n", path.display());
                }
                Found::Nothing => {}
            }
        }
    }
    for file in apparmor::take_back(&DAEMONS, changes)? {
        said += &format!("{}: what was added for macfence is gone\n", file.display());
    }
    for driver in DRIVERS {
        // It stays where others have hooks.
        let _ = fs::remove_dir(driver.directory);
    }
    if had.is_empty() {
        return Ok(said + "libvirt has no hook of macfence's\n");
    }
    said += &format!(
        "now run \"systemctl restart {}\"; fences stay; to delete them all: nft delete table bridge macfence\n",
        daemons(&had)
    );
    Ok(said)
}
