//! Attacks of a cloud's user through names: `TARGET` in a template, `<target dev>` in a domain. And
//! how a host gets rid of wrong fences that an earlier version made.

use std::slice;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use macfence::backend::nft::Nft;
use macfence::backend::{Backend, ebtables::Ebtables};
use macfence::fence::{Fence, Keep};
use macfence::policy::Policy;
use macfence::vm::Nic;

use super::Firewall;
use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with, script};

const VICTIM: &str = "02:00:c0:a8:00:05";
const ATTACKER: &str = "02:00:0a:00:00:05";

/// Returns the template of a VM on KVM with one NIC, which is being attached.
fn attaching(vm: u32, nic: u32, mac: &str, target: &str) -> String {
    BASE64_STANDARD.encode(format!(
        "<VM><ID>{vm}</ID><TEMPLATE><NIC><BRIDGE>br0</BRIDGE><MAC>{mac}</MAC><NIC_ID>{nic}</NIC_ID>\
         <VN_MAD>bridge</VN_MAD><FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>\
         <TARGET><![CDATA[{target}]]></TARGET><ATTACH>YES</ATTACH></NIC></TEMPLATE>\
         <HISTORY_RECORDS><HISTORY><VM_MAD>kvm</VM_MAD></HISTORY></HISTORY_RECORDS></VM>"
    ))
}

/// Creates a bridge with the host's uplink and ports of VMs.
fn host(firewall: Firewall, ports: &[&str]) -> Host {
    let host = firewall.host();
    host.bridge("br0");
    host.ip("link add eth0 type ifb\n");
    host.plug("br0", "eth0");
    host.ports("br0", ports);
    host
}

fn post(host: &Host, virsh: &tempfile::TempDir, template: &str) -> Ran {
    host.exec(macfence_with(virsh).args(["hook", "one-post"]), template)
}

/// Returns each fenced port with the address that its sender must have.
fn guards(host: &Host) -> Vec<(String, String)> {
    let list = host.list();
    let nics = list.as_array().unwrap().iter();
    let nics = nics.flat_map(|vm| vm["nics"].as_array().unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    nics.map(|nic| (text(&nic["port"]), text(&nic["mac"])))
        .collect()
}

fn is(guards: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(port, mac): &(&str, &str)| ((*port).to_owned(), (*mac).to_owned());
    guards.iter().map(owned).collect()
}

#[test]
fn a_target_in_a_users_template_fences_neither_the_uplink_nor_another_vm() {
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let host = host(firewall, &["one-7-0", "one-66-0"]);
        host.apply(&domain("one-7", &[(VICTIM, "one-7-0", "br0")]))
            .ok();
        // libvirt knows the attacker's VM without the NIC that is being attached.
        let own = domain("one-66", &[(ATTACKER, "one-66-0", "br0")]);
        let virsh = fake_virsh(&[("one-66", &own)]);
        host.apply(&own).ok();
        let before = guards(&host);
        for target in ["eth0", "one-7-0", "br0", "lo", "one-66-0"] {
            let template = attaching(66, 1, "02:00:0a:00:00:06", target);
            let ran = post(&host, &virsh, &template);
            assert!(ran.stderr.contains("NIC 1"), "{ran:?}");
            assert_eq!(guards(&host), before, "{firewall:?} {target}");
        }
    }
}

#[test]
fn a_template_does_not_claim_another_vms_port_that_has_its_name() {
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let host = host(firewall, &["one-66-5"]);
        // The attacker's template has TARGET=one-66-5, so libvirt gave that name to the attacker's
        // port.
        let attackers = domain("one-42", &[(ATTACKER, "one-66-5", "br0")]);
        let virsh = fake_virsh(&[("one-42", &attackers), ("one-66", &domain("one-66", &[]))]);
        host.exec(macfence_with(&virsh).args(["apply", "one-42"]), "")
            .ok();
        let before = guards(&host);
        // The victim attaches its NIC 5, whose port would have this name. The attacker must not get
        // the victim's address and network.
        let template = attaching(66, 5, VICTIM, "one-66-5");
        let ran = post(&host, &virsh, &template);
        assert!(ran.stderr.contains("has no port"), "{ran:?}");
        assert_eq!(guards(&host), before, "{firewall:?}");
        // If virsh fails, the hook fails too and says why.
        script(&virsh, "virsh", "echo gone >&2; exit 1");
        let error = post(&host, &virsh, &template).error();
        assert!(
            error.contains("port \"one-66-5\" is fenced for another VM") && error.contains("gone"),
            "{error}"
        );
        assert_eq!(guards(&host), before);
        // When the attacker's VM has ended and libvirt has given the port to the victim, it is
        // fenced for the victim.
        let victims = domain("one-66", &[(VICTIM, "one-66-5", "br0")]);
        let virsh = fake_virsh(&[("one-66", &victims)]);
        post(&host, &virsh, &template).quiet();
        assert_eq!(guards(&host), is(&[("one-66-5", VICTIM)]));
    }
}

#[test]
fn attach_in_a_users_template_leaves_no_nic_open() {
    // oned leaves a user's ATTACH in the NICs when it starts a VM.
    let nic = |kind: &str, id: u32, attach: &str| {
        format!(
            "<{kind}><MAC>02:00:0a:00:00:0{id}</MAC><NIC_ID>{id}</NIC_ID><VN_MAD>bridge</VN_MAD>\
             <TARGET>one-42-{id}</TARGET>{attach}</{kind}>"
        )
    };
    let attach = "<ATTACH>YES</ATTACH>";
    for more in ["NIC", "NIC_ALIAS", "PCI"].map(|kind| nic(kind, 1, attach)) {
        for firewall in [Firewall::Nft, Firewall::Ebtables] {
            let host = host(firewall, &["one-42-0", "one-42-1"]);
            let nics = nic("NIC", 0, "") + &more;
            let xml = format!("<VM><ID>42</ID><TEMPLATE>{nics}</TEMPLATE></VM>");
            let template = BASE64_STANDARD.encode(xml);
            for driver in [&["--driver", "bridge"][..], &[]] {
                let args = [&["hook", "one-post"], driver].concat();
                host.macfence_reading(&template, args).quiet();
                let first = ("one-42-0".to_owned(), "02:00:0a:00:00:00".to_owned());
                assert!(guards(&host).contains(&first), "{firewall:?} {more}");
            }
        }
    }
}

#[test]
fn a_guest_that_takes_its_interface_down_keeps_its_fence() {
    let host = host(Firewall::Nft, &[]);
    // An interface of a container, as LXC makes it.
    host.ip("link add one-42-0 type veth peer name inside\n");
    host.plug("br0", "one-42-0");
    let template = "<VM><ID>42</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>bridge</VN_MAD>\
        <MAC>02:00:0a:00:00:05</MAC></NIC></TEMPLATE><HISTORY_RECORDS><HISTORY>\
        <VM_MAD>lxc</VM_MAD></HISTORY></HISTORY_RECORDS></VM>";
    let hook = |entry: &str| {
        let template = BASE64_STANDARD.encode(template);
        host.macfence_reading(&template, ["hook", entry])
    };
    hook("one-post").quiet();
    let fenced = is(&[("one-42-0", ATTACKER)]);
    assert_eq!(guards(&host), fenced);
    // OpenNebula cleans up, but could not end the VM.
    host.ip("link set inside down\n");
    let ran = hook("one-clean");
    assert!(ran.stderr.contains("still in use"), "{ran:?}");
    assert_eq!(guards(&host), fenced);
    // The VM has ended.
    host.unplug("one-42-0");
    hook("one-clean").quiet();
    assert!(guards(&host).is_empty());
}

#[test]
fn a_vm_that_does_not_run_claims_no_port() {
    let host = host(Firewall::Nft, &["one-7-0"]);
    host.apply(&domain("one-7", &[(VICTIM, "one-7-0", "br0")]))
        .ok();
    let before = guards(&host);
    // libvirt keeps the name that a user wrote, even if that name is now another VM's port.
    let own = domain("one-66", &[(ATTACKER, "one-7-0", "br0")]);
    let virsh = fake_virsh(&[("one-66", &own.replace(" id='1'", ""))]);
    let hook = post(&host, &virsh, &attaching(66, 0, ATTACKER, "one-7-0"));
    let apply = host.exec(macfence_with(&virsh).args(["apply", "one-66"]), "");
    for ran in [hook, apply] {
        let error = ran.error();
        assert!(error.contains("VM \"one-66\" does not run"), "{error}");
        assert_eq!(
            (guards(&host), host.fenced()),
            (before.clone(), vec!["one-7".to_owned()])
        );
    }
}

#[test]
fn a_false_deploy_id_is_refused() {
    let host = host(Firewall::Nft, &["one-7-0"]);
    let template = attaching(42, 0, ATTACKER, "one-42-0");
    let hook = ["hook", "one-post", "one-7"];
    let error = host.macfence_reading(&template, hook).error();
    assert!(error.contains("\"one-7\" is another VM's"), "{error}");
    assert!(host.fenced().is_empty());
}

#[test]
fn an_interface_without_a_port_of_its_own_fences_nothing() {
    let host = host(Firewall::Nft, &["vnet0"]);
    for kind in ["vhostuser", "user", "hostdev"] {
        let xml = domain("a", &[(ATTACKER, "eth0", "br0"), (VICTIM, "vnet0", "br0")]);
        let xml = xml.replacen("type='bridge'", &format!("type='{kind}'"), 1);
        let virsh = fake_virsh(&[("a", &xml)]);
        let start = ["hook", "libvirt", "--", "a", "start", "begin", "-"];
        let ran = host.macfence_reading(&xml, start);
        assert!(ran.status == 0 && ran.stderr.contains(kind), "{ran:?}");
        host.exec(macfence_with(&virsh).arg("sync"), "").ok();
        assert_eq!(guards(&host), is(&[("vnet0", VICTIM)]));
        host.macfence(["remove", "a"]).ok();
    }
}

#[test]
fn only_devices_of_kinds_that_vms_have_are_fenced() {
    let host = host(Firewall::Nft, &["tap0"]);
    host.ip("link add veth0 type veth peer name far\n\
         link add vxlan0 type vxlan id 5 dstport 4789\n\
         link add link far name macvlan0 type macvlan mode private\n");
    for device in ["veth0", "vxlan0", "macvlan0"] {
        host.plug("br0", device);
    }
    let apply = |port: &str| host.apply(&domain("a", &[(VICTIM, port, "br0")]));
    for port in ["tap0", "veth0"] {
        apply(port).ok();
        assert_eq!(guards(&host), is(&[(port, VICTIM)]));
    }
    host.macfence(["remove", "a"]).ok();
    let before = host.generation();
    for (port, kind) in [
        ("eth0", "ifb"),
        ("vxlan0", "vxlan"),
        ("macvlan0", "macvlan"),
    ] {
        let error = apply(port).error();
        let told = format!("port \"{port}\" is a device of kind \"{kind}\", which no VM has");
        assert!(error.contains(&told), "{error}");
    }
    assert_eq!(host.generation(), before);
}

/// Fences a port without checking the device, as version 0.1 did.
fn fence_anyway(host: &Host, backend: &(dyn Backend + Sync), vm: &str, port: &str) {
    let nic = Nic::new(port.parse().unwrap(), ATTACKER.parse().unwrap(), None).unwrap();
    let fence = Fence {
        vm: vm.parse().unwrap(),
        guards: vec![Policy::default().guard(&nic, "br0")],
    };
    host.run(|| {
        backend
            .enforce(slice::from_ref(&fence), &Keep::nothing())
            .map(drop)
    })
    .unwrap();
}

#[test]
fn a_fence_at_the_uplink_is_found_and_removed() {
    let backends: [(Firewall, &(dyn Backend + Sync)); 2] =
        [(Firewall::Nft, &Nft), (Firewall::Ebtables, &Ebtables)];
    for (firewall, backend) in backends {
        let host = host(firewall, &[]);
        let virsh = fake_virsh(&[]);
        let run = |args: &[&str]| host.exec(macfence_with(&virsh).args(args), "");
        fence_anyway(&host, backend, "one-66", "eth0");
        let check = run(&["check"]);
        assert_eq!(check.status, 1, "{check:?}");
        assert!(check.stdout.contains("eth0"), "{check:?}");
        run(&["sync"]).ok();
        assert!(guards(&host).is_empty(), "{firewall:?}");
        run(&["check"]).quiet();
    }
}

#[test]
fn a_fenced_port_of_no_running_vm_is_reported_and_kept() {
    let host = host(Firewall::Nft, &["vnet0", "vnet1"]);
    let both = domain("a", &[(VICTIM, "vnet0", "br0"), (ATTACKER, "vnet1", "br0")]);
    host.apply(&both).ok();
    for (domains, who) in [
        (vec![("a", domain("a", &[(VICTIM, "vnet0", "br0")]))], "a"),
        (vec![], "a"),
    ] {
        let domains: Vec<_> = domains.iter().map(|(n, xml)| (*n, xml.as_str())).collect();
        let virsh = fake_virsh(&domains);
        let run = |args: &[&str]| host.exec(macfence_with(&virsh).args(args), "");
        let told = run(&["check"]).ok();
        assert!(
            told.contains(&format!("unowned {who}: "))
                && told.contains("port \"vnet1\" is fenced, but no running VM is known to have it"),
            "{told}"
        );
        run(&["sync"]).ok();
        assert_eq!(host.list()[0]["nics"].as_array().unwrap().len(), 2);
    }
}
