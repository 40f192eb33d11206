//! Finds the path of this program for a hook. A name alone would not do: the caller's `PATH` may lead to
//! another program.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Returns this program's path.
///
/// # Errors
/// If the path has characters that a script or a profile would misread, or if users other than root can
/// replace the program, which a hook runs as root.
pub fn path() -> Result<PathBuf> {
    let path = env::current_exe().context("cannot tell where this program is (is /proc there?)")?;
    check_name(&path)?;
    for part in path.ancestors() {
        let found =
            fs::metadata(part).with_context(|| format!("cannot read {}", part.display()))?;
        ensure!(
            is_roots(found.uid(), found.mode()),
            "others than root can write to {}: install macfence where only root can, because a hook \
             runs it as root",
            part.display()
        );
    }
    Ok(path)
}

fn check_name(path: &Path) -> Result<()> {
    let name = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    ensure!(
        name.chars().all(is_plain),
        "{name:?} cannot be written into a hook: install macfence below /usr or /usr/local"
    );
    Ok(())
}

/// Tells whether only root can replace a file with this owner and mode, or the files in such a directory.
fn is_roots(owner: u32, mode: u32) -> bool {
    let is_sticky = mode & 0o1000 != 0;
    owner == 0 && (mode & 0o022 == 0 || is_sticky)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_names_only_what_is_roots_by_a_plain_path() {
        assert!(is_roots(0, 0o100_755) && is_roots(0, 0o041_777));
        assert!(!is_roots(0, 0o040_775) && !is_roots(1000, 0o100_755));
        check_name(Path::new("/usr/local/sbin/macfence")).unwrap();
        for odd in [
            "/opt/a b/macfence",
            "/opt/\"/macfence",
            "/opt/{a,b}",
            "/opt/*",
        ] {
            let error = check_name(Path::new(odd)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{odd:?} cannot")), "{error}");
        }
    }
}
