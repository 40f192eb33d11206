//! `macfence watch`: keeps every running VM fenced, whoever changes the host. It sleeps until the
//! kernel reports a change, and then does what `sync` does: for the VMs that have changed if it knows
//! them, else for all. It reads the configuration again on SIGHUP, and before a look if the file has
//! changed: `sync` has then used the new file, and must not be undone.

mod agenda;
mod settings;
mod silence;

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::agenda::{Agenda, Task, without_echo};
use self::settings::{Settings, State, WRITING};
use super::known::Known;
use super::shared::{print, warn_of_unknown_bridges};
use super::sync::{self, Done};
use crate::cli::Global;
use crate::config::Config;
use crate::events::Events;
use crate::heartbeat;
use crate::lock;
use crate::report;
use crate::source::{Hypervisors, Last, Running};
use crate::vm::Vm;

/// Runs until a signal ends it.
pub fn run(flags: Global) -> Result<()> {
    let mut settings = Settings::new(flags)?;
    let end = told_by(&[SIGTERM, SIGINT]).context("cannot wait for signals")?;
    let mut reload = told_by(&[SIGHUP]).context("cannot wait for signals")?;
    let heartbeat = heartbeat::start();
    // Start listening before the first look, so that no later change is missed.
    let events = Events::listen()?;
    warn_of_unknown_bridges(&settings.config);
    let mut watch = Watch::default();
    watch.agenda.start_over(Instant::now());
    watch.look(&mut settings, &events)?;
    notify(NotifyState::Ready);
    loop {
        heartbeat::beat();
        let [links, rulesets] = events.sources();
        let mut sources = [links, rulesets, reload.as_fd(), end.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let due = watch.agenda.due();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = due
            .into_iter()
            .chain(heartbeat)
            .min()
            .map(Timespec::try_from);
        let timeout = timeout.transpose().context("a time-out")?;
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
            // Several signals count as one.
            while reload.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
            watch.reload(&mut settings);
        }
        let heard = events.read()?;
        watch.agenda.hear(heard, watch.tables, Instant::now());
        let due = watch.agenda.due();
        if due.is_some_and(|due| due <= Instant::now()) {
            watch.look(&mut settings, &events)?;
        }
    }
}

/// Returns a stream that becomes readable when one of these signals has come.
fn told_by(signals: &[i32]) -> io::Result<UnixStream> {
    let (told, tell) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, tell.try_clone()?)?;
    }
    Ok(told)
}

/// Notifies systemd, if systemd started us and asked for it.
fn notify(state: NotifyState) {
    // Ignore errors: nothing depends on this message.
    let _ = sd_notify::notify(&[state]);
}

/// The state of the service.
#[derive(Default)]
struct Watch {
    agenda: Agenda,
    /// The tables whose changes matter. `None` until they are known: then all tables matter.
    tables: Option<&'static [&'static str]>,
    /// The last answers of the hypervisors.
    last: Last,
    /// Which VMs run and what the kernel holds for them, if we know.
    known: Option<Known>,
    /// While a hypervisor does not answer: the VMs of the last answer whose ports have not changed since.
    unchanged: Vec<Vm>,
    /// Whether these must be fenced again, because that failed.
    is_owed: bool,
    /// What the last look could not do. It is reported only once.
    trouble: Vec<String>,
}

impl Watch {
    /// Reads the configuration again. If it is wrong, keeps the old settings.
    fn reload(&mut self, settings: &mut Settings) {
        if let Err(e) = settings.read_again() {
            report::warning(&format!("{e:#}; the settings stay as they are"));
            return;
        }
        report::note("the configuration has been read again");
        warn_of_unknown_bridges(&settings.config);
        // Another firewall has other tables.
        self.tables = None;
        self.agenda.start_over(Instant::now());
    }

    /// Reads the configuration again if its file has changed.
    fn follow_file(&mut self, settings: &mut Settings, now: Instant) {
        match settings.state(now) {
            State::Same => return,
            State::Changed => self.reload(settings),
            State::Unfinished => {}
        }
        self.agenda.look_again(now + WRITING);
    }

    /// Repairs the host, and reports what was done.
    fn look(&mut self, settings: &mut Settings, events: &Events) -> Result<()> {
        let start = Instant::now();
        self.follow_file(settings, start);
        let config = &settings.config;
        let task = self.agenda.take(start);
        let asked = self.ask(config, &task);
        let is_answered = asked.is_ok();
        // `_asking` keeps others from asking until the kernel holds the result.
        let done = asked.and_then(|(_asking, running)| self.set_right(config, &task, running));
        let end = Instant::now();
        match done {
            Ok(done) => {
                self.agenda.looked(&task, &done.ports, start, end);
                self.tables = Some(done.tables);
                let heard = events.read()?;
                let heard = without_echo(heard, done.tables, done.writes, &done.touched);
                self.agenda.hear(heard, self.tables, end);
                self.known = done.known;
                self.complain([done.failed, done.open].concat());
                print(&report::changes(&done.changed))
            }
            Err(e) => {
                self.agenda.failed(start, end);
                self.complain(vec![format!("{e:#}; the fences stay as they are")]);
                if is_answered {
                    Ok(())
                } else {
                    self.stand_in(config, &task, events)
                }
            }
        }
    }

    /// Asks which VMs run.
    fn ask(&mut self, config: &Config, task: &Task) -> Result<(Hypervisors, Running)> {
        if task.is_whole {
            self.last = Last::default();
        }
        let hypervisors = Hypervisors::ask(&config.connect)?;
        let running = hypervisors.update(&mut self.last, &task.doubt)?;
        Ok((hypervisors, running))
    }

    fn set_right(&mut self, config: &Config, task: &Task, running: Running) -> Result<Done> {
        self.unchanged.clear();
        self.is_owed = false;
        // What we know counts again only if nothing fails.
        let known = self.known.take();
        if let Some(known) = known.filter(|_| !task.is_whole && !task.is_rewritten)
            && let Some(done) = known.follow(config, &running, &task.doubt)?
        {
            return Ok(done);
        }
        sync::sync(config, running)
    }

    /// Does what can be done without an answer of the hypervisors.
    fn stand_in(&mut self, config: &Config, task: &Task, events: &Events) -> Result<()> {
        if let Some(known) = self.known.take() {
            self.unchanged = known.into_vms();
        }
        let is_due = task.is_rewritten || task.is_deaf || self.is_owed;
        let lock = is_due.then(lock::exclusive);
        // While we waited, a VM may have ended, and a hook may have fenced another one at its port.
        self.agenda
            .hear(events.read()?, self.tables, Instant::now());
        let may_have_changed =
            |vm: &Vm| task.is_deaf || task.doubt.is_about(vm) || self.agenda.may_have_changed(vm);
        self.unchanged.retain(|vm| !may_have_changed(vm));
        let Some(lock) = lock else {
            return Ok(());
        };
        let is_changed = silence::fence_again(config, &self.unchanged, lock);
        self.is_owed = is_changed.is_none();
        let mut heard = events.read()?;
        if let (Some(tables), Some(is_changed)) = (self.tables, is_changed) {
            let nics = self.unchanged.iter().flat_map(|vm| &vm.nics);
            let touched = nics.map(|nic| nic.port.clone()).collect();
            heard = without_echo(heard, tables, usize::from(is_changed), &touched);
        }
        self.agenda.hear(heard, self.tables, Instant::now());
        Ok(())
    }

    /// Reports what cannot be done, unless the last look reported the same.
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
