//! What the kernel tells of changes: ports that come to a bridge or leave it, and rules that somebody
//! loads or deletes. Both are told as they happen; nothing is asked again and again.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::constants::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A port has come to a bridge, or something about it has changed there.
    Port(String),
    /// A port has left its bridge.
    PortGone,
    /// Something in this table of the bridge family has changed.
    Table(String),
    /// More has happened than the kernel could tell.
    Lost,
}

/// Where the kernel tells of links (`RTNLGRP_LINK`) and of rulesets (`NFNLGRP_NFTABLES`).
const LINKS: u32 = 1;
const RULESETS: u32 = 7;

/// Room for what happens while we are busy, in bytes; what is too much is [`Event::Lost`].
const ROOM: usize = 1 << 20;

/// The kernel's messages.
#[derive(Debug)]
pub struct Events {
    links: Socket,
    rulesets: Socket,
}

impl Events {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the kernel does not let us: of rulesets it tells root only.
    pub fn listen() -> Result<Self> {
        Ok(Self {
            links: subscribe(NETLINK_ROUTE, LINKS).context("cannot listen for links")?,
            rulesets: subscribe(NETLINK_NETFILTER, RULESETS)
                .context("cannot listen for changes of rulesets (root can)")?,
        })
    }

    /// What to wait for until there is something to read.
    pub fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.as_fd(), self.rulesets.as_fd()]
    }

    /// Everything that has happened since the last call.
    ///
    /// # Errors
    /// If the kernel's messages cannot be read.
    pub fn read(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for (socket, parse) in [
            (&self.links, of_link as fn(&Message) -> Option<Event>),
            (&self.rulesets, of_ruleset),
        ] {
            loop {
                match socket.recv_from_full() {
                    Ok((datagram, _)) => {
                        events.extend(messages(&datagram).filter_map(|m| parse(&m)))
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) if Errno::from_io_error(&e) == Some(Errno::NOBUFS) => {
                        events.push(Event::Lost);
                    }
                    Err(e) => return Err(e).context("cannot read the kernel's messages"),
                }
            }
        }
        Ok(events)
    }
}

fn subscribe(protocol: isize, group: u32) -> Result<Socket, Error> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_rx_buf_sz(ROOM)?;
    socket.add_membership(group)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// A netlink message: its type, and what follows the header.
struct Message<'a> {
    kind: u16,
    payload: &'a [u8],
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let (kind, payload) = (message.message_type(), message.payload());
        let aligned = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(aligned..).unwrap_or_default();
        Some(Message { kind, payload })
    })
}

/// `PF_BRIDGE` and `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;

/// A bridge's own message about a port of its (`br_ifinfo_notify` in the kernel): of this family,
/// unlike all that is told of links otherwise.
fn of_link(message: &Message) -> Option<Event> {
    const RTM_NEWLINK: u16 = 16;
    const RTM_DELLINK: u16 = 17;
    const IFINFOMSG: usize = 16;
    const IFLA_IFNAME: u16 = 3;
    if message.payload.first() != Some(&BRIDGE) {
        return None;
    }
    match message.kind {
        RTM_NEWLINK => attribute(message.payload.get(IFINFOMSG..)?, IFLA_IFNAME).map(Event::Port),
        RTM_DELLINK => Some(Event::PortGone),
        _ => None,
    }
}

fn of_ruleset(message: &Message) -> Option<Event> {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFGENMSG: usize = 4;
    // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and the like are all 1.
    const TABLE: u16 = 1;
    if message.kind >> 8 != NFNL_SUBSYS_NFTABLES || message.payload.first() != Some(&BRIDGE) {
        return None;
    }
    attribute(message.payload.get(NFGENMSG..)?, TABLE).map(Event::Table)
}

/// An attribute that is text.
fn attribute(attributes: &[u8], kind: u16) -> Option<String> {
    let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
    let attribute = attributes.find(|attribute| attribute.kind() == kind)?;
    let text = attribute.value().split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}
