//! The nft of an older and of a newer Debian work too. They come from Debian's packages.

use std::process::Command;

use crate::lab::{Host, domain, fetched, macfence_with};

fn check(version: &str) {
    let nft = fetched(&format!("nft/{version}/nft"));
    let dir = nft.parent().unwrap();
    let nft = nft.to_str().unwrap();
    let host = Host::new();
    let said = host.ok(nft, &["--version"]);
    assert!(said.contains(&format!("v{version} ")), "{said}");
    host.bridge("br0");
    host.ports("br0", &["one-1-0", "one-1-1", "one-2-0"]);
    let macfence = |args: &[&str], stdin: &str| host.exec(macfence_with(dir).args(args), stdin);
    let one = |port| domain("one-1", &[("02:00:c0:a8:00:05", port, "br0")]);
    let both = domain(
        "one-1",
        &[
            ("02:00:c0:a8:00:05", "one-1-0", "br0"),
            ("02:00:0a:00:00:05", "one-1-1", "br0"),
        ],
    );

    // With every prefix length, a second apply finds nothing to change, and export prints the same rules.
    for len in 8..=48 {
        let len = len.to_string();
        let flags = [
            "--prefix-len",
            &len,
            "--trusted",
            "52:54:0:0:0:0/20",
            "--trusted",
            "0:16:3e:0:0:1",
        ];
        let args = [&["apply", "--xml", "-"], &flags[..]].concat();
        macfence(&args, &both).ok();
        let before = host.generation();
        macfence(&args, &both).ok();
        assert_eq!(host.generation(), before, "prefix length {len}");
        let listed = host.ok(nft, &["list", "ruleset"]);
        let args = [&["export", "--xml", "-"], &flags[..]].concat();
        let export = macfence(&args, &both).ok();
        let empty = Host::new();
        empty
            .exec(Command::new(nft).args(["-j", "-f", "-"]), &export)
            .ok();
        assert_eq!(words(&empty.ok(nft, &["list", "ruleset"])), words(&listed));
        // The export also loads into kernels that hold these rules already.
        for host in [&empty, &host] {
            host.exec(Command::new(nft).args(["-j", "-f", "-"]), &export)
                .ok();
            assert_eq!(words(&host.ok(nft, &["list", "ruleset"])), words(&listed));
        }
        empty.ok(nft, &["flush", "ruleset"]);
        empty
            .exec(Command::new(nft).args(["-f", "-"]), &listed)
            .ok();
        assert_eq!(empty.ok(nft, &["list", "ruleset"]), listed);
    }

    // The life of a VM, with each way of reading the kernel: one chain, the map, and the table.
    host.ok(nft, &["flush", "ruleset"]);
    let apply = ["apply", "--xml", "-"];
    macfence(&apply, &both).ok();
    macfence(
        &apply,
        &domain("one-2", &[("02:00:c0:a8:00:06", "one-2-0", "br0")]),
    )
    .ok();
    macfence(
        &apply,
        &domain("thief", &[("02:00:c0:a8:00:07", "one-1-1", "br0")]),
    )
    .ok();
    let list = |host: &Host| -> Vec<String> {
        let json = host.exec(macfence_with(dir).args(["list", "--json"]), "");
        let vms: serde_json::Value = serde_json::from_str(&json.ok()).unwrap();
        vms.as_array()
            .unwrap()
            .iter()
            .map(|vm| format!("{}{}", vm["vm"], vm["nics"][0]["port"]))
            .collect()
    };
    assert_eq!(
        list(&host),
        [
            r#""one-1""one-1-0""#,
            r#""one-2""one-2-0""#,
            r#""thief""one-1-1""#
        ]
    );
    let before = host.generation();
    macfence(&apply, &one("one-1-0")).ok();
    macfence(&["flush"], "").ok();
    macfence(&["remove", "nobody", "neither"], "").ok();
    assert_eq!(host.generation(), before);
    host.unplug("one-2-0");
    macfence(&["flush"], "").ok();
    macfence(&["remove", "thief"], "").ok();
    assert_eq!(list(&host), [r#""one-1""one-1-0""#]);
    macfence(&["remove", "one-1"], "").ok();
    host.ok(nft, &["delete", "table", "bridge", "macfence"]);
    for args in [
        &["flush"][..],
        &["list"],
        &["remove", "a"],
        &["remove", "a", "b"],
    ] {
        macfence(args, "").ok();
    }
    assert_eq!(host.ok(nft, &["list", "ruleset"]), "");

    // More ports than one question can name.
    let names: Vec<_> = (0..200).map(|nic| format!("many-ports-{nic:04}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    host.ports("br0", &names);
    let nics: Vec<_> = names
        .iter()
        .map(|port| ("02:00:c0:a8:00:05", *port, "br0"))
        .collect();
    macfence(&apply, &domain("many", &nics)).ok();
    let before = host.generation();
    macfence(&apply, &domain("many", &nics)).ok();
    assert_eq!(host.generation(), before);
    macfence(&apply, &domain("many", &nics[1..])).ok();
    macfence(&["remove", "many"], "").ok();
    host.ok(nft, &["delete", "table", "bridge", "macfence"]);

    // Next to other people's tables with flags, which this nft prints as invalid JSON.
    let others = "table arp macfence { flags dormant; chain forward { }; chain vm-one-1 { drop; }; }; \
                  table bridge zzz { flags dormant; }";
    host.ok(nft, &[others]);
    macfence(&apply, &one("one-1-0")).ok();
    let before = host.generation();
    macfence(&apply, &one("one-1-0")).ok();
    assert_eq!(host.generation(), before);
    assert_eq!(list(&host), [r#""one-1""one-1-0""#]);
}

/// Returns the words of a ruleset, sorted: nft lists a map in the order of its hash table, which is
/// random.
/// random.
fn words(ruleset: &str) -> Vec<String> {
    let words = ruleset
        .split([',', '\n', '\t', ' '])
        .filter(|word| !word.is_empty());
    let mut words: Vec<_> = words.map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn nft_0_9_8_of_debian_bullseye() {
    check("0.9.8");
}

#[test]
fn nft_1_1_3_of_debian_trixie() {
    check("1.1.3");
}
