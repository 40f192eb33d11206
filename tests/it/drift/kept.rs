//! `sync` changes neither right fences nor what belongs to others.

use serde_json::Value;

use super::{A, B, run};
use crate::lab::frame::{Kind, frame};
use crate::lab::{Host, domain, fake_virsh};

#[test]
fn right_rules_keep_their_counters_while_others_are_repaired() {
    let host = Host::new();
    host.bridge("br0");
    let vm = host.tap("br0", "vnet0");
    let _other = host.tap("br0", "vnet1");
    let virsh = fake_virsh(&[
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &domain("b", &[(B, "vnet1", "br0")])),
    ]);
    let sync = || run(&host, &virsh, &["sync"]);
    sync().ok();
    vm.send(&frame(
        Kind::Arp,
        B.parse().unwrap(),
        "ff:ff:ff:ff:ff:ff".parse().unwrap(),
        1,
    ));
    host.ok(
        "nft",
        &["delete element bridge macfence ports { \"vnet1\" }"],
    );
    assert_eq!(
        sync().ok(),
        "mended b: the map has no entry for port \"vnet1\"\n"
    );
    assert_eq!(host.list()[0]["nics"][0]["dropped"]["spoofed"], 1);
}

#[test]
fn no_fence_of_an_existing_port_is_removed() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1", "one-7-0", "one-7-1"]);
    // A container, which libvirt does not know, and a VM with a NIC that libvirt does not report
    // yet.
    host.apply(&domain(
        "one-7",
        &[(A, "one-7-0", "br0"), (B, "one-7-1", "br0")],
    ))
    .ok();
    host.apply(&domain("a", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]))
        .ok();
    let virsh = fake_virsh(&[("a", &domain("a", &[(A, "vnet0", "br0")]))]);
    let before = (host.generation(), host.ruleset());
    run(&host, &virsh, &["sync"]).quiet();
    // `check` reports them.
    let told = run(&host, &virsh, &["check"]).ok();
    for line in [
        "unowned a: port \"vnet1\"",
        "unowned one-7: port \"one-7-0\"",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let json = run(&host, &virsh, &["check", "--json"]).ok();
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        assert_eq!(
            (&row["state"], &row["note"]),
            (&"ok".into(), &"unowned".into())
        );
    }
    assert_eq!((host.generation(), host.ruleset()), before);
    // The same if its map entry is lost or leads elsewhere: the VM's chain tells where it should
    // lead.
    let whole = host.sorted_ruleset();
    let lost = "delete element bridge macfence ports { \"one-7-0\" }";
    let bent = format!("{lost}; add element bridge macfence ports {{ \"one-7-0\" : accept }}");
    for damage in [lost, &bent] {
        host.ok("nft", &[damage]);
        let said = run(&host, &virsh, &["sync"]).ok();
        assert!(said.starts_with("mended one-7: "), "{said}");
        assert_eq!(host.sorted_ruleset(), whole, "{damage}");
    }
    // A port that somebody has blocked stays blocked.
    let closed = "\"eth7\" : drop";
    host.ok(
        "nft",
        &[&format!("add element bridge macfence ports {{ {closed} }}")],
    );
    run(&host, &virsh, &["sync"]).quiet();
    assert!(host.ok("nft", &["list", "ruleset"]).contains(closed));
    // Fences of ports that have left their bridge go.
    host.unplug("one-7-1");
    host.unplug("vnet1");
    let said = run(&host, &virsh, &["sync"]).ok();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(!host.ruleset().contains("one-7-1") && !host.ruleset().contains("vnet1"));
    host.unplug("one-7-0");
    let said = run(&host, &virsh, &["sync"]).ok();
    assert_eq!(said, "removed one-7: port \"one-7-0\"\n");
    assert_eq!(host.fenced(), ["a"]);
}

#[test]
fn an_open_nic_stays_open_and_an_isolated_one_that_lost_its_rule_gets_it_back() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-42-0", "one-42-1"]);
    let nic = |id: u32, mac: &str, more: &str| {
        format!(
            "<NIC><NIC_ID>{id}</NIC_ID><MAC>{mac}</MAC><TARGET>one-42-{id}</TARGET>{more}</NIC>"
        )
    };
    let isolated = "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
    let nics = nic(0, A, isolated) + &nic(1, B, "");
    let template = format!("<VM><ID>42</ID><TEMPLATE>{nics}</TEMPLATE></VM>");
    let template = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, template);
    host.macfence_reading(&template, ["hook", "one-post"]).ok();
    let both = [(A, "one-42-0", "br0"), (B, "one-42-1", "br0")];
    let virsh = fake_virsh(&[("one-42", &domain("one-42", &both))]);
    let whole = host.sorted_ruleset();
    let before = host.generation();
    run(&host, &virsh, &["check"]).quiet();
    run(&host, &virsh, &["sync"]).quiet();
    assert_eq!(host.generation(), before);
    let rules = host.ok(
        "nft",
        &["-a", "list", "chain", "bridge", "macfence", "vm-one-42"],
    );
    let foreign = rules
        .lines()
        .find(|rule| rule.contains("oifname \"one-42-0\""))
        .unwrap();
    let handle = foreign.rsplit(' ').next().unwrap();
    host.ok(
        "nft",
        &[
            "delete",
            "rule",
            "bridge",
            "macfence",
            "vm-one-42",
            "handle",
            handle,
        ],
    );
    assert_eq!(run(&host, &virsh, &["check"]).status, 1);
    run(&host, &virsh, &["sync"]).ok();
    assert_eq!(host.sorted_ruleset(), whole);
    // With isolation = 'always', every NIC is isolated.
    let file = virsh.path().join("macfence.toml");
    std::fs::write(&file, "isolation = 'always'\n").unwrap();
    let always = ["--config", file.to_str().unwrap(), "sync"];
    run(&host, &virsh, &always).ok();
    assert!(host.list()[0]["nics"][1]["prefix"].is_string());
}
