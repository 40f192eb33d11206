//! What AppArmor lets libvirt execute, and the addition to its profile where that is too little.
//!
//! Debian's and Ubuntu's profiles let libvirtd execute what is below `/etc/libvirt/hooks/` as itself, and
//! what is in `/usr/sbin` under no profile. Nothing below `/usr/local` may be executed, nor what a link leads
//! to. A site adds to a profile by a file in `/etc/apparmor.d/local/`, which the profile includes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::changes::Changes;
use crate::process;

/// Where profiles are.
const PROFILES: &str = "/etc/apparmor.d";

/// Profiles that the kernel has, a line each: a name and a mode.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// The first and the last line of what we write into a file. Nothing else in it is ours.
const BEGIN: &str =
    "# macfence: begin. \"macfence install-hook libvirt --remove\" takes this away.";
const END: &str = "# macfence: end";

/// The same first line in a file that was not there before.
const BEGIN_NEW: &str =
    "# macfence: begin. \"macfence install-hook libvirt --remove\" takes this file away.";

/// A slow machine takes seconds to compile a profile; and a hook may wait for the lock.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A profile that the kernel enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name in the kernel.
    pub name: String,
    /// The daemon that it confines.
    daemon: String,
}

/// Whether this kernel has AppArmor, and it is not switched off.
pub fn is_on() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.trim() == "Y")
}

/// The profiles of these daemons that the kernel enforces; none where AppArmor is off.
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
        // Old profiles have the path of the program as their name.
        let daemon = name.rsplit(['/', '.']).next().unwrap_or_default();
        daemons.contains(&daemon).then(|| Profile {
            name: name.to_owned(),
            daemon: daemon.to_owned(),
        })
    };
    loaded.lines().filter_map(profile).collect()
}

impl Profile {
    /// The file that it is in.
    pub fn file(&self) -> PathBuf {
        Path::new(PROFILES).join(format!("usr.sbin.{}", self.daemon))
    }

    /// Runs a program under this profile, as a process would that is confined by it.
    ///
    /// # Errors
    /// If it cannot be run, or fails.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        // The shell confines itself first, so that the profile has a say in what it then executes. No
        // word of ours is read as a part of the script.
        const SCRIPT: &str = r#"printf 'changeprofile %s' "$1" >/proc/self/attr/current || exit 125
            shift
            exec "$@""#;
        let args = [&["-c", SCRIPT, "sh", &*self.name, program], args].concat();
        process::run_patiently("sh", &args, PATIENCE)?
            .checked()
            .map(|_| ())
    }

    /// Lets what this profile confines execute a program, under no profile unless the program has one.
    /// Returns the file with the addition.
    ///
    /// # Errors
    /// If the addition cannot be written, or the profile cannot be loaded with it.
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
        changes.write(&local, &with(before.as_deref(), &rule), 0o644)?;
        changes.before_undone(file.clone());
        load(&file)?;
        Ok(local)
    }
}

/// Takes our addition out of the profiles of these daemons. Returns the files that had one.
///
/// # Errors
/// If one cannot be read, written or loaded.
pub fn take_back(daemons: &[&str], changes: &mut Changes) -> Result<Vec<PathBuf>> {
    let mut had = Vec::new();
    for daemon in daemons {
        let local = local(daemon);
        let Some(before) = existing(&local)? else {
            continue;
        };
        if !before.contains(BEGIN) && !before.contains(BEGIN_NEW) {
            continue;
        }
        match without(&before) {
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

fn existing(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Loads a profile anew. The cache is written and not read: it does not notice that a file which the profile
/// included is gone.
///
/// # Errors
/// If it cannot be loaded.
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

/// This text with our rule at its end. `None`: there is no such file.
fn with(before: Option<&str>, rule: &str) -> String {
    let kept = before.and_then(without);
    let (begin, kept) = match kept {
        Some(kept) => (BEGIN, kept),
        None => (BEGIN_NEW, String::new()),
    };
    let end = if kept.is_empty() || kept.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{kept}{end}{begin}\n{rule}\n{END}\n")
}

/// This text without our lines; `None`: the file is there for them only.
fn without(text: &str) -> Option<String> {
    let mut kept = String::new();
    let (mut is_ours, mut is_new) = (false, false);
    for line in text.split_inclusive('\n') {
        let word = line.trim_end();
        if word == BEGIN || word == BEGIN_NEW {
            is_ours = true;
            is_new |= word == BEGIN_NEW;
        } else if is_ours {
            is_ours = word != END;
        } else {
            kept += line;
        }
    }
    (!is_new || !kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "/usr/local/sbin/macfence PUx,";

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

    #[test]
    fn what_is_added_to_a_file_can_be_taken_out_again() {
        for before in [
            "",
            "# Site-specific additions\n",
            "/opt/x Ux,\n\n/opt/y Ux,\n",
        ] {
            let added = with(Some(before), RULE);
            assert!(added.starts_with(before) && added.contains(RULE), "{added}");
            assert_eq!(without(&added).as_deref(), Some(before));
            // Again, for another program.
            let again = with(Some(&added), "/opt/macfence PUx,");
            assert!(!again.contains(RULE) && again.contains("/opt/macfence PUx,"));
            assert_eq!(without(&again).as_deref(), Some(before));
        }
    }

    #[test]
    fn a_file_that_was_made_for_the_addition_goes_with_it_unless_others_wrote_into_it() {
        let added = with(None, RULE);
        assert_eq!(without(&added), None);
        assert_eq!(with(Some(&added), RULE), added);
        let others = format!("{added}/opt/x Ux,\n");
        assert_eq!(without(&others).as_deref(), Some("/opt/x Ux,\n"));
    }
}
