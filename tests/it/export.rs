//! `export` prints exactly what `apply` loads.

use std::process::Command;

use crate::lab::{Host, domain, for_everybody};

const NICS: [(&str, &str, &str); 2] = [
    ("02:00:c0:a8:00:05", "one-1-0", "br0"),
    ("02:00:0a:00:00:05", "one-1-1", "br1"),
];

/// A host with the ports of two VMs, and their XML.
fn host() -> (Host, [String; 2]) {
    let host = Host::new();
    host.bridge("br0");
    host.bridge("br1");
    host.ports("br0", &["one-1-0", "one-2-0"]);
    host.ports("br1", &["one-1-1"]);
    let other = domain("b c_d", &[("02:00:c0:a8:00:06", "one-2-0", "br0")]);
    (host, [domain("one-1", &NICS), other])
}

const FLAGS: [&str; 6] = [
    "--prefix-len",
    "36",
    "--trusted",
    "00:16:3e:0:0:1",
    "--trusted",
    "52:54:0:0:0:0/24",
];

#[test]
fn loading_the_export_gives_the_same_rules_as_apply() {
    for flags in [&[][..], &FLAGS] {
        let (host, vms) = host();
        let files = tempfile::tempdir().unwrap();
        let mut args: Vec<String> = flags.iter().map(|f| f.to_string()).collect();
        for (n, xml) in vms.iter().enumerate() {
            let file = files.path().join(n.to_string());
            std::fs::write(&file, xml).unwrap();
            args.extend(["--xml".to_owned(), file.to_str().unwrap().to_owned()]);
        }
        host.macfence([&["apply".to_owned()], &args[..]].concat())
            .ok();
        let applied = host.ok("nft", &["list", "ruleset"]);

        let empty = Host::new();
        let export = empty
            .macfence([&["export".to_owned()], &args[..]].concat())
            .ok();
        assert_eq!(empty.ruleset(), "");
        let load = |host: &Host| {
            host.exec(Command::new("nft").args(["-j", "-f", "-"]), &export)
                .ok();
            host.ok("nft", &["list", "ruleset"])
        };
        assert_eq!(load(&empty), applied);
        // A running kernel takes it as well, and then holds it once.
        assert_eq!(load(&empty), applied);
        assert_eq!(load(&host), applied);
    }
}

#[test]
fn a_listed_ruleset_can_be_loaded_again() {
    let (host, vms) = host();
    for xml in &vms {
        host.macfence_reading(xml, ["apply", "--xml", "-"].iter().chain(&FLAGS))
            .ok();
    }
    let listed = host.ok("nft", &["list", "ruleset"]);
    let empty = Host::new();
    empty
        .exec(Command::new("nft").args(["-f", "-"]), &listed)
        .ok();
    assert_eq!(empty.ok("nft", &["list", "ruleset"]), listed);
}

#[test]
fn exporting_needs_no_rights_no_nft_and_no_hypervisor() {
    let host = Host::new();
    for program in ["nft", "virsh", "sudo"] {
        host.hide(program);
    }
    let export = ["export", "--xml", "-"];
    let ran = host.as_nobody(&for_everybody(), &export, &domain("a", &NICS));
    assert!(ran.ok().contains("one-1-1"));
}

#[test]
fn export_uses_the_bridge_that_the_definition_names() {
    let host = Host::new();
    let export = |xml: &str, flags: &[&str]| {
        let args = ["export", "--xml", "-"].iter().chain(flags);
        host.macfence_reading(xml, args)
    };
    let xml = domain("a", &NICS);
    assert!(export(&xml, &[]).ok().contains("one-1-0"));
    let one = export(&xml, &["--bridge", "br1"]).ok();
    assert!(one.contains("one-1-1") && !one.contains("one-1-0"), "{one}");
    let nameless = xml.replace("<source bridge='br1'/>", "");
    let ran = export(&nameless, &["--bridge", "br1"]);
    assert!(ran.stderr.contains("\"one-1-1\""), "{}", ran.stderr);
    assert!(!ran.ok().contains("one-1-1"));
}
