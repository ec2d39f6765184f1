//! In-sync sets: which partitions may want another, and the conversation with the controller about it.
//!
//! A follower's fetch that may let it join is looked at at once, those that fall behind by the clock. Questions to the
//! controller go out many in one request. Invariant: a proposal whose answer is lost is asked again until the metadata says
//! what became of it: it may have been taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use state::partition::IsrProposal;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use wire::messages::alter_partition::{
    AlterPartitionRequest, AlterPartitionResponse, BrokerState, PartitionData, TopicData,
};
use wire::{ErrorCode, LeaderEpoch, PartitionId, Uuid};

use crate::broker::{Broker, stopped};
use crate::partition::Partition;

/// Between two rounds: followers of many partitions join together.
const ROUND: Duration = Duration::from_millis(10);
/// Wait before an unanswered proposal is asked again, or a refused one anew.
const RETRY: Duration = Duration::from_millis(100);
/// Longest time between two looks at who falls behind.
const LOOK_MAX: Duration = Duration::from_secs(1);

type Key = (Uuid, PartitionId);

/// Partitions that may want another set.
#[derive(Default)]
pub(crate) struct InSync {
    considered: Mutex<BTreeMap<Key, Arc<Partition>>>,
    wake: Notify,
}

/// A proposal on its way.
struct Asked {
    partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
    proposal: IsrProposal,
}

impl InSync {
    /// Has a partition looked at soon.
    pub(crate) fn consider(&self, partition: &Arc<Partition>) {
        let key = (partition.topic_id, partition.id.partition);
        if self.considered.lock().insert(key, Arc::clone(partition)).is_none() {
            self.wake.notify_one();
        }
    }
}

/// Keeps the sets until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut asked: Vec<Asked> = Vec::new();
    let mut looked = Instant::now();
    loop {
        let lag_max = broker.settings().broker().replication.lag_max;
        let look = looked + (lag_max / 4).min(LOOK_MAX);
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = broker.isr.wake.notified() => sleep(ROUND).await,
            () = sleep_until(look) => {}
            () = sleep(RETRY), if !asked.is_empty() => {}
        }
        let mut candidates = std::mem::take(&mut *broker.isr.considered.lock());
        if Instant::now() >= look {
            looked = Instant::now();
            let hosted = broker.partitions.load_full();
            let led = hosted.partitions().filter(|partition| partition.has_followers());
            candidates.extend(
                led.map(|partition| ((partition.topic_id, partition.id.partition), Arc::clone(partition))),
            );
        }
        let image = broker.metadata.image();
        let joins = |id| image.broker(id).is_some_and(|other| other.is_active());
        let lag_max_ms = i64::try_from(lag_max.as_millis()).unwrap_or(i64::MAX);
        let now = broker.ticks();
        asked.extend(candidates.into_values().filter_map(|partition| {
            let (leader_epoch, proposal) = partition.propose_isr(now, lag_max_ms, joins)?;
            Some(Asked { partition, leader_epoch, proposal })
        }));
        if !asked.is_empty() {
            asked = ask(&broker, asked).await;
        }
    }
}

/// Asks the controller; returns what it has not answered.
async fn ask(broker: &Arc<Broker>, asked: Vec<Asked>) -> Vec<Asked> {
    match broker.ask_controller(request(broker, &asked)).await {
        Ok(response) if response.error_code.is_ok() => {
            settle(asked, &response);
            Vec::new()
        }
        Ok(response) => {
            tracing::debug!(error = ?response.error_code, "the controller does not change in-sync sets");
            still_open(asked)
        }
        Err(error) => {
            tracing::debug!(%error, "the controller could not be asked to change in-sync sets");
            still_open(asked)
        }
    }
}

/// What is still to be asked: the metadata may have settled some meanwhile.
fn still_open(mut asked: Vec<Asked>) -> Vec<Asked> {
    asked.retain(|asked| asked.partition.is_proposing(asked.leader_epoch));
    asked
}

fn request(broker: &Broker, asked: &[Asked]) -> AlterPartitionRequest {
    let this = broker.node_id;
    let epoch = broker.epoch.load(Ordering::Acquire);
    let mut topics: Vec<TopicData> = Vec::new();
    for Asked { partition, leader_epoch, proposal } in asked {
        let isr = proposal.isr.iter().map(|(id, broker_epoch)| BrokerState {
            broker_id: id.0,
            broker_epoch: broker_epoch.unwrap_or(epoch),
        });
        let data = PartitionData {
            partition_index: partition.id.partition.0,
            leader_epoch: leader_epoch.0,
            partition_epoch: proposal.partition_epoch,
            isr: isr.collect(),
        };
        match topics.last_mut().filter(|topic| topic.topic_id == partition.topic_id) {
            Some(topic) => topic.partitions.push(data),
            None => topics.push(TopicData { topic_id: partition.topic_id, partitions: vec![data] }),
        }
    }
    AlterPartitionRequest { broker_id: this.0, broker_epoch: epoch, topics }
}

/// What is taken, the metadata tells; what is refused for good is given up.
fn settle(asked: Vec<Asked>, response: &AlterPartitionResponse) {
    let answers: BTreeMap<Key, ErrorCode> = response
        .topics
        .iter()
        .flat_map(|topic| {
            let answer = |partition: &wire::messages::alter_partition::PartitionAnswer| {
                ((topic.topic_id, PartitionId(partition.partition_index)), partition.error_code)
            };
            topic.partitions.iter().map(answer)
        })
        .collect();
    for Asked { partition, leader_epoch, .. } in asked {
        match answers.get(&(partition.topic_id, partition.id.partition)) {
            Some(&ErrorCode::NONE) => {}
            // Another change was first, perhaps this one, whose answer was lost: the metadata brings it.
            // So does one that was taken and ended this leadership: until the metadata says so, who was to join counts.
            Some(
                &(ErrorCode::INVALID_UPDATE_VERSION
                | ErrorCode::FENCED_LEADER_EPOCH
                | ErrorCode::NEW_LEADER_ELECTED),
            ) => {}
            refused => {
                tracing::debug!(partition = %partition.id, ?refused, "an in-sync set was not changed");
                partition.isr_refused(leader_epoch);
            }
        }
    }
}
