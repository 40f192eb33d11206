//! `docs/configuration.md`: each example, and what the page says to do after a change.

use std::fs;

use super::{Cloud, as_root};
use crate::lab::pages::{blocks, commands};

/// The VMs in lines of `check` or `sync`.
fn vms(said: &str) -> Vec<String> {
    let words = said.split([' ', ':', '\n']);
    let mut vms: Vec<_> = words.filter(|word| word.starts_with("one-4")).collect();
    vms.sort_unstable();
    vms.dedup();
    vms.retain(|name| name.len() == "one-42".len());
    vms.into_iter().map(str::to_owned).collect()
}

#[test]
fn after_each_example_check_names_the_vms_that_sync_then_changes() {
    let cloud = Cloud::new(false);
    let host = &cloud.host;
    host.ip("link add br1 type bridge\nlink set br1 up\n");
    host.ports("br0", &["one-42-0", "one-43-0", "vpn0"]);
    host.macfence(["sync"]).ok();
    let page = commands("configuration.md", "Configuration").concat();
    let [check, sync] = page.lines().collect::<Vec<_>>()[..] else {
        panic!("{page}");
    };
    let mut changes = 0;
    let blocks = blocks("configuration.md").into_iter();
    for example in blocks.filter(|block| block.language == "toml") {
        let shown = format!("{}:\n{}", example.heading, example.text);
        host.run(|| fs::write("/etc/macfence.toml", &example.text).unwrap());
        let found = as_root(host, check);
        let synced = as_root(host, sync);
        let differ = vms(&found.stdout);
        assert_eq!(
            found.status,
            i32::from(!differ.is_empty()),
            "{shown}{found:?}"
        );
        assert_eq!(vms(&synced.stdout), differ, "{shown}{found:?}{synced:?}");
        assert_eq!((synced.status, &*synced.stderr), (0, ""), "{shown}");
        as_root(host, check).quiet();
        changes += differ.len();
    }
    // Most examples change a fence.
    assert!(changes > 20, "{changes}");
}
