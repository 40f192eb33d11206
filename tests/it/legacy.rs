//! Real old hosts: stock Debian kernels in QEMU, with the legacy ebtables and no nft, or with nft.
//! They run the tests of [`super::old_host`] and [`super::old_kernel`] with this same program.

use std::fs::{copy, create_dir_all, write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::lab::{MACFENCE, domain, fetched, need};
use crate::one_program::shipped;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
for module in llc stp bridge tun garp mrp 8021q @modules@; do
  insmod /modules/$module.ko
done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
@shipped@
echo "kernel $(uname -r), $(@firewall@ --version), nft: $(which nft)"
/it --test-threads 1 --include-ignored @tests@::
echo "guest: status $?"
poweroff -f
"#;

/// Fences a VM with the shipped program, in a root of Debian 11 without nft. It has that Debian's C
/// library and its ebtables, which is the legacy one.
const SHIPPED: &str = r#"
for folder in dev proc sys; do mount -o bind /$folder /old/$folder; done
/usr/sbin/ip link add br0 type bridge
/usr/sbin/ip tuntap add one-1-0 mode tap
/usr/sbin/ip link set one-1-0 master br0
chroot /old macfence apply --xml /domain.xml
echo "shipped: status $?, $(chroot /old ebtables --version)"
chroot /old ebtables -t nat -L | sed 's/^/shipped: /'
chroot /old macfence remove one-1
/usr/sbin/ip link del br0
/usr/sbin/ip link del one-1-0
"#;

/// Puts the files that [`SHIPPED`] needs into the guest.
fn install_shipped(root: &Path) {
    let old = root.join("old");
    let from = fetched("ebtables/bullseye");
    let mut cp = Command::new("cp");
    assert!(cp.arg("-a").arg(from).arg(&old).status().unwrap().success());
    for program in ["ebtables", "ebtables-restore"] {
        let legacy = program.replace("ebtables", "ebtables-legacy");
        symlink(legacy, old.join("usr/sbin").join(program)).unwrap();
    }
    for folder in ["dev", "proc", "sys", "run", "tmp", "var/lib/ebtables"] {
        create_dir_all(old.join(folder)).unwrap();
    }
    copy(shipped(), old.join("usr/sbin/macfence")).unwrap();
    let xml = domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]);
    write(old.join("domain.xml"), xml).unwrap();
}

/// The guest's firewall. It decides which tests run.
#[derive(Clone, Copy, PartialEq)]
enum Firewall {
    Ebtables,
    /// nft of this version, or this system's.
    Nft(Option<&'static str>),
}

impl Firewall {
    fn tests(self) -> &'static str {
        match self {
            Self::Ebtables => "old_host",
            Self::Nft(_) => "old_kernel",
        }
    }

    /// Writes `init` for a kernel with these modules. It loads the modules that the kernel has, in
    /// this order.
    fn init(self, kernel: &Path) -> String {
        let (program, modules) = match self {
            Self::Ebtables => (
                "ebtables",
                "x_tables ebtables ebtable_filter ebtable_nat ebt_arp ebt_ip ebt_ip6 ebt_pkttype \
                 ebt_vlan",
            ),
            Self::Nft(_) => (
                "nft",
                "crc32c_generic libcrc32c nfnetlink nf_tables nft_counter nft_meta_bridge",
            ),
        };
        let has = |module: &&str| kernel.join(format!("{module}.ko")).exists();
        let modules: Vec<_> = modules.split(' ').filter(has).collect();
        let shipped = if self == Self::Ebtables { SHIPPED } else { "" };
        INIT.replace("@shipped@", shipped)
            .replace("@modules@", &modules.join(" "))
            .replace("@firewall@", program)
            .replace("@tests@", self.tests())
    }

    fn install(self, root: &Path) {
        match self {
            Self::Ebtables => {
                install_shipped(root);
                install(&need("ebtables-legacy"), root, "/usr/sbin/ebtables");
                let restore = "/usr/sbin/ebtables-restore";
                install(&need("ebtables-legacy-restore"), root, restore);
            }
            Self::Nft(None) => install(&need("nft"), root, "/usr/sbin/nft"),
            Self::Nft(Some(version)) => {
                let nft = fetched(&format!("nft/{version}/nft"));
                copy(&nft, root.join("usr/sbin/nft")).unwrap();
                // The program has the full path of its libraries in it.
                let dir = nft.parent().unwrap().canonicalize().unwrap();
                let to = root.join(dir.strip_prefix("/").unwrap());
                create_dir_all(&to).unwrap();
                let mut cp = Command::new("cp");
                let copied = cp.arg("-a").arg(dir.join("fs")).arg(to).status();
                assert!(copied.unwrap().success());
            }
        }
    }
}

/// Copies a program and its libraries, stripped of debugging information.
pub fn install(program: &Path, root: &Path, place: &str) {
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

/// Builds a root file system for the guest, as a cpio archive.
fn initramfs(kernel: &Path, dir: &Path, firewall: Firewall) -> std::path::PathBuf {
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
    install(&need("bridge"), &root, "/usr/sbin/bridge");
    firewall.install(&root);
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
    write(&init, firewall.init(kernel)).unwrap();
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/proc/mounts", root.join("etc/mtab")).unwrap();
    copy("/etc/protocols", root.join("etc/protocols")).unwrap();
    pack(&root, &dir.join("initramfs"))
}

/// Packs a root file system for QEMU.
pub fn pack(root: &Path, archive: &Path) -> std::path::PathBuf {
    let pack = format!(
        "cd {} && find . | busybox cpio -o -H newc >{}",
        root.display(),
        archive.display()
    );
    let packed = Command::new("sh").args(["-c", &pack]).output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    archive.to_owned()
}

fn boot(suite: &str, version: &str, firewall: Firewall, passed: u32) {
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
        .arg(initramfs(kernel, dir.path(), firewall))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let here = format!("kernel {version}");
    assert!(said.contains(&here), "{said}");
    if firewall == Firewall::Ebtables {
        let has_nft = !said.lines().any(|line| line.trim_end().ends_with("nft:"));
        assert!(said.contains("(legacy)") && !has_nft, "{said}");
        for words in [
            "shipped: status 0, ebtables v2.0.11 (legacy)",
            "shipped: -s ! 2:0:c0:a8:0:5 -i one-1-0 -j DROP",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    let passed = format!("test result: ok. {passed} passed");
    assert!(said.contains(&passed), "{said}");
    assert!(said.contains("guest: status 0"), "{said}");
}

#[test]
fn an_old_host_with_debian_bullseyes_5_10_kernel() {
    boot("bullseye", "5.10.", Firewall::Ebtables, 20);
}

#[test]
fn an_old_host_with_debian_bookworms_6_1_kernel() {
    boot("bookworm", "6.1.", Firewall::Ebtables, 20);
}

#[test]
fn a_host_with_debian_bullseyes_5_10_kernel_and_its_own_nft() {
    boot("bullseye", "5.10.", Firewall::Nft(Some("0.9.8")), 9);
}

#[test]
fn a_host_with_debian_bookworms_6_1_kernel_and_nft() {
    boot("bookworm", "6.1.", Firewall::Nft(None), 9);
}
