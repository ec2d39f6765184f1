//! How much may be read in a second, by all lines of an instance together.
//!
//! What was taken is paid for in time, at the rate that is allowed: reading goes on when everything is paid. Time that nobody used counts for a
//! second at most, so that after a pause a second's worth comes at once, and no more. Invariant: over any stretch of time no more is
//! taken than its seconds and one more allow, and what each line took last. Nothing waits here: whoever reads asks for how long it has
//! to, and sees to its group, to what is due and to being stopped meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Unused time that counts.
const SPARE_MAX: Duration = Duration::from_secs(1);

/// A bucket of tokens, told as time: pure, its clock is an argument.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    bytes_per_second: u64,
    /// When all that was taken is paid for.
    paid_at: Duration,
}

impl Bucket {
    fn new(bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "a size is at least 1");
        Self { bytes_per_second, paid_at: Duration::ZERO }
    }

    fn take(&mut self, bytes: u64, now: Duration) {
        const NANOS: u128 = 1_000_000_000;
        let nanos = u128::from(bytes) * NANOS / u128::from(self.bytes_per_second);
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = self.paid_at.max(now.saturating_sub(SPARE_MAX));
        self.paid_at = from.saturating_add(price);
    }

    /// Until reading may go on.
    fn wait(&self, now: Duration) -> Duration {
        self.paid_at.saturating_sub(now)
    }
}

/// The bucket that an instance's lines share; without one nothing is held back.
#[derive(Debug, Clone)]
pub(crate) struct Throttle {
    bucket: Option<Arc<Mutex<Bucket>>>,
    begun: Instant,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let bucket = bytes_per_second.map(|rate| Arc::new(Mutex::new(Bucket::new(rate))));
        Self { bucket, begun: Instant::now() }
    }

    /// So much was read.
    pub(crate) fn take(&self, bytes: u64) {
        if let Some(bucket) = &self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, self.begun.elapsed());
        }
    }

    /// Until reading may go on; the other lines may make it longer.
    pub(crate) fn wait(&self) -> Duration {
        let wait = |bucket: &Mutex<Bucket>| {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).wait(self.begun.elapsed())
        };
        self.bucket.as_deref().map_or(Duration::ZERO, wait)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use super::{Bucket, SPARE_MAX};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Bytes taken at times in milliseconds, and how long to wait behind each.
    fn check(takes: &[(u64, u64)], expected: Expect) {
        let mut bucket = Bucket::new(1000);
        let mut told = String::new();
        for &(at, bytes) in takes {
            let before = bucket.wait(ms(at));
            bucket.take(bytes, ms(at));
            told += &format!("{at}: waits {before:?}, takes {bytes}, waits {:?}\n", bucket.wait(ms(at)));
        }
        expected.assert_eq(&told);
    }

    #[test]
    fn what_was_taken_is_paid_for_before_more_is() {
        check(
            &[(1000, 1000), (1000, 500), (1400, 0), (1500, 2500), (4000, 1)],
            expect![[r#"
                1000: waits 0ns, takes 1000, waits 0ns
                1000: waits 0ns, takes 500, waits 500ms
                1400: waits 100ms, takes 0, waits 100ms
                1500: waits 0ns, takes 2500, waits 2.5s
                4000: waits 0ns, takes 1, waits 1ms
            "#]],
        );
    }

    #[test]
    fn an_hour_without_reading_is_worth_a_second() {
        check(
            &[(0, 10), (3_600_000, 1500), (3_600_500, 100)],
            expect![[r#"
                0: waits 0ns, takes 10, waits 10ms
                3600000: waits 0ns, takes 1500, waits 500ms
                3600500: waits 0ns, takes 100, waits 100ms
            "#]],
        );
    }

    #[test]
    fn a_price_beyond_all_time_waits_and_does_not_overflow() {
        let mut bucket = Bucket::new(1);
        bucket.take(u64::MAX, ms(5));
        bucket.take(u64::MAX, Duration::MAX);
        assert!(bucket.wait(ms(5)) > Duration::from_secs(3_600 * 24 * 365));
    }

    /// Two lines that read whenever they may, in portions that differ, over an hour of virtual time.
    #[test]
    fn over_any_stretch_the_rate_holds_for_all_lines_together() {
        const RATE: u64 = 10_000;
        const PORTION_MAX: u64 = 4_000;
        let mut bucket = Bucket::new(RATE);
        let mut taken: Vec<(Duration, u64)> = Vec::new();
        let mut dice: u64 = 7;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let mut now = ms(0);
        while now < ms(3_600_000) {
            // Now and then nobody has anything to read for a while.
            now += ms(if roll(50) == 0 { roll(5_000) } else { 1 }) + bucket.wait(now);
            // Both lines may have looked before either of them took.
            for _ in 0..=roll(2) {
                let bytes = roll(PORTION_MAX);
                bucket.take(bytes, now);
                taken.push((now, bytes));
            }
        }
        let mut from = 0;
        let mut sum = 0;
        for to in 0..taken.len() {
            sum += taken[to].1;
            while taken[to].0 - taken[from].0 > Duration::from_secs(60) {
                sum -= taken[from].1;
                from += 1;
            }
            let stretch = taken[to].0 - taken[from].0 + SPARE_MAX;
            let allowed = stretch.as_nanos() * u128::from(RATE) / 1_000_000_000;
            assert!(u128::from(sum) <= allowed + u128::from(2 * PORTION_MAX), "{sum} bytes in {stretch:?}");
        }
        let all: u64 = taken.iter().map(|(_, bytes)| bytes).sum();
        assert!(all > 3_600 * RATE / 2, "nor is it held back where it need not be: {all}");
    }
}
