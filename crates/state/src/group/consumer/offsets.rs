//! Who may commit and read the offsets of a group of the consumer protocol.
//!
//! A member commits in the epoch that it is in. In an earlier one it may commit for what it had then and has still (KIP-1251);
//! what has been given to somebody else since, or given anew, it cannot move.

use wire::messages::offset_commit::OffsetCommitRequest;
use wire::messages::offset_fetch::OffsetFetchRequestGroup;
use wire::{PartitionId, Uuid};

use super::{ConsumerGroup, Member};
use crate::group::Refusal;

/// From this version on an OffsetCommit can speak of a member's epoch.
const MEMBER_EPOCH_SINCE: i16 = 9;

/// How a commit came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::group) enum CommitBy {
    /// An OffsetCommit of this version.
    Request(i16),
    /// A producer's transaction, which knows no versions of members.
    Transaction,
}

impl ConsumerGroup {
    /// Whether the request may commit for the group.
    pub(in crate::group) fn check_commit(
        &self,
        by: CommitBy,
        request: &OffsetCommitRequest,
    ) -> Result<(), Refusal> {
        let epoch = request.generation_id_or_member_epoch;
        // Nobody is there whom it could harm.
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        // A transaction of before KIP-447 names nobody.
        if by == CommitBy::Transaction && epoch < 0 && request.member_id.is_empty() {
            return Ok(());
        }
        let member = self.member_named(&request.member_id, request.group_instance_id.as_deref())?;
        if let CommitBy::Request(version) = by
            && version < MEMBER_EPOCH_SINCE
            && !member.is_classic()
        {
            return Err(Refusal::UnsupportedVersion);
        }
        if epoch == member.epoch {
            return Ok(());
        }
        if member.is_classic() {
            return Err(Refusal::IllegalGeneration);
        }
        let mut partitions = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|part| (topic.topic_id, PartitionId(part.partition_index)))
        });
        let had_then = |(topic, partition): (Uuid, PartitionId)| {
            member.since(topic, partition).is_some_and(|since| since <= epoch)
        };
        if (0..member.epoch).contains(&epoch) && partitions.all(had_then) {
            return Ok(());
        }
        Err(Refusal::StaleMemberEpoch)
    }

    /// Whether the request may read the group's offsets: an administrator may, and a member in its epoch.
    pub(in crate::group) fn check_fetch(&self, request: &OffsetFetchRequestGroup) -> Result<(), Refusal> {
        let Some(member_id) = request.member_id.as_deref() else { return Ok(()) };
        if request.member_epoch < 0 && member_id.is_empty() {
            return Ok(());
        }
        let member = self.members.get(member_id).ok_or(Refusal::UnknownMember)?;
        if request.member_epoch == member.epoch { Ok(()) } else { Err(Refusal::StaleMemberEpoch) }
    }
}

impl Member {
    /// The epoch in which it got a partition that it has.
    fn since(&self, topic: Uuid, partition: PartitionId) -> Option<i32> {
        let key = (topic, partition);
        self.assigned.get(&key).or_else(|| self.revoking.get(&key)).copied()
    }
}
