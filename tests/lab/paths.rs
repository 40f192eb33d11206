//! Where things are: programs, files of the repository, and what is built or fetched for the tests.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The program under test.
pub const MACFENCE: &str = env!("CARGO_BIN_EXE_macfence");

/// Where a host has it that it is installed on.
pub const PROGRAM: &str = "/usr/local/sbin/macfence";

/// Where such a host has the entry points that sudo lets others run.
pub const LIBEXEC: &str = "/usr/local/libexec/macfence";

/// The `PATH` of a login through ssh without a terminal: no system directories.
pub const LOGIN_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The directories that a system's own programs are in.
pub const SYSTEM_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Where a program is. Fails with the name of one that is missing.
pub fn need(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.map(|dir| dir.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing: tests/setup installs it"))
}

/// A `PATH` with one more directory before all others.
pub fn prepend(dir: impl AsRef<Path>, path: &str) -> String {
    format!("{}:{path}", dir.as_ref().display())
}

/// Our own `PATH`, with one more directory before all others.
pub fn path_with(dir: impl AsRef<Path>) -> String {
    prepend(dir, &std::env::var("PATH").expect("PATH"))
}

/// macfence, which finds the programs in this directory before all others.
pub fn macfence_with(dir: impl AsRef<Path>) -> Command {
    let mut command = Command::new(MACFENCE);
    command.env("PATH", path_with(dir));
    command
}

/// A directory with a copy of macfence that any user may run, wherever it was built.
pub fn for_everybody() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let everybody = Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), everybody).expect("permissions");
    std::fs::copy(MACFENCE, dir.path().join("macfence")).expect("a copy");
    dir
}

/// Puts a shell script where a program of that name is looked for.
pub fn script(dir: impl AsRef<Path>, name: &str, script: &str) {
    let path = dir.as_ref().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("permissions");
}

/// A file of the repository.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file that `target` builds in the repository.
pub fn built(path: &str, target: &str) -> PathBuf {
    let file = source(path);
    assert!(file.exists(), "{path} is missing: {target} builds it");
    file
}

/// A file that `tests/setup` fetches: a path below `target/`.
pub fn fetched(path: &str) -> PathBuf {
    built(&format!("target/{path}"), "tests/setup")
}
