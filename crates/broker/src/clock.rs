//! Wall-clock time, the one place in the workspace that reads it.
//! Everything that decides takes `now: Millis` as an argument; this is where the argument comes from. A clock may
//! jump, so nothing here promises that time never goes backwards; durations are measured by tokio's timers.

use std::time::{SystemTime, UNIX_EPOCH};

use wire::Millis;

/// The wall clock as the broker sees it: milliseconds since the Unix epoch, UTC.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Millis;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // this is the place that owns the clock
    fn now(&self) -> Millis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}
