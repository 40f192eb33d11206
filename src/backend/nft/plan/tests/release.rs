//! Plans that release ports.

use super::*;

#[test]
fn a_release_deletes_the_rules_and_entries_of_the_ports_and_no_others() {
    let actual = holding(&[fence("a", &["p0", "p1"]), fence("b", &["p2"])]);
    for (ports, expected) in [
        (&["p9"][..], None),
        (
            &["p0"],
            Some(
                &[
                    "unmap p0",
                    "delete vm-a 1",
                    "delete vm-a 2",
                    "delete vm-a 3",
                ][..],
            ),
        ),
        (&["p2"], Some(&["unmap p2", "delete chain vm-b"])),
        (
            &["p0", "p1", "p2"],
            Some(&[
                "unmap p0",
                "unmap p1",
                "unmap p2",
                "delete chain vm-a",
                "delete chain vm-b",
            ]),
        ),
    ] {
        let released: Vec<Port> = ports.iter().map(|port| port.parse().unwrap()).collect();
        let expected = expected.map(|lines| lines.iter().map(|l| (*l).to_owned()).collect());
        assert_eq!(lines(release(&actual, &released)), expected, "{ports:?}");
    }
}

#[test]
fn only_chains_that_keep_a_port_are_read_when_ports_are_taken() {
    let actual = holding(&[fence("a", &["p0", "p1"]), fence("b", &["p2"])]);
    let robbed = |taken: &[&str]| robbed(&actual, &taken.iter().copied().collect());
    assert_eq!(robbed(&["p0"]), [chain("a")]);
    assert_eq!(robbed(&["p0", "p1"]), []);
    assert_eq!(robbed(&["p2", "p9"]), []);
}
