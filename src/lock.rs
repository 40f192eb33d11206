//! Makes changes one at a time: reading, comparing and writing the kernel's rules happen under one
//! exclusive lock, [`exclusive`].
//!
//! Asking a hypervisor must not happen under that lock. libvirt answers nothing about a VM while it
//! waits for that VM's own hook, which waits for the lock. So there is a second lock for asking.
//! [`crate::source::Hypervisors`] takes it first, and holds it until the answer is in the kernel.
//! Without it, the older of two answers could be written last, and leave a new NIC open. libvirt's hook
//! asks nothing and never takes it.
//!
//! Each lock is on a file in `/run/macfence` that only root can open. A process that can open a file
//! can lock it (flock(2)), and a process that holds a lock keeps hooks from fencing VMs. When a process
//! ends, the kernel releases its locks; the empty file stays. Each network namespace has rules of its
//! own, but namespaces that share one `/run` share the locks too. They wait for each other, which costs
//! only time.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Uid};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::{fs, process};
use signal_hook::consts::{SIGTSTP, SIGTTOU};

use crate::heartbeat;

/// How long to wait for other processes. Two hundred hooks at once take about ten seconds on two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// When this process waits no longer, although its patience has not ended.
static DEADLINE: OnceLock<Instant> = OnceLock::new();

/// The directory of the locks. systemd-tmpfiles creates it at boot; if it did not, we do.
pub(crate) const DIR: &str = "/run/macfence";

/// The lock for reading, comparing and writing the kernel's rules.
const EXCLUSIVE: &str = "lock";

/// The lock for asking a hypervisor.
const ASKING: &str = "asking";

/// The file that legacy ebtables locks (its `LOCKFILE`), in a directory of root's.
const EBTABLES: &str = "/var/lib/ebtables/lock";

/// A lock, held until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct Lock(File);

/// Waits until no other process reads, compares and writes the kernel's rules.
///
/// # Errors
/// If we are not root, if others can reach the file, or if another process keeps the lock for a minute, or
/// until the time that was set with `wait_at_most`.
pub fn exclusive() -> Result<Lock> {
    let lock = take(EXCLUSIVE)?;
    // Programs that we run inherit this lock. If we are killed, they hold it until they have finished.
    // The other lock is not inherited, because virsh may start a libvirtd that stays.
    fcntl_setfd(&lock.0, FdFlags::empty()).context("cannot pass the lock on to other programs")?;
    Ok(lock)
}

/// Waits until no other process asks a hypervisor or acts on its answer. `None` if we are not root:
/// then the caller only prints the answer (`export`).
///
/// # Errors
/// Like [`exclusive`].
pub(crate) fn asking() -> Result<Option<Lock>> {
    is_root().then(|| take(ASKING)).transpose()
}

/// Waits for other programs that change legacy ebtables' rules with `--concurrent`, which
/// ebtables-restore does not support. `None` if there is no such lock, or we may not open it.
///
/// # Errors
/// If another process keeps the lock for a minute.
pub fn legacy_ebtables() -> Result<Option<Lock>> {
    match File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(EBTABLES)
    {
        Ok(file) => wait(file, &EBTABLES, patience(DEADLINE.get())).map(Some),
        Err(_) => Ok(None),
    }
}

/// Lets this process wait for all its locks together at most so long from now, because whoever called it
/// waits no longer.
pub(crate) fn wait_at_most(time: Duration) {
    DEADLINE.get_or_init(|| Instant::now() + time);
}

/// How long to wait for a lock, if the process may wait until `deadline`.
fn patience(deadline: Option<&Instant>) -> Duration {
    let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
    left.unwrap_or(PATIENCE).min(PATIENCE)
}

fn take(name: &str) -> Result<Lock> {
    never_stop();
    let dir = Path::new(DIR);
    let file = open(dir, name, Uid::ROOT)?;
    let patience = patience(DEADLINE.get());
    wait(file, &dir.join(name).display(), patience)
}

/// Keeps Ctrl-Z and the like from stopping us, because a stopped process keeps the lock. Behind sudo,
/// the terminal may be another user's.
fn never_stop() {
    for signal in [SIGTSTP, SIGTTOU] {
        // A caught signal does not stop the process. If it cannot be caught, fencing goes on all the
        // same.
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
}

/// Opens a file that only `owner` can open, in a directory that only `owner` can write to. Creates both
/// if they are missing. Follows no links.
fn open(dir: &Path, name: &str, owner: Uid) -> Result<File> {
    let opened = directory(dir, owner)?;
    let path = dir.join(name);
    let path = path.display();
    // flock(2) does not need write permission, so this works where /run is read-only. O_NONBLOCK:
    // opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CREATE;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match fs::openat(&opened, name, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::LOOP) => bail!("{path} is a symbolic link: delete it"),
        Err(e) => return Err(why(e).context(format!("cannot open {path}"))),
        Ok(file) => file,
    };
    let stat = fs::fstat(&file).with_context(|| format!("cannot check {path}"))?;
    let others = Mode::RWXG | Mode::RWXO;
    ensure!(
        stat.st_uid == owner.as_raw() && !Mode::from_raw_mode(stat.st_mode).intersects(others),
        "other users can open {path}: delete it"
    );
    Ok(file.into())
}

/// Opens a directory that only `owner` can write to, and creates it if it is missing.
pub(crate) fn directory(path: &Path, owner: Uid) -> Result<OwnedFd> {
    // With O_PATH | O_NOFOLLOW the link itself is opened, so that we can see that it is one.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || fs::open(path, flags, Mode::empty());
    let shown = path.display();
    let mut opened = open();
    if matches!(opened, Err(Errno::NOENT)) {
        match fs::mkdir(path, Mode::RWXU) {
            // Another process may have created it first.
            Ok(()) | Err(Errno::EXIST) => opened = open(),
            Err(e) => return Err(why(e).context(format!("cannot create {shown}"))),
        }
    }
    let dir = opened.map_err(|e| why(e).context(format!("cannot open {shown}")))?;
    let stat = fs::fstat(&dir).with_context(|| format!("cannot check {shown}"))?;
    let unsafe_because =
        |what: &str| anyhow!("{shown} {what}: delete it, and run the command again");
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {}
        FileType::Symlink => return Err(unsafe_because("is a symbolic link")),
        _ => return Err(unsafe_because("is not a directory")),
    }
    if stat.st_uid != owner.as_raw() {
        return Err(unsafe_because("belongs to another user"));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(unsafe_because("can be changed by other users"));
    }
    Ok(dir)
}

/// Explains why the kernel refused, and what to do if we know.
fn why(e: Errno) -> Error {
    match e {
        Errno::ACCESS | Errno::PERM if !is_root() => anyhow!("run as root"),
        _ => e.into(),
    }
}

fn is_root() -> bool {
    process::geteuid().is_root()
}

fn wait(file: File, path: &dyn fmt::Display, patience: Duration) -> Result<Lock> {
    heartbeat::beat();
    // Usually no process has it.
    if fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(Lock(file));
    }
    let (sender, receiver) = mpsc::channel();
    // flock(2) has no time limit, so another thread waits. If it waits for ever, it ends with the
    // process.
    thread::spawn(move || {
        let locked = fs::flock(&file, FlockOperation::LockExclusive).map(|()| file);
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(patience) {
        Ok(locked) => Ok(Lock(locked.with_context(|| format!("cannot lock {path}"))?)),
        Err(_) => bail!(
            "another process has held the lock on {path} for {} s: find it with lslocks",
            patience.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, metadata, remove_file, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// The error of opening the lock in this directory, as the user who runs the tests.
    fn refusal(dir: &Path) -> String {
        let error = open(dir, "lock", process::geteuid()).unwrap_err();
        format!("{error:#}").replace(&*dir.to_string_lossy(), "DIR")
    }

    #[test]
    fn a_lock_excludes_and_is_given_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("macfence");
        let open = |name| open(&dir, name, process::geteuid()).unwrap();
        let held = wait(open("lock"), &"it", PATIENCE).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join("lock"))), (0o700, 0o600));
        assert!(wait(open("asking"), &"it", Duration::ZERO).is_ok());
        let error = wait(open("lock"), &"DIR/lock", Duration::ZERO).unwrap_err();
        assert_eq!(
            error.to_string(),
            "another process has held the lock on DIR/lock for 0 s: find it with lslocks"
        );
        drop(held);
        assert!(wait(open("lock"), &"it", PATIENCE).is_ok());
    }

    #[test]
    fn a_process_with_a_deadline_waits_no_longer() {
        assert_eq!(patience(None), PATIENCE);
        let in_seconds = |seconds| patience(Some(&(Instant::now() + Duration::from_secs(seconds))));
        assert!(in_seconds(20) <= Duration::from_secs(20));
        assert_eq!(in_seconds(0), Duration::ZERO);
        assert_eq!(in_seconds(300), PATIENCE);
    }

    #[test]
    fn a_directory_that_is_not_safe_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let (real, dir) = (temp.path().join("real"), temp.path().join("dir"));
        let safe = ": delete it, and run the command again";
        create_dir(&real).unwrap();
        symlink(&real, &dir).unwrap();
        assert_eq!(refusal(&dir), format!("DIR is a symbolic link{safe}"));
        assert_eq!(real.read_dir().unwrap().count(), 0);
        remove_file(&dir).unwrap();
        write(&dir, "").unwrap();
        assert_eq!(refusal(&dir), format!("DIR is not a directory{safe}"));
        for mode in [0o720, 0o702, 0o1777] {
            set_permissions(&real, Permissions::from_mode(mode)).unwrap();
            let expected = format!("DIR can be changed by other users{safe}");
            assert_eq!(refusal(&real), expected);
        }
        let somebody = Uid::from_raw(process::geteuid().as_raw() + 1);
        let error = open(&real, "lock", somebody).unwrap_err().to_string();
        assert!(error.contains("belongs to another user"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_safe_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, file) = (temp.path(), temp.path().join("lock"));
        set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
        symlink(dir.join("elsewhere"), &file).unwrap();
        assert_eq!(refusal(dir), "DIR/lock is a symbolic link: delete it");
        assert!(!dir.join("elsewhere").exists());
        remove_file(&file).unwrap();
        write(&file, "").unwrap();
        for mode in [0o640, 0o604] {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(refusal(dir), "other users can open DIR/lock: delete it");
        }
        remove_file(&file).unwrap();
        create_dir(&file).unwrap();
        assert!(refusal(dir).starts_with("cannot open DIR/lock: Is a directory"));
    }

    #[test]
    fn an_error_names_the_directory_that_cannot_be_created() {
        let temp = tempfile::tempdir().unwrap();
        let said = refusal(&temp.path().join("missing/dir"));
        assert!(
            said.starts_with("cannot create DIR: No such file"),
            "{said}"
        );
    }
}
