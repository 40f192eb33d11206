//! `macfence watch`: keep every running VM fenced, whoever changes what. It does nothing until the
//! kernel tells of a change, and then what `sync` does. SIGHUP makes it read the configuration again.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::shared::{print, warn_of_unknown_bridges};
use super::sync;
use crate::cli::Global;
use crate::config::Config;
use crate::events::{Event, Events};
use crate::report;

/// How long nothing must happen before a burst is taken to be over, and how long one is waited for.
const QUIET: Duration = Duration::from_millis(50);
const BURST: Duration = Duration::from_millis(250);

/// At most half of the time is spent on syncing. A rest is never longer than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A port comes to its bridge before its hypervisor tells of it: how soon it is looked for again,
/// each time after twice as long, and for how long.
const FIRST_POLL: Duration = Duration::from_millis(100);
const LAST_POLL: Duration = Duration::from_secs(10);

/// How soon it is tried again after a failure, each time after twice as long, up to the last:
/// libvirt's return is told by nobody.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Runs it, until it is told to end. `flags` are those that `config` was made with.
pub fn run(mut config: Config, flags: &Global) -> Result<()> {
    let end = told_by(&[SIGTERM, SIGINT]).context("cannot wait for signals")?;
    let mut reload = told_by(&[SIGHUP]).context("cannot wait for signals")?;
    // Before the first sync: whatever happens from then on is told.
    let events = Events::listen()?;
    warn_of_unknown_bridges(&config);
    let mut watch = Watch::default();
    watch.sync(&config)?;
    notify(NotifyState::Ready);
    loop {
        let [links, rulesets] = events.sources();
        let mut sources = [links, rulesets, reload.as_fd(), end.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
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
        let [_, _, is_to_reload, is_to_end] = sources.map(|source| !source.revents().is_empty());
        if is_to_end {
            notify(NotifyState::Stopping);
            return Ok(());
        }
        if is_to_reload {
            // However often it was told.
            while reload.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
            watch.reload(&mut config, flags);
        }
        watch.hear(events.read()?);
        if watch.due().is_some_and(|due| due <= Instant::now()) {
            watch.sync(&config)?;
        }
    }
}

/// What can be read from once one of these signals has come.
fn told_by(signals: &[i32]) -> io::Result<UnixStream> {
    let (told, tell) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, tell.try_clone()?)?;
    }
    Ok(told)
}

/// Tells systemd, if it is there, and started us so that it wants to know.
fn notify(state: NotifyState) {
    // Nobody else listens, and nothing depends on it.
    let _ = sd_notify::notify(&[state]);
}

/// What is to be done, and when.
#[derive(Debug, Default)]
struct Watch {
    /// When the first and the last change happened since the last sync.
    changes: Option<(Instant, Instant)>,
    /// The tables whose changes count. Before they are known, those of all tables do.
    tables: Option<&'static [&'static str]>,
    /// Ports that have come and are no running VM's yet.
    newcomers: BTreeMap<String, Newcomer>,
    /// When to try again after a failure, and how long that was waited for.
    retry: Option<(Instant, Duration)>,
    /// Until when to rest after a sync.
    rest: Option<Instant>,
    /// What the last sync could not do, which is said only once.
    trouble: Vec<String>,
}

/// A port that has come.
#[derive(Debug)]
struct Newcomer {
    came: Instant,
    /// How long after that it is looked for next.
    next: Duration,
}

impl Watch {
    /// When to sync; `None`: not until something happens.
    fn due(&self) -> Option<Instant> {
        let settled = |(first, last): (Instant, Instant)| (last + QUIET).min(first + BURST);
        let retry = self.retry.map(|(when, _)| when);
        let newcomers = self.newcomers.values().map(|port| port.came + port.next);
        let due = self.changes.map(settled).into_iter().chain(retry);
        let due = due.chain(newcomers).min()?;
        Some(self.rest.map_or(due, |rest| due.max(rest)))
    }

    /// Takes note of what has happened.
    fn hear(&mut self, events: Vec<Event>) {
        let now = Instant::now();
        for event in events {
            match event {
                Event::Port(port) => {
                    let newcomer = Newcomer {
                        came: now,
                        next: FIRST_POLL,
                    };
                    self.newcomers.insert(port, newcomer);
                }
                Event::Table(table)
                    if self
                        .tables
                        .is_some_and(|ours| !ours.contains(&table.as_str())) =>
                {
                    continue;
                }
                Event::PortGone | Event::Table(_) | Event::Lost => {}
            }
            let first = self.changes.map_or(now, |(first, _)| first);
            self.changes = Some((first, now));
        }
    }

    /// Reads the configuration again. With one that cannot be used, all stays as it is.
    fn reload(&mut self, config: &mut Config, flags: &Global) {
        match Config::new(flags.clone()) {
            Ok(new) => *config = new,
            Err(e) => {
                report::warning(&format!("{e:#}; the settings stay as they are"));
                return;
            }
        }
        report::note("the configuration has been read again");
        warn_of_unknown_bridges(config);
        // Of another firewall other tables count.
        self.tables = None;
        self.rest = None;
        let now = Instant::now();
        self.changes = Some((now, now));
    }

    /// Sets right what is wrong, and says so.
    fn sync(&mut self, config: &Config) -> Result<()> {
        let start = Instant::now();
        self.changes = None;
        let done = sync::sync(config);
        let end = Instant::now();
        self.rest = Some(end + (end - start).min(LONGEST_REST));
        self.newcomers.retain(|_, port| {
            while port.came + port.next <= end {
                port.next *= 2;
            }
            port.next < LAST_POLL
        });
        match done {
            Ok(done) => {
                self.retry = None;
                self.complain([done.failed, done.open].concat());
                self.tables = Some(done.tables);
                for port in done.ports {
                    self.newcomers.remove(port.as_str());
                }
                print(&done.changed.join(""))
            }
            Err(e) => {
                let waited = self.retry.map_or(Duration::ZERO, |(_, waited)| waited);
                let wait = (waited * 2).clamp(FIRST_RETRY, LAST_RETRY);
                self.retry = Some((end + wait, wait));
                self.complain(vec![format!("{e:#}; the fences stay as they are")]);
                Ok(())
            }
        }
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
