//! Paths of programs, of files in the repository, and of files that are built or fetched for the
//! tests.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The program under test. `make bench` names the statically linked one, because that is what hosts run.
pub const MACFENCE: &str = match option_env!("MACFENCE_PROGRAM") {
    Some(path) => path,
    None => env!("CARGO_BIN_EXE_macfence"),
};

/// The path of macfence on a host that has it installed.
pub const PROGRAM: &str = "/usr/local/sbin/macfence";

/// The directory of the entry points that sudo lets other users run.
pub const LIBEXEC: &str = "/usr/local/libexec/macfence";

/// The `PATH` of an ssh login without a terminal. It has no `sbin` directories.
pub const LOGIN_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The directories of the system's own programs.
pub const SYSTEM_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Returns the path of a program. Panics with the program's name if it is missing.
pub fn need(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.map(|dir| dir.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing: run tests/setup to install it"))
}

/// Returns `path` with one more directory in front.
pub fn prepend(dir: impl AsRef<Path>, path: &str) -> String {
    format!("{}:{path}", dir.as_ref().display())
}

/// Returns our own `PATH` with one more directory in front.
pub fn path_with(dir: impl AsRef<Path>) -> String {
    prepend(dir, &std::env::var("PATH").expect("PATH"))
}

/// Returns a command that runs macfence with this directory first in its `PATH`.
pub fn macfence_with(dir: impl AsRef<Path>) -> Command {
    let mut command = Command::new(MACFENCE);
    command.env("PATH", path_with(dir));
    command
}

/// Copies macfence to a directory where any user may run it, even if we built it in a private one.
pub fn for_everybody() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let everybody = Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), everybody).expect("permissions");
    std::fs::copy(MACFENCE, dir.path().join("macfence")).expect("a copy");
    dir
}

/// Writes a shell script with this name into a directory.
pub fn script(dir: impl AsRef<Path>, name: &str, script: &str) {
    let path = dir.as_ref().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("permissions");
}

/// Returns the path of a file in the repository.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the path of a file that `target` builds in the repository. Panics if it is missing.
pub fn built(path: &str, target: &str) -> PathBuf {
    let file = source(path);
    assert!(file.exists(), "{path} is missing: run {target} to build it");
    file
}

/// Returns the path of a file that `tests/setup` fetches. `path` is relative to `target/`.
pub fn fetched(path: &str) -> PathBuf {
    built(&format!("target/{path}"), "tests/setup")
}
