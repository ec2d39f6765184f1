//! The ends of transactions on their way: whatever a coordinator's shard here has decided is written as a marker into every
//! partition of the transaction, wherever that is led, again and again until it is there.
//!
//! Invariant: a partition is reported as marked only when its leader has said that the marker is safe, or when the partition is
//! gone; what is sent again is still wanted. A shard that has moved to another broker is given up: the decision is in its log, and the other one carries it out.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use state::txn::{Marking, MarkingNumber, Protocol};
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
        markings = still_wanted(&broker, markings).await;
    }
}

/// Those that no other task has carried out, and no other broker has taken over: what they would end may be the next transaction
/// by now.
async fn still_wanted(broker: &Arc<Broker>, markings: Vec<Marking>) -> Vec<Marking> {
    let mut wanted = Vec::with_capacity(markings.len());
    for marking in markings {
        let Marking { transactional_id: id, number, .. } = &marking;
        let asked =
            broker.transactions.ask(id, |transactions, _now| (Vec::new(), transactions.wants(id, *number)));
        if asked.await.unwrap_or(false) {
            wanted.push(marking);
        }
    }
    wanted
}

/// A marking and those of its partitions that one broker leads.
type Part = (Arc<Marking>, Vec<TopicPartition>);

/// Tries once, and returns what is left.
async fn attempt(broker: &Arc<Broker>, markings: Vec<Marking>) -> Vec<Marking> {
    let markings: Vec<_> = markings.into_iter().map(Arc::new).collect();
    let mut by_leader: BTreeMap<BrokerId, Vec<Part>> = BTreeMap::new();
    let mut trying = JoinSet::new();
    let image = broker.metadata.image();
    for marking in &markings {
        let mut gone = Vec::new();
        for partition in &marking.partitions {
            let known = image.topic(&partition.topic).and_then(|topic| topic.partition(partition.partition));
            let Some(known) = known else {
                gone.push(partition.clone());
                continue;
            };
            let Some(leader) = known.leader else { continue };
            let sent = by_leader.entry(leader).or_default();
            match sent.last_mut().filter(|(last, _)| Arc::ptr_eq(last, marking)) {
                Some((_, partitions)) => partitions.push(partition.clone()),
                None => sent.push((Arc::clone(marking), vec![partition.clone()])),
            }
        }
        if !gone.is_empty() || marking.partitions.is_empty() {
            trying.spawn(report(Arc::clone(broker), Arc::clone(marking), gone));
        }
    }
    for (leader, sent) in by_leader {
        trying.spawn(send_and_report(Arc::clone(broker), leader, sent));
    }
    let mut done = Done::default();
    while let Some(tried) = trying.join_next().await {
        done.merge(tried.expect("sending markers does not panic"));
    }
    let left = markings.into_iter().filter_map(|marking| {
        let mut left = Marking::clone(&marking);
        left.partitions.retain(|partition| !done.marked.contains(&(left.number, partition.clone())));
        let is_left = !left.partitions.is_empty() && !done.given_up.contains(&left.number);
        is_left.then_some(left)
    });
    left.collect()
}

/// What an attempt came to.
#[derive(Default)]
struct Done {
    marked: HashSet<(MarkingNumber, TopicPartition)>,
    given_up: HashSet<MarkingNumber>,
}

impl Done {
    fn merge(&mut self, other: Done) {
        self.marked.extend(other.marked);
        self.given_up.extend(other.given_up);
    }
}

/// Has one leader write its markers, and tells the shards at once, whatever others take.
async fn send_and_report(broker: Arc<Broker>, leader: BrokerId, sent: Vec<Part>) -> Done {
    let mut done = Done::default();
    let markers = sent.iter().map(|(marking, to)| marker(marking, to)).collect();
    let Some(answer) = send(&broker, leader, WriteTxnMarkersRequest { markers }).await else { return done };
    let mut reporting = JoinSet::new();
    for ((marking, _), result) in sent.into_iter().zip(answer.markers) {
        let mut marked = Vec::new();
        for topic in result.topics {
            for partition in topic.partitions {
                let id = TopicPartition::new(topic.name.clone(), PartitionId(partition.partition_index));
                match partition.error_code {
                    ErrorCode::NONE => marked.push(id),
                    // Another coordinator has gone on from here.
                    ErrorCode::TRANSACTION_COORDINATOR_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => {
                        tracing::warn!(
                            transactional_id = %marking.transactional_id, partition = %id,
                            error = ?partition.error_code, "a marker is refused: another coordinator is at work"
                        );
                        done.given_up.insert(marking.number);
                    }
                    error => tracing::debug!(partition = %id, ?error, "a marker has to be sent again"),
                }
            }
        }
        if !marked.is_empty() {
            reporting.spawn(report(Arc::clone(&broker), marking, marked));
        }
    }
    while let Some(reported) = reporting.join_next().await {
        done.merge(reported.expect("a report does not panic"));
    }
    done
}

/// Tells the shard what is marked.
async fn report(broker: Arc<Broker>, marking: Arc<Marking>, marked: Vec<TopicPartition>) -> Done {
    let Marking { transactional_id: id, number, .. } = &*marking;
    let told =
        broker.transactions.ask(id, |transactions, now| (transactions.marked(id, *number, &marked, now), ()));
    let mut done = Done::default();
    if let Err(error) = told.await {
        tracing::debug!(transactional_id = %id, ?error, "the shard of a transaction is not here any more");
        done.given_up.insert(*number);
    }
    done.marked.extend(marked.into_iter().map(|partition| (*number, partition)));
    done
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
