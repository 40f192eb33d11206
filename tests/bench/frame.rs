//! What a frame costs that a bridge forwards from one VM to another: unfiltered, through our fences
//! of both kinds, and through the seed's rules. The smallest frames, from one port to one other.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use macfence::mac::MacAddr;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike, bind,
    sendmmsg, socket,
};
use nix::unistd::Pid;
use rustix::process::setpriority_process;

use crate::figures::{Figure, Figures};
use crate::lab::Host;
use crate::lab::frame::{Kind, frame};
use crate::vms::{Vm, Vms, load_ebtables, load_nft};

const SIZES: [usize; 5] = [1, 10, 100, 1000, 4000];
const ROUNDS: usize = 15;
/// How long one measurement takes, about.
const DURATION: Duration = Duration::from_millis(100);
/// How many frames are handed over in one call.
const BATCH: usize = 64;
/// The least frame that Ethernet knows, without its checksum, in bytes.
const LEN: usize = 60;

pub const PART: &str = "frame";
pub const WHAT: &str = "forwarded";
pub const NS: &str = "ns";
/// Who filters.
pub const NOBODY: &str = "no filter";
pub const NFT: &str = "macfence on nft";
pub const EBTABLES: &str = "macfence on ebtables";
pub const SEED: &str = "the ebtables scripts' rules";
/// The comparisons.
pub const TIMES_NOBODY: &str = "times no filter";
pub const TIMES_NFT: &str = "times macfence on nft";

/// The VM that sends, and the one that hears it: of one network, so that frames pass.
const SENDER: Vm = Vm(1);
const HEARER: Vm = Vm(2);

pub fn measure(figures: &mut Figures) {
    let figure = |way, vms| Figure::new(PART, WHAT, way, vms, NS);
    let unfiltered = Lane::new(NOBODY);
    unfiltered.check();
    let fenced = SIZES.map(|size| {
        let vms = Vms::new(size);
        let lanes = [NFT, EBTABLES, SEED].map(Lane::new);
        let [nft, ebtables, seed] = &lanes;
        load_nft(&nft.host, &vms.for_nft(&nft.host));
        load_ebtables(&ebtables.host, &vms.for_ebtables(&ebtables.host));
        load_ebtables(&seed.host, &vms.of_the_seed());
        lanes.iter().for_each(Lane::check);
        lanes
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            stay_on_one_cpu();
            for round in 0..ROUNDS {
                for (vms, lanes) in SIZES.into_iter().zip(&fenced) {
                    let mut lanes: Vec<_> = [&unfiltered].into_iter().chain(lanes).collect();
                    // Nobody always comes after the slowest.
                    lanes.rotate_left(round % 4);
                    for lane in lanes {
                        figures.add(figure(lane.way, vms), lane.cost());
                    }
                }
            }
        });
    });
    for vms in SIZES {
        for way in [NFT, EBTABLES, SEED] {
            figures.compare(figure(way, vms), &figure(NOBODY, vms), TIMES_NOBODY);
        }
        figures.compare(figure(SEED, vms), &figure(NFT, vms), TIMES_NFT);
    }
}

/// A host with two VMs on a bridge, of which we hold the far ends.
struct Lane {
    way: &'static str,
    host: Host,
    sender: OwnedFd,
    hearer: OwnedFd,
    /// The kernel's count of frames that have left by the hearer's port.
    left: File,
}

impl Lane {
    fn new(way: &'static str) -> Self {
        let host = Host::new();
        host.bridge("br0");
        for (vm, far) in [(SENDER, "sender"), (HEARER, "hearer")] {
            let (port, mac) = (vm.port(), vm.mac());
            host.ip(&format!(
                "link add {port} type veth peer name {far} address {mac}\n\
                 link set {port} master br0 up\nlink set {far} up\n"
            ));
        }
        let (sender, hearer, left) = host.run(|| {
            let count = format!("/sys/class/net/{}/statistics/tx_packets", HEARER.port());
            let count = File::open(count).expect("a counter");
            (far_end("sender"), far_end("hearer"), count)
        });
        Self {
            way,
            host,
            sender,
            hearer,
            left,
        }
    }

    /// Makes sure that what is measured is what is meant: frames arrive, and are filtered.
    fn check(&self) {
        self.teach();
        let heard = |src: Vm| {
            let before = self.left();
            send(&self.sender, &minimal(src.mac(), HEARER.mac()), BATCH);
            // More than they can take, so that silence means a drop.
            thread::sleep(DURATION);
            self.left() - before
        };
        assert_eq!(heard(SENDER), BATCH, "{}: frames heard", self.way);
        let spoofed = if self.way == NOBODY { BATCH } else { 0 };
        assert_eq!(heard(Vm(3)), spoofed, "{}: spoofed ones heard", self.way);
    }

    /// Has the bridge learn where the hearer is, so that frames are not flooded.
    fn teach(&self) {
        send(&self.hearer, &minimal(HEARER.mac(), SENDER.mac()), 1);
    }

    /// What a frame costs, in nanoseconds.
    fn cost(&self) -> f64 {
        self.teach();
        let each = |frames: usize| self.time(frames).as_nanos() as f64 / frames as f64;
        let guess = each(BATCH);
        let frames = (DURATION.as_nanos() as f64 / guess) as usize;
        each(frames.next_multiple_of(BATCH))
    }

    /// How long so many frames take to get through.
    fn time(&self, frames: usize) -> Duration {
        let frame = minimal(SENDER.mac(), HEARER.mac());
        let until = self.left() + frames;
        let start = Instant::now();
        send(&self.sender, &frame, frames);
        // The kernel forwards a frame before it takes the next, unless it has too much to do.
        // Who slept here would measure the sleep.
        while self.left() < until {
            assert!(start.elapsed() < 20 * DURATION, "{}: frames lost", self.way);
        }
        start.elapsed()
    }

    fn left(&self) -> usize {
        let mut text = [0; 24];
        let len = self.left.read_at(&mut text, 0).expect("a counter");
        let text = std::str::from_utf8(&text[..len]).expect("a number");
        text.trim().parse().expect("a number")
    }
}

fn minimal(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let mut frame = frame(Kind::Unknown, src, dst, 0);
    frame.truncate(LEN);
    frame
}

/// A socket that sends by a device and hears nothing.
fn far_end(device: &str) -> OwnedFd {
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

fn send(socket: &OwnedFd, frame: &[u8], count: usize) {
    let slices = [[IoSlice::new(frame)]; BATCH];
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

/// Keeps this thread on the last of its processors, before others: a frame is forwarded by the one
/// that sends it.
fn stay_on_one_cpu() {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).expect("processors");
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rev().find(is_allowed);
    let mut one = CpuSet::new();
    one.set(last.expect("a processor")).expect("a processor");
    sched_setaffinity(me, &one).expect("one processor");
    setpriority_process(None, -20).expect("priority");
}
