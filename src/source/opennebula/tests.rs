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
