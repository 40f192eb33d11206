//! Installs the files with which OpenNebula's network drivers or state hooks call macfence.
//!
//! It writes them as OpenNebula's user, who owns these directories: as root it would follow a link that
//! this user put there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::changes::Changes;
use crate::commands::shared::print;
use crate::process;

const USER: &str = "oneadmin";

/// OpenNebula's directory for these files: on a front-end, and below on a host.
const FRONT_END: &str = "/var/lib/one/remotes";
const HOST: &str = "/var/tmp/one";

/// The network driver that has no filters of its own.
const DRIVER: &str = "bridge";

/// A file to install.
struct Shipped {
    /// Its path in the directory of a driver, or in that of hooks.
    path: &'static str,
    text: &'static str,
    mode: u32,
    /// How every version of the file begins.
    beginning: &'static str,
}

const OF_DRIVER: [Shipped; 2] = [
    Shipped {
        path: "post.d/macfence",
        text: include_str!("../../../share/opennebula/remotes/vnm/post.d/macfence"),
        mode: 0o755,
        beginning: "#!/bin/sh\n# OpenNebula's network driver calls this after",
    },
    Shipped {
        path: "clean.d/macfence",
        text: include_str!("../../../share/opennebula/remotes/vnm/clean.d/macfence"),
        mode: 0o755,
        beginning: "#!/bin/sh\n# OpenNebula's network driver calls this after",
    },
];

/// The last three are for `onehook create`, on a front-end only.
const OF_STATE_HOOKS: [Shipped; 5] = [
    Shipped {
        path: "post",
        text: include_str!("../../../share/opennebula/remotes/hooks/macfence/post"),
        mode: 0o755,
        beginning: "#!/bin/sh\n# OpenNebula's state hooks call this",
    },
    Shipped {
        path: "flush",
        text: include_str!("../../../share/opennebula/remotes/hooks/macfence/flush"),
        mode: 0o755,
        beginning: "#!/bin/sh\n# OpenNebula's state hooks call this",
    },
    Shipped {
        path: "running.tmpl",
        text: include_str!("../../../share/opennebula/onehook/running.tmpl"),
        mode: 0o644,
        beginning: "# onehook create FILE: ",
    },
    Shipped {
        path: "hotplug-nic.tmpl",
        text: include_str!("../../../share/opennebula/onehook/hotplug-nic.tmpl"),
        mode: 0o644,
        beginning: "# onehook create FILE: ",
    },
    Shipped {
        path: "shutdown.tmpl",
        text: include_str!("../../../share/opennebula/onehook/shutdown.tmpl"),
        mode: 0o644,
        beginning: "# onehook create FILE: ",
    },
];

/// Runs it.
pub fn run(mut drivers: Vec<String>, state_hooks: bool, remove: bool) -> Result<()> {
    if drivers.is_empty() && !state_hooks {
        drivers.push(DRIVER.to_owned());
    }
    let roots = [FRONT_END, HOST].map(Path::new);
    ensure!(
        roots.iter().any(|root| root.is_dir()),
        "OpenNebula is not here: there is neither {FRONT_END}, as on a front-end, nor {HOST}, as on a host"
    );
    if rustix::process::geteuid().is_root() {
        return as_its_user(&drivers, state_hooks, remove);
    }
    let mut changes = Changes::default();
    let mut said = String::new();
    for root in roots.into_iter().filter(|root| root.is_dir()) {
        let is_front_end = root == Path::new(FRONT_END);
        let done = act(root, is_front_end, &drivers, remove, &mut changes);
        match done {
            Ok(words) => said += &words,
            Err(e) => return Err(changes.undo(e)),
        }
    }
    print(&said)
}

fn as_its_user(drivers: &[String], state_hooks: bool, remove: bool) -> Result<()> {
    let id = |which| -> Result<u32> {
        let said = process::run("id", &[which, USER], "")?.checked();
        let said = said.with_context(|| format!("there is no user {USER} here"))?;
        Ok(said.trim().parse()?)
    };
    let mut args = vec!["install-hook", "opennebula"];
    for driver in drivers {
        args.extend(["--driver", driver]);
    }
    args.extend(state_hooks.then_some("--state-hooks"));
    args.extend(remove.then_some("--remove"));
    let (user, group) = (id("-u")?, id("-g")?);
    ensure!(user != 0, "the user {USER} is root");
    ensure!(
        process::again_as(user, group, &args)?,
        "user {USER} could not do it"
    );
    Ok(())
}

/// Installs or removes the files below one of the two directories. Returns what to tell the operator.
fn act(
    root: &Path,
    is_front_end: bool,
    drivers: &[String],
    remove: bool,
    changes: &mut Changes,
) -> Result<String> {
    let mut said = String::new();
    let mut files: Vec<(PathBuf, &Shipped)> = Vec::new();
    for name in drivers {
        let dir = driver(&root.join("vnm"), name)?;
        files.extend(OF_DRIVER.iter().map(|file| (dir.join(file.path), file)));
    }
    if drivers.is_empty() {
        let dir = root.join("hooks/macfence");
        let shipped = OF_STATE_HOOKS.iter();
        // A host needs no templates, but `onehost sync` has copied them there.
        let is_for_here = |path: &str| is_front_end || remove || !path.ends_with(".tmpl");
        let shipped = shipped.filter(|file| is_for_here(file.path));
        files.extend(shipped.map(|file| (dir.join(file.path), file)));
    }
    // Check all files before changing the first.
    let mut ours = Vec::new();
    for (path, file) in &files {
        match is_ours(path, file)? {
            Some(false) if remove => {
                said += &format!(
                    "{}: left alone, because it is not macfence's\n",
                    path.display()
                )
            }
            Some(false) => bail!(
                "{} exists and is not macfence's: move it elsewhere, or call macfence from it as {} does",
                path.display(),
                "/usr/share/macfence/opennebula"
            ),
            is_there => ours.push((path, *file, is_there.is_some())),
        }
    }
    for (path, file, is_there) in ours {
        let dir = path.parent().context("no directory")?;
        if remove && is_there {
            changes.delete(path)?;
            // This fails if the directory holds other files, and then it stays.
            let _ = fs::remove_dir(dir);
            said += &format!("{}: deleted\n", path.display());
        } else if !remove {
            changes.directory(dir)?;
            let above = dir.parent().context("no directory")?;
            changes.write_through(above, path, file.text, file.mode)?;
            said += &format!("{}: installed\n", path.display());
        }
    }
    Ok(said + &next(is_front_end, drivers.is_empty(), remove))
}

/// Returns the directory of a network driver.
fn driver(vnm: &Path, name: &str) -> Result<PathBuf> {
    let is_name = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let dir = vnm.join(name);
    if is_name && dir.is_dir() {
        return Ok(dir);
    }
    let mut names: Vec<_> = fs::read_dir(vnm)
        .with_context(|| format!("cannot read {}", vnm.display()))?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    bail!(
        "there is no network driver {name:?} in {}; there are: {}",
        vnm.display(),
        names.join(", ")
    )
}

/// Tells whether the file at this path is ours. `None`: it does not exist.
fn is_ours(path: &Path, file: &Shipped) -> Result<Option<bool>> {
    let found = path.symlink_metadata();
    match found {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(found) if !found.is_file() => return Ok(Some(false)),
        found => found.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text.starts_with(file.beginning.as_bytes())))
}

/// Returns what the operator has to do next.
fn next(is_front_end: bool, are_state_hooks: bool, remove: bool) -> String {
    let sync = "now run, as oneadmin: onehost sync --force\n";
    match (is_front_end, are_state_hooks, remove) {
        (true, false, false) => format!(
            "{sync}and restrict in /etc/one/oned.conf what users must not set: see \
             docs/opennebula-drivers.md\n"
        ),
        (true, false, true) => {
            format!("{sync}older releases leave these files on the hosts: run this there as well\n")
        }
        (true, true, false) => {
            let hooks = ["running", "hotplug-nic", "shutdown"];
            let create = |hook| format!("onehook create {FRONT_END}/hooks/macfence/{hook}.tmpl\n");
            sync.to_owned() + &hooks.map(create).concat()
        }
        (true, true, true) => format!(
            "{sync}and onehook delete macfence-running, macfence-hotplug-nic and macfence-shutdown\n"
        ),
        (false, _, false) => {
            "a later onehost sync puts here what the front-end has: run this there as \
                              well\n"
                .to_owned()
        }
        (false, _, true) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vnm/bridge", "vnm/fw", "hooks"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        dir
    }

    fn try_act(dir: &Path, drivers: &[&str], remove: bool) -> Result<String> {
        let drivers: Vec<_> = drivers.iter().map(|&name| name.to_owned()).collect();
        let mut changes = Changes::default();
        act(dir, true, &drivers, remove, &mut changes).map_err(|e| changes.undo(e))
    }

    #[test]
    fn only_macfences_files_of_a_driver_are_installed_and_removed() {
        let dir = tree();
        let at = |path: &str| dir.path().join(path);
        let said = try_act(dir.path(), &["bridge"], false).unwrap();
        assert!(said.contains("onehost sync --force"), "{said}");
        // Once more, over its own files.
        try_act(dir.path(), &["bridge"], false).unwrap();
        for file in &OF_DRIVER {
            let path = at("vnm/bridge").join(file.path);
            assert_eq!(fs::read_to_string(&path).unwrap(), file.text);
        }
        assert!(!at("vnm/fw/post.d").exists());
        fs::write(at("vnm/bridge/post.d/others"), "x").unwrap();
        try_act(dir.path(), &["bridge"], true).unwrap();
        assert!(at("vnm/bridge/post.d/others").exists() && !at("vnm/bridge/clean.d").exists());
        assert!(!at("vnm/bridge/post.d/macfence").exists());
    }

    #[test]
    fn others_files_are_neither_replaced_nor_deleted() {
        let dir = tree();
        let theirs = dir.path().join("vnm/bridge/clean.d/macfence");
        fs::create_dir(theirs.parent().unwrap()).unwrap();
        fs::write(&theirs, "#!/bin/sh\nmacfence\n").unwrap();
        let error = try_act(dir.path(), &["bridge"], false).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(&*theirs.to_string_lossy()), "{error}");
        assert!(!dir.path().join("vnm/bridge/post.d").exists());
        let said = try_act(dir.path(), &["bridge"], true).unwrap();
        assert!(
            said.contains("left alone, because it is not macfence's"),
            "{said}"
        );
        assert!(theirs.exists());
    }

    #[test]
    fn an_unknown_driver_is_named_beside_those_that_there_are() {
        let dir = tree();
        for odd in ["ovs", "..", "bridge/../fw", ""] {
            let error = format!("{:#}", try_act(dir.path(), &[odd], false).unwrap_err());
            assert!(error.contains(&format!("{odd:?}")), "{error}");
            assert!(error.ends_with("there are: bridge, fw"), "{error}");
        }
    }

    #[test]
    fn state_hooks_have_a_folder_and_templates() {
        let dir = tree();
        let said = try_act(dir.path(), &[], false).unwrap();
        assert!(said.contains("onehook create"), "{said}");
        let hooks = dir.path().join("hooks/macfence");
        assert_eq!(fs::read_dir(&hooks).unwrap().count(), OF_STATE_HOOKS.len());
        try_act(dir.path(), &[], true).unwrap();
        assert!(!hooks.exists());
    }

    #[test]
    fn each_file_begins_as_all_its_versions_do() {
        for file in OF_DRIVER.iter().chain(&OF_STATE_HOOKS) {
            assert!(file.text.starts_with(file.beginning), "{}", file.path);
        }
    }
}
