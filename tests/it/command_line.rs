//! Exit statuses, help, and output for people.

use crate::lab::{Host, domain};

const A: &str = "02:00:c0:a8:00:05";

#[test]
fn every_subcommand_explains_itself() {
    let host = Host::new();
    let top = host.macfence(["--help"]).ok();
    for command in [
        "apply", "remove", "flush", "list", "explain", "export", "hook",
    ] {
        assert!(
            top.lines().any(|l| l.trim_start().starts_with(command)),
            "{command}: {top}"
        );
        let help = host.macfence([command, "--help"]).ok();
        assert!(
            help.contains("Usage: macfence") && help.contains("--config"),
            "{help}"
        );
    }
    assert!(host.macfence(["--version"]).ok().starts_with("macfence "));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let host = Host::new();
    for args in [
        &[][..],
        &["fence"],
        &["apply"],
        &["remove"],
        &["export"],
        &["apply", "-c"],
        &["apply", ""],
        &["flush", "x"],
        &["list", "--prefix-len", "7"],
        &["list", "--prefix-len", "x"],
        &["list", "--trusted", "ff:ff:ff:ff:ff:ff"],
        &["list", "--backend", "pf"],
        &["hook", "ebtables-kvm"],
        &["hook", "nobody"],
        &["list", "--json", "--graph"],
    ] {
        let ran = host.macfence(args);
        assert_eq!(ran.status, 2, "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty() && ran.stdout.is_empty(), "{ran:?}");
    }
}

#[test]
fn commands_with_nothing_to_do_succeed_and_print_nothing() {
    let host = Host::new();
    for args in [&["flush"][..], &["hook", "ebtables-flush"]] {
        let ran = host.macfence(args);
        assert_eq!(
            (ran.status, &*ran.stdout, &*ran.stderr),
            (0, "", ""),
            "{args:?}"
        );
    }
    // The name may be misspelt.
    let ran = host.macfence(["remove", "one-1"]);
    let warning = "macfence: warning: VM \"one-1\" has no fence\n";
    assert_eq!((ran.status, &*ran.stderr), (0, warning));
    assert_eq!(host.macfence(["list", "--json"]).ok(), "[]\n");
}

#[test]
fn list_shows_an_aligned_table() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0", "x"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    host.apply(&domain("日本\u{85}", &[("02:00:0a:00:00:05", "x", "br0")]))
        .ok();
    host.unplug("x");
    let table = host.macfence(["list"]).ok();
    let expected = "\
VM          PORT     BRIDGE  MAC                HEARS                 GUARD  SPOOFED  FOREIGN  FORGED  STATE
one-1       one-1-0  br0     02:00:c0:a8:00:05  02:00:c0:a8:00:00/40  -            0        0       -  fenced
日本\\u{85}  x        -       02:00:0a:00:00:05  02:00:0a:00:00:00/40  -            0        0       -  stale: on no Linux bridge
fenced by nft
";
    assert_eq!(table, expected);
}

#[test]
fn list_json_has_the_shape_that_others_rely_on() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    let expected = serde_json::json!([{
        "vm": "one-1",
        "chain": "vm-one-1",
        "nics": [{
            "port": "one-1-0",
            "bridge": "br0",
            "mac": A,
            "prefix": "02:00:c0:a8:00:00/40",
            "extra_macs": [],
            "trusted_ports": [],
            "addresses": null,
            "dropped": {"spoofed": 0, "foreign": 0, "forged": null},
            "state": "fenced",
            "reason": null,
            "hears": "02:00:c0:a8:00:00/40",
            "trusted": [],
            "dhcp_guard": false,
            "ra_guard": false,
        }],
    }]);
    assert_eq!(host.list(), expected);
}

#[test]
fn the_command_line_overrides_the_file() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "prefix-len = 32\ntrusted = ['00:16:3e:0:0:1']\n",
    )
    .unwrap();
    let config = file.path().to_str().unwrap();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    let apply = |flags: &[&str]| {
        let args = [&["apply", "--xml", "-", "--config", config], flags].concat();
        host.macfence_reading(&xml, args).ok();
        host.ruleset()
    };
    let filed = apply(&[]);
    assert!(filed.contains("& ff:ff:ff:ff:00:00") && filed.contains("00:16:3e:00:00:01"));
    let typed = apply(&["--prefix-len", "16", "--trusted", "0:16:3e:0:0:2"]);
    assert!(typed.contains("& ff:ff:00:00:00:00") && typed.contains("00:16:3e:00:00:02"));
    assert!(!typed.contains("00:16:3e:00:00:01"));
}

#[test]
fn a_reader_that_closes_the_pipe_early_is_no_error() {
    let host = Host::new();
    let xml: String = domain("a", &[(A, "one-1-0", "br0")]);
    let pipe = format!("{} export --xml - | head -c 1", crate::lab::MACFENCE);
    let mut sh = std::process::Command::new("bash");
    let ran = host.exec(sh.args(["-o", "pipefail", "-c", &pipe]), &xml);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
}
