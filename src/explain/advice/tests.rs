use super::*;
use crate::explain::{Frame, Party, Step};

const OWN: &str = "02:00:c0:a8:00:05";

fn answer(to: Party, owner: Option<&str>, outcome: Outcome) -> Answer {
    Answer {
        from: Party::default(),
        to,
        frame: Frame {
            source: OWN.parse().unwrap(),
            claim: Claim::Nothing,
        },
        owner: owner.map(|name| name.parse().unwrap()),
        steps: vec![Step::new(At::To, outcome, String::new())],
        settings: Settings::default(),
        notes: Vec::new(),
    }
}

#[test]
fn nobody_is_told_to_trust_another_vm() {
    let said = |owner| {
        let answer = answer(Party::default(), owner, Outcome::Drops(Reason::Foreign));
        (answer.change().is_some(), answer.sentence())
    };
    let (has_change, sentence) = said(None);
    assert!(has_change && sentence.contains("trusted"), "{sentence}");
    let (has_change, sentence) = said(Some("web-1"));
    assert!(!has_change && !sentence.contains("trusted"), "{sentence}");
    assert!(
        sentence.contains("belongs to VM web-1 of another network"),
        "{sentence}"
    );
}

#[test]
fn a_vms_name_becomes_no_command() {
    for (name, call) in [
        ("one-1", "apply one-1"),
        ("a; reboot", "sync"),
        ("-c", "sync"),
    ] {
        let to = Party {
            vm: Some(name.parse().unwrap()),
            ..Party::default()
        };
        let change = answer(to, None, Outcome::Passes).change().unwrap();
        let call = format!("run \"macfence {call}\";");
        assert!(change.contains(&call), "{change}");
    }
}

#[test]
fn a_bridge_that_is_left_out_is_added_first() {
    let to = Party {
        vm: Some("a".parse().unwrap()),
        ..Party::default()
    };
    let mut answer = answer(to, None, Outcome::Passes);
    answer.settings.left_out = Some("br1".to_owned());
    let change = answer.change().unwrap();
    assert!(
        change.starts_with("`bridges` leaves out its bridge \"br1\"") && !change.contains("apply")
    );
}
