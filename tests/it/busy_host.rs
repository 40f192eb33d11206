//! A host on which VMs start, get NICs and end while `watch` runs and other programs reload their
//! own rules.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::lab::{Host, domain, macfence_with, script, until};

const VMS: usize = 100;
const AT_A_TIME: usize = 8;

/// A hypervisor that runs the domains whose XML is in a directory.
struct Hypervisor(tempfile::TempDir);

impl Hypervisor {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let says = "cd ${0%/*}/run; case $4 in 'list --name') ls; exit;; esac; \
            for n in $(echo \"$4\" | tr ';' '\\n' | sed -n \"s/.*'\\(.*\\)'.*/\\1/p\"); do \
            cat $n 2>/dev/null || { echo \"error: failed to get domain '$n'\" >&2; r=1; }; done; \
            exit $r";
        script(&dir, "virsh", says);
        Self(dir)
    }

    /// Starts or changes a domain, or ends it if `xml` is `None`.
    fn runs(&self, name: &str, xml: Option<&str>) {
        let (new, file) = (self.0.path().join(name), self.file(name));
        match xml {
            Some(xml) => std::fs::write(&new, xml).and_then(|()| std::fs::rename(new, file)),
            None => std::fs::remove_file(file),
        }
        .unwrap();
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("run").join(name)
    }
}

/// The ports of each VM that macfence has reported as fenced, and not as open since.
type Promised = Mutex<BTreeMap<String, Vec<String>>>;

struct Storm<'a> {
    host: &'a Host,
    hypervisor: Hypervisor,
    promised: Promised,
}

impl Storm<'_> {
    fn macfence(&self, args: &[&str], stdin: &str) {
        let mut command = macfence_with(&self.hypervisor.0);
        self.host.exec(command.args(args), stdin).ok();
    }

    /// A VM starts, gets a NIC, and ends.
    fn life(&self, number: usize) {
        let name = format!("vm{number}");
        let nics = [format!("vm{number}-0"), format!("vm{number}-1")];
        let mac = |nic: usize| format!("02:00:c0:a8:{number:02x}:{nic:02x}");
        let described = |count: usize| {
            let macs: Vec<_> = (0..count).map(mac).collect();
            let nics: Vec<_> = macs
                .iter()
                .zip(&nics)
                .map(|(m, n)| (&**m, &**n, "br0"))
                .collect();
            domain(&name, &nics)
        };
        let promise = |ports: &[String]| {
            self.promised
                .lock()
                .unwrap()
                .insert(name.clone(), ports.to_vec());
        };
        let hook = |operation: &str, xml: &str| {
            self.macfence(
                &["hook", "libvirt", "--", &name, operation, "begin", "-"],
                xml,
            );
        };
        // The order is libvirt's: the port, the hook, and then the domain shows in virsh's list.
        self.host.ports("br0", &[&nics[0]]);
        hook("start", &described(1));
        promise(&nics[..1]);
        self.hypervisor.runs(&name, Some(&described(1)));
        self.host.ports("br0", &[&nics[1]]);
        self.hypervisor.runs(&name, Some(&described(2)));
        match number % 2 {
            // An explicit apply fences the second NIC, or watch does.
            0 => self.macfence(&["apply", &name], ""),
            _ => until("watch has fenced it", || self.holds(&nics[1])),
        }
        promise(&nics);
        self.macfence(&["apply", &name], "");
        self.promised.lock().unwrap().remove(&name);
        self.hypervisor.runs(&name, None);
        nics.iter().for_each(|port| self.host.unplug(port));
        if !number.is_multiple_of(3) {
            hook("stopped", &described(2));
        }
    }

    fn holds(&self, port: &str) -> bool {
        self.host
            .ok("nft", &["list", "ruleset"])
            .contains(&format!("oifname \"{port}\""))
    }

    /// Checks that the fences that were promised before, and still are afterwards, were there in
    /// between.
    fn sample(&self) {
        let before = self.promised.lock().unwrap().clone();
        let ruleset = self
            .host
            .ok("nft", &["list", "table", "bridge", "macfence"]);
        let after = self.promised.lock().unwrap().clone();
        for (vm, ports) in before.iter().filter(|(vm, _)| after.contains_key(*vm)) {
            assert!(ruleset.contains("iifname vmap @ports"), "{ruleset}");
            for port in ports {
                for part in [
                    format!("iifname \"{port}\" ether saddr"),
                    format!("oifname \"{port}\" ether saddr"),
                    format!("\"{port}\" : jump vm-{vm}"),
                ] {
                    assert!(ruleset.contains(&part), "{part}: {ruleset}");
                }
            }
        }
    }
}

#[test]
fn a_vm_reported_as_fenced_is_fenced_at_every_moment() {
    let host = Host::new();
    host.bridge("br0");
    let storm = Storm {
        host: &host,
        hypervisor: Hypervisor::new(),
        promised: Promised::default(),
    };
    let log = storm.hypervisor.0.path().join("log");
    let mut watch = host.run(|| {
        let mut watch = macfence_with(&storm.hypervisor.0);
        watch.arg("watch");
        let file = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap()
        };
        watch.stdout(Stdio::null()).stderr(file()).spawn().unwrap()
    });
    let over = AtomicBool::new(false);
    let (next, samples) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (storm, over) = (&storm, &over);
    thread::scope(|scope| {
        let other = "add table inet other\nflush table inet other\nadd chain inet other c\n\
                     add rule inet other c counter accept\n";
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                storm
                    .host
                    .exec(Command::new("nft").args(["-f", "-"]), other)
                    .ok();
            }
        });
        scope.spawn(|| {
            until("the table is there", || {
                !storm.promised.lock().unwrap().is_empty()
            });
            while !over.load(Ordering::Relaxed) {
                storm.sample();
                samples.fetch_add(1, Ordering::Relaxed);
            }
        });
        let lives: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                scope.spawn(|| {
                    while let number @ 0..VMS = next.fetch_add(1, Ordering::Relaxed) {
                        storm.life(number);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = lives.into_iter().map(|life| life.join()).collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|life| life.unwrap());
    });
    until("watch has cleaned up", || host.fenced().is_empty());
    storm.macfence(&["check"], "");
    assert!(samples.into_inner() > 20);
    assert!(watch.try_wait().unwrap().is_none(), "watch has ended");
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "");
}
