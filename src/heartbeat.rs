//! A sign of life for systemd's watchdog, which starts a service anew that gives none. Only the work
//! itself gives it: a loop that hangs gives none. The work gives it before each step that may take long, so
//! that many steps one after the other are no hang. The longest step is a wait for a program or a lock.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How often a sign is to be given, where somebody waits for it.
static INTERVAL: OnceLock<Duration> = OnceLock::new();

/// When the last one was given.
static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// How much longer than until the next sign systemd may wait for us to be ready.
const LONGEST_STEP: Duration = Duration::from_secs(180);

/// Begins to give signs of life, if systemd wants them. Returns how often it must be given.
pub fn start() -> Option<Duration> {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
    Some(*INTERVAL.get_or_init(|| limit / 6))
}

/// A sign of life, if it is time for one: whoever sends more than systemd reads has to wait. Nobody else
/// listens, and nothing depends on it.
pub fn beat() {
    let (Some(interval), Ok(mut last)) = (INTERVAL.get(), LAST.lock()) else {
        return;
    };
    if last.is_some_and(|last| last.elapsed() < *interval) {
        return;
    }
    *last = Some(Instant::now());
    let longer = u32::try_from(LONGEST_STEP.as_micros()).unwrap_or(u32::MAX);
    let _ = sd_notify::notify(&[
        NotifyState::Watchdog,
        // For the first look, which a service has to be through with in order to be ready.
        NotifyState::ExtendTimeoutUsec(longer),
    ]);
}
