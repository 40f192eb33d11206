//! Names of VMs and ports survive nft's own parsers.

use std::process::Command;

use macfence::backend::nft::chain_name::ChainName;
use macfence::vm::Port;
use proptest::prelude::*;

use crate::lab::{Host, domain};

/// Loads macfence's export of these VMs, and loads nft's listing of it again.
fn round_trip(host: &Host, vms: &[(String, String)]) {
    host.ok("nft", &["flush", "ruleset"]);
    let files = tempfile::tempdir().unwrap();
    let mut args = vec!["export".to_owned()];
    for (n, (name, port)) in vms.iter().enumerate() {
        let file = files.path().join(n.to_string());
        let escape = |text: &str| {
            text.chars()
                .map(|c| format!("&#{};", u32::from(c)))
                .collect()
        };
        let (name, port): (String, String) = (escape(name), escape(port));
        let xml = domain("NAME", &[("2:0:0:0:0:1", "PORT", "br0")]);
        std::fs::write(&file, xml.replace("NAME", &name).replace("PORT", &port)).unwrap();
        args.extend(["--xml".to_owned(), file.to_str().unwrap().to_owned()]);
    }
    let export = host.macfence(&args).ok();
    host.exec(Command::new("nft").args(["-j", "-f", "-"]), &export)
        .ok();
    let listed = host.ok("nft", &["list", "ruleset"]);
    host.ok("nft", &["flush", "ruleset"]);
    host.exec(Command::new("nft").args(["-f", "-"]), &listed)
        .ok();
    assert_eq!(host.ok("nft", &["list", "ruleset"]), listed);

    let mut wanted: Vec<_> = vms
        .iter()
        .map(|(vm, port)| (vm.as_str(), port.as_str()))
        .collect();
    wanted.sort_unstable();
    let list = host.list();
    let text =
        |value: &'static str| move |v: &serde_json::Value| v[value].as_str().unwrap().to_owned();
    let list: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| (text("vm")(vm), text("port")(&vm["nics"][0])))
        .collect();
    let mut held: Vec<_> = list
        .iter()
        .map(|(vm, port)| (vm.as_str(), port.as_str()))
        .collect();
    held.sort_unstable();
    assert_eq!(held, wanted);
}

#[test]
fn any_name_of_a_vm_survives_nft() {
    let host = Host::new();
    let mut names: Vec<String> = [
        "-c",
        "--help",
        "a b; drop",
        "日本",
        "../x",
        "forward",
        "ports",
        "filter",
        "we'ird \"n\\ame",
        "a{b}",
        "$x",
        "@x",
        "#x",
        "_",
        "__",
        "a*",
        "drop",
        "accept",
        "-",
        ".",
        "..",
    ]
    .map(str::to_owned)
    .into();
    names.push("x".repeat(250));
    // XML allows only these control characters.
    names.push("tab\tline\n".to_owned());
    let vms: Vec<_> = names
        .into_iter()
        .enumerate()
        .map(|(n, vm)| (vm, format!("p{n}")))
        .collect();
    round_trip(&host, &vms);
}

#[test]
fn any_accepted_port_name_survives_nft() {
    let host = Host::new();
    let mut ports: Vec<String> = ('!'..='~')
        .flat_map(|c| {
            [
                format!("{c}"),
                format!("{c}0x"),
                format!("a{c}b"),
                format!("a{c}"),
            ]
        })
        .filter(|name| name.parse::<Port>().is_ok())
        .collect();
    // Keywords of nft, and values that it parses.
    let words = "0x10 1-2 10 accept all any arp chain continue ct drop elem element eth0 ether exists \
        false goto icmp6 igmp iifname inet ip ip6 ipcomp jump map meta missing nft null ospf policy \
        queue return rule set table true type udp6 vlan vmap 日本 fifteen-bytes-x";
    ports.extend(words.split_whitespace().map(str::to_owned));
    ports.sort();
    ports.dedup();
    let vms: Vec<_> = ports
        .into_iter()
        .enumerate()
        .map(|(n, p)| (format!("v{n}"), p))
        .collect();
    round_trip(&host, &vms);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn chain_names_always_survive_nft(
        names in prop::collection::btree_set("[\u{20}-\u{7e}]{1,40}|[^\\x00-\\x1f\u{7f}\u{fffe}\u{ffff}]{1,20}", 1..20),
    ) {
        let fits = |name: &String| ChainName::of(&name.parse().unwrap()).is_ok();
        let names = names.into_iter().filter(fits).enumerate();
        let vms: Vec<_> = names.map(|(n, name)| (name, format!("p{n}"))).collect();
        round_trip(&Host::new(), &vms);
    }
}
