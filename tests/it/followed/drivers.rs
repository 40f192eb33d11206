//! `docs/opennebula-drivers.md`.

use std::fs;

use super::{Cloud, FRONT_END, is_fenced, printed};
use crate::explain::played;
use crate::install_hook::tree;
use crate::lab::oneadmin::{Oneadmin, REMOTES};
use crate::lab::pages::{blocks, commands};
use crate::pages::{is_or_becomes, page};

const PAGE: &str = "opennebula-drivers.md";

/// Does what the page says for hosts.
pub fn prepare_host(cloud: &Cloud) {
    let mut examples = blocks(PAGE).into_iter();
    let config = examples.find(|block| block.language == "toml").unwrap();
    assert_eq!(config.heading, "On each host");
    let host = &cloud.host;
    host.run(|| fs::write("/etc/macfence.toml", &config.text).unwrap());
    let said = cloud.root(host, &commands("opennebula-drivers.md", "On each host")[0]);
    assert!(said.contains("libexec/macfence/driver-post"), "{said}");
}

/// Does what the page says for the front-end.
pub fn prepare_front_end(cloud: &Cloud, has_macfence: bool) {
    let install = commands("opennebula-drivers.md", "On the front-end");
    let [as_root, sync, by_hand] = &install[..] else {
        panic!("{install:?}");
    };
    if has_macfence {
        let said = cloud.root(&cloud.front, as_root);
        assert!(said.contains(sync), "{said}");
        cloud.oneadmin(&cloud.front, sync);
    } else {
        cloud.oneadmin(&cloud.front, by_hand);
    }
}

#[test]
fn the_page_of_the_drivers_leads_to_fenced_vms_and_back() {
    for has_macfence in [true, false] {
        follow(&Cloud::new(has_macfence), has_macfence);
    }
}

fn follow(cloud: &Cloud, has_macfence: bool) {
    let (front, host) = (&cloud.front, &cloud.host);
    let before = (tree(front, FRONT_END), tree(host, REMOTES));
    prepare_host(cloud);
    prepare_front_end(cloud, has_macfence);

    let see = commands("opennebula-drivers.md", "How to see that it works");
    let [resume, list, fence_others] = &see[..] else {
        panic!("{see:?}");
    };
    cloud.oneadmin(front, resume);
    assert_eq!(cloud.resumed(), "42\n");
    let taps = ["one-42-0", "one-43-0", "eth0"].map(|port| host.tap("br0", port));
    let one = Oneadmin::known(host);
    let driver = |words: &str| one.driver("bridge", words, &cloud.template());
    driver("post one-42 host1").ok();
    let text = page(&format!("docs/{PAGE}"));
    let shown = played("opennebula-drivers.md", |line| {
        assert_eq!(format!("{line}\n"), *list);
        printed(host, line)
    });
    is_or_becomes(&format!("docs/{PAGE}"), &text, &shown);
    is_fenced(&taps[0], &taps[2]);
    let said = cloud.root(host, fence_others);
    assert_eq!(said, "fenced one-43: port \"one-43-0\"\n");

    let undo = commands("opennebula-drivers.md", "How to undo it");
    let [as_root, by_hand, on_hosts] = &undo[..] else {
        panic!("{undo:?}");
    };
    if has_macfence {
        cloud.root(front, as_root);
    } else {
        cloud.oneadmin(front, by_hand);
        // It leaves these two empty.
        let emptied = ["post.d", "clean.d"].map(|dir| format!("{FRONT_END}/vnm/bridge/{dir}"));
        front.ok("rmdir", &emptied.each_ref().map(|dir| &**dir));
    }
    cloud.root(host, on_hosts);
    assert_eq!((tree(front, FRONT_END), tree(host, REMOTES)), before);
    assert_eq!(host.ruleset(), "");
    driver("post one-42 host1").ok();
    assert_eq!(host.ruleset(), "");
}
