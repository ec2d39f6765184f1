//! What a store of a line's positions promises, and the one place that decides what may be changed in it.
//!
//! Whoever acquires a partition gets a fence that nobody had before; from then on only that one freezes and commits. A range is
//! frozen where the last one ended, and only the range that is frozen is committed: a gap and an overlap are both refused. The
//! decisions are pure and the same for every store ([`acquired`], [`frozen`], [`committed`], [`rebuilt`]): a store reads its entry,
//! decides, and puts the new entry in place of exactly the one that it has read.

use std::io;
use std::path::PathBuf;

use client::BoxFuture;
use offsets::{Fence, Position};
use wire::{LeaderEpoch, Millis, Offset, Uuid};

use crate::key::{Key, LineName, Range};
use crate::layout::Layout;

/// A range that was made durable as the next one, with all that its files' names depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frozen {
    /// The range.
    pub range: Range,
    /// The fence's number of whoever froze it first: it stays with the range, so that a repeat writes the same.
    pub epoch: i64,
    /// How its files are spread over directories.
    pub layout: Layout,
    /// How many of its records are dead letters: which ones is kept beside the table, and a range without any has nothing there.
    pub letters: u64,
}

/// What is stored of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Where the line began in the partition.
    pub begun: Offset,
    /// Up to where everything is in the table, once.
    pub committed: Position,
    /// The range that comes next, if that is decided.
    pub frozen: Option<Frozen>,
    /// When it was last changed, by the clock of whoever did.
    pub updated: Millis,
}

/// A partition's place in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The cluster that it is about.
    pub cluster_id: String,
    /// The topic.
    pub topic_id: Uuid,
    /// Who holds it.
    pub fence: Fence,
    /// What is known.
    pub stored: Stored,
}

impl Entry {
    /// Says what cannot be, for a store to refuse what it has read.
    pub(crate) fn check(self) -> Result<Self, String> {
        let Stored { begun, committed, frozen, .. } = self.stored;
        if !(1..i64::MAX).contains(&self.fence.number) {
            return Err(format!("epoch {} is none that was given", self.fence.number));
        }
        for (name, offset) in [("begun", begun), ("committed", committed.next)] {
            if offset.0 < 0 {
                return Err(format!("{name} is {offset}, which is no offset"));
            }
        }
        if begun > committed.next {
            return Err(format!("{} is committed, which is before {begun}, where it begins", committed.next));
        }
        match frozen.map(|frozen| frozen.range) {
            Some(Range { start, end }) if start != committed.next || start >= end => {
                Err(format!("[{start}, {end}) is frozen, which does not continue {}", committed.next))
            }
            _ => Ok(self),
        }
    }
}

/// Taking hold of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// Which.
    pub key: Key,
    /// Where to begin if it was never held.
    pub begin: Offset,
    /// The fence's number is at least this: what was seen of earlier holders elsewhere counts too, in case the store has lost them.
    pub number_min: i64,
    /// Drawn at random, so that two holders never have one fence.
    pub token: i64,
    /// The time of day.
    pub now: Millis,
}

/// A change by the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of what.
    pub key: Key,
    /// By whom.
    pub fence: Fence,
    /// The range.
    pub frozen: Frozen,
    /// The time of day.
    pub now: Millis,
}

/// What the table says of a partition, for a store that says something else or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// Of what.
    pub key: Key,
    /// By whom: it has taken hold of the partition.
    pub fence: Fence,
    /// Where the first range begins.
    pub begun: Offset,
    /// Up to where everything is in the table, once.
    pub committed: Offset,
    /// The range behind it, if it is there as well and has to be repeated: its dead letters may not have been sent.
    pub frozen: Option<Frozen>,
    /// The time of day.
    pub now: Millis,
}

/// What a holder goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Names it in every change.
    pub fence: Fence,
    /// What is stored.
    pub stored: Stored,
}

/// Keeps positions. Every method may be repeated after an error whose outcome is not known.
///
/// A store has one entry for a partition of a line, by the topic's name: an entry of another cluster or another topic of that name is
/// refused, never replaced.
pub trait PositionStore: Send + Sync + 'static {
    /// Takes hold of a partition: whoever held it changes nothing any more.
    fn acquire<'a>(&'a self, acquire: &'a Acquire) -> BoxFuture<'a, Result<Held, StoreError>>;

    /// Makes a range durable as the next one. One that is frozen already, as it is, stays; the fence is looked at all the same, and
    /// that look is newer than the call.
    fn freeze<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Moves the position over the range that is frozen.
    fn commit<'a>(
        &'a self,
        change: &'a Change,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Puts what the table says in place of the position and of what is frozen.
    fn rebuild<'a>(&'a self, rebuild: &'a Rebuild) -> BoxFuture<'a, Result<(), StoreError>>;

    /// All that a line has, in whatever cluster, by partition.
    fn list<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>>;
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else holds the partition now.
    #[error("{key} is held by another instance: epoch {held} is behind {current}")]
    Fenced {
        /// The partition.
        key: Box<Key>,
        /// What this holder has.
        held: i64,
        /// What the store has.
        current: i64,
    },
    /// The range does not begin where the last one ended.
    #[error("{key}: {range} does not continue the committed position {committed}: {}", kind(.range, .committed))]
    Apart {
        /// The partition.
        key: Box<Key>,
        /// What was to be frozen or committed.
        range: Range,
        /// What is committed.
        committed: Offset,
    },
    /// Another range is frozen, or none is.
    #[error("{key}: {range} is not the range that is frozen, which is {}", or_none(.frozen))]
    NotFrozen {
        /// The partition.
        key: Box<Key>,
        /// What was to be frozen or committed.
        range: Range,
        /// What is frozen.
        frozen: Option<Range>,
    },
    /// There is nothing of a partition that is held.
    #[error(
        "{key} is not in the store any more: the store has lost its data, which `ottla sink repair` gives back"
    )]
    Lost {
        /// The partition.
        key: Box<Key>,
    },
    /// What is stored is of another cluster.
    #[error("{key} was read from cluster {stored}, and this is cluster {}: another cluster needs a table and a name of its own", key.cluster_id)]
    OtherCluster {
        /// The partition.
        key: Box<Key>,
        /// Of the entry.
        stored: String,
    },
    /// What is stored is of another topic of the same name.
    #[error("{key} was read from topic id {stored}, and the topic is now {}: it was deleted and created again, and needs a table or a name of its own", key.topic_id)]
    OtherTopic {
        /// The partition.
        key: Box<Key>,
        /// Of the entry.
        stored: Uuid,
    },
    /// What is in the store cannot be a position. It is left as it is.
    #[error("{place} is no position: {problem}; it is left as it is")]
    Garbage {
        /// Where.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// Somebody else changed it in this moment.
    #[error("{key} was changed by another instance at the same time")]
    Busy {
        /// The partition.
        key: Box<Key>,
    },
    /// The store's files.
    #[error("cannot {doing} {}: {source}", path.display())]
    Files {
        /// What was done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// The store is a server, and does not answer or refuses.
    #[error("{0}")]
    Server(offsets::StoreError),
}

impl StoreError {
    /// Whether the same may go well later; what was asked may have been done or not.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Server(error) => error.is_retriable(),
            _ => false,
        }
    }
}

impl From<offsets::StoreError> for StoreError {
    fn from(error: offsets::StoreError) -> Self {
        match error {
            offsets::StoreError::Garbage { place, found, expected } => {
                Self::Garbage { place, problem: format!("it holds {found}, which is no {expected}") }
            }
            error => Self::Server(error),
        }
    }
}

fn kind(range: &Range, committed: &Offset) -> &'static str {
    if range.start > *committed { "there is a gap" } else { "they overlap" }
}

fn or_none(range: &Option<Range>) -> String {
    range.map_or_else(|| "none".to_owned(), |range| range.to_string())
}

/// The entry of whoever acquires.
pub fn acquired(found: Option<&Entry>, acquire: &Acquire) -> Result<Entry, StoreError> {
    let Acquire { key, begin, number_min, token, now } = acquire;
    let number = found.map_or(1, |entry| entry.fence.number + 1).max(*number_min);
    let fence = Fence { number, token: *token };
    let stored = match found {
        Some(entry) => {
            is_same(entry, key)?;
            Stored { updated: *now, ..entry.stored }
        }
        None => Stored {
            begun: *begin,
            committed: Position { next: *begin, leader_epoch: LeaderEpoch::NONE },
            frozen: None,
            updated: *now,
        },
    };
    Ok(Entry { cluster_id: key.cluster_id.clone(), topic_id: key.topic_id, fence, stored })
}

/// The entry with the range frozen; none if it is already.
pub fn frozen(found: Option<&Entry>, change: &Change) -> Result<Option<Entry>, StoreError> {
    let entry = held(found, &change.key, change.fence)?;
    let range = change.frozen.range;
    match entry.stored.frozen {
        Some(frozen) if frozen == change.frozen => return Ok(None),
        Some(frozen) => return Err(not_frozen(change, Some(frozen))),
        None if entry.stored.committed.next != range.start => return Err(apart(entry, change)),
        None => {}
    }
    let stored = Stored { frozen: Some(change.frozen), updated: change.now, ..entry.stored };
    Ok(Some(Entry { stored, ..entry.clone() }))
}

/// The entry with the position moved over the range; none if it has been already.
pub fn committed(
    found: Option<&Entry>,
    change: &Change,
    leader_epoch: LeaderEpoch,
) -> Result<Option<Entry>, StoreError> {
    let entry = held(found, &change.key, change.fence)?;
    let range = change.frozen.range;
    match entry.stored.frozen {
        // By this very holder, who has not heard of it.
        None if entry.stored.committed.next == range.end => return Ok(None),
        Some(frozen) if frozen == change.frozen => {}
        frozen => return Err(not_frozen(change, frozen)),
    }
    if entry.stored.committed.next != range.start {
        return Err(apart(entry, change));
    }
    let committed = Position { next: range.end, leader_epoch };
    let stored = Stored { committed, frozen: None, updated: change.now, ..entry.stored };
    Ok(Some(Entry { stored, ..entry.clone() }))
}

/// The entry with what the table says; none if it says so already.
pub fn rebuilt(found: Option<&Entry>, rebuild: &Rebuild) -> Result<Option<Entry>, StoreError> {
    let Rebuild { ref key, fence, begun, committed, frozen, now } = *rebuild;
    let entry = held(found, key, fence)?;
    let Stored { begun: was_begun, committed: was, frozen: was_frozen, .. } = entry.stored;
    if (was_begun, was.next, was_frozen) == (begun, committed, frozen) {
        return Ok(None);
    }
    // Who led the partition when its last record was written is in no file.
    let committed = Position { next: committed, leader_epoch: LeaderEpoch::NONE };
    let stored = Stored { begun, committed, frozen, updated: now };
    Ok(Some(Entry { stored, ..entry.clone() }))
}

fn held<'a>(found: Option<&'a Entry>, key: &Key, fence: Fence) -> Result<&'a Entry, StoreError> {
    let boxed = || Box::new(key.clone());
    let entry = found.ok_or_else(|| StoreError::Lost { key: boxed() })?;
    is_same(entry, key)?;
    match entry.fence == fence {
        true => Ok(entry),
        false => Err(StoreError::Fenced { key: boxed(), held: fence.number, current: entry.fence.number }),
    }
}

fn is_same(entry: &Entry, key: &Key) -> Result<(), StoreError> {
    let boxed = || Box::new(key.clone());
    if entry.cluster_id != key.cluster_id {
        return Err(StoreError::OtherCluster { key: boxed(), stored: entry.cluster_id.clone() });
    }
    if entry.topic_id != key.topic_id {
        return Err(StoreError::OtherTopic { key: boxed(), stored: entry.topic_id });
    }
    Ok(())
}

fn apart(entry: &Entry, change: &Change) -> StoreError {
    let (key, range) = (Box::new(change.key.clone()), change.frozen.range);
    StoreError::Apart { key, range, committed: entry.stored.committed.next }
}

fn not_frozen(change: &Change, frozen: Option<Frozen>) -> StoreError {
    let (key, range) = (Box::new(change.key.clone()), change.frozen.range);
    StoreError::NotFrozen { key, range, frozen: frozen.map(|frozen| frozen.range) }
}

#[cfg(test)]
mod tests {
    use offsets::{Fence, Position};
    use wire::{LeaderEpoch, Millis, Offset, PartitionId, TopicPartition, Uuid};

    use super::{Acquire, Change, Entry, Frozen, acquired, committed, frozen};
    use crate::key::{Key, Range};
    use crate::layout::Layout;

    fn key() -> Key {
        Key {
            line: "orders.offline".parse().unwrap(),
            cluster_id: "c".to_owned(),
            partition: TopicPartition::new("orders", PartitionId(0)),
            topic_id: Uuid([7; 16]),
        }
    }

    fn acquire(token: i64) -> Acquire {
        Acquire { key: key(), begin: Offset(10), number_min: 0, token, now: Millis(0) }
    }

    fn change(fence: Fence, start: i64, end: i64) -> Change {
        let range = Range::new(Offset(start), Offset(end));
        let frozen = Frozen { range, epoch: 1, layout: Layout::Hour, letters: 0 };
        Change { key: key(), fence, frozen, now: Millis(0) }
    }

    fn entry() -> Entry {
        acquired(None, &acquire(5)).unwrap()
    }

    #[test]
    fn a_gap_and_an_overlap_are_both_refused() {
        let entry = entry();
        let told =
            |start, end| frozen(Some(&entry), &change(entry.fence, start, end)).unwrap_err().to_string();
        assert_eq!(
            told(11, 20),
            "orders-0 of line orders.offline: [11, 20) does not continue the committed position 10: there is a gap"
        );
        assert_eq!(
            told(9, 20),
            "orders-0 of line orders.offline: [9, 20) does not continue the committed position 10: they overlap"
        );
    }

    #[test]
    fn only_what_is_frozen_is_committed_and_twice_is_once() {
        let entry = entry();
        let range = change(entry.fence, 10, 20);
        let refused = committed(Some(&entry), &range, LeaderEpoch(3)).unwrap_err().to_string();
        assert_eq!(
            refused,
            "orders-0 of line orders.offline: [10, 20) is not the range that is frozen, which is none"
        );
        let entry = frozen(Some(&entry), &range).unwrap().unwrap();
        assert_eq!(frozen(Some(&entry), &range).unwrap(), None);
        let other = frozen(Some(&entry), &change(entry.fence, 10, 15)).unwrap_err().to_string();
        assert_eq!(
            other,
            "orders-0 of line orders.offline: [10, 15) is not the range that is frozen, which is [10, 20)"
        );
        let entry = committed(Some(&entry), &range, LeaderEpoch(3)).unwrap().unwrap();
        assert_eq!(entry.stored.committed, Position { next: Offset(20), leader_epoch: LeaderEpoch(3) });
        assert_eq!(committed(Some(&entry), &range, LeaderEpoch(3)).unwrap(), None);
    }

    #[test]
    fn who_was_fenced_changes_nothing_and_a_frozen_range_goes_to_the_successor_as_it_is() {
        let first = entry();
        let range = change(first.fence, 10, 20);
        let entry = frozen(Some(&first), &range).unwrap().unwrap();
        let entry = acquired(Some(&entry), &acquire(6)).unwrap();
        assert_eq!((entry.fence.number, entry.stored.frozen), (2, Some(range.frozen)));
        for refused in [frozen(Some(&entry), &range), committed(Some(&entry), &range, LeaderEpoch::NONE)] {
            assert_eq!(
                refused.unwrap_err().to_string(),
                "orders-0 of line orders.offline is held by another instance: epoch 1 is behind 2"
            );
        }
        // A store that was rolled back gives the number out again; the token still tells them apart.
        let again = acquired(Some(&first), &acquire(6)).unwrap();
        let stale = Fence { number: again.fence.number, token: 5 };
        assert!(frozen(Some(&again), &change(stale, 10, 20)).is_err());
    }

    #[test]
    fn another_topic_or_cluster_is_refused_loudly() {
        let entry = entry();
        let other = Acquire { key: Key { topic_id: Uuid([8; 16]), ..key() }, ..acquire(6) };
        assert!(
            acquired(Some(&entry), &other).unwrap_err().to_string().contains("was deleted and created again")
        );
        let other = Acquire { key: Key { cluster_id: "d".to_owned(), ..key() }, ..acquire(6) };
        assert_eq!(
            acquired(Some(&entry), &other).unwrap_err().to_string(),
            "orders-0 of line orders.offline was read from cluster c, and this is cluster d: \
             another cluster needs a table and a name of its own"
        );
    }
}
