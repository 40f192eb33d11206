//! A hook for Xen's vif scripts. They read it as a part of themselves, for every port of a domain, and a
//! domain whose script fails is not started.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::commands::shared::print;
use crate::process;

/// The hook, as it is shipped.
const HOOK: &str = include_str!("../../../share/xen/macfence.hook");

/// Where Xen has its scripts: they name this folder themselves.
const SCRIPTS: &str = "/etc/xen/scripts";

/// The script that every vif script of Xen's begins with, and the words by which the hooks are run.
const COMMON: &str = "xen-hotplug-common.sh";
const CALL: &str = "call_hooks()";

/// Reads a hook as they do, for a port of domain 0, which has none. They look for programs there.
const TRY: &str = "\
    PATH=/usr/bin:/usr/sbin:/sbin:/bin; ip() { :; }; fatal() { echo \"$*\" >&2; exit 1; }; \
    command=online dev=vif0.0 XENBUS_PATH=/local/domain/0/backend/vif/0/0; set -e; . \"$1\"";

/// Installs it.
///
/// # Errors
/// If Xen's scripts would not read it, or it would fail: no domain would start any more.
pub fn install() -> Result<()> {
    let common = Path::new(SCRIPTS).join(COMMON);
    let text = match fs::read_to_string(&common) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!(
                "{} is missing: are Xen's tools installed?",
                common.display()
            )
        }
        text => text.with_context(|| format!("cannot read {}", common.display()))?,
    };
    ensure!(
        text.contains(CALL),
        "{} runs no hooks: this Xen is too old",
        common.display()
    );
    let dir = dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (hook, unfinished) = (hook(), dir.join(".macfence.new"));
    let installed = write(&unfinished)
        .and_then(|()| try_out(&unfinished))
        .and_then(|()| {
            fs::rename(&unfinished, &hook)
                .with_context(|| format!("cannot create {}", hook.display()))
        });
    if installed.is_err() {
        let _ = fs::remove_file(&unfinished);
        // Goes only if it is empty: as it was before.
        let _ = fs::remove_dir(&dir);
    }
    installed?;
    print(&format!(
        "installed {}: Xen's scripts fence every domain from now on\n\
         domains that run already: macfence sync\n",
        hook.display()
    ))
}

/// Removes it.
///
/// # Errors
/// If it cannot be deleted.
pub fn remove() -> Result<()> {
    let hook = hook();
    match fs::remove_file(&hook) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return print(&format!("{} is not there\n", hook.display()));
        }
        removed => removed.with_context(|| format!("cannot delete {}", hook.display()))?,
    }
    let _ = fs::remove_dir(dir());
    print(&format!("deleted {}; fences stay\n", hook.display()))
}

fn dir() -> PathBuf {
    Path::new(SCRIPTS).join("vif-post.d")
}

fn hook() -> PathBuf {
    // They read what ends so.
    dir().join("macfence.hook")
}

fn write(path: &Path) -> Result<()> {
    let write = || {
        let _ = fs::remove_file(path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(path)?;
        file.write_all(HOOK.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn try_out(path: &Path) -> Result<()> {
    let path = path.to_str().context("a path")?;
    let output = process::run("bash", &["-c", TRY, "macfence", path], "")?;
    ensure!(
        output.success(),
        "the hook would fail, and no domain would start: {:#}; nothing is installed",
        output.failure()
    );
    Ok(())
}
