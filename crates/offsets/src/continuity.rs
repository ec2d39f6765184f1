//! Whether a partition can be read on from where a reader stopped.
//!
//! Pure. A log that still is what it was continues at the stored position; everything else is a gap, with the one cause that
//! explains it. What is missing inside a log because it was compacted, or because transactions end with a marker, is no gap: the
//! position moves over it. Nothing here ever chooses another position unless the policy says so.

use std::fmt;
use std::str::FromStr;

use wire::{LeaderEpoch, Offset, Uuid};

use crate::key::Key;
use crate::store::{Position, Stored};

/// A partition as its leader tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The topic it belongs to.
    pub topic_id: Uuid,
    /// The oldest offset there is.
    pub start: Offset,
    /// Behind the newest record that can be read.
    pub end: Offset,
    /// Where the stored position's leader epoch ends in this log (KIP-320), if it was asked for: the newest epoch there is that is
    /// not newer, and its end; [`LeaderEpoch::NONE`] where there is nothing of an epoch so new.
    pub epoch_end: Option<(LeaderEpoch, Offset)>,
    /// The position's copy with the group coordinator. It is written behind the store's, and ahead of it only by what
    /// nobody gets to see, as the ends of transactions. Nothing while it is of before the position's place was chosen.
    pub copy: Option<Offset>,
}

/// Why reading does not simply go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Retention (or a deletion of records) has removed what was not read yet.
    RetentionPassed,
    /// The topic was deleted, and there is another one of its name.
    TopicRecreated,
    /// The reader has positions in another cluster and none in this one.
    OtherCluster,
    /// The log was cut below the position and written anew: an election took a replica that had less.
    Truncated,
    /// The store is behind what it had once confirmed.
    StoreRolledBack,
    /// Records are missing in the middle of a log that is not compacted.
    Hole,
}

impl Cause {
    /// One word, for metrics and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::RetentionPassed => "retention-passed",
            Self::TopicRecreated => "topic-recreated",
            Self::OtherCluster => "other-cluster",
            Self::Truncated => "truncated",
            Self::StoreRolledBack => "store-rolled-back",
            Self::Hole => "hole",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RetentionPassed => {
                "records that were not read yet have been removed (retention, or deleted by hand)"
            }
            Self::TopicRecreated => "the topic was deleted and created again",
            Self::OtherCluster => "this is another cluster than the one that was read before",
            Self::Truncated => "the log was cut below the position and written anew (unclean election)",
            Self::StoreRolledBack => "the store has lost the last commits that it had confirmed",
            Self::Hole => "records are missing inside the log",
        })
    }
}

/// A partition that is not read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key} stops: {cause}; stored {stored}, expected {expected}, found {found}, log {start} to {end}; \
     `{command}` goes on {place}",
    command = self.command(),
    place = self.place(),
    found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string()),
    start = log.start,
    end = log.end,
)]
pub struct Gap {
    /// The partition.
    pub key: Key,
    /// Why.
    pub cause: Cause,
    /// The position in the store.
    pub stored: Offset,
    /// The offset that should have come next.
    pub expected: Offset,
    /// What is there instead, if anything is.
    pub found: Option<Offset>,
    /// The log as it is.
    pub log: Log,
}

impl Gap {
    /// Where to go on so that as little as possible is left out or comes again: before what is there in place of what was
    /// expected. Offsets of another topic or cluster mean nothing, so that all of it is read.
    pub fn nearest(&self) -> Offset {
        let wanted = match (self.cause, self.found) {
            (Cause::TopicRecreated | Cause::OtherCluster, _) => self.log.start,
            // Behind the hole; before it there is nothing that was not read.
            (Cause::Hole, Some(found)) => found,
            // Where the logs part.
            (Cause::Truncated, Some(found)) => found.min(self.stored),
            _ => self.stored,
        };
        wanted.max(self.log.start).min(self.log.end)
    }

    /// The command that has a reader go on there, for a shell in which `OTTLA_BROKERS` and `OTTLA_OFFSETS_STORE` are set.
    pub fn command(&self) -> String {
        let Key { reader, partition, .. } = &self.key;
        let (topic, number) = (&partition.topic, partition.partition);
        format!("ottla offsets set {reader} {topic}:{number} --to {}", self.nearest())
    }

    /// What lies there, in words.
    fn place(&self) -> &'static str {
        match self.cause {
            Cause::RetentionPassed => "at the oldest record there is",
            Cause::TopicRecreated | Cause::OtherCluster => "at its oldest record",
            Cause::Truncated => "where the logs part",
            Cause::StoreRolledBack => "where the store is, and reads again what was read from there",
            Cause::Hole => "behind the hole",
        }
    }

    /// Where to go on, if the policy says so.
    pub(crate) fn resolve(&self, policy: Policy) -> Option<Offset> {
        match policy {
            Policy::Stop => None,
            Policy::Latest => Some(self.log.end),
            // The hole would be there again.
            Policy::Earliest if self.cause != Cause::Hole => Some(self.log.start),
            Policy::Earliest | Policy::Nearest => Some(self.nearest()),
        }
    }
}

/// What to do at a gap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Read nothing more of the partition until somebody has decided.
    #[default]
    Stop,
    /// Begin at the oldest record there is.
    Earliest,
    /// Begin behind the newest.
    Latest,
    /// Begin where as little as possible is left out or comes again, see [`Gap::nearest`].
    Nearest,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            "nearest" => Ok(Self::Nearest),
            _ => Err(format!("{text:?} is none of stop, earliest, latest, nearest")),
        }
    }
}

/// Whether the log can be read on from the stored position.
pub fn check(key: &Key, stored: &Stored, log: &Log) -> Result<Position, Box<Gap>> {
    let next = stored.position.next;
    let gap = |cause, found| {
        Err(Box::new(Gap { key: key.clone(), cause, stored: next, expected: next, found, log: *log }))
    };
    if stored.topic_id != log.topic_id {
        return gap(Cause::TopicRecreated, Some(log.start));
    }
    // The epoch's end says more than the log's: the log may have grown past the position again.
    match log.epoch_end {
        Some((LeaderEpoch::NONE, _)) => return gap(Cause::Truncated, None),
        // The record before the position was of this epoch, and is of another now.
        Some((epoch, end)) if epoch != stored.position.leader_epoch || end < next => {
            return gap(Cause::Truncated, Some(end));
        }
        _ if next > log.end => return gap(Cause::Truncated, Some(log.end)),
        _ => {}
    }
    if next < log.start {
        return gap(Cause::RetentionPassed, Some(log.start));
    }
    Ok(stored.position)
}

/// Whether reading may begin in a partition of which the store has nothing in this cluster; `elsewhere` is a position in a partition
/// of its name in another cluster.
pub fn check_new(key: &Key, elsewhere: Option<&Stored>, log: &Log) -> Result<(), Box<Gap>> {
    let (cause, stored, found) = match (log.copy, elsewhere) {
        // It was read under this name, and the store knows nothing of that.
        (Some(copy), _) => (Cause::StoreRolledBack, copy, None),
        (None, Some(stored)) => (Cause::OtherCluster, stored.position.next, Some(log.start)),
        (None, None) => return Ok(()),
    };
    Err(Box::new(Gap { key: key.clone(), cause, stored, expected: stored, found, log: *log }))
}

/// The position in a partition of the same name in another cluster, among all that a reader has.
pub(crate) fn elsewhere<'a>(
    key: &Key,
    all: impl IntoIterator<Item = &'a (Key, Stored)>,
) -> Option<&'a Stored> {
    let is_elsewhere =
        |(other, _): &&(Key, Stored)| other.partition == key.partition && other.cluster_id != key.cluster_id;
    all.into_iter().find(is_elsewhere).map(|(_, stored)| stored)
}

/// The first records that came for a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// The first offset of their batch, which may lie before the position.
    pub base: Offset,
    /// Of the first record itself.
    pub offset: Offset,
    /// The oldest offset there is, as of the same answer.
    pub log_start: Offset,
    /// Whether the topic is compacted, so that batches may be missing.
    pub is_compacted: bool,
}

/// Whether the first records continue the position.
pub fn check_first(key: &Key, position: Position, first: First, log: &Log) -> Result<(), Box<Gap>> {
    let cause = match first {
        // A record that was done with before.
        First { offset, .. } if log.copy.is_some_and(|copy| offset < copy) => Cause::StoreRolledBack,
        First { base, .. } if base <= position.next => return Ok(()),
        First { is_compacted: true, log_start, .. } if log_start <= position.next => return Ok(()),
        First { log_start, .. } if log_start > position.next => Cause::RetentionPassed,
        _ => Cause::Hole,
    };
    let found = Some(if cause == Cause::StoreRolledBack { first.offset } else { first.base });
    let log = Log { start: first.log_start, ..*log };
    let expected = log.copy.filter(|_| cause == Cause::StoreRolledBack).unwrap_or(position.next);
    let gap = Gap { key: key.clone(), cause, stored: position.next, expected, found, log };
    Err(Box::new(gap))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wire::{LeaderEpoch, Millis, Offset, PartitionId, TopicPartition, Uuid};

    use super::{Cause, First, Gap, Log, Policy, check, check_first};
    use crate::key::Key;
    use crate::store::{Position, Stored};

    const TOPIC_ID: Uuid = Uuid([7; 16]);

    fn key() -> Key {
        Key {
            reader: "billing".parse().unwrap(),
            cluster_id: "c".to_owned(),
            partition: TopicPartition::new("orders", PartitionId(3)),
            topic_id: TOPIC_ID,
        }
    }

    fn log() -> Log {
        Log { topic_id: TOPIC_ID, start: Offset(10), end: Offset(50), epoch_end: None, copy: None }
    }

    fn told(next: i64, log: Log, expected: Expect) {
        let position = Position { next: Offset(next), leader_epoch: LeaderEpoch(4) };
        let stored = Stored { position, topic_id: TOPIC_ID, updated: Millis(0), over: None };
        expected.assert_eq(&match check(&key(), &stored, &log) {
            Ok(position) => format!("reads on at {}", position.next),
            Err(gap) => gap.to_string(),
        });
    }

    #[test]
    fn a_log_that_is_what_it_was_is_read_on() {
        told(10, log(), expect!["reads on at 10"]);
        told(50, log(), expect!["reads on at 50"]);
        let validated =
            Log { epoch_end: Some((LeaderEpoch(4), Offset(40))), copy: Some(Offset(39)), ..log() };
        told(40, validated, expect!["reads on at 40"]);
    }

    #[test]
    fn every_gap_has_its_cause() {
        told(
            9,
            log(),
            expect![
                "orders-3 of reader billing stops: records that were not read yet have been removed (retention, or deleted by hand); stored 9, expected 9, found 10, log 10 to 50; `ottla offsets set billing orders:3 --to 10` goes on at the oldest record there is"
            ],
        );
        told(
            51,
            log(),
            expect![
                "orders-3 of reader billing stops: the log was cut below the position and written anew (unclean election); stored 51, expected 51, found 50, log 10 to 50; `ottla offsets set billing orders:3 --to 50` goes on where the logs part"
            ],
        );
        let cut = Log { epoch_end: Some((LeaderEpoch(4), Offset(30))), ..log() };
        told(
            40,
            cut,
            expect![
                "orders-3 of reader billing stops: the log was cut below the position and written anew (unclean election); stored 40, expected 40, found 30, log 10 to 50; `ottla offsets set billing orders:3 --to 30` goes on where the logs part"
            ],
        );
        let unknown_epoch = Log { epoch_end: Some((LeaderEpoch(3), Offset(45))), ..log() };
        told(
            40,
            unknown_epoch,
            expect![
                "orders-3 of reader billing stops: the log was cut below the position and written anew (unclean election); stored 40, expected 40, found 45, log 10 to 50; `ottla offsets set billing orders:3 --to 40` goes on where the logs part"
            ],
        );
        let older_log = Log { epoch_end: Some((LeaderEpoch::NONE, Offset(-1))), ..log() };
        told(
            40,
            older_log,
            expect![
                "orders-3 of reader billing stops: the log was cut below the position and written anew (unclean election); stored 40, expected 40, found nothing, log 10 to 50; `ottla offsets set billing orders:3 --to 40` goes on where the logs part"
            ],
        );
        let ahead = Log { copy: Some(Offset(45)), ..log() };
        told(40, ahead, expect!["reads on at 40"]);
        let other = Log { topic_id: Uuid([8; 16]), ..log() };
        told(
            40,
            other,
            expect![
                "orders-3 of reader billing stops: the topic was deleted and created again; stored 40, expected 40, found 10, log 10 to 50; `ottla offsets set billing orders:3 --to 10` goes on at its oldest record"
            ],
        );
    }

    #[test]
    fn the_first_records_continue_the_position_or_compaction_explains_why_not() {
        let told = |base: i64, log_start: i64, is_compacted: bool| {
            let position = Position { next: Offset(40), leader_epoch: LeaderEpoch(4) };
            let (base, log_start) = (Offset(base), Offset(log_start));
            let first = First { base, offset: base.max(position.next), log_start, is_compacted };
            check_first(&key(), position, first, &log()).map_or_else(|gap| gap.cause.name(), |()| "continues")
        };
        assert_eq!(told(40, 10, false), "continues");
        assert_eq!(told(38, 10, false), "continues", "a batch may begin before the position");
        assert_eq!(told(45, 10, true), "continues");
        assert_eq!(told(45, 10, false), "hole");
        assert_eq!(told(45, 45, false), "retention-passed");
        assert_eq!(told(45, 45, true), "retention-passed", "compaction does not move the beginning");
    }

    #[test]
    fn a_record_that_was_done_with_before_tells_that_the_store_was_rolled_back() {
        let told = |offset: i64| {
            let position = Position { next: Offset(40), leader_epoch: LeaderEpoch(4) };
            let (base, log_start) = (Offset(40), Offset(10));
            let first = First { base, offset: Offset(offset), log_start, is_compacted: false };
            let log = Log { copy: Some(Offset(42)), ..log() };
            check_first(&key(), position, first, &log)
                .map_err(|gap| (gap.cause.name(), gap.expected.0, gap.found))
        };
        assert_eq!(told(41), Err(("store-rolled-back", 42, Some(Offset(41)))));
        assert_eq!(told(42), Ok(()), "what lies between is not to be seen");
    }

    #[test]
    fn a_policy_decides_only_what_it_was_asked_to() {
        let at = |policy: &str, cause, stored, found: Option<i64>| {
            let (stored, found) = (Offset(stored), found.map(Offset));
            let gap = Gap { key: key(), cause, stored, expected: stored, found, log: log() };
            gap.resolve(policy.parse().unwrap()).map(|offset| offset.0)
        };
        let passed = |policy, stored| at(policy, Cause::RetentionPassed, stored, Some(10));
        assert_eq!(passed("stop", 5), None);
        assert_eq!(passed("earliest", 5), Some(10));
        assert_eq!(passed("latest", 5), Some(50));
        assert_eq!(passed("nearest", 5), Some(10));
        assert_eq!(at("nearest", Cause::StoreRolledBack, 30, Some(30)), Some(30));
        assert_eq!(at("nearest", Cause::Truncated, 70, Some(50)), Some(50));
        assert_eq!(at("nearest", Cause::Truncated, 40, Some(30)), Some(30), "where the logs part");
        assert_eq!(at("nearest", Cause::TopicRecreated, 30, Some(10)), Some(10), "another topic's offset");
        assert_eq!(at("nearest", Cause::Hole, 30, Some(35)), Some(35));
        assert_eq!(at("earliest", Cause::Hole, 30, Some(35)), Some(35), "it would be there again");
        assert_eq!(
            "newest".parse::<Policy>().unwrap_err(),
            "\"newest\" is none of stop, earliest, latest, nearest"
        );
    }
}
