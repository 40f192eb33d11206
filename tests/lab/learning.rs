//! A bridge with the defaults of Linux: it learns addresses and snoops multicast. A test can read
//! its table, and listen to the frames that reach the host itself.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use macfence::mac::MacAddr;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use super::{Host, Tap};

impl Host {
    /// Creates a bridge that learns and snoops. Its own address stays the same when ports join, as
    /// on a real host.
    pub fn learning_bridge(&self, name: &str, mac: &str) {
        self.ip(&format!(
            "link add {name} address {mac} type bridge stp_state 0\nlink set {name} up\n"
        ));
    }

    /// Creates a port as hypervisors do. The test holds its other end.
    pub fn learning_tap(&self, bridge: &str, port: &str) -> Tap {
        let tap = self.run(|| Tap::open(port));
        self.ip(&format!("link set {port} master {bridge} up\n"));
        tap
    }

    /// Switches the spanning tree protocol on or off. A port that forwards goes on forwarding; one
    /// that comes up later waits for some seconds.
    pub fn stp(&self, bridge: &str, on: bool) {
        self.ip(&format!(
            "link set {bridge} type bridge stp_state {}\n",
            u8::from(on)
        ));
    }

    /// Reads a file of a network device from sysfs.
    pub fn device(&self, path: &str) -> String {
        let path = format!("/sys/class/net/{path}");
        let text = self.run(|| read_to_string(&path).expect(&path));
        text.trim().to_owned()
    }

    /// Writes a file of a network device in sysfs.
    pub fn set_device(&self, path: &str, value: &str) {
        let path = format!("/sys/class/net/{path}");
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    /// Opens the table of a bridge. The bridge's ports must stay the same while the test reads it.
    pub fn table(&self, bridge: &str) -> Table {
        let mut ports = BTreeMap::new();
        for port in self.ports_of(bridge) {
            let number = self.device(&format!("{port}/brport/port_no"));
            let number = u16::from_str_radix(number.trim_start_matches("0x"), 16);
            ports.insert(number.expect("a number"), port);
        }
        let path = format!("/sys/class/net/{bridge}/brforward");
        let file = self.run(|| File::open(&path).expect(&path));
        Table { file, ports }
    }

    /// Listens to the frames that reach the host's own stack through a device.
    pub fn ear(&self, device: &str) -> Ear {
        self.run(|| Ear::on(device))
    }
}

/// A bridge's table: which address is at which port.
pub struct Table {
    file: File,
    ports: BTreeMap<u16, String>,
}

impl Table {
    /// Returns the addresses that the bridge has learned. Its own addresses are left out.
    pub fn learned(&self) -> BTreeMap<MacAddr, &str> {
        // struct __fdb_entry: address, port, local or not, age (4), high byte of the port, padding.
        let mut bytes = [0; 16 * 256];
        let mut learned = BTreeMap::new();
        let mut at = 0;
        loop {
            let len = self.file.read_at(&mut bytes, at).expect("the table");
            if len == 0 {
                return learned;
            }
            for entry in bytes[..len].chunks_exact(16).filter(|entry| entry[7] == 0) {
                let mac = MacAddr::new(entry[..6].try_into().expect("six bytes"));
                let port = u16::from(entry[12]) << 8 | u16::from(entry[6]);
                let port = self.ports.get(&port).map_or("?", String::as_str);
                learned.insert(mac, port);
            }
            at += len as u64;
        }
    }
}

/// A packet socket on one device.
pub struct Ear(OwnedFd);

impl Ear {
    fn on(device: &str) -> Self {
        let index = nix::net::if_::if_nametoindex(device).expect(device);
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let all = SockProtocol::EthAll;
        let ear = socket(AddressFamily::Packet, SockType::Raw, flags, all).expect("a socket");
        // SAFETY: all zeros is a valid sockaddr_ll, and the kernel reads one.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::c_ushort;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as libc::c_int;
            let length = size_of_val(&address) as libc::socklen_t;
            libc::bind(ear.as_raw_fd(), (&raw const address).cast(), length)
        };
        assert_eq!(bound, 0, "bound to {device}");
        let ear = Self(ear);
        // Drop frames of other devices: the socket heard all of them until it was bound.
        ear.heard();
        ear
    }

    /// Returns every frame that the host has heard or sent since the last call.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok(len) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            frames.push(buffer[..len].to_vec());
        }
        frames
    }
}
