//! Pages that show the output of commands. The test runs the commands and compares.
//! `INSTA_UPDATE=always` writes a page anew.

use std::fs;
use std::path::Path;
use std::process::Command;

use macfence::mac::MacAddr;

use super::page;
use crate::explain::played;
use crate::lab::frame::{Kind, frame};
use crate::lab::libvirt::Libvirt;
use crate::lab::pages::blocks;
use crate::lab::{Host, MACFENCE, domain, fake_virsh, overlay, path_with, prepend, source};

/// Makes `/etc` writable in the mount namespace of the caller.
fn own_etc() {
    overlay("/etc");
    fs::copy(source("share/macfence.toml"), "/etc/macfence.toml").expect("macfence.toml");
}

#[test]
fn getting_started_leads_to_a_vm_that_is_fenced_and_hears_its_router() {
    let host = Host::new();
    host.run(own_etc);
    host.bridge("br0");
    host.ports("br0", &["vethweb"]);
    host.ip("addr add 192.168.0.2/24 dev br0\n\
         neigh add 192.168.0.1 lladdr 52:54:00:aa:bb:01 dev br0 nud reachable\n");
    let libvirt = Libvirt::start(&host);
    let interface = "<interface type='bridge'><mac address='02:00:c0:a8:00:05'/>\
        <source bridge='br0'/><model type='virtio'/><rom enabled='no'/></interface>";
    libvirt.create("web-1", interface);

    let text = page("docs/getting-started.md");
    let dir = tempfile::tempdir().unwrap();
    let (_, xml) = text.split_once("# cat web.xml\n").unwrap();
    let (xml, _) = xml.split_once("# ").unwrap();
    fs::write(dir.path().join("web.xml"), xml).unwrap();
    let path = path_with(Path::new(MACFENCE).parent().unwrap());
    let played = played("getting-started.md", |line| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]).current_dir(&dir);
        let ran = host.exec(shell.env("PATH", &path), "");
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{line}");
        // Some versions of ip end a line with a blank.
        let lines = ran.stdout.lines().map(str::trim_end);
        lines.map(|line| format!("{line}\n")).collect()
    });
    is_or_becomes("docs/getting-started.md", &text, &played);
}

#[test]
fn the_five_commands_of_the_readme_lead_from_nothing_to_fenced_vms() {
    const MACS: [&str; 2] = ["02:00:c0:a8:00:05", "02:00:c0:a8:01:07"];
    const PORTS: [&str; 2] = ["one-42-0", "one-43-0"];
    let host = Host::new();
    host.run(own_etc);
    host.bridge("br0");
    let taps = PORTS.map(|port| host.tap("br0", port));
    host.ip("addr add 192.168.0.2/24 dev br0\n\
         neigh add 192.168.0.1 lladdr 00:16:3e:00:00:01 dev br0 nud reachable\n");
    let virsh = fake_virsh(&[
        ("one-42", &domain("one-42", &[(MACS[0], PORTS[0], "br0")])),
        ("one-43", &domain("one-43", &[(MACS[1], PORTS[1], "br0")])),
    ]);
    let path = prepend(Path::new(MACFENCE).parent().unwrap(), &path_with(&virsh));
    // Two networks go on to talk, each to all, until the reader looks at the list.
    let talk = |from: usize, frames: u32| {
        let src: MacAddr = MACS[from].parse().unwrap();
        let all = "ff:ff:ff:ff:ff:ff".parse().unwrap();
        for number in 0..frames {
            taps[from].send(&frame(Kind::Ipv4, src, all, number));
        }
    };
    let played = played("README.md", |line| {
        if line == "macfence list" {
            talk(1, 112);
            talk(0, 97);
        }
        let mut shell = Command::new("/bin/sh");
        let ran = host.exec(shell.args(["-c", line]).env("PATH", &path), "");
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{line}");
        let lines = ran.stdout.lines().map(str::trim_end);
        lines.map(|line| format!("{line}\n")).collect()
    });
    is_or_becomes("README.md", &page("README.md"), &played);
}

/// Compares a page with the desired text. Under `INSTA_UPDATE=always` it writes the page instead.
pub fn is_or_becomes(name: &str, text: &str, desired: &str) {
    if std::env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
        fs::write(source(name), desired).unwrap();
    } else {
        assert_eq!(text, desired, "{name}");
    }
}

/// Returns the code block of a page that starts with these words.
fn block(page: &str, first: &str) -> String {
    let mut blocks = blocks(page).into_iter().map(|block| block.text);
    blocks.find(|text| text.starts_with(first)).expect(first)
}

/// Returns a listing without the sets and chains that note whose frames were dropped.
fn without_notes(listed: &str) -> String {
    let (table, rest) = listed.split_once('\n').unwrap();
    let objects = rest.strip_suffix("}\n").unwrap().split("\n\n");
    let objects = objects.map(str::trim_end);
    let kept: Vec<_> = objects
        .filter(|object| !object.starts_with("\tset ") && !object.starts_with("\tchain dropped-"))
        .collect();
    format!("{table}\n{}\n}}\n", kept.join("\n\n"))
}

#[test]
fn how_it_works_shows_the_rules_that_are_in_the_kernel() {
    let page = "how-it-works.md";
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["vnet0"]);
    let xml = domain("web", &[("02:00:c0:a8:00:05", "vnet0", "br0")]);
    let trusting = ["--trusted", "52:54:00:aa:bb:01", "apply", "--xml", "-"];
    host.macfence_reading(&xml, trusting).quiet();
    let listed = host.ok("nft", &["list", "ruleset"]);
    let listed = listed.replace(" packets 0 bytes 0", "");
    assert_eq!(block(page, "table bridge"), without_notes(&listed));

    let export = ["--backend", "ebtables", "export", "--xml", "-"];
    let calls = host.macfence_reading(&xml, export).ok();
    // Ignore digests in the names of chains, and the alignment of columns.
    let plain = |line: &str| {
        let words = line.split_whitespace().map(|word| {
            let is_chain = word.starts_with("macfence-");
            if is_chain { "macfence-…" } else { word }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let of_the_port = calls.lines().filter(|line| line.contains(" vnet0 "));
    let calls: Vec<_> = of_the_port
        .filter_map(|line| line.strip_prefix("ebtables "))
        .map(plain)
        .collect();
    let shown: Vec<_> = block(page, "-t nat").lines().map(plain).collect();
    assert_eq!(shown, calls);
}
