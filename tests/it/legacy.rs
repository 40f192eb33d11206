//! Real old hosts: stock Debian kernels with the legacy ebtables and no nft, in QEMU. What
//! [`super::old_host`] claims is claimed there again, by this same program.

use std::fs::{copy, create_dir_all, write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::lab::{MACFENCE, fetched, need};

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in llc stp bridge x_tables ebtables ebtable_filter ebtable_nat \
    ebt_ip ebt_ip6 ebt_pkttype tun; do
  insmod /modules/$module.ko
done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "kernel $(uname -r), $(ebtables --version), nft: $(which nft)"
/it --test-threads 1 old_host::
echo "guest: status $?"
poweroff -f
"#;

/// Copies a program with the libraries that it is linked to, stripped of what only a debugger needs.
fn install(program: &Path, root: &Path, place: &str) {
    let to = root.join(place.trim_start_matches('/'));
    create_dir_all(to.parent().unwrap()).unwrap();
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&to)
        .arg(program)
        .status()
        .unwrap();
    assert!(strip.success(), "strip {}", program.display());
    let linked = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(linked.stdout).unwrap().split_whitespace() {
        let to = root.join(word.trim_start_matches('/'));
        if word.starts_with('/') && !to.exists() {
            create_dir_all(to.parent().unwrap()).unwrap();
            copy(word, to).unwrap();
        }
    }
}

/// A root file system for the guest, as a cpio archive.
fn initramfs(kernel: &Path, dir: &Path) -> std::path::PathBuf {
    let root = dir.join("root");
    for folder in [
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "bin",
        "modules",
        "var/lib/ebtables",
        "etc",
    ] {
        create_dir_all(root.join(folder)).unwrap();
    }
    copy(need("busybox"), root.join("bin/busybox")).unwrap();
    install(&need("ip"), &root, "/usr/sbin/ip");
    install(&need("ebtables-legacy"), &root, "/usr/sbin/ebtables");
    install(
        &need("ebtables-legacy-restore"),
        &root,
        "/usr/sbin/ebtables-restore",
    );
    install(Path::new(MACFENCE), &root, MACFENCE);
    install(&std::env::current_exe().unwrap(), &root, "/it");
    for module in kernel
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if module.extension().is_some_and(|ext| ext == "ko") {
            copy(
                &module,
                root.join("modules").join(module.file_name().unwrap()),
            )
            .unwrap();
        }
    }
    let init = root.join("init");
    write(&init, INIT).unwrap();
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/proc/mounts", root.join("etc/mtab")).unwrap();
    let archive = dir.join("initramfs");
    let pack = format!(
        "cd {} && find . | busybox cpio -o -H newc >{}",
        root.display(),
        archive.display()
    );
    let packed = Command::new("sh").args(["-c", &pack]).output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    archive
}

fn boot(suite: &str, version: &str) {
    for program in ["qemu-system-x86_64", "busybox", "strip", "timeout"] {
        need(program);
    }
    let image = fetched(&format!("kernel/{suite}/vmlinuz"));
    let kernel = image.parent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args([
            "600",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-m",
            "1024",
            "-nographic",
        ])
        .args([
            "-no-reboot",
            "-net",
            "none",
            "-append",
            "console=ttyS0 quiet panic=-1",
        ])
        .arg("-kernel")
        .arg(&image)
        .arg("-initrd")
        .arg(initramfs(kernel, dir.path()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let here = format!("kernel {version}");
    assert!(said.contains(&here) && said.contains("(legacy)"), "{said}");
    assert!(
        said.lines().any(|line| line.trim_end().ends_with("nft:")),
        "there is an nft: {said}"
    );
    assert!(said.contains("test result: ok. 9 passed"), "{said}");
    assert!(said.contains("guest: status 0"), "{said}");
}

#[test]
fn an_old_host_with_debian_bullseyes_5_10_kernel() {
    boot("bullseye", "5.10.");
}

#[test]
fn an_old_host_with_debian_bookworms_6_1_kernel() {
    boot("bookworm", "6.1.");
}
