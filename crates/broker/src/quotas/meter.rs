//! How much was taken lately: Kafka's two ways to measure it, without a clock.
//!
//! A rate sums up what was taken in windows of equal length and forgets a window once it is old; a bucket fills at the rate of
//! its limit and may be overdrawn once. Both hold memory for as many windows as there are, and none once nothing is taken.

use std::collections::VecDeque;
use std::time::Duration;

use wire::Millis;

/// How long what was taken counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) count: u32,
    pub(crate) length: Duration,
}

impl Windows {
    fn length_ms(self) -> i64 {
        i64::try_from(self.length.as_millis()).unwrap_or(i64::MAX).max(1)
    }

    fn span_ms(self) -> i64 {
        self.length_ms().saturating_mul(i64::from(self.count))
    }

    fn span_seconds(self) -> f64 {
        self.length.as_secs_f64() * f64::from(self.count)
    }

    /// The most that can be taken at once without a wait, by a rate with this limit of which nothing was taken.
    pub(crate) fn burst_max(self, limit: f64) -> f64 {
        limit * self.length.as_secs_f64() * f64::from(self.count.saturating_sub(1).max(1))
    }
}

/// Something that measures, and may be forgotten.
pub(crate) trait Meter: Default {
    /// Whether a fresh one would measure the same from now on.
    fn is_idle(&self, windows: Windows, now: Millis) -> bool;
}

/// What was taken in the last few windows.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    began: Millis,
    last: Millis,
    taken: f64,
}

impl Rate {
    /// So much was taken; a negative number gives back.
    pub(crate) fn take(&mut self, taken: f64, windows: Windows, now: Millis) {
        self.forget(windows, now);
        let current = self.samples.back_mut().filter(|sample| now.0 - sample.began.0 < windows.length_ms());
        match current {
            Some(sample) => {
                sample.taken += taken;
                sample.last = now;
            }
            None => self.samples.push_back(Sample { began: now, last: now, taken }),
        }
        // One more than there are windows: the oldest may have begun before them.
        if self.samples.len() > windows.count as usize + 1 {
            self.samples.pop_front();
        }
    }

    /// How long nothing may be taken until the rate is down to its limit per second; nothing if it is.
    pub(crate) fn wait(&mut self, limit: f64, windows: Windows, now: Millis) -> Duration {
        self.forget(windows, now);
        let span_ms = self.span_ms(windows, now) as f64;
        let rate = self.samples.iter().map(|sample| sample.taken).sum::<f64>() * 1_000.0 / span_ms;
        if rate > limit { millis((rate - limit) / limit * span_ms) } else { Duration::ZERO }
    }

    /// Whether nothing was taken lately.
    pub(crate) fn is_empty(&mut self, windows: Windows, now: Millis) -> bool {
        self.forget(windows, now);
        self.samples.iter().all(|sample| sample.taken <= 0.0)
    }

    fn forget(&mut self, windows: Windows, now: Millis) {
        let span_ms = windows.span_ms();
        self.samples.retain(|sample| now.0 - sample.last.0 < span_ms);
    }

    /// The time over which what was taken is spread: all windows but the current one count as whole, so that a beginning
    /// does not look like a flood.
    fn span_ms(&self, windows: Windows, now: Millis) -> i64 {
        let elapsed = self.samples.front().map_or(0, |sample| now.0 - sample.began.0);
        let missing = (i64::from(windows.count) - 1 - elapsed / windows.length_ms()).max(0);
        elapsed.saturating_add(missing.saturating_mul(windows.length_ms())).max(1)
    }
}

impl Meter for Rate {
    fn is_idle(&self, windows: Windows, now: Millis) -> bool {
        self.samples.iter().all(|sample| now.0 - sample.last.0 >= windows.span_ms())
    }
}

/// Tokens that come back at the rate of the limit (KIP-599).
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// What is there, and when it was; full at first.
    tokens: Option<(f64, Millis)>,
}

impl Bucket {
    /// Takes tokens, though there may be too few.
    pub(crate) fn take(&mut self, count: f64, limit: f64, windows: Windows, now: Millis) {
        let tokens = self.filled(limit, windows, now);
        self.tokens = Some((tokens - count, now));
    }

    /// How long until there are tokens again; nothing if there are.
    pub(crate) fn wait(&mut self, limit: f64, windows: Windows, now: Millis) -> Duration {
        let tokens = self.filled(limit, windows, now);
        self.tokens = Some((tokens, now));
        if tokens < 0.0 { millis(-tokens / limit * 1_000.0) } else { Duration::ZERO }
    }

    fn filled(&self, limit: f64, windows: Windows, now: Millis) -> f64 {
        let full = limit * windows.span_seconds();
        self.tokens.map_or(full, |(tokens, at)| full.min(tokens + limit * (now.0 - at.0) as f64 / 1_000.0))
    }
}

impl Meter for Bucket {
    fn is_idle(&self, windows: Windows, now: Millis) -> bool {
        // What is not overdrawn is full again after all windows; what is takes longer.
        self.tokens.is_none_or(|(tokens, at)| tokens >= 0.0 && now.0 - at.0 >= windows.span_ms())
    }
}

/// Whole milliseconds, and one at least where there is something to wait for.
fn millis(ms: f64) -> Duration {
    // No answer can say more than an i32.
    Duration::from_millis(ms.round().clamp(1.0, f64::from(i32::MAX)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { count: 11, length: Duration::from_secs(1) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_spread_over_the_windows() {
        let mut rate = Rate::default();
        rate.take(10_000.0, WINDOWS, Millis(0));
        assert_eq!(rate.wait(1_000.0, WINDOWS, Millis(0)), ms(0), "ten seconds' worth");
        rate.take(5_000.0, WINDOWS, Millis(0));
        assert_eq!(rate.wait(1_000.0, WINDOWS, Millis(0)), ms(5_000));
        assert_eq!(rate.wait(1_000.0, WINDOWS, Millis(10_500)), ms(4_500), "time alone pays");
        assert_eq!(rate.wait(1_000.0, WINDOWS, Millis(11_000)), ms(0), "and then it is forgotten");
        assert!(rate.is_idle(WINDOWS, Millis(11_000)) && rate.is_empty(WINDOWS, Millis(11_000)));
    }

    #[test]
    fn a_steady_rate_above_the_limit_waits_and_one_below_does_not() {
        let (mut above, mut below) = (Rate::default(), Rate::default());
        for second in 0..60 {
            above.take(1_100.0, WINDOWS, Millis(second * 1_000));
            below.take(900.0, WINDOWS, Millis(second * 1_000));
        }
        assert!(above.wait(1_000.0, WINDOWS, Millis(59_900)) > ms(0));
        assert_eq!(below.wait(1_000.0, WINDOWS, Millis(59_900)), ms(0));
        assert!(above.samples.len() <= 12);
    }

    #[test]
    fn what_is_given_back_does_not_count() {
        let mut rate = Rate::default();
        rate.take(50_000.0, WINDOWS, Millis(0));
        rate.take(-50_000.0, WINDOWS, Millis(3));
        assert_eq!(rate.wait(1.0, WINDOWS, Millis(5)), ms(0));
        assert!(rate.is_empty(WINDOWS, Millis(5)));
    }

    #[test]
    fn a_bucket_is_overdrawn_once_and_fills_at_its_limit() {
        let mut bucket = Bucket::default();
        bucket.take(60.0, 5.0, WINDOWS, Millis(0));
        assert_eq!(bucket.wait(5.0, WINDOWS, Millis(0)), ms(1_000), "55 were there");
        assert_eq!(bucket.wait(5.0, WINDOWS, Millis(400)), ms(600));
        assert_eq!(bucket.wait(5.0, WINDOWS, Millis(1_000)), ms(0));
        assert!(!bucket.is_idle(WINDOWS, Millis(2_000)));
        assert!(bucket.is_idle(WINDOWS, Millis(12_000)), "full");
    }
}
