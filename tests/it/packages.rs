//! The packages on a small Debian: what they put there, and take away again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::install::{HOOKS, expected, hook_is, sorted, tree};
use crate::lab::{Host, Ran, built, fetched, need, tmpfs};

/// The `deb` or the `rpm` that `make` builds.
fn package(kind: &str) -> PathBuf {
    let (dir, target) = (format!("target/{kind}"), format!("make {kind}"));
    let entries = built(&dir, &target).read_dir().expect("a directory");
    let mut files = entries.map(|entry| entry.expect("an entry").path());
    let package = files.find(|path| path.extension() == Some(OsStr::new(kind)));
    package.unwrap_or_else(|| panic!("{dir} has no package: {target} builds it"))
}

/// A small Debian on a host, which knows no network and is gone with the host.
struct Debian<'a>(&'a Host);

impl<'a> Debian<'a> {
    const ROOT: &'static str = "/run/debian/root";

    fn on(host: &'a Host) -> Self {
        let lower = fetched("debootstrap");
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

#[test]
fn the_deb_installs_with_apt_alone_and_goes_again() {
    let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
    let deb = package("deb");
    let path = deb.to_str().unwrap();
    host.ok("dpkg-deb", &["-x", path, dir.path().to_str().unwrap()]);
    // Debian's pages are compressed, and zsh's completions elsewhere.
    let expected = expected("usr").into_iter();
    let expected = expected.map(|line| {
        if line.contains("/man/") {
            line + ".gz"
        } else {
            line.replace("site-functions", "vendor-completions")
        }
    });
    let copyright = "644 usr/share/doc/macfence/copyright".to_owned();
    assert_eq!(tree(&host, dir.path()), sorted(expected.chain([copyright])));
    let depends = host.ok("dpkg-deb", &["-f", path, "Depends"]);
    let (libc, firewalls) = depends.split_once(", ").unwrap();
    assert!(libc.starts_with("libc6 (>= "), "{depends}");
    assert_eq!(firewalls, "nftables (>= 0.9.8) | ebtables\n");

    let debian = Debian::on(&host);
    host.run(|| fs::copy(&deb, Path::new(Debian::ROOT).join("package.deb")).unwrap());
    let before = debian.files();
    let new = || {
        let mut files = debian.files();
        files.retain(|path| !before.contains(path));
        files
    };
    let options = "-qq -y --no-install-recommends -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0";
    let ran = debian.run(&format!("apt-get install {options} /package.deb"));
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
    assert_eq!(new(), [etc[0], "/etc/sudoers.d", etc[1]]);
    debian.run("dpkg -P macfence").ok();
    assert_eq!(debian.files(), before);
}

#[test]
fn the_rpm_installs_and_goes_again() {
    need("rpm");
    let host = Host::new();
    let rpm = package("rpm");
    let query = |what: &[&str]| host.ok("rpm", &[&["-qp", rpm.to_str().unwrap()], what].concat());
    // Its hooks are scripts, and licences have a place of their own.
    let license = "644 usr/share/licenses/macfence/LICENSE".to_owned();
    let expected = expected("usr").into_iter().chain([license]);
    let expected = expected.map(|line| line.replace("777 ", "755 ").replacen(' ', " /", 1));
    let files = query(&["--qf", "[%{FILEMODES:octal} %{FILENAMES}\\n]"]);
    let files = files.lines().map(|line| line.replacen("100", "", 1));
    assert_eq!(sorted(files), sorted(expected));
    let requires = query(&["--requires"]);
    for needed in ["nftables >= 0.9.8", "/bin/sh", "libc.so.6()(64bit)"] {
        assert!(requires.lines().any(|line| line == needed), "{requires}");
    }
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
    run(&["-e", "macfence"]);
    let mut left = debian.files();
    left.retain(|path| path.contains("macfence"));
    assert!(left.is_empty(), "{left:?}");
}
