//! A whole Debian 12 under QEMU, with systemd, AppArmor and libvirt, for what a network namespace
//! cannot show. `tests/setup` makes it, `tests/lab/booted/` is what runs in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{Ran, fetched, need};

/// How long it may take from power on to power off, in seconds: a minute or two where nothing else runs.
const TIME_LIMIT: &str = "900";

/// Boots it with these files in `/test`, each by its own name or as (name, file), and runs a shell script
/// there as root. Nothing that happens in it is kept. Prints what its console said, for a test that
/// fails.
pub fn run(files: &[(&str, &Path)], shell_script: &str) -> Ran {
    for program in ["qemu-system-x86_64", "tar", "timeout"] {
        need(program);
    }
    let [kernel, initrd, disk] =
        ["vmlinuz", "initrd.img", "disk.img"].map(|name| fetched(&format!("booted/{name}")));
    let dir = tempfile::tempdir().expect("a directory");
    let second = pack(dir.path(), files, shell_script);
    let started = Instant::now();
    let mut qemu = Command::new("timeout");
    qemu.args([TIME_LIMIT, "qemu-system-x86_64"]);
    qemu.args(
        "-accel tcg,thread=multi -cpu Nehalem -smp 2 -m 1536 -nographic -nic none -no-reboot"
            .split(' '),
    );
    qemu.args(["-monitor", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    // Mitigations change page tables at each system call, and emulated ones are slow. Where the machine is
    // busy, QEMU's timer is late, and the kernel would take it for broken.
    let words = "root=/dev/vda rw console=ttyS0 quiet apparmor=1 security=apparmor mitigations=off \
                 no_timer_check panic=-1 \
                 systemd.show_status=0";
    qemu.args(["-append", words]);
    for (file, more) in [(&disk, "snapshot=on"), (&second, "readonly=on")] {
        let drive = format!("file={},format=raw,if=virtio,{more}", file.display());
        qemu.args(["-drive", &drive]);
    }
    qemu.args(["-device", "virtio-serial"]);
    let outputs = ["stdout", "stderr", "status"];
    for name in outputs {
        let path = dir.path().join(name);
        qemu.args([
            "-chardev",
            &format!("file,id={name},path={}", path.display()),
        ]);
        qemu.args([
            "-device",
            &format!("virtserialport,chardev={name},name={name}"),
        ]);
    }
    let output = qemu.output().expect("qemu");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("booted for {:.0?}", started.elapsed());
    let [stdout, stderr, status] = outputs.map(|name| {
        let bytes = std::fs::read(dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let Ok(status) = status.trim().parse() else {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("the script did not end: {stdout}{stderr}{said}");
    };
    Ran {
        command: "the script in the booted system".to_owned(),
        status,
        stdout,
        stderr,
    }
}

/// The second disk: a tar file.
fn pack(dir: &Path, files: &[(&str, &Path)], shell_script: &str) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    for (name, file) in files {
        let mut copy = Command::new("cp");
        copy.arg("-rL").arg(file).arg(tree.join(name));
        assert!(copy.status().expect("cp").success(), "{}", file.display());
    }
    std::fs::write(tree.join("script"), shell_script).expect("the script");
    let archive = dir.join("files.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(&tree)
        .args(["--owner=0", "--group=0", "-cf"]);
    let status = tar.arg(&archive).arg(".").status();
    assert!(status.expect("tar").success(), "tar");
    archive
}
