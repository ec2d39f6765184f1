//! Offsets that are committed as part of a producer's transaction (KIP-98, KIP-447): they count when it is committed, and until
//! then a reader who asks for what is stable is told that they are not.
//!
//! Invariant: of two commits of one partition's offset the later one counts, whichever of them was part of a transaction and
//! whenever that ended.

use std::collections::BTreeMap;

use wire::messages::offset_commit::OffsetCommitRequest;
use wire::{PartitionId, ProducerEpoch, ProducerId, Str};

use super::consumer::CommitBy;
use super::offsets::CommittedOffset;
use super::records::Event;
use super::{Group, Groups, Now, Outcome, RecordError, Refusal, State, Token};

/// What the open transactions would commit, by producer and group.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_producer: BTreeMap<ProducerId, BTreeMap<Str, PendingOffsets>>,
    /// Rises with every commit.
    order_next: u64,
}

type PendingOffsets = BTreeMap<(Str, PartitionId), PendingOffset>;

#[derive(Debug)]
struct PendingOffset {
    committed: CommittedOffset,
    order: u64,
    /// A commit that came after it counts.
    is_superseded: bool,
}

impl Pending {
    pub(super) fn put(&mut self, producer: ProducerId, event: Event) -> Result<(), RecordError> {
        let Event::OffsetCommitted { group, topic, partition, committed } = event else {
            return Err(RecordError::NotInTransaction);
        };
        let order = self.order_next;
        self.order_next += 1;
        let offsets = self.by_producer.entry(producer).or_default().entry(group).or_default();
        offsets.insert((topic, partition), PendingOffset { committed, order, is_superseded: false });
        Ok(())
    }

    /// A commit, or its end, that comes after all that is pending for the same.
    pub(super) fn supersede(&mut self, group: &str, topic: &Str, partition: PartitionId) {
        self.supersede_before(self.order_next, group, &(topic.clone(), partition));
    }

    fn supersede_before(&mut self, order: u64, group: &str, key: &(Str, PartitionId)) {
        for groups in self.by_producer.values_mut() {
            if let Some(pending) = groups.get_mut(group).and_then(|offsets| offsets.get_mut(key))
                && pending.order < order
            {
                pending.is_superseded = true;
            }
        }
    }

    /// Whether a transaction is open that would commit offsets of the group.
    pub(super) fn holds_group(&self, group: &str) -> bool {
        self.by_producer.values().any(|groups| groups.contains_key(group))
    }

    /// Whether a transaction is open that would commit an offset of the partition.
    pub(super) fn holds(&self, group: &str, topic: &Str, partition: PartitionId) -> bool {
        let key = (topic.clone(), partition);
        self.by_producer
            .values()
            .any(|groups| groups.get(group).is_some_and(|offsets| offsets.contains_key(&key)))
    }
}

impl Groups {
    /// Handles a TxnOffsetCommit, as the OffsetCommit that it is but for its transaction: only who has left its group, or was
    /// replaced in it, is refused; that the group rebalances meanwhile is not its fault.
    pub fn commit_in_transaction(
        &mut self,
        token: Token,
        request: &OffsetCommitRequest,
        producer: (ProducerId, ProducerEpoch),
        now: impl Into<Now>,
    ) -> Outcome {
        let generation = request.generation_id_or_member_epoch;
        let allowed = match (self.consumers.get(&request.group_id), self.groups.get(&request.group_id)) {
            (Some(group), _) => {
                group.check_commit(CommitBy::Transaction, request).map_err(|refusal| match refusal {
                    // Producers know of generations alone.
                    Refusal::StaleMemberEpoch => Refusal::IllegalGeneration,
                    other => other,
                })
            }
            (None, Some(group)) => group.check_commit_in_transaction(request, generation),
            (None, None) if self.share.contains(&request.group_id) => Err(Refusal::GroupNotFound),
            (None, None) if generation < 0 => Ok(()),
            (None, None) => Err(Refusal::IllegalGeneration),
        };
        self.commit(token, request, allowed, Some(producer), now.into())
    }

    /// A producer's transaction has ended in this shard's partition.
    pub(super) fn end_transaction(&mut self, producer: ProducerId, commit: bool) {
        let Some(groups) = self.pending.by_producer.remove(&producer).filter(|_| commit) else { return };
        for (id, offsets) in groups {
            for (key, pending) in offsets {
                if !pending.is_superseded {
                    self.pending.supersede_before(pending.order, &id, &key);
                    let (topic, partition) = key;
                    self.traces.remove(&id, &topic, partition);
                    let group = self.groups.entry(id.clone()).or_insert_with(|| Group::new(id.clone()));
                    group.offsets.put(topic, partition, pending.committed);
                }
            }
        }
    }
}

impl Group {
    fn check_commit_in_transaction(
        &self,
        request: &OffsetCommitRequest,
        generation: i32,
    ) -> Result<(), Refusal> {
        let names_nobody = request.member_id.is_empty() && request.group_instance_id.is_none();
        if generation < 0 && (names_nobody || self.state == State::Empty) {
            return Ok(());
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if generation == self.generation { Ok(()) } else { Err(Refusal::IllegalGeneration) }
    }
}
