//! Reads the output of `virsh dumpxml`: domains, one after the other.

use anyhow::{Error, Result};
use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};
use roxmltree::Node;

use crate::source::xml::Part;
use crate::source::{libvirt, limits};
use crate::vm::Vm;

/// A domain as virsh described it.
#[derive(Debug)]
pub struct Domain {
    /// Its name and UUID, as text.
    pub(super) name: String,
    pub(super) uuid: String,
    /// Whether it runs: only running domains have a number.
    pub(super) is_running: bool,
    /// The VM, or why it cannot be read.
    pub vm: Result<Vm>,
}

impl Domain {
    fn read(part: Part<'_>) -> Self {
        let xml = part.xml;
        let whole = limits::check_text(libvirt::FORMAT.name, xml, libvirt::XML_LIMIT);
        match whole.and_then(|()| part.parse()) {
            Ok(document) => Self::of(document.root_element()),
            Err(e) => Self::unread(xml, e),
        }
    }

    fn of(domain: Node<'_, '_>) -> Self {
        let text = |name| {
            let child = domain.children().find(|child| child.has_tag_name(name));
            child
                .and_then(|child| child.text())
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            name: text("name"),
            uuid: text("uuid"),
            is_running: domain.has_attribute("id"),
            vm: libvirt::vm(domain),
        }
    }

    /// Returns a domain that cannot be parsed, with the reason. Its name and UUID come first in the
    /// text, so the error can name the VM.
    fn unread(xml: &str, why: Error) -> Self {
        let mut domain = Self {
            name: String::new(),
            uuid: String::new(),
            is_running: false,
            vm: Err(why),
        };
        let mut reader = Reader::from_str(xml);
        let Some(root) = opened(&mut reader) else {
            return domain;
        };
        let mut attributes = root.attributes();
        let mut attributes = attributes.with_checks(false).flatten();
        domain.is_running = attributes.any(|attribute| attribute.key.as_ref() == "id");
        while let Some(tag) = opened(&mut reader) {
            let Ok(text) = reader.read_text(tag.name()) else {
                break;
            };
            let known = match tag.name().as_ref() {
                "name" => &mut domain.name,
                "uuid" => &mut domain.uuid,
                _ => continue,
            };
            if known.is_empty() {
                *known = unescape(&text).unwrap_or_default().into_owned();
            }
        }
        domain
    }
}

/// Returns the next element with content, unless the enclosing one ends first.
fn opened<'a>(reader: &mut Reader<&'a [u8]>) -> Option<BytesStart<'a>> {
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => return Some(tag),
            Event::End(_) | Event::Eof => return None,
            _ => {}
        }
    }
}

/// Reads the domains that virsh printed. Also returns the text after the last one.
pub fn domains(text: &str) -> (Vec<Domain>, &str) {
    let (parts, rest) = libvirt::FORMAT.split(text);
    (parts.into_iter().map(Domain::read).collect(), rest)
}
