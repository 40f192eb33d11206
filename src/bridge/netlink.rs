//! Changes bridges and ports by netlink. sysfs would not do: it is read-only in a systemd unit with
//! `ProtectKernelTunables`.
//!
//! The kernel ignores attributes that it does not know, so its answer does not show that a setting is
//! missing. A missing sysfs file shows it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Error, Result, bail};
use netlink_packet_core::{
    DecodeError, DefaultNla, ErrorBuffer, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, Nla, Parseable,
};
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    LinkAttribute, LinkInfo, LinkMessage, LinkProtoInfoBridge,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::{EINVAL, ENODEV, exists, now, read};
use crate::vm::Port;

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The kernel did it.
    Done,
    /// The bridge or port vanished before.
    Gone,
}

/// Makes a bridge learn nothing from frames to 01:80:c2:00:00:0x.
pub(super) fn set_no_linklocal_learn(bridge: &str) -> Result<Outcome> {
    let send = || send(RouteNetlinkMessage::NewLink(no_linklocal_learn(bridge))).map(drop);
    let is_there = || Ok(exists(bridge));
    let what = || format!("cannot set no_linklocal_learn of bridge {bridge:?}");
    settle(send, is_there, what)
}

/// Makes a port stop working when its VM sends a BPDU.
pub(super) fn set_guard(port: &Port) -> Result<Outcome> {
    let what = || format!("cannot set BPDU guard of port \"{port}\"");
    set_port(port, &InfoBridgePort::Guard(true), what)
}

/// Deletes the entries that a port's bridge has learned at the port.
pub(super) fn flush(port: &Port) -> Result<Outcome> {
    let what = || format!("cannot delete the addresses learned at port \"{port}\"");
    set_port(port, &InfoBridgePort::Flush, what)
}

fn set_port(port: &Port, setting: &InfoBridgePort, what: impl Fn() -> String) -> Result<Outcome> {
    let Some(index) = index(port)? else {
        return Ok(Outcome::Gone);
    };
    let send = || send(RouteNetlinkMessage::SetLink(port_setting(index, setting))).map(drop);
    // The kernel does not know what a script has announced.
    settle(send, || now(port).map(|bridge| bridge.is_some()), what)
}

/// The kernel's number of a device; `None` if it is gone.
pub(super) fn index(port: &Port) -> Result<Option<u32>> {
    Ok(read(port.as_str(), "ifindex")?.and_then(|index| index.parse().ok()))
}

/// Asks the kernel about the device with this number; returns `struct ifinfomsg` and attributes.
pub(super) fn link(index: u32) -> io::Result<Vec<u8>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    send(RouteNetlinkMessage::GetLink(message))
}

/// The number by which our network namespace knows this one; `None` if it has none, or this is no
/// network namespace.
pub(super) fn namespace(file: &File) -> io::Result<Option<i32>> {
    let mut message = NsidMessage::default();
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    message.attributes.push(NsidAttribute::Fd(fd));
    let said = match send(RouteNetlinkMessage::GetNsId(message)) {
        Err(e) if e.raw_os_error() == Some(EINVAL) => return Ok(None),
        said => said?,
    };
    let answer = NsidMessage::parse(&said).map_err(invalid)?;
    Ok(answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            // -1: it has no number.
            NsidAttribute::Id(number @ 0..) => Some(*number),
            _ => None,
        }))
}

/// Sends a request and returns its result.
fn settle(
    send: impl Fn() -> io::Result<()>,
    is_there: impl Fn() -> Result<bool>,
    what: impl Fn() -> String,
) -> Result<Outcome> {
    let mut tried = false;
    loop {
        match send() {
            Ok(()) => return Ok(Outcome::Done),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                bail!(
                    "{}: the kernel allows this only to root (CAP_NET_ADMIN)",
                    what()
                )
            }
            // Do not check by name: another device may have this name by now.
            Err(e) if e.raw_os_error() == Some(ENODEV) => return Ok(Outcome::Gone),
            // The kernel has several error numbers for a port that is on no bridge.
            Err(_) if !is_there()? => return Ok(Outcome::Gone),
            // The port may have joined its bridge after the kernel answered and before we looked.
            Err(_) if !tried => tried = true,
            Err(e) => return Err(Error::new(e).context(what())),
        }
    }
}

/// Names the bridge, like `ip link set dev BRIDGE type bridge no_linklocal_learn 1`. Without
/// `NLM_F_CREATE` the kernel does not create a bridge if this one is gone.
fn no_linklocal_learn(bridge: &str) -> LinkMessage {
    let flag = BridgeBooleanOptionFlags::NoLinkLocalLearn;
    let options = BridgeBooleanOptions {
        value: flag,
        mask: flag,
    };
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(bridge.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MultiBoolOpt(options)])),
        ]),
    ];
    message
}

/// Does it like `bridge link set`, not like `ip link set … type bridge_slave`. The latter also tells
/// the whole kernel that the device has changed, which re-enables a port that BPDU guard has disabled.
fn port_setting(index: u32, setting: &InfoBridgePort) -> LinkMessage {
    let mut value = vec![0; setting.value_len()];
    setting.emit_value(&mut value);
    let setting = LinkProtoInfoBridge::Other(DefaultNla::new(setting.kind(), value));
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = vec![LinkAttribute::ProtoInfoBridge(vec![setting])];
    message
}

/// Sends a request and waits until the kernel acknowledges it or refuses. Returns the kernel's answer,
/// if there is one.
fn send(request: RouteNetlinkMessage) -> io::Result<Vec<u8>> {
    const SEQUENCE: u32 = 1;
    /// A link has about two kilobytes of attributes.
    const ROOM: usize = 32 << 10;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.header.sequence_number = SEQUENCE;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    // From here on, only the kernel's messages are received.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut said = Vec::new();
    loop {
        let mut answer = Vec::with_capacity(ROOM);
        match socket.recv(&mut answer, 0) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        let buffer = NetlinkBuffer::new_checked(&answer).map_err(invalid)?;
        if buffer.sequence_number() != SEQUENCE {
            continue;
        }
        if buffer.message_type() != NLMSG_ERROR {
            said = buffer.payload().to_vec();
            continue;
        }
        let error = ErrorBuffer::new_checked(buffer.payload()).map_err(invalid)?;
        // Error number 0 is the acknowledgement.
        return match error.code() {
            None => Ok(said),
            Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
        };
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
fn invalid(e: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.to_string())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    fn bytes(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn the_request_for_a_port_is_what_the_bridge_command_sends() {
        let header = |length: u8| vec![length, 0, 12, 0x80]; // IFLA_PROTINFO, nested
        let after = |message: &LinkMessage| bytes(message).split_off(16);
        let guard = port_setting(7, &InfoBridgePort::Guard(true));
        assert_eq!(bytes(&guard)[..8], [7, 0, 0, 0, 7, 0, 0, 0]); // AF_BRIDGE, the index
        assert_eq!(
            after(&guard),
            [header(12), vec![5, 0, 5, 0, 1, 0, 0, 0]].concat()
        );
        let flush = port_setting(7, &InfoBridgePort::Flush);
        assert_eq!(after(&flush), [header(8), vec![4, 0, 24, 0]].concat());
    }

    fn what() -> String {
        "cannot do it".to_owned()
    }

    /// A kernel that answers each request with this error.
    fn answers(error: i32) -> impl Fn() -> io::Result<()> {
        move || Err(io::Error::from_raw_os_error(error))
    }

    const EPERM: i32 = 1;
    const EOPNOTSUPP: i32 = 95;

    #[test]
    fn a_refusal_tells_what_to_do() {
        let error = settle(answers(EPERM), || Ok(true), what).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "cannot do it: the kernel allows this only to root (CAP_NET_ADMIN)"
        );
    }

    #[test]
    fn an_error_counts_only_while_the_device_is_there() {
        let settle = |error, is_there| settle(answers(error), || Ok(is_there), what);
        assert_eq!(settle(ENODEV, true).unwrap(), Outcome::Gone);
        assert_eq!(settle(EOPNOTSUPP, false).unwrap(), Outcome::Gone);
        assert!(settle(EOPNOTSUPP, true).is_err());
    }

    #[test]
    fn a_port_that_joins_its_bridge_after_the_answer_is_asked_for_again() {
        let asked = std::cell::Cell::new(0);
        let joins = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                answers(EOPNOTSUPP)()
            } else {
                Ok(())
            }
        };
        assert_eq!(settle(joins, || Ok(true), what).unwrap(), Outcome::Done);
    }
}
