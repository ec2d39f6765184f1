//! What a node holds and believes, for whoever checks a whole cluster from outside: the simulator, after each of its steps.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use state::metadata::Image;
use wire::{BrokerId, LeaderEpoch, Offset, PartitionId, Uuid};

use crate::broker::Broker;

/// Looks into a node for as long as it lives.
#[derive(Clone, Debug)]
pub struct Inspector(Weak<Broker>);

/// A node at one moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The node.
    pub node: BrokerId,
    /// With which epoch it is registered; -1 before.
    pub broker_epoch: i64,
    /// How many entries of the metadata log it has applied.
    pub applied: u64,
    /// What they say.
    pub image: Arc<Image>,
    /// The term in which it is the active controller, if it is.
    pub controls_in: Option<u64>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// A replica at one moment.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
    /// In which epoch it leads or follows.
    pub leader_epoch: LeaderEpoch,
    /// Whether it leads.
    pub leads: bool,
    /// As the leader, whom the controller was asked to count as in sync, and has not answered.
    pub joining: Vec<BrokerId>,
    /// The first offset.
    pub log_start: Offset,
    /// The end of what readers of committed records may see.
    pub last_stable_offset: Offset,
    /// The end of what readers may see.
    pub high_watermark: Offset,
    /// The end of what it answers for.
    pub durable_end: Offset,
    /// The end of what it holds.
    pub log_end: Offset,
}

impl Inspector {
    pub(crate) fn new(broker: &Arc<Broker>) -> Self {
        Inspector(Arc::downgrade(broker))
    }

    /// The node as it is now; `None` once it is gone.
    pub fn look(&self) -> Option<Standing> {
        let broker = self.0.upgrade()?;
        let hosted = broker.partitions.load_full();
        let replicas = hosted.partitions().map(|partition| Replica {
            topic_id: partition.topic_id,
            partition: partition.id.partition,
            leader_epoch: partition.leader_epoch(),
            leads: partition.is_leader(),
            joining: partition.joining(),
            log_start: partition.log.log_start(),
            last_stable_offset: partition.last_stable_offset(),
            high_watermark: partition.high_watermark(),
            durable_end: partition.durable_end(),
            log_end: partition.log.log_end(),
        });
        let quorum = broker.metadata.quorum().status();
        Some(Standing {
            node: broker.node_id,
            broker_epoch: broker.epoch.load(Ordering::Acquire),
            applied: broker.metadata.quorum().applied(),
            image: broker.metadata.image(),
            controls_in: quorum.is_active.then_some(quorum.term),
            replicas: replicas.collect(),
        })
    }
}
