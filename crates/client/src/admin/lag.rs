//! How far a group is behind in a partition: in offsets, in time, and how long until it has caught up.
//!
//! Pure. The lag is what Kafka's tools call so: the end of the partition less the committed offset, or less the log's start where
//! that is later. It is zero as well when nothing that a reader is given is left, whatever offsets markers and compaction take.

use std::time::Duration;

use wire::Offset;

use super::Unread;

/// A group's lag in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Offsets from what was committed to the end.
    pub records: i64,
    /// How long the first record has waited that is not read; zero when there is none, absent when nobody can say.
    pub ms: Option<i64>,
}

impl Lag {
    /// The lag of a group that has committed this offset in a log from `start` to `end`.
    pub fn of(committed: Offset, start: Offset, end: Offset, unread: Unread) -> Self {
        // What was committed may lie before the start, when records were deleted, or past the end, when the topic was made anew.
        let records = (end.0 - committed.max(start).0).max(0);
        match (records, unread) {
            (0, _) | (_, Unread::Nothing) => Self { records: 0, ms: Some(0) },
            (records, Unread::Waiting { age_ms, .. }) => Self { records, ms: age_ms },
            (records, Unread::Unknown) => Self { records, ms: None },
        }
    }

    /// The same where no more records than these are left: of what lies behind a share group's start offset some may be done with
    /// (KIP-1226).
    pub fn at_most(self, records: i64) -> Self {
        match records.clamp(0, self.records) {
            0 => Self { records: 0, ms: Some(0) },
            records => Self { records, ..self },
        }
    }
}

/// Where a group and a partition stood at some moment, to be compared with later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What was committed.
    pub committed: Offset,
    /// Where the partition ended.
    pub end: Offset,
}

impl Progress {
    /// How long until the lag is gone, if reading and writing go on as since `earlier`, `elapsed` ago; `None` while the group does not
    /// come nearer.
    pub fn time_to_clear(self, earlier: Self, elapsed: Duration, lag: i64) -> Option<Duration> {
        if lag <= 0 {
            return Some(Duration::ZERO);
        }
        let read = self.committed.0.saturating_sub(earlier.committed.0);
        let written = self.end.0.saturating_sub(earlier.end.0);
        let nearer = read.saturating_sub(written);
        if nearer <= 0 || elapsed.is_zero() {
            return None;
        }
        Duration::try_from_secs_f64(lag as f64 * elapsed.as_secs_f64() / nearer as f64).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::Offset;

    use super::{Lag, Progress, Unread};

    #[test]
    fn lag_is_zero_when_nothing_is_left_to_read() {
        let waiting = |age_ms| Unread::Waiting { offset: Offset(7), age_ms };
        let table = [
            (7, waiting(Some(2_500)), (3, Some(2_500))),
            (7, waiting(None), (3, None)),
            (7, Unread::Unknown, (3, None)),
            (7, Unread::Nothing, (0, Some(0))),
            (10, Unread::Nothing, (0, Some(0))),
            (10, Unread::Unknown, (0, Some(0))),
            (20, Unread::Unknown, (0, Some(0))),
            (2, waiting(Some(1)), (5, Some(1))),
        ];
        for (committed, unread, (records, ms)) in table {
            let lag = Lag::of(Offset(committed), Offset(5), Offset(10), unread);
            assert_eq!(lag, Lag { records, ms }, "{committed} {unread:?}");
        }
    }

    #[test]
    fn what_is_done_with_behind_the_start_offset_is_not_left() {
        let unread = Unread::Waiting { offset: Offset(7), age_ms: Some(9) };
        let lag = Lag::of(Offset(3), Offset(5), Offset(10), unread);
        for (told, records, ms) in [(2, 2, 9), (5, 5, 9), (7, 5, 9), (0, 0, 0)] {
            assert_eq!(lag.at_most(told), Lag { records, ms: Some(ms) }, "{told}");
        }
    }

    #[test]
    fn time_to_clear_is_what_is_left_by_how_fast_it_shrinks() {
        let at = |committed, end| Progress { committed: Offset(committed), end: Offset(end) };
        let clear = |before: Progress, now: Progress| {
            now.time_to_clear(before, Duration::from_secs(10), now.end.0 - now.committed.0)
        };
        assert_eq!(clear(at(0, 1_000), at(100, 1_000)), Some(Duration::from_secs(90)));
        assert_eq!(clear(at(0, 1_000), at(100, 1_050)), Some(Duration::from_secs(190)));
        assert_eq!(clear(at(0, 1_000), at(100, 1_100)), None, "as fast as it is written");
        assert_eq!(clear(at(0, 1_000), at(0, 1_000)), None, "it stands still");
        assert_eq!(clear(at(100, 1_000), at(50, 1_000)), None, "it was sought back");
        assert_eq!(clear(at(0, 1_000), at(1_000, 1_000)), Some(Duration::ZERO));
    }
}
