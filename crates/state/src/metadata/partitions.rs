//! What leaders ask for: another in-sync set for their partitions (KIP-497).
//!
//! Only the leader of the current epoch is heard, and only about the state that is current: two epochs guard that. Nobody
//! joins who is fenced, about to stop, or has started anew since the leader last heard of it (KIP-841, KIP-903).

use wire::{BrokerId, LeaderEpoch, PartitionId, Uuid};

use super::change::{Draft, Wanted};
use super::{Decision, Image, Partition, Refusal, TopicRules};

/// One partition's new in-sync set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterPartition {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch in which the broker leads.
    pub leader_epoch: LeaderEpoch,
    /// The state that this replaces.
    pub partition_epoch: i32,
    /// Who is in sync, each with the broker epoch that the leader knows, or [`EPOCH_UNKNOWN`].
    pub isr: Vec<(BrokerId, i64)>,
}

/// Of a replica from which the leader has not heard yet.
pub const EPOCH_UNKNOWN: i64 = -1;

impl Image {
    /// Decides an AlterPartition request. One answer per partition in the order of the request: the partition as it will
    /// be. [`Refusal::NewLeaderElected`] says that the change is made and ended the asking broker's leadership.
    pub fn alter_partitions(
        &self,
        leader: BrokerId,
        broker_epoch: i64,
        changes: &[AlterPartition],
        rules: &dyn TopicRules,
    ) -> Result<Decision<Vec<Result<Partition, Refusal>>>, Refusal> {
        self.registered(leader, broker_epoch)?;
        let mut draft = Draft::new(self, rules);
        let reply = changes.iter().map(|change| draft.alter_partition(leader, change)).collect();
        Ok(Decision { records: draft.records, reply })
    }
}

impl Draft<'_> {
    fn alter_partition(&mut self, leader: BrokerId, change: &AlterPartition) -> Result<Partition, Refusal> {
        let id = change.partition;
        let (topic, partition) = self.partition_by_id(change.topic_id, id)?;
        check_epochs(leader, change, &partition)?;
        self.check_isr(leader, change, &partition)?;
        let isr = change.isr.iter().map(|(id, _)| *id).collect();
        let wanted = Wanted { isr, ..Wanted::unchanged(&partition) };
        let rule = self.rule(&topic.name);
        let changed = self.image.change_partition((&topic, id, &partition), wanted, rule);
        self.take(&topic, id, partition.leader, &changed);
        match changed.partition.leader == Some(leader) {
            true => Ok(changed.partition),
            false => Err(Refusal::NewLeaderElected),
        }
    }

    fn check_isr(
        &self,
        leader: BrokerId,
        change: &AlterPartition,
        partition: &Partition,
    ) -> Result<(), Refusal> {
        let isr: Vec<BrokerId> = change.isr.iter().map(|(id, _)| *id).collect();
        let numbers = || isr.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let invalid =
            |why: String| Err(Refusal::InvalidRequest(format!("The new ISR [{}] {why}.", numbers())));
        for (index, id) in isr.iter().enumerate() {
            if !partition.replicas.contains(id) {
                return invalid(format!("includes broker {id}, which is not one of the replicas"));
            }
            if isr[..index].contains(id) {
                return invalid(format!("includes broker {id} more than once"));
            }
        }
        if !isr.contains(&leader) {
            return invalid(format!("does not include the leader {leader}"));
        }
        let ineligible = change.isr.iter().filter_map(|(id, epoch)| {
            // A leader that has just begun may not have heard of all whom it takes over as in sync.
            let epoch =
                if partition.isr.contains(id) && *epoch == EPOCH_UNKNOWN { None } else { Some(*epoch) };
            self.ineligible(*id, epoch, leader).map(|why| format!("{id} ({why})"))
        });
        let ineligible: Vec<String> = ineligible.collect();
        if ineligible.is_empty() { Ok(()) } else { Err(Refusal::IneligibleReplica(ineligible.join(", "))) }
    }

    /// Why a broker may not be in sync. A leader that is about to stop may: whoever joins it takes over from it.
    fn ineligible(&self, id: BrokerId, epoch: Option<i64>, leader: BrokerId) -> Option<String> {
        match self.image.broker(id) {
            None => Some("not registered".to_owned()),
            Some(broker) if broker.fenced => Some("fenced".to_owned()),
            Some(broker) if broker.in_controlled_shutdown && id != leader => Some("shutting down".to_owned()),
            Some(broker) => {
                let other = epoch.filter(|epoch| *epoch != broker.epoch)?;
                Some(format!("broker epoch mismatch: requested={other} VS expected={}", broker.epoch))
            }
        }
    }
}

fn check_epochs(leader: BrokerId, change: &AlterPartition, partition: &Partition) -> Result<(), Refusal> {
    let newer = |what, known, actual| Err(Refusal::NotController { what, known, actual });
    if change.leader_epoch > partition.leader_epoch {
        return newer("leader epoch", partition.leader_epoch.0, change.leader_epoch.0);
    }
    if change.partition_epoch > partition.partition_epoch {
        return newer("partition epoch", partition.partition_epoch, change.partition_epoch);
    }
    if change.leader_epoch < partition.leader_epoch {
        let (current, actual) = (partition.leader_epoch, change.leader_epoch);
        return Err(Refusal::FencedLeaderEpoch { current, actual });
    }
    if partition.leader != Some(leader) {
        let current = partition.leader.map_or("nobody".to_owned(), |id| id.to_string());
        let why = format!("Broker {leader} does not lead the partition, {current} does.");
        return Err(Refusal::InvalidRequest(why));
    }
    if change.partition_epoch < partition.partition_epoch {
        let (expected, actual) = (partition.partition_epoch, change.partition_epoch);
        return Err(Refusal::InvalidUpdateVersion { expected, actual });
    }
    Ok(())
}
