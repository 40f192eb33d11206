//! The IP addresses that a VM may use, and the same as read back from the kernel's rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::mac::MacAddr;

/// The IP addresses that a VM may use at a port: as the source of its packets, and in its claims to own
/// an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The IPv4 addresses, sorted, each once.
    pub v4: Vec<Ipv4Addr>,
    /// The IPv6 addresses, without those that [`Addresses::link_local`] allows, sorted, each once.
    pub v6: Vec<Ipv6Addr>,
    /// The link-local IPv6 addresses.
    pub link_local: LinkLocal,
}

/// The link-local IPv6 addresses that a VM may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkLocal {
    /// Those made from the MAC addresses that it may send from.
    #[default]
    Eui64,
    /// All of fe80::/10: some guests make their address from a secret (RFC 7217).
    Any,
}

impl LinkLocal {
    /// The addresses made from these MAC addresses; none if any address is allowed.
    pub fn made_from(self, macs: impl Iterator<Item = MacAddr>) -> Vec<Ipv6Addr> {
        match self {
            Self::Eui64 => macs.map(eui64).collect(),
            Self::Any => Vec::new(),
        }
    }
}

/// The link-local address made from a MAC address (RFC 4291 appendix A).
fn eui64(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.bytes();
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0, //
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// The addresses that a VM may use according to the rules, once for each rule about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualAddresses {
    /// The IPv4 addresses.
    pub v4: Vec<Vec<Ipv4Addr>>,
    /// The IPv6 addresses.
    pub v6: Vec<ActualIpv6>,
}

/// The IPv6 addresses that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualIpv6 {
    /// Single addresses. Those made from MAC addresses come last.
    pub addresses: Vec<Ipv6Addr>,
    /// Whether it also allows all link-local addresses.
    pub any_link_local: bool,
}

impl ActualIpv6 {
    /// The contents of a rule that allows these addresses to a VM that sends from these MAC addresses.
    pub fn of(allowed: &Addresses, macs: impl Iterator<Item = MacAddr>) -> Self {
        let made = allowed.link_local.made_from(macs);
        Self {
            addresses: allowed.v6.iter().copied().chain(made).collect(),
            any_link_local: allowed.link_local == LinkLocal::Any,
        }
    }
}

impl ActualAddresses {
    /// Tells whether `other` has every rule that these are from.
    pub fn is_covered_by(&self, other: &Self) -> bool {
        self.v4.iter().all(|said| other.v4.contains(said))
            && self.v6.iter().all(|said| other.v6.contains(said))
    }

    /// The addresses for which the rules were made, if that is clear: there are rules about IPv4 and
    /// about IPv6, and no two rules of one kind contradict each other.
    pub fn meant(&self, macs: impl Iterator<Item = MacAddr>) -> Option<Addresses> {
        let v6 = super::the_only(&self.v6)?;
        let link_local = if v6.any_link_local {
            LinkLocal::Any
        } else {
            LinkLocal::Eui64
        };
        let made = link_local.made_from(macs);
        Some(Addresses {
            v4: super::the_only(&self.v4)?.clone(),
            v6: v6.addresses.strip_suffix(made.as_slice())?.to_vec(),
            link_local,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0xc0, 0xa8, 0, 5]);

    #[test]
    fn the_link_local_address_is_the_one_that_linux_makes() {
        assert_eq!(eui64(MAC).to_string(), "fe80::c0ff:fea8:5");
        let vendor = MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(eui64(vendor).to_string(), "fe80::5054:ff:fe12:3456");
    }

    #[test]
    fn an_address_that_is_also_made_from_the_mac_is_kept_apart() {
        for v6 in [vec![], vec![eui64(MAC)]] {
            let allowed = Addresses {
                v4: vec![Ipv4Addr::new(192, 168, 0, 5)],
                v6,
                link_local: LinkLocal::Eui64,
            };
            let actual = ActualAddresses {
                v4: vec![allowed.v4.clone()],
                v6: vec![ActualIpv6::of(&allowed, [MAC].into_iter())],
            };
            assert_eq!(actual.meant([MAC].into_iter()), Some(allowed));
        }
    }

    #[test]
    fn contradicting_or_lost_rules_have_no_meaning() {
        let v6 = ActualIpv6 {
            addresses: Vec::new(),
            any_link_local: true,
        };
        let whole = ActualAddresses {
            v4: vec![vec![], vec![]],
            v6: vec![v6.clone(), v6],
        };
        assert!(whole.meant([MAC].into_iter()).is_some());
        let mut other = whole.clone();
        other.v4.push(vec![Ipv4Addr::LOCALHOST]);
        assert_eq!(other.meant([MAC].into_iter()), None);
        let mut lost = whole;
        lost.v6.clear();
        assert_eq!(lost.meant([MAC].into_iter()), None);
    }
}
