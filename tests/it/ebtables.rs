//! The ebtables backend on the real ebtables. It is the nft variant, because this kernel has no
//! legacy tables.

use std::process::Command;

use nix::pty::openpty;

use crate::lab::{Host, MACFENCE, Ran, domain, fake_virsh, macfence_with, need, script};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";

fn host() -> Host {
    need("ebtables");
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0", "one-1-1", "one-2-0"]);
    host
}

fn apply(host: &Host, xml: &str, flags: &[&str]) -> Ran {
    let args = [&["--backend", "ebtables", "apply", "--xml", "-"], flags].concat();
    host.macfence_reading(xml, args)
}

/// Returns the rules outside our chains, as ebtables saves them. Our chains appear under the name
/// of their work instead of its digest.
fn rules(host: &Host) -> Vec<String> {
    let named = |rule: &str| {
        let words = rule.split(' ').map(|word| match word.get(..9) {
            Some("macfence-") if rule.starts_with("-A PREROUTING") => "meddling",
            Some("macfence-") if word.len() == 25 => "foreign",
            _ => word,
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let saved = host.ok("ebtables-save", &[]);
    let rules = saved.lines().filter(|line| line.starts_with("-A"));
    let rules = rules.filter(|line| !line.starts_with("-A macfence-"));
    rules.map(named).collect()
}

/// Returns the number of our chains.
fn chains(host: &Host) -> usize {
    let saved = host.ok("ebtables-save", &[]);
    saved.matches("\n:macfence-").count()
}

/// Returns the rules of a guard without trusted senders.
fn guard_rules(mac: &str, net: &str, port: &str) -> [String; 4] {
    [
        format!("-A FORWARD -s ! {net}/ff:ff:ff:ff:ff:00 -o {port} -j foreign"),
        format!("-A INPUT -d 01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0 -i {port} -j DROP"),
        format!("-A PREROUTING -d Multicast -i {port} -j meddling"),
        format!("-A PREROUTING -s ! {mac} -i {port} -j DROP"),
    ]
}

fn seed_rules(mac: &str, net: &str, port: &str) -> [String; 2] {
    [
        format!("-A FORWARD -s ! {net}/ff:ff:ff:ff:ff:00 -o {port} -j DROP"),
        format!("-A FORWARD -s ! {mac} -i {port} -j DROP"),
    ]
}

fn sorted(mut rules: Vec<String>) -> Vec<String> {
    rules.sort();
    rules
}

#[test]
fn rules_are_added_once_even_next_to_the_seeds() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    apply(&host, &xml, &[]).ok();
    let expected = guard_rules(A, "02:00:c0:a8:00:00", "one-1-0");
    assert_eq!(sorted(rules(&host)), expected);
    let before = host.generation();
    apply(&host, &xml, &[]).ok();
    assert_eq!(host.generation(), before);
    // Rules of the seed: each twice, without padding, as the legacy ebtables lists them.
    for _ in 0..2 {
        for rule in [
            "-s ! 2:0:c0:a8:0:5 -i",
            "-s ! 2:0:c0:a8:0:0/ff:ff:ff:ff:ff:0 -o",
        ] {
            let rule = format!("-A FORWARD {rule} one-1-0 -j DROP");
            host.ok("ebtables", &rule.split(' ').collect::<Vec<_>>());
        }
    }
    assert_eq!(rules(&host).len(), 8);
    apply(&host, &xml, &[]).ok();
    assert_eq!(sorted(rules(&host)), expected);
}

#[test]
fn outdated_rules_are_replaced() {
    let host = host();
    apply(
        &host,
        &domain("one-1", &[(A, "one-1-0", "br0"), (B, "one-1-1", "br0")]),
        &[],
    )
    .ok();
    // The port now belongs to another VM.
    apply(
        &host,
        &domain("new", &[(B, "one-1-0", "br0")]),
        &["--prefix-len", "32"],
    )
    .ok();
    let mut expected = Vec::from(guard_rules(B, "02:00:c0:a8:01:00", "one-1-1"));
    let wide = guard_rules(B, "02:00:c0:a8:00:00", "one-1-0");
    expected.extend(wide.map(|rule| rule.replace("ff:ff:ff:ff:ff:00", "ff:ff:ff:ff:00:00")));
    assert_eq!(sorted(rules(&host)), sorted(expected));
}

#[test]
fn vms_share_a_chain_of_trusted_senders_that_goes_with_the_last_vm() {
    let host = host();
    let one = domain("one-1", &[(A, "one-1-0", "br0")]);
    let two = domain("one-2", &[(A, "one-2-0", "br0")]);
    let flags = [
        "--trusted",
        "0:16:3e:0:0:1",
        "--trusted",
        "52:54:0:0:0:0/24",
    ];
    apply(&host, &one, &flags).ok();
    apply(&host, &two, &flags).ok();
    let before = host.generation();
    apply(&host, &one, &flags).ok();
    assert_eq!(host.generation(), before);
    // One chain for control frames and queries, one for foreign frames, and five rules for each
    // port.
    assert_eq!(
        (chains(&host), rules(&host).len()),
        (2, 10),
        "{:?}",
        rules(&host)
    );
    // Another network with the same trusted senders: the chain is still in use and must not be
    // emptied.
    apply(&host, &domain("one-1", &[(B, "one-1-0", "br0")]), &flags).ok();
    assert_eq!(
        (chains(&host), rules(&host).len()),
        (2, 10),
        "{:?}",
        rules(&host)
    );
    apply(&host, &one, &[]).ok();
    assert_eq!(chains(&host), 3);
    apply(&host, &two, &[]).ok();
    assert_eq!(
        (chains(&host), rules(&host).len()),
        (2, 8),
        "{:?}",
        rules(&host)
    );
}

#[test]
fn a_trusted_chain_that_somebody_changed_is_not_used() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    apply(&host, &xml, &["--trusted", "0:16:3e:0:0:1"]).ok();
    let listed = host.ok("ebtables", &["-L"]);
    let chain = listed
        .split_whitespace()
        .find(|w| w.starts_with("macfence-"))
        .unwrap();
    let chain = chain.trim_end_matches(',').to_owned();
    host.ok("ebtables", &["-I", &chain, "-j", "RETURN"]);
    apply(&host, &xml, &["--trusted", "0:16:3e:0:0:1"]).ok();
    let listed = host.ok("ebtables", &["-L", "FORWARD"]);
    assert_eq!(listed.matches("-o one-1-0").count(), 2, "{listed}");
    assert!(!listed.contains(&format!("-j {chain} ")), "{listed}");
}

#[test]
fn only_our_own_rules_are_removed() {
    let host = host();
    let firewall = [
        "-A FORWARD -p ARP -i one-1-0 --arp-op Request -j ACCEPT",
        "-A FORWARD -s 02:00:c0:a8:00:05 -i one-1-0 -j ACCEPT",
        "-A FORWARD -s ! 02:00:c0:a8:00:05 -i one-1-0 -o one-2-0 -j DROP",
        "-A INPUT -s ! 02:00:c0:a8:00:05 -i one-1-0 -j DROP",
    ];
    let add = |rule: &str| drop(host.ok("ebtables", &rule.split(' ').collect::<Vec<_>>()));
    firewall.iter().for_each(|rule| add(rule));
    // Rules of the seed for VM 1, and ours for VM 2.
    seed_rules(A, "02:00:c0:a8:00:00", "one-1-0")
        .iter()
        .for_each(|rule| add(rule));
    apply(&host, &domain("one-2", &[(B, "one-2-0", "br0")]), &[]).ok();
    let all = rules(&host);
    host.macfence(["--backend", "ebtables", "flush"]).ok();
    assert_eq!(rules(&host), all);
    host.unplug("one-1-0");
    host.macfence(["--backend", "ebtables", "hook", "ebtables-flush"])
        .ok();
    let mut expected: Vec<_> = firewall.map(str::to_owned).into();
    expected.extend(guard_rules(B, "02:00:c0:a8:01:00", "one-2-0"));
    assert_eq!(sorted(rules(&host)), sorted(expected));
    host.unplug("one-2-0");
    host.macfence(["--backend", "ebtables", "flush"]).ok();
    assert_eq!(
        sorted(rules(&host)),
        sorted(firewall.map(str::to_owned).into())
    );
}

/// Replaces the rules of `FORWARD` with these, in this order.
fn given(host: &Host, given: &[&str]) {
    host.ok("ebtables", &["-F", "FORWARD"]);
    for rule in given {
        let words: Vec<_> = ["-A", "FORWARD"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        host.ok("ebtables", &words);
    }
}

/// Returns the rules of `FORWARD`, without the chain's name.
fn forward(host: &Host) -> Vec<String> {
    let ours = |rule: String| rule.strip_prefix("-A FORWARD ").map(str::to_owned);
    rules(host).into_iter().filter_map(ours).collect()
}

const TO: &str = "-s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o one-1-0 -j DROP";
const FROM: &str = "-s ! 02:00:c0:a8:00:05 -i one-1-0 -j DROP";
/// Replaces [`TO`]. The rule that replaces [`FROM`] is in another table.
const FOREIGN: &str = "-s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o one-1-0 -j foreign";

#[test]
fn the_right_rule_is_deleted() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    // ebtables ignores masks when it looks for a rule to delete.
    let wide = TO.replace("ff:ff:ff:ff:ff:00", "ff:ff:ff:ff:00:00");
    for rules in [[&*wide, TO, FROM], [TO, &*wide, FROM], [FROM, TO, &*wide]] {
        given(&host, &rules);
        apply(&host, &xml, &[]).ok();
        assert_eq!(forward(&host), [FOREIGN]);
    }
    // From one prefix length to another and back. The address stays the same.
    let wide = FOREIGN.replace("ff:ff:ff:ff:ff:00", "ff:ff:ff:ff:00:00");
    for (len, expected) in [("32", &*wide), ("40", FOREIGN), ("32", &*wide)] {
        apply(&host, &xml, &["--prefix-len", len]).ok();
        assert_eq!(forward(&host), [expected]);
    }
    // Rules after an ACCEPT have no effect, so the pair before it counts.
    given(&host, &[TO, FROM, "-j ACCEPT", TO, FROM]);
    apply(&host, &xml, &[]).ok();
    assert_eq!(forward(&host), [FOREIGN, "-j ACCEPT"]);
    // Somebody else's rule, which ebtables takes for ours.
    let gap = TO.replace("ff:ff:ff:ff:ff:00", "ff:ff:ff:ff:00:ff");
    given(&host, &[&gap, TO, FROM]);
    host.unplug("one-1-0");
    host.macfence(["--backend", "ebtables", "flush"]).ok();
    assert_eq!(forward(&host), [gap]);
}

#[test]
fn a_rule_that_replaces_another_takes_its_place() {
    let host = host();
    given(&host, &["-i eth0 -j ACCEPT", TO, FROM, "-j ACCEPT"]);
    apply(&host, &domain("new", &[(B, "one-1-0", "br0")]), &[]).ok();
    let new = FOREIGN.replace("a8:00:00", "a8:01:00");
    let expected = ["-i eth0 -j ACCEPT", &new, "-j ACCEPT"];
    assert_eq!(forward(&host), expected);
    // The same in another table.
    host.ok(
        "ebtables",
        &["-t", "nat", "-A", "PREROUTING", "-j", "ACCEPT"],
    );
    apply(&host, &domain("one-1", &[(A, "one-1-0", "br0")]), &[]).ok();
    let prerouting = rules(&host).into_iter();
    let prerouting: Vec<_> = prerouting.filter(|r| r.contains("PREROUTING")).collect();
    let own = guard_rules(A, "02:00:c0:a8:00:00", "one-1-0");
    assert_eq!(prerouting[..2], [own[3].clone(), own[2].clone()]);
    assert_eq!(prerouting[2..], ["-A PREROUTING -j ACCEPT"]);
}

#[test]
fn right_rules_behind_an_accept_do_not_replace_those_before_it() {
    let host = host();
    let old = |rule: &str| {
        rule.replace("00:05", "01:05")
            .replace("a8:00:00", "a8:01:00")
    };
    let (old_to, old_from) = (old(TO), old(FROM));
    given(&host, &[&old_to, &old_from, "-j ACCEPT", TO, FROM]);
    apply(&host, &domain("one-1", &[(A, "one-1-0", "br0")]), &[]).ok();
    assert_eq!(forward(&host), [FOREIGN, "-j ACCEPT"]);
}

#[test]
fn a_rule_that_also_logs_is_not_taken_for_ours() {
    let host = host();
    let words = [
        "-A",
        "FORWARD",
        "-s",
        "!",
        A,
        "-i",
        "one-1-0",
        "--log",
        "--log-prefix",
        "x",
        "-j",
        "DROP",
    ];
    host.ok("ebtables", &words);
    apply(&host, &domain("one-1", &[(A, "one-1-0", "br0")]), &[]).ok();
    host.unplug("one-1-0");
    host.macfence(["--backend", "ebtables", "flush"]).ok();
    let left = forward(&host);
    assert!(left.len() == 1 && left[0].contains("--log"), "{left:?}");
}

#[test]
fn a_host_without_ebtables_restore_is_fenced_too() {
    let host = host();
    // ebtables-restore and ebtables are links to one file. So remove only the link.
    let dir = tempfile::tempdir().unwrap();
    host.run(|| {
        let sbin = dir.path().join("sbin");
        std::fs::create_dir(&sbin).unwrap();
        for entry in std::fs::read_dir("/usr/sbin").unwrap().map(Result::unwrap) {
            if entry.file_name() != "ebtables-restore" {
                let real = std::fs::canonicalize(entry.path()).unwrap_or_default();
                let _ = std::os::unix::fs::symlink(real, sbin.join(entry.file_name()));
            }
        }
        // /sbin leads to the same directory.
        let none: Option<&str> = None;
        let copy = dir.path().join("real");
        std::fs::create_dir(&copy).unwrap();
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some("/usr/sbin"), &copy, none, flags, none).unwrap();
        for entry in std::fs::read_dir(&sbin).unwrap().map(Result::unwrap) {
            let real = std::fs::read_link(entry.path()).unwrap();
            if let Ok(file) = real.strip_prefix("/usr/sbin") {
                std::fs::remove_file(entry.path()).unwrap();
                std::os::unix::fs::symlink(copy.join(file), entry.path()).unwrap();
            }
        }
        nix::mount::mount(Some(&sbin), "/usr/sbin", none, flags, none).unwrap();
    });
    let nics = [
        (A, "one-1-0", "br0"),
        (B, "one-1-1", "br0"),
        ("2:0:0:0:0:1", "one-2-0", "br0"),
    ];
    apply(&host, &domain("one-1", &nics), &[]).ok();
    assert_eq!(rules(&host).len(), 3 * 4);
}

#[test]
fn rules_with_wildcards_and_chains_of_others_are_not_ours() {
    let host = host();
    host.ok("ebtables", &["-N", "macfence-log"]);
    let theirs = [
        "-s ! 02:00:c0:a8:00:05 -i vnet+ -j DROP",
        "-s ! 02:00:c0:a8:00:00/ff:ff:ff:ff:ff:00 -o vnet+ -j DROP",
        "-s ! 02:00:c0:a8:00:05 -i gone0 -j macfence-log",
    ];
    given(&host, &theirs);
    host.macfence(["--backend", "ebtables", "flush"]).ok();
    apply(&host, &domain("one-1", &[(A, "one-1-0", "br0")]), &[]).ok();
    host.unplug("one-1-0");
    host.macfence(["--backend", "ebtables", "flush"]).ok();
    assert_eq!(forward(&host), theirs);
    assert!(host.ok("ebtables", &["-L"]).contains("macfence-log"));
}

#[test]
fn a_chain_that_could_not_be_filled_is_filled_by_the_next_run() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "ebtables-restore", "exit 1");
    script(
        &dir,
        "ebtables",
        "case $* in *filter*-A*macfence-*) echo no >&2; exit 1;; esac; \
        exec /usr/sbin/ebtables \"$@\"",
    );
    for _ in 0..5 {
        let args = [
            "--backend",
            "ebtables",
            "apply",
            "--xml",
            "-",
            "--trusted",
            "0:16:3e:0:0:1",
        ];
        host.exec(macfence_with(&dir).args(args), &xml).error();
    }
    // One in each table. The second one has no rules.
    assert_eq!(chains(&host), 2);
    apply(&host, &xml, &["--trusted", "0:16:3e:0:0:1"]).ok();
    assert_eq!((chains(&host), rules(&host).len()), (2, 5));
}

#[test]
fn remove_keeps_rules_of_a_port_that_now_belongs_to_another_vm() {
    let host = host();
    let old = domain("old", &[(A, "one-1-0", "br0")]);
    apply(&host, &domain("new", &[(B, "one-1-0", "br0")]), &[]).ok();
    let dir = fake_virsh(&[
        ("old", &old),
        (
            "off",
            "<domain><name>off</name><devices>\
        <interface type='bridge'><mac address='2:0:0:0:0:1'/></interface></devices></domain>",
        ),
    ]);
    let remove = |vm: &str| {
        let mut command = macfence_with(&dir);
        host.exec(command.args(["--backend", "ebtables", "remove", vm]), "")
    };
    remove("old").ok();
    assert_eq!(rules(&host).len(), 4);
    assert!(remove("off").error().contains("run \"macfence flush\""));
}

#[test]
fn flush_removes_the_seeds_rules_from_a_host_that_uses_nft() {
    let host = host();
    given(&host, &[TO, FROM, "-p ARP -j ACCEPT"]);
    host.apply(&domain("one-2", &[(B, "one-2-0", "br0")])).ok();
    host.macfence(["flush"]).ok();
    assert_eq!(forward(&host).len(), 3);
    host.unplug("one-1-0");
    host.macfence(["hook", "ebtables-flush"]).ok();
    assert_eq!(forward(&host), ["-p ARP -j ACCEPT"]);
    assert_eq!(host.fenced(), ["one-2"]);
}

#[test]
fn list_and_remove_find_a_vms_rules_by_its_ports() {
    let host = host();
    let one = domain("one-1", &[(A, "one-1-0", "br0"), (B, "one-1-1", "br0")]);
    let two = domain("one-2", &[(A, "one-2-0", "br0")]);
    apply(&host, &one, &[]).ok();
    apply(&host, &two, &[]).ok();
    let dir = fake_virsh(&[("one-1", &one)]);
    let macfence = |args: &[&str]| {
        let mut command = macfence_with(&dir);
        host.exec(command.args(["--backend", "ebtables"]).args(args), "")
    };
    let list: serde_json::Value =
        serde_json::from_str(&macfence(&["list", "--json"]).ok()).unwrap();
    let vms: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| &vm["vm"])
        .collect();
    assert_eq!(vms, [&serde_json::Value::Null, &"one-1".into()]);
    assert_eq!(list[1]["nics"].as_array().unwrap().len(), 2);
    assert_eq!(list[1]["nics"][0]["dropped"]["spoofed"], 0);
    let error = macfence(&["remove", "one-2"]).error();
    assert!(
        error.contains("name no VM") && error.contains("run \"macfence flush\""),
        "{error}"
    );
    macfence(&["remove", "one-1"]).ok();
    assert_eq!(
        sorted(rules(&host)),
        guard_rules(A, "02:00:c0:a8:00:00", "one-2-0")
    );
}

#[test]
fn export_prints_the_calls() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    let args = [
        "--backend",
        "ebtables",
        "export",
        "--xml",
        "-",
        "--trusted",
        "0:16:3e:0:0:1",
    ];
    let calls = host.macfence_reading(&xml, args).ok();
    for call in calls.lines() {
        let words: Vec<_> = call.split(' ').collect();
        host.ok(words[0], &words[1..]);
    }
    let by_hand = rules(&host);
    assert_eq!(by_hand.len(), 5, "{by_hand:?}");
    let before = host.generation();
    apply(&host, &xml, &["--trusted", "0:16:3e:0:0:1"]).ok();
    assert_eq!(host.generation(), before);
}

#[test]
fn auto_uses_nft_if_it_works_and_ebtables_if_not() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    let ran = host.macfence_reading(&xml, ["-v", "apply", "--xml", "-"]);
    assert!(
        ran.stderr.contains("(nft)") && rules(&host).is_empty(),
        "{}",
        ran.stderr
    );
    host.ok("nft", &["flush", "ruleset"]);
    let dir = tempfile::tempdir().unwrap();
    let with_nft = |says: &str, args: &[&str]| {
        script(&dir, "nft", says);
        host.exec(macfence_with(&dir).args(args), &xml)
    };
    let apply = ["-v", "apply", "--xml", "-"];
    for says in [
        "echo 'JSON support not compiled-in' >&2; exit 1",
        "echo 'netlink: Error: cache initialization failed: Protocol not supported' >&2; exit 1",
    ] {
        let ran = with_nft(says, &apply);
        assert!(ran.stderr.contains("(ebtables)"), "{}", ran.stderr);
        ran.ok();
        assert_eq!(rules(&host).len(), 4);
        host.ok("nft", &["flush", "ruleset"]);
    }
    // If nft only fails at the moment, macfence must not change to ebtables: fences in nft are
    // still in force.
    for (says, words) in [
        ("kill -11 $$", "signal 11"),
        ("echo 'Operation not permitted' >&2; exit 1", "permitted"),
        (
            "echo 'Error: No buffer space available' >&2; exit 1",
            "buffer space",
        ),
        (
            "case $* in *-c*) exec /usr/sbin/nft \"$@\";; esac; echo no >&2; exit 1",
            "nft: no",
        ),
    ] {
        let error = with_nft(says, &["apply", "--xml", "-"]).error();
        assert!(error.contains(words), "{error}");
        assert!(rules(&host).is_empty());
    }
    host.hide("nft");
    let ran = host.macfence_reading(&xml, apply);
    assert!(ran.stderr.contains("(ebtables)"), "{}", ran.stderr);
    host.hide("ebtables");
    let error = host.apply(&xml).error();
    assert!(
        error.contains("nft was not found") && error.contains("ebtables was not found"),
        "{error}"
    );
}

#[test]
fn fences_of_the_other_firewall_are_reported() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    apply(&host, &xml, &[]).ok();
    let ran = host.macfence(["-v", "list"]);
    assert!(ran.stdout.contains("fenced by nft"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("ebtables") && ran.stderr.contains("macfence migrate"),
        "{}",
        ran.stderr
    );
    // On a terminal, apply says so too. Without one it does not, so it does not fill the logs of
    // hooks.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &xml).unwrap();
    let terminal = openpty(None, None).unwrap();
    host.run(|| {
        let mut by_hand = Command::new(MACFENCE);
        let by_hand = by_hand.args(["apply", "--xml"]).arg(file.path());
        let status = by_hand.stderr(terminal.slave).status().unwrap();
        assert!(status.success());
    });
    let mut said = [0; 4096];
    let len = nix::unistd::read(&terminal.master, &mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..len]);
    assert!(said.contains("ebtables fences 1 ports as well"), "{said}");
    host.macfence(["remove", "one-1"]).ok();
    assert_eq!(host.apply(&xml).stderr, "");
    let ran = host.macfence(["--backend", "ebtables", "list"]);
    assert!(ran.stderr.contains("macfence migrate"), "{}", ran.stderr);
}

#[test]
fn faults() {
    let host = host();
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    let dir = tempfile::tempdir().unwrap();
    let with = |says: &str| {
        script(&dir, "ebtables", says);
        let mut command = macfence_with(&dir);
        let command = command.args(["--backend", "ebtables", "apply", "--xml", "-"]);
        host.exec(command, &xml).error()
    };
    for (says, words) in [
        ("echo hello", "it has no chain"),
        ("true", "it has no chain"),
        ("echo no >&2; exit 255", "ebtables: no"),
        ("kill -9 $$", "signal 9"),
        ("sleep 1000", "did not end within 10 s and was killed"),
    ] {
        let error = with(says);
        assert!(error.contains(words), "{error}");
        assert!(rules(&host).is_empty());
    }
    // A rule is refused half way. The error says what is done and what is left, and another call
    // completes it.
    script(&dir, "ebtables-restore", "exit 1");
    let last =
        "case $* in *-A*-o*) echo no room >&2; exit 1;; esac; exec /usr/sbin/ebtables \"$@\"";
    let error = with(last);
    assert!(
        error.contains("1 of 13 changes are not made yet") && error.contains("-o one-1-0"),
        "{error}"
    );
    assert!(error.contains("ebtables: no room"), "{error}");
    assert_eq!(rules(&host).len(), 3);
    apply(&host, &xml, &[]).ok();
    assert_eq!(rules(&host).len(), 4);
    let odd = apply(&host, &domain("x", &[(A, "vnet+", "br0")]), &[]);
    assert!(odd.stderr.contains("on no Linux bridge"), "{}", odd.stderr);
    host.ports("br0", &["vnet+"]);
    let error = apply(&host, &domain("x", &[(A, "vnet+", "br0")]), &[]).error();
    assert!(
        error.contains("\"vnet+\"") && error.contains("misread"),
        "{error}"
    );
}

#[test]
fn many_rules_do_not_cost_a_process_each() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for program in ["ebtables", "ebtables-restore"] {
        let says = format!(
            "echo {program} >>{}; exec /usr/sbin/{program} \"$@\"",
            log.display()
        );
        script(&dir, program, &says);
    }
    let calls = |args: &[&str]| {
        let _ = std::fs::remove_file(&log);
        let mut command = macfence_with(&dir);
        host.exec(command.args(["--backend", "ebtables"]).args(args), "")
            .ok();
        std::fs::read_to_string(&log).unwrap().lines().count()
    };
    let mut apply = vec!["apply".to_owned()];
    for vm in 0..40 {
        let port = format!("x-{vm}-0");
        host.ports("br0", &[&port]);
        let file = dir.path().join(&port);
        let mac = format!("02:00:c0:a8:00:{vm:02x}");
        std::fs::write(&file, domain(&port, &[(&mac, &port, "br0")])).unwrap();
        apply.extend(["--xml".to_owned(), file.to_str().unwrap().to_owned()]);
    }
    let apply: Vec<_> = apply.iter().map(String::as_str).collect();
    assert_eq!(calls(&apply), 5, "version, two lists, two restores");
    assert_eq!(rules(&host).len(), 160);
    assert_eq!(calls(&apply), 3, "version, two lists");
    (0..40).for_each(|vm| host.unplug(&format!("x-{vm}-0")));
    let expected = "version, two lists for the ports, two lists, two restores";
    assert_eq!(calls(&["flush"]), 7, "{expected}");
    assert!(rules(&host).is_empty());

    // ebtables-restore before 2.0.11 would empty the table, so it is not used.
    script(
        &dir,
        "ebtables",
        &format!(
            "echo >>{}; case $1 in --version) echo 'ebtables v2.0.10-4 (December 2011)';; \
         *) exec /usr/sbin/ebtables \"$@\";; esac",
            log.display()
        ),
    );
    script(
        &dir,
        "ebtables-restore",
        "exec /usr/sbin/ebtables-restore </dev/null",
    );
    host.ok("ebtables", &["-A", "FORWARD", "-p", "ARP", "-j", "ACCEPT"]);
    (0..40).for_each(|vm| host.ports("br0", &[&format!("x-{vm}-0")]));
    let chains = (1 + 3) + (1 + 3);
    assert_eq!(calls(&apply), 3 + chains + 160);
    assert_eq!(rules(&host).len(), 161);
    assert_eq!(calls(&apply), 3);
}
