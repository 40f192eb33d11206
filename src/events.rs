//! Listens to the kernel's messages about changes: ports that join or leave a bridge, and rules that
//! somebody loads or deletes. The kernel reports both as they happen, so nothing needs polling.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::constants::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A port has joined a bridge, or has changed there.
    Port(String),
    /// A port has left its bridge.
    PortGone(String),
    /// One transaction has changed something in these tables of the bridge family.
    Tables(BTreeSet<String>),
    /// The kernel has dropped messages: more happened than it could report.
    Lost,
}

/// The groups for messages about links (`RTNLGRP_LINK`) and rulesets (`NFNLGRP_NFTABLES`).
const LINKS: u32 = 1;
const RULESETS: u32 = 7;

/// Room for messages that arrive while we are busy, in bytes. If they need more, there is an
/// [`Event::Lost`]. The kernel sends some ten messages for a new port, each in 4 KiB whatever its
/// length. It allocates this memory only when it needs it.
const ROOM: usize = 16 << 20;

/// The kernel's messages.
#[derive(Debug)]
pub struct Events {
    links: Socket,
    rulesets: Socket,
}

impl Events {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel refuses: it reports rulesets only to root.
    pub fn listen() -> Result<Self> {
        Ok(Self {
            links: subscribe(NETLINK_ROUTE, LINKS).context("cannot listen for links")?,
            rulesets: subscribe(NETLINK_NETFILTER, RULESETS)
                .context("cannot listen for changes of rulesets (root can)")?,
        })
    }

    /// The sockets to wait for until there is something to read.
    pub fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.as_fd(), self.rulesets.as_fd()]
    }

    /// Returns everything that has happened since the last call.
    ///
    /// # Errors
    /// If the kernel's messages cannot be read.
    pub fn read(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let is_whole = read_all(&self.links, |message| events.extend(of_link(message)))?;
        let mut transaction = Transaction::default();
        let is_whole = is_whole
            & read_all(&self.rulesets, |message| {
                events.extend(transaction.add(message));
            })?;
        // The message that ends it has not come yet, or was lost.
        events.extend(transaction.end());
        if !is_whole {
            events.push(Event::Lost);
        }
        Ok(events)
    }
}

/// Reads all waiting messages. Returns `false` if the kernel has dropped some.
fn read_all(socket: &Socket, mut hear: impl FnMut(&Message)) -> Result<bool> {
    let mut is_whole = true;
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => messages(&datagram).for_each(|message| hear(&message)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(is_whole),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NOBUFS) => is_whole = false,
            Err(e) => return Err(e).context("cannot read the kernel's messages"),
        }
    }
}

fn subscribe(protocol: isize, group: u32) -> Result<Socket, Error> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    // Any process may ask for up to 208 KiB. More takes CAP_NET_ADMIN, which root in a container may lack.
    set_socket_recv_buffer_size_force(&socket, ROOM).or_else(|_| socket.set_rx_buf_sz(ROOM))?;
    socket.add_membership(group)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// A netlink message: its type, and the bytes after the header.
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

/// Reads a bridge's own message about one of its ports (`br_ifinfo_notify` in the kernel). It is of
/// this family, unlike all other messages about links.
fn of_link(message: &Message) -> Option<Event> {
    const RTM_NEWLINK: u16 = 16;
    const RTM_DELLINK: u16 = 17;
    const IFINFOMSG: usize = 16;
    const IFLA_IFNAME: u16 = 3;
    if message.payload.first() != Some(&BRIDGE) {
        return None;
    }
    match message.kind {
        RTM_NEWLINK | RTM_DELLINK => {}
        _ => return None,
    }
    let name = attribute(message.payload.get(IFINFOMSG..)?, IFLA_IFNAME)?;
    Some(if message.kind == RTM_NEWLINK {
        Event::Port(name)
    } else {
        Event::PortGone(name)
    })
}

/// The tables that a transaction has changed, according to its messages so far.
#[derive(Default)]
struct Transaction(BTreeSet<String>);

impl Transaction {
    /// Adds a message about rulesets, and returns the event if the message ends the transaction. The
    /// kernel reports each transaction as a whole. The last message is the new generation of the rulesets.
    fn add(&mut self, message: &Message) -> Option<Event> {
        const NFNL_SUBSYS_NFTABLES: u16 = 10;
        const NFT_MSG_NEWGEN: u16 = 15;
        const NFGENMSG: usize = 4;
        // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and the like are all 1.
        const TABLE: u16 = 1;
        if message.kind >> 8 != NFNL_SUBSYS_NFTABLES {
            return None;
        }
        if message.kind & 0xff == NFT_MSG_NEWGEN {
            return self.end();
        }
        if message.payload.first() == Some(&BRIDGE) {
            let table = message.payload.get(NFGENMSG..);
            self.0.extend(table.and_then(|rest| attribute(rest, TABLE)));
        }
        None
    }

    fn end(&mut self) -> Option<Event> {
        let tables = mem::take(&mut self.0);
        (!tables.is_empty()).then_some(Event::Tables(tables))
    }
}

/// Reads an attribute that is text.
fn attribute(attributes: &[u8], kind: u16) -> Option<String> {
    let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
    let attribute = attributes.find(|attribute| attribute.kind() == kind)?;
    let text = attribute.value().split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about a table of the bridge family, or of another one.
    fn about(table: &str, family: u8) -> Vec<u8> {
        let mut payload = vec![family, 0, 0, 0];
        payload.extend((table.len() as u16 + 5).to_ne_bytes());
        payload.extend(1u16.to_ne_bytes());
        payload.extend(table.as_bytes());
        payload.push(0);
        payload.resize(payload.len().next_multiple_of(4), 0);
        payload
    }

    #[test]
    fn all_changes_of_one_transaction_are_one_event() {
        let mut transaction = Transaction::default();
        let mut hear = |number: u16, payload: &[u8]| {
            let kind = 10 << 8 | number;
            transaction.add(&Message { kind, payload })
        };
        let of = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned());
            Some(Event::Tables(names.collect()))
        };
        for table in ["macfence", "other", "macfence"] {
            assert_eq!(hear(6, &about(table, BRIDGE)), None);
        }
        assert_eq!(hear(6, &about("inet", 1)), None);
        assert_eq!(hear(15, &[0; 4]), of(&["macfence", "other"]));
        assert_eq!(hear(6, &about("inet", 1)), None);
        assert_eq!(hear(15, &[0; 4]), None);
        assert_eq!(hear(6, &about("macfence", BRIDGE)), None);
        assert_eq!(transaction.end(), of(&["macfence"]));
    }
}
