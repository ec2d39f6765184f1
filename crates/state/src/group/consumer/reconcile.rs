//! A member's way from the epoch it is in to the target assignment (KIP-848, "Reconciliation").
//!
//! It gives up first what is not meant for it any more, then goes to the target's epoch with everything that is free, and takes
//! the rest when others have let go of it.

use std::collections::{BTreeMap, BTreeSet};

use wire::messages::consumer_group_current_member_assignment_value::{
    ConsumerGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use wire::{PartitionId, Str, Uuid};

use super::{ConsumerEvent, ConsumerGroup, Member, MemberState, Owned, Step, TopicIdPartition};

impl ConsumerGroup {
    /// Takes a member as far as it can go now. `holds` is what it says that it has, if it said so.
    pub(super) fn reconcile(
        &mut self,
        id: &Str,
        holds: Option<&BTreeSet<TopicIdPartition>>,
        step: &mut Step<'_>,
    ) {
        let member = &self.members[id];
        if member.is_reconciled_to(self.target_epoch) {
            return;
        }
        let Some(next) = self.next_assignment(member, holds) else { return };
        let is_change = (next.epoch, next.state) != (member.epoch, member.state)
            || (&next.assigned, &next.revoking) != (&member.assigned, &member.revoking);
        if !is_change {
            return;
        }
        let has_to_revoke = next.state == MemberState::UnrevokedPartitions;
        let is_classic = member.is_classic();
        self.store(
            step,
            ConsumerEvent::CurrentStored { member: id.clone(), value: next.record(member.epoch) },
        );
        // Members of the classic protocol are waited for when they are told to rejoin.
        match (is_classic, has_to_revoke) {
            (true, _) => {}
            (false, true) => self.expect_progress(id, step),
            (false, false) => step.timers.cancel(&self.progress_alarm(id)),
        }
    }

    fn next_assignment(&self, member: &Member, holds: Option<&BTreeSet<TopicIdPartition>>) -> Option<Next> {
        let epoch = match member.state {
            MemberState::Stable if member.epoch == self.target_epoch => return None,
            MemberState::UnrevokedPartitions if still_holds(holds, &member.revoking) => return None,
            MemberState::UnrevokedPartitions => member.epoch.saturating_add(1).min(self.target_epoch),
            MemberState::Stable | MemberState::UnreleasedPartitions => member.epoch,
        };
        let nothing = BTreeSet::new();
        let target = self.targets.get(&member.id).unwrap_or(&nothing);
        let split = |(partition, _): &(&TopicIdPartition, &i32)| target.contains(*partition);
        let (kept, given_up): (Owned, Owned) = member.assigned.iter().partition(split);
        if !given_up.is_empty() && still_holds(holds, &given_up) {
            return Some(Next {
                epoch,
                state: MemberState::UnrevokedPartitions,
                assigned: kept,
                revoking: given_up,
            });
        }
        let mut assigned = kept;
        let mut state = MemberState::Stable;
        for partition in target {
            match self.owners.get(partition) {
                Some(owner) if *owner != member.id => state = MemberState::UnreleasedPartitions,
                Some(_) | None => {
                    assigned.entry(*partition).or_insert(self.target_epoch);
                }
            }
        }
        Some(Next { epoch: self.target_epoch, state, assigned, revoking: Owned::new() })
    }

    /// Whether a member waits for partitions that others have.
    pub(super) fn waits_for_others(&self, member: &Member) -> bool {
        let target = self.targets.get(&member.id).into_iter().flatten();
        target
            .into_iter()
            .any(|partition| self.owners.get(partition).is_some_and(|owner| *owner != member.id))
    }
}

/// What becomes of a member.
struct Next {
    epoch: i32,
    state: MemberState,
    assigned: Owned,
    revoking: Owned,
}

impl Next {
    fn record(&self, previous_epoch: i32) -> ConsumerGroupCurrentMemberAssignmentValue {
        current(self.epoch, previous_epoch, self.state, &self.assigned, &self.revoking)
    }
}

/// Who does not say what it has may have it still.
fn still_holds(holds: Option<&BTreeSet<TopicIdPartition>>, given_up: &Owned) -> bool {
    holds.is_none_or(|holds| given_up.keys().any(|partition| holds.contains(partition)))
}

/// A member's state as its record says it.
pub(super) fn current(
    epoch: i32,
    previous_epoch: i32,
    state: MemberState,
    assigned: &Owned,
    revoking: &Owned,
) -> ConsumerGroupCurrentMemberAssignmentValue {
    ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: epoch,
        previous_member_epoch: previous_epoch,
        state: state as i8,
        assigned_partitions: with_epochs(assigned),
        partitions_pending_revocation: with_epochs(revoking),
    }
}

fn with_epochs(owned: &Owned) -> Vec<TopicPartitions> {
    let topics = by_topic(owned.iter().map(|(partition, epoch)| (*partition, *epoch))).into_iter();
    let topics = topics.map(|(topic_id, partitions)| {
        let (partitions, epochs): (Vec<i32>, Vec<i32>) = partitions.into_iter().unzip();
        TopicPartitions { topic_id, partitions, assignment_epochs: Some(epochs) }
    });
    topics.collect()
}

/// What a record says that a member has; one without epochs is of a time when the member's own stood for them.
pub(super) fn owned(topics: &[TopicPartitions], member_epoch: i32) -> Owned {
    let partitions = topics.iter().flat_map(|topic| {
        let epochs = topic.assignment_epochs.as_deref().unwrap_or_default();
        let partitions = topic.partitions.iter().enumerate();
        partitions.map(move |(place, id)| {
            let epoch = epochs.get(place).copied().unwrap_or(member_epoch);
            ((topic.topic_id, PartitionId(*id)), epoch)
        })
    });
    partitions.collect()
}

/// Partitions with something to each, by topic.
pub(in crate::group) fn by_topic<T>(
    partitions: impl Iterator<Item = (TopicIdPartition, T)>,
) -> BTreeMap<Uuid, Vec<(i32, T)>> {
    let mut topics: BTreeMap<Uuid, Vec<(i32, T)>> = BTreeMap::new();
    for ((topic, id), about) in partitions {
        topics.entry(topic).or_default().push((id.0, about));
    }
    topics
}
