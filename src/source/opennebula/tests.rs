use std::net::IpAddr;

use super::*;
use proptest::prelude::*;

const XML: &str = "<VM><ID>42</ID><TEMPLATE><NIC><NIC_ID><![CDATA[0]]></NIC_ID>\
    <MAC>02:00:c0:a8:00:05</MAC><TARGET> <![CDATA[one-42-0]]> </TARGET><VN_MAD>fw</VN_MAD>\
    <FILTER_MAC_SPOOFING>Yes</FILTER_MAC_SPOOFING></NIC></TEMPLATE></VM>";

fn read(xml: &str) -> Result<Template> {
    Template::read(&BASE64_STANDARD.encode(xml))
}

#[test]
fn values_are_read_in_cdata_and_out_of_it() {
    let template = read(XML).unwrap();
    let vm = template
        .vm(template.name(None).unwrap(), None, None)
        .unwrap();
    assert_eq!(vm.name.as_str(), "one-42");
    let mac = "02:00:c0:a8:00:05".parse().unwrap();
    let nic = Nic::new("one-42-0".parse().unwrap(), mac, None).unwrap();
    let nic = Nic {
        asked: Some(Asked::default()),
        ..nic
    };
    assert_eq!(vm.nics, [nic]);
}

#[test]
fn only_the_name_that_opennebula_gives_a_port_is_believed() {
    for (target, lacks) in [
        ("one-42-0", false),
        ("one-7-0", true),
        ("one-42-1", true),
        ("one-42-00", true),
        ("eth0", true),
        ("vnet0", true),
    ] {
        let template = read(&XML.replace("one-42-0", target)).unwrap();
        assert_eq!(template.lacks_ports(None), lacks, "{target}");
        assert!(template.without_ports().lacks_ports(None));
    }
}

#[test]
fn a_deploy_id_cannot_be_another_vms_name() {
    let template = read(XML).unwrap();
    for own in [None, Some("-"), Some("one-42")] {
        assert_eq!(template.name(own).unwrap().as_str(), "one-42");
    }
    for imported in ["db", "one-x", "one-", "one-42-0"] {
        assert_eq!(template.name(Some(imported)).unwrap().as_str(), imported);
    }
    let error = template.name(Some("one-7")).unwrap_err().to_string();
    assert!(
        error.contains("one-7") && error.contains("one-42"),
        "{error}"
    );
}

#[test]
fn the_newest_record_tells_the_hypervisor() {
    for (drivers, hypervisor) in [
        (&["kvm"][..], Kind::Libvirt),
        (&["lxc", "kvm"], Kind::Libvirt),
        (&["kvm", "lxc"], Kind::Lxc),
        (&["vmm_xen"], Kind::Xen),
        (&[], Kind::Libvirt),
    ] {
        let record = |d: &&str| format!("<HISTORY><VM_MAD>{d}</VM_MAD></HISTORY>");
        let records: String = drivers.iter().map(record).collect();
        let records = format!("<HISTORY_RECORDS>{records}</HISTORY_RECORDS></VM>");
        let template = read(&XML.replace("</VM>", &records)).unwrap();
        assert_eq!(template.hypervisor, hypervisor, "{drivers:?}");
    }
}

/// A template with this inside its NIC, and these devices beside it.
fn with(in_nic: &str, beside: &str) -> Template {
    let xml = XML.replace("</NIC>", &format!("{in_nic}</NIC>{beside}"));
    read(&xml).unwrap()
}

fn alias(parent: &str, inside: &str) -> String {
    format!("<NIC_ALIAS><NIC_ID>7</NIC_ID><PARENT_ID>{parent}</PARENT_ID>{inside}</NIC_ALIAS>")
}

/// The requests for the NIC that is meant, or the error.
fn asked(template: &Template) -> Result<Asked, String> {
    let vm = template.vm(template.name(None).unwrap(), None, None);
    let mut nics = vm.map_err(|e| format!("{e:#}"))?.nics;
    Ok(nics.remove(0).asked.unwrap())
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn every_address_that_opennebula_gives_a_nic_is_its_own() {
    let names = [
        ("IP", "192.168.0.5"),
        ("IP6", "2001:db8::5"),
        ("IP6_GLOBAL", "2001:db8:1::5"),
        ("IP6_LINK", "fe80::400:c0ff:fea8:5"),
        ("IP6_ULA", "fd00::5"),
        ("VROUTER_IP", "192.168.0.1"),
        ("VROUTER_IP6", "2001:db8::1"),
        ("VROUTER_IP6_GLOBAL", "2001:db8:1::1"),
        ("VROUTER_IP6_LINK", "fe80::1"),
        ("VROUTER_IP6_ULA", "fd00::1"),
    ];
    let all: String = names
        .iter()
        .map(|(name, value)| format!("<{name}><![CDATA[{value}]]></{name}>"))
        .collect();
    let guarded =
        format!("<FILTER_IP_SPOOFING>yes</FILTER_IP_SPOOFING><GATEWAY>10.0.0.1</GATEWAY>{all}");
    let asked = asked(&with(&guarded, "")).unwrap();
    assert!(asked.guards_addresses && !asked.hears_all);
    assert_eq!(asked.addresses, ips(&names.map(|(_, value)| value)));
}

#[test]
fn a_nic_that_asks_for_nothing_has_only_what_opennebula_gave_it() {
    let asked = asked(&with(
        "<IP>10.0.0.5</IP><IP6></IP6><IP6_ULA> </IP6_ULA>",
        "",
    ))
    .unwrap();
    let expected = Asked {
        addresses: ips(&["10.0.0.5"]),
        ..Asked::default()
    };
    assert_eq!(asked, expected);
}

#[test]
fn lists_are_separated_by_blanks_or_commas() {
    let lists = "<MACFENCE_MACS>2:0:0:0:0:1, 00:00:5e:00:01:0a</MACFENCE_MACS>\
                 <MACFENCE_IPS><![CDATA[10.0.0.9  fd00::9,,10.0.0.9,\n10.0.0.7]]></MACFENCE_IPS>";
    let asked = asked(&with(lists, "")).unwrap();
    let macs = ["02:00:00:00:00:01", "00:00:5e:00:01:0a"].map(|mac| mac.parse().unwrap());
    assert_eq!(asked.extra_macs, macs.into());
    assert_eq!(
        asked.extra_addresses,
        ips(&["10.0.0.7", "10.0.0.9", "fd00::9"])
    );
    assert!(asked.addresses.is_empty());
}

#[test]
fn an_invalid_address_is_quoted_briefly_and_fails_only_fencing() {
    let long = "x".repeat(100_000);
    let many = "10.0.0.1 ".repeat(65);
    let macs = "2:0:0:0:0:1,".repeat(65);
    for (name, value, words) in [
        (
            "IP",
            "10.0.0.256",
            "IP: \"10.0.0.256\" is not an IP address",
        ),
        ("IP", "010.0.0.1", "is not an IP address"),
        ("IP", "10.0.0.1 10.0.0.2", "is not an IP address"),
        ("IP6", "2001:db8::/64", "IP6: \"2001:db8::/64\" is not"),
        ("IP6_GLOBAL", "fe80::1%eth0", "is not an IP address"),
        (
            "VROUTER_IP",
            "224.0.0.18",
            "VROUTER_IP: 224.0.0.18 is an address that no station",
        ),
        ("IP", "0.0.0.0", "0.0.0.0 is an address that no station"),
        ("IP", "255.255.255.255", "no station can have"),
        ("IP6", "::", "IP6: :: is an address that no station"),
        (
            "MACFENCE_IPS",
            "10.0.0.1 drop",
            "MACFENCE_IPS: \"drop\" is not an IP address",
        ),
        (
            "MACFENCE_IPS",
            "10.0.0.0/24",
            "\"10.0.0.0/24\" is not an IP address",
        ),
        ("MACFENCE_IPS", &long, "xxx\"... is not an IP address"),
        (
            "MACFENCE_IPS",
            &many,
            "MACFENCE_IPS has more than 64 IP addresses",
        ),
        ("MACFENCE_MACS", "02:00:00:00:00", "MACFENCE_MACS: "),
        ("MACFENCE_MACS", "ff:ff:ff:ff:ff:ff", "no station can have"),
        ("MACFENCE_MACS", "00:00:00:00:00:00", "no station can have"),
        ("MACFENCE_MACS", &long, "MACFENCE_MACS: "),
        (
            "MACFENCE_MACS",
            &macs,
            "MACFENCE_MACS has more than 64 MAC addresses",
        ),
    ] {
        let template = with(&format!("<{name}><![CDATA[{value}]]></{name}>"), "");
        let error = asked(&template).unwrap_err();
        assert!(error.contains(words) && error.len() < 300, "{error}");
        assert!(error.starts_with("VM \"one-42\", NIC 0: "), "{error}");
        assert!(asked(&template.without_asked()).is_ok());
    }
}

#[test]
fn the_addresses_of_aliases_belong_to_the_nic() {
    let beside = alias("0", "<IP>10.0.0.6</IP><IP6_ULA>fd00::6</IP6_ULA>")
        + &alias("1", "<IP>10.9.9.9</IP>");
    let template = with("<IP>10.0.0.5</IP>", &beside);
    assert_eq!(template.meant(None), Meant::All);
    let own = ips(&["10.0.0.5", "10.0.0.6", "fd00::6"]);
    assert_eq!(asked(&template).unwrap().addresses, own);
    let broken = with("", &alias("0", "<IP>nonsense</IP>"));
    let error = asked(&broken).unwrap_err();
    assert!(
        error.ends_with("NIC 0: alias 7: IP: \"nonsense\" is not an IP address"),
        "{error}"
    );
    assert!(asked(&broken.without_asked()).is_ok());
    let alias = |n: usize| alias("0", &format!("<IP>10.0.{}.{}</IP>", n / 250, n % 250 + 1));
    let aliases: String = (0..1_000).map(alias).collect();
    let error = asked(&with("<IP>10.1.0.5</IP>", &aliases)).unwrap_err();
    assert!(
        error.ends_with("it has more than 1,000 IP addresses"),
        "{error}"
    );
}

#[test]
fn attaching_or_detaching_an_alias_means_its_parent_and_only_an_attached_one_counts() {
    let comes = alias("0", "<ATTACH>YES</ATTACH><IP>10.0.0.6</IP>");
    let beside = alias("0", "<IP>10.0.0.7</IP>") + &comes;
    let template = with("<IP>10.0.0.5</IP>", &beside);
    for (driver, meant) in [
        (None, Meant::Parent),
        (Some("fw"), Meant::Parent),
        (Some("bridge"), Meant::None),
    ] {
        assert_eq!(template.meant(driver), meant, "{driver:?}");
    }
    let addresses = |template: &Template| asked(template).unwrap().addresses;
    assert_eq!(
        addresses(&template),
        ips(&["10.0.0.5", "10.0.0.6", "10.0.0.7"])
    );
    let goes = template.without_detached();
    assert_eq!(goes.meant(None), Meant::Parent);
    assert_eq!(addresses(&goes), ips(&["10.0.0.5", "10.0.0.7"]));
    // A passed-through device has no port, and neither has an alias of one.
    let of_pci = alias("3", "<ATTACH>YES</ATTACH><IP>10.0.0.6</IP>");
    assert_eq!(with("", &of_pci).meant(None), Meant::None);
    let pci = "<PCI><NIC_ID>3</NIC_ID><ATTACH>YES</ATTACH></PCI>";
    assert_eq!(with("", pci).meant(None), Meant::None);
}

proptest! {
    #[test]
    fn no_template_makes_the_parser_panic(
        at in 0..XML.len(), len in 0..60usize, text in "\\PC{0,8}|[<>&'\"/!\\[\\]-]{0,8}",
    ) {
        let mut bytes = XML.as_bytes().to_vec();
        bytes.splice(at..(at + len).min(XML.len()), text.bytes());
        let xml = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(template) = read(&xml) {
            let _ = template.vm("x".parse().unwrap(), None, None);
        }
        let _ = Template::read(&xml);
    }
}
