//! What a store of offsets promises.
//!
//! Whoever takes hold of a partition gets a fence that nobody had before, and from then on only that one moves the position, and
//! only from where it is. So a reader that was thought dead and wakes up can move nothing, whatever it still believes. A store
//! never makes up a position, and never overwrites one that it cannot read.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::BoxFuture;
use wire::{LeaderEpoch, Millis, Offset, Uuid};

use crate::key::{Key, ReaderName};

/// Who holds a partition. The number counts holders, for people; the token tells two holders apart even if the store has lost
/// the last one's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// One more than the holder before had.
    pub number: i64,
    /// Drawn at random by the holder.
    pub token: i64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)
    }
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The next offset to read.
    pub next: Offset,
    /// The leader epoch of the record before it, or [`LeaderEpoch::NONE`]: it tells a log that was truncated (KIP-320).
    pub leader_epoch: LeaderEpoch,
}

/// What a store has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Where reading goes on.
    pub position: Position,
    /// The topic that it is a position in.
    pub topic_id: Uuid,
    /// When it was last moved, by the store's clock.
    pub updated: Millis,
    /// Copies of the position up to here are of before this place was chosen, see [`Claim::over`].
    pub over: Option<Offset>,
}

/// A partition that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Names the holder in each commit.
    pub fence: Fence,
    /// What the reader had reached, if it ever was here.
    pub stored: Option<Stored>,
}

/// Where a position has to be for a commit to move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nowhere: there is none yet.
    Nothing,
    /// Exactly here.
    At(Offset),
    /// Wherever it is, and in whatever topic: it was decided to begin elsewhere.
    Anything,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::At(offset) => write!(f, "{offset}"),
            Self::Anything => f.write_str("anything"),
        }
    }
}

/// One move of a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Of what.
    pub key: Key,
    /// By whom.
    pub fence: Fence,
    /// From where.
    pub expected: Expected,
    /// To where.
    pub position: Position,
    /// If somebody, or a policy, chose the place: copies of the position with the group coordinator up to here are of before, and
    /// say nothing about it, also to a reader that begins here before its own copy got there.
    pub over: Option<Offset>,
}

/// What a store has of a partition of a reader's, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The partition. The topic's id is the position's; zero without a position.
    pub key: Key,
    /// Who holds it, or held it last; nothing where the store does not tell.
    pub fence: Option<Fence>,
    /// Its position, unless it was only taken hold of so far.
    pub stored: Option<Stored>,
}

/// Keeps positions. All methods are safe to repeat after an error whose outcome is not known.
pub trait OffsetStore: Send + Sync + 'static {
    /// Takes hold of a partition: whoever held it moves nothing any more.
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>>;

    /// Moves the position. One that is there already, by the same holder, is [`StoreError::AlreadyThere`].
    fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes hold of several partitions, of one reader in one cluster, each by itself. Answers in their order.
    ///
    /// Dropped before it is over, it takes hold of nothing any more that another holder takes meanwhile.
    fn acquire_all<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Held, StoreError>>> {
        Box::pin(async move {
            let mut held = Vec::with_capacity(keys.len());
            for key in keys {
                held.push(self.acquire(key).await);
            }
            held
        })
    }

    /// All positions that a reader has, in whatever cluster, by cluster and partition. What cannot be read is left out, and said
    /// in the log.
    fn list<'a>(&'a self, reader: &'a ReaderName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>>;

    /// All that there is of a reader, by cluster and partition, with what cannot be read.
    fn survey<'a>(
        &'a self,
        reader: &'a ReaderName,
    ) -> BoxFuture<'a, Result<Vec<Result<Seen, StoreError>>, StoreError>> {
        Box::pin(async move {
            let listed = self.list(reader).await?;
            let seen = |(key, stored)| Ok(Seen { key, fence: None, stored: Some(stored) });
            Ok(listed.into_iter().map(seen).collect())
        })
    }
}

/// The positions among what was seen; what cannot be read is said.
pub(crate) fn positions(seen: Vec<Result<Seen, StoreError>>) -> Vec<(Key, Stored)> {
    let position = |seen: Result<Seen, StoreError>| match seen {
        Ok(seen) => Some((seen.key, seen.stored?)),
        Err(error) => {
            tracing::warn!(%error, "what cannot be read in the store is left out");
            None
        }
    };
    seen.into_iter().filter_map(position).collect()
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Somebody else holds the partition now: stop reading it.
    #[error("{key} is held by somebody else: fence {held} is behind {current}")]
    Fenced {
        /// The partition.
        key: Box<Key>,
        /// What this holder has.
        held: Fence,
        /// What the store has.
        current: i64,
    },
    /// The position is not where the holder left it: the store has lost something, or somebody has changed it by hand.
    #[error(
        "{key} is at {stored} in the store, where {expected} was expected: the store was rolled back or changed by hand"
    )]
    Moved {
        /// The partition.
        key: Box<Key>,
        /// Where the holder left it.
        expected: Expected,
        /// Where it is.
        stored: Offset,
    },
    /// The store has nothing of a partition that is held: it has lost its data.
    #[error("{key} is not in the store any more: the store has lost its data")]
    Lost {
        /// The partition.
        key: Box<Key>,
    },
    /// The position belongs to another topic of the same name.
    #[error(
        "{key} is a position in topic id {stored}, and the topic is now {current}: it was deleted and created again"
    )]
    OtherTopic {
        /// The partition.
        key: Box<Key>,
        /// Of the position.
        stored: Uuid,
        /// Of the topic.
        current: Uuid,
    },
    /// This very commit has been done before; its results are there.
    #[error("{key} is at {at} already: this was committed before")]
    AlreadyThere {
        /// The partition.
        key: Box<Key>,
        /// The position.
        at: Offset,
    },
    /// What is in the store cannot be a position. It is left as it is.
    #[error("{place} holds {found}, which is no {expected}: it is left as it is")]
    Garbage {
        /// The key or row.
        place: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// Somebody else changed it in this moment, and what is there now would do.
    #[error("{key} has just been changed by somebody else: try again")]
    Busy {
        /// The partition.
        key: Box<Key>,
    },
    /// The store did not answer in time. Whether it has done what was asked is not known.
    #[error("the store has not answered for {} ms", .after.as_millis())]
    Silent {
        /// How long it was asked.
        after: Duration,
    },
    /// The store refuses, and will until somebody changes something.
    #[error("{store} refuses: {source}; {advice}")]
    Refused {
        /// Which store.
        store: &'static str,
        /// What it said.
        source: Arc<dyn Error + Send + Sync>,
        /// What to change.
        advice: &'static str,
    },
    /// The store did not answer, or could not. Whether it has done what was asked is not known.
    #[error("{store} does not do it: {source}")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// What it said.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same may go well later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Busy { .. } | Self::Silent { .. })
    }
}

/// What a commit finds in its place, for every kind of store to judge alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) fence: Fence,
    pub(crate) at: Option<(Offset, Uuid)>,
}

/// Whether a claim may move what is there.
pub(crate) fn judge(claim: &Claim, found: Option<Found>) -> Result<(), StoreError> {
    let key = || Box::new(claim.key.clone());
    let Some(found) = found else { return Err(StoreError::Lost { key: key() }) };
    if found.fence != claim.fence {
        return Err(StoreError::Fenced { key: key(), held: claim.fence, current: found.fence.number });
    }
    match (claim.expected, found.at) {
        (Expected::Anything, _) | (Expected::Nothing, None) => Ok(()),
        (_, Some((_, topic_id))) if topic_id != claim.key.topic_id => {
            Err(StoreError::OtherTopic { key: key(), stored: topic_id, current: claim.key.topic_id })
        }
        (Expected::At(expected), Some((stored, _))) if stored == expected => Ok(()),
        (_, Some((stored, _))) if stored == claim.position.next => {
            Err(StoreError::AlreadyThere { key: key(), at: stored })
        }
        (expected, Some((stored, _))) => Err(StoreError::Moved { key: key(), expected, stored }),
        (Expected::At(_), None) => Err(StoreError::Lost { key: key() }),
    }
}
