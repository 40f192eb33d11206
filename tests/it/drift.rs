//! What differs from what should be is told by `check` and set right by `sync`.

use std::process::Command;

use serde_json::Value;

use crate::lab::frame::{Kind, frame};
use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, MACFENCE, Ran, domain, fake_virsh, path_with, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:0a:00:00:05";

fn interface(mac: &str, port: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/>\
         <target dev='{port}'/><rom enabled='no'/></interface>"
    )
}

/// What `check` says of each VM, and how it ends.
fn check(host: &Host) -> (i32, Vec<(String, String, String)>) {
    let ran = host.macfence(["check", "--json"]);
    let rows: Vec<Value> =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    let found = |row: &Value| (text(row, "vm"), text(row, "state"), text(row, "detail"));
    (ran.status, rows.iter().map(found).collect())
}

#[test]
fn every_kind_of_drift_is_found_and_repaired() {
    let host = Host::new();
    host.bridge("br0");
    let libvirt = Libvirt::start(&host);
    libvirt.create("a", &(interface(A, "nic10") + &interface(B, "nic11")));
    libvirt.create("b", &interface(C, "nic12"));
    assert_eq!(
        host.macfence(["sync"]).ok(),
        "fenced a: port \"nic10\"; port \"nic11\"\nfenced b: port \"nic12\"\n"
    );
    host.macfence(["sync"]).quiet();
    host.macfence(["check"]).quiet();
    let whole = host.sorted_ruleset();
    let stale = "add chain bridge macfence vm-c; \
                 add rule bridge macfence vm-c iifname \"nic99\" ether saddr != 02:00:00:00:00:09 counter drop; \
                 add element bridge macfence ports { \"nic99\" : jump vm-c }";
    // What is done, and for `a`, `b` and others what it is and the words that tell.
    let (ok, differs) = (("ok", ""), |words| ("differs", words));
    for (damage, a, b) in [
        (
            "flush ruleset",
            ("missing", "\"nic10\""),
            ("missing", "\"nic12\""),
        ),
        (
            "delete table bridge macfence",
            ("missing", "\"nic11\""),
            ("missing", ""),
        ),
        (
            "flush table bridge macfence",
            differs("base chain"),
            differs("base chain"),
        ),
        (
            "flush chain bridge macfence forward",
            differs("two rules"),
            differs("two rules"),
        ),
        (
            "insert rule bridge macfence forward accept",
            differs("two rules"),
            differs("two rules"),
        ),
        (
            "delete chain bridge macfence forward",
            differs("no base chain"),
            differs("no base chain"),
        ),
        (
            "add chain bridge macfence forward { policy drop; }",
            differs("hooked in"),
            differs("hooked in"),
        ),
        (
            "add table bridge macfence { flags dormant; }",
            differs("dormant"),
            differs("dormant"),
        ),
        (
            "flush map bridge macfence ports",
            differs("no entry for port \"nic11\""),
            differs("nic12"),
        ),
        (
            "delete element bridge macfence ports { \"nic10\" }",
            differs("no entry for port \"nic10\""),
            ok,
        ),
        (
            "delete element bridge macfence ports { \"nic10\" }; \
          add element bridge macfence ports { \"nic10\" : jump vm-b }",
            differs("\"nic10\" leads elsewhere"),
            differs("no rule for port \"nic10\""),
        ),
        (
            "delete element bridge macfence ports { \"nic12\" }; \
          add element bridge macfence ports { \"nic12\" : accept }",
            ok,
            differs("leads elsewhere"),
        ),
        (
            "add element bridge macfence ports { \"eth7\" : jump vm-b }",
            ok,
            differs("\"eth7\""),
        ),
        (
            "add element bridge macfence ports { \"eth7\" : accept }",
            differs("\"eth7\" leads past"),
            differs("\"eth7\" leads past"),
        ),
        (
            "flush chain bridge macfence vm-b",
            ok,
            differs("no rule that lets only 02:00:0a:00:00:05 in"),
        ),
        (
            "insert rule bridge macfence vm-a accept",
            differs("not macfence's"),
            ok,
        ),
        (
            "add rule bridge macfence vm-b counter; add rule bridge macfence vm-b counter",
            ok,
            differs("2 rules that are not macfence's"),
        ),
        (
            "add rule bridge macfence vm-a oifname \"nic10\" ether saddr & ff:ff:ff:ff:00:00 != 02:00:c0:a8:00:00 counter drop",
            differs("a rule too many that lets only 02:00:c0:a8:00:00/32 out to \"nic10\""),
            ok,
        ),
        (stale, ok, ok),
    ] {
        host.ok("nft", &[damage]);
        let (status, found) = check(&host);
        assert_eq!(status, 1, "{damage}: {found:?}");
        for (vm, (state, words)) in [("a", a), ("b", b)] {
            let found = found.iter().find(|(name, ..)| name == vm).unwrap();
            assert_eq!(found.1, state, "{damage}: {found:?}");
            assert!(found.2.contains(words), "{damage}: {found:?}");
        }
        let others: Vec<_> = found
            .iter()
            .filter(|(vm, ..)| vm != "a" && vm != "b")
            .collect();
        let expected = (
            "c".to_owned(),
            "stale".to_owned(),
            "port \"nic99\"".to_owned(),
        );
        assert_eq!(
            others,
            Vec::from_iter((damage == stale).then_some(&expected)),
            "{damage}"
        );
        // For people, a line for each that is not as it should be.
        let lines = host.macfence(["check"]);
        let wrong = found.iter().filter(|(_, state, _)| state != "ok").count();
        assert_eq!(
            (lines.status, lines.stdout.lines().count()),
            (1, wrong),
            "{lines:?}"
        );
        let said = host.macfence(["sync"]).ok();
        assert_eq!(said.lines().count(), wrong, "{damage}: {said}");
        assert_eq!(host.sorted_ruleset(), whole, "{damage}");
        host.macfence(["check"]).quiet();
        let before = host.generation();
        host.macfence(["sync"]).quiet();
        assert_eq!(host.generation(), before, "{damage}");
    }
    // One NIC comes while nobody looks, one VM goes and another comes.
    libvirt.attach("b", &interface("02:00:0a:00:00:06", "nic13"));
    libvirt.virsh(&["destroy", "a"]);
    libvirt.create("d", &interface(A, "nic10"));
    let found = check(&host).1;
    let state = |vm: &str| {
        found
            .iter()
            .find(|(name, ..)| name == vm)
            .map(|row| &*row.1)
    };
    // What is left of `a` refers to a port that is now d's, and to one that is gone.
    assert_eq!(
        [state("a"), state("b"), state("d")].map(Option::unwrap),
        ["stale", "differs", "missing"]
    );
    let said = host.macfence(["sync"]).ok();
    assert!(said.contains("removed a: "), "{said}");
    assert_eq!(host.fenced(), ["b", "d"]);
    host.macfence(["check"]).quiet();
}

#[test]
fn what_is_right_keeps_its_counters_while_the_rest_is_set_right() {
    let host = Host::new();
    host.bridge("br0");
    let vm = host.tap("br0", "vnet0");
    let _other = host.tap("br0", "vnet1");
    let virsh = fake_virsh(&[
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &domain("b", &[(B, "vnet1", "br0")])),
    ]);
    let sync = || with_path(&host, &virsh, &["sync"]);
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

fn with_path(host: &Host, dir: &tempfile::TempDir, args: &[&str]) -> Ran {
    let mut command = Command::new(MACFENCE);
    host.exec(command.args(args).env("PATH", path_with(dir)), "")
}

#[test]
fn nothing_is_taken_away_in_front_of_a_port_that_is_there() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1", "one-7-0", "one-7-1"]);
    // A container, of which libvirt knows nothing; a VM with a NIC that libvirt has not told yet.
    host.apply(&domain(
        "one-7",
        &[(A, "one-7-0", "br0"), (B, "one-7-1", "br0")],
    ))
    .ok();
    host.apply(&domain("a", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]))
        .ok();
    let virsh = fake_virsh(&[("a", &domain("a", &[(A, "vnet0", "br0")]))]);
    let before = (host.generation(), host.ruleset());
    with_path(&host, &virsh, &["sync"]).quiet();
    with_path(&host, &virsh, &["check"]).quiet();
    assert_eq!((host.generation(), host.ruleset()), before);
    // Nor where its entry was lost or bent: the chain tells what it should be.
    let whole = host.sorted_ruleset();
    let lost = "delete element bridge macfence ports { \"one-7-0\" }";
    let bent = format!("{lost}; add element bridge macfence ports {{ \"one-7-0\" : accept }}");
    for damage in [lost, &bent] {
        host.ok("nft", &[damage]);
        let said = with_path(&host, &virsh, &["sync"]).ok();
        assert!(said.starts_with("mended one-7: "), "{said}");
        assert_eq!(host.sorted_ruleset(), whole, "{damage}");
    }
    // What somebody closed stays closed.
    let closed = "\"eth7\" : drop";
    host.ok(
        "nft",
        &[&format!("add element bridge macfence ports {{ {closed} }}")],
    );
    with_path(&host, &virsh, &["sync"]).quiet();
    assert!(host.ok("nft", &["list", "ruleset"]).contains(closed));
    // What has left its bridge goes.
    host.unplug("one-7-1");
    host.unplug("vnet1");
    let said = with_path(&host, &virsh, &["sync"]).ok();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(!host.ruleset().contains("one-7-1") && !host.ruleset().contains("vnet1"));
    host.unplug("one-7-0");
    let said = with_path(&host, &virsh, &["sync"]).ok();
    assert_eq!(said, "removed one-7: port \"one-7-0\"\n");
    assert_eq!(host.fenced(), ["a"]);
}

#[test]
fn a_nic_that_was_not_to_be_isolated_stays_so_and_one_that_lost_its_rule_does_not() {
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
    with_path(&host, &virsh, &["check"]).quiet();
    with_path(&host, &virsh, &["sync"]).quiet();
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
    assert_eq!(with_path(&host, &virsh, &["check"]).status, 1);
    with_path(&host, &virsh, &["sync"]).ok();
    assert_eq!(host.sorted_ruleset(), whole);
    // Unless every NIC is to be.
    let file = virsh.path().join("macfence.toml");
    std::fs::write(&file, "isolation = 'always'\n").unwrap();
    let always = ["--config", file.to_str().unwrap(), "sync"];
    with_path(&host, &virsh, &always).ok();
    assert!(host.list()[0]["nics"][1]["prefix"].is_string());
}

#[test]
fn a_vm_that_cannot_be_fenced_is_named_and_all_others_are() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1"]);
    let long = "x".repeat(253);
    let virsh = fake_virsh(&[
        (&long[..250], &domain(&long, &[(B, "vnet1", "br0")])),
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
    ]);
    std::fs::rename(
        virsh.path().join(format!("{}.xml", &long[..250])),
        virsh.path().join("long"),
    )
    .unwrap();
    std::fs::write(virsh.path().join("names"), format!("{long}\na\n")).unwrap();
    let says =
        "d=${0%/*}; case $4 in 'list --name') exec cat $d/names;; esac; cat $d/long $d/a.xml";
    script(&virsh, "virsh", says);
    let ran = with_path(&host, &virsh, &["sync"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "fenced a: port \"vnet0\"\n")
    );
    assert!(ran.stderr.contains("not fenced: xxxx"), "{}", ran.stderr);
    assert_eq!(host.fenced(), ["a"]);
    let ran = with_path(&host, &virsh, &["check"]);
    assert!(
        ran.status == 1 && ran.stdout.starts_with("missing xxxx"),
        "{ran:?}"
    );
}

#[test]
fn what_cannot_be_found_out_ends_with_2() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "virsh", "echo 'error: no libvirtd' >&2; exit 1");
    let ran = with_path(&host, &dir, &["check"]);
    assert_eq!((ran.status, &*ran.stdout), (2, ""));
    assert!(ran.stderr.contains("no libvirtd"), "{}", ran.stderr);
    let ran = with_path(&host, &dir, &["--config", "/nonexistent", "check"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    // Nothing runs, nothing is held.
    let ran = with_path(&host, &fake_virsh(&[]), &["check", "--json"]);
    assert_eq!((ran.status, &*ran.stdout), (0, "[]\n"));
}

#[test]
fn xen_is_asked_where_there_is_no_virsh() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif9.0"]);
    host.hide("virsh");
    let dir = tempfile::tempdir().unwrap();
    let says = "case \"$*\" in \
        list) printf 'Name ID Mem VCPUs State Time(s)\\nDomain-0 0 1 1 r 1\\none-7 7 1 1 b 1\\n'; mkdir ${0%/*}/asked 2>/dev/null && echo 'old 8 1 1 b 1'; exit 0;; \
        'domid one-7') echo 7;; 'network-list 7') echo '0 0 02:00:c0:a8:00:05 0 4';; \
        'network-list 8') ;; *) exit 1;; esac";
    script(&dir, "xl", says);
    assert_eq!(
        with_path(&host, &dir, &["sync"]).ok(),
        "fenced one-7: port \"vif7.0\"\n"
    );
    with_path(&host, &dir, &["check"]).quiet();
}

#[test]
fn an_old_host_is_checked_and_set_right_as_well() {
    let host = Host::new();
    host.hide("nft");
    host.bridge("br0");
    host.ports("br0", &["vnet0", "vnet1", "gone"]);
    let virsh = fake_virsh(&[
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &domain("b", &[(B, "vnet1", "br0")])),
    ]);
    host.apply(&domain("c", &[(C, "gone", "br0")])).ok();
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    host.ok(
        "ebtables",
        &["-D", "FORWARD", "-s", "!", A, "-i", "vnet0", "-j", "DROP"],
    );
    host.unplug("gone");
    let ran = with_path(&host, &virsh, &["check"]);
    assert_eq!(ran.status, 1);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "differs a: no rule that lets only 02:00:c0:a8:00:05 in from \"vnet0\"",
            "missing b: port \"vnet1\"",
            "stale -: port \"gone\""
        ]
    );
    assert_eq!(with_path(&host, &virsh, &["sync"]).ok().lines().count(), 3);
    with_path(&host, &virsh, &["check"]).quiet();
    assert_eq!(host.ok("ebtables", &["-L"]).matches("DROP").count(), 4);
}

#[test]
fn a_xen_domain_that_cannot_be_asked_about_is_missing_and_not_over() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vif7.0", "vif8.0"]);
    host.hide("virsh");
    let dir = tempfile::tempdir().unwrap();
    let says = "case \"$*\" in list) printf 'a 7 1 1 b 1\\nb 8 1 1 b 1\\n';; \
        'network-list 8') echo '0 0 02:00:c0:a8:00:05 0 4';; *) echo 'no xenstore' >&2; exit 1;; esac";
    script(&dir, "xl", says);
    let ran = with_path(&host, &dir, &["sync"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "fenced b: port \"vif8.0\"\n")
    );
    assert!(
        ran.stderr.contains("not fenced: a: xl: no xenstore"),
        "{}",
        ran.stderr
    );
    let ran = with_path(&host, &dir, &["check"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "missing a: xl: no xenstore\n")
    );
}

#[test]
fn one_odd_vm_keeps_no_other_from_being_fenced() {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["a*b", "vnet0", "vnet1", "vnet2"]);
    let odd = domain("odd", &[(A, "a*b", "br0")]);
    let same = |name: &str| domain(name, &[(B, "vnet1", "br0")]);
    let virsh = fake_virsh(&[
        ("odd", &odd),
        ("a", &domain("a", &[(A, "vnet0", "br0")])),
        ("b", &same("b")),
        ("c", &same("c")),
        ("d", &domain("d", &[(C, "vnet2", "br0")])),
    ]);
    let ran = with_path(&host, &virsh, &["sync"]);
    assert_eq!(
        (ran.status, &*ran.stdout),
        (1, "fenced a: port \"vnet0\"\nfenced d: port \"vnet2\"\n")
    );
    for words in [
        "odd: VM \"odd\": port name \"a*b\"",
        "b: port \"vnet1\" is claimed twice",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    // libvirt does not answer about the second of them.
    let path = virsh.path().join("virsh");
    let slow = std::fs::read_to_string(&path).unwrap();
    let slow = slow.replace(
        "while read -r n; do ",
        "while read -r n; do [ $n = a ] && sleep 60; ",
    );
    std::fs::write(&path, slow).unwrap();
    std::fs::write(virsh.path().join("names"), "d\na\ne\n").unwrap();
    std::fs::write(
        virsh.path().join("e.xml"),
        domain("e", &[(B, "vnet1", "br0")]),
    )
    .unwrap();
    host.ok("nft", &["flush", "ruleset"]);
    let ran = with_path(&host, &virsh, &["sync"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("not fenced: a: virsh did not end"),
        "{}",
        ran.stderr
    );
    assert_eq!(host.fenced(), ["d", "e"]);
}

#[test]
fn half_a_fence_in_ebtables_is_no_fence() {
    let host = Host::new();
    host.hide("nft");
    host.bridge("br0");
    host.ports("br0", &["vnet0"]);
    let virsh = fake_virsh(&[("a", &domain("a", &[(A, "vnet0", "br0")]))]);
    let trusting = ["--trusted", "0:16:3e:0:0:1", "sync"];
    with_path(&host, &virsh, &trusting).ok();
    let list = host.ok("ebtables", &["-L"]);
    let chain = list
        .split_whitespace()
        .find(|word| word.starts_with("macfence-"))
        .unwrap();
    host.ok("ebtables", &["-F", chain.trim_end_matches(',')]);
    let check = ["--trusted", "0:16:3e:0:0:1", "check"];
    assert_eq!(with_path(&host, &virsh, &check).status, 1);
    with_path(&host, &virsh, &trusting).ok();
    with_path(&host, &virsh, &check).quiet();
    // A run that was cut short.
    host.ok("ebtables", &["-F"]);
    host.ok(
        "ebtables",
        &["-A", "FORWARD", "-s", "!", A, "-i", "vnet0", "-j", "DROP"],
    );
    assert_eq!(with_path(&host, &virsh, &["check"]).status, 1);
    with_path(&host, &virsh, &["sync"]).ok();
    with_path(&host, &virsh, &["check"]).quiet();
}
