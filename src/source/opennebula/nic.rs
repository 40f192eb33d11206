//! A NIC of a template, and an alias of one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use roxmltree::Node;

use super::asked;
use crate::mac::MacAddr;
use crate::quote::beginning;
use crate::vm::Asked;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateNic {
    pub id: String,
    pub driver: String,
    pub mac: Option<MacAddr>,
    pub bridge: Option<String>,
    pub target: Option<String>,
    /// The requests, without addresses that aliases add; or why they cannot be read.
    pub asked: Result<Asked, String>,
    pub in_hotplug: bool,
}

/// A `NIC_ALIAS`: more addresses of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub parent: String,
    /// Its addresses, or why they cannot be read.
    pub addresses: Result<BTreeSet<IpAddr>, String>,
    pub in_hotplug: bool,
}

impl TemplateNic {
    pub fn of(nic: Node<'_, '_>) -> Result<Self> {
        let owned = |name| text(nic, name).map(str::to_owned);
        let id = owned("NIC_ID").unwrap_or_default();
        let mac = text(nic, "MAC").map(str::parse).transpose();
        Ok(Self {
            mac: mac.with_context(|| format!("NIC {}", beginning(&id)))?,
            id,
            driver: owned("VN_MAD").unwrap_or_default(),
            bridge: owned("BRIDGE"),
            target: owned("TARGET"),
            asked: asked::of(nic).map_err(|e| format!("{e:#}")),
            in_hotplug: in_hotplug(nic),
        })
    }

    pub fn is_of(&self, driver: Option<&str>) -> bool {
        match driver {
            Some(driver) => self.driver == driver,
            // Open vSwitch's ports are never on a Linux bridge.
            None => !self.driver.starts_with("ovswitch"),
        }
    }
}

impl Alias {
    pub fn of(alias: Node<'_, '_>) -> Self {
        let who = || beginning(text(alias, "NIC_ID").unwrap_or_default());
        Self {
            parent: text(alias, "PARENT_ID").unwrap_or_default().to_owned(),
            addresses: asked::addresses(alias).map_err(|e| format!("alias {}: {e:#}", who())),
            in_hotplug: in_hotplug(alias),
        }
    }
}

/// Returns the text of a child, unless it is empty. Values are usually in CDATA.
pub fn text<'a>(node: Node<'a, '_>, name: &'static str) -> Option<&'a str> {
    let mut texts = within(node, name).filter_map(|child| child.text());
    texts.next().map(str::trim).filter(|text| !text.is_empty())
}

pub fn within<'a, 'x>(
    node: Node<'a, 'x>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'x>> {
    node.children()
        .filter(move |child| child.has_tag_name(name))
}

pub fn in_hotplug(device: Node<'_, '_>) -> bool {
    text(device, "ATTACH") == Some("YES")
}
