//! A host without nft. The tests run here, where nft is hidden and ebtables is the nft variant.
//! They run again on old kernels with the legacy ebtables: see [`super::legacy`].

use crate::attacks::{
    Firewall, before_fence, bridge_table, host as the_host, multicast, overheard,
};
use crate::lab::{Host, domain, macfence_with, script};
use crate::semantics::{SEED, TRUSTING, check_frames};

pub mod address_guard;
mod bridge;

fn host() -> Host {
    let host = Host::new();
    host.hide("nft");
    host
}

/// Returns the rules outside our chains, as ebtables lists them, without headings.
fn rules(host: &Host) -> Vec<String> {
    let mut rules = Vec::new();
    for (table, chain) in [
        ("nat", "PREROUTING"),
        ("filter", "INPUT"),
        ("filter", "FORWARD"),
    ] {
        let listed = host.ok("ebtables", &["-t", table, "-L", chain]);
        let listed = listed.lines().filter(|line| line.starts_with('-'));
        rules.extend(listed.map(|line| line.trim().to_owned()));
    }
    rules
}

/// Returns the number of our chains in each table.
fn chains(host: &Host) -> [usize; 2] {
    ["nat", "filter"].map(|table| {
        let listed = host.ok("ebtables", &["-t", table, "-L"]);
        listed.matches("chain: macfence-").count()
    })
}

#[test]
fn frames_are_heard_on_an_old_host_where_the_seeds_two_rules_allow_it() {
    check_frames(&host(), &SEED);
}

#[test]
fn trusted_senders_are_heard_on_an_old_host() {
    check_frames(&host(), &TRUSTING);
}

#[test]
fn the_life_of_vms_on_an_old_host() {
    let host = host();
    host.bridge("br0");
    let dir = tempfile::tempdir().unwrap();
    let mut apply = vec!["-v".to_owned(), "apply".to_owned()];
    for vm in 1..=5 {
        let port = format!("one-{vm}-0");
        host.ports("br0", &[&port]);
        let file = dir.path().join(&port);
        let xml = domain(
            &format!("one-{vm}"),
            &[(&format!("02:00:c0:a8:00:0{vm}"), &port, "br0")],
        );
        std::fs::write(&file, xml).unwrap();
        apply.extend(["--xml".to_owned(), file.to_str().unwrap().to_owned()]);
    }
    // First one VM, with its chains; then five VMs, with one process for each table; then no
    // change.
    let ran = host.macfence(&apply[..4]);
    assert!(
        ran.stderr.contains("now in the kernel (ebtables)")
            && ran
                .stderr
                .contains("the target of an IPv6 neighbour advertisement"),
        "{}",
        ran.stderr
    );
    assert_eq!((rules(&host).len(), chains(&host)), (4, [1, 1]));
    // An ebtables that cannot add rules, so ebtables-restore must do it.
    script(
        &dir,
        "ebtables",
        "case $* in *-A*) exit 1;; esac; exec /usr/sbin/ebtables \"$@\"",
    );
    host.exec(macfence_with(&dir).args(&apply), "").ok();
    let all = rules(&host);
    assert_eq!(all.len(), 20, "{all:?}");
    assert_eq!(chains(&host), [1, 1]);
    let again = host.macfence(&apply);
    assert!(
        again.stderr.contains("held these fences already"),
        "{}",
        again.stderr
    );
    assert_eq!(rules(&host), all);

    // A sixth VM that trusts a router, so it has a chain of its own. Other people's rules surround
    // ours.
    host.ok("ebtables", &["-I", "FORWARD", "-i", "eth0", "-j", "ACCEPT"]);
    host.ports("br0", &["one-6-0"]);
    let six = domain("one-6", &[("02:00:c0:a8:00:06", "one-6-0", "br0")]);
    let trusting = ["apply", "--xml", "-", "--trusted", "0:16:3e:0:0:1"];
    host.macfence_reading(&six, trusting).ok();
    assert_eq!(rules(&host).len(), 20 + 1 + 5);
    assert_eq!(chains(&host), [1, 2]);

    let list = host.list();
    let ports: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| &vm["nics"][0]["port"])
        .collect();
    assert_eq!(ports.len(), 6, "{list}");
    assert_eq!(list[0]["nics"][0]["dropped"]["spoofed"], 0, "{list}");

    host.unplug("one-6-0");
    host.macfence(["hook", "ebtables-flush"]).ok();
    assert_eq!(rules(&host).len(), 20 + 1);
    assert_eq!(chains(&host), [1, 1]);
    (1..=5).for_each(|vm| host.unplug(&format!("one-{vm}-0")));
    host.macfence(["flush"]).ok();
    assert_eq!(rules(&host), ["-i eth0 -j ACCEPT"]);
    assert_eq!(chains(&host), [0, 0]);
}

#[test]
fn the_right_rule_is_deleted_on_an_old_host() {
    let host = host();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    let xml = domain("one-1", &[("02:00:c0:a8:00:05", "one-1-0", "br0")]);
    // ebtables ignores masks when it looks for a rule to delete.
    for (len, mask) in [
        ("32", "ff:ff:ff:ff:0"),
        ("40", "ff:ff:ff:ff:ff:0"),
        ("32", "ff:ff:ff:ff:0"),
    ] {
        host.macfence_reading(&xml, ["apply", "--xml", "-", "--prefix-len", len])
            .ok();
        let rules = rules(&host);
        let foreign: Vec<_> = rules.iter().filter(|rule| rule.contains(" -o ")).collect();
        assert!(
            rules.len() == 4 && foreign.len() == 1 && foreign[0].contains(mask),
            "{rules:?}"
        );
        let narrow = foreign[0].contains("ff:ff:ff:ff:ff");
        assert_eq!(narrow, len == "40", "{rules:?}");
    }
}

#[test]
fn no_frame_of_a_vm_changes_the_bridges_table_of_an_old_host() {
    bridge_table::check_a_few(Firewall::Ebtables);
}

#[test]
fn an_old_hosts_bridge_forgets_what_it_learned_before_the_fence() {
    before_fence::check_apply(Firewall::Ebtables);
}

#[test]
fn no_other_vm_hears_what_a_router_sends_to_one_vm_on_an_old_host() {
    overheard::check(Firewall::Ebtables);
}

#[test]
fn an_old_hosts_bridge_ignores_queries_of_vms_and_vms_hear_those_of_others() {
    multicast::check_queries_of_vms(Firewall::Ebtables);
    multicast::check_queries_of_others(Firewall::Ebtables);
}

#[test]
fn false_addresses_do_not_reach_an_old_host() {
    the_host::check(Firewall::Ebtables, 5_000);
}

#[test]
#[ignore = "needs VLAN devices, which the kernels that `legacy` boots have"]
fn false_addresses_do_not_reach_a_vlan_device_of_an_old_host() {
    the_host::check_vlan(Firewall::Ebtables);
}
