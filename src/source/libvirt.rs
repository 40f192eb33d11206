//! Reads libvirt's domain XML. [`super::virsh`] asks libvirt for it.
//!
//! LXC's containers are domains as well. Their port is one end of a veth pair, `<target
//! dev='vnet0'/>` once they run. While libvirt starts a container, the XML lacks port names that
//! libvirt chose. It has only the other end, which is still on the host until the container gets
//! it: `<guest dev='eth0' actual='vnet1'/>`.

use anyhow::{Context, Result, ensure};
use roxmltree::Node;

use super::limits;
pub use super::limits::DOMAIN_TEXT as XML_LIMIT;
use super::xml::Format;
use crate::mac::MacAddr;
use crate::quote::{beginning, quoted};
use crate::vm::{Nic, Port, Vm};

pub(super) const FORMAT: Format = Format {
    name: "the domain XML",
    not_it: "not domain XML",
};

/// Reads the VM that a domain's XML describes.
///
/// # Errors
/// If the text is no domain XML or beyond a limit, if it has no name, or if an interface has an
/// invalid port name or MAC address.
pub fn domain(xml: &str) -> Result<Vm> {
    starting(xml, &|_, _| Ok(None))
}

/// Finds the host's end of a veth pair by the name and the address of the other end.
pub type OtherEnd<'a> = &'a dyn Fn(&Port, MacAddr) -> Result<Option<Port>>;

/// Does the same as [`domain`] while libvirt starts the VM.
///
/// # Errors
/// Like [`domain`], or if `other_end` fails.
pub fn starting(xml: &str, other_end: OtherEnd) -> Result<Vm> {
    limits::check_text(FORMAT.name, xml, XML_LIMIT)?;
    read(FORMAT.parse(xml)?.root_element(), other_end)
}

/// Tells whether the XML describes a container of libvirt's LXC driver.
pub fn is_container(xml: &str) -> bool {
    let tree = FORMAT.parse(xml);
    tree.is_ok_and(|tree| tree.root_element().attribute("type") == Some("lxc"))
}

/// Does the same as [`domain`] for a `<domain>` element.
pub(super) fn vm(domain: Node<'_, '_>) -> Result<Vm> {
    read(domain, &|_, _| Ok(None))
}

fn read(domain: Node<'_, '_>, other_end: OtherEnd) -> Result<Vm> {
    ensure!(
        domain.has_tag_name("domain"),
        "not domain XML: its root is <{}>",
        beginning(domain.tag_name().name())
    );
    let name = child(domain, "name")
        .and_then(|name| name.text())
        .unwrap_or_default();
    ensure!(!name.is_empty(), "the domain XML has no <name>");
    let mut vm = Vm {
        name: name.parse()?,
        nics: Vec::new(),
        skipped: Vec::new(),
    };
    let devices = child(domain, "devices")
        .into_iter()
        .flat_map(|devices| devices.children());
    let interfaces = devices.filter(|device| device.has_tag_name("interface"));
    for (count, interface) in (1..).zip(interfaces) {
        limits::NICS.check(FORMAT.name, count)?;
        match nic(interface, other_end).with_context(|| format!("VM {name:?}"))? {
            Ok(nic) => vm.nics.push(nic),
            Err(why) => vm.skipped.push(why),
        }
    }
    Ok(vm)
}

/// The types of interfaces that have their own port on the host. In other types, libvirt keeps any
/// `<target>` that a user wrote, whichever device that names.
const TYPES_WITH_PORT: [&str; 4] = ["bridge", "network", "ethernet", "direct"];

/// Reads the NIC of an `<interface>`, or says why there is none: a shut off domain's port has no
/// name yet, and a passed-through device never gets one.
fn nic(interface: Node<'_, '_>, other_end: OtherEnd) -> Result<Result<Nic, String>> {
    let attribute = |element, name| child(interface, element).and_then(|e| e.attribute(name));
    let mac = attribute("mac", "address");
    // libvirt's default.
    let kind = interface.attribute("type").unwrap_or("user");
    if !TYPES_WITH_PORT.contains(&kind) {
        let who = mac.unwrap_or("without an address");
        return Ok(Err(format!(
            "the interface {} of type {} has no port on a bridge",
            quoted(who),
            quoted(kind)
        )));
    }
    let port = match (
        attribute("target", "dev"),
        attribute("guest", "actual"),
        mac,
    ) {
        (None, Some(end), Some(mac)) => other_end(&end.parse()?, mac.parse()?)?,
        (port, ..) => port.map(str::parse).transpose()?,
    };
    let Some(port) = port else {
        let who = mac
            .map(|mac| format!(" {}", quoted(mac)))
            .unwrap_or_default();
        return Ok(Err(format!("the interface{who} has no target device")));
    };
    let Some(mac) = mac else {
        return Ok(Err(format!(
            "the interface {} has no MAC address",
            quoted(port.as_str())
        )));
    };
    let bridge = attribute("source", "bridge").map(str::to_owned);
    Nic::new(port, mac.parse()?, bridge).map(Ok)
}

fn child<'a, 'x>(node: Node<'a, 'x>, name: &str) -> Option<Node<'a, 'x>> {
    node.children().find(|child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPTURE: &str = include_str!("../../tests/captures/virsh-9.0-dumpxml-one-1.xml");

    fn with_interface(interface: &str) -> String {
        format!("<domain><name>x</name><devices>{interface}</devices></domain>")
    }

    #[test]
    fn the_output_of_virsh_is_read() {
        let vm = domain(CAPTURE).unwrap();
        assert_eq!(vm.name.as_str(), "one-1");
        let mac = "02:00:c0:a8:00:05".parse().unwrap();
        let nic = Nic::new("one-1-0".parse().unwrap(), mac, Some("beth0".into())).unwrap();
        assert_eq!(vm.nics, [nic]);
        assert!(vm.skipped.is_empty());
    }

    #[test]
    fn an_interface_without_port_or_address_is_skipped_and_named() {
        let xml = with_interface(
            "<interface type='bridge'><mac address='2:0:0:0:0:1'/></interface>\
             <interface type='bridge'><target dev='tap7'/></interface><interface type='bridge'/>",
        );
        let vm = domain(&xml).unwrap();
        assert!(vm.nics.is_empty());
        assert_eq!(
            vm.skipped,
            [
                r#"the interface "2:0:0:0:0:1" has no target device"#,
                r#"the interface "tap7" has no MAC address"#,
                "the interface has no target device",
            ]
        );
    }

    #[test]
    fn the_port_of_a_container_that_starts_is_found_by_its_other_end() {
        let xml = "<domain type='lxc'><name>web</name><devices><interface type='bridge'>\
            <mac address='02:00:c0:a8:00:05'/><source bridge='br0'/>\
            <guest dev='eth0' actual='vnet1'/></interface></devices></domain>";
        assert!(is_container(xml) && !is_container(CAPTURE) && !is_container("<domain"));
        let vnet0 = |end: &Port, mac: MacAddr| {
            assert_eq!(
                (end.as_str(), &*mac.to_string()),
                ("vnet1", "02:00:c0:a8:00:05")
            );
            Ok(Some("vnet0".parse()?))
        };
        let vm = starting(xml, &vnet0).unwrap();
        assert_eq!(vm.nics[0].port.as_str(), "vnet0");
        let no_target = r#"the interface "02:00:c0:a8:00:05" has no target device"#;
        assert_eq!(domain(xml).unwrap().skipped, [no_target]);
        // If the XML names a target, that is the port.
        let told = xml.replace("<guest", "<target dev='web0'/><guest");
        let vm = starting(&told, &|_, _| unreachable!()).unwrap();
        assert_eq!(vm.nics[0].port.as_str(), "web0");
    }

    #[test]
    fn text_that_is_no_domain_is_refused() {
        for (xml, words) in [
            ("", "not domain XML"),
            ("<domain", "not domain XML"),
            ("<network><name>x</name></network>", "<network>"),
            ("<domain/>", "no <name>"),
            ("<domain><name></name></domain>", "no <name>"),
            (
                "<!DOCTYPE d [<!ENTITY a 'x'>]><domain><name>&a;</name></domain>",
                "not domain XML",
            ),
        ] {
            let error = format!("{:#}", domain(xml).unwrap_err());
            assert!(error.contains(words), "{xml}: {error}");
        }
        let bad_port = with_interface(
            "<interface type='bridge'><mac address='2:0:0:0:0:1'/><target dev='vnet*'/></interface>",
        );
        assert!(format!("{:#}", domain(&bad_port).unwrap_err()).contains(r#""vnet*""#));
    }

    #[test]
    fn only_interfaces_with_a_port_of_their_own_are_nics() {
        for (attribute, nics) in [
            ("type='bridge'", 1),
            ("type='network'", 1),
            ("type='ethernet'", 1),
            ("type='direct'", 1),
            ("type='vhostuser'", 0),
            ("type='user'", 0),
            ("type='hostdev'", 0),
            ("", 0),
        ] {
            let xml = format!(
                "<domain><name>a</name><devices><interface {attribute}>\
                 <mac address='02:00:c0:a8:00:05'/><target dev='eth0'/></interface></devices></domain>"
            );
            let vm = domain(&xml).unwrap();
            assert_eq!(
                (vm.nics.len(), vm.skipped.len()),
                (nics, 1 - nics),
                "{attribute}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_domain_xml_makes_the_parser_panic(
            at in 0..CAPTURE.len(), len in 0..80usize, text in "\\PC{0,8}|[<>&'\"/!\\[\\]-]{0,8}",
        ) {
            let mut bytes = CAPTURE.as_bytes().to_vec();
            let end = (at + len).min(bytes.len());
            bytes.splice(at..end, text.bytes());
            let _ = domain(&String::from_utf8_lossy(&bytes));
        }
    }
}
