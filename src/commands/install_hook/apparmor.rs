//! Reads what AppArmor lets libvirt execute, and adds to its profile if that is not enough.
//!
//! Debian's and Ubuntu's profiles let libvirtd execute files below `/etc/libvirt/hooks/` under its own
//! profile, and files in `/usr/sbin` without a profile. They allow no files below `/usr/local`, and the
//! target of a link must be allowed too. A site adds to a profile with a file in `/etc/apparmor.d/local/`,
//! which the profile includes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::changes::Changes;
use super::marks::{Marks, existing};
use crate::process;

/// The directory of the profiles.
const PROFILES: &str = "/etc/apparmor.d";

/// The profiles in the kernel. Each line has a name and a mode.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// The lines around what we write into a file.
const MARKS: Marks = Marks("libvirt");

/// How long loading a profile may take. A slow machine needs seconds to compile one.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A profile that the kernel enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name in the kernel.
    pub name: String,
    /// The daemon that it confines.
    daemon: String,
}

/// Tells whether this kernel has AppArmor, and it is switched on.
pub fn is_on() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.trim() == "Y")
}

/// Returns the profiles of these daemons that the kernel enforces; none if AppArmor is off.
///
/// # Errors
/// If AppArmor is on and its profiles cannot be read.
pub fn enforced(daemons: &[&str]) -> Result<Vec<Profile>> {
    if !is_on() {
        return Ok(Vec::new());
    }
    let loaded = fs::read_to_string(LOADED)
        .with_context(|| format!("cannot tell what AppArmor allows: {LOADED}"))?;
    Ok(parse(&loaded, daemons))
}

fn parse(loaded: &str, daemons: &[&str]) -> Vec<Profile> {
    let profile = |line: &str| {
        let name = line.strip_suffix(" (enforce)")?;
        // Old profiles are named after the path of the program.
        let daemon = name.rsplit(['/', '.']).next().unwrap_or_default();
        daemons.contains(&daemon).then(|| Profile {
            name: name.to_owned(),
            daemon: daemon.to_owned(),
        })
    };
    loaded.lines().filter_map(profile).collect()
}

impl Profile {
    /// Its file.
    pub fn file(&self) -> PathBuf {
        Path::new(PROFILES).join(format!("usr.sbin.{}", self.daemon))
    }

    /// Runs a program under this profile, as a confined process would. The program reads `input` from a pipe,
    /// as libvirt's hooks do.
    ///
    /// # Errors
    /// If the program cannot be run, or fails.
    pub fn run(&self, program: &str, args: &[&str], input: &str) -> Result<()> {
        // The shell confines itself first, so that the profile decides what it may execute next. Our words
        // are arguments and never part of the script.
        const SCRIPT: &str = r#"printf 'changeprofile %s' "$1" >/proc/self/attr/current || exit 125
            printf '%s' "$2" | { shift 2; exec "$@"; }"#;
        let args = [&["-c", SCRIPT, "sh", &*self.name, input, program], args].concat();
        process::run_patiently("sh", &args, PATIENCE)?
            .checked()
            .map(|_| ())
    }

    /// Lets processes under this profile execute a program, without a profile unless the program has its
    /// own. Returns the file that it added this to.
    ///
    /// # Errors
    /// If the file cannot be written, or the profile cannot be loaded afterwards.
    pub fn allow(&self, program: &Path, changes: &mut Changes) -> Result<PathBuf> {
        let file = self.file();
        ensure!(
            file.exists(),
            "AppArmor enforces the profile {}, but {} is missing, so nothing can be added to it",
            self.name,
            file.display()
        );
        let local = local(&self.daemon);
        let before = existing(&local)?;
        let rule = format!("{} PUx,", program.display());
        let added = MARKS.with(&local, before.as_deref(), &rule)?;
        changes.write(&local, &added, 0o644)?;
        changes.before_undone(file.clone());
        load(&file)?;
        Ok(local)
    }
}

/// Removes our additions to the profiles of these daemons. Returns the files that had one.
///
/// # Errors
/// If a file cannot be read or written, or a profile cannot be loaded.
pub fn take_back(daemons: &[&str], changes: &mut Changes) -> Result<Vec<PathBuf>> {
    let mut had = Vec::new();
    for daemon in daemons {
        let local = local(daemon);
        let Some(before) = existing(&local)? else {
            continue;
        };
        if !MARKS.are_in(&before) {
            continue;
        }
        match MARKS.without(&local, &before)? {
            Some(rest) => changes.write(&local, &rest, 0o644)?,
            None => changes.delete(&local)?,
        }
        let file = Path::new(PROFILES).join(format!("usr.sbin.{daemon}"));
        if !parse(&fs::read_to_string(LOADED).unwrap_or_default(), &[daemon]).is_empty() {
            changes.before_undone(file.clone());
            load(&file)?;
        }
        had.push(local);
    }
    Ok(had)
}

fn local(daemon: &str) -> PathBuf {
    Path::new(PROFILES).join(format!("local/usr.sbin.{daemon}"))
}

/// Loads a profile again. Does not use the cache, which does not notice that an included file is gone.
///
/// # Errors
/// If the profile cannot be loaded.
pub fn load(profile: &Path) -> Result<()> {
    let path = profile.to_string_lossy();
    let args = ["-r", "-T", "-W", &path];
    let loaded = process::run_patiently("apparmor_parser", &args, PATIENCE);
    loaded
        .map_err(anyhow::Error::from)
        .and_then(|ended| ended.checked())
        .map(|_| ())
        .with_context(|| format!("cannot load the AppArmor profile {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_as_the_kernel_lists_them() {
        let loaded = "man_filter (enforce)\nlibvirtd (enforce)\n/usr/sbin/virtqemud (enforce)\n\
            libvirtd//qemu_bridge_helper (enforce)\nvirtlogd (complain)\n";
        let daemons = ["libvirtd", "virtqemud", "virtlogd"];
        let found = parse(loaded, &daemons);
        let names: Vec<_> = found.iter().map(|profile| &*profile.name).collect();
        assert_eq!(names, ["libvirtd", "/usr/sbin/virtqemud"]);
        assert_eq!(
            found[1].file(),
            Path::new("/etc/apparmor.d/usr.sbin.virtqemud")
        );
        assert_eq!(parse("libvirtd (complain)\n", &daemons), []);
    }
}
