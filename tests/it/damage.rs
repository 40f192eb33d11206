//! The next call finds and repairs changes that somebody made by hand in our table.

use crate::lab::{Host, domain};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:0a:00:00:05";

/// Disables a table without deleting it.
const DORMANT: &str = "add table bridge macfence { flags dormant; }";

/// Deletes the map, after the rules that refer to it.
const NO_MAP: &str = "flush chain bridge macfence prerouting; flush chain bridge macfence input; \
                      flush chain bridge macfence forward; flush map bridge macfence ports; \
                      delete map bridge macfence ports";

fn host() -> Host {
    let host = Host::new();
    host.bridge("br0");
    host
}

#[test]
fn damage_by_hand_is_repaired() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1", "vnet2"]);
    let xml = domain("a", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]);
    let other = domain("b", &[(C, "vnet2", "br0")]);
    host.apply(&xml).ok();
    host.apply(&other).ok();
    let whole = host.ok("nft", &["list", "ruleset"]);
    for damage in [
        "flush ruleset",
        "delete table bridge macfence",
        "flush table bridge macfence",
        "flush map bridge macfence ports",
        NO_MAP,
        "delete element bridge macfence ports { \"vnet0\" }",
        "flush chain bridge macfence vm-a",
        "flush chain bridge macfence prerouting",
        "delete chain bridge macfence prerouting",
        "flush chain bridge macfence forward",
        "delete chain bridge macfence forward",
        "insert rule bridge macfence forward accept",
        "add chain bridge macfence forward { policy drop; }",
        "delete element bridge macfence ports { \"vnet0\" }; \
         add element bridge macfence ports { \"vnet0\" : accept }",
        "delete element bridge macfence ports { \"vnet0\" }; \
         add element bridge macfence ports { \"vnet0\" : jump vm-b }",
        "insert rule bridge macfence vm-a accept",
        "insert rule bridge macfence vm-a iifname \"vnet0\" counter accept",
        "add rule bridge macfence vm-a iifname \"vnet0\" ether saddr != 02:00:c0:a8:00:05 counter drop",
        DORMANT,
    ] {
        host.ok("nft", &[damage]);
        assert_ne!(host.ok("nft", &["list", "ruleset"]), whole, "{damage}");
        host.apply(&xml).ok();
        host.apply(&other).ok();
        let mended = host.ok("nft", &["list", "ruleset"]);
        assert_eq!(sorted(&mended), sorted(&whole), "{damage}");
    }
}

#[test]
fn a_call_for_several_vms_repairs_the_shared_chains() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1"]);
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, xml: String| {
        let path = files.path().join(name);
        std::fs::write(&path, xml).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let a = file("a", domain("a", &[(A, "vnet0", "br0")]));
    let b = file("b", domain("b", &[(B, "vnet1", "br0")]));
    let apply = || host.macfence(["apply", "--xml", &a, "--xml", &b]).ok();
    apply();
    let whole = host.ok("nft", &["list", "ruleset"]);
    for damage in [
        "flush chain bridge macfence forward",
        "insert rule bridge macfence forward accept",
        DORMANT,
    ] {
        host.ok("nft", &[damage]);
        apply();
        assert_eq!(host.ok("nft", &["list", "ruleset"]), whole, "{damage}");
        let before = host.generation();
        apply();
        assert_eq!(host.generation(), before, "{damage}");
    }
}

#[test]
fn a_changed_vm_is_fenced_wherever_its_entries_lead() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1", "vnet2"]);
    let changed = domain("a", &[(B, "vnet0", "br0")]);
    for damage in [
        "delete element bridge macfence ports { \"vnet0\" }; \
         add element bridge macfence ports { \"vnet0\" : accept }",
        "delete element bridge macfence ports { \"vnet0\" }; \
         add element bridge macfence ports { \"vnet0\" : jump vm-b }",
        "delete element bridge macfence ports { \"vnet0\" }",
        "flush map bridge macfence ports",
        &format!("{NO_MAP}; insert rule bridge macfence vm-a accept"),
        // A rule in one VM's chain about another VM's port.
        "add rule bridge macfence vm-a iifname \"vnet2\" ether saddr != 02:00:0a:00:00:05 counter drop",
    ] {
        host.ok("nft", &["flush ruleset"]);
        let both = domain("a", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]);
        let other = domain("b", &[(C, "vnet2", "br0")]);
        let apply = |xml: &str| host.apply(xml).ok();
        apply(&other);
        apply(&changed);
        let whole = host.ok("nft", &["list", "ruleset"]);
        for before in [both, domain("a", &[(A, "vnet0", "br0")])] {
            apply(&before);
            host.ok("nft", &[damage]);
            apply(&changed);
            if damage.contains("vnet2") {
                let stays = "\"vnet2\" : jump vm-b";
                assert!(host.ok("nft", &["list", "ruleset"]).contains(stays));
            }
            // The damage may have affected this VM too.
            apply(&other);
            let mended = host.ok("nft", &["list", "ruleset"]);
            assert_eq!(sorted(&mended), sorted(&whole), "{damage}");
        }
    }
}

#[test]
fn a_new_vm_is_fenced_after_any_damage_to_the_table() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1"]);
    let xml = domain("a", &[(A, "vnet0", "br0")]);
    let new = domain("new", &[(B, "vnet1", "br0")]);
    host.apply(&xml).ok();
    host.apply(&new).ok();
    let whole = host.ok("nft", &["list", "ruleset"]);
    for damage in [
        "flush chain bridge macfence prerouting",
        "delete chain bridge macfence prerouting",
        "flush chain bridge macfence forward",
        "delete chain bridge macfence forward",
        "insert rule bridge macfence forward accept",
        NO_MAP,
        DORMANT,
    ] {
        host.macfence(["remove", "new"]).ok();
        host.ok("nft", &[damage]);
        host.apply(&new).ok();
        // The damage may have taken this VM's entry too.
        host.apply(&xml).ok();
        let mended = host.ok("nft", &["list", "ruleset"]);
        assert_eq!(sorted(&mended), sorted(&whole), "{damage}");
    }
}

#[test]
fn a_base_chain_at_another_priority_is_put_back() {
    let host = host();
    host.ports("br0", &["vnet0"]);
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    let whole = host.ok("nft", &["list", "ruleset"]);
    // The kernel cannot move a chain to another priority.
    let elsewhere = "flush chain bridge macfence forward; delete chain bridge macfence forward; \
                     add chain bridge macfence forward { type filter hook forward priority 10; }; \
                     add rule bridge macfence forward iifname vmap @ports; \
                     add rule bridge macfence forward oifname vmap @ports";
    host.ok("nft", &[elsewhere]);
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    let mended = host.ok("nft", &["list", "ruleset"]);
    assert_eq!(sorted(&mended), sorted(&whole));
}

#[test]
fn a_chain_emptied_by_hand_keeps_no_port_that_its_vm_has_lost() {
    let host = host();
    host.ports("br0", &["vnet0", "vnet1"]);
    host.apply(&domain("a", &[(A, "vnet0", "br0"), (B, "vnet1", "br0")]))
        .ok();
    host.ok("nft", &["flush", "chain", "bridge", "macfence", "vm-a"]);
    host.apply(&domain("a", &[(A, "vnet0", "br0")])).ok();
    assert!(!host.ruleset().contains("vnet1"), "{}", host.ruleset());
}

/// Returns the lines of a ruleset, independent of the order in which rules were added.
fn sorted(ruleset: &str) -> Vec<&str> {
    let mut lines: Vec<_> = ruleset.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines
}
