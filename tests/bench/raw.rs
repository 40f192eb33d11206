//! Hand-made frames, and the kernel's counters of the frames that get through.

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

/// Number of frames sent in one system call.
pub const BATCH: usize = 64;
/// The smallest Ethernet frame, without its checksum, in bytes.
const LEN: usize = 60;
/// Longer than a batch takes, so silence means that frames were dropped.
const SILENCE: Duration = Duration::from_millis(100);

/// Builds an IPv4 packet. Its source is the IP address from which OpenNebula makes this MAC
/// address.
pub fn minimal(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let mut frame = frame(Kind::Ipv4, src, dst, 0);
    frame.truncate(LEN);
    let [.., a, b, c, d] = src.bytes();
    // Nothing on the way checks the header's checksum.
    frame[26..30].copy_from_slice(&[a, b, c, d]);
    frame
}

/// Opens a socket that sends through a device of the caller's namespace and hears nothing.
pub fn far_end(device: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).expect("a socket");
    let index = if_nametoindex(device).expect(device);
    // SAFETY: all zeros is a valid sockaddr_ll. from_raw reads no more than that; a packet socket
    // can be bound to no other type of nix's addresses.
    let address = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        LinkAddr::from_raw((&raw const address).cast(), None).expect("an address")
    };
    bind(socket.as_raw_fd(), &address).expect(device);
    socket
}

/// Sends the same data `count` times, to the address to which the socket is bound or connected.
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

/// The kernel's counters of frames that left the bridge through the hearer's port.
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

    /// Panics unless honest frames arrive and spoofed ones are filtered.
    pub fn check(&self, way: &str, sender: &OwnedFd) {
        // The kernel brings new devices up a little later, and on a busy machine much later.
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
        assert_eq!(heard(SENDER.mac()), BATCH, "{way}: honest frames heard");
        let spoofed = if way == NOBODY { BATCH } else { 0 };
        assert_eq!(heard(OTHER.mac()), spoofed, "{way}: spoofed frames heard");
    }
}

fn number(file: &File) -> usize {
    let mut text = [0; 24];
    let len = file.read_at(&mut text, 0).expect("a counter");
    let text = std::str::from_utf8(&text[..len]).expect("a number");
    text.trim().parse().expect("a number")
}
