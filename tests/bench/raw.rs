//! Frames made by hand, and the kernel's count of those that get through.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use macfence::mac::MacAddr;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike, bind,
    sendmmsg, socket,
};

use crate::filters::{HEARER, NOBODY, OTHER, SENDER};
use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, until};

/// How many frames are handed over in one call.
pub const BATCH: usize = 64;
/// The least frame that Ethernet knows, without its checksum, in bytes.
const LEN: usize = 60;
/// More than a batch takes, so that silence means a drop.
const SILENCE: Duration = Duration::from_millis(100);

/// An IPv4 packet from the address that OpenNebula makes this MAC address of.
pub fn minimal(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let mut frame = frame(Kind::Ipv4, src, dst, 0);
    frame.truncate(LEN);
    let [.., a, b, c, d] = src.bytes();
    // Nobody on the way looks at the header's checksum.
    frame[26..30].copy_from_slice(&[a, b, c, d]);
    frame
}

/// A socket that sends by a device of the caller's namespace and hears nothing.
pub fn far_end(device: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).expect("a socket");
    let index = if_nametoindex(device).expect(device);
    // SAFETY: all zeros is a valid sockaddr_ll, and from_raw, the only way to one that a packet
    // socket can be bound to, reads no more than that.
    let address = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        LinkAddr::from_raw((&raw const address).cast(), None).expect("an address")
    };
    bind(socket.as_raw_fd(), &address).expect(device);
    socket
}

/// Sends the same so often, to wherever the socket is bound or connected.
pub fn send(socket: &impl AsRawFd, data: &[u8], count: usize) {
    let slices = [[IoSlice::new(data)]; BATCH];
    let nowhere = [None::<LinkAddr>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut left = count;
    while left > 0 {
        let now = left.min(BATCH);
        let flags = MsgFlags::empty();
        let fd = socket.as_raw_fd();
        sendmmsg(fd, &mut headers, &slices[..now], &nowhere[..now], [], flags).expect("frames");
        left -= now;
    }
}

/// What has left the bridge by the hearer's port, as the kernel counts it.
pub struct Exit {
    frames: File,
    bytes: File,
}

impl Exit {
    pub fn of(host: &Host) -> Self {
        let count = |what: &str| {
            let file = format!("/sys/class/net/{}/statistics/{what}", HEARER.port());
            host.run(|| File::open(&file).expect(&file))
        };
        Self {
            frames: count("tx_packets"),
            bytes: count("tx_bytes"),
        }
    }

    pub fn frames(&self) -> usize {
        number(&self.frames)
    }

    pub fn bytes(&self) -> usize {
        number(&self.bytes)
    }

    /// Makes sure that what is measured is what is meant: frames arrive, and are filtered.
    pub fn check(&self, way: &str, sender: &OwnedFd) {
        // The kernel puts new devices into operation a little later, on a busy machine much later.
        let none_yet = self.frames();
        until("the first frame gets through", || {
            send(sender, &minimal(SENDER.mac(), HEARER.mac()), 1);
            self.frames() > none_yet
        });
        thread::sleep(SILENCE);
        let heard = |src: MacAddr| {
            let before = self.frames();
            send(sender, &minimal(src, HEARER.mac()), BATCH);
            thread::sleep(SILENCE);
            self.frames() - before
        };
        assert_eq!(heard(SENDER.mac()), BATCH, "{way}: frames heard");
        let spoofed = if way == NOBODY { BATCH } else { 0 };
        assert_eq!(heard(OTHER.mac()), spoofed, "{way}: spoofed ones heard");
    }
}

fn number(file: &File) -> usize {
    let mut text = [0; 24];
    let len = file.read_at(&mut text, 0).expect("a counter");
    let text = std::str::from_utf8(&text[..len]).expect("a number");
    text.trim().parse().expect("a number")
}
