//! `docs/migrating.md`.

use std::fs;

use super::{Cloud, NEIGHBOUR, ROUTER, STRANGER, VM, is_fenced, is_heard};
use crate::lab::oneadmin::Oneadmin;
use crate::lab::pages::commands;
use crate::lab::{Host, Tap};

/// Adds a rule as OpenNebula's driver and scripts did: in FORWARD, and with DROP.
fn rule(host: &Host, words: &str) {
    let words = format!("-A FORWARD {words} -j DROP");
    host.ok("ebtables", &words.split(' ').collect::<Vec<_>>());
}

/// The ports in the rules of FORWARD.
fn ruled(host: &Host) -> Vec<String> {
    let listed = host.ok("ebtables", &["-L", "FORWARD"]);
    let rules = listed.lines().filter(|line| line.starts_with('-'));
    let words = rules.flat_map(str::split_whitespace);
    let ports = words.filter(|word| word.starts_with("one-"));
    ports.map(str::to_owned).collect()
}

/// The pair of rules of VM 42.
fn pair(host: &Host) {
    rule(host, &format!("-s ! {VM}/ff:ff:ff:ff:ff:00 -o one-42-0"));
    rule(host, &format!("-s ! {VM} -i one-42-0"));
}

fn taps(host: &Host) -> [Tap; 3] {
    ["one-42-0", "one-43-0", "eth0"].map(|port| host.tap("br0", port))
}

#[test]
fn the_page_leads_from_the_ebtables_driver_to_macfence_and_back() {
    let cloud = Cloud::new(true);
    let (front, host) = (&cloud.front, &cloud.host);
    let [vm, other, uplink] = taps(host);
    pair(host);
    // VM 43 has no FILTER_MAC_SPOOFING.
    rule(host, &format!("-s ! {NEIGHBOUR} -i one-43-0"));
    let network = cloud.dir.path().join("networks/7");
    let old = format!("echo 'VN_MAD = \"ebtables\"' >{}", network.display());
    cloud.oneadmin(front, &old);

    super::drivers::prepare_host(&cloud);
    super::drivers::prepare_front_end(&cloud, true);
    let page = commands(
        "migrating.md",
        "From OpenNebula's `ebtables` driver (up to 6.10)",
    );
    let [update, migrate, sync, flush] = &page[..] else {
        panic!("{page:?}");
    };
    cloud.oneadmin(front, update);
    let attributes = fs::read_to_string(&network).unwrap();
    assert!(attributes.ends_with("\nVN_MAD = \"bridge\"\n"));

    let said = super::as_root(host, migrate);
    assert!(said.stderr.contains("\"one-43-0\" is left alone"));
    let said = said.ok();
    assert!(said.contains("ebtables -t filter -D"), "{said}");
    assert!(said.ends_with("one-42: one-42-0 fenced by nft\n"), "{said}");
    // Not the router, as before.
    assert!(!is_heard(&uplink, &vm, STRANGER) && !is_heard(&uplink, &vm, ROUTER));
    assert_eq!(
        (host.fenced(), ruled(host)),
        (strings(&["one-42"]), strings(&["one-43-0"]))
    );
    cloud.root(host, sync);
    is_fenced(&vm, &uplink);
    assert_eq!(host.fenced(), ["one-42", "one-43"]);
    // The driver that the network has now finds nothing to do.
    let before = host.ruleset();
    let one = Oneadmin::known(host);
    one.driver("bridge", "post one-42 host1", &cloud.template())
        .quiet();
    assert_eq!(host.ruleset(), before);
    cloud.root(host, flush);
    assert_eq!(ruled(host), ["one-43-0"]);
    drop(other);
    cloud.root(host, flush);
    assert!(ruled(host).is_empty());

    for back in commands("migrating.md", "Back again") {
        cloud.root(host, &back);
    }
    is_fenced(&vm, &uplink);
    assert!(!host.ruleset().contains("table bridge macfence"));
    assert!(ruled(host).contains(&"one-42-0".to_owned()));
}

#[test]
fn the_page_leads_from_the_scripts_of_opennebula_2_to_macfence() {
    let cloud = Cloud::new(false);
    let host = &cloud.host;
    let [vm, _other, uplink] = taps(host);
    // A hook that ran twice.
    pair(host);
    pair(host);
    super::drivers::prepare_host(&cloud);
    for migrate in commands("migrating.md", "From the scripts of OpenNebula 2.0") {
        cloud.root(host, &migrate);
    }
    is_fenced(&vm, &uplink);
    assert_eq!(
        (host.fenced(), ruled(host)),
        (strings(&["one-42", "one-43"]), Vec::new())
    );
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
