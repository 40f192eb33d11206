//! Provides what containers need on a lab host: cgroups, a small root, and a real Incus.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::mount::{MsFlags, mount};

use super::{Host, MACFENCE, Ran, fetched, need, script, tmpfs, until};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The container's first process: it waits for a sign, and then sends under a false address.
pub const INIT: &str = "ip link set eth0 up\n\
    while [ ! -e /go ]; do sleep 0.1; done\n\
    ip link set eth0 down\n\
    ip link set eth0 address 02:00:c0:a8:00:66\n\
    ip link set eth0 up\n\
    while :; do arping -D -c 1 -w 1 -I eth0 192.0.2.9; done\n";

/// The machine's cgroups, mounted on a host. If the machine has both versions, the host gets the first,
/// which has the controllers there.
pub struct Cgroups<'a>(&'a Host);

impl<'a> Cgroups<'a> {
    /// Mounts them.
    pub fn mount(host: &'a Host) -> Self {
        host.run(|| {
            let none: Option<&str> = None;
            let known = fs::read_to_string("/proc/cgroups").expect("/proc/cgroups");
            let controllers: Vec<_> = known
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| {
                    line.split_whitespace()
                        .next()
                        .zip(line.split_whitespace().nth(1))
                })
                .filter(|(_, hierarchy)| *hierarchy != "0")
                .collect();
            if controllers.is_empty() {
                let kind = Some("cgroup2");
                mount(kind, CGROUPS, kind, MsFlags::empty(), none).expect("cgroup2");
                return;
            }
            tmpfs(CGROUPS);
            for (controller, _) in controllers {
                let dir = format!("{CGROUPS}/{controller}");
                fs::create_dir(&dir).expect("a directory");
                let kind = Some("cgroup");
                mount(kind, &*dir, kind, MsFlags::empty(), Some(controller)).expect(controller);
            }
        });
        Self(host)
    }
}

impl Drop for Cgroups<'_> {
    /// Removes the groups that containers left, because they are in the machine's own cgroups.
    fn drop(&mut self) {
        let sweep = format!(
            "for i in 1 2 3 4 5; do \
             set -- $(find {CGROUPS} -depth -type d '(' -path '*/lxc.*' -o -path '*libvirt-lxc*' ')'); \
             [ $# = 0 ] || rmdir \"$@\" 2>/dev/null && break; sleep 0.2; done"
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &sweep]);
        // This may fail if another test uses the groups.
        let _ = self.0.run(|| shell.status());
    }
}

/// Fills a directory with all that a container needs. `init` is the script that it runs.
pub fn small_root(root: &Path, init: &str) {
    for dir in ["bin", "sbin", "proc", "sys", "dev", "etc", "tmp", "run"] {
        fs::create_dir_all(root.join(dir)).expect(dir);
    }
    fs::copy(need("busybox"), root.join("bin/busybox")).expect("busybox");
    for applet in ["sh", "sleep", "ip", "arping"] {
        symlink("busybox", root.join("bin").join(applet)).expect(applet);
    }
    script(root.join("sbin"), "init", init);
}

/// A real Incus of Debian 13, which tests/setup has fetched, in a root of its own. It has a storage pool
/// and an image `bb`. Its instances are on the host's bridge `br0`.
pub struct Incus<'a> {
    host: &'a Host,
    _cgroups: Cgroups<'a>,
    daemons: Child,
    _leash: ChildStdin,
    /// The directory with the program `incus`.
    pub dir: tempfile::TempDir,
}

/// The root of the host's Incus.
const ROOT: &str = "/run/debian";

/// Makes the root: a writable layer over Debian's files, with busybox for missing programs.
const MAKE_ROOT: &str = r#"
set -e
R=/run/debian
# LXC turns a container's root round, for which ours must be a mount.
mkdir $R
mount -t tmpfs tmpfs $R
mkdir -p $R/layer/up $R/layer/work $R/usr $R/etc $R/proc $R/sys $R/dev $R/run $R/tmp $R/var $R/root
for l in bin sbin lib lib64; do ln -s usr/$l $R/$l; done
mount -t overlay overlay -o lowerdir=$FS/usr,upperdir=$R/layer/up,workdir=$R/layer/work $R/usr
cp -r $FS/etc/. $R/etc/
cp -r $FS/var/. $R/var/
echo root:x:0:0:root:/root:/bin/sh >$R/etc/passwd
printf 'root:x:0:\nincus-admin:x:200:\n' >$R/etc/group
cp $(command -v busybox) $R/usr/bin/busybox
for a in $(busybox --list); do
  [ -L $R/usr/bin/$a ] || [ -e $R/usr/bin/$a ] || [ -L $R/usr/sbin/$a ] || [ -e $R/usr/sbin/$a ] ||
    ln -s busybox $R/usr/bin/$a
done
mkdir -p $R/var/log/incus $R/var/lib/incus
mount --rbind /dev $R/dev
mount --rbind /sys $R/sys
mkdir -p /run/incus
ln -s $R/var/lib/incus/unix.socket /run/incus/unix.socket
"#;

/// Runs Incus among the daemons until we end. Moves the machine's own root out of its reach, because a
/// container must never get at it.
const DAEMON: &str = "cd /run/debian && mkdir machine && busybox pivot_root . machine && \
    exec chroot . /bin/sh -c 'mount -t proc proc /proc && umount -l /machine && \
    { /usr/libexec/incus/incusd --group incus-admin --logfile /var/log/incus/incusd.log \
    >/tmp/log 2>&1 & cat; }'";

impl<'a> Incus<'a> {
    /// Starts Incus.
    pub fn start(host: &'a Host) -> Self {
        let fs = fetched("incus/fs");
        host.bridge("br0");
        let cgroups = Cgroups::mount(host);
        let mut make = Command::new("sh");
        host.exec(make.args(["-c", MAKE_ROOT]).env("FS", &fs), "")
            .ok();
        let mut daemons = host.run(|| {
            Command::new("unshare")
                .args(["-m", "-p", "--fork", "--kill-child"])
                .args(["sh", "-c", DAEMON])
                .stdin(Stdio::piped())
                .spawn()
                .expect("unshare")
        });
        let dir = tempfile::tempdir().expect("a directory");
        script(
            &dir,
            "incus",
            &format!("HOME=/root exec chroot {ROOT} /usr/bin/incus \"$@\""),
        );
        let incus = Self {
            host,
            _cgroups: cgroups,
            _leash: daemons.stdin.take().expect("a pipe"),
            daemons,
            dir,
        };
        until("Incus answers", || {
            incus.run(&["query", "/1.0"]).status == 0
        });
        incus.prepare();
        incus
    }

    fn prepare(&self) {
        let image = self.host.run(|| {
            let image = Path::new(ROOT).join("root/image");
            small_root(&image.join("rootfs"), INIT);
            let about = "architecture: x86_64\ncreation_date: 1700000000\n";
            fs::write(image.join("metadata.yaml"), about).expect("metadata");
            image
        });
        let image = image.to_str().expect("a path");
        let tar = format!("{image}.tar.gz");
        self.host.ok(
            "tar",
            &["-C", image, "-czf", &tar, "metadata.yaml", "rootfs"],
        );
        self.ok("image import /root/image.tar.gz --alias bb");
        self.ok("storage create default dir");
        self.ok("profile device add default root disk path=/ pool=default");
        self.ok("profile device add default eth0 nic nictype=bridged parent=br0");
        // The containers' privileges do not matter here. A privileged one needs no subordinate ids.
        self.ok("profile set default security.privileged=true");
    }

    /// Installs macfence and this configuration where the daemon finds them.
    pub fn install(&self, config: &Path) {
        self.host.run(|| {
            let root = Path::new(ROOT);
            fs::copy(MACFENCE, root.join("usr/sbin/macfence")).expect("macfence");
            fs::copy(config, root.join("etc/macfence.toml")).expect("a configuration");
        });
    }

    /// Runs `incus`.
    pub fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(self.dir.path().join("incus"));
        self.host.exec(command.args(args), "")
    }

    /// Runs `incus` with these words. It must succeed.
    pub fn ok(&self, words: &str) -> String {
        self.run(&words.split(' ').collect::<Vec<_>>()).ok()
    }
}

impl Drop for Incus<'_> {
    fn drop(&mut self) {
        let _ = self.daemons.kill();
        let _ = self.daemons.wait();
    }
}
