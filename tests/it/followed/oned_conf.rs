//! `docs/oned-conf.md`, on KVM. For Xen: [`crate::xen`].

use std::fs;
use std::os::unix::fs::{chown, symlink};

use super::{Cloud, is_fenced, printed};
use crate::explain::played;
use crate::lab::pages::commands;
use crate::lab::{PROGRAM, overlay, script, tmpfs};
use crate::pages::{is_or_becomes, page};

const PAGE: &str = "docs/oned-conf.md";
/// Where OpenNebula 2.0 had its scripts.
const SCRIPTS: &str = "/srv/cloud/one/share/hooks";
const NAMES: [&str; 3] = ["ebtables-kvm", "ebtables-xen", "ebtables-flush"];

/// Installs the links and the scripts of OpenNebula 2.0.
fn install(cloud: &Cloud) {
    cloud.host.run(|| {
        overlay("/usr/share");
        let links = "/usr/share/macfence/hooks";
        fs::create_dir_all(links).unwrap();
        tmpfs("/srv");
        fs::create_dir_all(SCRIPTS).unwrap();
        for name in NAMES {
            symlink(PROGRAM, format!("{links}/{name}")).unwrap();
            script(SCRIPTS, name, "echo the old script; exit 1");
        }
        chown(SCRIPTS, Some(9869), Some(9869)).unwrap();
    });
}

#[test]
fn the_page_of_an_old_oned_conf_leads_to_fenced_vms_and_back() {
    let cloud = Cloud::new(false);
    let host = &cloud.host;
    super::drivers::prepare_host(&cloud);
    cloud.runs_only("one-42");
    install(&cloud);
    let vm = host.tap("br0", "one-42-0");
    let uplink = host.tap("br0", "eth0");
    for link in commands("oned-conf.md", "On each host") {
        cloud.oneadmin(host, &link);
    }
    // What the oned.conf of that time calls.
    cloud.oneadmin(host, &format!("{SCRIPTS}/ebtables-kvm one-42"));
    is_fenced(&vm, &uplink);
    host.ok("nft", &["flush", "ruleset"]);

    let see = commands("oned-conf.md", "How to see that it works");
    let [fence, list] = &see[..] else {
        panic!("{see:?}");
    };
    cloud.oneadmin(host, fence);
    let shown = played("oned-conf.md", |line| {
        assert_eq!(format!("{line}\n"), *list);
        printed(host, line)
    });
    is_or_becomes(PAGE, &page(PAGE), &shown);
    is_fenced(&vm, &uplink);
    drop(vm);
    cloud.oneadmin(host, &format!("{SCRIPTS}/ebtables-flush"));
    assert!(host.fenced().is_empty());
    for undo in commands("oned-conf.md", "How to undo it") {
        cloud.root(host, &undo);
    }
    assert_eq!(host.ruleset(), "");
}
