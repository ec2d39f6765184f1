//! What must hold after every step, seen from outside: on each node, between a leader and its followers, and between any
//! two nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use broker::{Replica, Standing};
use state::metadata::Image;
use wire::{BrokerId, LeaderEpoch, Offset, PartitionId, Uuid};

type Key = (Uuid, PartitionId);

/// How far readers see: of what is committed, and of everything.
#[derive(Clone, Copy, Debug)]
struct Shown {
    last_stable_offset: Offset,
    high_watermark: Offset,
}

/// Checks one state of a cluster after the other.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    /// Of each leader, in which start of its broker and which epoch it leads, and what it shows to readers.
    leaders: BTreeMap<(BrokerId, Key), (i64, LeaderEpoch, Shown)>,
    /// How far each node had come in the metadata when they were last compared.
    compared: Vec<(BrokerId, u64)>,
    /// What so many entries of the metadata came to, and on which node first.
    images: BTreeMap<u64, (BrokerId, Arc<Image>)>,
    /// Who is, or was, the active controller in which term.
    controllers: BTreeMap<u64, BrokerId>,
}

impl Invariants {
    /// What does not hold, if anything.
    pub(crate) fn check(&mut self, nodes: &[Standing]) -> Option<String> {
        self.check_controllers(nodes)
            .or_else(|| self.check_metadata(nodes))
            .or_else(|| nodes.iter().find_map(|node| self.check_node(node)))
            .or_else(|| check_in_sync(nodes))
    }

    /// No term has two controllers, not even one after the other.
    fn check_controllers(&mut self, nodes: &[Standing]) -> Option<String> {
        nodes.iter().find_map(|node| {
            let term = node.controls_in?;
            let other = *self.controllers.entry(term).or_insert(node.node);
            (other != node.node)
                .then(|| format!("nodes {other} and {} are the controller of term {term}", node.node))
        })
    }

    /// Whoever has applied as many entries has the same metadata, whenever that was: what is committed does not change.
    fn check_metadata(&mut self, nodes: &[Standing]) -> Option<String> {
        let applied: Vec<_> = nodes.iter().map(|node| (node.node, node.applied)).collect();
        if applied == self.compared {
            return None;
        }
        self.compared = applied;
        for node in nodes {
            let (first, image) =
                self.images.entry(node.applied).or_insert_with(|| (node.node, Arc::clone(&node.image)));
            if *image != node.image {
                return Some(format!(
                    "nodes {first} and {} have applied {} entries of the metadata, and differ",
                    node.node, node.applied
                ));
            }
        }
        None
    }

    /// Offsets stand in their order, and no leader takes back what readers may see.
    fn check_node(&mut self, node: &Standing) -> Option<String> {
        for replica in &node.replicas {
            let &Replica { log_start, last_stable_offset, high_watermark, durable_end, log_end, .. } =
                replica;
            let where_it_is = || format!("{} on node {}", place(replica), node.node);
            let offsets = [log_start, last_stable_offset, high_watermark, log_end];
            if !offsets.is_sorted() || durable_end > log_end {
                return Some(format!(
                    "{}: log start {log_start}, last stable offset {last_stable_offset}, high watermark {high_watermark}, durable end {durable_end}, log end {log_end}",
                    where_it_is()
                ));
            }
            let key = (node.node, key(replica));
            if !replica.leads {
                self.leaders.remove(&key);
                continue;
            }
            let leads = (node.broker_epoch, replica.leader_epoch);
            let shown = Shown { last_stable_offset, high_watermark };
            let before = self.leaders.insert(key, (leads.0, leads.1, shown));
            if let Some((broker_epoch, leader_epoch, before)) = before
                && (broker_epoch, leader_epoch) == leads
                && (before.high_watermark > high_watermark || before.last_stable_offset > last_stable_offset)
            {
                return Some(format!("{}: from {before:?} to {shown:?}", where_it_is()));
            }
        }
        None
    }
}

/// Everybody who is in sync, as the newest metadata has it, has durably what the leader shows to readers.
fn check_in_sync(nodes: &[Standing]) -> Option<String> {
    let newest = nodes.iter().max_by_key(|node| node.applied)?;
    let image = &newest.image;
    for leader in nodes {
        for led in leader.replicas.iter().filter(|replica| replica.leads) {
            let topic = image.topic_by_id(led.topic_id);
            let Some(partition) = topic.and_then(|topic| topic.partition(led.partition)) else { continue };
            if partition.leader != Some(leader.node) || partition.leader_epoch != led.leader_epoch {
                continue;
            }
            for node in nodes.iter().filter(|node| partition.isr.contains(&node.node)) {
                let is_registered = |broker: &state::metadata::Broker| broker.epoch == node.broker_epoch;
                if !image.broker(node.node).is_some_and(is_registered) {
                    continue;
                }
                let replica = node.replicas.iter().find(|replica| key(replica) == key(led));
                let durable_end = replica.map_or(Offset::ZERO, |replica| replica.durable_end);
                if durable_end < led.high_watermark {
                    return Some(format!(
                        "{}: node {} is in sync and has {durable_end} durably, and node {}, which leads, shows {}",
                        place(led),
                        node.node,
                        leader.node,
                        led.high_watermark
                    ));
                }
            }
        }
    }
    None
}

fn key(replica: &Replica) -> Key {
    (replica.topic_id, replica.partition)
}

fn place(replica: &Replica) -> String {
    format!("{}-{}", replica.topic_id, replica.partition)
}
