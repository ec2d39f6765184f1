//! The ends of transactions on their way: whatever a coordinator's shard here has decided is written as a marker into every
//! partition of the transaction, wherever that is led, again and again until it is there.
//!
//! Invariant: a partition is reported as marked only when its leader has said that the marker is safe, or when the partition is
//! gone. A shard that has moved to another broker is given up: the decision is in its log, and the other one carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use state::txn::{Marking, Protocol};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use wire::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use wire::{BrokerId, ErrorCode, PartitionId, TopicPartition};

use crate::broker::{Broker, stopped};
use crate::handler::write_txn_markers;
use crate::transactions::by_topic;

/// Decisions that travel together, at most.
const TOGETHER_MAX: usize = 256;
/// Wait before markers are sent again that did not arrive.
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a leader may take to make markers safe.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Sends markers until the broker stops.
pub(crate) async fn run(
    broker: Arc<Broker>,
    mut decided: mpsc::UnboundedReceiver<Marking>,
    mut stop: watch::Receiver<bool>,
) {
    let mut under_way = JoinSet::new();
    loop {
        let mut together = Vec::new();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            received = decided.recv_many(&mut together, TOGETHER_MAX) => {
                if received == 0 {
                    return;
                }
                under_way.spawn(carry_out(Arc::clone(&broker), together));
            }
            Some(_done) = under_way.join_next(), if !under_way.is_empty() => {}
        }
    }
}

/// Has all of these decisions written everywhere.
async fn carry_out(broker: Arc<Broker>, mut markings: Vec<Marking>) {
    let mut pause = RETRY;
    loop {
        markings = attempt(&broker, markings).await;
        if markings.is_empty() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Tries once, and returns what is left.
async fn attempt(broker: &Arc<Broker>, markings: Vec<Marking>) -> Vec<Marking> {
    let mut marked = vec![Vec::new(); markings.len()];
    let mut by_leader: BTreeMap<BrokerId, Vec<(usize, Vec<TopicPartition>)>> = BTreeMap::new();
    let image = broker.metadata.image();
    for (place, marking) in markings.iter().enumerate() {
        for partition in &marking.partitions {
            let known = image.topic(&partition.topic).and_then(|topic| topic.partition(partition.partition));
            match known {
                None => marked[place].push(partition.clone()),
                Some(known) => {
                    let Some(leader) = known.leader else { continue };
                    let sent = by_leader.entry(leader).or_default();
                    match sent.last_mut().filter(|(last, _)| *last == place) {
                        Some((_, partitions)) => partitions.push(partition.clone()),
                        None => sent.push((place, vec![partition.clone()])),
                    }
                }
            }
        }
    }
    let mut sending = JoinSet::new();
    for (leader, sent) in by_leader {
        let markers: Vec<_> = sent.iter().map(|(place, to)| marker(&markings[*place], to)).collect();
        let broker = Arc::clone(broker);
        sending.spawn(async move {
            let request = WriteTxnMarkersRequest { markers };
            (sent, send(&broker, leader, request).await)
        });
    }
    let mut is_given_up = vec![false; markings.len()];
    while let Some(answered) = sending.join_next().await {
        let (sent, answer) = answered.expect("sending markers does not panic");
        let Some(answer) = answer else { continue };
        for ((place, _), result) in sent.into_iter().zip(answer.markers) {
            for topic in result.topics {
                for partition in topic.partitions {
                    let id = TopicPartition::new(topic.name.clone(), PartitionId(partition.partition_index));
                    match partition.error_code {
                        ErrorCode::NONE => marked[place].push(id),
                        // Another coordinator has gone on from here.
                        ErrorCode::TRANSACTION_COORDINATOR_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => {
                            tracing::warn!(
                                transactional_id = %markings[place].transactional_id, partition = %id,
                                error = ?partition.error_code, "a marker is refused: another coordinator is at work"
                            );
                            is_given_up[place] = true;
                        }
                        error => {
                            tracing::debug!(partition = %id, ?error, "a marker has to be sent again");
                        }
                    }
                }
            }
        }
    }
    let mut left = Vec::new();
    for (place, mut marking) in markings.into_iter().enumerate() {
        let marked = std::mem::take(&mut marked[place]);
        let is_done_with = is_given_up[place] || !report(broker, &marking, &marked).await;
        marking.partitions.retain(|partition| !marked.contains(partition));
        if !is_done_with && !marking.partitions.is_empty() {
            left.push(marking);
        }
    }
    left
}

/// Tells the shard what is marked. False when it is not here any more.
async fn report(broker: &Arc<Broker>, marking: &Marking, marked: &[TopicPartition]) -> bool {
    let id = &marking.transactional_id;
    let told = broker
        .transactions
        .ask(id, |transactions, now| (transactions.marked(id, marking.producer, marked, now), ()));
    match told.await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(transactional_id = %id, ?error, "the shard of a transaction is not here any more");
            false
        }
    }
}

fn marker(marking: &Marking, partitions: &[TopicPartition]) -> WritableTxnMarker {
    WritableTxnMarker {
        producer_id: marking.producer.id.0,
        producer_epoch: marking.producer.epoch.0,
        transaction_result: marking.commit,
        topics: by_topic(partitions)
            .map(|(name, partition_indexes)| WritableTxnMarkerTopic { name, partition_indexes })
            .collect(),
        coordinator_epoch: marking.coordinator_epoch,
        transaction_version: match marking.protocol {
            Protocol::First => 0,
            Protocol::Second => 2,
        },
    }
}

async fn send(
    broker: &Arc<Broker>,
    leader: BrokerId,
    request: WriteTxnMarkersRequest,
) -> Option<WriteTxnMarkersResponse> {
    if leader == broker.node_id {
        return Some(write_txn_markers::write(Arc::clone(broker), request).await);
    }
    let address = broker.metadata.quorum().peers().address_of(leader)?;
    match broker.peers.ask(leader, &address, request, ANSWER_MAX).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(%error, node = %leader, "markers could not be sent");
            None
        }
    }
}
