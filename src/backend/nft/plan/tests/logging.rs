//! Plans for drops that are logged.

use super::*;

#[test]
fn a_rule_that_logs_behind_the_drops_goes_to_the_front() {
    let mut desired = fence("a", &["p0"]);
    desired.guards[0].log = Some(5);
    let mut actual = holding(&[desired.clone()]);
    assert_eq!(
        enforced(&actual, &[desired.clone()], &Keep::nothing()),
        None
    );
    let rules = actual.chains.get_mut(&chain("a")).unwrap();
    let first = rules.remove(0);
    rules.push(first);
    let planned = enforced(&actual, &[desired.clone()], &Keep::nothing());
    let expected = ["delete vm-a 1", "add vm-a log of p0 spoofed"];
    assert_eq!(planned.unwrap(), expected);
    desired.guards[0].log = None;
    let planned = enforced(&actual, &[desired], &Keep::nothing());
    assert_eq!(planned.unwrap(), ["delete vm-a 2", "delete vm-a 1"]);
}
