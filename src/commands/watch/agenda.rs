//! Decides what `watch` examines next, and when. Pure: the caller passes the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::events::Event;
use crate::source::Doubt;
use crate::vm::{Port, Vm};

/// A burst of changes is over when nothing happens for `QUIET`. `watch` waits for that at most `BURST`.
const QUIET: Duration = Duration::from_millis(50);
const BURST: Duration = Duration::from_millis(250);

/// `watch` spends at most half of its time on looking. It never rests longer than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A port joins its bridge before its hypervisor reports it. So `watch` looks for its VM again after
/// this time, then after twice as long each time, until the limit.
const FIRST_POLL: Duration = Duration::from_millis(100);
const LAST_POLL: Duration = Duration::from_secs(10);

/// How long to wait after a failure; twice as long each time, until the limit. libvirt does not report
/// when it is back.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// After looks at single changes, `watch` examines the whole host: when nothing has changed for this
/// long, or this long after the first look.
const CALM: Duration = Duration::from_secs(10);
const LATEST: Duration = Duration::from_secs(60);

/// What to do, and when.
#[derive(Debug, Default)]
pub struct Agenda {
    /// The times of the first and the last change since the last look.
    changes: Option<(Instant, Instant)>,
    /// Ports that have joined a bridge and that no running VM is known to have.
    newcomers: BTreeMap<String, Newcomer>,
    /// Ports that have left since the last look.
    left: BTreeSet<String>,
    /// Whether other programs have changed our tables since the last look.
    is_rewritten: bool,
    /// Whether the next look must examine everything, because it is unknown what has changed.
    is_lost: bool,
    /// Whether the kernel could not tell all changes since the last look.
    is_deaf: bool,
    /// The times of the first and the last look at single changes since the last look at the whole host.
    parts: Option<(Instant, Instant)>,
    /// When to try again after a failure, and how long the last wait was.
    retry: Option<(Instant, Duration)>,
    /// When the caller asked to look next.
    asked: Option<Instant>,
    /// When the rest after a look ends.
    rest: Option<Instant>,
}

/// A port that has joined a bridge.
#[derive(Debug)]
struct Newcomer {
    came: Instant,
    /// The time after that at which to look for its VM next.
    next: Duration,
}

/// What to examine.
#[derive(Debug)]
pub struct Task {
    /// Everything, whatever we believe to know.
    pub is_whole: bool,
    /// All fences in the kernel.
    pub is_rewritten: bool,
    /// Whether the kernel could not tell all changes, so that any port may have changed.
    pub is_deaf: bool,
    /// The ports whose VMs the hypervisors must be asked about.
    pub doubt: Doubt,
}

impl Agenda {
    /// Returns when to look; `None`: not until something happens.
    pub fn due(&self) -> Option<Instant> {
        let settled = |(first, last): (Instant, Instant)| (last + QUIET).min(first + BURST);
        let retry = self.retry.map(|(when, _)| when);
        let newcomers = self.newcomers.values().map(|port| port.came + port.next);
        let due = self.changes.map(settled).into_iter().chain(retry);
        let due = due.chain(newcomers).chain(self.whole_due());
        let due = due.chain(self.asked).min()?;
        Some(self.rest.map_or(due, |rest| due.max(rest)))
    }

    fn whole_due(&self) -> Option<Instant> {
        let due = |(first, last): (Instant, Instant)| (last + CALM).min(first + LATEST);
        self.parts.map(due)
    }

    /// Notes changes. Counts changes of `tables` only; `None` means all tables.
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
                Event::Lost => {
                    self.is_lost = true;
                    self.is_deaf = true;
                }
            }
            let first = self.changes.map_or(now, |(first, _)| first);
            self.changes = Some((first, now));
        }
    }

    /// Demands a look at everything, now.
    pub fn start_over(&mut self, now: Instant) {
        self.is_lost = true;
        self.rest = None;
        self.changes = Some((now, now));
    }

    /// Demands a look at this time, even if nothing happens.
    pub fn look_again(&mut self, when: Instant) {
        self.asked = Some(when);
    }

    /// Returns what to examine now, and removes it from the agenda.
    pub fn take(&mut self, now: Instant) -> Task {
        self.changes = None;
        self.asked = self.asked.filter(|when| *when > now);
        let is_due = self.whole_due().is_some_and(|due| due <= now);
        Task {
            is_whole: std::mem::take(&mut self.is_lost) || is_due,
            is_rewritten: std::mem::take(&mut self.is_rewritten),
            is_deaf: std::mem::take(&mut self.is_deaf),
            doubt: Doubt {
                came: self.newcomers.keys().cloned().collect(),
                left: std::mem::take(&mut self.left),
            },
        }
    }

    /// Tells whether one of this VM's ports may have changed since the last look.
    pub fn may_have_changed(&self, vm: &Vm) -> bool {
        let mut ports = vm.nics.iter().map(|nic| nic.port.as_str());
        let is_in_doubt = |port| self.newcomers.contains_key(port) || self.left.contains(port);
        self.is_deaf || ports.any(is_in_doubt)
    }

    /// Notes that a look, which began at `start`, has ended. It found the VMs that have the `found`
    /// ports.
    pub fn looked(&mut self, task: &Task, found: &BTreeSet<Port>, start: Instant, end: Instant) {
        self.ended(start, end);
        self.retry = None;
        for port in found {
            self.newcomers.remove(port.as_str());
        }
        let first = self.parts.map_or(end, |(first, _)| first);
        self.parts = (!task.is_whole).then_some((first, end));
    }

    /// Notes that a look has failed, so that it is unknown what has changed.
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

/// Removes the events that our own changes caused: `writes` transactions, and changes of the `touched`
/// ports. Keeps events that others caused meanwhile.
pub fn without_echo(
    mut events: Vec<Event>,
    tables: &[&str],
    writes: usize,
    touched: &BTreeSet<Port>,
) -> Vec<Event> {
    let is_ours = |event: &Event| matches!(event, Event::Tables(t) if is_about(t, Some(tables)));
    // The kernel does not tell who made a transaction. If there are as many as we made, all are ours.
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
