//! Why a request about a share-partition's state is refused, and which Kafka error says so.

use wire::{ErrorCode, LeaderEpoch};

/// A refused request: the state is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A share-partition belongs to a group.
    #[error("the group id is empty")]
    NoGroup,
    /// A share-partition belongs to a topic.
    #[error("the topic id is zero")]
    NoTopicId,
    /// Partitions are numbered from zero on.
    #[error("the partition is negative")]
    NegativePartition,
    /// The group coordinator has not begun the state yet, or has deleted it.
    #[error("the share-partition has no state: InitializeShareGroupState begins it")]
    Uninitialized,
    /// Perhaps another release can read it, or an operator has it begin elsewhere.
    #[error("records of the share-partition's state cannot be read: AlterShareGroupOffsets begins another")]
    Unreadable,
    /// A newer leader of the partition has been here.
    #[error("a leader of the partition in epoch {known} has been here")]
    FencedLeaderEpoch {
        /// Its epoch.
        known: LeaderEpoch,
    },
    /// The state is not the one that this leader has read.
    #[error(
        "no leader of the partition in epoch {leader} has read the state: ReadShareGroupState comes first"
    )]
    NotRead {
        /// Whoever writes.
        leader: LeaderEpoch,
    },
    /// The state has begun anew.
    #[error("the state has begun anew in epoch {known}")]
    FencedStateEpoch {
        /// The epoch that it is in.
        known: i32,
    },
}

impl From<Refusal> for ErrorCode {
    fn from(refusal: Refusal) -> ErrorCode {
        match refusal {
            Refusal::NoGroup | Refusal::NoTopicId | Refusal::NegativePartition | Refusal::Uninitialized => {
                ErrorCode::INVALID_REQUEST
            }
            Refusal::Unreadable => ErrorCode::UNKNOWN_SERVER_ERROR,
            Refusal::FencedLeaderEpoch { .. } => ErrorCode::FENCED_LEADER_EPOCH,
            Refusal::NotRead { .. } => ErrorCode::UNKNOWN_LEADER_EPOCH,
            Refusal::FencedStateEpoch { .. } => ErrorCode::FENCED_STATE_EPOCH,
        }
    }
}
