//! A real libvirtd and QEMU on a lab host.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Host, Ran, bind, need, replace, script, tmpfs, until};

/// A libvirtd, its helpers and its domains, in a process namespace of their own. They end with it,
/// and it ends with us.
pub struct Libvirt<'a> {
    host: &'a Host,
    daemons: Child,
    /// A shell in that namespace. It runs what we write to it, and ends with us.
    leash: ChildStdin,
    stdout: ChildStdout,
}

impl<'a> Libvirt<'a> {
    /// Starts libvirtd on a host.
    pub fn start(host: &'a Host) -> Self {
        Self::start_with_hook(host, "")
    }

    /// Starts libvirtd on a host where macfence is installed as its hook.
    pub fn start_fenced(host: &'a Host) -> Self {
        host.run(super::install);
        Self::start_with_hook(host, include_str!("../../share/libvirt/macfence"))
    }

    /// Starts libvirtd on a host, with this shell script as the hook for its domains.
    pub fn start_with_hook(host: &'a Host, hook: &str) -> Self {
        for program in [
            "libvirtd",
            "virtlogd",
            "virsh",
            "qemu-system-x86_64",
            "unshare",
        ] {
            need(program);
        }
        let mut daemons = host.run(|| {
            // Nothing that this libvirt writes may reach the machine's own.
            for dir in ["/var/lib/libvirt", "/var/log/libvirt"] {
                tmpfs(dir);
            }
            // libvirtd needs seconds to find out what QEMU can do. It caches that, so let all
            // libvirtds share the cache.
            bind(
                concat!(env!("CARGO_TARGET_TMPDIR"), "/libvirt"),
                "/var/cache/libvirt",
            );
            // QEMU must run as the user that libvirt believes, or libvirtd asks it again and again.
            let config = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n";
            replace("/etc/libvirt/qemu.conf", config);
            // libvirt does not migrate a domain to the same host, so give each host its own UUID.
            let config = "/etc/libvirt/libvirtd.conf";
            let defaults = std::fs::read_to_string(config).expect(config);
            let number = "/proc/sys/kernel/random/uuid";
            let number = std::fs::read_to_string(number).expect(number);
            replace(
                config,
                &format!("{defaults}\nhost_uuid = \"{}\"\n", number.trim()),
            );
            tmpfs("/etc/libvirt/qemu");
            std::fs::create_dir_all("/etc/libvirt/hooks").expect("/etc/libvirt/hooks");
            tmpfs("/etc/libvirt/hooks");
            if !hook.is_empty() {
                for dir in ["qemu.d", "lxc.d"] {
                    let dir = Path::new("/etc/libvirt/hooks").join(dir);
                    std::fs::create_dir(&dir).expect("a directory");
                    script(dir, "macfence", hook);
                }
            }
            std::fs::create_dir("/run/libvirt").expect("/run/libvirt");
            // Process 1 of the namespace is a shell, so that it reaps the children that daemons
            // leave.
            Command::new("unshare")
                .args(["-p", "--fork", "--kill-child", "--mount-proc"])
                .args(["sh", "-c", "sh; exit"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("unshare")
        });
        let mut libvirt = Self {
            host,
            leash: daemons.stdin.take().expect("a pipe"),
            stdout: daemons.stdout.take().expect("a pipe"),
            daemons,
        };
        assert!(libvirt.shell("virtlogd -d"), "virtlogd");
        libvirt.start_daemon();
        libvirt
    }

    /// Starts libvirtd again after [`Self::stop_daemon`].
    pub fn start_daemon(&mut self) {
        assert!(self.shell("libvirtd -d"), "libvirtd");
        until("libvirtd answers", || self.try_virsh(&["list"]).status == 0);
    }

    /// Ends libvirtd. Its domains go on running.
    pub fn stop_daemon(&mut self) {
        assert!(self.shell("pid=$(cat /run/libvirtd.pid) && kill $pid"));
        until("libvirtd has ended", || self.shell("[ ! -e /proc/$pid ]"));
    }

    /// Tells whether a QEMU runs for this domain.
    pub fn has_qemu(&mut self, name: &str) -> bool {
        self.shell(&format!("grep -qs 'guest[=]{name},' /proc/[0-9]*/cmdline"))
    }

    /// Runs a command in the daemons' process namespace. Tells whether it succeeded.
    fn shell(&mut self, command: &str) -> bool {
        let line = format!("{command} && echo 0 || echo 1\n");
        self.leash.write_all(line.as_bytes()).expect("the shell");
        let mut status = [0; 2];
        self.stdout.read_exact(&mut status).expect("an answer");
        status == *b"0\n"
    }

    /// Runs virsh. It must succeed.
    pub fn virsh(&self, args: &[&str]) -> String {
        self.try_virsh(args).ok()
    }

    /// Runs virsh.
    pub fn try_virsh(&self, args: &[&str]) -> Ran {
        self.host
            .exec(Command::new("virsh").args(["-q", "-c", URI]).args(args), "")
    }

    /// Creates a diskless domain.
    pub fn create(&self, name: &str, interfaces: &str) {
        self.try_create(&diskless(name, "", interfaces)).ok();
    }

    /// Creates a domain. This may fail.
    pub fn try_create(&self, xml: &str) -> Ran {
        self.with_xml(xml, |file| self.try_virsh(&["create", file]))
    }

    /// Defines a domain, so that it outlives its QEMU.
    pub fn define(&self, xml: &str) {
        self.with_xml(xml, |file| self.virsh(&["define", file]));
    }

    /// Attaches an interface to a running domain.
    pub fn attach(&self, name: &str, interface: &str) {
        self.with_xml(interface, |file| {
            self.virsh(&["attach-device", name, file, "--live"])
        });
    }

    /// Returns the URI under which other hosts reach it.
    pub fn uri(&self) -> String {
        let root = format!("/proc/{}/root", self.daemons.id());
        format!("qemu+unix:///system?socket={root}/run/libvirt/libvirt-sock")
    }

    /// Migrates a running domain to the libvirt of another host of the lab. This may fail.
    pub fn try_migrate(&self, name: &str, to: &Self) -> Ran {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = to.uri();
        // The hosts share no network, but they share this directory.
        let qemu = format!("unix://{}/qemu", dir.path().display());
        self.try_virsh(&["migrate", "--live", name, &daemon, "--migrateuri", &qemu])
    }

    fn with_xml<R>(&self, xml: &str, work: impl FnOnce(&str) -> R) -> R {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), xml).expect("XML");
        work(file.path().to_str().expect("a path"))
    }
}

impl Drop for Libvirt<'_> {
    fn drop(&mut self) {
        let _ = self.daemons.kill();
        let _ = self.daemons.wait();
    }
}

/// Returns the XML of a domain without disks. `boot` is more content for its `<os>`.
pub fn diskless(name: &str, boot: &str, interfaces: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os><features><acpi/></features>\
         <devices>{interfaces}</devices></domain>"
    )
}

/// The URI of the lab's libvirt.
pub const URI: &str = "qemu:///system";
