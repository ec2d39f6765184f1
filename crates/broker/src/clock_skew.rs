//! How far this broker's clock is from the controller's, as every heartbeat finds out.
//!
//! Nothing that keeps replicas alike goes by a wall clock; retention, `LogAppendTime` and the expiration of offsets do. So
//! a broker with a wrong clock is not shut out, it says so. Who is wrong, it cannot know: the message names both.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wire::{BrokerId, Millis};

/// Clocks that are this close are left alone: machines without NTP drift by about a second a day.
const SKEW_MAX_MS: u64 = 10_000;
/// How often a skew that stays is told.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct ClockSkew {
    /// This clock less the controller's.
    ahead_ms: AtomicI64,
    told: Mutex<Option<Instant>>,
}

impl ClockSkew {
    /// How far this clock is ahead of the controller's, or behind where negative.
    pub(crate) fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    /// Takes what the controller's clock said between two readings of this one.
    pub(crate) fn learn(
        &self,
        sent: Millis,
        controller_time: Millis,
        received: Millis,
        controller: BrokerId,
    ) {
        let ahead_ms = ahead_ms(sent, controller_time, received);
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        let mut told = self.told.lock();
        if ahead_ms.unsigned_abs() <= SKEW_MAX_MS {
            if told.take().is_some() {
                tracing::info!("this broker's clock and the controller's agree again");
            }
            return;
        }
        if told.is_some_and(|told| told.elapsed() < TELL_INTERVAL) {
            return;
        }
        *told = Some(Instant::now());
        tracing::error!(
            %controller,
            "clocks disagree: this broker's is {}. Retention, timestamps and expiration go by them: set both machines' \
             clocks (NTP)",
            direction(ahead_ms)
        );
    }
}

/// What the question and its answer prove: a clock that says something between the two readings may be right.
fn ahead_ms(sent: Millis, controller_time: Millis, received: Millis) -> i64 {
    // This clock may have jumped back meanwhile.
    let at_least = sent.min(received).0.saturating_sub(controller_time.0);
    let at_most = sent.max(received).0.saturating_sub(controller_time.0);
    if at_least > 0 { at_least } else { at_most.min(0) }
}

fn direction(ahead_ms: i64) -> String {
    let seconds = ahead_ms.unsigned_abs() / 1_000;
    let word = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("{seconds} s {word} the controller's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_outside_of_the_question_is_skew() {
        let skew = |controller| ahead_ms(Millis(100), Millis(controller), Millis(160));
        for controller in [100, 130, 160] {
            assert_eq!(skew(controller), 0, "{controller}");
        }
        assert_eq!(skew(40), 60);
        assert_eq!(skew(170), -10);
    }

    #[test]
    fn a_clock_that_jumped_during_the_question_proves_nothing() {
        assert_eq!(ahead_ms(Millis(500), Millis(450), Millis(400)), 0);
        assert_eq!(ahead_ms(Millis(500), Millis(-1), Millis(400)), 401);
    }

    #[test]
    fn the_skew_is_told_in_words() {
        assert_eq!(direction(3_600_400), "3600 s ahead of the controller's");
        assert_eq!(direction(-61_000), "61 s behind the controller's");
    }
}
