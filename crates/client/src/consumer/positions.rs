//! Where a consumer stands in each of its partitions.
//!
//! Pure. A partition is either looking for its position or has one; `position` is the next offset to hand out
//! and `handled` what the application is done with, which is what gets committed. Neither moves back by itself.

use std::collections::BTreeMap;

use tokio::time::Instant;
use wire::{LeaderEpoch, Millis, Offset, TopicPartition};

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

/// One partition.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) state: State,
    pub(super) handled: Option<Handled>,
    pub(super) watermarks: Option<Watermarks>,
    /// A pause after an error.
    pub(super) not_before: Option<Instant>,
    /// Fetched and not yet handed out, or being fetched.
    pub(super) is_busy: bool,
}

/// What the application is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handled {
    pub(super) next: Offset,
    pub(super) leader_epoch: LeaderEpoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be looked up.
    Seeking(Start),
    Reading {
        position: Offset,
        /// Of the last record handed out.
        leader_epoch: LeaderEpoch,
    },
}

/// All partitions of a consumer.
#[derive(Debug, Default)]
pub(super) struct Positions {
    partitions: BTreeMap<TopicPartition, Position>,
}

impl Positions {
    pub(super) fn begin(&mut self, partition: TopicPartition, start: Start) {
        let state = match start {
            Start::Offset(position) => State::Reading { position, leader_epoch: LeaderEpoch::NONE },
            start => State::Seeking(start),
        };
        let position = Position { state, handled: None, watermarks: None, not_before: None, is_busy: false };
        self.partitions.insert(partition, position);
    }

    pub(super) fn clear(&mut self) {
        self.partitions.clear();
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Position> {
        self.partitions.get(partition)
    }

    pub(super) fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut Position> {
        self.partitions.get_mut(partition)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.keys()
    }

    pub(super) fn seeking(&self) -> Vec<(TopicPartition, Start)> {
        let seeking = self.partitions.iter().filter_map(|(name, position)| match position.state {
            State::Seeking(start) => Some((name.clone(), start)),
            State::Reading { .. } => None,
        });
        seeking.collect()
    }

    /// Those that a fetch may be sent for now, with what they want.
    pub(super) fn fetchable(&self, now: Instant) -> Vec<(TopicPartition, Offset)> {
        let fetchable = self.partitions.iter().filter_map(|(name, position)| match position.state {
            State::Reading { position: offset, .. }
                if !position.is_busy && position.not_before.is_none_or(|not_before| not_before <= now) =>
            {
                Some((name.clone(), offset))
            }
            _ => None,
        });
        fetchable.collect()
    }

    /// When the first pause is over, if there is any.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.partitions.values().filter_map(|position| position.not_before).min()
    }

    pub(super) fn end_pauses(&mut self, now: Instant) {
        for position in self.partitions.values_mut() {
            position.not_before = position.not_before.filter(|&not_before| not_before > now);
        }
    }

    /// Everything handed out so far is done with.
    pub(super) fn handle_all(&mut self) {
        for position in self.partitions.values_mut() {
            if let State::Reading { position: next, leader_epoch } = position.state {
                position.handled = Some(Handled { next, leader_epoch });
            }
        }
    }

    pub(super) fn handled(&self) -> Vec<(TopicPartition, Handled)> {
        let handled = self
            .partitions
            .iter()
            .filter_map(|(name, position)| position.handled.map(|handled| (name.clone(), handled)));
        handled.collect()
    }
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

#[cfg(test)]
mod tests {
    use wire::{Millis, Offset, PartitionId, TopicPartition};

    use super::{Positions, Start};

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

    #[test]
    fn only_what_was_handed_out_counts_as_handled() {
        let mut positions = Positions::default();
        let partition = TopicPartition::new("t", PartitionId(0));
        positions.begin(partition.clone(), Start::Latest);
        positions.handle_all();
        assert!(positions.handled().is_empty(), "without a position there is nothing to commit");
        positions.begin(partition, Start::Offset(Offset(5)));
        assert!(positions.handled().is_empty());
        positions.handle_all();
        assert_eq!(positions.handled()[0].1.next, Offset(5));
    }
}
