//! `macfence watch`: keep every running VM fenced, whoever changes what. It does nothing until the
//! kernel tells of a change, and then what `sync` does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::sync::sync;
use super::{print, warn_of_unknown_bridges};
use crate::config::Config;
use crate::events::{Event, Events};
use crate::report;

/// How long nothing must happen before a burst is taken to be over, and how long one is waited for.
const QUIET: Duration = Duration::from_millis(50);
const BURST: Duration = Duration::from_millis(250);

/// At most half of the time is spent on looking, and never is there a longer rest than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A port comes to its bridge before its hypervisor tells of it: how soon it is looked for again,
/// each time after twice as long, and for how long.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(10);

/// After a failure, likewise: libvirt's return is told by nobody.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Runs it, until it is told to end.
pub fn run(config: &Config) -> Result<()> {
    let (told, tell) = UnixStream::pair().context("cannot wait for signals")?;
    for signal in [SIGTERM, SIGINT] {
        let tell = tell.try_clone().context("cannot wait for signals")?;
        signal_hook::low_level::pipe::register(signal, tell).context("cannot wait for signals")?;
    }
    // Before the first look: whatever happens from then on is told.
    let events = Events::listen()?;
    warn_of_unknown_bridges(config);
    let mut watch = Watch::default();
    watch.look(config)?;
    notify(NotifyState::Ready);
    loop {
        let [links, rulesets] = events.sources();
        let mut sources =
            [links, rulesets, told.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let due = watch
            .due()
            .map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = due
            .map(Timespec::try_from)
            .transpose()
            .context("a time-out")?;
        match poll(&mut sources, timeout.as_ref()).map_err(io::Error::from) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                return Err(e).context("cannot wait");
            }
            _ => {}
        }
        if sources
            .last()
            .is_some_and(|told| !told.revents().is_empty())
        {
            notify(NotifyState::Stopping);
            return Ok(());
        }
        watch.hear(events.read()?);
        if watch.due().is_some_and(|due| due <= Instant::now()) {
            watch.look(config)?;
        }
    }
}

/// Tells systemd, if it is there, and started us so that it wants to know.
fn notify(state: NotifyState) {
    // Nobody else listens, and nothing depends on it.
    let _ = sd_notify::notify(&[state]);
}

/// What is to be done, and when.
#[derive(Debug, Default)]
struct Watch {
    /// When the first and the last change happened that were not looked at yet.
    changes: Option<(Instant, Instant)>,
    /// The table whose changes count; before it is known, all do.
    table: Option<&'static str>,
    /// Ports that have come and are not fenced: when they came.
    newcomers: BTreeMap<String, Instant>,
    /// When to look again although nothing may happen, and how long that was waited for.
    again: Option<(Instant, Duration)>,
    /// Until when to rest after a look.
    rest: Option<Instant>,
    /// What the last look could not do: said once.
    trouble: Vec<String>,
}

impl Watch {
    /// When to look; `None`: not until something happens.
    fn due(&self) -> Option<Instant> {
        let settled = |(first, last): (Instant, Instant)| (last + QUIET).min(first + BURST);
        let again = self.again.map(|(when, _)| when);
        let due = self.changes.map(settled).into_iter().chain(again).min()?;
        Some(self.rest.map_or(due, |rest| due.max(rest)))
    }

    /// Takes note of what has happened.
    fn hear(&mut self, events: Vec<Event>) {
        let now = Instant::now();
        for event in events {
            match event {
                Event::Port(port) => drop(self.newcomers.entry(port).or_insert(now)),
                Event::Table(table) if self.table.is_some_and(|ours| ours != table) => continue,
                Event::PortGone | Event::Table(_) | Event::Lost => {}
            }
            let first = self.changes.map_or(now, |(first, _)| first);
            self.changes = Some((first, now));
        }
    }

    /// Sets right what is wrong, and says so.
    fn look(&mut self, config: &Config) -> Result<()> {
        let start = Instant::now();
        self.changes = None;
        let waited = self
            .again
            .take()
            .map_or(Duration::ZERO, |(_, waited)| waited);
        let done = sync(config);
        let end = Instant::now();
        self.rest = Some(end + (end - start).min(LONGEST_REST));
        let trouble = match &done {
            Ok(done) => done.failed.clone(),
            Err(e) => vec![format!("{e:#}; the fences stay as they are")],
        };
        self.complain(trouble);
        match done {
            Ok(done) => {
                print(&done.changed.join(""))?;
                self.table = Some(done.table);
                self.newcomers.retain(|port, came| {
                    !done.ports.iter().any(|p| p.as_str() == port) && came.elapsed() < LAST_LOOK
                });
                if !self.newcomers.is_empty() {
                    self.look_again((waited * 2).max(FIRST_LOOK));
                }
            }
            Err(_) => self.look_again((waited * 2).clamp(FIRST_RETRY, LAST_RETRY)),
        }
        Ok(())
    }

    fn look_again(&mut self, wait: Duration) {
        self.again = Some((Instant::now() + wait, wait));
    }

    /// Says what cannot be done, unless it has just been said.
    fn complain(&mut self, trouble: Vec<String>) {
        if trouble.is_empty() && !self.trouble.is_empty() {
            report::note("all running VMs can be fenced again");
        }
        for new in trouble.iter().filter(|new| !self.trouble.contains(new)) {
            report::warning(new);
        }
        self.trouble = trouble;
    }
}
