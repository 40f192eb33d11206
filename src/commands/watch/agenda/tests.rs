use super::*;
use crate::vm::Nic;

const TABLES: Option<&[&str]> = Some(&["macfence"]);

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn ports(names: &[&str]) -> BTreeSet<Port> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn port(name: &str) -> Event {
    Event::Port(name.to_owned())
}

fn gone(name: &str) -> Event {
    Event::PortGone(name.to_owned())
}

fn tables(names: &[&str]) -> Event {
    Event::Tables(set(names))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An agenda after a look at everything that took no time, and when that was.
fn idle() -> (Agenda, Instant) {
    let now = Instant::now();
    let mut agenda = Agenda::default();
    agenda.start_over(now);
    look(&mut agenda, now, &[]);
    assert_eq!(agenda.due(), None);
    (agenda, now)
}

/// Looks, and finds whose these ports are.
fn look(agenda: &mut Agenda, now: Instant, found: &[&str]) -> Task {
    let task = agenda.take(now);
    agenda.looked(&task, &ports(found), now, now);
    task
}

#[test]
fn the_vm_of_a_new_port_is_looked_for_until_found_or_the_port_leaves() {
    let (mut agenda, start) = idle();
    agenda.hear(vec![port("p0"), port("p1")], TABLES, start);
    assert_eq!(agenda.due(), Some(start + QUIET));
    let task = look(&mut agenda, start + QUIET, &["p0"]);
    assert_eq!(task.doubt.came, set(&["p0", "p1"]));
    assert!(!task.is_whole && !task.is_rewritten);
    for at in [ms(100), ms(200), ms(400), ms(800)] {
        assert_eq!(agenda.due(), Some(start + at));
        assert_eq!(look(&mut agenda, start + at, &[]).doubt.came, set(&["p1"]));
    }
    let later = start + ms(900);
    agenda.hear(vec![gone("p1")], TABLES, later);
    let doubt = look(&mut agenda, later + QUIET, &[]).doubt;
    assert_eq!((doubt.came, doubt.left), (set(&[]), set(&["p1"])));
    // A tap loses its carrier before it goes.
    agenda.hear(vec![port("p0"), gone("p0")], TABLES, later);
    assert_eq!(look(&mut agenda, later, &[]).doubt.came, set(&[]));
    agenda.hear(vec![gone("p2"), port("p2")], TABLES, later);
    let doubt = look(&mut agenda, later, &[]).doubt;
    assert_eq!((doubt.came, doubt.left), (set(&["p2"]), set(&["p2"])));
}

#[test]
fn partial_looks_are_followed_by_a_look_at_everything() {
    let (mut agenda, start) = idle();
    agenda.hear(vec![gone("p0")], TABLES, start);
    assert!(!look(&mut agenda, start + QUIET, &[]).is_whole);
    let whole = start + QUIET + CALM;
    assert_eq!(agenda.due(), Some(whole));
    assert!(look(&mut agenda, whole, &[]).is_whole);
    assert_eq!(agenda.due(), None);
    // However much goes on.
    let mut now = start;
    agenda.hear(vec![gone("p0")], TABLES, now);
    while !look(&mut agenda, now, &[]).is_whole {
        now += CALM / 2;
        agenda.hear(vec![gone("p0")], TABLES, now);
    }
    assert_eq!(now, start + LATEST);
}

#[test]
fn if_something_is_unknown_everything_is_examined() {
    let (mut agenda, now) = idle();
    agenda.hear(vec![Event::Lost], TABLES, now);
    assert!(look(&mut agenda, now, &[]).is_whole);
    agenda.hear(vec![gone("p0")], TABLES, now);
    let task = agenda.take(now);
    assert!(!task.is_whole);
    agenda.failed(now, now);
    assert_eq!(agenda.due(), Some(now + FIRST_RETRY));
    let task = agenda.take(now + FIRST_RETRY);
    assert!(task.is_whole);
    agenda.failed(now, now);
    assert_eq!(agenda.due(), Some(now + FIRST_RETRY * 2));
}

#[test]
fn only_our_tables_count() {
    let (mut agenda, now) = idle();
    agenda.hear(vec![tables(&["other"])], TABLES, now);
    assert_eq!(agenda.due(), None);
    agenda.hear(vec![tables(&["other", "macfence"])], TABLES, now);
    let task = look(&mut agenda, now, &[]);
    assert!(task.is_rewritten && !task.is_whole);
    assert!(!look(&mut agenda, now, &[]).is_rewritten);
}

#[test]
fn only_events_of_our_own_changes_are_removed() {
    let others = || tables(&["other"]);
    let ours = || tables(&["macfence"]);
    let without = |events, writes, touched: &[&str]| {
        without_echo(events, &["macfence"], writes, &ports(touched))
    };
    assert_eq!(without(vec![ours(), others()], 1, &[]), [others()]);
    // Somebody else has changed our table as well.
    let both = vec![ours(), ours()];
    assert_eq!(without(both.clone(), 1, &[]), both);
    assert_eq!(without(vec![ours()], 0, &[]), [ours()]);
    let events = vec![port("p0"), port("p1")];
    assert_eq!(without(events, 0, &["p0"]), [port("p1")]);
    // It is another port of this name.
    let events = vec![port("p0"), gone("p0"), port("p0")];
    assert_eq!(without(events.clone(), 0, &["p0"]), events);
}

#[test]
fn at_most_half_of_the_time_is_spent_on_looking() {
    let (mut agenda, start) = idle();
    agenda.hear(vec![gone("p0")], TABLES, start);
    let task = agenda.take(start);
    agenda.looked(&task, &ports(&[]), start, start + ms(700));
    agenda.hear(vec![gone("p0")], TABLES, start + ms(700));
    assert_eq!(agenda.due(), Some(start + ms(1400)));
}

#[test]
fn a_look_that_is_asked_for_comes_once() {
    let (mut agenda, start) = idle();
    let when = start + ms(1000);
    agenda.look_again(when);
    assert_eq!(agenda.due(), Some(when));
    // A look before that time does not replace it.
    agenda.hear(vec![tables(&["macfence"])], TABLES, start);
    agenda.take(start + QUIET);
    assert_eq!(agenda.due(), Some(when));
    let task = look(&mut agenda, when, &[]);
    assert!(!task.is_whole && !task.is_rewritten);
    assert_ne!(agenda.due(), Some(when));
}

#[test]
fn a_vm_may_have_changed_if_its_port_did_or_if_messages_were_lost() {
    let (mut agenda, start) = idle();
    let nic = |port: &str| {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        Nic::new(port.parse().unwrap(), mac, None).unwrap()
    };
    let vm = Vm {
        name: "a".parse().unwrap(),
        nics: vec![nic("p0"), nic("p1")],
        skipped: Vec::new(),
    };
    agenda.hear(vec![port("p2"), gone("p3")], TABLES, start);
    assert!(!agenda.may_have_changed(&vm));
    for event in [port("p0"), gone("p1"), Event::Lost] {
        let (mut agenda, start) = idle();
        agenda.hear(vec![event.clone()], TABLES, start);
        assert!(agenda.may_have_changed(&vm));
        assert_eq!(agenda.take(start).is_deaf, event == Event::Lost);
    }
    // After a failure the whole host must be examined, but nothing was lost.
    agenda.failed(start, start);
    let task = agenda.take(start + FIRST_RETRY);
    assert!(task.is_whole && !task.is_deaf);
}
