//! Moving replicas to other brokers (KIP-455): begun, cancelled, and completed by itself.
//!
//! While a reassignment is under way, the partition has its old replicas and the new ones. It is complete when the leader
//! reports those that are to stay in sync; then the others go. Neither beginning nor cancelling one gives up the last
//! replica that holds everything, unless the topic allows that and another leads at once; and whoever was known to hold the
//! records last is not forgotten for somebody who never did.

use std::collections::BTreeSet;

use wire::{BrokerId, PartitionId, Str};

use super::change::{Changes, Draft, Wanted};
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

/// What a request for reassignments comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassigned {
    /// One answer per partition, in the order of the request.
    pub answers: Vec<Result<(), Refusal>>,
    /// What became of the partitions' leaders.
    pub changes: Changes,
}

impl Image {
    /// Decides an AlterPartitionReassignments request.
    pub fn alter_reassignments(
        &self,
        changes: &[Reassignment],
        allow_factor_change: bool,
        rules: &dyn TopicRules,
    ) -> Decision<Reassigned> {
        let mut draft = Draft::new(self, rules);
        let answers = changes.iter().map(|change| draft.reassign(change, allow_factor_change)).collect();
        let Decision { records, reply: changes } = draft.decided();
        Decision { records, reply: Reassigned { answers, changes } }
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
        // A clean change first: an unclean leader is the last resort also where it is allowed.
        let attempts =
            [false, rule.unclean_election].map(|unclean| TopicRule { unclean_election: unclean, ..rule });
        let changed = attempts
            .into_iter()
            .map(|rule| self.image.change_partition((&topic, id, &partition), wanted.clone(), rule))
            .find(|changed| !gives_up(&partition, &changed.partition));
        let Some(changed) = changed else {
            return Err(Refusal::InvalidAssignment(format!(
                "Unable to revert partition assignment for {}:{id} because it would require an unclean leader \
                 election: wait until one of the replicas that stay is in sync, or have one elected first.",
                topic.name
            )));
        };
        self.take(&topic, id, partition.leader, &changed);
        Ok(())
    }
}

/// Whether a change leaves a partition without a leader that it had, without the last replicas that may lead it, or with
/// nobody who is known to have held its records last.
fn gives_up(before: &Partition, after: &Partition) -> bool {
    let held = |partition: &Partition| !partition.isr.is_empty() || !partition.elr.is_empty();
    let known = |partition: &Partition| held(partition) || !partition.last_known_elr.is_empty();
    (held(before) && !held(after))
        || (known(before) && !known(after))
        || (before.leader.is_some() && after.leader.is_none())
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
