//! Reads the JSON that nft prints where the crate's types cannot.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::chain_name::ChainName;

/// Reads documents object by object. So a listing of 4,000 VMs is never in memory as a whole, and we
/// can read verdict maps, which the crate cannot parse, and skip newer kinds of objects.
pub struct Listing<'a>(pub &'a mut Reader<'a>);

/// A function that takes the next object.
type Reader<'a> = dyn FnMut(BTreeMap<String, Value>) -> Result<()> + 'a;

/// The list of objects in a document.
struct Objects<'l, 'a>(&'l mut Listing<'a>);

impl Listing<'_> {
    /// Reads nft's output, which has one document for each list command.
    ///
    /// # Errors
    /// If the text is no listing, or the function refuses an object.
    pub fn read(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let mut documents = serde_json::Deserializer::from_str(text);
        while documents.end().is_err() {
            self.deserialize(&mut documents)?;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Listing<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        document.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Listing<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list named nftables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut document: A) -> Result<(), A::Error> {
        let mut is_listing = false;
        while let Some(key) = document.next_key::<String>()? {
            match key.as_str() {
                "nftables" => {
                    document.next_value_seed(Objects(&mut *self))?;
                    is_listing = true;
                }
                _ => drop(document.next_value::<IgnoredAny>()?),
            }
        }
        if is_listing {
            Ok(())
        } else {
            Err(A::Error::missing_field("nftables"))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Objects<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, objects: D) -> Result<(), D::Error> {
        objects.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Objects<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<(), A::Error> {
        while let Some(object) = objects.next_element()? {
            let read = (self.0.0)(object);
            read.map_err(|e| A::Error::custom(format!("{e:#}")))?;
        }
        Ok(())
    }
}

/// A verdict map, which the crate's own type cannot hold (its issue 237).
#[derive(Deserialize)]
pub struct VerdictMap {
    /// The map's table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its elements.
    #[serde(default)]
    pub elem: Vec<(Key, Target)>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Key {
    Plain(String),
    /// With a comment, a timeout or the like. Only an operator adds these.
    Detailed {
        elem: DetailedKey,
    },
}

#[derive(Deserialize)]
pub struct DetailedKey {
    val: String,
}

impl Key {
    pub fn port(self) -> String {
        match self {
            Self::Plain(port)
            | Self::Detailed {
                elem: DetailedKey { val: port },
            } => port,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Target {
    Jump {
        jump: JumpTo,
    },
    /// Any other verdict.
    Other(Value),
}

#[derive(Deserialize)]
pub struct JumpTo {
    target: String,
}

impl Target {
    /// Tells whether it makes a port's frames skip the chains of the VMs that would hear them.
    pub fn leads_past(&self) -> bool {
        match self {
            Self::Jump { .. } => false,
            Self::Other(verdict) => {
                let is = |word| verdict.get(word).is_some();
                is("accept") || is("goto") || is("return")
            }
        }
    }

    pub fn chain(self) -> Option<ChainName> {
        match self {
            Self::Jump { jump } => ChainName::parse(&jump.target),
            Self::Other(_) => None,
        }
    }
}
