//! The shipped script, and whose a hook is that is already there.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

const SCRIPT: &str = include_str!("../../../../share/libvirt/macfence");

/// How every version of the shipped script begins.
const BEGINNING: &str = "#!/bin/sh\n# libvirt calls this for every QEMU domain";

/// What is at a hook's path.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The shipped script, or a link to it.
    Ours,
    /// Somebody else's.
    Others,
}

/// The script, with the path of a program in place of its name.
pub fn script(program: &Path) -> String {
    let call = |name: &str| format!(" {name} hook libvirt -- ");
    SCRIPT.replace(&call("macfence"), &call(&program.to_string_lossy()))
}

/// Whose hook is at this path.
///
/// # Errors
/// If it cannot be read.
pub fn find(path: &Path) -> Result<Found> {
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
}
