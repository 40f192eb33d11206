//! Brings the words that ebtables lists into one spelling. Legacy and the nft variant print the same
//! numbers and addresses differently, and all print names if `/etc` has them.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::shape::prefix;
use crate::mac::PrefixLen;

/// Names of EtherTypes, as `/etc/ethertypes` has them.
const ETHER_TYPES: [(&str, &str); 5] = [
    ("IPv4", "0x0800"),
    ("ARP", "0x0806"),
    ("RARP", "0x8035"),
    ("802_1Q", "0x8100"),
    ("IPv6", "0x86dd"),
];
/// Another name for 802.1ad.
const PROVIDER_TAG: (&str, &str) = ("S-TAG", "0x88a8");

/// Names of IP protocols, as `/etc/protocols` has them.
const PROTOCOLS: [(&str, &str); 3] = [("igmp", "2"), ("udp", "17"), ("ipv6-icmp", "58")];

const IGMP_TYPES: [(&str, &str); 1] = [("membership-query", "17")];

const ICMPV6_TYPES: [(&str, &str); 6] = [
    ("mld-listener-query", "130"),
    ("mld-listener-report", "131"),
    ("router-solicitation", "133"),
    ("router-advertisement", "134"),
    ("neighbour-solicitation", "135"),
    ("redirect", "137"),
];

/// Every multicast and broadcast address.
pub const MULTICAST: &str = "Multicast";

/// Brings these words into one spelling.
pub fn spelled(words: &[&str]) -> Vec<String> {
    let mut option = "";
    let mut all = Vec::with_capacity(words.len());
    for word in words {
        if word.starts_with('-') {
            option = word;
        }
        all.push(value(option, word).unwrap_or_else(|| (*word).to_owned()));
    }
    all
}

/// Spells the value of an option. `None`: leave it as it is.
fn value(option: &str, word: &str) -> Option<String> {
    match option {
        "-p" | "--arp-ptype" => ether_type(word),
        "-s" | "-d" | "--arp-mac-src" => mac(word),
        "--ip-src" | "--ip-dst" | "--arp-ip-src" => address::<Ipv4Addr>(word, "32"),
        "--ip6-src" | "--ip6-dst" => address::<Ipv6Addr>(word, "128"),
        "--ip-proto" | "--ip6-proto" => named(&PROTOCOLS, word),
        "--ip-igmp-type" => named(&IGMP_TYPES, word),
        // A type and its range of codes.
        "--ip6-icmp-type" => match word.strip_suffix("/0:255") {
            Some(kind) => Some(kind.to_owned()),
            None => named(&ICMPV6_TYPES, word),
        },
        // Above all, names of devices, which may be any text.
        _ => None,
    }
}

fn named(names: &[(&str, &str)], word: &str) -> Option<String> {
    let same = |(name, _): &&(&str, &str)| word.eq_ignore_ascii_case(name);
    let found = names.iter().find(same);
    found.map(|(_, number)| (*number).to_owned())
}

fn ether_type(word: &str) -> Option<String> {
    let names = ETHER_TYPES.iter().chain([&PROVIDER_TAG]);
    let names: Vec<_> = names.copied().collect();
    named(&names, word).or_else(|| {
        let digits = word.strip_prefix("0x")?;
        let number = u16::from_str_radix(digits, 16).ok()?;
        Some(format!("{number:#06x}"))
    })
}

fn mac(word: &str) -> Option<String> {
    if word.eq_ignore_ascii_case(MULTICAST) {
        return Some("01:00:00:00:00:00/01:00:00:00:00:00".to_owned());
    }
    let prefix = prefix(word)?;
    Some(if prefix.len() == PrefixLen::FULL {
        prefix.base().to_string()
    } else {
        format!("{}/{}", prefix.base(), prefix.mask())
    })
}

/// Spells an IP address. A mask of all bits is left out, and that of fe80::/10 becomes a length.
fn address<A: FromStr + Display>(word: &str, all_bits: &str) -> Option<String> {
    let (base, mask) = word.split_once('/').unwrap_or((word, all_bits));
    let base: A = base.parse().ok()?;
    let all = ["255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"];
    Some(if mask == all_bits || all.contains(&mask) {
        base.to_string()
    } else if mask == "ffc0::" {
        format!("{base}/10")
    } else {
        format!("{base}/{mask}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_ebtables_prints_is_spelled_alike() {
        for (listed, expected) in [
            (
                "-p IPv4 --ip-proto udp --ip-sport 67",
                "-p 0x0800 --ip-proto 17 --ip-sport 67",
            ),
            (
                "-p 0x800 --ip-src 1.2.3.4/255.255.255.255",
                "-p 0x0800 --ip-src 1.2.3.4",
            ),
            (
                "-p IPv6 --ip6-src ::1.2.3.4 --ip6-proto ! ipv6-icmp",
                "-p 0x86dd --ip6-src ::1.2.3.4 --ip6-proto ! 58",
            ),
            (
                "-p IPv6 --ip6-src ::102:304/128",
                "-p 0x86dd --ip6-src ::1.2.3.4",
            ),
            ("--ip6-src fe80::/ffc0::", "--ip6-src fe80::/10"),
            (
                "--ip6-icmp-type ! router-advertisement",
                "--ip6-icmp-type ! 134",
            ),
            ("--ip6-icmp-type 143/0:255", "--ip6-icmp-type 143"),
            (
                "-p 0x806 --arp-ptype IPv4 --arp-mac-src 2:0:c0:a8:0:5",
                "-p 0x0806 --arp-ptype 0x0800 --arp-mac-src 02:00:c0:a8:00:05",
            ),
            ("-p S-TAG", "-p 0x88a8"),
            // A device may have the name of a protocol.
            ("-i udp -o IPv4", "-i udp -o IPv4"),
            ("-i 2:0:c0:a8:0:5", "-i 2:0:c0:a8:0:5"),
        ] {
            let words: Vec<_> = listed.split(' ').collect();
            let expected: Vec<_> = expected.split(' ').collect();
            // Rust's spelling of an address counts.
            assert_eq!(spelled(&words), spelled(&expected), "{listed}");
            if !listed.contains("::") {
                assert_eq!(spelled(&words), expected, "{listed}");
            }
        }
    }
}
