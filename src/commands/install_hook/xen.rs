//! A hook for Xen's vif scripts, and a script of ours in front of them, which `xl.conf` names.
//!
//! A domain whose script fails, or is not there, is not started. So both are tried before Xen can see them,
//! and a script of that name stays for ever.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::Builder;

use super::changes::Changes;
use super::marks::{Marks, existing};
use crate::commands::shared::print;
use crate::process;
use crate::quote::quoted;
use crate::report;
use crate::source::xen;

/// The hook, as it is shipped.
const HOOK: &str = include_str!("../../../share/xen/macfence.hook");

/// The script, as it is shipped.
const SCRIPT: &str = include_str!("../../../share/xen/vif-macfence");

/// The script's name.
const NAME: &str = "vif-macfence";

/// What stays of the script after `--remove`. Domains that run, files of `xl save` and configurations name it,
/// also on hosts from which domains migrate to this one, and none of them starts without it.
const REST: &str = "#!/bin/sh\n\
    # Left by \"macfence install-hook xen --remove\": it only calls vif-bridge. Domains that run, files of \
    \"xl save\"\n# and configurations may name it, and do not start without it. Once none does, delete it.\n\
    exec \"${0%/*}/vif-bridge\" \"$@\"\n";

/// Where Xen has its scripts: they name this folder themselves.
const SCRIPTS: &str = "/etc/xen/scripts";

/// What xl reads.
const SETTINGS: &str = "/etc/xen/xl.conf";

/// The setting that names the script of interfaces whose domain names none, and its older name.
const SETTING: &str = "vif.default.script";
const OLDER_SETTING: &str = "vifscript";

/// The lines around what we write there.
const MARKS: Marks = Marks("xen");

/// The script that every vif script of Xen's begins with, and the words by which the hooks are run.
const COMMON: &str = "xen-hotplug-common.sh";
const CALL: &str = "call_hooks()";

/// Reads a hook as they do, for a port of domain 0, which has none. They look for programs there.
const TRY_HOOK: &str = "\
    PATH=/usr/bin:/usr/sbin:/sbin:/bin; ip() { :; }; fatal() { echo \"$*\" >&2; exit 1; }; \
    command=online dev=vif0.0 XENBUS_PATH=/local/domain/0/backend/vif/0/0; set -e; . \"$1\"";

/// Reads the script, for the same port. It ends where it would become Xen's script, which would look for the
/// port, and writes nothing into xenstore.
const TRY_SCRIPT: &str = "\
    PATH=/usr/bin:/usr/sbin:/sbin:/bin; export XENBUS_PATH=/local/domain/0/backend/vif/0/0 vif=vif0.0; \
    exec() { [ \"$1\" != macfence ] || command \"$@\"; }; xenstore-write() { :; }; log() { :; }; \
    file=$1; set -- online type_if=vif; . \"$file\"";

/// Installs both.
///
/// # Errors
/// If Xen's scripts would not read the hook, if either would fail, as no domain would start any more, or if
/// the operator has named another script. The host is then as it was.
pub fn install() -> Result<()> {
    let common = Path::new(SCRIPTS).join(COMMON);
    let text = existing(&common)?;
    let text = text.with_context(|| {
        format!(
            "{} is missing: are Xen's tools installed?",
            common.display()
        )
    })?;
    ensure!(
        text.contains(CALL),
        "{} runs no hooks: this Xen is too old",
        common.display()
    );
    let settings = existing(Path::new(SETTINGS))?;
    let unmarked = settings.as_deref().map(unmarked).transpose()?.flatten();
    let named = unmarked.as_deref().and_then(default_script);
    if let Some(other) = named.filter(|named| !is_ours(named)) {
        bail!(
            "{SETTINGS} sets {SETTING} to {}: delete that line, as {NAME} calls vif-bridge; or, to keep it, \
             see \"By hand\" in docs/xen.md; nothing is installed",
            quoted(other)
        );
    }
    let mut changes = Changes::default();
    let put = put(settings.as_deref(), named.is_some(), &mut changes);
    match put {
        Ok(said) => print(&said)?,
        Err(e) => return Err(changes.undo(e)),
    }
    warn_of_driver_domains();
    Ok(())
}

/// The setting is also for interfaces whose ports are in other domains, where nobody has installed our script.
fn warn_of_driver_domains() {
    match xen::with_driver_domains() {
        Ok(vms) => vms.iter().for_each(|vm| {
            report::warning(&format!(
                "VM {:?} has an interface with backend=: {SETTING} is for that one as well, and the VM does \
                 not start again where {NAME} is missing; add script=vif-bridge to that interface",
                vm.as_str()
            ));
        }),
        Err(e) => report::warning(&format!(
            "it is unknown whether a domain has an interface with backend=: {e:#}"
        )),
    }
}

/// Puts all in its place. Returns what to tell the operator.
fn put(settings: Option<&str>, is_named: bool, changes: &mut Changes) -> Result<String> {
    let (hook, script) = (hook(), script());
    changes.directory(&dir())?;
    for (text, with) in [(HOOK, TRY_HOOK), (SCRIPT, TRY_SCRIPT)] {
        try_out(text, with)?;
    }
    changes.write(&hook, HOOK, 0o755)?;
    changes.write(&script, SCRIPT, 0o755)?;
    if !is_named {
        let line = format!("{SETTING}=\"{NAME}\"");
        let path = Path::new(SETTINGS);
        changes.write(path, &MARKS.with(path, settings, &line)?, 0o644)?;
    }
    Ok(format!(
        "installed {} and {}, which {SETTINGS} names: Xen's scripts fence every domain from now on\n\
         domains that run already: macfence sync\n",
        hook.display(),
        script.display()
    ))
}

/// Removes the hook and the setting. Of the script remains what calls `vif-bridge`.
///
/// # Errors
/// If a file cannot be deleted or written. The host is then as it was.
pub fn remove() -> Result<()> {
    let mut changes = Changes::default();
    match take_away(&mut changes) {
        Ok(said) => print(&said),
        Err(e) => Err(changes.undo(e)),
    }
}

fn take_away(changes: &mut Changes) -> Result<String> {
    let mut said = String::new();
    let path = Path::new(SETTINGS);
    if let Some(text) = existing(path)?.filter(|text| MARKS.are_in(text)) {
        match unmarked(&text)? {
            Some(rest) => changes.write(path, &rest, 0o644)?,
            None => changes.delete(path)?,
        }
        said += &format!("{SETTINGS}: what was added for macfence is gone\n");
    }
    let (hook, script) = (hook(), script());
    if hook.symlink_metadata().is_ok() {
        changes.delete(&hook)?;
        said += &format!("deleted {}; fences stay\n", hook.display());
    } else {
        said += &format!("{} is not there\n", hook.display());
    }
    let _ = fs::remove_dir(dir());
    if script.symlink_metadata().is_ok() {
        changes.write(&script, REST, 0o755)?;
        said += &format!(
            "{} stays, and only calls vif-bridge now: domains and files of \"xl save\" may name it\n",
            script.display()
        );
    }
    Ok(said)
}

fn unmarked(settings: &str) -> Result<Option<String>> {
    MARKS.without(Path::new(SETTINGS), settings)
}

fn dir() -> PathBuf {
    Path::new(SCRIPTS).join("vif-post.d")
}

fn hook() -> PathBuf {
    // They read what ends so.
    dir().join("macfence.hook")
}

fn script() -> PathBuf {
    Path::new(SCRIPTS).join(NAME)
}

/// The script that this text of xl's settings names for interfaces whose domain names none.
fn default_script(settings: &str) -> Option<&str> {
    let value = |setting: &'static str| {
        let lines = settings.split(['\n', ';']).rev();
        let mut values = lines.filter_map(move |line| {
            let rest = line.trim().strip_prefix(setting)?.trim_start();
            Some(rest.strip_prefix('=')?.trim())
        });
        let value = values.next()?;
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        Some(match quote {
            Some(quote) => value.split(quote).nth(1).unwrap_or_default(),
            None => value,
        })
    };
    value(SETTING).or_else(|| value(OLDER_SETTING))
}

fn is_ours(script: &str) -> bool {
    script == NAME || Path::new(script) == self::script()
}

fn try_out(text: &str, with: &str) -> Result<()> {
    // Xen looks for no such name.
    let file = Builder::new().prefix(".macfence-").tempfile_in(SCRIPTS);
    let file = file.with_context(|| format!("cannot write to {SCRIPTS}"))?;
    fs::write(file.path(), text).with_context(|| format!("cannot write to {SCRIPTS}"))?;
    let (path, script) = (file.path().to_string_lossy(), script());
    // The scripts look for each other beside what was called.
    let called = script.to_string_lossy();
    let output = process::run("bash", &["-c", with, &called, &path], "")?;
    ensure!(
        output.success(),
        "it would fail, and no domain would start: {:#}; nothing is installed",
        output.failure()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_script_is_what_xl_reads() {
        for (settings, script) in [
            ("", None),
            ("#vif.default.script=\"vif-bridge\"\n", None),
            ("vif.default.script=\"vif-route\"\n", Some("vif-route")),
            (" vif.default.script = 'a' # b", Some("a")),
            (
                "x=1; vif.default.script=\"a\"\nvif.default.script=\"b\"",
                Some("b"),
            ),
            ("vifscript=\"old\"\n", Some("old")),
            (
                "vif.default.script=\"new\"\nvifscript=\"old\"\n",
                Some("new"),
            ),
            ("vif.default.scripts=\"a\"\n", None),
        ] {
            assert_eq!(default_script(settings), script, "{settings}");
        }
        assert!(is_ours("vif-macfence") && is_ours("/etc/xen/scripts/vif-macfence"));
        assert!(!is_ours("vif-bridge"));
    }
}
