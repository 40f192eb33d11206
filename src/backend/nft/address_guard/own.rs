//! The rules of the address guard that name the VM's own addresses. Each also matches `iifname PORT`.
//! Also reads the addresses back from rules.
//!
//! A rule has one `!=` for each address, and all must hold. Each set would cost the kernel an object,
//! and nft 0.9.8 has no set for the target's address in an advertisement.

use std::net::{Ipv4Addr, Ipv6Addr};

use nftables::expr::PayloadBase::{NH, TH};
use nftables::expr::{Expression, NamedExpression, PayloadBase, Prefix};
use nftables::stmt::{Match, Operator, Statement};

use super::super::matching::{and, bits, field, is, is_not, number, text};
use super::fixed;
use crate::fence::ActualIpv6;
use crate::mac::MacAddr;

type Matches = Vec<Statement<'static>>;

/// The first 16 bits of fe80::/10, and their mask.
const LINK_LOCAL: u32 = 0xfe80;
const LINK_LOCAL_MASK: u32 = 0xffc0;

/// Stops ARP with a MAC address that is not the VM's: receivers believe this address, not that of the
/// frame.
pub fn false_arp_mac(macs: &[MacAddr]) -> Matches {
    let is_not = |mac: &MacAddr| is_not(arp_mac(), text(hex(mac_bits(*mac))));
    fixed::arp(macs.iter().map(is_not))
}

/// Stops ARP for another station's IP address. 0.0.0.0 may pass: it probes whether an address is free
/// (RFC 5227), or belongs to RARP.
pub fn false_arp_ip(addresses: &[Ipv4Addr]) -> Matches {
    let all = addresses.iter().copied().chain([Ipv4Addr::UNSPECIFIED]);
    fixed::arp(all.map(|ip| is_not(arp_ip(), number(ip.to_bits()))))
}

/// Stops packets from another station's IPv4 address. [`fixed`] checks packets from 0.0.0.0.
pub fn false_ipv4_source(addresses: &[Ipv4Addr]) -> Matches {
    let all = addresses.iter().copied().chain([Ipv4Addr::UNSPECIFIED]);
    fixed::ip("ip", all.map(|ip| is_not(ipv4_source(), text(ip))))
}

/// Stops packets from another station's IPv6 address. [`fixed`] checks packets from `::`.
pub fn false_ipv6_source(allowed: &ActualIpv6) -> Matches {
    let mut all: Vec<_> = allowed.addresses.iter().map(text).collect();
    if allowed.any_link_local {
        let addr = Box::new(text("fe80::"));
        let prefix = NamedExpression::Prefix(Prefix { addr, len: 10 });
        all.push(Expression::Named(prefix));
    }
    all.push(text(Ipv6Addr::UNSPECIFIED));
    let all = all.into_iter();
    fixed::ip("ip6", all.map(|ip| is_not(ipv6_source(), ip)))
}

/// Stops a VM that pretends to probe the address that another station is about to take: that station
/// would then give the address up (RFC 4862, 5.4.3).
pub fn false_probe(allowed: &ActualIpv6) -> Matches {
    let mut matches = vec![is(bits(NH, 320, 8), number(135))];
    matches.extend(target_is_none_of(NH, PROBED, allowed));
    fixed::ipv6_unspecified(matches)
}

/// Stops a VM that answers for another station's IPv6 address.
pub fn false_advert(allowed: &ActualIpv6) -> Matches {
    let target = target_is_none_of(TH, ADVERTISED, allowed);
    fixed::icmpv6("nd-neighbor-advert", target)
}

/// The offset of the target in bits: from the IPv6 header in a solicitation that follows it directly,
/// and from the ICMPv6 header in an advertisement.
const PROBED: u32 = 384;
const ADVERTISED: u32 = 64;

fn target_is_none_of(base: PayloadBase, offset: u32, allowed: &ActualIpv6) -> Matches {
    let address = |ip: &Ipv6Addr| is_not(bits(base, offset, 128), text(hex(ip.to_bits())));
    let mut matches: Matches = allowed.addresses.iter().map(address).collect();
    if allowed.any_link_local {
        matches.push(is_not(
            and(bits(base, offset, 16), number(LINK_LOCAL_MASK)),
            number(LINK_LOCAL),
        ));
    }
    matches
}

/// Reads the addresses in a rule of [`false_arp_mac`].
pub fn arp_macs(statements: &[&Statement]) -> Option<Vec<MacAddr>> {
    let mac = |right: &Expression| Some(mac_of(u64::try_from(unhex(right)?).ok()?));
    named(statements, &arp_mac()).map(mac).collect()
}

/// Reads the addresses in a rule of [`false_arp_ip`], without the last.
pub fn arp_ips(statements: &[&Statement]) -> Option<Vec<Ipv4Addr>> {
    let ip = |right: &Expression| match right {
        Expression::Number(ip) => Some(Ipv4Addr::from_bits(*ip)),
        _ => None,
    };
    but_the_last(named(statements, &arp_ip()).map(ip).collect())
}

/// Reads the addresses in a rule of [`false_ipv4_source`], without the last.
pub fn ipv4_sources(statements: &[&Statement]) -> Option<Vec<Ipv4Addr>> {
    but_the_last(named(statements, &ipv4_source()).map(parsed).collect())
}

/// Reads the addresses that a rule of [`false_ipv6_source`] allows.
pub fn ipv6_sources(statements: &[&Statement]) -> Option<ActualIpv6> {
    let source = ipv6_source();
    let (single, other): (Vec<_>, Vec<_>) =
        named(statements, &source).partition(|right| matches!(right, Expression::String(_)));
    Some(ActualIpv6 {
        addresses: but_the_last(single.into_iter().map(parsed).collect())?,
        any_link_local: !other.is_empty(),
    })
}

/// Reads the addresses that a rule of [`false_probe`] allows.
pub fn probed(statements: &[&Statement]) -> Option<ActualIpv6> {
    targets(statements, NH, PROBED)
}

/// Reads the addresses that a rule of [`false_advert`] allows.
pub fn advertised(statements: &[&Statement]) -> Option<ActualIpv6> {
    targets(statements, TH, ADVERTISED)
}

fn targets(statements: &[&Statement], base: PayloadBase, offset: u32) -> Option<ActualIpv6> {
    let ip = |right: &Expression| unhex(right).map(Ipv6Addr::from_bits);
    let whole = bits(base, offset, 128);
    let start = and(bits(base, offset, 16), number(LINK_LOCAL_MASK));
    Some(ActualIpv6 {
        addresses: named(statements, &whole).map(ip).collect::<Option<_>>()?,
        any_link_local: named(statements, &start).next().is_some(),
    })
}

fn arp_mac() -> Expression<'static> {
    bits(NH, 64, 48)
}

fn arp_ip() -> Expression<'static> {
    bits(NH, 112, 32)
}

fn ipv4_source() -> Expression<'static> {
    field("ip", "saddr")
}

fn ipv6_source() -> Expression<'static> {
    field("ip6", "saddr")
}

/// Returns the right sides of all `left != …`.
fn named<'a>(
    statements: &'a [&Statement],
    left: &'a Expression<'static>,
) -> impl Iterator<Item = &'a Expression<'a>> {
    statements
        .iter()
        .filter_map(move |statement| match statement {
            Statement::Match(Match {
                left: actual,
                right,
                op: Operator::NEQ,
            }) if actual == left => Some(right),
            _ => None,
        })
}

fn parsed<T: std::str::FromStr>(right: &Expression) -> Option<T> {
    match right {
        Expression::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn but_the_last<T>(values: Option<Vec<T>>) -> Option<Vec<T>> {
    let mut values = values?;
    values.pop().map(|_| values)
}

/// Spells a number of more than 32 bits like [`super::super::spelling`].
fn hex(number: impl Into<u128>) -> String {
    format!("{:#x}", number.into())
}

fn unhex(right: &Expression) -> Option<u128> {
    match right {
        Expression::String(text) => u128::from_str_radix(text.strip_prefix("0x")?, 16).ok(),
        _ => None,
    }
}

fn mac_bits(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.bytes();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn mac_of(bits: u64) -> MacAddr {
    let [_, _, bytes @ ..] = bits.to_be_bytes();
    MacAddr::new(bytes)
}
