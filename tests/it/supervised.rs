//! What systemd sees of the service: signs of life for its watchdog, and journal entries with fields. A
//! socket of the test stands in for each.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Host, domain, fake_virsh, macfence_with, script, until};

const A: &str = "02:00:c0:a8:00:05";
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A host with one VM that runs `watch`.
struct Service {
    host: Host,
    virsh: tempfile::TempDir,
    manager: UnixDatagram,
    child: Child,
}

impl Service {
    /// Starts it. The returned socket is the journal's, if `journal` is true.
    fn start(watchdog: Duration, journal: bool) -> (Self, Option<UnixDatagram>) {
        let host = Host::new();
        host.bridge("br0");
        host.ports("br0", &["one-7-0"]);
        let virsh = fake_virsh(&[("one-7", &domain("one-7", &[(A, "one-7-0", "br0")]))]);
        let manager = UnixDatagram::bind(virsh.path().join("notify")).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let journal = journal.then(|| {
            let bind = || {
                std::fs::create_dir_all(Path::new(JOURNAL).parent().unwrap()).unwrap();
                UnixDatagram::bind(JOURNAL).unwrap()
            };
            let journal = host.run(bind);
            journal
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            journal
        });
        let child = spawn(&host, &virsh, watchdog, journal.is_some());
        let service = Self {
            host,
            virsh,
            manager,
            child,
        };
        until("it is ready", || service.told().contains("READY=1"));
        (service, journal)
    }

    /// Returns the next message to systemd.
    fn told(&self) -> String {
        let mut buffer = [0; 200];
        let len = self.manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    /// Tells whether a sign of life comes within this time. Ignores earlier messages.
    fn lives(&self, within: Duration) -> bool {
        self.manager.set_nonblocking(true).unwrap();
        while self.manager.recv(&mut [0; 200]).is_ok() {}
        self.manager.set_nonblocking(false).unwrap();
        self.manager.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 200];
        let told = self.manager.recv(&mut buffer);
        told.is_ok_and(|len| buffer[..len].starts_with(b"WATCHDOG=1\n"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn said(&self, stream: &str) -> String {
        std::fs::read_to_string(self.virsh.path().join(stream)).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "it said {:?} and {:?}",
                self.said("stdout"),
                self.said("stderr")
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(host: &Host, virsh: &tempfile::TempDir, watchdog: Duration, journal: bool) -> Child {
    let file = |name| std::fs::File::create(virsh.path().join(name)).unwrap();
    let (stdout, stderr) = (file("stdout"), file("stderr"));
    let mut command = macfence_with(virsh);
    if journal {
        let stat = stderr.metadata().unwrap();
        let stream = format!("{}:{}", stat.dev(), stat.ino());
        command.env("JOURNAL_STREAM", stream);
    }
    command
        .arg("watch")
        .env("NOTIFY_SOCKET", virsh.path().join("notify"))
        .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    host.run(|| command.spawn().unwrap())
}

#[test]
fn a_hanging_watch_gives_no_sign_of_life_and_its_fences_stay() {
    let watchdog = Duration::from_millis(900);
    let (mut service, _) = Service::start(watchdog, false);
    let (fenced, generation) = (service.host.fenced(), service.host.generation());
    assert_eq!(fenced, ["one-7"]);
    for _ in 0..3 {
        assert!(service.lives(watchdog));
    }
    service.signal(Signal::SIGSTOP);
    assert!(!service.lives(watchdog * 2));
    // systemd ends a hanging service this way.
    service.signal(Signal::SIGABRT);
    service.signal(Signal::SIGCONT);
    let status = service.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert_eq!(service.host.generation(), generation);
    service.child = spawn(&service.host, &service.virsh, watchdog, false);
    until("it is ready", || service.told().contains("READY=1"));
    // The rules have not changed meanwhile.
    assert_eq!(service.host.generation(), generation);
    assert_eq!(service.host.fenced(), fenced);
    // The new process restores fences.
    service.host.ok("nft", &["flush ruleset"]);
    until("it is back", || service.host.fenced() == fenced);
}

#[test]
fn a_hanging_virsh_does_not_trigger_the_watchdog() {
    // Longer than the longest step, as in the unit.
    let watchdog = Duration::from_secs(12);
    let (service, _) = Service::start(watchdog, false);
    script(&service.virsh, "virsh", "exec sleep 60");
    let before = Instant::now();
    service
        .host
        .ok("nft", &["flush chain bridge macfence vm-one-7"]);
    until("it is killed", || {
        service
            .said("stderr")
            .contains("virsh did not end within 10 s")
    });
    assert!(before.elapsed() > Duration::from_secs(9));
    assert!(service.lives(watchdog));
}

/// Returns the fields of a journal entry. Joins those that occur more than once.
fn fields(entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = entry;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let name = String::from_utf8(rest[..end].to_vec()).unwrap();
        let len = u64::from_le_bytes(rest[end + 1..end + 9].try_into().unwrap()) as usize;
        let value = String::from_utf8(rest[end + 9..end + 9 + len].to_vec()).unwrap();
        rest = &rest[end + 10 + len..];
        let field = fields.entry(name).or_default();
        if !field.is_empty() {
            *field += " ";
        }
        *field += &value;
    }
    fields
}

#[test]
fn repairs_are_in_the_journal_with_vm_ports_and_action() {
    let (service, journal) = Service::start(Duration::from_secs(60), true);
    let journal = journal.unwrap();
    let next = || {
        let mut buffer = [0; 4096];
        let len = journal.recv(&mut buffer).unwrap();
        let fields = fields(&buffer[..len]);
        let shown = fields.iter().map(|(name, value)| format!("{name}={value}"));
        shown.collect::<Vec<_>>().join("\n")
    };
    let entry = |action: &str, ports: &str, message: &str| {
        format!(
            "MACFENCE_ACTION={action}\nMACFENCE_PORT={ports}\nMACFENCE_VM=one-7\n\
             MESSAGE={message}\nPRIORITY=5\nSYSLOG_IDENTIFIER=macfence"
        )
    };
    assert_eq!(
        next(),
        entry("fenced", "one-7-0", "fenced one-7: port \"one-7-0\"")
    );
    // The VM gets a second NIC.
    let nics = [
        (A, "one-7-0", "br0"),
        ("02:00:c0:a8:01:05", "one-7-1", "br0"),
    ];
    std::fs::write(
        service.virsh.path().join("one-7.xml"),
        domain("one-7", &nics),
    )
    .unwrap();
    service.host.ports("br0", &["one-7-1"]);
    let mended = next();
    assert!(
        mended.starts_with("MACFENCE_ACTION=mended\nMACFENCE_PORT=one-7-0 one-7-1\n"),
        "{mended}"
    );
    // The VM ends.
    std::fs::write(service.virsh.path().join("names"), "").unwrap();
    service.host.ip("link del one-7-0\nlink del one-7-1\n");
    let removed = "removed one-7: port \"one-7-0\"; port \"one-7-1\"";
    assert_eq!(next(), entry("removed", "one-7-0 one-7-1", removed));
    // Warnings are in the journal too, and only there.
    std::fs::write(service.virsh.path().join("macfence.toml"), "").unwrap();
    script(
        &service.virsh,
        "virsh",
        "echo 'error: no libvirtd' >&2; exit 1",
    );
    service.host.ports("br0", &["other"]);
    let words = "warning: virsh: no libvirtd; the fences stay as they are";
    assert_eq!(
        next(),
        format!("MESSAGE={words}\nPRIORITY=4\nSYSLOG_IDENTIFIER=macfence")
    );
    assert_eq!(
        (service.said("stdout"), service.said("stderr")),
        <_>::default()
    );
    // Without a journal, messages go to standard error.
    service.host.run(|| std::fs::remove_file(JOURNAL).unwrap());
    service.signal(Signal::SIGHUP);
    until("it is said", || {
        service.said("stderr").contains("has been read again")
    });
}

#[test]
fn a_program_that_only_inherits_journal_stream_writes_to_its_standard_error() {
    let host = Host::new();
    let mut command = Command::new(crate::lab::MACFENCE);
    command.args(["--connect", "test:///no-such-file", "sync"]);
    command.env("JOURNAL_STREAM", "8:12345");
    let said = host.exec(&mut command, "").error();
    assert!(said.starts_with("macfence: error: "), "{said}");
}
