//! The shipped program runs on every host, whatever C library the host has.

use std::fs::{copy, create_dir_all};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::lab::{Host, built, domain, fetched, need, tmpfs};

/// Returns the program that the packages and the tarball contain.
pub fn shipped() -> PathBuf {
    built("target/static/release/macfence", "make")
}

#[test]
fn the_program_is_static_and_position_independent() {
    need("readelf");
    let host = Host::new();
    let program = shipped();
    let said = host.ok(
        "readelf",
        &["-W", "-h", "-l", "-d", program.to_str().unwrap()],
    );
    for needed in ["INTERP", "(NEEDED)"] {
        assert!(!said.contains(needed), "{said}");
    }
    for hardening in ["DYN (", "GNU_RELRO", "NOW PIE", "GNU_STACK"] {
        assert!(said.contains(hardening), "{hardening}: {said}");
    }
}

/// A static program that looks up a user loads libraries of the host's glibc. The crate that completes words
/// does so to find a home.
#[test]
fn without_a_home_nothing_is_completed_and_no_user_is_looked_up() {
    let host = Host::new();
    let mut command = Command::new(shipped());
    command.args(["--", "macfence", "--config", "~/"]);
    command.env("MACFENCE_COMPLETE", "bash");
    command.env("_CLAP_COMPLETE_INDEX", "2").env_remove("HOME");
    host.exec(&mut command, "").quiet();
}

/// Fences a VM from inside this root, which holds only a firewall and its libraries.
fn check(lower: &Path, nft: &str) {
    const ROOT: &str = "/run/system/root";
    let host = Host::new();
    let program = shipped();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    host.run(|| {
        tmpfs("/run/system");
        for dir in ["root", "upper", "work"] {
            create_dir_all(Path::new("/run/system").join(dir)).unwrap();
        }
        let above = "upperdir=/run/system/upper,workdir=/run/system/work";
        let layers = format!("lowerdir={},{above}", lower.display());
        let (overlay, none) = (Some("overlay"), None::<&str>);
        mount(overlay, ROOT, overlay, MsFlags::empty(), Some(&*layers)).unwrap();
        let root = Path::new(ROOT);
        for (link, to) in [("lib64", "usr/lib64"), ("lib", "usr/lib")] {
            // The packages of a newer Debian expect these links.
            if !root.join(link).exists() {
                symlink(to, root.join(link)).unwrap();
            }
        }
        for dir in ["dev", "proc", "sys", "run"] {
            let to = root.join(dir);
            create_dir_all(&to).unwrap();
            if dir != "run" {
                let from = Path::new("/").join(dir);
                mount(
                    Some(&from),
                    &to,
                    none,
                    MsFlags::MS_BIND | MsFlags::MS_REC,
                    none,
                )
                .unwrap();
            }
        }
        copy(program, root.join("usr/sbin/macfence")).unwrap();
    });
    let there = |args: &[&str], stdin: &str| {
        let mut chroot = Command::new(need("chroot"));
        chroot.arg(ROOT).args(args).env_clear();
        chroot.env("PATH", "/usr/sbin:/usr/bin");
        host.exec(&mut chroot, stdin).ok()
    };
    let said = there(&["/usr/sbin/nft", "--version"], "");
    assert!(said.contains(nft), "{said}");
    let xml = domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]);
    there(&["/usr/sbin/macfence", "apply", "--xml", "-"], &xml);
    // This machine's nft may not understand rules of a newer one, so list them with nft in there.
    let ruleset = there(&["/usr/sbin/nft", "list", "ruleset"], "");
    assert!(ruleset.contains("vm-one-1"), "{ruleset}");
}

#[test]
fn it_fences_on_debian_11() {
    check(&fetched("nft/0.9.8/fs"), "v0.9.8 ");
}

#[test]
fn it_fences_on_debian_12() {
    check(&fetched("debian"), "v1.0.");
}

#[test]
fn it_fences_on_debian_13() {
    check(&fetched("nft/1.1.3/fs"), "v1.1.3 ");
}
