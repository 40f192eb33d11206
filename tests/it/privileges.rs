//! As OpenNebula's hooks run: by a user who may run nft through sudo, and nothing else.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::lab::{Host, IS_LOADING, LOGIN_PATH, domain, for_everybody, need, script, tmpfs};

/// A host where nobody may run nft through sudo.
fn host() -> Host {
    need("sudo");
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0", "one-2-0"]);
    host.run(|| {
        tmpfs("/etc/sudoers.d");
        let rule = "nobody ALL=(root) NOPASSWD: /usr/sbin/nft\n";
        std::fs::write("/etc/sudoers.d/macfence", rule).unwrap();
    });
    host
}

#[test]
fn an_nft_that_hangs_behind_sudo_is_killed_and_loads_nothing_later() {
    let host = host();
    let program = for_everybody();
    let dir = program.path().display();
    // sudo's rule names /usr/sbin/nft: that is what must be slow.
    host.run(|| {
        std::fs::create_dir_all(program.path().join("real")).unwrap();
        std::fs::copy("/usr/sbin/nft", program.path().join("real/nft")).unwrap();
        script(
            &program,
            "slow",
            &format!("{IS_LOADING} && echo $$ >{dir}/pid && sleep 12; exec {dir}/real/nft \"$@\""),
        );
        let none: Option<&str> = None;
        let slow = program.path().join("slow");
        nix::mount::mount(
            Some(&slow),
            "/usr/sbin/nft",
            none,
            nix::mount::MsFlags::MS_BIND,
            none,
        )
        .unwrap();
    });
    let before = host.generation();
    let xml = domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]);
    let error = host
        .as_nobody(&program, &["apply", "--xml", "-"], &xml)
        .error();
    assert!(
        error.contains("nft did not end within 10 s and was killed")
            && !error.contains("nothing was changed"),
        "{error}"
    );
    let pid = std::fs::read_to_string(program.path().join("pid")).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists());
    assert_eq!(host.generation(), before);
}

#[test]
fn sudo_nft_is_all_that_is_needed() {
    let host = host();
    let program = for_everybody();
    let as_nobody = |args: &[&str], stdin: &str| {
        let mut command = Command::new(program.path().join("macfence"));
        let command = command.args(args).env_clear().env("PATH", LOGIN_PATH);
        host.exec(command.uid(65534).gid(65534), stdin)
    };
    for (vm, port) in [("one-1", "one-1-0"), ("one-2", "one-2-0")] {
        let xml = domain(vm, &[("02:00:c0:a8:00:05", port, "br0")]);
        as_nobody(&["apply", "--xml", "-"], &xml).ok();
        let before = host.generation();
        as_nobody(&["apply", "--xml", "-"], &xml).ok();
        assert_eq!(host.generation(), before);
    }
    assert_eq!(host.fenced(), ["one-1", "one-2"]);
    assert!(as_nobody(&["list"], "").ok().contains("one-2-0"));
    // Root and the user exclude each other: both take the same lock.
    as_nobody(&["remove", "one-1"], "").ok();
    host.unplug("one-2-0");
    as_nobody(&["hook", "ebtables-flush"], "").ok();
    assert!(host.fenced().is_empty());
}

#[test]
fn a_sudo_that_keeps_nft_from_what_it_is_asked_is_named() {
    let host = host();
    let program = for_everybody();
    let apply = || {
        let xml = domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]);
        host.as_nobody(&program, &["apply", "--xml", "-"], &xml)
    };
    let sudoers = |defaults: &str| {
        host.run(|| {
            tmpfs("/var/log");
            std::fs::write("/etc/sudoers.d/defaults", defaults).unwrap();
        });
    };
    sudoers("Defaults log_input\n");
    let before = host.generation();
    let error = apply().error();
    assert!(error.contains("!log_input"), "{error}");
    assert_eq!(host.generation(), before);
    sudoers("Defaults log_input\nDefaults!/usr/sbin/nft !log_input\n");
    apply().ok();
    sudoers("Defaults use_pty\n");
    apply().ok();
    assert_eq!(host.fenced(), ["one-1"]);
}
