//! Ethernet addresses and the prefixes that stand for virtual networks.

mod form;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

pub use self::form::in_any_form;
use crate::quote::quoted;

/// An Ethernet (EUI-48) address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The address made of these six bytes, first on the wire first.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The six bytes, first on the wire first.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Tells whether the address names a group of stations (multicast, broadcast) and so cannot be a
    /// sender's: the lowest bit of the first byte, IEEE 802.3 clause 3.2.3.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Tells whether all 48 bits are zero, which no station has.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    fn bits(self) -> u64 {
        self.0
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    }

    fn from_bits(bits: u64) -> Self {
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        Self(bytes)
    }
}

impl fmt::Display for MacAddr {
    /// Lower case, padded, separated by colons: `02:00:c0:a8:00:05`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = Error;

    /// Accepts any case, with or without zero padding: legacy ebtables prints `2:0:c0:a8:0:5`.
    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            *byte = groups
                .next()
                .filter(|g| matches!(g.len(), 1 | 2) && g.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|g| u8::from_str_radix(g, 16).ok())
                .with_context(|| no_address(text))?;
        }
        ensure!(groups.next().is_none(), no_address(text));
        Ok(Self(bytes))
    }
}

fn no_address(text: &str) -> String {
    let meant = in_any_form(text).map(|mac| format!(": write it as {mac}"));
    let hint = meant.unwrap_or_default();
    format!("{} is not a MAC address{hint}", quoted(text))
}

/// The number of leading bits of a MAC address that name its virtual network: 8 to 48.
///
/// The default is the seed's 40. OpenNebula builds a MAC address from `02:00:` and the IPv4 address, so
/// /40 is one /24 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixLen(u8);

impl PrefixLen {
    /// The shortest prefix, in bits.
    pub const MIN: u8 = 8;
    /// The longest prefix, in bits: a whole address.
    pub const MAX: u8 = 48;
    /// A whole address.
    pub const FULL: Self = Self(Self::MAX);

    /// The length in bits.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl Default for PrefixLen {
    fn default() -> Self {
        Self(40)
    }
}

impl TryFrom<i64> for PrefixLen {
    type Error = Error;

    fn try_from(bits: i64) -> Result<Self> {
        match u8::try_from(bits) {
            Ok(len @ Self::MIN..=Self::MAX) => Ok(Self(len)),
            _ => bail!(
                "prefix length {bits} is not between {} and {}",
                Self::MIN,
                Self::MAX
            ),
        }
    }
}

impl FromStr for PrefixLen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse::<i64>()
            .ok()
            .with_context(|| format!("{} is not a prefix length in bits", quoted(text)))?
            .try_into()
    }
}

/// All MAC addresses that share their first bits: a virtual network, or one trusted station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacPrefix {
    base: MacAddr,
    len: PrefixLen,
}

impl MacPrefix {
    /// The prefix of `len` bits that contains `mac`.
    pub fn of(mac: MacAddr, len: PrefixLen) -> Self {
        let base = MacAddr::from_bits(mac.bits() & mask_bits(len));
        Self { base, len }
    }

    /// The first address of the prefix: all bits after the prefix are zero.
    pub fn base(self) -> MacAddr {
        self.base
    }

    /// The length of the prefix.
    pub fn len(self) -> PrefixLen {
        self.len
    }

    /// The mask of the prefix, as ebtables and nft write it.
    pub fn mask(self) -> MacAddr {
        MacAddr::from_bits(mask_bits(self.len))
    }

    /// The prefix with this base and mask; `None` if the mask has a gap, is shorter than 8 bits,
    /// or leaves out bits that are set in the base.
    pub fn from_mask(base: MacAddr, mask: MacAddr) -> Option<Self> {
        let len = PrefixLen::try_from(i64::from((mask.bits() << 16).leading_ones())).ok()?;
        let prefix = Self::of(base, len);
        (prefix.mask() == mask && prefix.base == base).then_some(prefix)
    }

    /// Tells whether `mac` is in the prefix.
    pub fn contains(self, mac: MacAddr) -> bool {
        Self::of(mac, self.len) == self
    }
}

fn mask_bits(len: PrefixLen) -> u64 {
    (!0u64 << (48 - u32::from(len.0))) & 0xffff_ffff_ffff
}

impl fmt::Display for MacPrefix {
    /// `02:00:c0:a8:00:00/40`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.len.0)
    }
}

impl FromStr for MacPrefix {
    type Err = Error;

    /// Reads `MAC` (48 bits) or `MAC/LEN`. Bits after the prefix are ignored, as nft ignores them. A
    /// multicast prefix or the all-zero address is refused: no frame comes from one.
    fn from_str(text: &str) -> Result<Self> {
        let (mac, len) = match text.split_once('/') {
            Some((mac, len)) => (
                mac,
                len.parse()
                    .with_context(|| format!("in {}", quoted(text)))?,
            ),
            None => (text, PrefixLen::FULL),
        };
        let mac: MacAddr = mac.parse()?;
        ensure!(
            !mac.is_multicast(),
            "{} is a multicast address, which no sender has",
            quoted(text)
        );
        ensure!(
            !mac.is_zero() || len != PrefixLen::FULL,
            "{} is the all-zero address, which no sender has",
            quoted(text)
        );
        Ok(Self::of(mac, len))
    }
}

impl TryFrom<String> for MacPrefix {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_notation_of_an_address_is_the_same_address() {
        let mac = MacAddr::new([2, 0, 0xc0, 0xa8, 0, 5]);
        for text in ["02:00:c0:a8:00:05", "2:0:C0:A8:0:5", "02:0:c0:A8:00:5"] {
            assert_eq!(text.parse::<MacAddr>().unwrap(), mac, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in [
            "",
            ":",
            "02",
            "02:00:c0:a8:00",
            "02:00:c0:a8:00:05:06",
            "02:00:c0:a8:00:5g",
            "002:00:c0:a8:00:05",
            "02-00-c0-a8-00-05",
            "+2:00:c0:a8:00:05",
            "02:00:c0:a8:00:05 ",
            "02::c0:a8:00:05",
            "０2:00:c0:a8:00:05",
        ] {
            let error = text.parse::<MacAddr>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn the_default_prefix_is_the_seeds() {
        let prefix = MacPrefix::of("02:00:c0:a8:00:05".parse().unwrap(), PrefixLen::default());
        assert_eq!(prefix.to_string(), "02:00:c0:a8:00:00/40");
        assert_eq!(prefix.mask().to_string(), "ff:ff:ff:ff:ff:00");
        assert!(prefix.contains("02:00:c0:a8:00:ff".parse().unwrap()));
        assert!(!prefix.contains("02:00:c0:a8:01:05".parse().unwrap()));
    }

    #[test]
    fn prefix_lengths_outside_8_to_48_are_refused() {
        for text in ["7", "49", "0", "-1", "300", "forty", ""] {
            assert!(text.parse::<PrefixLen>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_trusted_sender_must_be_able_to_send() {
        for text in [
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "0:0:0:0:0:0",
            "2:0:0:0:0:0/7",
        ] {
            assert!(text.parse::<MacPrefix>().is_err(), "{text}");
        }
    }

    fn any_mac() -> impl Strategy<Value = MacAddr> {
        any::<[u8; 6]>().prop_map(MacAddr::new)
    }

    proptest! {
        #[test]
        fn any_text_that_parses_prints_back_to_the_same_address(
            text in "[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}|[0-9a-fA-F:.-]{0,20}|\\PC{0,20}",
        ) {
            if let Ok(mac) = text.parse::<MacAddr>() {
                prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
            }
        }

        #[test]
        fn a_prefix_is_what_shares_its_first_bits(a in any_mac(), b in any_mac(), len in 8i64..=48) {
            let prefix = MacPrefix::of(a, len.try_into().unwrap());
            let shared = (a.bits() ^ b.bits()) >> (48 - len) == 0;
            prop_assert_eq!(prefix.contains(b), shared);
            prop_assert!(prefix.contains(a));
            prop_assert_eq!(MacPrefix::from_mask(prefix.base(), prefix.mask()), Some(prefix));
        }
    }
}
