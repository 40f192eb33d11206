//! `list` shows which ports are open. `check` and `apply` say what the configuration leaves open.

use std::process::Command;

use serde_json::{Value, json};

use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:0a:00:00:05";

fn run(host: &Host, virsh: &tempfile::TempDir, args: &[&str]) -> Ran {
    host.exec(macfence_with(virsh).args(args), "")
}

/// Writes a configuration file with this content.
fn config(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// A host with the VMs `a` and `b` on `br0`, `c` on `br1`, and `d` on no bridge. Only `a` is
/// fenced.
fn host() -> (Host, tempfile::TempDir) {
    let host = Host::new();
    host.bridge("br0");
    host.bridge("br1");
    host.ports("br0", &["vnet0", "vnet1"]);
    host.ports("br1", &["vnet2"]);
    let a = domain("a", &[(A, "vnet0", "br0")]);
    host.apply(&a).ok();
    let virsh = fake_virsh(&[
        ("a", &a),
        ("b", &domain("b", &[(B, "vnet1", "br0")])),
        ("c", &domain("c", &[(C, "vnet2", "br1")])),
        ("d", &domain("d", &[("02:00:0a:00:00:06", "vnet3", "br9")])),
    ]);
    (host, virsh)
}

/// Returns the lines of a table or of a list of findings, with single spaces.
fn lines(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

#[test]
fn every_port_of_every_running_vm_has_a_row_that_says_why_it_is_open() {
    let (host, virsh) = host();
    let file = config("bridges = ['br0']\ntrusted = ['00:16:3e:0:0:1']\ndhcp-guard = true\n");
    let list = ["--config", file.path().to_str().unwrap(), "list"];
    let table = run(&host, &virsh, &list).ok();
    assert_eq!(
        lines(&table),
        [
            "VM PORT BRIDGE MAC HEARS GUARD SPOOFED FOREIGN FORGED STATE",
            // `a` was fenced under another configuration.
            &format!("a vnet0 br0 {A} 02:00:c0:a8:00:00/40 - 0 0 - differs"),
            &format!("b vnet1 br0 {B} all - - - - UNFENCED: nothing has fenced it yet"),
            &format!("c vnet2 br1 {C} all - - - - UNFENCED: bridge \"br1\" is not in bridges"),
            "d vnet3 - 02:00:0a:00:00:06 - - - - - UNFENCED: on no Linux bridge",
            "to fence what nothing has fenced yet: macfence sync",
            "what differs, in words: macfence check; to set it right: macfence sync",
            "fenced by nft",
        ]
    );
    assert!(!table.contains('\u{1b}'), "{table}");
    run(&host, &virsh, &[&list[..2], &["sync"]].concat()).ok();
    let rows = lines(&run(&host, &virsh, &list).ok());
    let hears = "02:00:c0:a8:00:00/40 + 1 trusted";
    assert_eq!(
        rows[1],
        format!("a vnet0 br0 {A} {hears} dhcp 0 0 0 fenced")
    );
    // `--bridge` limits what is shown. Reasons still follow `bridges` in the file.
    let rows = lines(&run(&host, &virsh, &[&list[..], &["--bridge", "br1"]].concat()).ok());
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows[1].ends_with("bridge \"br1\" is not in bridges"));
    assert_eq!(rows[2], "nothing is fenced by nft");
}

#[test]
fn json_has_states_and_reasons_and_keeps_its_other_fields() {
    let (host, virsh) = host();
    let text = run(&host, &virsh, &["list", "--json", "--bridge", "br0"]).ok();
    let rows: Value = serde_json::from_str(&text).unwrap();
    let states = |row: &Value| json!([row["vm"], row["chain"], row["nics"][0]["state"]]);
    let rows = rows.as_array().unwrap();
    assert_eq!(
        rows.iter().map(states).collect::<Vec<_>>(),
        [
            json!(["a", "vm-a", "fenced"]),
            json!(["b", null, "unfenced"])
        ]
    );
    assert_eq!(rows[1]["nics"][0]["reason"], "nothing has fenced it yet");
    assert_eq!(rows[1]["nics"][0]["hears"], "all");
    assert_eq!(rows[1]["nics"][0]["dropped"]["spoofed"], Value::Null);
}

#[test]
fn without_a_hypervisor_list_shows_the_kernels_fences_and_says_so() {
    let (host, virsh) = host();
    script(&virsh, "virsh", "echo 'no libvirt here' >&2; exit 1");
    let ran = run(&host, &virsh, &["list"]);
    assert!(
        ran.stderr.contains("only what is fenced is shown")
            && ran.stderr.contains("no libvirt here"),
        "{ran:?}"
    );
    let rows = lines(&ran.ok());
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows[1].starts_with("a vnet0") && rows[1].ends_with("fenced"));
}

#[test]
fn a_host_without_fences_says_so_in_words() {
    let host = Host::new();
    let said = run(&host, &fake_virsh(&[]), &["list"]).ok();
    assert_eq!(said, "nothing is fenced by nft\n");
    let ran = run(&host, &fake_virsh(&[]), &["--bridge", "br9", "list"]);
    let warning = "macfence: warning: there is no bridge \"br9\" on this host\n";
    assert_eq!((ran.status, &*ran.stderr), (0, warning));
}

#[test]
fn states_have_colours_on_a_terminal_and_only_there() {
    let (host, virsh) = host();
    let on_a_terminal = |variable: (&str, &str)| {
        let mut command = Command::new("script");
        let call = format!("{} list", crate::lab::MACFENCE);
        command.args(["-qec", &call, "/dev/null"]);
        let path = macfence_with(&virsh);
        let path = path.get_envs().find(|(name, _)| *name == "PATH");
        command.env("PATH", path.unwrap().1.unwrap());
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.env(variable.0, variable.1);
        host.exec(&mut command, "").ok()
    };
    let coloured = on_a_terminal(("LANG", "C"));
    assert!(
        coloured.contains("\u{1b}[31mUNFENCED: nothing has"),
        "{coloured}"
    );
    assert!(coloured.contains("\u{1b}[32mfenced\u{1b}[0m"), "{coloured}");
    let plain = on_a_terminal(("NO_COLOR", "1"));
    assert!(
        plain.contains("UNFENCED") && !plain.contains("\u{1b}["),
        "{plain}"
    );
}

#[test]
fn a_graph_names_vms_and_shows_which_are_open() {
    let (host, virsh) = host();
    let graph = run(&host, &virsh, &["list", "--graph"]).ok();
    for text in [
        "digraph macfence {",
        "label=\"bridge br0\"",
        "label=\"network 02:00:c0:a8:00:00/40\"",
        "label=\"not fenced\"",
        "label=\"b\\nvnet1\\n02:00:c0:a8:01:05\"",
    ] {
        assert!(graph.contains(text), "{text}: {graph}");
    }
    if Command::new("dot").arg("-V").output().is_ok() {
        let svg = host.exec(Command::new("dot").arg("-Tsvg"), &graph).ok();
        assert!(svg.contains("vnet1"), "{svg}");
    }
}

#[test]
fn a_misspelt_bridge_is_named_and_vms_left_open_for_it_are_skipped() {
    let (host, virsh) = host();
    let file = config("bridges = ['br0x']\n[[network]]\nbridge = 'br7'\ndhcp-guard = true\n");
    let flag = ["--config", file.path().to_str().unwrap()];
    let check = |args: &[&str]| run(&host, &virsh, &[&flag[..], &["check"], args].concat());
    let ran = check(&[]);
    let said = lines(&ran.stdout);
    assert_eq!(
        (ran.status, said.iter().map(String::as_str).collect()),
        (
            2,
            vec![
                "unknown -: there is no bridge \"br0x\" on this host, which `bridges` or --bridge names",
                "skipped a: port \"vnet0\": bridge \"br0\" is not in bridges; still fenced",
                "skipped b: port \"vnet1\": bridge \"br0\" is not in bridges",
                "skipped c: port \"vnet2\": bridge \"br1\" is not in bridges",
            ]
        ),
        "{ran:?}"
    );
    // A section may be meant for another host.
    assert!(ran.stderr.contains("no bridge \"br7\""), "{ran:?}");
    let ran = check(&["--json"]);
    assert_eq!(ran.status, 2);
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    let states: Vec<_> = rows.as_array().unwrap().iter().collect();
    let states: Vec<_> = states
        .iter()
        .map(|row| (row["vm"].as_str(), row["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        states,
        [
            (Some("a"), "skipped"),
            (Some("b"), "skipped"),
            (Some("c"), "skipped"),
            (Some("d"), "ok"),
            (None, "unknown"),
        ]
    );
    assert!(rows[4]["detail"].as_str().unwrap().contains("br0x"));
    // If the bridges exist, VMs elsewhere are reported, and check still succeeds.
    let file = config("bridges = ['br1']\n");
    let flag = ["--config", file.path().to_str().unwrap()];
    run(&host, &virsh, &[&flag[..], &["sync"]].concat()).ok();
    let ran = run(&host, &virsh, &[&flag[..], &["check"]].concat());
    assert_eq!(
        (ran.status, &*ran.stdout, &*ran.stderr),
        (
            0,
            "skipped a: port \"vnet0\": bridge \"br0\" is not in bridges; still fenced\n\
             skipped b: port \"vnet1\": bridge \"br0\" is not in bridges\n",
            ""
        )
    );
}

#[test]
fn check_says_what_to_run() {
    let (host, virsh) = host();
    let ran = run(&host, &virsh, &["check"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.contains("run macfence sync"), "{ran:?}");
    run(&host, &virsh, &["sync"]).ok();
    run(&host, &virsh, &["check"]).quiet();
}

#[test]
fn check_compares_vms_given_as_xml_without_a_hypervisor() {
    let (host, virsh) = host();
    script(&virsh, "virsh", "exit 1");
    let check = |name: &str, mac: &str, port: &str| {
        let xml = domain(name, &[(mac, port, "br0")]);
        host.exec(macfence_with(&virsh).args(["check", "--xml", "-"]), &xml)
    };
    check("a", A, "vnet0").quiet();
    let differs = check("a", B, "vnet0");
    assert_eq!(differs.status, 1, "{differs:?}");
    assert!(
        differs
            .stdout
            .starts_with("differs a: no rule that lets only")
    );
    let missing = check("b", B, "vnet1");
    assert_eq!(
        (missing.status, &*missing.stdout),
        (1, "missing b: port \"vnet1\"\n")
    );
}

#[test]
fn a_named_vm_that_gets_no_fence_is_an_error() {
    let (host, virsh) = host();
    let apply = |args: &[&str]| run(&host, &virsh, &[&["apply"], args].concat());
    let ran = apply(&["b", "d", "--bridge", "br0"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let error = "macfence: error: not fenced: VM \"d\": port \"vnet3\": on no Linux bridge\n";
    assert!(ran.stderr.ends_with(error), "{ran:?}");
    // The others get their fences.
    assert_eq!(host.fenced(), ["a", "b"]);
    let ran = apply(&["c", "--bridge", "br0"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("bridge \"br1\" is not in bridges"),
        "{ran:?}"
    );
    apply(&["c"]).ok();
}
