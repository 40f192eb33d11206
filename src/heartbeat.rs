//! Gives signs of life to systemd's watchdog, which restarts a service that gives none. There is no thread
//! for this: only the work itself gives signs, so a loop that hangs gives none. It gives one before each
//! step that may take long, so many steps in a row do not look like a hang. The longest step is a wait for
//! a program or a lock.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How often to give a sign; unset if systemd does not wait for one.
static INTERVAL: OnceLock<Duration> = OnceLock::new();

/// When the last sign was given.
static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// The longest step. A service that is starting gets this much more time with each sign.
const LONGEST_STEP: Duration = Duration::from_secs(180);

/// Begins to give signs of life if systemd wants them. Returns how often.
pub fn start() -> Option<Duration> {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
    Some(*INTERVAL.get_or_init(|| limit / 6))
}

/// Gives a sign of life if it is time for one; more often would fill systemd's socket and block us. Ignores
/// errors, because nothing else depends on the sign.
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
        // A service is ready only after its first look, which may take long.
        NotifyState::ExtendTimeoutUsec(longer),
    ]);
}
