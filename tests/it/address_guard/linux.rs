//! An honest Linux loses nothing behind the address guard. Nobody hears one that uses another's
//! address or runs a DHCP server.

use std::process::{Child, Command, Stdio};
use std::slice::from_ref;

use macfence::backend::Backend;
use macfence::backend::nft::Nft;
use macfence::fence::{Addresses, Fence, Guard, Hears, Keep, LinkLocal};

use crate::lab::{Host, until};

/// A guest with the port `one-N-0` and addresses that end in N.
struct Guest(Host, u8);

impl Guest {
    fn new(host: &Host, number: u8) -> Self {
        let mac = format!("02:00:c0:a8:00:{number:02x}");
        let guest = Self(host.guest("br0", &port(number), &mac), number);
        guest.add_address(&guest.ipv4(), 24);
        guest.add_address(&guest.ipv6(), 64);
        guest
    }

    fn ipv4(&self) -> String {
        format!("192.168.0.{}", self.1)
    }

    fn ipv6(&self) -> String {
        format!("2001:db8::{:x}", self.1)
    }

    fn link_local(&self) -> String {
        format!("fe80::c0ff:fea8:{:x}%eth0", self.1)
    }

    fn add_address(&self, address: &str, len: u8) {
        self.0
            .ip(&format!("address add {address}/{len} dev eth0\n"));
    }

    /// Waits until the guest has checked that nobody else has its addresses.
    fn is_ready(&self) {
        until("the guest has its addresses", || {
            let listed = self.0.ok("ip", &["-6", "address", "show", "dev", "eth0"]);
            listed.contains("fe80:") && !listed.contains("tentative")
        });
    }

    fn reaches(&self, options: &[&str], to: &str) -> bool {
        let ping = if to.contains(':') { "ping6" } else { "ping" };
        let args = [&[ping, "-c1", "-W2"], options, &[to]].concat();
        let ran = self.0.exec(Command::new("busybox").args(args), "");
        ran.status == 0
    }

    /// Asks for an address for a second or two.
    fn gets_an_address(&self) -> bool {
        let args = [
            "udhcpc",
            "-i",
            "eth0",
            "-n",
            "-q",
            "-f",
            "-t2",
            "-T1",
            "-s",
            "/bin/true",
        ];
        let ran = self.0.exec(Command::new("busybox").args(args), "");
        ran.status == 0
    }
}

fn port(number: u8) -> String {
    format!("one-{number}-0")
}

fn guard(number: u8) -> Guard {
    let mac = format!("02:00:c0:a8:00:{number:02x}").parse().unwrap();
    Guard {
        addresses: Some(Addresses {
            v4: vec![[192, 168, 0, number].into()],
            v6: vec![format!("2001:db8::{number:x}").parse().unwrap()],
            link_local: LinkLocal::Eui64,
        }),
        dhcp_guard: true,
        ra_guard: true,
        ..Guard::new(port(number).parse().unwrap(), mac, Hears::All)
    }
}

fn fence(host: &Host, guard: Guard) {
    let vm = guard.port.as_str().trim_end_matches("-0").parse().unwrap();
    let fence = Fence {
        vm,
        guards: vec![guard],
    };
    let enforced = host.run(|| Nft.enforce(from_ref(&fence), &Keep::nothing()));
    enforced.unwrap();
}

/// Returns how many packets of each VM the address guard has dropped.
fn forged(host: &Host) -> Vec<u64> {
    let list = host.list();
    let vms = list.as_array().unwrap().iter();
    vms.map(|vm| vm["nics"][0]["dropped"]["forged"].as_u64().unwrap())
        .collect()
}

#[test]
fn an_honest_linux_loses_no_packet() {
    let host = Host::new();
    host.bridge("br0");
    // Fence them before they send anything.
    for number in [5, 6] {
        fence(&host, guard(number));
    }
    let [a, b] = [5, 6].map(|number| Guest::new(&host, number));
    [&a, &b].into_iter().for_each(Guest::is_ready);
    for to in [b.ipv4(), b.ipv6(), b.link_local()] {
        assert!(a.reaches(&[], &to), "{to}");
        // In fragments.
        assert!(a.reaches(&["-s4000"], &to), "{to}");
    }
    assert_eq!(forged(&host), [0, 0]);
}

#[test]
fn a_linux_is_not_heard_under_an_address_that_is_not_its_own() {
    let host = Host::new();
    host.bridge("br0");
    let [a, b] = [5, 6].map(|number| Guest::new(&host, number));
    [&a, &b].into_iter().for_each(Guest::is_ready);
    a.add_address("192.168.0.7", 24);
    a.add_address("2001:db8::7", 64);
    a.is_ready();
    let false_ones = [("192.168.0.7", b.ipv4()), ("2001:db8::7", b.ipv6())];
    for (from, to) in &false_ones {
        assert!(a.reaches(&["-I", from], to), "{from}");
    }
    fence(&host, guard(5));
    for (from, to) in &false_ones {
        assert!(!a.reaches(&["-I", from], to), "{from}");
    }
    // Nor does it answer for the false address.
    b.0.ok("ip", &["neighbour", "flush", "dev", "eth0"]);
    for (address, _) in &false_ones {
        assert!(!b.reaches(&[], address), "{address}");
    }
    for address in [a.ipv4(), a.ipv6()] {
        assert!(b.reaches(&[], &address), "{address}");
    }
}

/// A DHCP server that runs until it is dropped.
struct Server {
    process: Child,
    _files: tempfile::TempDir,
}

impl Server {
    fn start(guest: &Guest) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "start 192.168.0.20\nend 192.168.0.20\ninterface eth0\nlease_file {}\npidfile {}\n",
            file("leases"),
            file("pid")
        );
        std::fs::write(file("leases"), "").unwrap();
        std::fs::write(file("config"), config).unwrap();
        let mut command = Command::new("busybox");
        command.args(["udhcpd", "-f", &file("config")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self {
            process: guest.0.run(|| command.spawn().unwrap()),
            _files: dir,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_guarded_linux_gets_its_address_by_dhcp_and_from_no_guarded_server() {
    let host = Host::new();
    host.bridge("br0");
    let [server, client] = [5, 20].map(|number| Guest::new(&host, number));
    client
        .0
        .ok("ip", &["-4", "address", "flush", "dev", "eth0"]);
    fence(&host, guard(20));
    let _server = Server::start(&server);
    until("the server runs", || client.gets_an_address());
    fence(
        &host,
        Guard {
            dhcp_guard: false,
            ..guard(5)
        },
    );
    assert!(client.gets_an_address());
    assert_eq!(forged(&host)[0], 0, "dropped of the client");
    fence(&host, guard(5));
    assert!(!client.gets_an_address());
}
