//! The seed's rules as words of the ebtables command line, and as ebtables lists them.

use anyhow::{Result, ensure};

use crate::fence::Rule;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::vm::Port;

/// Chains of ours begin so. Only senders that are trusted besides the own network need one.
pub const CHAIN_PREFIX: &str = "macfence-";

/// What a matching frame's end is.
pub const DROP: &str = "DROP";

/// A target, an address and a word: what two rules may share that ebtables cannot tell apart.
pub type Look = (String, MacAddr, String);

/// A rule of `FORWARD`, as far as it is of the seed's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `-s ! MAC -i PORT`
    From(Port, MacAddr),
    /// `-s ! PREFIX/MASK -o PORT`
    To(Port, MacPrefix),
}

impl Shape {
    /// The shape of a rule.
    pub fn of(rule: &Rule) -> Self {
        match rule {
            Rule::Spoofed { port, mac, .. } => Self::From(port.clone(), *mac),
            Rule::Foreign { port, own, .. } => Self::To(port.clone(), *own),
        }
    }

    /// Whether it is about frames from the port.
    pub fn is_from(&self) -> bool {
        matches!(self, Self::From(..))
    }

    /// What ebtables may know a rule of this shape by, and no other rule must share.
    pub fn look(&self, target: &str) -> Look {
        match self {
            Self::From(port, mac) => (target.to_owned(), *mac, port.to_string()),
            Self::To(port, own) => (target.to_owned(), own.base(), port.to_string()),
        }
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
    pub fn looks(&self) -> Vec<Look> {
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
