//! Pages below `docs/`, followed literally: their commands are run as they stand, by those and where the
//! page says. OpenNebula's own commands are stand-ins that do to files what the real ones do.

mod configuration;
mod drivers;
mod getting_started;
mod migrating;
mod oned_conf;
mod state_hooks;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::lab::frame::{Kind, frame};
use crate::lab::oneadmin::{self, Oneadmin, REMOTES};
use crate::lab::{
    Host, Ran, Tap, bind, domain, fake_virsh, install, overlay, script, source, tmpfs,
};
use crate::opennebula::{extract, with_port};

/// The directory of OpenNebula's drivers and hooks on a front-end.
const FRONT_END: &str = "/var/lib/one/remotes";

/// What the pages' example has in `trusted`.
const ROUTER: &str = "52:54:00:aa:bb:01";
const VM: &str = "02:00:c0:a8:00:05";
const NEIGHBOUR: &str = "02:00:c0:a8:00:06";
const STRANGER: &str = "02:00:c0:a8:01:07";

/// Copies the drivers and hooks to the host. Like the real one, it leaves there what is no longer here.
const ONEHOST: &str = r#"[ "$*" = "sync --force" ] || { echo "onehost $*" >&2; exit 1; }
cp -rpL /var/lib/one/remotes/. @/host"#;

/// Keeps a file for each hook, and shows it with its runs.
const ONEHOOK: &str = r#"case $1 in
create) name=$(sed -n 's/^NAME *= "\(.*\)"$/\1/p' "$2"); [ -n "$name" ] && cp "$2" "@/hooks/$name";;
delete) rm "@/hooks/$2";;
show) cat "@/hooks/$2"; cat "@/runs/$2";;
*) exit 1;;
esac"#;

/// Notes which VM is to run: the test runs it.
const ONEVM: &str = r#"[ "$1 $#" = "resume 2" ] && echo "$2" >>@/resumed"#;

/// Adds attributes to a network. Of two values the last counts.
const ONEVNET: &str = r#"[ "$1 $3 $#" = "update --append 4" ] && cat "$4" >>"@/networks/$2""#;

/// An OpenNebula: a front-end, and a host with macfence whose VMs 42 and 43 a virsh knows.
struct Cloud {
    front: Host,
    host: Host,
    /// What both share: it carries the stand-ins' work.
    dir: TempDir,
    virsh: TempDir,
}

impl Cloud {
    /// `has_macfence` is whether macfence is installed on the front-end; else the package for front-ends is.
    fn new(has_macfence: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["host", "hooks", "runs", "networks", "remotes/hooks"] {
            fs::create_dir_all(at(part)).unwrap();
        }
        oneadmin::drivers(&at("remotes"));
        let front = Host::new();
        Oneadmin::alone(&front);
        front.run(|| {
            if has_macfence {
                install();
            } else {
                tmpfs("/usr/local");
                overlay("/usr/share");
                let share = source("share/opennebula");
                copy(&share, Path::new("/usr/share/macfence/opennebula"));
            }
            tmpfs("/var/lib");
            bind(at("remotes").to_str().unwrap(), FRONT_END);
            let bin = "/usr/local/bin";
            fs::create_dir_all(bin).unwrap();
            let there = dir.path().to_str().unwrap();
            for (name, text) in [
                ("onehost", ONEHOST),
                ("onehook", ONEHOOK),
                ("onevm", ONEVM),
                ("onevnet", ONEVNET),
            ] {
                script(bin, name, &text.replace('@', there));
            }
        });
        if !has_macfence {
            front.hide("nft");
            front.hide("ebtables");
        }
        let host = Host::new();
        host.run(|| {
            overlay("/etc");
            tmpfs("/root");
            fs::copy(source("share/macfence.toml"), "/etc/macfence.toml").unwrap();
        });
        Oneadmin::without_hooks(&host);
        host.run(|| bind(at("host").to_str().unwrap(), REMOTES));
        host.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        let xml = |name: &str, mac| domain(name, &[(mac, &format!("{name}-0"), "br0")]);
        let (one, two) = (xml("one-42", VM), xml("one-43", NEIGHBOUR));
        let virsh = fake_virsh(&[("one-42", &one), ("one-43", &two)]);
        host.put(&virsh, "virsh");
        for owned in ["/var/lib/one", dir.path().to_str().unwrap()] {
            front.ok("chown", &["-R", "oneadmin:", owned]);
        }
        let cloud = Self {
            front,
            host,
            dir,
            virsh,
        };
        cloud.oneadmin(&cloud.front, "onehost sync --force");
        cloud
    }

    /// Runs commands of a page as root.
    fn root(&self, host: &Host, commands: &str) -> String {
        as_root(host, commands).ok()
    }

    /// Runs commands of a page as `oneadmin`, each of which must succeed.
    fn oneadmin(&self, host: &Host, commands: &str) -> String {
        let one = Oneadmin::known(host);
        let at_home = "cd /var/lib/one 2>/dev/null || cd /";
        one.run(&format!("set -e\n{at_home}\n{commands}"), "").ok()
    }

    /// The template of VM 42, as its driver gets it. Its user has not asked for isolation.
    fn template(&self) -> String {
        extract(&[with_port(0, VM, "bridge", "")])
    }

    /// Lets the host's virsh know no other VM.
    fn runs_only(&self, name: &str) {
        fs::write(self.virsh.path().join("names"), format!("{name}\n")).unwrap();
    }

    /// What `onevm resume` was last called for.
    fn resumed(&self) -> String {
        fs::read_to_string(self.dir.path().join("resumed")).unwrap_or_default()
    }
}

/// Runs a script as root logs in. It ends with the first command that fails.
fn as_root(host: &Host, script: &str) -> Ran {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-ec", script]).current_dir("/").env_clear();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    host.exec(shell.env("PATH", path), "")
}

/// What a root shell prints for a line of a transcript.
fn printed(host: &Host, line: &str) -> String {
    let ran = as_root(host, line);
    assert_eq!((ran.status, &*ran.stderr), (0, ""), "{line}");
    ran.stdout
}

/// Copies a tree, with the modes of its files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Whether a frame from one end is heard at the other.
fn is_heard(from: &Tap, by: &Tap, source: &str) -> bool {
    by.heard();
    let all = "ff:ff:ff:ff:ff:ff".parse().unwrap();
    from.send(&frame(Kind::Arp, source.parse().unwrap(), all, 1));
    !by.heard().is_empty()
}

/// Checks that the VM sends only under its own address, and hears its network and its router alone.
fn is_fenced(vm: &Tap, uplink: &Tap) {
    let heard = [VM, STRANGER, ROUTER].map(|source| is_heard(vm, uplink, source));
    assert_eq!(heard, [true, false, false], "what the VM sends");
    let heard = [NEIGHBOUR, STRANGER, ROUTER].map(|source| is_heard(uplink, vm, source));
    assert_eq!(heard, [true, false, true], "what the VM hears");
}
