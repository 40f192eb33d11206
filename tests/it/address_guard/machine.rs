//! Real machines: two guests in QEMU with Debian's kernel. One gets its address from the other by
//! DHCP. Both pings and the lease keep working when the address guard comes.

use std::fs::{copy, create_dir_all, write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::lab::{Host, domain, fetched, need, until};
use crate::legacy::pack;

/// The last byte of each guest's addresses.
const CLIENT: u8 = 5;
const SERVER: u8 = 6;

/// A guest's init: it brings the network card up.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
ip link set lo up
ip link set eth0 up
"#;

/// The server's work: it has one address to lease.
const SERVE: &str = "ip address add 192.168.0.6/24 dev eth0
printf 'start 192.168.0.5\\nend 192.168.0.5\\ninterface eth0\\nlease_file /leases\\noption lease 60\\n' >/udhcpd.conf
touch /leases
exec udhcpd -f /udhcpd.conf
";

/// The client's work: it gets the lease again and again, and reports whom it reaches. At the end of
/// each round it uses a false address.
const ASK: &str = "n=0
while [ $n -lt 1000 ]; do
  n=$((n + 1))
  ip -4 address flush dev eth0
  udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /lease >/dev/null 2>&1 && lease=yes || lease=no
  ping -c1 -W2 192.168.0.6 >/dev/null && four=yes || four=no
  ping6 -c1 -W2 -I eth0 fe80::c0ff:fea8:6 >/dev/null && six=yes || six=no
  ip address add 192.168.0.77/24 dev eth0
  ping -c1 -W1 -I 192.168.0.77 192.168.0.6 >/dev/null && false=yes || false=no
  ip address del 192.168.0.77/24 dev eth0
  echo \"round $n lease $lease ipv4 $four ipv6 $six false $false.\"
done
";

const LEASE: &str = "#!/bin/busybox sh
[ \"$1\" != bound ] || ip address add \"$ip/24\" dev eth0
";

/// A running machine. It ends when dropped.
struct Machine {
    qemu: Child,
    console: PathBuf,
}

impl Machine {
    /// Boots a guest with this address, which then runs `work`.
    fn boot(host: &Host, dir: &Path, number: u8, work: &str) -> Self {
        let image = fetched("kernel/bookworm/vmlinuz");
        let root = dir.join(format!("root-{number}"));
        for folder in ["bin", "proc", "sys", "dev", "modules"] {
            create_dir_all(root.join(folder)).unwrap();
        }
        copy(need("busybox"), root.join("bin/busybox")).unwrap();
        // Some kernels have the second one built in.
        for module in ["e1000.ko", "af_packet.ko"] {
            let from = image.parent().unwrap().join(module);
            if from.exists() {
                copy(from, root.join("modules").join(module)).unwrap();
            }
        }
        let init = format!("{INIT}{work}");
        for (file, text) in [("init", &*init), ("lease", LEASE)] {
            write(root.join(file), text).unwrap();
            let runs = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(root.join(file), runs).unwrap();
        }
        let archive = pack(&root, &dir.join(format!("initramfs-{number}")));
        let console = dir.join(format!("console-{number}"));
        let mut command = Command::new(need("qemu-system-x86_64"));
        command.args([
            "-accel",
            "tcg",
            "-m",
            "256",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command
            .arg("-kernel")
            .arg(&image)
            .arg("-initrd")
            .arg(archive);
        command
            .arg("-serial")
            .arg(format!("file:{}", console.display()));
        let tap = format!("tap,id=n,ifname=one-{number}-0,script=no,downscript=no");
        let card = format!("e1000,netdev=n,mac={}", mac(number));
        command.args(["-netdev", &tap, "-device", &card]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let qemu = host.run(|| command.spawn().unwrap());
        Self { qemu, console }
    }

    fn said(&self) -> String {
        let said = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Returns how often the guest has printed these words.
    fn rounds(&self, words: &str) -> usize {
        self.said()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn mac(number: u8) -> String {
    format!("02:00:c0:a8:00:{number:02x}")
}

#[test]
fn a_guarded_machine_keeps_its_lease_and_its_connections_and_can_use_no_other_address() {
    let host = Host::new();
    // A bridge that learns addresses, as most bridges do.
    host.ip("link add br0 type bridge no_linklocal_learn 1\nlink set br0 up\n");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("macfence.toml");
    let fence = |settings: &str| {
        write(&file, settings).unwrap();
        for number in [CLIENT, SERVER] {
            let (name, port) = (format!("one-{number}"), format!("one-{number}-0"));
            let xml = domain(&name, &[(&mac(number), &port, "br0")]);
            let config = ["--config", file.to_str().unwrap(), "apply", "--xml", "-"];
            host.macfence_reading(&xml, config).ok();
        }
    };
    for number in [CLIENT, SERVER] {
        host.ip(&format!("tuntap add one-{number}-0 mode tap\n"));
        host.ip(&format!("link set one-{number}-0 master br0 up\n"));
    }
    fence("");
    let _server = Machine::boot(&host, dir.path(), SERVER, SERVE);
    let client = Machine::boot(&host, dir.path(), CLIENT, ASK);
    // Without the guard the false address works too.
    let open = "lease yes ipv4 yes ipv6 yes false yes.";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(240);
    while client.rounds(open) < 2 {
        assert!(std::time::Instant::now() < deadline, "{}", client.said());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    fence("addresses = 'mac'\n");
    let guarded = "lease yes ipv4 yes ipv6 yes false no.";
    // The round in progress may have begun without the guard.
    let before = client.rounds("round ");
    until("the guest goes on behind the guard", || {
        client.rounds("round ") > before + 1
    });
    let (rounds, held) = (client.rounds("round "), client.rounds(guarded));
    let five = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while client.rounds("round ") < rounds + 5 {
        assert!(std::time::Instant::now() < five, "{}", client.said());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let since = client.rounds("round ") - rounds;
    assert_eq!(client.rounds(guarded) - held, since, "{}", client.said());
    let list = host.list();
    assert!(list[0]["nics"][0]["dropped"]["forged"].as_u64() > Some(0));
    // The server sent nothing false.
    assert_eq!(list[1]["nics"][0]["dropped"]["forged"], 0);
}
