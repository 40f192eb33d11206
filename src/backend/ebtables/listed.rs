//! A rule as ebtables lists it. Legacy and the nft variant print the same, except for blanks, the
//! padding of addresses, and the `!`, which the nft variant puts before the option since 1.8.11. All
//! print names of protocols if `/etc` has them.

use super::shape::{CONTROL, DROP, Fingerprint, GROUPS, Receivers, Shape, check_port, prefix};
use super::spelling::{MULTICAST, spelled};
use crate::mac::{MacAddr, PrefixLen};
use crate::vm::Port;

/// The bridge group address, 01:80:c2:00:00:00 with all its bits.
const BRIDGES: &str = "BGA";

/// A rule that ebtables listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The rule as listed, without counters.
    pub text: &'a str,
    /// Its words before the target.
    matches: Vec<&'a str>,
    /// Where a matching frame goes.
    pub target: &'a str,
    /// Its counters, if they were printed.
    pub counters: Option<Counters>,
}

/// The frames that have matched a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Counters {
    /// Adds two counters.
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// Reads `7 -- bcnt = 420`.
    fn read(text: &str) -> Option<Self> {
        let (packets, bytes) = text.split_once(" -- bcnt = ")?;
        Some(Self {
            packets: packets.trim().parse().ok()?,
            bytes: bytes.trim().parse().ok()?,
        })
    }
}

impl<'a> Listed<'a> {
    /// Reads a line like `-s ! 2:0:c0:a8:0:5 -i one-1-0 -j DROP , pcnt = 7 -- bcnt = 420`.
    pub fn read(line: &'a str) -> Option<Self> {
        let (text, counters) = match line.split_once(", pcnt = ") {
            Some((text, counters)) => (text.trim(), Counters::read(counters)),
            None => (line.trim(), None),
        };
        let mut matches: Vec<_> = text.split_whitespace().collect();
        let target = matches.pop()?;
        (matches.pop()? == "-j").then_some(())?;
        // `! -s MAC` becomes `-s ! MAC`.
        for index in 1..matches.len() {
            if let Some([not @ "!", option]) = matches.get_mut(index - 1..=index)
                && option.starts_with('-')
            {
                std::mem::swap(not, option);
            }
        }
        Some(Self {
            text,
            matches,
            target,
            counters,
        })
    }

    /// The rule in one spelling, for every variant of ebtables.
    pub fn written(&self) -> String {
        let mut words = spelled(&self.matches);
        words.extend(["-j".to_owned(), self.target.to_owned()]);
        words.join(" ")
    }

    /// What ebtables may compare to find this rule: pairs of an address in it, without its mask, or
    /// none, and another word. When looking for a rule to delete, both variants ignore masks, and some
    /// versions ignore whole options such as `--log` (legacy 2.0.11 and nft 1.8.9, tried out).
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        let addresses = self.matches.iter().filter_map(|word| address(word));
        let addresses = addresses.map(Some).chain([None]);
        let beside = |mac| {
            let words = self.matches.iter().filter(|word| address(word).is_none());
            words.map(move |word| (self.target.to_owned(), mac, (*word).to_owned()))
        };
        addresses.flat_map(beside).collect()
    }

    /// The shape of the rule, if one of our rules has it.
    pub fn shape(&self) -> Option<Shape> {
        match self.matches.as_slice() {
            ["-s", "!", mac, "-i", name] => Some(Shape::Spoofed(port(name)?, station(mac)?)),
            ["-d", to, "-i", name] => Some(Shape::Meddling(port(name)?, receivers(to)?)),
            ["-i", name] => Some(Shape::Addresses(port(name)?)),
            ["-s", "!", own, "-o", name] => Some(Shape::Foreign(port(name)?, prefix(own)?)),
            [
                "-s",
                "!",
                own,
                "-d",
                "!",
                mac,
                "-o",
                name,
                "--pkttype-type",
                "otherhost",
            ] => Some(Shape::Overheard(port(name)?, prefix(own)?, station(mac)?)),
            _ => None,
        }
    }

    /// Tells whether the rule drops what it matches.
    pub fn drops(&self) -> bool {
        self.target == DROP
    }
}

/// Reads a port, unless the word is a wildcard: such a rule stands in front of many ports, and is not
/// ours.
fn port(name: &str) -> Option<Port> {
    name.parse().ok().filter(|port| check_port(port).is_ok())
}

/// Reads an address without a mask, or with one of all bits.
fn station(text: &str) -> Option<MacAddr> {
    let prefix = prefix(text)?;
    (prefix.len() == PrefixLen::FULL).then(|| prefix.base())
}

fn receivers(text: &str) -> Option<Receivers> {
    if text == MULTICAST {
        return Some(Receivers::Groups);
    }
    let (address, mask) = text.split_once('/')?;
    let pair = (address.parse().ok()?, mask.parse().ok()?);
    let all = [Receivers::Bridges, Receivers::Groups];
    all.into_iter().find(|one| one.address() == pair)
}

/// Reads the address in a word, without its mask.
fn address(word: &str) -> Option<MacAddr> {
    match word {
        MULTICAST => Some(GROUPS.0),
        BRIDGES => Some(CONTROL.0),
        word => word.split('/').next()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::MacPrefix;

    #[test]
    fn both_kinds_of_listings_read_alike() {
        let port: Port = "one-1-0".parse().unwrap();
        let spoofed = Shape::Spoofed(port.clone(), "02:00:c0:a8:00:05".parse().unwrap());
        let foreign = Shape::Foreign(port, "02:00:c0:a8:00:00/40".parse().unwrap());
        for listing in [
            include_str!("../../../tests/captures/ebtables-legacy-2.0.11-list-FORWARD.txt"),
            include_str!("../../../tests/captures/ebtables-nft-1.8.9-list-FORWARD.txt"),
        ] {
            let rules = listing.lines().filter_map(Listed::read);
            let shapes: Vec<_> = rules.filter_map(|rule| rule.shape()).collect();
            assert_eq!(shapes, [foreign.clone(), spoofed.clone()]);
        }
    }

    #[test]
    fn counters_are_read_where_they_are_printed() {
        let rule = "-s ! 2:0:c0:a8:0:5 -i one-1-0 -j DROP";
        let line = format!("{rule} , pcnt = 7 -- bcnt = 420");
        let listed = Listed::read(&line).unwrap();
        let counters = Counters {
            packets: 7,
            bytes: 420,
        };
        assert_eq!((listed.counters, listed.text), (Some(counters), rule));
        assert!(listed.drops());
        assert_eq!(Listed::read(rule).unwrap().counters, None);
    }

    #[test]
    fn a_shape_is_read_back_from_its_words_as_they_are_listed() {
        let port: Port = "one-1-0".parse().unwrap();
        let mac = "02:00:c0:a8:00:05".parse().unwrap();
        let network = "02:00:c0:a8:00:00/40".parse().unwrap();
        let full = MacPrefix::of(mac, PrefixLen::FULL);
        for shape in [
            Shape::Spoofed(port.clone(), mac),
            Shape::Meddling(port.clone(), Receivers::Bridges),
            Shape::Meddling(port.clone(), Receivers::Groups),
            Shape::Foreign(port.clone(), network),
            Shape::Foreign(port.clone(), full),
            Shape::Overheard(port.clone(), network, mac),
            Shape::Overheard(port.clone(), full, mac),
        ] {
            let line = format!("{} -j DROP", shape.words().join(" "));
            let listed = line
                .replace("01:00:00:00:00:00/01:00:00:00:00:00", MULTICAST)
                .replace("/ff:ff:ff:ff:ff:ff", "");
            let newer = listed.replace("-s !", "! -s").replace("-d !", "! -d");
            for line in [line, listed, newer] {
                let read = Listed::read(&line).unwrap();
                assert_eq!(read.shape().as_ref(), Some(&shape), "{line}");
                // The fingerprints cover all that ebtables may compare.
                let prints = read.fingerprints();
                for print in shape.fingerprints(DROP) {
                    assert!(prints.contains(&print), "{line}: {print:?}");
                }
            }
        }
    }

    #[test]
    fn rules_of_another_shape_are_somebody_elses() {
        for line in [
            "-j DROP",
            "-p ARP -j DROP",
            "-s 02:00:00:00:00:01 -i eth0 -j DROP",
            "-p IPv4 -s ! 02:00:00:00:00:01 -i eth0 -j DROP",
            "-s ! 02:00:00:00:00:00/ff:ff:ff:ff:ff:00 -i eth0 -j DROP",
            "-s ! 02:00:00:00:00:01 -i eth0 -o eth1 -j DROP",
            "-s ! 02:00:00:00:00:00/ff:00:ff:00:00:00 -o eth0 -j DROP",
            "-s ! Unicast -o eth0 -j DROP",
            "-i ! eth0 -j DROP",
            "! -i eth0 -j DROP",
            "-s ! -i eth0 -j DROP",
            "! -s 02:00:00:00:00:01 -i eth0 -o eth1 -j DROP",
            "-d BGA -i eth0 -j DROP",
            "-d Unicast -i eth0 -j DROP",
            "-d ! Multicast -i eth0 -j DROP",
            "-d Multicast -i vnet+ -j DROP",
            "-d 01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0 -o eth0 -j DROP",
            "-s ! 02:00:00:00:00:00 -d ! 02:00:00:00:00:00 -o eth0 -j DROP",
            "-s ! 02:00:00:00:00:00 -d ! 02:00:00:00:00:00 -o eth0 --pkttype-type host -j DROP",
        ] {
            let shape = Listed::read(line).and_then(|rule| rule.shape());
            assert_eq!(shape, None, "{line}");
        }
    }
}
