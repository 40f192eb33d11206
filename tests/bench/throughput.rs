//! Measures how much two VMs on one bridge can send each other, from socket to socket: TCP in
//! frames as large as Linux makes them between veth devices (GSO), and UDP in small datagrams. Only
//! what arrives is counted. The bridge learns, as Linux bridges do.
//!
//! A VM is a network namespace here, so no cost of a guest or of QEMU hides a difference between
//! filters. Sender and hearer share one processor, so every cost on the way counts. With a
//! processor each, rounds also varied more.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt::RcvBufForce};

use crate::figures::{Figure, Figures};
use crate::filters::{EBTABLES, HEARER, NFT, NOBODY, SEED, SENDER, TIMES_NOBODY, load};
use crate::lab::Host;
use crate::processor::stay_on_one;
use crate::raw::{BATCH, Exit, far_end, send};
use crate::turns;
use crate::vms::{Vm, Vms};

const SIZES: [usize; 4] = [1, 100, 1000, 4000];
const ROUNDS: usize = 15;
/// Length of one slice of a measurement, and of the warm-up before it.
const DURATION: Duration = Duration::from_millis(40);
const WARM_UP: Duration = Duration::from_millis(10);
/// The measurement fails if nothing arrives for this long.
const LOST: Duration = Duration::from_secs(10);
/// The filters to compare with no filter.
const FILTERS: [&str; 3] = [NFT, EBTABLES, SEED];
/// Bytes in one write or read of TCP.
const CHUNK: usize = 256 << 10;
/// Payload of a datagram, in bytes.
const SMALL: usize = 64;
/// Length of a full frame without GSO, in bytes.
const FULL: usize = 1514;
/// A VM's network device.
const NIC: &str = "nic";

pub const PART: &str = "throughput";
pub const TCP: &str = "TCP";
pub const UDP: &str = "UDP of 64 bytes";
pub const GIGABITS: &str = "Gbit/s";
pub const DATAGRAMS: &str = "datagrams/s";

pub fn measure(figures: &mut Figures) {
    let unfiltered = Lane::new(NOBODY, None);
    let fenced = SIZES.map(|size| {
        let vms = Vms::new(size);
        FILTERS.map(|way| Lane::new(way, Some(&vms)))
    });
    let tcp = |way, vms| Figure::new(PART, TCP, way, vms, GIGABITS);
    let udp = |way, vms| Figure::new(PART, UDP, way, vms, DATAGRAMS);
    for round in 0..ROUNDS {
        for (vms, lanes) in SIZES.into_iter().zip(&fenced) {
            let lanes: Vec<_> = [&unfiltered].into_iter().chain(lanes).collect();
            let rates = turns::means(round, &lanes, |lane| [lane.tcp() * 8.0 / 1e9, lane.udp()]);
            for (lane, [gigabits, datagrams]) in lanes.iter().zip(rates) {
                figures.add(tcp(lane.way, vms), gigabits);
                figures.add(udp(lane.way, vms), datagrams);
            }
        }
    }
    for vms in SIZES {
        for way in FILTERS {
            figures.compare(tcp(way, vms), &tcp(NOBODY, vms), TIMES_NOBODY);
            figures.compare(udp(way, vms), &udp(NOBODY, vms), TIMES_NOBODY);
        }
    }
}

/// A host with two VMs on a bridge, and their sockets.
struct Lane {
    way: &'static str,
    /// Keeps the bridge alive.
    _bridge: Host,
    /// The VM that sends.
    sender: Host,
    /// A socket in the VM that hears.
    listener: TcpListener,
    from: UdpSocket,
    to: UdpSocket,
}

impl Lane {
    fn new(way: &'static str, vms: Option<&Vms>) -> Self {
        let host = Host::new();
        host.bridge("br0");
        let (sender, hearer) = (plug(SENDER, &host), plug(HEARER, &host));
        if let Some(vms) = vms {
            load(way, &host, vms);
        }
        let exit = Exit::of(&host);
        exit.check(way, &sender.run(|| far_end(NIC)));
        let (listener, to) = hearer.run(|| {
            let any = (Ipv4Addr::UNSPECIFIED, 0);
            let listener = TcpListener::bind(any).expect("a port");
            (listener, UdpSocket::bind(any).expect("a port"))
        });
        // A large buffer: datagrams that are lost while the hearer waits for its processor were not
        // dropped by a filter.
        setsockopt(&to, RcvBufForce, &(8 << 20)).expect("a buffer");
        to.set_read_timeout(Some(LOST)).expect("a time limit");
        let from = sender.run(|| {
            let from = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
            let port = to.local_addr().expect("a port").port();
            from.connect((ip(HEARER), port)).expect("an address");
            from
        });
        let lane = Self {
            way,
            _bridge: host,
            sender,
            listener,
            from,
            to,
        };
        let (frames, bytes) = (exit.frames(), exit.bytes());
        lane.tcp();
        let mean = (exit.bytes() - bytes) / (exit.frames() - frames);
        assert!(mean > FULL, "{way}: mean frame of {mean} bytes: GSO is off");
        lane
    }

    /// Measures TCP in bytes per second.
    fn tcp(&self) -> f64 {
        // Open a new connection each time, so that none stays slow after an earlier loss.
        let port = self.listener.local_addr().expect("a port").port();
        let connect = || TcpStream::connect((ip(HEARER), port)).expect(self.way);
        let mut from = self.sender.run(connect);
        let (mut to, _) = self.listener.accept().expect(self.way);
        to.set_read_timeout(Some(LOST)).expect("a time limit");
        thread::scope(|scope| {
            scope.spawn(move || {
                stay_on_one();
                let chunk = vec![0; CHUNK];
                // Ends when the other side closes.
                while from.write_all(&chunk).is_ok() {}
            });
            let hearer = scope.spawn(move || {
                stay_on_one();
                let mut chunk = vec![0; CHUNK];
                per_second(|| {
                    let bytes = to.read(&mut chunk).expect(self.way);
                    assert_ne!(bytes, 0, "{}: nothing more to read", self.way);
                    bytes
                })
            });
            hearer.join().expect(self.way)
        })
    }

    /// Measures UDP in datagrams per second.
    fn udp(&self) -> f64 {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                stay_on_one();
                let start = Instant::now();
                // The time limit ends the sender if the hearer fails.
                while !is_over.load(Ordering::Relaxed) && start.elapsed() < 2 * LOST {
                    send(&self.from, &[0; SMALL], BATCH);
                }
            });
            let hearer = scope.spawn(|| {
                stay_on_one();
                let mut buffers = [[0; SMALL]; BATCH];
                let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
                let rate = per_second(|| {
                    let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
                    let (fd, flags) = (self.to.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
                    let got = recvmmsg(fd, &mut headers, &mut slices, flags, None);
                    got.expect(self.way).count()
                });
                is_over.store(true, Ordering::Relaxed);
                rate
            });
            hearer.join().expect(self.way)
        })
    }
}

/// Creates a namespace for a VM whose port is on the host's bridge.
fn plug(vm: Vm, host: &Host) -> Host {
    let guest = Host::new();
    let net = guest.run(|| File::open("/proc/thread-self/ns/net").expect("a namespace"));
    let (process, net) = (std::process::id(), OwnedFd::from(net));
    let (port, mac, fd) = (vm.port(), vm.mac(), net.as_raw_fd());
    host.ip(&format!(
        "link add {port} type veth peer name {NIC} address {mac} netns /proc/{process}/fd/{fd}\n\
         link set {port} master br0 up\n"
    ));
    guest.ip(&format!(
        "address add {}/24 dev {NIC}\nlink set {NIC} up\n",
        ip(vm)
    ));
    guest
}

/// Returns the IP address that OpenNebula would encode in the VM's MAC address.
fn ip(vm: Vm) -> Ipv4Addr {
    let [_, _, a, b, c, d] = vm.mac().bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// Measures a rate per second; each call of `received` returns the amount that came.
fn per_second(mut received: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        received();
    }
    let start = Instant::now();
    let mut all = 0;
    while start.elapsed() < DURATION {
        all += received();
    }
    all as f64 / start.elapsed().as_secs_f64()
}
