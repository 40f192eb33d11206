//! OpenNebula's user on a lab host. The shipped sudoers file alone decides what this user may do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Host, LOGIN_PATH, Ran, install, need, replace, script, source, tmpfs};

/// The directory of OpenNebula's drivers and hooks on a host.
pub const REMOTES: &str = "/var/tmp/one";

/// The sudoers file that lets the user run macfence as root.
pub const SUDOERS: &str = "/etc/sudoers.d/macfence";

/// A directory that the user may write to.
pub const TMP: &str = "/var/tmp/tmp";

const ID: u32 = 9869;

/// Does what OpenNebula's own `post` and `clean` do at their end: runs the executable files beside
/// them with the same arguments and standard input, and fails if one of them fails.
const DRIVER: &str = r#"input=$(mktemp); cat >"$input"
for hook in "$0.d"/*; do
  [ -x "$hook" ] || continue
  sh -c "$hook $*" <"$input" || { status=$?; rm "$input"; exit $status; }
done
rm "$input""#;

/// The network drivers of which a host has the scripts.
const DRIVERS: [&str; 2] = ["bridge", "fw"];

/// Writes OpenNebula's own network drivers below this directory.
pub fn drivers(remotes: &Path) {
    for driver in DRIVERS {
        let dir = remotes.join("vnm").join(driver);
        std::fs::create_dir_all(&dir).expect("a driver");
        for action in ["post", "clean"] {
            script(&dir, action, DRIVER);
        }
    }
}

/// The user `oneadmin` of a host on which macfence is installed.
pub struct Oneadmin<'a> {
    host: &'a Host,
}

impl<'a> Oneadmin<'a> {
    /// The user of a host that has one.
    pub fn known(host: &'a Host) -> Self {
        Self { host }
    }

    /// Creates the user alone, as on a front-end without macfence.
    pub fn alone(host: &'a Host) -> Self {
        host.run(|| {
            let passwd = std::fs::read_to_string("/etc/passwd").expect("passwd");
            // A password field that is not `x` keeps sudo from looking for a shadow entry.
            let line = format!("oneadmin:*:{ID}:{ID}::/:/bin/sh\n");
            replace("/etc/passwd", &(passwd + &line));
            tmpfs("/var/tmp");
            std::fs::create_dir(TMP).expect("a folder");
            let everybody = Permissions::from_mode(0o1777);
            std::fs::set_permissions(TMP, everybody).expect("permissions");
        });
        Self { host }
    }

    /// Creates the user, and installs macfence. Nothing calls it yet.
    pub fn without_hooks(host: &'a Host) -> Self {
        need("sudo");
        let one = Self::alone(host);
        host.run(|| {
            // Replace this machine's own sudoers file, so that its rules cannot help a test.
            replace("/etc/sudoers", "@includedir /etc/sudoers.d\n");
            tmpfs("/etc/sudoers.d");
            let shipped = std::fs::read_to_string(source("share/sudoers")).expect("sudoers");
            let filled = shipped.replace("@libexecdir@", "/usr/local/libexec");
            std::fs::write(SUDOERS, filled).expect("sudoers");
            install();
        });
        one
    }

    /// Creates the user, and installs macfence and the files of share/ for it.
    pub fn of(host: &'a Host) -> Self {
        let one = Self::without_hooks(host);
        let share = source("share");
        host.run(|| {
            drivers(Path::new(REMOTES));
            for driver in DRIVERS {
                let dir = Path::new(REMOTES).join("vnm").join(driver);
                for action in ["post", "clean"] {
                    let hooks = dir.join(format!("{action}.d"));
                    std::fs::create_dir_all(&hooks).expect("a driver");
                    let shipped = format!("opennebula/remotes/vnm/{action}.d/macfence");
                    std::fs::copy(share.join(shipped), hooks.join("macfence")).expect("a hook");
                }
            }
            let hooks = Path::new(REMOTES).join("hooks/macfence");
            std::fs::create_dir_all(&hooks).expect("hooks");
            for name in ["post", "flush"] {
                let shipped = share.join("opennebula/remotes/hooks/macfence").join(name);
                std::fs::copy(shipped, hooks.join(name)).expect("a hook");
            }
        });
        one
    }

    /// Runs a command line as OpenNebula does through ssh: in a new shell, without a terminal and
    /// with almost no environment.
    pub fn run(&self, command_line: &str, stdin: &str) -> Ran {
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["-w", "/bin/sh", "-c", command_line]);
        command.env_clear().env("TMPDIR", TMP);
        self.exec(command.env("PATH", LOGIN_PATH), stdin)
    }

    pub fn exec(&self, command: &mut Command, stdin: &str) -> Ran {
        self.host.exec(self.command(command), stdin)
    }

    /// Sets a command up to run as this user.
    pub fn command<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.current_dir("/").uid(ID).gid(ID)
    }

    /// Calls a network driver's script, as OpenNebula does.
    pub fn driver(&self, driver: &str, words: &str, template: &str) -> Ran {
        let script: PathBuf = [REMOTES, "vnm", driver, words].iter().collect();
        self.run(script.to_str().expect("a path"), template)
    }
}
