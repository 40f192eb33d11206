//! Turns rules into nft's statements, and back.

mod earlier;
mod log;

use std::borrow::Cow;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression};
use nftables::stmt::{AnonymousCounter, Counter, JumpTarget, Match, Operator, Statement};

use self::log::log;
use super::address_guard::Check;
use super::matching::{and, count_and_drop, count_and_note, field, is, is_not, meta, passes, text};
use super::rule::Rule;
use super::skeleton::{DROPPED_FOREIGN, DROPPED_FORGED, DROPPED_SPOOFED, MEDDLING};
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

pub use self::earlier::{is_of_earlier_version, with_packets};

/// The comment on the rule of a port that hears all networks.
const HEARS_ALL: &str = "hears all networks";

/// The destinations of control frames that no bridge forwards: 01:80:c2:00:00:00 to 0f (IEEE 802.1Q
/// table 8-1).
const CONTROL: (MacAddr, MacAddr) = (
    MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0]),
    MacAddr::new([0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]),
);
/// A mask of all bits of a source address that can differ: no frame comes from a group.
const SENDER: MacAddr = MacAddr::new([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
/// The bit that a multicast or broadcast address has.
const GROUP: MacAddr = MacAddr::new([1, 0, 0, 0, 0, 0]);
const NONE: MacAddr = MacAddr::new([0; 6]);

/// The comment on a rule, if it has one.
pub fn comment(rule: &Rule) -> Option<Cow<'static, str>> {
    match rule {
        Rule::Spoofed {
            hears_all: true, ..
        } => Some(Cow::Borrowed(HEARS_ALL)),
        Rule::Forged { check, .. } => Some(Cow::Borrowed(check.name())),
        Rule::Logged { of, .. } => comment(of),
        _ => None,
    }
}

/// The statements of a rule.
pub fn of(rule: &Rule) -> Vec<Statement<'static>> {
    match rule {
        Rule::Spoofed { port, senders, .. } => drop_spoofed(port, senders),
        Rule::Meddling {
            port,
            queries: false,
        } => drop_meddling(port),
        Rule::Meddling {
            port,
            queries: true,
        } => drop_control(port),
        Rule::Foreign {
            port,
            own,
            trusted,
            trusted_ports,
        } => drop_foreign(port, *own, trusted, trusted_ports),
        Rule::Overheard {
            port,
            own,
            receivers,
        } => drop_overheard(port, *own, receivers),
        Rule::Forged { port, check } => drop_forged(port, check),
        Rule::Logged { group, of } => log(*group, of),
    }
}

/// `iifname PORT ether saddr != MAC`, with another `!=` for each further address that the VM may use.
/// Stops a VM that sends under another station's address to get that station's frames, or to be heard
/// in its network.
fn drop_spoofed(port: &Port, senders: &[MacAddr]) -> Vec<Statement<'static>> {
    let mut matches = vec![passes(MetaKey::Iifname, port)];
    let senders = senders.iter();
    matches.extend(senders.map(|mac| sender_is_not_in(MacPrefix::of(*mac, PrefixLen::FULL))));
    count_and_note(matches, DROPPED_SPOOFED)
}

/// `iifname PORT meta pkttype multicast jump meddling`. Stops a VM that makes itself the root bridge,
/// makes the switch disable the host's port, or cuts other networks off from their multicast. A bridge
/// acts only on multicast frames. The kernel sets a packet's type by its destination address when it
/// arrives, and reading the type costs less than reading the address.
fn drop_meddling(port: &Port) -> Vec<Statement<'static>> {
    let target = Cow::Borrowed(MEDDLING);
    vec![
        passes(MetaKey::Iifname, port),
        is(meta(MetaKey::Pkttype), text("multicast")),
        Statement::Jump(JumpTarget { target }),
    ]
}

/// Like [`drop_meddling`], but lets multicast queries pass.
fn drop_control(port: &Port) -> Vec<Statement<'static>> {
    let (control, mask) = CONTROL;
    count_and_drop(vec![
        passes(MetaKey::Iifname, port),
        receiver(mask, control),
    ])
}

/// `oifname PORT ether saddr & MASK != NETWORK`, with another `!=` for each trusted prefix and each
/// trusted port. Stops a VM that listens to broadcasts, flooded frames and neighbours of other networks.
fn drop_foreign(
    port: &Port,
    own: MacPrefix,
    trusted: &[MacPrefix],
    trusted_ports: &[Port],
) -> Vec<Statement<'static>> {
    let mut matches = vec![passes(MetaKey::Oifname, port), sender_is_not_in(own)];
    matches.extend(trusted.iter().copied().map(sender_is_not_in));
    matches.extend(trusted_ports.iter().map(comes_not_through));
    count_and_note(matches, DROPPED_FOREIGN)
}

/// `oifname PORT ether saddr & MASK != NETWORK ether daddr != MAC`, not for groups. Stops a VM that
/// listens to frames from a router, or a trusted port of the host, to VMs of other networks.
///
/// The source always has a mask. Without one, nft 0.9.8 and 1.0.6 merge both matches into one comparison,
/// because the addresses are neighbours in the frame. Then "source and destination are not these two"
/// drops frames that "neither the source nor the destination" lets pass. (nft 1.1.3 does not merge them.)
fn drop_overheard(port: &Port, own: MacPrefix, receivers: &[MacAddr]) -> Vec<Statement<'static>> {
    let mask = match own.len() {
        PrefixLen::FULL => SENDER,
        _ => own.mask(),
    };
    let mut matches = vec![
        passes(MetaKey::Oifname, port),
        is_not(masked("saddr", mask), text(own.base())),
        receiver(GROUP, NONE),
    ];
    matches.extend(receivers.iter().map(is_not_for));
    count_and_drop(matches)
}

/// `iifname PORT` and the matches of [`super::address_guard`]. The port comes second: for most frames,
/// a rule ends at its first match, the protocol.
fn drop_forged(port: &Port, check: &Check) -> Vec<Statement<'static>> {
    let mut matches = check.matches();
    matches.insert(matches.len().min(1), passes(MetaKey::Iifname, port));
    count_and_note(matches, DROPPED_FORGED)
}

fn sender_is_not_in(prefix: MacPrefix) -> Statement<'static> {
    let left = match prefix.len() {
        // nft drops a mask of all ones when it lists the rule.
        PrefixLen::FULL => field("ether", "saddr"),
        _ => masked("saddr", prefix.mask()),
    };
    is_not(left, text(prefix.base()))
}

fn comes_not_through(port: &Port) -> Statement<'static> {
    is_not(meta(MetaKey::Iifname), text(port.as_str()))
}

fn is_not_for(mac: &MacAddr) -> Statement<'static> {
    is_not(field("ether", "daddr"), text(mac))
}

/// `ether daddr & MASK == ADDRESS`.
fn receiver(mask: MacAddr, address: MacAddr) -> Statement<'static> {
    is(masked("daddr", mask), text(address))
}

fn masked(name: &'static str, mask: MacAddr) -> Expression<'static> {
    and(field("ether", name), text(mask))
}

/// Reads a rule and the packets that it dropped. `None`: somebody else's rule.
pub fn parse(statements: &[Statement], comment: Option<&str>) -> Option<(Rule, u64)> {
    let (packets, others): (Vec<_>, Vec<_>) = statements
        .iter()
        .partition(|statement| matches!(statement, Statement::Counter(_)));
    let packets = packets
        .first()
        .map_or(Some(0), |counter| packets_of(counter))?;
    let rule = candidate(&others, comment)?;
    // A rule is ours only if it is exactly what we write for the candidate.
    let is_ours = is_same(statements, &of(&rule)) || is_of_earlier_version(statements, &rule);
    is_ours.then_some((rule, packets))
}

/// Tells whether listed statements are the desired ones, apart from counts. nft may leave out a `meta
/// protocol` that a later match implies; a listed one must be the same.
fn is_same(actual: &[Statement], desired: &[Statement]) -> bool {
    let plain = |statement| match statement {
        &Statement::Counter(_) => None,
        other => Some(other),
    };
    let mut actual = actual.iter().map(plain).peekable();
    for statement in desired {
        if actual.next_if_eq(&plain(statement)).is_none() && !is_implied(statement) {
            return false;
        }
    }
    actual.next().is_none()
}

/// Tells whether a statement matches IPv4 or IPv6 packets, which all later matches imply.
fn is_implied(statement: &Statement) -> bool {
    match statement {
        Statement::Match(Match {
            left,
            right: Expression::String(protocol),
            op: Operator::EQ,
        }) => *left == meta(MetaKey::Protocol) && matches!(&**protocol, "ip" | "ip6"),
        _ => false,
    }
}

/// Returns the rule that these statements may be.
fn candidate(statements: &[&Statement], comment: Option<&str>) -> Option<Rule> {
    if let Some((Statement::Log(Some(log)), limited)) = statements.split_last() {
        let group = log.group?.try_into().ok()?;
        // The limit is in the place of the drop.
        let of = Box::new(candidate(limited, comment)?);
        return Some(Rule::Logged { group, of });
    }
    if let Some(check) = comment.and_then(|comment| Check::candidate(comment, statements)) {
        let devices = statements.iter().take(2);
        let (_, port) = devices.filter_map(|match_| device_of(match_)).next()?;
        return Some(Rule::Forged { port, check });
    }
    let (device, rest) = statements.split_first()?;
    let (key, port) = device_of(device)?;
    let senders: Vec<_> = rest.iter().map_while(|match_| sender_of(match_)).collect();
    let receivers: Vec<_> = rest
        .iter()
        .filter_map(|match_| receiver_of(match_))
        .collect();
    Some(match (key, senders.as_slice(), rest.last()?) {
        (MetaKey::Iifname, [], Statement::Jump(_)) => Rule::Meddling {
            port,
            queries: false,
        },
        (MetaKey::Iifname, [], _) => Rule::Meddling {
            port,
            queries: true,
        },
        (MetaKey::Iifname, senders, _) => Rule::Spoofed {
            port,
            senders: senders.iter().map(|sender| sender.base()).collect(),
            hears_all: comment == Some(HEARS_ALL),
        },
        (MetaKey::Oifname, [own], _) if !receivers.is_empty() => Rule::Overheard {
            port,
            own: *own,
            receivers,
        },
        (MetaKey::Oifname, [own, trusted @ ..], _) => Rule::Foreign {
            port,
            own: *own,
            trusted: trusted.to_vec(),
            trusted_ports: rest.iter().filter_map(|match_| port_of(match_)).collect(),
        },
        _ => return None,
    })
}

fn device_of(statement: &Statement) -> Option<(MetaKey, Port)> {
    match statement {
        Statement::Match(Match {
            left: Expression::Named(NamedExpression::Meta(Meta { key })),
            right: Expression::String(port),
            op: Operator::EQ,
        }) if matches!(key, MetaKey::Iifname | MetaKey::Oifname) => {
            Some((*key, port.parse().ok()?))
        }
        _ => None,
    }
}

/// Returns the prefix in a match on the source address.
fn sender_of(statement: &Statement) -> Option<MacPrefix> {
    let Statement::Match(Match {
        left,
        right: Expression::String(base),
        op: Operator::NEQ,
    }) = statement
    else {
        return None;
    };
    let base: MacAddr = base.parse().ok()?;
    match left {
        Expression::BinaryOperation(operation) => match &**operation {
            BinaryOperation::AND(left, Expression::String(mask))
                if *left == field("ether", "saddr") =>
            {
                match mask.parse().ok()? {
                    SENDER => Some(MacPrefix::of(base, PrefixLen::FULL)),
                    mask => MacPrefix::from_mask(base, mask),
                }
            }
            _ => None,
        },
        left => (*left == field("ether", "saddr")).then(|| MacPrefix::of(base, PrefixLen::FULL)),
    }
}

/// Returns the address in a match on a destination that is not this one.
fn receiver_of(statement: &Statement) -> Option<MacAddr> {
    match statement {
        Statement::Match(Match {
            left,
            right: Expression::String(address),
            op: Operator::NEQ,
        }) if *left == field("ether", "daddr") => address.parse().ok(),
        _ => None,
    }
}

/// Returns the port in a match on frames that did not come through it.
fn port_of(statement: &Statement) -> Option<Port> {
    match statement {
        Statement::Match(Match {
            left,
            right: Expression::String(port),
            op: Operator::NEQ,
        }) if *left == meta(MetaKey::Iifname) => port.parse().ok(),
        _ => None,
    }
}

fn packets_of(statement: &Statement) -> Option<u64> {
    match statement {
        Statement::Counter(Counter::Anonymous(Some(AnonymousCounter { packets, .. }))) => {
            packets.and_then(|packets| packets.try_into().ok())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
