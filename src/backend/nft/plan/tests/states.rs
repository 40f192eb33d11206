//! Plans for one VM, from each state that its rules may be in.

use super::*;

#[test]
fn each_state_becomes_the_desired_one_with_the_fewest_changes() {
    let a = || fence("a", &["p0"]);
    let nothing = || holding(&[]);
    let own = || holding(&[fence("a", &["p0"])]);
    let edited = |edit: fn(&mut Ruleset)| {
        let mut actual = own();
        edit(&mut actual);
        actual
    };
    let cases: [(&str, Ruleset, Fence, Option<&[&str]>); 16] = [
        ("new", nothing(), a(), Some(&NEW_A)),
        ("there", own(), a(), None),
        ("gone", nothing(), fence("a", &[]), None),
        (
            "removed",
            own(),
            fence("a", &[]),
            Some(&["assert p0 vm-a", "unmap p0", "delete chain vm-a"]),
        ),
        (
            "attached",
            own(),
            fence("a", &["p0", "p1"]),
            Some(&[
                "add vm-a p1 spoofed",
                "add vm-a p1 meddling",
                "add vm-a p1 foreign",
                "map p1 vm-a",
            ]),
        ),
        (
            "detached",
            holding(&[fence("a", &["p0", "p1"])]),
            a(),
            Some(&[
                "assert p1 vm-a",
                "unmap p1",
                "delete vm-a 4",
                "delete vm-a 5",
                "delete vm-a 6",
            ]),
        ),
        (
            "a rule lost",
            edited(|actual| drop(actual.chains.get_mut(&chain("a")).unwrap().pop())),
            a(),
            Some(&["add vm-a p0 foreign"]),
        ),
        (
            "a rule twice",
            edited(|actual| {
                let rules = actual.chains.get_mut(&chain("a")).unwrap();
                rules.push(ActualRule {
                    handle: 9,
                    ..rules[0].clone()
                });
            }),
            a(),
            Some(&["delete vm-a 9"]),
        ),
        (
            "somebody's rule",
            edited(|actual| {
                actual
                    .chains
                    .get_mut(&chain("a"))
                    .unwrap()
                    .insert(0, foreign(7));
            }),
            a(),
            Some(&["delete vm-a 7"]),
        ),
        (
            "an empty chain",
            edited(|actual| actual.chains.get_mut(&chain("a")).unwrap().clear()),
            a(),
            Some(&[
                "add vm-a p0 spoofed",
                "add vm-a p0 meddling",
                "add vm-a p0 foreign",
            ]),
        ),
        (
            "an entry lost",
            edited(|actual| actual.ports.clear()),
            a(),
            Some(&["map p0 vm-a"]),
        ),
        (
            "an entry that accepts",
            edited(|actual| {
                actual.ports.insert("p0".to_owned(), None);
                actual.strays.insert("p0".to_owned());
            }),
            a(),
            Some(&["unmap p0", "map p0 vm-a"]),
        ),
        (
            "an entry without rules",
            edited(|actual| drop(actual.ports.insert("x9".to_owned(), Some(chain("a"))))),
            a(),
            Some(&["assert x9 vm-a", "unmap x9"]),
        ),
        (
            "a stray entry of nobody",
            edited(|actual| {
                actual.ports.insert("x9".to_owned(), None);
                actual.strays.insert("x9".to_owned());
            }),
            a(),
            Some(&["unmap x9"]),
        ),
        (
            "an entry that drops is nobody's concern",
            edited(|actual| drop(actual.ports.insert("x9".to_owned(), None))),
            a(),
            None,
        ),
        (
            "entries without a chain",
            edited(|actual| drop(actual.chains.remove(&chain("a")))),
            fence("a", &[]),
            Some(&["assert p0 vm-a", "unmap p0", "delete chain vm-a"]),
        ),
    ];
    for (what, actual, desired, expected) in cases {
        let planned = enforced(&actual, &[desired], &Keep::nothing());
        let expected = expected.map(|lines| lines.iter().map(|l| (*l).to_owned()).collect());
        assert_eq!(planned, expected, "{what}");
    }
}
