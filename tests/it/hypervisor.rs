//! The main job on a real libvirtd with real QEMU guests.

use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, macfence_with, script};

/// Returns the XML of a bridge interface. It has no ROM, which would look for a boot server and so
/// add to the counters.
fn interface(mac: &str, port: &str) -> String {
    let target = match port {
        "" => String::new(),
        port => format!("<target dev='{port}'/>"),
    };
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='beth0'/>{target}\
         <model type='virtio'/><rom enabled='no'/></interface>"
    )
}

/// Returns the port that libvirt gave the domain's first NIC.
fn port(libvirt: &Libvirt, domain: &str) -> String {
    let list = libvirt.virsh(&["domiflist", domain]);
    list.split_whitespace()
        .next()
        .expect("an interface")
        .to_owned()
}

#[test]
fn a_running_vm_is_fenced_and_its_fence_goes_with_it() {
    let host = Host::new();
    host.bridge("beth0");
    let libvirt = Libvirt::start(&host);
    // One port has a name in the XML. libvirt names the other.
    libvirt.create("one-1", &interface("02:00:c0:a8:00:05", "one-1-0"));
    libvirt.create("one-2", &interface("02:00:c0:a8:01:05", ""));
    let automatic = port(&libvirt, "one-2");
    assert!(automatic.starts_with("vnet"), "{automatic}");
    host.macfence(["apply", "one-1"]).ok();
    host.macfence(["apply", "one-2"]).ok();
    let ruleset = host.ruleset();
    for rule in [
        "iifname \"one-1-0\" ether saddr != 02:00:c0:a8:00:05".to_owned(),
        format!("iifname \"{automatic}\" ether saddr != 02:00:c0:a8:01:05"),
        format!("\"{automatic}\" : jump vm-one-2"),
    ] {
        assert!(ruleset.contains(&rule), "{rule}: {ruleset}");
    }

    // A second NIC is attached to the running VM. Meanwhile the other VM drops a frame.
    let uplink = host.tap("beth0", "eth0");
    uplink.send(&crate::lab::frame::frame(
        crate::lab::frame::Kind::Arp,
        "02:00:0a:00:00:05".parse().unwrap(),
        "ff:ff:ff:ff:ff:ff".parse().unwrap(),
        1,
    ));
    libvirt.attach("one-1", &interface("02:00:0a:00:00:09", "one-1-1"));
    host.macfence(["apply", "one-1"]).ok();
    let list = host.list();
    let nics: Vec<_> = list[0]["nics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| &n["port"])
        .collect();
    assert_eq!(nics, ["one-1-0", "one-1-1"]);
    assert_eq!(list[1]["nics"][0]["dropped"]["foreign"], 1);

    // A VM ends. Its fence is gone, and nothing else has changed.
    let chain = ["-a", "list", "chain", "bridge", "macfence", "vm-one-2"];
    let other = host.ok("nft", &chain);
    libvirt.virsh(&["destroy", "one-1"]);
    host.macfence(["hook", "ebtables-flush"]).ok();
    let ruleset = host.ruleset();
    assert!(!ruleset.contains("one-1"), "{ruleset}");
    assert_eq!(host.ok("nft", &chain), other);
    libvirt.virsh(&["destroy", "one-2"]);
    host.macfence(["hook", "ebtables-flush"]).ok();
    assert!(host.fenced().is_empty());
}

#[test]
fn virsh_is_asked_once_even_for_odd_names() {
    let host = Host::new();
    host.bridge("beth0");
    let libvirt = Libvirt::start(&host);
    let names = ["we'ird \"n\\ame; x", "--help", "日本", "5"];
    for (n, name) in names.iter().enumerate() {
        libvirt.create(
            name,
            &interface(&format!("02:00:c0:a8:00:0{n}"), &format!("p{n}")),
        );
    }
    let dir = tempfile::tempdir().unwrap();
    script(
        &dir,
        "virsh",
        "echo call >>$0.log; exec /usr/bin/virsh \"$@\"",
    );
    let apply = |names: &[&str]| {
        let mut command = macfence_with(&dir);
        host.exec(command.args(["apply", "--"]).args(names), "")
    };
    let before = host.generation();
    apply(&names).ok();
    let calls = std::fs::read_to_string(dir.path().join("virsh.log")).unwrap();
    assert_eq!((calls.as_str(), host.generation()), ("call\n", before + 1));
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(host.fenced(), sorted);

    // A name that libvirt does not know fails the whole call, wherever it stands, and the error
    // names it.
    let before = (host.generation(), host.ruleset());
    for names in [&["nobody"][..], &["nobody", "日本"], &["--help", "nobody"]] {
        let error = apply(names).error();
        assert!(error.contains("failed to get domain 'nobody'"), "{error}");
    }
    // An id is not a name, unless it is the name of a domain.
    let id = host.ok("virsh", &["-q", "-c", "qemu:///system", "domid", "日本"]);
    let error = apply(&[id.trim()]).error();
    assert!(error.contains("none of this name runs"), "{error}");
    for name in [
        "-c",
        "a b; drop",
        "../x",
        "forward",
        "ports",
        "a\nb",
        "'",
        "\\",
        "#x",
    ] {
        let error = apply(&[name]).error();
        assert!(
            error.contains("virsh: failed to get domain"),
            "{name}: {error}"
        );
    }
    assert_eq!((host.generation(), host.ruleset()), before);

    // A libvirt that does not run.
    let error = host
        .macfence(["apply", "--connect", "qemu:///nowhere", "--", "日本"])
        .error();
    assert!(error.contains("virsh: failed to connect"), "{error}");
}

#[test]
fn a_domain_whose_name_is_anothers_id_is_fenced_like_any_other() {
    let host = Host::new();
    host.bridge("beth0");
    let libvirt = Libvirt::start(&host);
    libvirt.create("x", &interface("02:00:c0:a8:00:05", "x-0"));
    libvirt.create("1", &interface("02:00:c0:a8:00:06", "one-0"));
    assert_eq!(libvirt.virsh(&["domid", "x"]).trim(), "1");
    host.macfence(["apply", "1"]).ok();
    assert_eq!(host.list()[0]["nics"][0]["port"], "one-0");
    assert_eq!(host.macfence(["check"]).stdout, "missing x: port \"x-0\"\n");
    host.macfence(["sync"]).ok();
    assert_eq!(host.fenced(), ["1", "x"]);
    host.macfence(["check"]).ok();
}
