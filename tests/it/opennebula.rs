//! OpenNebula's network drivers and state hooks, called as it calls them: by `oneadmin`, who may
//! run nothing but what the shipped sudoers file allows.

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

/// A NIC of a template; `more` is further elements.
fn nic(id: u32, mac: &str, driver: &str, more: &str) -> String {
    format!(
        "<NIC><BRIDGE><![CDATA[br0]]></BRIDGE><MAC><![CDATA[{mac}]]></MAC>\
         <NIC_ID><![CDATA[{id}]]></NIC_ID><VN_MAD><![CDATA[{driver}]]></VN_MAD>{more}</NIC>"
    )
}

/// A NIC of VM 42 with its port.
fn with_port(id: u32, mac: &str, driver: &str, more: &str) -> String {
    let target = format!("<TARGET><![CDATA[one-42-{id}]]></TARGET>{more}");
    nic(id, mac, driver, &target)
}

const SPOOFING: &str = "<FILTER_MAC_SPOOFING><![CDATA[YES]]></FILTER_MAC_SPOOFING>";
const ATTACH: &str = "<ATTACH><![CDATA[YES]]></ATTACH>";

/// VM 42 as drivers get it since 6.x: every element with parents of its own.
fn extract(devices: &[String]) -> String {
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

/// VM 42 as state hooks and older releases tell it: one template, and all of its history.
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
    // As Ruby's Base64.encode64 breaks it.
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

/// The fenced ports of VM 42 and for each whether it hears only its own network.
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
fn the_life_of_a_vm_as_its_driver_tells_it() {
    let host = host();
    let one = Oneadmin::of(&host);
    let first = with_port(0, A, "bridge", SPOOFING);
    let post = |template: &str| one.driver("bridge", "post one-42 host1", template).quiet();
    let clean = |template: &str| one.driver("bridge", "clean host1", template).quiet();
    post(&extract(slice::from_ref(&first)));
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    // Once more changes nothing.
    let before = (host.generation(), host.ruleset());
    post(&extract(slice::from_ref(&first)));
    assert_eq!((host.generation(), host.ruleset()), before);
    // A second NIC, while somebody has changed the first one's rules: these are set right as well.
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
    // Detached again: the port may be there still, or not.
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
    // It was never here.
    let before = host.generation();
    clean(&extract(&[first]));
    assert_eq!(host.generation(), before);
}

#[test]
fn a_nic_is_isolated_where_its_template_asks_or_the_configuration_says_always() {
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
fn what_was_not_asked_for_is_heard_and_what_was_is_not() {
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
    // Neither may pretend to be another.
    isolated.send(&foreign);
    open.send(&foreign);
    assert!(other.heard().is_empty());
}

#[test]
fn each_driver_speaks_of_its_own_nics() {
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
    // Called without a driver's name it is about all, but for Open vSwitch's.
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
    // Beside a NIC that is attached they are nobody's NICs either.
    let alias = nic(1, B, "bridge", "<TARGET>one-42-1</TARGET>").replace("NIC>", "NIC_ALIAS>");
    one.driver("bridge", "post one-42 host1", &extract(&[first, alias]))
        .quiet();
    assert_eq!((host.generation(), host.ruleset()), before);
}

/// What virsh says of VM 42.
const THREE: [(&str, &str, &str); 3] = [
    (A, "one-42-0", "br0"),
    (B, "one-42-1", "br0"),
    (A, "one-42-2", "br0"),
];

/// A host whose virsh knows VM 42 with ports that the template does not name.
fn without_targets() -> (Host, tempfile::TempDir) {
    let virsh = fake_virsh(&[("one-42", &domain("one-42", &THREE))]);
    (host(), virsh)
}

fn call(host: &Host, virsh: &tempfile::TempDir, entry: &[&str], template: &str) -> Ran {
    host.exec(macfence_with(virsh).arg("hook").args(entry), template)
}

#[test]
fn ports_that_the_template_does_not_name_are_the_hypervisors() {
    let (host, virsh) = without_targets();
    let nics = [
        nic(0, A, "bridge", SPOOFING),
        nic(1, B, "bridge", SPOOFING),
        nic(2, A, "bridge", SPOOFING),
    ];
    let all = [("one-42-0", true), ("one-42-1", true), ("one-42-2", true)];
    // The newest record of its history tells what it runs on.
    let template = whole("one-42", &["xen3", "kvm"], &nics);
    call(&host, &virsh, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&all));
    // One of them goes; libvirt knows it no more.
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
    // And comes again.
    host.ports("br0", &["one-42-1"]);
    std::fs::write(virsh.path().join("one-42.xml"), domain("one-42", &THREE)).unwrap();
    call(&host, &virsh, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&all));
    // When it has ended nobody can be asked, and nobody need be.
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
fn a_template_that_names_its_ports_asks_nobody() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "virsh", "exit 1");
    let template = extract(&[with_port(0, A, "bridge", SPOOFING)]);
    call(&host, &dir, &["one-post", "one-42"], &template).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
}

#[test]
fn a_container_has_ports_of_the_same_names() {
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
fn what_is_no_template_changes_nothing_and_is_named() {
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
fn a_nic_without_a_port_is_named_and_the_others_are_fenced() {
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
fn a_state_hook_fences_what_runs_and_waits_for_a_port_that_is_about_to_come() {
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
    // HOTPLUG_NIC: the hook is called before the port exists.
    let attaching = second.replace("</NIC>", &format!("{ATTACH}</NIC>"));
    thread::scope(|scope| {
        let hook = scope.spawn(|| post(&[first.clone(), attaching.clone()]));
        // The hook waits by then.
        thread::sleep(Duration::from_millis(300));
        host.ports("br0", &["one-42-1"]);
        hook.join().unwrap().quiet();
    });
    assert_eq!(fenced(&host), is(&[("one-42-0", true), ("one-42-1", true)]));
    // RUNNING again after it was detached.
    host.unplug("one-42-1");
    post(&[first]).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
    host.unplug("one-42-0");
    one.run("/var/tmp/one/hooks/macfence/flush", "").quiet();
    assert!(fenced(&host).is_empty());
}

#[test]
fn a_driver_whose_firewall_fails_is_told_so_in_one_line() {
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
fn what_is_still_in_use_stays_fenced_whatever_opennebula_says_has_ended() {
    let host = Host::new();
    host.bridge("br0");
    // Somebody is at the other end of these: a guest that ignores that its NIC is to go.
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
    // It lets go while we wait.
    thread::scope(|scope| {
        let clean = scope.spawn(|| host.macfence_reading(&extract(&nics), ["hook", "one-clean"]));
        // The hook waits by then.
        thread::sleep(Duration::from_millis(100));
        drop(taps);
        clean.join().unwrap().quiet();
    });
    assert!(host.fenced().is_empty());
}

#[test]
fn what_no_template_mentions_stays_fenced() {
    let host = host();
    host.ports("br0", &["vnet5"]);
    // libvirt's hook has fenced an interface that OpenNebula knows nothing of.
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
fn the_emulated_port_of_a_xen_guest_is_its_nics_as_well() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif7.0-emu", "vif7.1"]);
    let dir = tempfile::tempdir().unwrap();
    let says = "case $1 in domid) echo 7;; *) printf '0 0 02:00:c0:a8:00:05 0\\n1 0 02:00:c0:a8:01:05 1\\n';; esac";
    script(&dir, "xl", says);
    let nics = [nic(0, A, "bridge", SPOOFING), nic(1, B, "bridge", SPOOFING)];
    let template = whole("one-42", &["xen3"], &nics);
    call(&host, &dir, &["one-post"], &template).quiet();
    assert_eq!(
        fenced(&host),
        is(&[("vif7.0", true), ("vif7.0-emu", true), ("vif7.1", true)])
    );
}

#[test]
fn a_nic_that_is_not_isolated_stays_so_when_libvirtd_comes_back_or_somebody_applies() {
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
    // It starts anew: until OpenNebula has said what its template wants, it is isolated.
    let start = ["hook", "libvirt", "--", "one-42", "start", "begin", "-"];
    host.macfence_reading(&domain, start).quiet();
    assert_eq!(fenced(&host), is(&[("one-42-0", true)]));
}

#[test]
fn a_hook_costs_as_many_nft_whether_something_changes_or_not() {
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
    // The first one since the host was booted looks for what version 0.1 may have left.
    assert_eq!(calls("one-post", &one), 7);
    // One for the VM's chain, beside it one for a base chain and two for chains that drop, and one that loads.
    assert_eq!(calls("one-post", &one), 5);
    assert_eq!(calls("one-post", &one), 5);
    assert_eq!(calls("one-post", &two), 5);
    assert_eq!(calls("one-post", &two), 5);
    assert_eq!(calls("one-clean", &two), 2);
    assert_eq!(calls("one-clean", &one), 2);
    assert_eq!(calls("one-clean", &one), 1);
}
