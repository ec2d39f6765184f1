//! Places in a partition, as people and brokers name them.

use wire::{LeaderEpoch, Millis, Offset};

/// Where to begin in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    Earliest,
    /// Behind the newest.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// That many records after the oldest.
    AfterEarliest(i64),
    /// That many records before the end.
    BeforeLatest(i64),
    /// At the first record that is not older; at the end when all are.
    At(Millis),
}

impl Start {
    /// The offset meant, between the ends of a partition; `at` is what the brokers say about a time.
    pub fn resolve(self, earliest: Offset, latest: Offset, at: Option<Offset>) -> Offset {
        match self {
            Self::Earliest => earliest,
            Self::Latest => latest,
            Self::Offset(offset) => offset,
            Self::AfterEarliest(records) => earliest.plus(records.clamp(0, latest.0 - earliest.0)),
            Self::BeforeLatest(records) => latest.plus(-records.clamp(0, latest.0 - earliest.0)),
            Self::At(_) => at.unwrap_or(latest),
        }
    }
}

/// A place to begin at, and what is known of the record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The place.
    pub start: Start,
    /// The epoch of the leader that wrote the record before it, or [`LeaderEpoch::NONE`]. With it, a log that was
    /// truncated meanwhile is noticed before anything is read (KIP-320).
    pub leader_epoch: LeaderEpoch,
}

impl From<Start> for Begin {
    fn from(start: Start) -> Self {
        Self { start, leader_epoch: LeaderEpoch::NONE }
    }
}

impl From<Offset> for Begin {
    fn from(offset: Offset) -> Self {
        Start::Offset(offset).into()
    }
}

/// How far a partition is dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The next offset.
    pub next: Offset,
    /// The epoch of the leader that wrote what lies before it, or [`LeaderEpoch::NONE`].
    pub leader_epoch: LeaderEpoch,
    /// Up to where the group has it, as far as this consumer knows: where it began or what it has committed since.
    pub committed: Option<Offset>,
}

/// The ends of a partition, as of the last fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest offset there is.
    pub log_start: Offset,
    /// Behind the last record that no open transaction can take back.
    pub last_stable: Offset,
    /// Behind the last record that all replicas in sync have.
    pub high_watermark: Offset,
}

#[cfg(test)]
mod tests {
    use wire::{Millis, Offset};

    use super::Start;

    #[test]
    fn a_start_never_leaves_the_log() {
        let at = |start: Start| start.resolve(Offset(10), Offset(20), None).0;
        assert_eq!(at(Start::Earliest), 10);
        assert_eq!(at(Start::AfterEarliest(3)), 13);
        assert_eq!(at(Start::AfterEarliest(30)), 20);
        assert_eq!(at(Start::BeforeLatest(3)), 17);
        assert_eq!(at(Start::BeforeLatest(i64::MAX)), 10);
        assert_eq!(at(Start::At(Millis(5))), 20);
        assert_eq!(Start::At(Millis(5)).resolve(Offset(10), Offset(20), Some(Offset(12))).0, 12);
    }
}
