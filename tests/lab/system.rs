//! A small Debian booted by systemd, in a container on a host's network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, Ran, fetched, need, until};

/// Mounts a layer over the Debian in `$1` and boots it. Passes the other arguments to systemd-nspawn. It
/// has its own control groups.
const BOOT: &str = r#"
mount -t tmpfs tmpfs /run
mkdir -p /run/debian/root /run/debian/upper /run/debian/work
mount -t overlay -o lowerdir=$1,upperdir=/run/debian/upper,workdir=/run/debian/work overlay /run/debian/root
shift
groups=
for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  [ -e $tree/cgroup.procs ] || continue
  group=$tree/macfence-test-$$
  mkdir $group
  echo $$ >$group/cgroup.procs
  groups="$group $groups"
done
systemd-nspawn --quiet --register=no --keep-unit --directory=/run/debian/root \
  --capability=CAP_NET_ADMIN --boot --console=pipe "$@" || true
for group in $groups; do
  while read -r process; do echo $process >${group%/*}/cgroup.procs; done <$group/cgroup.procs
  find $group -depth -type d -exec rmdir {} + 2>/dev/null
done
"#;

/// The booted system. Dropping it ends the system.
pub struct System<'a> {
    host: &'a Host,
    /// A process that keeps the host's network open.
    network: Child,
    nspawn: Child,
    /// The process id of its systemd, as we see it.
    init: u32,
}

impl<'a> System<'a> {
    /// Boots it with these folders mounted, and waits until all has started.
    pub fn boot(host: &'a Host, folders: &[(&Path, &str)]) -> Self {
        need("systemd-nspawn");
        let debian = fetched("debian");
        let mut sleep = Command::new("sleep");
        let network = host.run(|| sleep.arg("infinity").spawn().expect("sleep"));
        // Take the network from the host, and the mounts from this machine, because a host has no control
        // groups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", network.id()));
        command.args(["unshare", "-m", "sh", "-euc", BOOT, "sh"]);
        command.arg(debian);
        for (folder, place) in folders {
            command.arg(format!("--bind-ro={}:{place}", folder.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let nspawn = command.spawn().expect("unshare");
        let mut system = Self {
            host,
            network,
            nspawn,
            init: 0,
        };
        until("systemd has booted", || system.is_up());
        system
    }

    /// Tells whether systemd has started everything. Looks for its process until then.
    fn is_up(&mut self) -> bool {
        let ended = self.nspawn.try_wait().expect("systemd-nspawn");
        assert!(ended.is_none(), "systemd-nspawn: {ended:?}");
        // The shell starts systemd-nspawn, and that starts the first process of the system.
        let Some(init) = child(self.nspawn.id()).and_then(child) else {
            return false;
        };
        self.init = init;
        self.run("systemctl is-system-running").stdout == "running\n"
    }

    /// Runs a shell script in it.
    pub fn run(&self, script: &str) -> Ran {
        let mut enter = Command::new("nsenter");
        enter.args(["-a", "-t", &self.init.to_string()]);
        enter.args(["--", "sh", "-c", script]).env_clear();
        enter.env("DEBIAN_FRONTEND", "noninteractive");
        enter.env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin");
        self.host.exec(&mut enter, "")
    }

    /// Returns its root folder, as we see it.
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.init).into()
    }

    /// Writes an executable file into it.
    pub fn write(&self, path: &str, content: &str) {
        let file = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, content).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
}

impl Drop for System<'_> {
    fn drop(&mut self) {
        let id = |id: u32| Pid::from_raw(id.cast_signed());
        if self.init != 0 {
            // Its first process ends all others with it.
            let _ = kill(id(self.init), Signal::SIGKILL);
        } else {
            let _ = self.nspawn.kill();
        }
        let _ = self.nspawn.wait();
        let _ = self.network.kill();
        let _ = self.network.wait();
    }
}

/// Returns the first child of a process.
fn child(of: u32) -> Option<u32> {
    let mut pgrep = Command::new("pgrep");
    let found = pgrep.args(["-P", &of.to_string()]).output().expect("pgrep");
    String::from_utf8_lossy(&found.stdout)
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
