//! Ports that a script has announced: it is about to put them on a bridge, and has them fenced before it
//! does. Meanwhile the kernel knows of no bridge, so that `flush`, `sync` and `watch` would take their rules
//! for those of ports that are gone.
//!
//! `/run/macfence/announced` has a file for each, with the port's name: the number and the start time of the
//! script's process, and the bridge. It counts while that process lives. So a script that fails, or is
//! killed, leaves nothing that anybody believes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags, Uid, flock, open};
use rustix::io::Errno;
use rustix::process::{Pid, getppid, test_kill_process};
use tempfile::NamedTempFile;

use crate::lock;
use crate::vm::Port;

/// The directory of the files, in [`lock::DIR`].
const NAME: &str = "announced";

/// The longest file, in bytes.
const LIMIT: u64 = 4096;

/// A process: its number, and when it started, in ticks since the boot. The kernel uses numbers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Script {
    id: u32,
    started: u64,
}

/// Announces that the process of this number, which started this one, is about to put a port on a bridge.
///
/// # Errors
/// If it has ended, if another process that lives has announced the port, or this cannot be noted.
pub fn announce(port: &Port, bridge: &str, script: u32) -> Result<()> {
    announce_in(
        Path::new(lock::DIR),
        Uid::ROOT,
        port,
        bridge,
        parent(script)?,
    )
}

/// The process of this number, which must be our parent. When a parent ends, its children get another one,
/// such as process 1. That one lives until the next boot, and what it announces would count as long.
fn parent(id: u32) -> Result<Script> {
    let script = Script::of(id);
    // In this order: the number of our parent is not used again, so it was the script that we found.
    let parent = getppid().and_then(|parent| u32::try_from(parent.as_raw_nonzero().get()).ok());
    let script = script.filter(|_| parent == Some(id));
    script.with_context(|| format!("process {id} did not start this one, or has ended"))
}

fn announce_in(parent: &Path, owner: Uid, port: &Port, bridge: &str, script: Script) -> Result<()> {
    lock::directory(parent, owner)?;
    let dir = parent.join(NAME);
    lock::directory(&dir, owner)?;
    let cannot = || format!("cannot write to {}", dir.display());
    // Two scripts may come at once.
    let locked =
        open(&dir, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(cannot)?;
    flock(&locked, FlockOperation::LockExclusive).with_context(cannot)?;
    let path = dir.join(port.as_str());
    if let Some((other, _)) = read(&path, owner) {
        ensure!(
            other == script || !other.lives(),
            "process {} is about to put a port \"{port}\" on a bridge",
            other.id
        );
    }
    sweep(&dir, owner);
    let write = || -> Result<()> {
        let mut file = NamedTempFile::new_in(&dir)?;
        write!(file, "{} {}\n{bridge}\n", script.id, script.started)?;
        file.persist(&path)?;
        Ok(())
    };
    write().with_context(cannot)
}

/// The bridge that a script is about to put this port on; `None` if nobody has announced it, or that cannot
/// be known.
pub(super) fn bridge_of(port: &Port) -> Option<String> {
    bridge_in(Path::new(lock::DIR), Uid::ROOT, port)
}

fn bridge_in(parent: &Path, owner: Uid, port: &Port) -> Option<String> {
    let dir = parent.join(NAME);
    let is_safe = |dir: &Path| {
        let found = dir.symlink_metadata();
        found.is_ok_and(|found| {
            found.is_dir() && found.uid() == owner.as_raw() && found.mode() & 0o022 == 0
        })
    };
    let (script, bridge) = read(&dir.join(port.as_str()), owner)?;
    (is_safe(parent) && is_safe(&dir) && script.lives()).then_some(bridge)
}

/// What a file says; `None` if it is not there, or not one of ours.
fn read(path: &Path, owner: Uid) -> Option<(Script, String)> {
    let found = path.symlink_metadata().ok()?;
    if !found.is_file() || found.uid() != owner.as_raw() || found.len() > LIMIT {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let (process, bridge) = text.trim_end().split_once('\n')?;
    let (id, started) = process.split_once(' ')?;
    let script = Script {
        id: id.parse().ok()?,
        started: started.parse().ok()?,
    };
    Some((script, bridge.to_owned()))
}

/// Deletes the files that do not count any more. If that fails, they still do not count.
fn sweep(dir: &Path, owner: Uid) {
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        if read(&entry.path(), owner).is_none_or(|(script, _)| !script.lives()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Script {
    /// The process of this number; `None` if there is none, or it has ended and nobody knows it yet.
    fn of(id: u32) -> Option<Self> {
        Self::parsed(id, &fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// Whether it lives. If that is unknown it does: its port's rules then stay.
    fn lives(self) -> bool {
        let id = self.id.try_into().ok().and_then(Pid::from_raw);
        if id.is_none_or(|id| test_kill_process(id) == Err(Errno::SRCH)) {
            return false;
        }
        // Our service may not look at other processes (ProtectProc).
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id));
        stat.map_or(true, |stat| Self::parsed(self.id, &stat) == Some(self))
    }

    fn parsed(id: u32, stat: &str) -> Option<Self> {
        let (state, started) = parse(stat)?;
        (!matches!(state, "Z" | "X")).then_some(Self { id, started })
    }
}

/// The state and the start time in a process's `stat` (proc(5)). The program's name is in brackets, and
/// may hold brackets itself.
fn parse(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    Some((words.next()?, words.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::geteuid;
    use std::process::{Command, Stdio, id};

    #[test]
    fn what_is_announced_counts_until_its_process_ends() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, owner) = (temp.path().join("run"), geteuid());
        let port = |name: &str| name.parse::<Port>().unwrap();
        let (first, second) = (port("tenant7"), port("vif8.0"));
        let announce = |port, script| announce_in(&dir, owner, port, "br 0", script);
        let found = |port| bridge_in(&dir, owner, port);
        assert_eq!(found(&first), None);

        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped());
        let mut script = cat.spawn().unwrap();
        let here = Script::of(id()).unwrap();
        announce(&first, Script::of(script.id()).unwrap()).unwrap();
        announce(&second, here).unwrap();
        assert_eq!(found(&first).as_deref(), Some("br 0"));
        let error = announce(&first, here).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", script.id())),
            "{error}"
        );
        // The same script may do so twice.
        announce(&second, here).unwrap();

        script.kill().unwrap();
        script.wait().unwrap();
        assert_eq!(found(&first), None);
        assert_eq!(found(&second).as_deref(), Some("br 0"));
        announce(&second, here).unwrap();
        let left = dir.join(NAME).read_dir().unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["vif8.0"]);
        let late = Script {
            started: here.started + 1,
            ..here
        };
        assert!(here.lives() && !late.lives());
    }

    #[test]
    fn only_a_parent_that_lives_announces() {
        let id = getppid().unwrap().as_raw_nonzero().get();
        let id = u32::try_from(id).unwrap();
        assert_eq!(parent(id).unwrap().id, id);
        for other in [1, std::process::id()] {
            let error = parent(other).unwrap_err().to_string();
            assert!(error.contains(&format!("process {other} ")), "{error}");
        }
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let (dir, owner) = (temp.path().join("run"), geteuid());
        let port: Port = "vif8.0".parse().unwrap();
        announce_in(&dir, owner, &port, "br0", Script::of(id()).unwrap()).unwrap();
        let found = || bridge_in(&dir, owner, &port);
        assert_eq!(found().as_deref(), Some("br0"));
        let mode = |mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(dir.join(NAME), mode).unwrap();
        };
        mode(0o777);
        assert_eq!(found(), None);
        mode(0o700);
        let somebody = Uid::from_raw(owner.as_raw() + 1);
        assert_eq!(bridge_in(&dir, somebody, &port), None);
        for text in ["", "x y\nbr0\n", "1\nbr0\n", "1 2"] {
            fs::write(dir.join(NAME).join("vif8.0"), text).unwrap();
            assert_eq!(found(), None, "{text}");
        }
    }

    #[test]
    fn a_programs_name_may_hold_brackets() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse(&format!("7 (a) b) {rest}")), Some(("S", 4711)));
        assert_eq!(parse("7 (a) S 1"), None);
        assert_eq!(parse(""), None);
    }
}
