//! How fast records may be sent: a burst waits here instead of flooding who reads.
//!
//! Pure: each reservation is given its time. Rates are kept over a tenth of a second, so that a steady flow below
//! the rate never waits.

use std::time::Duration;

use tokio::time::Instant;

/// What may come at once, as time at the rate.
const SLACK: Duration = Duration::from_millis(100);

/// The rates, and how far they are used.
#[derive(Debug)]
pub(super) struct Pace {
    records: Rate,
    bytes: Rate,
}

#[derive(Debug)]
struct Rate {
    /// 0 for any number.
    per_second: u32,
    /// The time at which all that was reserved has been sent at the rate.
    paid: Option<Instant>,
}

impl Pace {
    /// None if there is no limit.
    pub(super) fn new(records_per_second: u32, bytes_per_second: u32) -> Option<Self> {
        let rate = |per_second| Rate { per_second, paid: None };
        (records_per_second > 0 || bytes_per_second > 0)
            .then(|| Self { records: rate(records_per_second), bytes: rate(bytes_per_second) })
    }

    /// When a record of so many bytes may go.
    pub(super) fn reserve(&mut self, bytes: usize, now: Instant) -> Instant {
        self.records.reserve(1, now).max(self.bytes.reserve(bytes, now))
    }
}

impl Rate {
    fn reserve(&mut self, units: usize, now: Instant) -> Instant {
        if self.per_second == 0 {
            return now;
        }
        let begin = self.paid.map_or(now, |paid| paid.max(now));
        self.paid = Some(begin + Duration::from_secs_f64(units as f64 / f64::from(self.per_second)));
        // What is ahead of the clock by less than the slack does not wait.
        if begin <= now + SLACK { now } else { begin - SLACK }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Pace;

    /// After how many milliseconds the last of so many records goes, all handed over at once.
    fn last_of(pace: &mut Pace, count: usize, bytes: usize, now: Instant) -> u128 {
        let times = (0..count).map(|_| pace.reserve(bytes, now));
        (times.max().unwrap() - now).as_millis()
    }

    #[test]
    fn a_burst_is_spread_over_the_time_that_the_rate_asks_for() {
        let now = Instant::now();
        assert!(Pace::new(0, 0).is_none());
        let mut pace = Pace::new(1000, 0).unwrap();
        assert_eq!(last_of(&mut pace, 100, 1, now), 0, "a tenth of a second's worth may come at once");
        assert_eq!(last_of(&mut pace, 1001, 1, now), 1000);
        let mut pace = Pace::new(0, 1000).unwrap();
        assert_eq!(last_of(&mut pace, 31, 100, now), 2900);
        let mut pace = Pace::new(1000, 1000).unwrap();
        assert_eq!(last_of(&mut pace, 31, 100, now), 2900, "the slower rate counts");
    }

    #[test]
    fn a_steady_flow_below_the_rate_never_waits() {
        let mut now = Instant::now();
        let mut pace = Pace::new(1000, 0).unwrap();
        for _ in 0..5000 {
            assert_eq!(pace.reserve(1, now), now);
            now += Duration::from_millis(1);
        }
    }
}
