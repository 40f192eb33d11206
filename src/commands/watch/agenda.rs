//! What `watch` is to do next, and when. Pure: whoever calls tells what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::events::Event;
use crate::source::Doubt;
use crate::vm::Port;

/// How long nothing must happen before a burst is taken to be over, and how long one is waited for.
const QUIET: Duration = Duration::from_millis(50);
const BURST: Duration = Duration::from_millis(250);

/// At most half of the time is spent on looking. A rest is never longer than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A port comes to its bridge before its hypervisor tells of it: how soon it is looked for again,
/// each time after twice as long, and for how long.
const FIRST_POLL: Duration = Duration::from_millis(100);
const LAST_POLL: Duration = Duration::from_secs(10);

/// How soon it is tried again after a failure, each time after twice as long, up to the last:
/// nobody says when libvirt is back.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Looks at what has changed are followed by one at the whole host: when nothing has changed for this
/// long, and this long after the first one at the latest.
const CALM: Duration = Duration::from_secs(10);
const LATEST: Duration = Duration::from_secs(60);

/// What is to be done, and when.
#[derive(Debug, Default)]
pub struct Agenda {
    /// When the first and the last change happened since the last look.
    changes: Option<(Instant, Instant)>,
    /// Ports that have come and are no running VM's yet.
    newcomers: BTreeMap<String, Newcomer>,
    /// Ports that have left since the last look.
    left: BTreeSet<String>,
    /// Whether others have changed our tables since the last look.
    is_rewritten: bool,
    /// Whether all must be looked at next, as it is not known what has changed.
    is_lost: bool,
    /// When the first and the last look since one at the whole host was taken.
    parts: Option<(Instant, Instant)>,
    /// When to try again after a failure, and how long that was waited for.
    retry: Option<(Instant, Duration)>,
    /// Until when to rest after a look.
    rest: Option<Instant>,
}

/// A port that has come.
#[derive(Debug)]
struct Newcomer {
    came: Instant,
    /// How long after that it is looked for next.
    next: Duration,
}

/// What to look at.
#[derive(Debug)]
pub struct Task {
    /// Everything, whatever is believed to be known.
    pub is_whole: bool,
    /// All that the kernel holds.
    pub is_rewritten: bool,
    /// What hypervisors may say of VMs with these ports.
    pub doubt: Doubt,
}

impl Agenda {
    /// When to look; `None`: not until something happens.
    pub fn due(&self) -> Option<Instant> {
        let settled = |(first, last): (Instant, Instant)| (last + QUIET).min(first + BURST);
        let retry = self.retry.map(|(when, _)| when);
        let newcomers = self.newcomers.values().map(|port| port.came + port.next);
        let due = self.changes.map(settled).into_iter().chain(retry);
        let due = due.chain(newcomers).chain(self.whole_due()).min()?;
        Some(self.rest.map_or(due, |rest| due.max(rest)))
    }

    fn whole_due(&self) -> Option<Instant> {
        let due = |(first, last): (Instant, Instant)| (last + CALM).min(first + LATEST);
        self.parts.map(due)
    }

    /// Takes note of what has happened. Of changes of tables only those of `tables` count; `None`:
    /// all.
    pub fn hear(&mut self, events: Vec<Event>, tables: Option<&[&str]>, now: Instant) {
        for event in events {
            match event {
                Event::Port(port) => {
                    let next = FIRST_POLL;
                    self.newcomers.insert(port, Newcomer { came: now, next });
                }
                Event::PortGone(port) => {
                    self.newcomers.remove(&port);
                    self.left.insert(port);
                }
                Event::Tables(changed) => {
                    if !is_about(&changed, tables) {
                        continue;
                    }
                    self.is_rewritten = true;
                }
                Event::Lost => self.is_lost = true,
            }
            let first = self.changes.map_or(now, |(first, _)| first);
            self.changes = Some((first, now));
        }
    }

    /// Everything is to be looked at, and now.
    pub fn start_over(&mut self, now: Instant) {
        self.is_lost = true;
        self.rest = None;
        self.changes = Some((now, now));
    }

    /// What is to be looked at now. It is no longer on the agenda then.
    pub fn take(&mut self, now: Instant) -> Task {
        self.changes = None;
        let is_due = self.whole_due().is_some_and(|due| due <= now);
        Task {
            is_whole: std::mem::take(&mut self.is_lost) || is_due,
            is_rewritten: std::mem::take(&mut self.is_rewritten),
            doubt: Doubt {
                came: self.newcomers.keys().cloned().collect(),
                left: std::mem::take(&mut self.left),
            },
        }
    }

    /// A look that began at `start` has ended. Whose the `found` ports are is known.
    pub fn looked(&mut self, task: &Task, found: &BTreeSet<Port>, start: Instant, end: Instant) {
        self.ended(start, end);
        self.retry = None;
        for port in found {
            self.newcomers.remove(port.as_str());
        }
        let first = self.parts.map_or(end, |(first, _)| first);
        self.parts = (!task.is_whole).then_some((first, end));
    }

    /// A look has failed: nobody knows what has changed.
    pub fn failed(&mut self, start: Instant, end: Instant) {
        self.ended(start, end);
        self.is_lost = true;
        self.parts = None;
        let waited = self.retry.map_or(Duration::ZERO, |(_, waited)| waited);
        let wait = (waited * 2).clamp(FIRST_RETRY, LAST_RETRY);
        self.retry = Some((end + wait, wait));
    }

    fn ended(&mut self, start: Instant, end: Instant) {
        self.rest = Some(end + (end - start).min(LONGEST_REST));
        self.newcomers.retain(|_, port| {
            while port.came + port.next <= end {
                port.next *= 2;
            }
            port.next < LAST_POLL
        });
    }
}

/// Without the echo of what we have done ourselves: `writes` transactions, and something at these ports.
/// What others did meanwhile stays.
pub fn without_echo(
    mut events: Vec<Event>,
    tables: &[&str],
    writes: usize,
    touched: &BTreeSet<Port>,
) -> Vec<Event> {
    let is_ours = |event: &Event| matches!(event, Event::Tables(t) if is_about(t, Some(tables)));
    // Nobody tells whose a transaction was. But no more than ours can only be ours.
    if events.iter().filter(|event| is_ours(event)).count() == writes {
        events.retain(|event| !is_ours(event));
    }
    let left = events.iter().filter_map(|event| match event {
        Event::PortGone(port) => Some(port.clone()),
        _ => None,
    });
    let left: BTreeSet<_> = left.collect();
    let touched: BTreeSet<_> = touched.iter().map(Port::as_str).collect();
    events.retain(|event| match event {
        Event::Port(port) => !touched.contains(port.as_str()) || left.contains(port),
        _ => true,
    });
    events
}

fn is_about(changed: &BTreeSet<String>, tables: Option<&[&str]>) -> bool {
    tables.is_none_or(|tables| tables.iter().any(|table| changed.contains(*table)))
}

#[cfg(test)]
mod tests;
