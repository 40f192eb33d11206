//! Reads the requests of a template for a NIC.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Error, Result, anyhow, ensure};
use roxmltree::Node;

use super::nic::text;
use crate::mac::MacAddr;
use crate::quote::quoted;
use crate::source::limits::{self, Limit};
use crate::vm::Asked;

/// The elements that hold a NIC's own addresses. OpenNebula's filter for iptables reads the same
/// (`nic_pre` in `security_groups_iptables.rb`). A virtual router's NIC has those that begin with
/// `VROUTER_`, and with `FLOATING_ONLY` only those.
const OWN: [&str; 10] = [
    "IP",
    "IP6",
    "IP6_GLOBAL",
    "IP6_LINK",
    "IP6_ULA",
    "VROUTER_IP",
    "VROUTER_IP6",
    "VROUTER_IP6_GLOBAL",
    "VROUTER_IP6_LINK",
    "VROUTER_IP6_ULA",
];

/// Reads the requests of a `<NIC>`, without addresses that aliases add.
///
/// # Errors
/// If an address is invalid, or one that no station can have; or if a list is beyond a limit.
pub fn of(nic: Node<'_, '_>) -> Result<Asked> {
    Ok(Asked {
        hears_all: !is_yes(nic, "FILTER_MAC_SPOOFING"),
        guards_addresses: is_yes(nic, "FILTER_IP_SPOOFING"),
        addresses: addresses(nic)?,
        extra_macs: list(nic, "MACFENCE_MACS", limits::EXTRA_MACS, mac)?,
        extra_addresses: list(nic, "MACFENCE_IPS", limits::EXTRA_ADDRESSES, address)?,
    })
}

/// Reads the own addresses of a `<NIC>` or a `<NIC_ALIAS>`. An empty element counts as missing, as
/// in OpenNebula's own filter.
///
/// # Errors
/// If an address is invalid, or one that no station can have.
pub fn addresses(nic: Node<'_, '_>) -> Result<BTreeSet<IpAddr>> {
    let named = OWN.into_iter();
    let named = named.filter_map(|name| text(nic, name).map(|value| (name, value)));
    named.map(|(name, value)| address(name, value)).collect()
}

/// Reads a list of items, separated by blanks or commas.
fn list<T: Ord>(
    nic: Node<'_, '_>,
    name: &'static str,
    limit: Limit,
    item: fn(&str, &str) -> Result<T>,
) -> Result<BTreeSet<T>> {
    let value = text(nic, name).unwrap_or_default();
    let words = value.split(|c: char| c == ',' || c.is_whitespace());
    let words = words.filter(|word| !word.is_empty());
    let mut items = BTreeSet::new();
    for (count, word) in (1..).zip(words) {
        limit.check(name, count)?;
        items.insert(item(name, word)?);
    }
    Ok(items)
}

fn address(name: &str, text: &str) -> Result<IpAddr> {
    let address = IpAddr::from_str(text)
        .map_err(|_| anyhow!("{name}: {} is not an IP address", quoted(text)))?;
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    ensure!(
        !address.is_multicast() && !address.is_unspecified() && !is_broadcast,
        "{name}: {address} is an address that no station can have"
    );
    Ok(address)
}

fn mac(name: &str, text: &str) -> Result<MacAddr> {
    let mac: MacAddr = text
        .parse()
        .map_err(|e: Error| e.context(name.to_owned()))?;
    ensure!(
        !mac.is_multicast() && !mac.is_zero(),
        "{name}: {mac} is an address that no station can have"
    );
    Ok(mac)
}

/// Tells whether a filter is requested. The test is the same as in OpenNebula's removed driver.
fn is_yes(nic: Node<'_, '_>, name: &'static str) -> bool {
    text(nic, name).is_some_and(|value| value.to_ascii_lowercase().contains("yes"))
}
