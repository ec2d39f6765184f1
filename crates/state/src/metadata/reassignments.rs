//! Moving replicas to other brokers (KIP-455): begun, cancelled, and completed by itself.
//!
//! While a reassignment is under way, the partition has its old replicas and the new ones. It is complete when the leader
//! reports those that are to stay in sync; then the others go. Neither beginning nor cancelling one gives up the last
//! replica that holds everything, unless the topic allows that.

use std::collections::BTreeSet;

use wire::{BrokerId, PartitionId, Str};

use super::change::{Draft, Wanted};
use super::{Decision, Image, Partition, Refusal, Topic, TopicRule, TopicRules};

/// A partition's replicas as they are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// The topic.
    pub topic: Str,
    /// The partition.
    pub partition: PartitionId,
    /// The replicas, the preferred leader first; `None` cancels what is under way.
    pub replicas: Option<Vec<BrokerId>>,
}

impl Image {
    /// Decides an AlterPartitionReassignments request. One answer per partition, in the order of the request.
    pub fn alter_reassignments(
        &self,
        changes: &[Reassignment],
        allow_factor_change: bool,
        rules: &dyn TopicRules,
    ) -> Decision<Vec<Result<(), Refusal>>> {
        let mut draft = Draft::new(self, rules);
        let reply = changes.iter().map(|change| draft.reassign(change, allow_factor_change)).collect();
        Decision { records: draft.records, reply }
    }

    /// Partitions whose reassignment is under way.
    pub fn reassignments(&self) -> impl Iterator<Item = (&Topic, PartitionId, &Partition)> {
        self.all_partitions()
            .filter(|(_, _, partition)| !partition.adding.is_empty() || !partition.removing.is_empty())
    }
}

impl Draft<'_> {
    fn reassign(&mut self, change: &Reassignment, allow_factor_change: bool) -> Result<(), Refusal> {
        let id = change.partition;
        let (topic, partition) = self.partition(&change.topic, id)?;
        let wanted = match &change.replicas {
            None if partition.adding.is_empty() && partition.removing.is_empty() => {
                return Err(Refusal::NoReassignmentInProgress);
            }
            None => reverted(&partition),
            Some(target) => {
                self.image.check_assignment(target, None)?;
                let wanted = reassigned(&partition, target);
                let (before, after) = (originals(&partition).len(), target.len());
                if !allow_factor_change && before != after {
                    let why = format!("The replication factor is changed from {before} to {after}");
                    return Err(Refusal::InvalidReplicationFactor(why));
                }
                wanted
            }
        };
        let rule = self.rule(&topic.name);
        let clean = TopicRule { unclean_election: false, ..rule };
        let mut changed = self.image.change_partition((&topic, id, &partition), wanted.clone(), clean);
        if gives_up(&partition, &changed.partition) {
            if !rule.unclean_election {
                return Err(Refusal::InvalidAssignment(format!(
                    "Unable to revert partition assignment for {}:{id} because it would require an unclean leader \
                     election.",
                    topic.name
                )));
            }
            changed = self.image.change_partition((&topic, id, &partition), wanted, rule);
        }
        self.take(&topic, id, partition.leader, &changed);
        Ok(())
    }
}

/// Whether a change leaves a partition without the last replicas that may lead it.
fn gives_up(before: &Partition, after: &Partition) -> bool {
    let held = |partition: &Partition| !partition.isr.is_empty() || !partition.elr.is_empty();
    (held(before) && !held(after)) || (before.leader.is_some() && after.leader.is_none())
}

/// The replicas before the reassignment that is under way.
fn originals(partition: &Partition) -> Vec<BrokerId> {
    partition.replicas.iter().copied().filter(|id| !partition.adding.contains(id)).collect()
}

fn reverted(partition: &Partition) -> Wanted {
    reassigned(partition, &originals(partition))
}

/// The replicas of before that are not to stay come last and go when the others are in sync. What an earlier
/// reassignment was still adding and this one does not want goes at once.
fn reassigned(partition: &Partition, target: &[BrokerId]) -> Wanted {
    let before = originals(partition);
    let difference = |these: &[BrokerId], those: &[BrokerId]| -> Vec<BrokerId> {
        let these: BTreeSet<BrokerId> = these.iter().copied().collect();
        these.into_iter().filter(|id| !those.contains(id)).collect()
    };
    let removing = difference(&before, target);
    let replicas = [target, &removing].concat();
    Wanted {
        isr: partition.isr.iter().copied().filter(|id| replicas.contains(id)).collect(),
        adding: difference(target, &before),
        removing,
        replicas,
        ..Wanted::unchanged(partition)
    }
}
