//! libvirt's hook for QEMU domains: a copy of the shipped script that names this program by its path.
//!
//! libvirt ends every running domain whose hook cannot be executed when it comes back. So the hook is
//! tried under a name that libvirt does not look for, the way libvirt would execute it, and again in its
//! place.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tempfile::Builder;

use super::apparmor::{self, PATIENCE, Profile};
use super::changes::Changes;
use super::{program, selinux};
use crate::commands::hook::libvirt::TRIAL;
use crate::commands::shared::print;
use crate::process;

/// Where libvirt looks for hooks: a file, and since 6.5 a directory.
pub const FILE: &str = "/etc/libvirt/hooks/qemu";
/// The directory.
pub const DIRECTORY: &str = "/etc/libvirt/hooks/qemu.d";
/// Our file there.
const IN_DIRECTORY: &str = "/etc/libvirt/hooks/qemu.d/macfence";

/// The daemons that call hooks: the modular one first, which is the one that runs where both are there.
pub const DAEMONS: [&str; 2] = ["virtqemud", "libvirtd"];

/// The first version that looks into the directory.
pub const WITH_DIRECTORY: (u32, u32) = (6, 5);

const SCRIPT: &str = include_str!("../../../share/libvirt/macfence");

/// How every version of the shipped script begins.
const BEGINNING: &str = "#!/bin/sh\n# libvirt calls this for every QEMU domain";

/// What is at a hook's path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
    Others,
}

/// Installs it.
pub fn install() -> Result<()> {
    let program = program::path()?;
    let version = version()?;
    let target = Path::new(if is_older(&version, WITH_DIRECTORY) {
        FILE
    } else {
        IN_DIRECTORY
    });
    if find(target)? == Found::Others {
        bail!(
            "{} is there and is not macfence's. It may call macfence itself, with the arguments and \
             the standard input that it gets: {} hook libvirt -- \"$@\"; it must then fail where macfence \
             does, but never when its second argument is reconnect",
            target.display(),
            program.display()
        );
    }
    let mut changes = Changes::default();
    match put(target, &program, &mut changes) {
        Ok(said) => print(&said),
        Err(e) => Err(changes.undo(e)),
    }
}

/// Puts the hook in its place. Returns what to tell the operator.
fn put(target: &Path, program: &Path, changes: &mut Changes) -> Result<String> {
    let text = script(program);
    let hooks = Path::new(FILE).parent().context("no directory")?;
    changes.directory(hooks)?;
    let mut said = try_aside(hooks, &text, program, changes)?;
    if let Some(dir) = target.parent() {
        changes.directory(dir)?;
    }
    changes.write_through(hooks, target, &text, 0o755)?;
    selinux::label(target)?;
    // A profile or a policy may name just this path.
    let confined = apparmor::enforced(&DAEMONS)?;
    for profile in &confined {
        try_under(profile, target)?;
    }
    check_selinux(target)?;
    // libvirt would call both.
    let other = Path::new(FILE);
    if target != other && find(other)? == Found::Ours {
        changes.delete(other)?;
    }
    let tried: String = confined
        .iter()
        .map(|profile| format!(", and under AppArmor's profile {}", profile.name))
        .collect();
    said += &format!("{}: installed and tried{tried}\n", target.display());
    said += &format!(
        "now run \"systemctl restart {}\": running VMs go on, and are fenced as it comes back\n",
        daemon()
    );
    Ok(said)
}

/// Tries the hook under a name that libvirt does not look for, and adds to AppArmor's profiles what it
/// needs.
fn try_aside(hooks: &Path, text: &str, program: &Path, changes: &mut Changes) -> Result<String> {
    let place = || format!("cannot write to {}", hooks.display());
    let file = Builder::new().prefix(".macfence-").tempfile_in(hooks);
    // Closed: what somebody can still write to cannot be executed.
    let trial = file.with_context(place)?.into_temp_path();
    fs::write(&trial, text).with_context(place)?;
    fs::set_permissions(&trial, Permissions::from_mode(0o755)).with_context(place)?;
    selinux::label(&trial)?;
    attempt(None, &trial).context("the hook fails, and with it libvirt would start no VM")?;
    let mut said = String::new();
    for profile in apparmor::enforced(&DAEMONS)? {
        if attempt(Some(&profile), &trial).is_err() {
            let file = profile.allow(program, changes)?;
            said += &format!(
                "{}: lets libvirt execute {}\n",
                file.display(),
                program.display()
            );
            try_under(&profile, &trial)?;
        }
    }
    check_selinux(&trial)?;
    Ok(said)
}

/// Calls a hook as libvirt does, but for nothing that changes anything.
pub fn attempt(profile: Option<&Profile>, hook: &Path) -> Result<()> {
    let args = ["macfence-install-hook", TRIAL, "begin", "-"];
    match profile {
        Some(profile) => profile.run(&hook.to_string_lossy(), &args),
        None => process::run_path(hook, &args, PATIENCE)?
            .checked()
            .map(|_| ()),
    }
}

fn try_under(profile: &Profile, hook: &Path) -> Result<()> {
    attempt(Some(profile), hook).with_context(|| {
        format!(
            "AppArmor's profile {} does not let libvirt run {}, and the profile includes nothing that would \
             allow it: see \"journalctl -k --grep DENIED\", and what forbids it in {}",
            profile.name,
            hook.display(),
            profile.file().display()
        )
    })
}

fn check_selinux(hook: &Path) -> Result<()> {
    if selinux::is_enforced() {
        selinux::check(daemon(), hook)?;
    }
    Ok(())
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
    for path in [IN_DIRECTORY, FILE].map(Path::new) {
        match find(path)? {
            Found::Ours => {
                changes.delete(path)?;
                said += &format!("{}: deleted\n", path.display());
            }
            Found::Others => said += &format!("{}: left, it is not macfence's\n", path.display()),
            Found::Nothing => {}
        }
    }
    for file in apparmor::take_back(&DAEMONS, changes)? {
        said += &format!("{}: what was added for macfence is gone\n", file.display());
    }
    // It stays where others have hooks.
    let _ = fs::remove_dir(DIRECTORY);
    if !said.contains(": deleted") {
        return Ok(said + "libvirt has no hook of macfence's\n");
    }
    said += &format!(
        "now run \"systemctl restart {}\"; fences that are there stay: macfence remove VM, or nft delete \
         table bridge macfence\n",
        daemon()
    );
    Ok(said)
}

/// The script, with the path of a program in place of its name.
fn script(program: &Path) -> String {
    let call = |name: &str| format!(" {name} hook libvirt -- ");
    SCRIPT.replace(&call("macfence"), &call(&program.to_string_lossy()))
}

/// Whose hook is at this path.
fn find(path: &Path) -> Result<Found> {
    let cannot = || format!("cannot read {}", path.display());
    match path.symlink_metadata() {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        found => found.with_context(cannot)?,
    };
    if let Ok(target) = fs::read_link(path) {
        // Older pages said to make a link.
        let is_ours = target.ends_with("macfence/libvirt/macfence");
        return Ok(if is_ours { Found::Ours } else { Found::Others });
    }
    let text = fs::read(path).with_context(cannot)?;
    Ok(whose(&String::from_utf8_lossy(&text)))
}

/// Whether the shipped script is at this path, whatever version and whatever program it names.
pub fn is_shipped(path: &Path) -> bool {
    find(path).is_ok_and(|found| found == Found::Ours)
}

fn whose(text: &str) -> Found {
    if text.starts_with(BEGINNING) {
        Found::Ours
    } else {
        Found::Others
    }
}

/// The daemon that calls hooks here: the one that runs, or else the one that is there.
fn daemon() -> &'static str {
    let mut all = DAEMONS.into_iter();
    all.clone()
        .find(|name| is_running(name))
        .or_else(|| all.rfind(|name| process::find(name).is_ok()))
        .unwrap_or("libvirtd")
}

fn is_running(name: &str) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| comm.trim_end() == name)
}

/// What version of libvirt is installed.
fn version() -> Result<String> {
    for program in ["libvirtd", "virtqemud"] {
        if process::find(program).is_ok() {
            let said = process::run(program, &["--version"], "")?.checked()?;
            return parse_version(&said);
        }
    }
    bail!("libvirt is not installed here: there is neither libvirtd nor virtqemud");
}

/// Of `libvirtd (libvirt) 9.0.0`.
fn parse_version(said: &str) -> Result<String> {
    let version = said.split_whitespace().last().unwrap_or_default();
    ensure!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "libvirt does not tell its version: {said:?}"
    );
    Ok(version.to_owned())
}

/// Whether a version is older than this one.
pub fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < than
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_the_program_by_its_path_wherever_it_calls_it() {
        let text = script(Path::new("/usr/local/sbin/macfence"));
        assert_eq!(
            text.matches("/usr/local/sbin/macfence hook libvirt -- \"$@\"")
                .count(),
            2
        );
        assert!(!text.contains(" macfence hook"), "{text}");
        assert_eq!(whose(&text), Found::Ours);
        assert_eq!(whose(SCRIPT), Found::Ours);
        // An operator's, which calls us.
        assert_eq!(
            whose("#!/bin/sh\nmacfence hook libvirt -- \"$@\"\n"),
            Found::Others
        );
    }

    #[test]
    fn hooks_are_told_apart_by_what_is_at_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(find(&at("none/at-all")).unwrap(), Found::Nothing);
        fs::write(at("ours"), SCRIPT).unwrap();
        fs::write(at("others"), "#!/bin/sh\n").unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        link("/usr/share/macfence/libvirt/macfence", "old");
        link("/opt/hook", "theirs");
        for name in ["ours", "old"] {
            assert_eq!(find(&at(name)).unwrap(), Found::Ours, "{name}");
        }
        for name in ["others", "theirs"] {
            assert_eq!(find(&at(name)).unwrap(), Found::Others, "{name}");
        }
    }

    #[test]
    fn a_version_is_what_the_daemon_says_last() {
        assert_eq!(
            parse_version("/usr/sbin/libvirtd (libvirt) 9.0.0\n").unwrap(),
            "9.0.0"
        );
        assert!(parse_version("no\n").is_err() && parse_version("").is_err());
        assert!(is_older("6.4.0", WITH_DIRECTORY) && is_older("4.5", WITH_DIRECTORY));
        assert!(!is_older("6.5.0", WITH_DIRECTORY) && !is_older("10.0.0", WITH_DIRECTORY));
    }
}
