//! As OpenNebula's hooks run: by a user who may run nft through sudo, and nothing else.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::lab::{Host, domain, need, tmpfs};

#[test]
fn sudo_nft_is_all_that_is_needed() {
    need("sudo");
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0", "one-2-0"]);
    host.run(|| {
        tmpfs("/etc/sudoers.d");
        let rule = "nobody ALL=(root) NOPASSWD: /usr/sbin/nft\n";
        std::fs::write("/etc/sudoers.d/macfence", rule).unwrap();
    });
    let program = host.for_everybody();
    let as_nobody = |args: &[&str], stdin: &str| {
        let mut command = Command::new(program.path().join("macfence"));
        // A login through ssh without a terminal: no system directories in PATH.
        let command = command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
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
