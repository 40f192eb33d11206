//! OpenNebula's network drivers and state hooks, called as OpenNebula calls them: by `oneadmin`,
//! who may run only what the shipped sudoers file allows.

use std::slice;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use macfence::mac::MacAddr;
use serde_json::Value;

use crate::lab::frame::{Kind, frame};
use crate::lab::oneadmin::Oneadmin;
use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:0a:00:00:05";

/// Returns a NIC of a template. `more` is further elements.
fn nic(id: u32, mac: &str, driver: &str, more: &str) -> String {
    format!(
        "<NIC><BRIDGE><![CDATA[br0]]></BRIDGE><MAC><![CDATA[{mac}]]></MAC>\
         <NIC_ID><![CDATA[{id}]]></NIC_ID><VN_MAD><![CDATA[{driver}]]></VN_MAD>{more}</NIC>"
    )
}

/// Returns a NIC of VM 42 with its port.
pub fn with_port(id: u32, mac: &str, driver: &str, more: &str) -> String {
    let target = format!("<TARGET><![CDATA[one-42-{id}]]></TARGET>{more}");
    nic(id, mac, driver, &target)
}

pub const SPOOFING: &str = "<FILTER_MAC_SPOOFING><![CDATA[YES]]></FILTER_MAC_SPOOFING>";
const ATTACH: &str = "<ATTACH><![CDATA[YES]]></ATTACH>";

/// Returns VM 42 as drivers get it since OpenNebula 6: every element has parents of its own.
pub fn extract(devices: &[String]) -> String {
    let wrapped: String = devices
        .iter()
        .map(|device| format!("<TEMPLATE>{device}</TEMPLATE>"))
        .collect();
    let xml = format!(
        "<VM><ID>42</ID><DEPLOY_ID>57c5a1e6-6d2e-4a5e-9f53-0c5e6d0a7b11</DEPLOY_ID>\
         <TEMPLATE><CONTEXT><NETWORK><![CDATA[YES]]></NETWORK></CONTEXT></TEMPLATE>\
         <HISTORY_RECORDS><HISTORY><HOSTNAME>host1</HOSTNAME></HISTORY></HISTORY_RECORDS>\
         <HISTORY_RECORDS><HISTORY><VM_MAD><![CDATA[kvm]]></VM_MAD></HISTORY></HISTORY_RECORDS>\
         {wrapped}</VM>"
    );
    BASE64_STANDARD.encode(xml) + "\n"
}

/// Returns VM 42 as state hooks and older releases give it: one template, and the whole history.
fn whole(deploy_id: &str, histories: &[&str], devices: &[String]) -> String {
    let histories: String = histories
        .iter()
        .map(|driver| format!("<HISTORY><VM_MAD>{driver}</VM_MAD></HISTORY>"))
        .collect();
    let xml = format!(
        "<?xml version='1.0'?>\n<VM>\n  <ID>42</ID>\n  <DEPLOY_ID>{deploy_id}</DEPLOY_ID>\n  \
         <TEMPLATE>\n    {}\n  </TEMPLATE>\n  \
         <HISTORY_RECORDS>{histories}</HISTORY_RECORDS>\n</VM>\n",
        devices.concat()
    );
    // Lines break as Ruby's Base64.encode64 breaks them.
    let lines = BASE64_STANDARD.encode(xml);
    let lines: Vec<_> = lines.as_bytes().chunks(60).collect();
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(line) + "\n")
        .collect()
}

/// A host with the ports of VM 42.
fn host() -> Host {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-42-0", "one-42-1", "one-42-2"]);
    host
}

/// Returns the fenced ports of VM 42, and for each whether it hears only its own network.
fn fenced(host: &Host) -> Vec<(String, bool)> {
    let list = host.list();
    let Some(vm) = list.get(0) else {
        return Vec::new();
    };
    assert_eq!(
        (list.as_array().unwrap().len(), &vm["vm"]),
        (1, &Value::from("one-42"))
    );
    let nic = |nic: &Value| {
        assert!(
            nic["mac"].is_string() && nic["dropped"]["spoofed"] == 0,
            "{nic}"
        );
        (
            nic["port"].as_str().unwrap().to_owned(),
            nic["prefix"].is_string(),
        )
    };
    let mut nics: Vec<_> = vm["nics"].as_array().unwrap().iter().map(nic).collect();
    nics.sort();
    nics
}

fn is(ports: &[(&str, bool)]) -> Vec<(String, bool)> {
    ports
        .iter()
        .map(|(port, isolated)| ((*port).to_owned(), *isolated))
        .collect()
}

#[test]
fn the_life_of_a_vm_through_its_driver() {
    let host = host();
    let one = Oneadmin::of(&host);
    let first = with_port(0, A, "bridge", SPOOFING);
    let post = |template: &str| one.driver("bridge", "post one-42 host1", template).quiet();
    let clean = |template: &str| one.driver("bridge", "clean host1", template).quiet();
    post(&extract(slice::from_ref(&first)));
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    // A second call changes nothing.
    let before = (host.generation(), host.ruleset());
    post(&extract(slice::from_ref(&first)));
    assert_eq!((host.generation(), host.ruleset()), before);
    // A second NIC comes, and somebody has changed the first NIC's rules. The call repairs those
    // too.
    host.macfence_reading(
        &domain("one-42", &[(A, "one-42-0", "br0")]),
        ["apply", "--xml", "-", "--prefix-len", "32"],
    )
    .ok();
    let wide = host.list()[0]["nics"][0]["prefix"].clone();
    assert_eq!(wide, "02:00:c0:a8:00:00/32");
    let attached = with_port(1, B, "bridge", &format!("{ATTACH}{SPOOFING}"));
    let both = extract(&[first.clone(), attached]);
    post(&both);
    assert_eq!(fenced(&host), is(&[("one-42-0", true), ("one-42-1", true)]));
    let own = host.list()[0]["nics"][0]["prefix"].clone();
    assert_eq!(own, "02:00:c0:a8:00:00/40");
    // The NIC is detached. Its port may still be there, or not.
    clean(&both);
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    assert_eq!(host.list()[0]["nics"][0]["prefix"], own);
    let before = host.generation();
    clean(&both);
    assert_eq!(host.generation(), before);
    // The VM ends.
    clean(&extract(slice::from_ref(&first)));
    assert!(fenced(&host).is_empty());
    assert!(!host.ruleset().contains("one-42"));
    // The VM was never on this host.
    let before = host.generation();
    clean(&extract(&[first]));
    assert_eq!(host.generation(), before);
}

#[test]
fn a_nic_is_isolated_if_its_template_asks_for_it_or_the_configuration_says_always() {
    let host = host();
    let nics = [
        with_port(0, A, "bridge", SPOOFING),
        with_port(
            1,
            B,
            "bridge",
            "<FILTER_MAC_SPOOFING>NO</FILTER_MAC_SPOOFING>",
        ),
        with_port(2, B, "bridge", ""),
    ];
    let post = |args: &[&str]| {
        let args = [args, &["hook", "one-post", "one-42"]].concat();
        host.macfence_reading(&extract(&nics), args).quiet();
    };
    post(&[]);
    let asked = is(&[("one-42-0", true), ("one-42-1", false), ("one-42-2", false)]);
    assert_eq!(fenced(&host), asked);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("macfence.toml");
    std::fs::write(&file, "isolation = 'always'\n").unwrap();
    post(&["--config", file.to_str().unwrap()]);
    assert!(fenced(&host).iter().all(|(_, isolated)| *isolated));
    post(&[]);
    assert_eq!(fenced(&host), asked);
}

#[test]
fn an_isolated_nic_does_not_hear_other_networks_and_an_open_one_does() {
    let host = Host::new();
    host.bridge("br0");
    let isolated = host.tap("br0", "one-42-0");
    let open = host.tap("br0", "one-42-1");
    let other = host.tap("br0", "other");
    let nics = [
        with_port(0, A, "bridge", SPOOFING),
        with_port(1, "02:00:c0:a8:00:06", "bridge", ""),
    ];
    host.macfence_reading(&extract(&nics), ["hook", "one-post"])
        .quiet();
    let everybody = MacAddr::new([0xff; 6]);
    let foreign = frame(Kind::Arp, B.parse().unwrap(), everybody, 1);
    other.send(&foreign);
    assert_eq!((isolated.heard().len(), open.heard().len()), (0, 1));
    // Neither may send under another address.
    isolated.send(&foreign);
    open.send(&foreign);
    assert!(other.heard().is_empty());
}

#[test]
fn each_driver_handles_its_own_nics() {
    let host = host();
    let one = Oneadmin::of(&host);
    let template = extract(&[
        with_port(0, A, "bridge", SPOOFING),
        with_port(1, B, "fw", SPOOFING),
        with_port(2, B, "ovswitch", SPOOFING),
    ]);
    let zero = ("one-42-0", true);
    let first = ("one-42-1", true);
    one.driver("bridge", "post one-42 host1", &template).quiet();
    assert_eq!(fenced(&host), is(&[zero]));
    one.driver("fw", "post one-42 host1", &template).quiet();
    assert_eq!(fenced(&host), is(&[zero, first]));
    let before = host.generation();
    one.driver("bridge", "post one-42 host1", &template).quiet();
    assert_eq!(host.generation(), before);
    // Another driver's NIC comes or goes.
    let hotplug = extract(&[
        with_port(0, A, "bridge", SPOOFING),
        with_port(1, B, "fw", &format!("{SPOOFING}{ATTACH}")),
    ]);
    for words in ["post one-42 host1", "clean host1"] {
        one.driver("bridge", words, &hotplug).quiet();
        assert_eq!(host.generation(), before, "{words}");
    }
    one.driver("fw", "clean host1", &hotplug).quiet();
    assert_eq!(fenced(&host), is(&[zero]));
    // Without a driver's name the hook handles all NICs except Open vSwitch's.
    host.macfence_reading(&template, ["hook", "one-post", "one-42"])
        .quiet();
    assert_eq!(fenced(&host), is(&[zero, first]));
}

#[test]
fn aliases_and_pci_devices_come_and_go_without_a_change() {
    let host = host();
    let one = Oneadmin::of(&host);
    let first = with_port(0, A, "bridge", SPOOFING);
    one.driver(
        "bridge",
        "post one-42 host1",
        &extract(slice::from_ref(&first)),
    )
    .quiet();
    let before = (host.generation(), host.ruleset());
    for kind in ["NIC_ALIAS", "PCI"] {
        let device = with_port(0, B, "bridge", ATTACH).replace("NIC>", &format!("{kind}>"));
        assert!(device.starts_with(&format!("<{kind}>")), "{device}");
        let template = extract(&[first.clone(), device]);
        one.driver("bridge", "post one-42 host1", &template).quiet();
        one.driver("bridge", "clean host1", &template).quiet();
        assert_eq!((host.generation(), host.ruleset()), before, "{kind}");
    }
    // They are no NICs either if the template lists them beside a NIC.
    let alias = nic(1, B, "bridge", "<TARGET>one-42-1</TARGET>").replace("NIC>", "NIC_ALIAS>");
    one.driver("bridge", "post one-42 host1", &extract(&[first, alias]))
        .quiet();
    assert_eq!((host.generation(), host.ruleset()), before);
}

/// The NICs of VM 42, as virsh knows them.
const THREE: [(&str, &str, &str); 3] = [
    (A, "one-42-0", "br0"),
    (B, "one-42-1", "br0"),
    (A, "one-42-2", "br0"),
];

/// A host with a virsh that knows VM 42's ports. The templates do not name these ports.
fn without_targets() -> (Host, tempfile::TempDir) {
    let virsh = fake_virsh(&[("one-42", &domain("one-42", &THREE))]);
    (host(), virsh)
}

fn call(host: &Host, virsh: &tempfile::TempDir, entry: &[&str], template: &str) -> Ran {
    host.exec(macfence_with(virsh).arg("hook").args(entry), template)
}

#[test]
fn the_hypervisor_names_ports_that_the_template_does_not_name() {
    let (host, virsh) = without_targets();
    let nics = [
        nic(0, A, "bridge", SPOOFING),
        nic(1, B, "bridge", SPOOFING),
        nic(2, A, "bridge", SPOOFING),
    ];
    let all = [("one-42-0", true), ("one-42-1", true), ("one-42-2", true)];
    // The newest record of the history names the hypervisor.
    let template = whole("one-42", &["xen3", "kvm"], &nics);
    call(&host, &virsh, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&all));
    // One NIC goes, and libvirt no longer knows it.
    let gone = nics.clone().map(|nic| {
        if nic.contains(B) {
            nic.replace("</NIC>", &format!("{ATTACH}</NIC>"))
        } else {
            nic
        }
    });
    let left = domain("one-42", &[(A, "one-42-0", "br0"), (A, "one-42-2", "br0")]);
    std::fs::write(virsh.path().join("one-42.xml"), left).unwrap();
    let template = whole("one-42", &["kvm"], &gone);
    host.unplug("one-42-1");
    call(&host, &virsh, &["one-clean"], &template).quiet();
    assert_eq!(fenced(&host), is(&[all[0], all[2]]));
    // The NIC comes again.
    host.ports("br0", &["one-42-1"]);
    std::fs::write(virsh.path().join("one-42.xml"), domain("one-42", &THREE)).unwrap();
    call(&host, &virsh, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&all));
    // The VM has ended. virsh cannot answer, and need not.
    script(&virsh, "virsh", "exit 1");
    call(
        &host,
        &virsh,
        &["one-clean"],
        &whole("one-42", &["kvm"], &nics),
    )
    .quiet();
}

#[test]
fn for_a_template_that_names_its_ports_no_hypervisor_is_asked() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "virsh", "exit 1");
    let template = extract(&[with_port(0, A, "bridge", SPOOFING)]);
    call(&host, &dir, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
}

#[test]
fn a_containers_ports_are_found_by_their_names() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "virsh", "exit 1");
    let nics = [
        nic(0, A, "bridge", SPOOFING),
        with_port(1, B, "bridge", SPOOFING),
    ];
    let template = whole("one-42", &["kvm", "lxc"], &nics);
    call(&host, &dir, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true), ("one-42-1", true)]));
    call(&host, &dir, &["one-clean"], &template).quiet();
    assert!(fenced(&host).is_empty());
}

#[test]
fn the_vm_has_the_name_that_libvirt_knows() {
    let host = host();
    let nics = [with_port(0, A, "bridge", "")];
    let uuid = "57c5a1e6-6d2e-4a5e-9f53-0c5e6d0a7b11";
    for (argument, in_template, name) in [
        (Some(uuid), "", "one-42"),
        (Some("-"), uuid, "one-42"),
        (None, "", "one-42"),
        (None, "db1", "db1"),
        (Some("db1"), "", "db1"),
        (Some("one-42"), "one-42", "one-42"),
    ] {
        let template = whole(in_template, &["kvm"], &nics);
        let post: Vec<_> = ["hook", "one-post"].into_iter().chain(argument).collect();
        host.macfence_reading(&template, post).quiet();
        assert_eq!(host.fenced(), [name], "{argument:?} {in_template:?}");
        let template = whole(name, &["kvm"], &nics);
        host.macfence_reading(&template, ["hook", "one-clean"])
            .quiet();
        assert!(host.fenced().is_empty());
    }
}

#[test]
fn a_template_of_five_megabytes_is_read() {
    let host = host();
    let one = Oneadmin::of(&host);
    let user = format!("<USER><![CDATA[{}]]></USER>", "x <&> y ".repeat(5 << 17));
    let template = extract(&[user, with_port(0, A, "bridge", SPOOFING)]);
    assert!(template.len() > 5 << 20);
    one.driver("bridge", "post one-42 host1", &template).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    one.driver("bridge", "clean host1", &template).quiet();
    assert!(fenced(&host).is_empty());
}

#[test]
fn other_text_than_a_template_is_an_error_that_says_so_and_changes_nothing() {
    let host = host();
    let one = Oneadmin::of(&host);
    one.driver(
        "bridge",
        "post one-42 host1",
        &extract(&[with_port(0, A, "bridge", "")]),
    )
    .quiet();
    let before = (host.generation(), host.ruleset());
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let with = |nic: &str| extract(&[nic.to_owned()]);
    for (stdin, words) in [
        (String::new(), "no VM template was given"),
        ("not base64!".to_owned(), "not base64"),
        ("<VM><ID>42</ID></VM>".to_owned(), "not base64"),
        (encode("PING 127.0.0.1"), "not XML"),
        (BASE64_STANDARD.encode([0xff, 0xfe, 0]), "not UTF-8"),
        (encode("<IMAGE><ID>42</ID></IMAGE>"), "<IMAGE>"),
        (encode("<VM/>"), "no ID"),
        (encode("<VM><ID>4x2</ID></VM>"), "\"4x2\""),
        (
            encode("<!DOCTYPE v [<!ENTITY i '42'>]><VM><ID>&i;</ID></VM>"),
            "not XML",
        ),
        (
            with(&nic(0, "02:00", "bridge", "")),
            "\"02:00\" is not a MAC address",
        ),
        (
            with(&with_port(0, "01:00:5e:00:00:01", "bridge", "")),
            "multicast",
        ),
    ] {
        for call in ["post one-42 host1", "clean host1"] {
            let said = one.driver("bridge", call, &stdin).error();
            assert!(said.contains(words), "{call}: {said}");
            assert_eq!((host.generation(), host.ruleset()), before, "{words}");
        }
    }
    let twice = extract(&[with_port(0, A, "bridge", ""), with_port(0, B, "bridge", "")]);
    let said = one.driver("bridge", "post one-42 host1", &twice).error();
    assert!(said.contains("claimed twice"), "{said}");
    assert_eq!((host.generation(), host.ruleset()), before);
}

#[test]
fn a_nic_without_a_port_is_reported_and_the_others_are_fenced() {
    let (host, virsh) = without_targets();
    let nics = [
        with_port(0, A, "bridge", SPOOFING),
        nic(1, "02:00:c0:a8:09:09", "bridge", SPOOFING),
        "<NIC><NIC_ID>2</NIC_ID></NIC>".to_owned(),
    ];
    let ran = call(
        &host,
        &virsh,
        &["one-post", "one-42"],
        &whole("", &["kvm"], &nics),
    );
    assert_eq!(
        ran.stderr,
        "macfence: warning: VM \"one-42\": NIC 1 (02:00:c0:a8:09:09) has no port; \
         it is not fenced\n\
         macfence: warning: VM \"one-42\": NIC 2 has no MAC address; it is not fenced\n"
    );
    ran.ok();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
}

#[test]
fn a_state_hook_fences_a_running_vm_and_waits_for_a_port_that_is_about_to_come() {
    let host = host();
    let one = Oneadmin::of(&host);
    host.unplug("one-42-1");
    let first = with_port(0, A, "bridge", SPOOFING);
    let second = with_port(1, B, "bridge", SPOOFING);
    let post = |devices: &[String]| {
        let template = whole("one-42", &["kvm"], devices);
        one.run("/var/tmp/one/hooks/macfence/post", template.trim_end())
    };
    post(slice::from_ref(&first)).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    // HOTPLUG_NIC: OpenNebula calls the hook before the port exists.
    let attaching = second.replace("</NIC>", &format!("{ATTACH}</NIC>"));
    thread::scope(|scope| {
        let hook = scope.spawn(|| post(&[first.clone(), attaching.clone()]));
        // The hook is waiting now.
        thread::sleep(Duration::from_millis(300));
        host.ports("br0", &["one-42-1"]);
        hook.join().unwrap().quiet();
    });
    assert_eq!(fenced(&host), is(&[("one-42-0", true), ("one-42-1", true)]));
    // The VM is RUNNING again, after the NIC was detached.
    host.unplug("one-42-1");
    post(&[first]).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    host.unplug("one-42-0");
    one.run("/var/tmp/one/hooks/macfence/flush", "").quiet();
    assert!(fenced(&host).is_empty());
}

#[test]
fn a_driver_fails_with_one_line_if_there_is_no_firewall() {
    let host = host();
    let one = Oneadmin::of(&host);
    host.hide("nft");
    host.hide("ebtables");
    let template = extract(&[with_port(0, A, "bridge", SPOOFING)]);
    let said = one.driver("bridge", "post one-42 host1", &template).error();
    assert!(said.contains("nft was not found"), "{said}");
}

#[test]
fn templates_work_on_a_host_without_nftables() {
    let host = host();
    host.hide("nft");
    let nics = [
        with_port(0, A, "bridge", SPOOFING),
        with_port(1, B, "bridge", ""),
    ];
    let rules = || {
        let tables = ["nat", "filter"].map(|table| host.ok("ebtables", &["-t", table, "-L"]));
        let tables = tables.concat();
        ["one-42-0", "one-42-1"].map(|port| tables.matches(port).count())
    };
    host.macfence_reading(&extract(&nics), ["hook", "one-post", "one-42"])
        .quiet();
    // The second NIC hears all networks.
    assert_eq!(rules(), [4, 3]);
    let gone = nics
        .clone()
        .map(|nic| nic.replace("</NIC>", &format!("{ATTACH}</NIC>")));
    let detached = extract(&[nics[0].clone(), gone[1].clone()]);
    host.macfence_reading(&detached, ["hook", "one-clean"])
        .quiet();
    assert_eq!(rules(), [4, 0]);
    host.macfence_reading(&extract(&nics), ["hook", "one-clean"])
        .quiet();
    assert_eq!(rules(), [0, 0]);
}

#[test]
fn a_port_in_use_stays_fenced_even_if_opennebula_says_that_its_vm_has_ended() {
    let host = Host::new();
    host.bridge("br0");
    // These ports are in use, by a guest that ignores the request to detach its NICs.
    let taps = ["one-42-0", "one-42-1"].map(|port| host.tap("br0", port));
    let nics = [
        with_port(0, A, "bridge", SPOOFING),
        with_port(1, B, "bridge", SPOOFING),
    ];
    host.macfence_reading(&extract(&nics), ["hook", "one-post"])
        .quiet();
    let before = (host.generation(), host.ruleset());
    let detached = [
        nics[0].clone(),
        nics[1].replace("</NIC>", &format!("{ATTACH}</NIC>")),
    ];
    for template in [extract(&detached), extract(&nics)] {
        let ran = host.macfence_reading(&template, ["hook", "one-clean"]);
        assert!(
            ran.stderr
                .contains("port \"one-42-1\" is still in use; it stays fenced")
        );
        ran.ok();
        assert_eq!((host.generation(), host.ruleset()), before);
    }
    // The guest lets go while the hook waits.
    thread::scope(|scope| {
        let clean = scope.spawn(|| host.macfence_reading(&extract(&nics), ["hook", "one-clean"]));
        // The hook is waiting now.
        thread::sleep(Duration::from_millis(100));
        drop(taps);
        clean.join().unwrap().quiet();
    });
    assert!(host.fenced().is_empty());
}

#[test]
fn a_port_that_no_template_mentions_stays_fenced() {
    let host = host();
    host.ports("br0", &["vnet5"]);
    // libvirt's hook has fenced an interface that OpenNebula does not know.
    let domain = domain("one-42", &[(A, "one-42-0", "br0"), (C, "vnet5", "br0")]);
    let start = ["hook", "libvirt", "--", "one-42", "start", "begin", "-"];
    host.macfence_reading(&domain, start).quiet();
    let first = with_port(0, A, "bridge", SPOOFING);
    let second = with_port(1, B, "bridge", &format!("{SPOOFING}{ATTACH}"));
    let raw = ("vnet5", true);
    let one = ("one-42-0", true);
    for (template, entry, after) in [
        (
            extract(slice::from_ref(&first)),
            "one-post",
            &[one, raw][..],
        ),
        (
            extract(&[first.clone(), second.clone()]),
            "one-post",
            &[one, ("one-42-1", true), raw],
        ),
        (extract(&[first, second]), "one-clean", &[one, raw]),
    ] {
        host.macfence_reading(&template, ["hook", entry]).quiet();
        assert_eq!(fenced(&host), is(after), "{entry}");
    }
}

#[test]
fn the_emulated_port_of_a_xen_guest_is_fenced_too() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif7.0-emu", "vif7.1"]);
    let dir = tempfile::tempdir().unwrap();
    let says = "case $1 in domid) echo 7;; *) printf '0 0 02:00:c0:a8:00:05 0\\n1 0 02:00:c0:a8:01:05 1\\n';; esac";
    script(&dir, "xl", says);
    crate::xen::store(&dir, &[("7/0", ""), ("7/1", "")]);
    let nics = [nic(0, A, "bridge", SPOOFING), nic(1, B, "bridge", SPOOFING)];
    let template = whole("one-42", &["xen3"], &nics);
    call(&host, &dir, &["one-post"], &template).quiet();
    assert_eq!(
        fenced(&host),
        is(&[("vif7.0", true), ("vif7.0-emu", true), ("vif7.1", true)])
    );
}

#[test]
fn an_open_nic_stays_open_when_libvirtd_restarts_or_somebody_runs_apply() {
    let host = host();
    let nics = [with_port(0, A, "bridge", "")];
    host.macfence_reading(&extract(&nics), ["hook", "one-post"])
        .quiet();
    let before = (host.generation(), host.ruleset());
    let domain = domain("one-42", &[(A, "one-42-0", "br0")]);
    let reconnect = ["hook", "libvirt", "--", "one-42", "reconnect", "begin", "-"];
    host.macfence_reading(&domain, reconnect).quiet();
    host.apply(&domain).ok();
    assert_eq!((host.generation(), host.ruleset()), before);
    // The VM starts again. It is isolated until OpenNebula has passed its template.
    let start = ["hook", "libvirt", "--", "one-42", "start", "begin", "-"];
    host.macfence_reading(&domain, start).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
}

#[test]
fn a_hook_runs_the_same_number_of_nft_whether_or_not_something_changes() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let counting = "echo >>${0%/*}/calls; exec /usr/sbin/nft \"$@\"";
    script(&dir, "nft", counting);
    let calls = |entry: &str, template: &str| {
        std::fs::write(dir.path().join("calls"), "").unwrap();
        call(&host, &dir, &[entry], template).quiet();
        std::fs::read(dir.path().join("calls")).unwrap().len()
    };
    let first = with_port(0, A, "bridge", SPOOFING);
    let one = extract(slice::from_ref(&first));
    let attached = with_port(1, B, "bridge", &format!("{SPOOFING}{ATTACH}"));
    let two = extract(&[first, attached]);
    // The first hook after a boot also looks for fences of version 0.1.
    assert_eq!(calls("one-post", &one), 5);
    // One call reads the VM's chain, one a base chain, and one loads.
    assert_eq!(calls("one-post", &one), 3);
    assert_eq!(calls("one-post", &one), 3);
    assert_eq!(calls("one-post", &two), 3);
    assert_eq!(calls("one-post", &two), 3);
    assert_eq!(calls("one-clean", &two), 2);
    assert_eq!(calls("one-clean", &one), 2);
    assert_eq!(calls("one-clean", &one), 1);
}
