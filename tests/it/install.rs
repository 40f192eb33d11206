//! What `make install` puts on a host, and what it says there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use clap::{CommandFactory, Parser};
use macfence::cli::{Cli, LINKS};
use macfence::config::Config;

use crate::lab::{Host, Ran, built, need, source};

/// Every file below `PREFIX`, with its mode; 777 is a link.
const FILES: &str = "\
644 lib/systemd/system/macfence-metrics.service
644 lib/systemd/system/macfence-metrics.timer
644 lib/systemd/system/macfence-sync.service
644 lib/systemd/system/macfence.service
644 lib/systemd/system/nftables.service.d/macfence.conf
644 lib/tmpfiles.d/macfence.conf
777 libexec/macfence/driver-clean
777 libexec/macfence/driver-post
777 libexec/macfence/ebtables-flush
777 libexec/macfence/ebtables-kvm
777 libexec/macfence/ebtables-xen
777 libexec/macfence/one-clean
777 libexec/macfence/one-post
755 sbin/macfence
644 share/bash-completion/completions/macfence
644 share/doc/macfence/README.md
644 share/doc/macfence/docs/CHANGELOG.md
644 share/doc/macfence/docs/CONTRIBUTING.md
644 share/doc/macfence/docs/SECURITY.md
644 share/doc/macfence/docs/bench.csv
644 share/doc/macfence/docs/bench.svg
644 share/doc/macfence/docs/comparison.md
644 share/doc/macfence/docs/configuration.md
644 share/doc/macfence/docs/getting-started.md
644 share/doc/macfence/docs/how-it-works.md
644 share/doc/macfence/docs/incus.md
644 share/doc/macfence/docs/installing.md
644 share/doc/macfence/docs/libvirt.md
644 share/doc/macfence/docs/migrating.md
644 share/doc/macfence/docs/oned-conf.md
644 share/doc/macfence/docs/opennebula-drivers.md
644 share/doc/macfence/docs/opennebula-state-hooks.md
644 share/doc/macfence/docs/performance.md
644 share/doc/macfence/docs/threat-model.md
644 share/doc/macfence/docs/service.md
644 share/doc/macfence/docs/troubleshooting.md
644 share/doc/macfence/docs/who-hears-whom.svg
644 share/doc/macfence/docs/xen.md
644 share/fish/vendor_completions.d/macfence.fish
777 share/macfence/hooks/ebtables-flush
777 share/macfence/hooks/ebtables-kvm
777 share/macfence/hooks/ebtables-xen
755 share/macfence/libvirt/macfence
644 share/macfence/opennebula/oned.conf
644 share/macfence/opennebula/onehook/hotplug-nic.tmpl
644 share/macfence/opennebula/onehook/running.tmpl
644 share/macfence/opennebula/onehook/shutdown.tmpl
755 share/macfence/opennebula/remotes/hooks/macfence/flush
755 share/macfence/opennebula/remotes/hooks/macfence/post
755 share/macfence/opennebula/remotes/vnm/clean.d/macfence
755 share/macfence/opennebula/remotes/vnm/post.d/macfence
644 share/macfence/prometheus/alerts.yml
644 share/macfence/prometheus/dashboard.json
644 share/macfence/prometheus/opennebula-node-exporter.conf
755 share/macfence/xen/macfence.hook
755 share/macfence/xen/vif-macfence
644 share/man/man5/macfence.toml.5
644 share/man/man8/macfence-apply.8
644 share/man/man8/macfence-check.8
644 share/man/man8/macfence-doctor.8
644 share/man/man8/macfence-drops.8
644 share/man/man8/macfence-explain.8
644 share/man/man8/macfence-export.8
644 share/man/man8/macfence-flush.8
644 share/man/man8/macfence-hook-ebtables-flush.8
644 share/man/man8/macfence-hook-ebtables-kvm.8
644 share/man/man8/macfence-hook-ebtables-xen.8
644 share/man/man8/macfence-hook-libvirt.8
644 share/man/man8/macfence-hook-one-clean.8
644 share/man/man8/macfence-hook-one-post.8
644 share/man/man8/macfence-hook-xen.8
644 share/man/man8/macfence-hook.8
644 share/man/man8/macfence-install-hook-libvirt.8
644 share/man/man8/macfence-install-hook-opennebula.8
644 share/man/man8/macfence-install-hook-xen.8
644 share/man/man8/macfence-install-hook.8
644 share/man/man8/macfence-list.8
644 share/man/man8/macfence-metrics.8
644 share/man/man8/macfence-migrate.8
644 share/man/man8/macfence-remove.8
644 share/man/man8/macfence-sync.8
644 share/man/man8/macfence-watch.8
644 share/man/man8/macfence.8
644 share/zsh/site-functions/_macfence";

/// Every file in `/etc`.
const ETC: [&str; 2] = ["440 etc/sudoers.d/macfence", "644 etc/macfence.toml"];

/// What a host has after an installation below this prefix, as [`tree`] lists it.
pub fn expected(prefix: &str) -> Vec<String> {
    let below = |line: &str| line.replacen(' ', &format!(" {prefix}/"), 1);
    let etc = ETC.iter().map(|&line| line.to_owned());
    sorted(FILES.lines().map(below).chain(etc))
}

pub fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// What is in a directory: mode and path of each file and each link.
pub fn tree(host: &Host, dir: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(dir)
        .args(["!", "-type", "d", "-printf", "%m %P\\n"]);
    sorted(host.exec(&mut find, "").ok().lines().map(str::to_owned))
}

/// `make install` or `make uninstall` with this `DESTDIR`; returns what it says.
fn make(host: &Host, target: &str, destdir: &Path, more: &[&str]) -> String {
    need("make");
    for path in ["target/static/release/macfence", "target/share"] {
        built(path, "make");
    }
    let mut make = Command::new("make");
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PREFIX", "DESTDIR"] {
        make.env_remove(inherited);
    }
    make.current_dir(source(""));
    // Tests run side by side, and build nothing: what is there is what they look at.
    make.args(["-s", "-o", "build", target]).args(more);
    host.exec(make.arg(format!("DESTDIR={}", destdir.display())), "")
        .ok()
}

/// What a wrong call of a hook says: it names the entry point.
pub fn hook_is(name: &str, ran: Ran) {
    assert_eq!(ran.status, 2, "{ran:?}");
    let usage = format!("Usage: macfence hook {name}");
    assert!(ran.stderr.contains(&usage), "{ran:?}");
}

/// The names of the seed's scripts.
pub const HOOKS: [&str; 3] = ["ebtables-kvm", "ebtables-xen", "ebtables-flush"];

#[test]
fn make_install_puts_each_file_in_its_place_and_uninstall_takes_it_away() {
    let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
    let root = dir.path();
    assert_eq!(make(&host, "install", root, &["PREFIX=/usr"]), "");
    assert_eq!(tree(&host, root), expected("usr"));

    need("visudo");
    let sudoers = root.join("etc/sudoers.d/macfence");
    host.ok("visudo", &["-c", "-s", "-f", sudoers.to_str().unwrap()]);
    let sudoers = fs::read_to_string(sudoers).unwrap();
    let libexec = root.join("usr/libexec/macfence");
    for name in LINKS {
        let path = format!("/usr/libexec/macfence/{name}");
        let allowed = sudoers.split([' ', ',', '\n']).any(|word| word == path);
        assert!(allowed, "{path}: {sudoers}");
        let link = libexec.join(name);
        assert!(link.canonicalize().unwrap().starts_with(root));
        // No entry point takes an argument that is not UTF-8.
        let wrong = OsStr::from_bytes(b"\xff");
        hook_is(name, host.exec(Command::new(link).arg(wrong), ""));
    }
    // It names no other path.
    let rules = sudoers.lines().filter(|line| !line.starts_with(['#', 'D']));
    let paths = rules.flat_map(|line| line.matches('/')).count();
    assert_eq!(paths, LINKS.len() * 4, "{sudoers}");
    let mut left = Command::new("grep");
    let ran = host.exec(left.args(["-rIE", "@[a-z]+@"]).arg(root), "");
    assert_eq!((ran.status, &*ran.stdout), (1, ""));
    let unit = root.join("usr/lib/systemd/system/macfence.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("=/usr/sbin/macfence "), "{unit}");
    let oned = fs::read_to_string(root.join("usr/share/macfence/opennebula/oned.conf")).unwrap();
    for name in HOOKS {
        let link = root.join("usr/share/macfence/hooks").join(name);
        assert!(link.canonicalize().unwrap().starts_with(root));
        hook_is(name, host.exec(Command::new(link).args(["1", "2"]), ""));
        let command = format!("\"/usr/share/macfence/hooks/{name}\"");
        assert_eq!(oned.contains(&command), name != "ebtables-xen", "{oned}");
    }

    // Once more changes nothing, and nobody else's file goes.
    assert_eq!(make(&host, "install", root, &["PREFIX=/usr"]), "");
    assert_eq!(tree(&host, root), expected("usr"));
    let other = root.join("usr/share/man/man8/other.8");
    fs::write(&other, "").unwrap();
    assert_eq!(make(&host, "uninstall", root, &["PREFIX=/usr"]), "");
    assert_eq!(tree(&host, root), ["644 usr/share/man/man8/other.8"]);
    let root = root.to_str().unwrap();
    assert_eq!(host.ok("find", &[root, "-name", "*macfence*"]), "");
}

#[test]
fn the_prefix_is_usr_local_unless_another_is_named() {
    let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
    make(&host, "install", dir.path(), &[]);
    assert_eq!(tree(&host, dir.path()), expected("usr/local"));
    make(&host, "uninstall", dir.path(), &[]);
    assert!(tree(&host, dir.path()).is_empty());
}

#[test]
fn what_the_operator_has_changed_stays() {
    let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
    for name in ["macfence.toml", "sudoers.d/macfence"] {
        let path = dir.path().join("etc").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "# ours\n").unwrap();
        let kept = format!("kept /etc/{name}: it is not the one that comes with macfence\n");
        assert_eq!(make(&host, "install", dir.path(), &[]), kept);
        let left = kept.replace("kept", "left");
        assert_eq!(make(&host, "uninstall", dir.path(), &[]), left);
        assert_eq!(fs::read_to_string(&path).unwrap(), "# ours\n");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_shipped_configuration_shows_every_key_with_its_default() {
    let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
    let with = |text: &str| {
        let path = dir.path().join("macfence.toml");
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        ["macfence", "--config", &path, "list"].map(str::to_owned)
    };
    let shipped = fs::read_to_string(source("share/macfence.toml")).unwrap();
    // Words of explanation have a blank behind the #.
    let keys = shipped.lines().filter_map(|line| line.strip_prefix('#'));
    let keys: Vec<_> = keys
        .filter(|line| line.starts_with(char::is_alphabetic))
        .collect();
    let uncommented = with(&keys.join("\n"));
    host.macfence(&uncommented[1..]).ok();
    // On which lines values are is another matter.
    let config = |args| Config {
        origins: Default::default(),
        ..Config::new(Cli::parse_from(args).global).unwrap()
    };
    let set = config(uncommented);
    assert_eq!(set, config(with("")));
    assert_eq!(set, config(with(&shipped)));

    // The error names what would have been known.
    let error = host.macfence(&with("no-such-key = 1")[1..]).error();
    let known = error.split('`').skip(1).step_by(2).map(str::to_owned);
    let name = |line: &&str| line.split_once(" = ").unwrap().0.to_owned();
    let shown = keys.iter().map(name).chain(["no-such-key".to_owned()]);
    assert_eq!(sorted(shown), sorted(known));
    let page = fs::read_to_string(source("share/man/macfence.toml.5")).unwrap();
    for key in keys.iter().map(name) {
        let heading = format!("\\fB{}\\fR = ", key.replace('-', "\\-"));
        assert!(page.contains(&heading), "{key}");
    }
}

/// What `man` makes of a page; it must not complain.
fn man(host: &Host, page: &Path) -> String {
    need("man");
    let mut man = Command::new("man");
    man.args(["-l", "--warnings", "-E", "UTF-8"]).arg(page);
    man.env("MANPAGER", "cat").env("MANWIDTH", "500");
    let ran = host.exec(&mut man, "");
    assert_eq!(ran.stderr, "", "{}", page.display());
    ran.ok()
}

/// Checks the pages of a command and its subcommands.
fn pages(host: &Host, command: &clap::Command, name: &str) {
    let path = format!("target/share/man/man8/{}.8", name.replace(' ', "-"));
    let page = man(host, &built(&path, "make"));
    let about = command.get_about().expect("a description").to_string();
    for words in [
        format!("{} - {about}", name.replace(' ', "-")),
        format!("{name} ["),
    ] {
        assert!(page.contains(&words), "{words}: {page}");
    }
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    for subcommand in shown {
        pages(
            host,
            subcommand,
            &format!("{name} {}", subcommand.get_name()),
        );
    }
}

#[test]
fn every_subcommand_has_a_man_page() {
    let host = Host::new();
    pages(&host, &Cli::command(), "macfence");
    let main = man(&host, &built("target/share/man/man8/macfence.8", "make"));
    for section in ["FILES", "EXIT STATUS", "SEE ALSO"] {
        assert!(main.lines().any(|line| line == section), "{main}");
    }
    man(&host, &source("share/man/macfence.toml.5"));
}

#[test]
fn the_units_are_such_as_systemd_takes_and_hold_the_service_in() {
    need("systemd-analyze");
    let dir = tempfile::tempdir().unwrap();
    let shipped = |name: &str| fs::read_to_string(source("share/systemd").join(name)).unwrap();
    let units = ["macfence.service", "macfence-sync.service"];
    let sandbox = |unit: &str| {
        let text = shipped(unit);
        let (_, sandbox) = text.split_once("CapabilityBoundingSet=").unwrap();
        sandbox.split_once("[Install]").unwrap().0.to_owned()
    };
    assert_eq!(sandbox(units[0]), sandbox(units[1]));
    for unit in units {
        let path = dir.path().join(unit);
        fs::write(
            &path,
            shipped(unit).replace("@sbindir@/macfence", "/bin/true"),
        )
        .unwrap();
        let analyze = |args: &[&str]| {
            let mut command = Command::new("systemd-analyze");
            let output = command.args(args).arg(&path).output().unwrap();
            // What it does not know it only says.
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() && said.is_empty(),
                "{unit}: {output:?}"
            );
        };
        analyze(&["verify", "--man=no"]);
        // Exposure of at most 2.0, in tenths.
        analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"]);
    }
}
