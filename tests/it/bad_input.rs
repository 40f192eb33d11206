//! For every kind of wrong input there is one line that names it, exit status 1, and an unchanged
//! kernel.

mod too_much;

use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::lab::{Host, IS_LOADING, MACFENCE, Ran, domain, for_everybody, macfence_with, script};

const A: &str = "02:00:c0:a8:00:05";

/// A host with a fenced VM, and a port without a fence.
fn host() -> Host {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0", "vnet0"]);
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    host
}

/// Checks that a call fails with these words and changes nothing.
fn refused(host: &Host, words: &[&str], act: impl FnOnce(&Host) -> Ran) {
    let before = (host.generation(), host.ruleset());
    let error = act(host).error();
    assert!(
        words.iter().all(|w| error.contains(w)),
        "{words:?}: {error}"
    );
    assert!(error.len() < 600, "{error}");
    assert_eq!((host.generation(), host.ruleset()), before);
}

/// Like [`refused`], for a host without nft, whose ruleset cannot be listed.
fn refused_blind(host: &Host, words: &[&str], act: impl FnOnce(&Host) -> Ran) {
    let before = host.generation();
    let error = act(host).error();
    assert!(
        words.iter().all(|w| error.contains(w)),
        "{words:?}: {error}"
    );
    assert_eq!(host.generation(), before);
}

/// Runs macfence with these programs first in its `PATH`.
fn with(host: &Host, programs: &[(&str, &str)], args: &[&str], stdin: &str) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in programs {
        script(&dir, name, text);
    }
    host.exec(macfence_with(&dir).args(args), stdin)
}

const APPLY: [&str; 3] = ["apply", "--xml", "-"];

#[test]
fn xml_that_is_no_domain() {
    let host = host();
    let nested = "<!DOCTYPE d [<!ENTITY a 'x'><!ENTITY b '&a;&a;&a;&a;'>]>\
                  <domain><name>&b;</name></domain>";
    let deep = "<a>".repeat(200_000);
    let whole = domain("a", &[(A, "vnet0", "br0")]);
    for (xml, words) in [
        ("", "not domain XML"),
        ("hello", "not domain XML"),
        ("{}", "not domain XML"),
        (&whole[..whole.len() / 2], "not domain XML"),
        ("<network><name>x</name></network>", "its root is <network>"),
        ("<domain><devices/></domain>", "no <name>"),
        ("<domain><name/></domain>", "no <name>"),
        (nested, "DTD"),
        (&deep, "more than 256 levels of elements"),
        ("<domain><name>\u{0}</name></domain>", "not domain XML"),
    ] {
        refused(&host, &["standard input", words], |host| host.apply(xml));
    }
}

#[test]
fn xml_without_end() {
    let host = host();
    let huge = format!(
        "<domain><name>a</name><!--{}--></domain>",
        "x".repeat(100 << 20)
    );
    refused(&host, &["standard input", "longer than 4 MiB"], |host| {
        host.apply(&huge)
    });
    refused(&host, &["/dev/zero", "longer than 4 MiB"], |host| {
        host.macfence(["apply", "--xml", "/dev/zero"])
    });
}

#[test]
fn files_that_cannot_be_read() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("latin1");
    std::fs::write(&text, b"<domain><name>\xe4</name></domain>").unwrap();
    for (file, words) in [
        ("/nonexistent", "No such file"),
        ("/", "directory"),
        (text.to_str().unwrap(), "UTF-8"),
    ] {
        refused(&host, &[file, words], |host| {
            host.macfence(["apply", "--xml", file])
        });
    }
    refused(&host, &["only once"], |host| {
        host.macfence(["apply", "--xml", "-", "--xml", "-"])
    });
}

#[test]
fn addresses_that_no_nic_can_have() {
    let host = host();
    for (mac, words) in [
        ("", "\"\" is not a MAC address"),
        ("x", "\"x\" is not a MAC address"),
        ("02:00:c0:a8:00", "\"02:00:c0:a8:00\" is not"),
        ("02:00:c0:a8:00:05:06", "\"02:00:c0:a8:00:05:06\" is not"),
        ("02-00-c0-a8-00-05", "\"02-00-c0-a8-00-05\" is not"),
        ("02:00:c0:a8:00:0g", "\"02:00:c0:a8:00:0g\" is not"),
        (
            "01:00:5e:00:00:01",
            "\"vnet0\" has the multicast address 01:00:5e:00:00:01",
        ),
        (
            "ff:ff:ff:ff:ff:ff",
            "\"vnet0\" has the multicast address ff:ff:ff:ff:ff:ff",
        ),
        ("0:0:0:0:0:0", "\"vnet0\" has the all-zero MAC address"),
    ] {
        let xml = domain("a", &[(mac, "vnet0", "br0")]);
        refused(&host, &["VM \"a\"", words], |host| host.apply(&xml));
    }
}

#[test]
fn port_names_that_nft_or_linux_would_misread() {
    let host = host();
    for (port, shown) in [
        ("vnet*", "\"vnet*\""),
        ("a/b", "\"a/b\""),
        ("&quot;x", r#""\"x""#),
        ("a\\b", r#""a\\b""#),
        ("a&#10;b", r#""a\nb""#),
        ("a b", "\"a b\""),
        ("@ports", "\"@ports\""),
        ("sixteen-bytes-xx", "\"sixteen-bytes-xx\""),
        ("", "empty"),
        ("..", "\"..\""),
    ] {
        let xml = domain("a", &[(A, port, "br0")]);
        refused(&host, &["VM \"a\"", shown], |host| host.apply(&xml));
    }
}

#[test]
fn names_that_are_too_long_for_the_kernel() {
    let host = host();
    let long = "日".repeat(84);
    let xml = domain(&long, &[(A, "vnet0", "br0")]);
    refused(&host, &["too long", "255"], |host| host.apply(&xml));
    refused(&host, &["too long"], |host| {
        host.macfence(["remove", &long])
    });
}

#[test]
fn only_the_beginning_of_a_very_long_value_is_quoted() {
    let host = host();
    let long = "x".repeat(3 << 20);
    let beginning = format!("\"{}\"...", "x".repeat(100));
    for (name, mac, port, words) in [
        (&*long, A, "vnet0", "is longer than 255 bytes"),
        ("a", A, &*long, "is longer than 15 bytes"),
        ("a", &*long, "vnet0", "is not a MAC address"),
    ] {
        let xml = domain(name, &[(mac, port, "br0")]);
        refused(&host, &[&beginning, words], |host| host.apply(&xml));
    }
    let nic = format!("<NIC><NIC_ID>{long}</NIC_ID><MAC>{long}</MAC></NIC>");
    let template = format!("<VM><ID>1</ID><TEMPLATE>{nic}</TEMPLATE></VM>");
    refused(&host, &["NIC xxx", &beginning], |host| {
        one_post(host, &template)
    });
    let deploy_id = format!("<VM><ID>1</ID><DEPLOY_ID>{long}</DEPLOY_ID></VM>");
    refused(&host, &[&beginning, "255 bytes"], |host| {
        one_post(host, &deploy_id)
    });
}

fn one_post(host: &Host, template: &str) -> Ran {
    let template = BASE64_STANDARD.encode(template);
    host.macfence_reading(&template, ["hook", "one-post"])
}

#[test]
fn one_bad_vm_fails_the_whole_call() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("good");
    std::fs::write(&file, domain("good", &[(A, "vnet0", "br0")])).unwrap();
    let good = file.to_str().unwrap();
    for (bad, words) in [
        (domain("bad", &[("x", "vnet1", "br0")]), "\"x\""),
        (domain("bad", &[(A, "vnet0", "br0")]), "claimed twice"),
        (domain("good", &[]), "described twice"),
    ] {
        refused(&host, &[words], |host| {
            host.macfence_reading(&bad, ["apply", "--xml", good, "--xml", "-"])
        });
    }
}

#[test]
fn a_configuration_without_end() {
    let host = Host::new();
    let error = host.macfence(["--config", "/dev/zero", "list"]).error();
    assert!(
        error.contains("/dev/zero is longer than 1024 KiB"),
        "{error}"
    );
}

#[test]
fn a_misspelt_configuration() {
    let host = host();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (text, words) in [
        ("prefix-length = 32", "`prefix-length`"),
        ("bridges = 'br0'", "line 1"),
        ("prefix-len = 64", "from 8 to 48, not 64"),
        ("trusted = ['router']", "\"router\""),
        ("bridges = ['']", "empty"),
        ("= =", "line 1"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let xml = domain("a", &[(A, "vnet0", "br0")]);
        refused(&host, &[words], |host| {
            host.macfence_reading(&xml, ["--config", path, "apply", "--xml", "-"])
        });
    }
    refused(&host, &["/nonexistent", "No such file"], |host| {
        host.macfence(["--config", "/nonexistent", "flush"])
    });
}

#[test]
fn no_virsh() {
    let host = host();
    host.hide("virsh");
    refused(&host, &["virsh was not found"], |host| {
        host.macfence(["apply", "one-1"])
    });
}

#[test]
fn no_nft() {
    let host = host();
    host.hide("nft");
    host.hide("ebtables");
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    for args in [&APPLY[..], &["remove", "one-1"], &["flush"], &["list"]] {
        refused_blind(&host, &["nft was not found"], |host| {
            host.macfence_reading(&xml, args)
        });
    }
}

#[test]
fn no_rights() {
    let host = host();
    let program = for_everybody();
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    let as_nobody = |host: &Host, args: &[&str]| host.as_nobody(&program, args, &xml);
    let libvirt = ["hook", "libvirt", "a", "start", "begin", "-"];
    for args in [
        &APPLY[..],
        &["remove", "one-1"],
        &["flush"],
        &["sync"],
        &["watch"],
        &["list"],
        &["metrics"],
        &["migrate", "--dry-run"],
        &libvirt,
    ] {
        let words = [
            "only root can read and change firewall rules",
            "run as root",
        ];
        refused(&host, &words, |host| as_nobody(host, args));
    }
    assert_eq!(as_nobody(&host, &["check"]).status, 2);
}

#[test]
fn no_sys() {
    let host = host();
    host.run(|| nix::mount::umount2("/sys", nix::mount::MntFlags::MNT_DETACH).unwrap());
    host.run(|| {
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), "/sys", Some("tmpfs"), flags, none).unwrap();
    });
    refused(&host, &["/sys/class/net"], |host| {
        host.apply(&domain("a", &[(A, "vnet0", "br0")]))
    });
    refused(&host, &["/sys/class/net"], |host| host.macfence(["flush"]));
}

/// Runs macfence with a program that hangs and has a child that hangs. Checks that both get killed.
fn killed(name: &str, args: &[&str], stdin: &str) {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    // Both ignore SIGTERM.
    let hang = "trap '' TERM; sleep 1000 & echo $$ $! >$0.pids; wait; sleep 1000";
    script(&dir, name, hang);
    let words = format!("{name} did not end within 10 s and was killed");
    refused(&host, &[&words], |host| {
        host.exec(macfence_with(&dir).args(args), stdin)
    });
    let pids = std::fs::read_to_string(dir.path().join(format!("{name}.pids"))).unwrap();
    for pid in pids.split_whitespace() {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z "),
            "{pid} is alive: {state}"
        );
    }
    assert_eq!(pids.split_whitespace().count(), 2);
}

#[test]
fn an_nft_that_hangs_is_killed() {
    killed("nft", &APPLY, &domain("a", &[(A, "vnet0", "br0")]));
}

#[test]
fn a_virsh_that_hangs_is_killed() {
    killed("virsh", &["apply", "a"], "");
}

#[test]
fn programs_are_not_looked_for_in_the_working_directory() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    script(&dir, "nft", "echo EVIL >&2; exit 1");
    for path in ["", ":", ".", "./", "::/usr/bin"] {
        let mut list = Command::new(MACFENCE);
        let list = list.arg("list").current_dir(dir.path()).env("PATH", path);
        assert!(host.exec(list, "").ok().contains("one-1-0"), "{path:?}");
    }
}

#[test]
fn a_virsh_that_prints_nonsense() {
    let host = host();
    for (script, words) in [
        (
            "echo error: no connection >&2; exit 1",
            "virsh: no connection",
        ),
        ("exit 3", "virsh failed without a message (exit code 3)"),
        ("true", "virsh"),
        ("echo hello", "virsh"),
        ("echo '<domain><name>a</name>'", "not domain XML"),
        ("echo '<network><name>a</name></network>'", "<network>"),
        (
            "echo '<domain><name>b</name></domain>'",
            "none of this name",
        ),
        ("printf '\\377'", "virsh printed text that is not UTF-8"),
    ] {
        refused(&host, &[words], |host| {
            with(host, &[("virsh", script)], &["apply", "a"], "")
        });
    }
}

#[test]
fn an_nft_that_prints_nonsense() {
    let host = host();
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    let all = [&APPLY[..], &["remove", "one-1"], &["flush"], &["list"]];
    let chain = r#"for _ in 1 2; do echo '{"nftables": [{"chain": 7}]}'; done"#;
    let map = r#"for _ in 1 2; do echo '{"nftables": [{"map": {"name": "ports"}}]}'; done"#;
    for (script, commands, words) in [
        (
            "exit 1",
            &all[..],
            "nft failed without a message (exit code 1)",
        ),
        ("echo hello", &all, "unknown listing"),
        ("echo Error: no way >&2; exit 1", &all, "nft: no way"),
        ("kill -9 $$", &all, "signal 9"),
        (
            "true",
            &all[..2],
            "nft failed without a message (exit code 0)",
        ),
        (chain, &[all[0], all[1], all[3]], "unknown chain"),
        (map, &all, "unknown map"),
    ] {
        for args in commands {
            let args = [&["--backend", "nft"], *args].concat();
            refused(&host, &[words], |host| {
                with(host, &[("nft", script)], &args, &xml)
            });
        }
    }
}

#[test]
fn a_transaction_that_nft_refuses_is_refused_as_a_whole() {
    let host = host();
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    // An nft that lists, and refuses to load.
    let script = &*format!(
        "{IS_LOADING} || exec /usr/sbin/nft \"$@\"; \
         echo 'Error: Could not process rule: Operation not supported' >&2; exit 1"
    );
    refused(&host, &["Operation not supported"], |host| {
        with(host, &[("nft", script)], &APPLY, &xml)
    });
    let remove = ["remove", "one-1"];
    refused(&host, &["Operation not supported"], |host| {
        with(host, &[("nft", script)], &remove, "")
    });

    // The kernel refuses: somebody's table has our name and a map of another type.
    let taken = Host::new();
    taken.bridge("br0");
    taken.ports("br0", &["vnet0"]);
    taken.ok(
        "nft",
        &["table bridge macfence { map ports { type ether_addr : verdict; }; }"],
    );
    refused(&taken, &["nft: "], |host| host.apply(&xml));
}
