//! A guard as flat rules in ebtables' words, and as ebtables lists them.

use anyhow::{Result, ensure};

use crate::fence::{Guard, Hears};
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// Chains of ours begin so. Only senders that are trusted besides the own network need one.
pub const CHAIN_PREFIX: &str = "macfence-";

/// The target that ends a matching frame's way.
pub const DROP: &str = "DROP";

/// Where a rule is: a built-in chain of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: &'static str,
}

/// Frames that the bridge forwards.
const FORWARD: Place = Place {
    table: "filter",
    chain: "FORWARD",
};

/// Every place that has rules of ours.
pub const PLACES: [Place; 1] = [FORWARD];

/// The tables of [`PLACES`], each once.
pub const TABLES: [&str; 1] = [FORWARD.table];

/// A target, an address and a word: what two rules may share that ebtables cannot tell apart.
pub type Fingerprint = (String, MacAddr, String);

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `-s ! MAC -i PORT`: frames from the port under another address.
    From(Port, MacAddr),
    /// `-s ! PREFIX/MASK -o PORT`: frames to the port from another network.
    To(Port, MacPrefix),
}

/// A rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it is.
    pub place: Place,
    /// What it matches.
    pub shape: Shape,
    /// Senders that it lets pass all the same, sorted.
    pub trusted: Vec<MacPrefix>,
}

impl Rule {
    /// The rules that make up a guard. ebtables has no word for a port that hears all networks: a
    /// port without the second rule may as well have lost it.
    pub fn of(guard: &Guard) -> Vec<Self> {
        let port = || guard.port.clone();
        let mut rules = at_their_places(Shape::From(port(), guard.mac), &[]);
        if let Hears::Network { prefix, trusted } = &guard.hears {
            rules.extend(at_their_places(Shape::To(port(), *prefix), trusted));
        }
        rules
    }
}

fn at_their_places(shape: Shape, trusted: &[MacPrefix]) -> Vec<Rule> {
    let rule = |place: &Place| Rule {
        place: *place,
        shape: shape.clone(),
        trusted: trusted.to_vec(),
    };
    shape.places().iter().map(rule).collect()
}

impl Shape {
    /// Where rules of this shape belong.
    pub fn places(&self) -> &'static [Place] {
        match self {
            Self::From(..) => &[FORWARD],
            Self::To(..) => &[FORWARD],
        }
    }

    /// The port that a rule of this shape stands in front of.
    pub fn port(&self) -> &Port {
        match self {
            Self::From(port, _) | Self::To(port, _) => port,
        }
    }

    /// Whether two shapes say the same kind of thing about the same port, so that a rule of one
    /// replaces a rule of the other.
    pub fn is_like(&self, other: &Self) -> bool {
        self.port() == other.port() && std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// What ebtables may know a rule of this shape by, and no other rule must share.
    pub fn fingerprint(&self, target: &str) -> Fingerprint {
        let mac = match self {
            Self::From(_, mac) => *mac,
            Self::To(_, own) => own.base(),
        };
        (target.to_owned(), mac, self.port().to_string())
    }

    /// The words that match it, as the seed writes them.
    pub fn words(&self) -> Vec<String> {
        let (who, way, port) = match self {
            Self::From(port, mac) => (mac.to_string(), "-i", port),
            Self::To(port, own) => (format!("{}/{}", own.base(), own.mask()), "-o", port),
        };
        ["-s", "!", &who, way, port.as_str()]
            .map(str::to_owned)
            .into()
    }
}

/// The words that match a trusted sender.
pub fn sender_words(sender: MacPrefix) -> Vec<String> {
    [
        "-s".to_owned(),
        format!("{}/{}", sender.base(), sender.mask()),
    ]
    .into()
}

/// A rule that ebtables listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The rule as listed, without counters.
    pub text: &'a str,
    /// Its words up to the target.
    matches: Vec<&'a str>,
    /// Where a matching frame goes.
    pub target: &'a str,
    /// How many frames matched, where it was printed.
    pub packets: Option<u64>,
}

impl<'a> Listed<'a> {
    /// Reads a line like `-s ! 2:0:c0:a8:0:5 -i one-1-0 -j DROP , pcnt = 7 -- bcnt = 420`.
    pub fn read(line: &'a str) -> Option<Self> {
        let (text, counters) = match line.split_once(", pcnt = ") {
            Some((text, counters)) => (text.trim(), Some(counters)),
            None => (line.trim(), None),
        };
        let mut matches: Vec<_> = text.split_whitespace().collect();
        let target = matches.pop()?;
        (matches.pop()? == "-j").then_some(())?;
        let packets = counters.and_then(|c| c.split_whitespace().next()?.parse().ok());
        Some(Self {
            text,
            matches,
            target,
            packets,
        })
    }

    /// What ebtables may know the rule by: each address in it, without its mask, beside each other
    /// word. Looking for a rule to delete, both kinds pass over masks, and some versions over
    /// whole options as `--log` (legacy 2.0.11 and nft 1.8.9, tried out).
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        let address = |word: &str| word.split('/').next()?.parse::<MacAddr>().ok();
        let addresses = self.matches.iter().filter_map(|word| address(word));
        let beside = |mac| {
            let words = self.matches.iter().filter(|word| address(word).is_none());
            words.map(move |word| (self.target.to_owned(), mac, (*word).to_owned()))
        };
        addresses.flat_map(beside).collect()
    }

    /// The seed's shape, if the rule has it.
    pub fn shape(&self) -> Option<Shape> {
        let ["-s", "!", who, way, port] = self.matches.as_slice() else {
            return None;
        };
        let who = prefix(who)?;
        // A `+` is a wildcard: the rule stands in front of many ports, and we write none such.
        let port: Port = port.parse().ok().filter(|port| check_port(port).is_ok())?;
        match *way {
            "-i" if who.len() == PrefixLen::FULL => Some(Shape::From(port, who.base())),
            "-o" => Some(Shape::To(port, who)),
            _ => None,
        }
    }

    /// The sender that a rule of a chain of ours lets return.
    pub fn sender(&self) -> Option<MacPrefix> {
        match (self.matches.as_slice(), self.target) {
            (["-s", who], "RETURN") => prefix(who),
            _ => None,
        }
    }

    /// Whether the rule matches every frame.
    pub fn matches_all(&self) -> bool {
        self.matches.is_empty()
    }
}

/// `MAC` or `MAC/MASK`, padded or not.
fn prefix(text: &str) -> Option<MacPrefix> {
    match text.split_once('/') {
        Some((base, mask)) => MacPrefix::from_mask(base.parse().ok()?, mask.parse().ok()?),
        None => Some(MacPrefix::of(text.parse().ok()?, PrefixLen::FULL)),
    }
}

/// Refuses port names that ebtables would not take literally: `+` is its wildcard, `!` its
/// negation, and ebtables-restore has quotes.
pub fn check_port(port: &Port) -> Result<()> {
    let literal = |c: char| c.is_ascii_alphanumeric() || "-._@#%=~^,".contains(c);
    ensure!(
        port.as_str().chars().all(literal) && !port.as_str().starts_with('-'),
        "port name \"{port}\" cannot be used with ebtables, which would misread it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_listings_read_alike() {
        let port: Port = "one-1-0".parse().unwrap();
        let from = Shape::From(port.clone(), "02:00:c0:a8:00:05".parse().unwrap());
        let to = Shape::To(port, "02:00:c0:a8:00:00/40".parse().unwrap());
        for listing in [
            include_str!("../../../tests/captures/ebtables-legacy-2.0.11-list-FORWARD.txt"),
            include_str!("../../../tests/captures/ebtables-nft-1.8.9-list-FORWARD.txt"),
        ] {
            let shapes: Vec<_> = listing
                .lines()
                .filter_map(Listed::read)
                .filter_map(|r| r.shape())
                .collect();
            assert_eq!(shapes, [to.clone(), from.clone()]);
        }
    }

    #[test]
    fn counters_are_read_where_they_are_printed() {
        let line = "-s ! 2:0:c0:a8:0:5 -i one-1-0 -j DROP , pcnt = 7 -- bcnt = 420";
        let rule = Listed::read(line).unwrap();
        assert_eq!((rule.packets, rule.target), (Some(7), "DROP"));
        assert_eq!(rule.text, "-s ! 2:0:c0:a8:0:5 -i one-1-0 -j DROP");
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
        ] {
            assert_eq!(
                Listed::read(line).and_then(|rule| rule.shape()),
                None,
                "{line}"
            );
        }
    }
}
