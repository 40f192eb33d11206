//! `docs/opennebula-state-hooks.md`.

use std::fs;
use std::io::Write;

use super::{Cloud, FRONT_END, is_fenced, printed};
use crate::explain::played;
use crate::install_hook::tree;
use crate::lab::oneadmin::{Oneadmin, REMOTES};
use crate::lab::pages::commands;
use crate::pages::{is_or_becomes, page};

const PAGE: &str = "docs/opennebula-state-hooks.md";

/// Runs the hooks for a state of VM 42, as OpenNebula does. Returns their names.
fn reached(cloud: &Cloud, state: &[(&str, &str)]) -> Vec<String> {
    let mut names = Vec::new();
    let at = |folder: &str| cloud.dir.path().join(folder);
    for hook in fs::read_dir(at("hooks")).unwrap() {
        let text = fs::read_to_string(hook.unwrap().path()).unwrap();
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(name, _)| name.trim() == key);
            found.map_or("", |(_, value)| value.trim().trim_matches('"'))
        };
        if !state.iter().all(|(key, wanted)| value(key) == *wanted) {
            continue;
        }
        let kind = ["TYPE", "RESOURCE", "REMOTE"].map(value);
        assert_eq!(kind, ["state", "VM", "YES"], "{text}");
        let stdin = match (value("ARGUMENTS"), value("ARGUMENTS_STDIN")) {
            ("$TEMPLATE", "YES") => cloud.template(),
            ("", "") => String::new(),
            other => panic!("{other:?}"),
        };
        let command = format!("{REMOTES}/hooks/{}", value("COMMAND"));
        let ran = Oneadmin::known(&cloud.host).run(&command, &stdin);
        let runs = at("runs").join(value("NAME"));
        let mut runs = fs::File::options()
            .create(true)
            .append(true)
            .open(runs)
            .unwrap();
        writeln!(runs, "{} {}{}", ran.status, ran.stdout, ran.stderr).unwrap();
        ran.quiet();
        names.push(value("NAME").to_owned());
    }
    names
}

#[test]
fn the_page_of_the_state_hooks_leads_to_fenced_vms_and_back() {
    for has_macfence in [true, false] {
        follow(&Cloud::new(has_macfence), has_macfence);
    }
}

fn follow(cloud: &Cloud, has_macfence: bool) {
    let (front, host) = (&cloud.front, &cloud.host);
    let before = (tree(front, FRONT_END), tree(host, REMOTES));
    super::drivers::prepare_host(cloud);
    cloud.runs_only("one-42");
    let install = commands("opennebula-state-hooks.md", "On the front-end");
    let [as_root, create, by_hand] = &install[..] else {
        panic!("{install:?}");
    };
    if has_macfence {
        cloud.root(front, as_root);
        cloud.oneadmin(front, create);
    } else {
        cloud.oneadmin(front, by_hand);
    }
    let hooks = || {
        fs::read_dir(cloud.dir.path().join("hooks"))
            .unwrap()
            .count()
    };
    assert_eq!(hooks(), 3);

    let vm = host.tap("br0", "one-42-0");
    let uplink = host.tap("br0", "eth0");
    // The NIC is being attached, then the VM runs again.
    let attaching = [
        ("ON", "CUSTOM"),
        ("STATE", "ACTIVE"),
        ("LCM_STATE", "HOTPLUG_NIC"),
    ];
    assert_eq!(reached(cloud, &attaching), ["macfence-hotplug-nic"]);
    assert_eq!(host.fenced(), ["one-42"]);
    host.ok("nft", &["flush", "ruleset"]);
    assert_eq!(reached(cloud, &[("ON", "RUNNING")]), ["macfence-running"]);
    let see = commands("opennebula-state-hooks.md", "How to see that it works");
    let [show, list] = &see[..] else {
        panic!("{see:?}");
    };
    let said = cloud.oneadmin(front, show);
    assert_eq!(cloud.resumed(), "42\n");
    assert!(said.ends_with("\n0 \n"), "{said}");
    let shown = played("opennebula-state-hooks.md", |line| {
        assert_eq!(format!("{line}\n"), *list);
        printed(host, line)
    });
    is_or_becomes(PAGE, &page(PAGE), &shown);
    is_fenced(&vm, &uplink);
    drop(vm);
    assert_eq!(reached(cloud, &[("ON", "SHUTDOWN")]), ["macfence-shutdown"]);
    assert!(host.fenced().is_empty());

    let undo = commands("opennebula-state-hooks.md", "How to undo it");
    let [on_front_end, on_hosts] = &undo[..] else {
        panic!("{undo:?}");
    };
    cloud.oneadmin(front, on_front_end);
    cloud.root(host, on_hosts);
    assert_eq!((tree(front, FRONT_END), tree(host, REMOTES)), before);
    assert_eq!((host.ruleset(), hooks()), (String::new(), 0));
}
