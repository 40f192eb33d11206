//! A host in its own namespaces: bridges, ports whose far ends the test holds, and the real programs.
//! Nothing outside the namespaces changes, and all of it ends with the process.

pub mod booted;
pub mod containers;
pub mod frame;
pub mod guest;
pub mod learning;
pub mod libvirt;
pub mod oneadmin;
pub mod packet;
pub mod pages;
mod paths;
pub mod system;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

pub use paths::*;

/// The directory of macfence's locks.
pub const LOCKS: &str = "/run/macfence";

/// A host: a network and a mount namespace, kept alive by these two files.
pub struct Host {
    net: File,
    mnt: File,
}

impl Host {
    /// Creates an empty host. Needs root.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "root is missing: the lab makes namespaces"
        );
        need("ip");
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private /");
            // These are the machine's cgroups and not this host's. libvirt works without them.
            let _ = umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH);
            // A sysfs shows only the devices of the network namespace in which it was mounted.
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("/sys");
            // sudo and libvirt write files here.
            tmpfs("/run");
            if Path::new("/etc/macfence.toml").exists() {
                let null = Some("/dev/null");
                mount(null, "/etc/macfence.toml", none, MsFlags::MS_BIND, none).expect("bind");
            }
            // Only our frames may be on the bridges: no router solicitations, no duplicate address
            // detection.
            for which in ["all", "default"] {
                let _ =
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
            }
            // Otherwise the IP layer drops made-up headers before the bridge's own hooks.
            for which in ["iptables", "ip6tables", "arptables"] {
                let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{which}"), "0");
            }
            let open = |ns: &str| File::open(format!("/proc/thread-self/ns/{ns}")).expect(ns);
            Self {
                net: open("net"),
                mnt: open("mnt"),
            }
        })
        .join()
        .expect("a lab host")
    }

    /// Runs a function on the host.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).expect("unshare");
                setns(&self.mnt, CloneFlags::CLONE_NEWNS).expect("mount namespace");
                setns(&self.net, CloneFlags::CLONE_NEWNET).expect("network namespace");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a function on the host as a user without any rights.
    pub fn run_as_nobody<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.run(|| {
            // These system calls change one thread only, unlike the C library's functions.
            let id = 65534;
            // SAFETY: the arguments are numbers and an empty list.
            let changed = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>())
                    | libc::syscall(libc::SYS_setresgid, id, id, id)
                    | libc::syscall(libc::SYS_setresuid, id, id, id)
            };
            assert_eq!(changed, 0);
            work()
        })
    }

    /// Opens the file of one of macfence's locks.
    pub fn lock_file(&self, name: &str) -> File {
        self.run(|| {
            let _ = std::fs::DirBuilder::new().mode(0o700).create(LOCKS);
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).mode(0o600);
            options.open(Path::new(LOCKS).join(name)).expect(name)
        })
    }

    /// Runs a program on the host with this standard input.
    pub fn exec(&self, command: &mut Command, stdin: &str) -> Ran {
        let shown = format!("{command:?}");
        let output = self.run(|| {
            let pipes = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = pipes.spawn().unwrap_or_else(|e| panic!("{shown}: {e}"));
            let mut pipe = child.stdin.take().expect("a pipe");
            thread::scope(|scope| {
                // The program may end before it has read everything.
                scope.spawn(move || pipe.write_all(stdin.as_bytes()));
                child.wait_with_output().expect("output")
            })
        });
        Ran::new(shown, output)
    }

    /// Runs a program that must succeed, and returns its output.
    pub fn ok(&self, program: &str, args: &[&str]) -> String {
        self.exec(Command::new(program).args(args), "").ok()
    }

    /// Runs macfence.
    pub fn macfence<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.macfence_reading("", args)
    }

    /// Runs macfence with this standard input.
    pub fn macfence_reading<S: AsRef<OsStr>>(
        &self,
        stdin: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Ran {
        self.exec(Command::new(MACFENCE).args(args), stdin)
    }

    /// Runs macfence as a user without rights, from a directory made by [`for_everybody`].
    pub fn as_nobody(&self, dir: &tempfile::TempDir, args: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(dir.path().join("macfence"));
        self.exec(command.args(args).uid(65534).gid(65534), stdin)
    }

    /// Fences the VM of this domain XML.
    pub fn apply(&self, xml: &str) -> Ran {
        self.macfence_reading(xml, ["apply", "--xml", "-"])
    }

    /// Runs `ip` with one command per line.
    pub fn ip(&self, batch: &str) {
        self.exec(Command::new("ip").args(["-batch", "-"]), batch)
            .ok();
    }

    /// Creates a bridge that floods every frame to every port, so that silence means a drop. It is
    /// hardened already, so macfence has nothing to say about it.
    pub fn bridge(&self, name: &str) {
        self.ip(&format!(
            "link add {name} type bridge mcast_snooping 0 no_linklocal_learn 1\nlink set {name} up\n"
        ));
    }

    /// Creates a port whose other end, the NIC of a made-up VM, the test holds.
    pub fn tap(&self, bridge: &str, port: &str) -> Tap {
        let tap = self.run(|| Tap::open(port));
        self.plug(bridge, port);
        tap
    }

    /// Creates ports with nothing at the other end.
    pub fn ports(&self, bridge: &str, ports: &[&str]) {
        for port in ports {
            self.ip(&format!("tuntap add {port} mode tap\n"));
            self.plug(bridge, port);
        }
    }

    /// Lists the ports of a bridge.
    pub fn ports_of(&self, bridge: &str) -> Vec<String> {
        let dir = format!("/sys/class/net/{bridge}/brif");
        let entries = self.run(|| std::fs::read_dir(&dir).expect(&dir));
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.expect("a port").file_name();
            name.into_string().expect("UTF-8")
        };
        let mut ports: Vec<_> = entries.map(name).collect();
        ports.sort();
        ports
    }

    /// Puts a device on a bridge.
    pub fn plug(&self, bridge: &str, port: &str) {
        self.ip(&format!(
            "link set {port} master {bridge} up\n\
             link set {port} type bridge_slave learning off flood on mcast_flood on\n"
        ));
    }

    /// Deletes a device.
    pub fn unplug(&self, port: &str) {
        self.ip(&format!("link del {port}\n"));
    }

    /// Lays a cable between bridges of two hosts.
    pub fn cable(&self, bridge: &str, far: &Self, far_bridge: &str) {
        let peer = format!("/proc/{}/fd/{}", std::process::id(), far.net.as_raw_fd());
        self.ip(&format!(
            "link add uplink type veth peer name uplink netns {peer}\n"
        ));
        self.plug(bridge, "uplink");
        far.plug(far_bridge, "uplink");
    }

    /// Creates a kind of VM: another network stack of this kernel at a port, with IPv6. Its NIC is
    /// `eth0`.
    pub fn guest(&self, bridge: &str, port: &str, mac: &str) -> Self {
        let guest = Self::new();
        let peer = format!("/proc/{}/fd/{}", std::process::id(), guest.net.as_raw_fd());
        self.ip(&format!(
            "link add {port} type veth peer name eth0 address {mac} netns {peer}\n"
        ));
        self.plug(bridge, port);
        let ipv6 = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
        guest.run(|| std::fs::write(ipv6, "0").expect(ipv6));
        guest.ip("link set lo up\nlink set eth0 up\n");
        guest
    }

    /// Hides a program from the host.
    pub fn hide(&self, program: &str) {
        self.instead_of(program, Path::new("/dev/null"));
    }

    /// Puts another file in the place of one of the host's programs.
    pub fn instead_of(&self, program: &str, file: &Path) {
        let none: Option<&str> = None;
        for dir in paths::SYSTEM_DIRS {
            let path = format!("{dir}/{program}");
            if Path::new(&path).exists() {
                let put = || mount(Some(file), path.as_str(), none, MsFlags::MS_BIND, none);
                self.run(put).expect("another program");
            }
        }
    }

    /// Puts a program of this directory in the place of the system's, for callers that ignore `PATH`.
    pub fn put(&self, dir: &tempfile::TempDir, program: &str) {
        let place = need(program);
        let real = dir.path().join(program);
        let name = format!("{program}-there");
        script(dir, &name, &format!("exec {} \"$@\"", real.display()));
        let none: Option<&str> = None;
        let (put, flags) = (dir.path().join(&name), MsFlags::MS_BIND);
        let mount = || mount(Some(&put), &place, none, flags, none);
        self.run(mount).expect("a program");
    }

    /// Returns the host's ruleset with handles and counters, but without noted drops.
    pub fn ruleset(&self) -> String {
        let all = self.ok("nft", &["-a", "list", "ruleset"]);
        let lines = all.lines().filter(|line| !is_noted(line));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Returns the lines of the ruleset, in an order that does not depend on when rules were added.
    pub fn sorted_ruleset(&self) -> Vec<String> {
        // Not an nft that a test has put first in `PATH`.
        let all = self.ok("/usr/sbin/nft", &["list", "ruleset"]);
        let lines = all.lines().filter(|line| !is_noted(line));
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Returns the output of `macfence list --json`.
    pub fn list(&self) -> serde_json::Value {
        serde_json::from_str(&self.macfence(["list", "--json"]).ok()).expect("JSON")
    }

    /// Returns the names of the fenced VMs.
    pub fn fenced(&self) -> Vec<String> {
        let list = self.list();
        let vms = list.as_array().expect("an array");
        let fenced = vms.iter().filter(|vm| !vm["chain"].is_null());
        fenced
            .map(|vm| vm["vm"].as_str().expect("a name").to_owned())
            .collect()
    }

    /// Returns the kernel's generation: how often the host's ruleset has changed.
    pub fn generation(&self) -> u32 {
        self.run(generation)
    }
}

/// Tells whether this line lists noted drops, which change by themselves.
fn is_noted(line: &str) -> bool {
    line.contains(" expires ")
}

/// Mounts an empty directory over this one, in the caller's mount namespace.
pub fn tmpfs(dir: &str) {
    std::fs::create_dir_all(dir).expect(dir);
    let (tmpfs, flags) = (Some("tmpfs"), MsFlags::empty());
    mount(tmpfs, dir, tmpfs, flags, Some("mode=755")).expect(dir);
}

/// Mounts one directory over another, in the caller's mount namespace.
pub fn bind(dir: &str, over: &str) {
    for dir in [dir, over] {
        std::fs::create_dir_all(dir).expect(dir);
    }
    let none: Option<&str> = None;
    mount(Some(dir), over, none, MsFlags::MS_BIND, none).expect(over);
}

/// Makes a directory writable in the mount namespace of the caller, with what is in it. `/run` must be that
/// namespace's own.
pub fn overlay(dir: &str) {
    let own = format!("/run/overlay{dir}");
    for part in ["new", "work"] {
        std::fs::create_dir_all(format!("{own}/{part}")).expect(dir);
    }
    let layers = format!("lowerdir={dir},upperdir={own}/new,workdir={own}/work");
    let overlay = Some("overlay");
    mount(overlay, dir, overlay, MsFlags::empty(), Some(&*layers)).expect(dir);
}

/// Mounts a file with this content over another, in the caller's mount namespace.
pub fn replace(file: &str, content: &str) {
    let new = tempfile::NamedTempFile::new_in("/run").expect("a file");
    std::fs::write(new.path(), content).expect(file);
    std::fs::set_permissions(new.path(), Permissions::from_mode(0o644)).expect(file);
    let none: Option<&str> = None;
    mount(Some(new.path()), file, none, MsFlags::MS_BIND, none).expect(file);
}

/// Installs macfence and its entry points, in the caller's mount namespace.
pub fn install() {
    tmpfs("/usr/local");
    std::fs::create_dir_all("/usr/local/sbin").expect("a directory");
    std::fs::copy(MACFENCE, PROGRAM).expect("macfence");
    std::fs::create_dir_all(LIBEXEC).expect("a directory");
    for name in macfence::cli::LINKS {
        let link = Path::new(LIBEXEC).join(name);
        std::os::unix::fs::symlink("../../sbin/macfence", link).expect("a link");
    }
}

/// Waits at most a minute until a condition is true.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A condition for scripts that stand in for nft: true if macfence wants to load something. macfence
/// loads JSON, and asks in nft's own language. `-c` only tries whether nft works.
pub const IS_LOADING: &str = "[ \"$1\" != -c ] && [ \"$(head -c 1 /dev/stdin)\" = '{' ]";

/// Creates a directory with a virsh that knows these running domains, by name and XML.
pub fn fake_virsh(domains: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut names = String::new();
    for (name, xml) in domains {
        std::fs::write(dir.path().join(format!("{name}.xml")), xml).expect("XML");
        names += &format!("{name}\n");
    }
    std::fs::write(dir.path().join("names"), names).expect("names");
    let says = "[ \"$1\" = --version ] && exec echo 9.0.0; d=${0%/*}; case $4 in 'list --name') exec cat $d/names;; esac; \
        echo \"$4\" | tr ';' '\\n' | sed -n \"s/.*'\\(.*\\)'.*/\\1/p\" | while read -r n; do \
        cat \"$d/$n.xml\" 2>/dev/null || echo \"error: failed to get domain '$n'\" >&2; done";
    script(&dir, "virsh", says);
    dir
}

/// The result of a program.
#[derive(Debug)]
pub struct Ran {
    command: String,
    /// The exit status, or -1 if it was killed.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    fn new(command: String, output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            command,
            status: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Returns the standard output. Panics if the program failed.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}: {}", self.command, self.stderr);
        self.stdout
    }

    /// Panics if the program failed or printed a message.
    pub fn quiet(self) {
        let said = (self.status, &*self.stdout, &*self.stderr);
        assert_eq!(said, (0, "", ""), "{}", self.command);
    }

    /// Returns the one error line of macfence. Panics if it did not fail in this way.
    pub fn error(self) -> String {
        assert_eq!(self.status, 1, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self
            .stderr
            .strip_suffix('\n')
            .unwrap_or_default()
            .to_owned();
        assert!(
            line.starts_with("macfence: error: ") && !line.contains('\n'),
            "{self:?}"
        );
        line
    }
}

/// The far end of a port. Frames written here enter the bridge; frames that leave through the port
/// are read here.
pub struct Tap(File);

impl Tap {
    fn open(name: &str) -> Self {
        nix::ioctl_write_ptr_bad!(
            tunsetiff,
            nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
            libc::ifreq
        );
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .expect("/dev/net/tun is missing: the kernel's tun module makes it");
        // SAFETY: all zeros is a valid ifreq, and the kernel reads one.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
            tunsetiff(file.as_raw_fd(), &request).expect("a tap");
        }
        Self(file)
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        (&self.0).write_all(frame).expect("a frame sent");
    }

    /// Sends a frame, if the port is up.
    pub fn try_send(&self, frame: &[u8]) {
        let _ = (&self.0).write_all(frame);
    }

    /// Returns every frame that has arrived since the last call.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(len) => frames.push(buffer[..len].to_vec()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return frames,
                Err(e) => panic!("a tap: {e}"),
            }
        }
    }
}

/// Returns the domain XML of a VM with these NICs: MAC address, port and bridge.
pub fn domain(name: &str, nics: &[(&str, &str, &str)]) -> String {
    let name = name.replace('&', "&amp;").replace('<', "&lt;");
    let nics: String = nics
        .iter()
        .map(|(mac, port, bridge)| {
            format!(
                "    <interface type='bridge'>\n      <mac address='{mac}'/>\n      \
                 <source bridge='{bridge}'/>\n      <target dev='{port}'/>\n    </interface>\n"
            )
        })
        .collect();
    format!(
        "<domain type='kvm' id='1'>\n  <name>{name}</name>\n  <devices>\n{nics}  </devices>\n</domain>\n"
    )
}

/// Asks the kernel for the generation of this namespace's ruleset (`NFT_MSG_GETGEN`). `nft monitor`
/// would have to run before it changes.
fn generation() -> u32 {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    };
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .expect("a netlink socket");
    let fd = netlink.as_raw_fd();
    let mut request = Vec::new();
    request.extend(20u32.to_ne_bytes()); // nlmsghdr: length
    request.extend((10u16 << 8 | 16).to_ne_bytes()); // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
    request.extend(1u16.to_ne_bytes()); // NLM_F_REQUEST
    request.extend([0; 8]); // sequence, port
    request.extend([0; 4]); // nfgenmsg
    sendto(fd, &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).expect("a request");
    let mut answer = [0; 4096];
    let len = recv(fd, &mut answer, MsgFlags::empty()).expect("an answer");
    // nlmsghdr has 16 bytes, nfgenmsg 4, nlattr 4. NFTA_GEN_ID comes first, big-endian.
    assert!(len >= 28 && answer[22..24] == [1, 0], "NFTA_GEN_ID");
    u32::from_be_bytes(answer[24..28].try_into().expect("four bytes"))
}
