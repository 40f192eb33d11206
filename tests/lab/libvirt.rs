//! A real libvirtd and QEMU on a lab host.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Host, bind, need, replace, script, tmpfs};

/// A libvirtd, its helpers and its domains, in a process namespace of their own: they all end
/// with it, and with us.
pub struct Libvirt<'a> {
    host: &'a Host,
    daemons: Child,
    _leash: ChildStdin,
}

impl<'a> Libvirt<'a> {
    /// Starts libvirtd on a host.
    pub fn start(host: &'a Host) -> Self {
        Self::start_with_hook(host, "")
    }

    /// Starts libvirtd on a host, with this shell script as a hook for its domains.
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
            // Nothing that this libvirt writes reaches the machine's own.
            for dir in ["/var/lib/libvirt", "/var/log/libvirt"] {
                tmpfs(dir);
            }
            // What QEMU can do takes seconds to find out, so one libvirtd tells the next.
            bind(
                concat!(env!("CARGO_TARGET_TMPDIR"), "/libvirt"),
                "/var/cache/libvirt",
            );
            // As root, QEMU may use what libvirt thinks it may: else it is asked again and again.
            let config = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n";
            replace("/etc/libvirt/qemu.conf", config);
            tmpfs("/etc/libvirt/qemu");
            std::fs::create_dir_all("/etc/libvirt/hooks").expect("/etc/libvirt/hooks");
            tmpfs("/etc/libvirt/hooks");
            if !hook.is_empty() {
                let dir = Path::new("/etc/libvirt/hooks/qemu.d");
                std::fs::create_dir(dir).expect("qemu.d");
                script(dir, "macfence", hook);
            }
            std::fs::create_dir("/run/libvirt").expect("/run/libvirt");
            // The shell is process 1 there: while it waits for cat, it reaps what daemons leave.
            let script = "virtlogd -d && libvirtd -d && echo up && cat; exit";
            Command::new("unshare")
                .args([
                    "-p",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "sh",
                    "-c",
                    script,
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("unshare")
        });
        let leash = daemons.stdin.take().expect("a pipe");
        let mut up = [0; 3];
        let mut stdout = daemons.stdout.take().expect("a pipe");
        stdout.read_exact(&mut up).expect("libvirtd did not start");
        let libvirt = Self {
            host,
            daemons,
            _leash: leash,
        };
        until("libvirtd answers", || {
            host.exec(Command::new("virsh").args(["-c", URI, "list"]), "")
                .status
                == 0
        });
        libvirt
    }

    /// Runs virsh, which must succeed.
    pub fn virsh(&self, args: &[&str]) -> String {
        self.host
            .exec(Command::new("virsh").args(["-q", "-c", URI]).args(args), "")
            .ok()
    }

    /// Creates a diskless domain.
    pub fn create(&self, name: &str, interfaces: &str) {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
             <devices>{interfaces}</devices></domain>"
        );
        self.with_xml(&xml, |file| self.virsh(&["create", file]));
    }

    /// Attaches an interface to a running domain.
    pub fn attach(&self, name: &str, interface: &str) {
        self.with_xml(interface, |file| {
            self.virsh(&["attach-device", name, file, "--live"])
        });
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

/// Where the lab's libvirt listens.
pub const URI: &str = "qemu:///system";

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}
