//! The packages on a small Debian: what they put there, and take away again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::install::{HOOKS, expected, hook_is, sorted, tree};
use crate::lab::pages::commands;
use crate::lab::{Host, Ran, built, fetched, need, source, tmpfs};

/// The name of the package for an OpenNebula front-end.
const FRONT_END: &str = "macfence-opennebula";

/// The licences of what is linked into the program, where Debian does not keep their texts.
const LICENSES: [&str; 3] = ["LGPL-2.1", "LICENSE", "copyright"];

/// The `deb` or the `rpm` of this name that `make` builds.
pub fn package(kind: &str, name: &str) -> PathBuf {
    let (dir, target) = (format!("target/{kind}"), format!("make {kind}"));
    let entries = built(&dir, &target).read_dir().expect("a directory");
    let mut files = entries.map(|entry| entry.expect("an entry").path());
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let rest = file.strip_prefix(name).unwrap_or_default();
        // The version comes next.
        rest.starts_with(['_', '-'])
            && rest[1..].starts_with(char::is_numeric)
            && path.extension() == Some(OsStr::new(kind))
    };
    let package = files.find(is_it);
    package.unwrap_or_else(|| panic!("{dir} has no package {name}: {target} builds it"))
}

/// A small Debian on a host, which knows no network and is gone with the host.
struct Debian<'a>(&'a Host);

impl<'a> Debian<'a> {
    const ROOT: &'static str = "/run/debian/root";

    fn on(host: &'a Host) -> Self {
        let lower = fetched("debian");
        host.run(|| {
            tmpfs("/run/debian");
            for dir in ["root", "upper", "work"] {
                fs::create_dir(Path::new("/run/debian").join(dir)).expect(dir);
            }
            let above = "upperdir=/run/debian/upper,workdir=/run/debian/work";
            let layers = format!("lowerdir={},{above}", lower.display());
            let (overlay, flags) = (Some("overlay"), MsFlags::empty());
            mount(overlay, Self::ROOT, overlay, flags, Some(&*layers)).expect("an overlay");
        });
        Self(host)
    }

    /// Runs a command line there, of words without blanks in them.
    fn run(&self, command_line: &str) -> Ran {
        let mut chroot = Command::new("chroot");
        chroot.arg(Self::ROOT).args(command_line.split(' '));
        chroot.env_clear().env("DEBIAN_FRONTEND", "noninteractive");
        chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        self.0.exec(&mut chroot, "")
    }

    /// Everything there but what the package managers remember.
    fn files(&self) -> Vec<String> {
        let files = self.run("find / -xdev -path /var -prune -o -print").ok();
        sorted(files.lines().map(str::to_owned))
    }

    /// Checks that the program runs there.
    fn has_macfence(&self) {
        let version = concat!("macfence ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(self.run("macfence --version").ok(), version);
    }
}

/// What only a front-end needs is in a package of its own.
fn is_for_front_ends(line: &str) -> bool {
    line.contains("/share/macfence/opennebula/")
}

/// The pages that a front-end has as well.
fn pages() -> impl Iterator<Item = String> {
    let files = expected("usr").into_iter();
    let pages = files.filter(|line| line.ends_with(".md") && !line.contains("CHANGELOG"));
    let docs = "/doc/macfence/docs/";
    pages
        .filter(move |line| line.contains(docs))
        .map(move |line| line.replace(docs, "/doc/macfence-opennebula/"))
}

/// What a Debian package of this name has besides.
fn of_debian(name: &str) -> [String; 3] {
    [
        format!("644 usr/share/doc/{name}/changelog.Debian.gz"),
        format!("644 usr/share/doc/{name}/copyright"),
        format!("644 usr/share/lintian/overrides/{name}"),
    ]
}

/// Checks which files a Debian package has.
fn has_files(host: &Host, deb: &Path, expected: impl Iterator<Item = String>) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    host.ok(
        "dpkg-deb",
        &["-x", deb.to_str().unwrap(), dir.to_str().unwrap()],
    );
    assert_eq!(tree(host, dir), sorted(expected));
}

#[test]
fn the_deb_installs_with_apt_alone_and_goes_again() {
    let host = Host::new();
    let deb = package("deb", "macfence");
    // Debian's pages are compressed, and zsh's completions elsewhere.
    let files = expected("usr").into_iter();
    let files = files.filter(|line| !is_for_front_ends(line)).map(|line| {
        if line.contains("/man/") {
            line + ".gz"
        } else {
            line.replace("site-functions", "vendor-completions")
        }
    });
    has_files(&host, &deb, files.chain(of_debian("macfence")));
    let depends = host.ok("dpkg-deb", &["-f", deb.to_str().unwrap(), "Depends"]);
    assert_eq!(depends, "nftables (>= 0.9.8) | ebtables\n");

    let debian = Debian::on(&host);
    let root = Path::new(Debian::ROOT);
    // Answers that apt would ask for, and no other user, who could not read the package.
    let answers = "APT::Get::Assume-Yes true;\nAPT::Install-Recommends false;\n\
        APT::Sandbox::User root;\nDpkg::Use-Pty 0;\n";
    host.run(|| {
        fs::copy(&deb, root.join(deb.file_name().unwrap())).unwrap();
        fs::write(root.join("etc/apt/apt.conf.d/answers"), answers).unwrap();
        let install = commands("getting-started.md", "1. Install").concat();
        fs::write(root.join("install"), format!("set -e\ncd /\n{install}")).unwrap();
    });
    let before = debian.files();
    let new = || {
        let mut files = debian.files();
        files.retain(|path| !before.contains(path));
        files
    };
    let ran = debian.run("sh /install");
    assert!(!ran.stderr.contains("warning"), "{ran:?}");
    ran.ok();
    debian.has_macfence();
    let conffiles = debian.run("dpkg-query -W -f ${Conffiles} macfence").ok();
    let conffiles = conffiles.split_whitespace().step_by(2).map(str::to_owned);
    let etc = ["/etc/macfence.toml", "/etc/sudoers.d/macfence"];
    assert_eq!(sorted(conffiles), etc);
    // Nothing came but its files: no unit is enabled.
    let packed = debian.run("dpkg -L macfence").ok();
    let new_files = new();
    let is_packed = |path: &String| packed.lines().any(|line| line == path);
    assert!(new_files.iter().all(is_packed), "{new_files:?}");

    debian.run("dpkg -r macfence").ok();
    // Besides, Debian masks units whose package is removed and not purged.
    let mut left = new();
    left.retain(|path| !path.starts_with("/etc/systemd/system/macfence"));
    assert_eq!(left, [etc[0], "/etc/sudoers.d", etc[1]]);
    debian.run("dpkg -P macfence").ok();
    assert_eq!(debian.files(), before);
}

#[test]
fn the_rpm_installs_and_goes_again() {
    need("rpm");
    let host = Host::new();
    let rpm = package("rpm", "macfence");
    let query = |what: &[&str]| host.ok("rpm", &[&["-qp", rpm.to_str().unwrap()], what].concat());
    // Its hooks are scripts, and licences have a place of their own.
    let licenses = LICENSES.map(|name| format!("644 usr/share/licenses/macfence/{name}"));
    let files = expected("usr").into_iter();
    let files = files.filter(|line| !is_for_front_ends(line));
    let expected = files.chain(licenses);
    let expected = expected.map(|line| line.replace("777 ", "755 ").replacen(' ', " /", 1));
    let files = query(&["--qf", "[%{FILEMODES:octal} %{FILENAMES}\\n]"]);
    let files = files.lines().map(|line| line.replacen("100", "", 1));
    assert_eq!(sorted(files), sorted(expected));
    let requires = query(&["--requires"]);
    for needed in ["nftables >= 0.9.8", "/bin/sh"] {
        assert!(requires.lines().any(|line| line == needed), "{requires}");
    }
    assert!(!requires.contains(".so"), "{requires}");
    assert_eq!(query(&["--recommends"]), "libvirt-client\nsudo\n");
    let flags = query(&["--qf", "[%{FILEFLAGS:fflags} %{FILENAMES}\\n]"]);
    let noreplace = flags.lines().filter_map(|line| line.strip_prefix("cn "));
    let etc = ["/etc/macfence.toml", "/etc/sudoers.d/macfence"];
    assert_eq!(noreplace.collect::<Vec<_>>(), etc);

    let debian = Debian::on(&host);
    // Debian's rpm wants to be sure, and has its database elsewhere.
    let there = [
        "--root",
        Debian::ROOT,
        "--dbpath",
        "/var/lib/rpm",
        "--force-debian",
        "--nodeps",
    ];
    let run = |args: &[&str]| host.ok("rpm", &[&there, args].concat());
    run(&["-i", rpm.to_str().unwrap()]);
    assert_eq!(run(&["-V", "macfence"]), "");
    debian.has_macfence();
    for name in HOOKS {
        hook_is(
            name,
            debian.run(&format!("/usr/share/macfence/hooks/{name} 1 2")),
        );
    }
    for call in ["ebtables-kvm 1 2", "driver-post", "driver-clean"] {
        let name = call.split(' ').next().unwrap();
        hook_is(name, debian.run(&format!("/usr/libexec/macfence/{call}")));
    }
    // A host may be a front-end as well.
    let front_end = package("rpm", FRONT_END);
    let front_end = front_end.to_str().unwrap();
    let query = |what: &str| host.ok("rpm", &["-qp", what, front_end]);
    let license = "/usr/share/licenses/macfence-opennebula/LICENSE".to_owned();
    let path = |line: String| line.split_once(' ').unwrap().1.replacen("usr", "/usr", 1);
    let files = expected_of_front_ends().map(path).chain([license]);
    assert_eq!(
        sorted(query("-l").lines().map(str::to_owned)),
        sorted(files)
    );
    let requires = query("--requires");
    assert!(!requires.contains("nft"), "{requires}");
    run(&["-i", front_end]);
    assert_eq!(run(&["-V", FRONT_END]), "");
    run(&["-e", "macfence", FRONT_END]);
    let mut left = debian.files();
    left.retain(|path| path.contains("macfence"));
    assert!(left.is_empty(), "{left:?}");
}

/// What a front-end has of it.
fn expected_of_front_ends() -> impl Iterator<Item = String> {
    let files = expected("usr").into_iter();
    files.filter(|line| is_for_front_ends(line)).chain(pages())
}

#[test]
fn a_front_end_needs_nothing_but_its_own_package() {
    let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
    let deb = package("deb", FRONT_END);
    has_files(
        &host,
        &deb,
        expected_of_front_ends().chain(of_debian(FRONT_END)),
    );
    let field = |name: &str| host.ok("dpkg-deb", &["-f", deb.to_str().unwrap(), name]);
    assert_eq!(
        (field("Depends").trim(), field("Architecture").trim()),
        ("", "all")
    );

    let debian = Debian::on(&host);
    let copy = |from: &Path, to: &str| {
        host.run(|| fs::copy(from, Path::new(Debian::ROOT).join(to)).unwrap());
    };
    copy(&deb, "front-end.deb");
    copy(&package("deb", "macfence"), "macfence.deb");
    let before = debian.files();
    // Version 0.1 had these files in the package for hosts.
    let old = dir.path().join("old");
    let files = old.join("usr/share/macfence/opennebula");
    fs::create_dir_all(old.join("DEBIAN")).unwrap();
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("oned.conf"), "").unwrap();
    let control = "Package: macfence\nVersion: 0.1.0-1\nArchitecture: amd64\nMaintainer: nobody <n@localhost>\nDescription: old\n";
    fs::write(old.join("DEBIAN/control"), control).unwrap();
    let package = dir.path().join("old.deb");
    host.ok(
        "dpkg-deb",
        &["-b", old.to_str().unwrap(), package.to_str().unwrap()],
    );
    copy(&package, "old.deb");
    debian.run("dpkg -i /old.deb").ok();
    debian.run("dpkg -i /macfence.deb /front-end.deb").ok();
    debian.run("dpkg -P macfence").ok();

    // The pages' own commands, on a front-end without macfence and its drivers.
    let cd = "cd /var/lib/one/remotes/vnm/bridge\n";
    let page = fs::read_to_string(source("docs/opennebula-drivers.md")).unwrap();
    let (_, commands) = page.split_once(cd).expect("commands");
    let (commands, _) = commands.split_once("onehost").expect("the last of them");
    let page = fs::read_to_string(source("docs/opennebula-state-hooks.md")).unwrap();
    let hooks = page.lines().find(|line| line.starts_with("cp ")).unwrap();
    let script = format!(
        "set -e\nmkdir -p /var/lib/one/remotes/hooks /var/lib/one/remotes/vnm/bridge\n{cd}{commands}{hooks}\n"
    );
    host.run(|| fs::write(Path::new(Debian::ROOT).join("script"), script).unwrap());
    debian.run("sh /script").ok();
    for file in [
        "vnm/bridge/post.d/macfence",
        "vnm/bridge/clean.d/macfence",
        "hooks/macfence/post",
    ] {
        debian
            .run(&format!("test -x /var/lib/one/remotes/{file}"))
            .ok();
    }
    debian.run("dpkg -P macfence-opennebula").ok();
    debian.run("rm /script /old.deb").ok();
    assert_eq!(debian.files(), before);
}

#[test]
fn lintian_finds_nothing_wrong_with_the_debs() {
    need("lintian");
    let host = Host::new();
    for name in ["macfence", FRONT_END] {
        let deb = package("deb", name);
        let said = host.ok("lintian", &["--allow-root", deb.to_str().unwrap()]);
        assert_eq!(said, "", "{name}");
    }
}

#[test]
fn the_tarball_has_what_make_install_puts_on_a_host() {
    let host = Host::new();
    let sums = built("target/dist/SHA256SUMS", "make dist");
    let dist = sums.parent().unwrap();
    let mut check = Command::new("sha256sum");
    host.exec(check.args(["-c", "SHA256SUMS"]).current_dir(dist), "")
        .ok();
    let sums = fs::read_to_string(&sums).unwrap();
    let name = sums.split_whitespace().nth(1).unwrap();
    assert!(name.starts_with(concat!("macfence-", env!("CARGO_PKG_VERSION"), "-")));
    let tarball = dist.join(name);

    // As the page has it, for a host where something is in /etc already.
    let page = fs::read_to_string(source("docs/installing.md")).unwrap();
    let commands = page
        .lines()
        .filter_map(|line| line.strip_prefix("sudo tar -C / "));
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/macfence.toml"), "# ours\n").unwrap();
    for command in commands {
        let command = command.replace("macfence-*.tar.gz", tarball.to_str().unwrap());
        let script = format!("tar -C {} {command}", root.display());
        host.ok("sh", &["-euc", &script]);
    }
    assert_eq!(
        fs::read_to_string(root.join("etc/macfence.toml")).unwrap(),
        "# ours\n"
    );
    let licenses = LICENSES.map(|name| format!("644 usr/local/share/doc/macfence/{name}"));
    let expected = expected("usr/local").into_iter().chain(licenses);
    assert_eq!(tree(&host, root), sorted(expected));
    let owners = host.ok(
        "tar",
        &["--numeric-owner", "-tvf", tarball.to_str().unwrap()],
    );
    assert!(
        owners.lines().all(|line| line.contains(" 0/0 ")),
        "{owners}"
    );
}
