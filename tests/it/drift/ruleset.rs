//! Changes that somebody makes in the ruleset by hand.

use super::{A, B, C, Fenced, OK, Verdict, differs, missing};
use crate::lab::{Host, domain, fake_virsh};

/// Does each damage with nft. `check` must find it in `a` and `b` as given here, and `sync` must
/// repair it.
fn are_repaired(damages: &[(&str, [Verdict; 2])]) {
    are_repaired_with(damages, &[]);
}

/// Like [`are_repaired`]. Also these VMs, which do not run, must be found and removed.
fn are_repaired_with(damages: &[(&str, [Verdict; 2])], stale: &[(&str, &str)]) {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["nic10", "nic11", "nic12"]);
    let a = domain("a", &[(A, "nic10", "br0"), (B, "nic11", "br0")]);
    let b = domain("b", &[(C, "nic12", "br0")]);
    let fenced = Fenced::new(&host, fake_virsh(&[("a", &a), ("b", &b)]));
    for (damage, a_and_b) in damages {
        fenced.is_repaired(damage, *a_and_b, stale);
    }
}

#[test]
fn a_table_that_is_gone_is_found_and_put_back() {
    are_repaired(&[
        (
            "flush ruleset",
            [missing("\"nic10\""), missing("\"nic12\"")],
        ),
        (
            "delete table bridge macfence",
            [missing("\"nic11\""), missing("")],
        ),
    ]);
}

#[test]
fn a_table_without_rules_is_found_and_filled() {
    are_repaired(&[(
        "flush table bridge macfence",
        [differs("base chain"), differs("base chain")],
    )]);
}

#[test]
fn a_changed_shared_chain_is_found_and_repaired() {
    let others = "other rules than its own";
    are_repaired(
        &[
            "flush chain bridge macfence prerouting",
            "flush chain bridge macfence input",
            "flush chain bridge macfence forward",
            "flush chain bridge macfence meddling",
            "insert rule bridge macfence forward accept",
            "insert rule bridge macfence meddling return",
        ]
        .map(|damage| (damage, [differs(others), differs(others)])),
    );
}

#[test]
fn a_base_chain_that_is_gone_or_changed_is_found_and_put_back() {
    are_repaired(&[
        (
            "delete chain bridge macfence input",
            [differs("no base chain"), differs("no base chain")],
        ),
        (
            "delete chain bridge macfence forward",
            [differs("no base chain"), differs("no base chain")],
        ),
        (
            "add chain bridge macfence forward { policy drop; }",
            [differs("hooked in"), differs("hooked in")],
        ),
    ]);
}

#[test]
fn a_dormant_table_is_found_and_enabled() {
    are_repaired(&[(
        "add table bridge macfence { flags dormant; }",
        [differs("dormant"), differs("dormant")],
    )]);
}

#[test]
fn a_map_entry_that_is_gone_is_found_and_put_back() {
    are_repaired(&[
        (
            "flush map bridge macfence ports",
            [differs("no entry for port \"nic11\""), differs("nic12")],
        ),
        (
            "delete element bridge macfence ports { \"nic10\" }",
            [differs("no entry for port \"nic10\""), OK],
        ),
    ]);
}

#[test]
fn a_map_entry_that_leads_elsewhere_is_found_and_leads_to_its_vms_chain_again() {
    are_repaired(&[
        (
            "delete element bridge macfence ports { \"nic10\" }; \
             add element bridge macfence ports { \"nic10\" : jump vm-b }",
            [
                differs("\"nic10\" leads elsewhere"),
                differs("no rule for port \"nic10\""),
            ],
        ),
        (
            "delete element bridge macfence ports { \"nic12\" }; \
             add element bridge macfence ports { \"nic12\" : accept }",
            [OK, differs("leads elsewhere")],
        ),
    ]);
}

#[test]
fn a_map_entry_of_a_port_of_no_vm_is_found_and_deleted() {
    are_repaired(&[
        (
            "add element bridge macfence ports { \"eth7\" : jump vm-b }",
            [OK, differs("\"eth7\"")],
        ),
        (
            "add element bridge macfence ports { \"eth7\" : accept }",
            [
                differs("\"eth7\" leads past"),
                differs("\"eth7\" leads past"),
            ],
        ),
    ]);
}

#[test]
fn a_vms_chain_without_its_rules_is_found_and_filled() {
    are_repaired(&[(
        "flush chain bridge macfence vm-b",
        [OK, differs("no rule that lets only 02:00:0a:00:00:05 in")],
    )]);
}

#[test]
fn foreign_rules_in_a_vms_chain_are_found_and_deleted() {
    are_repaired(&[
        (
            "insert rule bridge macfence vm-a accept",
            [differs("not macfence's"), OK],
        ),
        (
            "add rule bridge macfence vm-b counter; add rule bridge macfence vm-b counter",
            [OK, differs("2 rules that are not macfence's")],
        ),
    ]);
}

#[test]
fn an_extra_rule_in_a_vms_chain_is_found_and_deleted() {
    are_repaired(&[(
        "add rule bridge macfence vm-a oifname \"nic10\" \
         ether saddr & ff:ff:ff:ff:00:00 != 02:00:c0:a8:00:00 counter drop",
        [
            differs("a rule too many that lets only 02:00:c0:a8:00:00/32 out to \"nic10\""),
            OK,
        ],
    )]);
}

#[test]
fn a_vm_that_does_not_run_is_found_stale_and_removed() {
    let stale = "add chain bridge macfence vm-c; \
                 add rule bridge macfence vm-c iifname \"nic99\" \
                 ether saddr != 02:00:00:00:00:09 counter drop; \
                 add element bridge macfence ports { \"nic99\" : jump vm-c }";
    are_repaired_with(&[(stale, [OK, OK])], &[("c", "port \"nic99\"")]);
}
