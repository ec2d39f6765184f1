//! Following: one fetcher a leader, which pulls for every partition that follows it.
//!
//! The pull never waits for the disk: what a fetch brings is written, its flush is queued, and the next fetch goes out from
//! the new end of the log. What is durable by then travels with it; what becomes durable while it is parked at the leader is
//! told by a second task over a connection of its own, so that a lone record is acknowledged after one flush and not after one
//! wait. Invariant: a log is cut by comparing epochs with the leader of its own epoch before anything is appended to it, and
//! what was pulled in one epoch is never written in another (see `partition.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use state::partition::EpochEnd;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use wire::messages::acknowledge_flushed::{
    AcknowledgeFlushedRequest, PartitionData as FlushedPartition, TopicData as FlushedTopic,
};
use wire::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic, PartitionData, ReplicaState,
};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, Payload, Uuid};

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::partition::Partition;
use crate::waiting::ParkedFetch;

/// Wait before a partition is asked for again whose leader did not want to answer: the metadata is on its way.
const PARTITION_RETRY: Duration = Duration::from_millis(50);
/// Wait after what a leader sent could not be written: a full disk does not get empty in a moment.
const APPEND_RETRY: Duration = Duration::from_secs(1);
/// Wait after a leader could not be reached.
const LEADER_RETRY: Duration = Duration::from_millis(100);
/// How long a leader cannot be reached before it is told, and how often after that.
const UNREACHED_TOLD: Duration = Duration::from_secs(10);
/// Longest wait of a partition that is throttled: the rate may be another one by then.
const THROTTLE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Beyond its parking, an answer may take this long.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A partition, and the epoch in which it follows.
type Followed = (Arc<Partition>, LeaderEpoch);
type Key = (Uuid, PartitionId);

/// All fetchers of this broker.
#[derive(Default)]
pub(crate) struct Replication {
    fetchers: Mutex<BTreeMap<BrokerId, Arc<Fetcher>>>,
}

/// The partitions that follow one leader.
struct Fetcher {
    leader: BrokerId,
    partitions: Mutex<BTreeMap<Key, Followed>>,
    /// Told when the partitions change.
    changed: Notify,
    /// Told when more of a log is durable, or the parked fetch should come back.
    progress: Arc<Notify>,
    recall: AtomicBool,
}

impl Replication {
    /// Has the partition follow a leader in an epoch, or nobody.
    pub(crate) fn assign(
        &self,
        broker: &Arc<Broker>,
        partition: &Arc<Partition>,
        following: Option<(Option<BrokerId>, LeaderEpoch)>,
    ) {
        let mut fetchers = self.fetchers.lock();
        let key = (partition.topic_id, partition.id.partition);
        let leader = following.and_then(|(leader, _)| leader);
        for (id, fetcher) in fetchers.iter() {
            if Some(*id) != leader && fetcher.partitions.lock().remove(&key).is_some() {
                fetcher.changed.notify_one();
            }
        }
        let Some((leader, leader_epoch)) = following else { return };
        let Some(leader) = leader else {
            partition.follow(None, leader_epoch, None);
            return;
        };
        let fetcher = Arc::clone(fetchers.entry(leader).or_insert_with(|| Fetcher::start(broker, leader)));
        drop(fetchers);
        if !partition.follow(Some(leader), leader_epoch, Some(Arc::clone(&fetcher.progress))) {
            return;
        }
        fetcher.partitions.lock().insert(key, (Arc::clone(partition), leader_epoch));
        fetcher.changed.notify_one();
        // The fetch that is parked at the leader does not know of it.
        fetcher.recall.store(true, Ordering::Release);
        fetcher.progress.notify_one();
    }
}

impl Replication {
    /// A partition that was left out is to be asked for again.
    pub(crate) fn resume(&self, partition: &Partition) {
        let key = (partition.topic_id, partition.id.partition);
        for fetcher in self.fetchers.lock().values() {
            if fetcher.partitions.lock().contains_key(&key) {
                fetcher.changed.notify_one();
            }
        }
    }
}

impl Fetcher {
    fn start(broker: &Arc<Broker>, leader: BrokerId) -> Arc<Self> {
        let fetcher = Arc::new(Fetcher {
            leader,
            partitions: Mutex::default(),
            changed: Notify::new(),
            progress: Arc::default(),
            recall: AtomicBool::new(false),
        });
        let stop = broker.stop.subscribe();
        tokio::spawn(pull(Arc::clone(broker), Arc::clone(&fetcher), stop.clone()));
        tokio::spawn(acknowledge(Arc::clone(broker), Arc::clone(&fetcher), stop));
        fetcher
    }

    fn partitions(&self) -> BTreeMap<Key, Followed> {
        self.partitions.lock().clone()
    }
}

/// What the leader was last told of a partition in the fetch session.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    offset: Offset,
    flushed_end: Offset,
    leader_epoch: LeaderEpoch,
    last_fetched_epoch: LeaderEpoch,
}

/// A fetch session as its reader keeps it (KIP-227).
#[derive(Default)]
struct Session {
    id: i32,
    epoch: i32,
    /// The partitions in the session; `None` for one of which the leader is to be told anew.
    told: BTreeMap<Key, Option<Told>>,
}

/// Pulls until the broker stops.
async fn pull(broker: Arc<Broker>, fetcher: Arc<Fetcher>, mut stop: watch::Receiver<bool>) {
    let mut link = broker.metadata.quorum().peers().reach().link();
    let mut session = Session::default();
    let mut delayed: BTreeMap<Key, Instant> = BTreeMap::new();
    let mut told = Instant::now();
    loop {
        let now = Instant::now();
        delayed.retain(|_, until| *until > now);
        let mut partitions = fetcher.partitions();
        let has_any = !partitions.is_empty();
        for (key, (partition, _)) in &partitions {
            let limit = broker.throttles.following(&broker, partition);
            if let Some(wait) = limit.and_then(|limit| limit.wait()) {
                delayed.entry(*key).or_insert(now + wait.min(THROTTLE_WAIT_MAX));
            }
        }
        partitions.retain(|key, (partition, _)| !delayed.contains_key(key) && !partition.is_out_of_service());
        if partitions.is_empty() {
            let wait = async {
                match delayed.values().min() {
                    Some(until) if has_any => {
                        let _ = timeout_at(*until, fetcher.changed.notified()).await;
                    }
                    _ => fetcher.changed.notified().await,
                }
            };
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = wait => {}
            }
            continue;
        }
        // What was left out is asked for in time, and not when there is something for the others.
        let wait_max = delayed.values().min().map_or(Duration::MAX, |until| *until - now);
        let request = session.request(&broker, &partitions, wait_max);
        let fetched = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            fetched = fetch(&broker, &mut link, fetcher.leader, request) => fetched,
        };
        match fetched {
            Ok(response) if response.error_code.is_ok() => {
                told = Instant::now();
                session.answered(&response);
                for (key, until) in take(&broker, &mut session, &partitions, response).await {
                    delayed.insert(key, until);
                }
            }
            Ok(response) => {
                tracing::debug!(leader = %fetcher.leader, error = ?response.error_code, "a fetch session begins anew");
                session = Session::default();
                sleep(PARTITION_RETRY).await;
            }
            Err(error) => {
                if told.elapsed() > UNREACHED_TOLD {
                    told = Instant::now();
                    tracing::warn!(
                        leader = %fetcher.leader, %error, partitions = partitions.len(),
                        "a leader cannot be reached from here, and its replicas here fall behind: if it runs, correct its \
                         advertised.listeners, or what is in between (name resolution, firewall)"
                    );
                }
                session = Session::default();
                tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return,
                    () = sleep(LEADER_RETRY) => {}
                }
            }
        }
    }
}

async fn fetch(
    broker: &Broker,
    link: &mut crate::peer::Link,
    leader: BrokerId,
    request: FetchRequest,
) -> Result<FetchResponse, String> {
    let address = broker.metadata.quorum().peers().address_of(leader);
    let address = address.ok_or_else(|| format!("nobody says where broker {leader} is"))?;
    let wait = ANSWER_MAX + broker.settings().broker().replication.fetch_wait_max;
    link.ask(&address, request, wait).await.map_err(|error| error.to_string())
}

impl Session {
    /// The next request: what has changed since the last one, or everything.
    fn request(
        &mut self,
        broker: &Broker,
        partitions: &BTreeMap<Key, Followed>,
        wait_max: Duration,
    ) -> FetchRequest {
        let settings = broker.settings();
        let replication = &settings.broker().replication;
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (key, (partition, leader_epoch)) in partitions {
            // Read before the end of the log: a vote never speaks of more than where the fetch reads on.
            let flushed_end = partition.durable_end();
            let told = Told {
                offset: partition.log.log_end(),
                flushed_end,
                leader_epoch: *leader_epoch,
                last_fetched_epoch: partition.log.latest_epoch().unwrap_or(LeaderEpoch::NONE),
            };
            if self.told.insert(*key, Some(told)) == Some(Some(told)) {
                continue;
            }
            let limit = broker.throttles.following(broker, partition);
            let bytes_max = limit.map_or(usize::MAX, |limit| limit.bytes_max());
            let bytes_max = bytes_max.min(replication.fetch_partition_bytes_max);
            let fetch = FetchPartition {
                partition: key.1.0,
                current_leader_epoch: told.leader_epoch.0,
                fetch_offset: told.offset.0,
                last_fetched_epoch: told.last_fetched_epoch.0,
                log_start_offset: partition.log.log_start().0,
                partition_max_bytes: i32::try_from(bytes_max).unwrap_or(i32::MAX),
                flushed_end: told.flushed_end.0,
                ..FetchPartition::default()
            };
            match topics.last_mut().filter(|topic| topic.topic_id == key.0) {
                Some(topic) => topic.partitions.push(fetch),
                None => {
                    topics.push(FetchTopic {
                        topic_id: key.0,
                        partitions: vec![fetch],
                        ..FetchTopic::default()
                    });
                }
            }
        }
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        self.told.retain(|key, _| {
            let is_kept = partitions.contains_key(key);
            if !is_kept && self.epoch > 0 {
                match forgotten.last_mut().filter(|topic| topic.topic_id == key.0) {
                    Some(topic) => topic.partitions.push(key.1.0),
                    None => forgotten.push(ForgottenTopic {
                        topic_id: key.0,
                        partitions: vec![key.1.0],
                        ..ForgottenTopic::default()
                    }),
                }
            }
            is_kept
        });
        FetchRequest {
            replica_state: ReplicaState {
                replica_id: broker.node_id.0,
                replica_epoch: broker.epoch.load(Ordering::Acquire),
            },
            max_wait_ms: i32::try_from(wait_max.min(replication.fetch_wait_max).as_millis())
                .unwrap_or(i32::MAX),
            min_bytes: i32::try_from(replication.fetch_bytes_min).unwrap_or(1),
            max_bytes: i32::try_from(replication.fetch_bytes_max).unwrap_or(i32::MAX),
            session_id: self.id,
            session_epoch: self.epoch,
            topics,
            forgotten_topics_data: forgotten,
            ..FetchRequest::default()
        }
    }

    fn answered(&mut self, response: &FetchResponse) {
        if response.session_id == 0 {
            *self = Session::default();
        } else if self.id == response.session_id {
            self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        } else {
            self.id = response.session_id;
            self.epoch = 1;
        }
    }
}

/// Takes what a fetch brought. Returns the partitions that are to be left alone for a while.
async fn take(
    broker: &Arc<Broker>,
    session: &mut Session,
    partitions: &BTreeMap<Key, Followed>,
    response: FetchResponse,
) -> Vec<(Key, Instant)> {
    let mut delayed = Vec::new();
    for topic in response.responses {
        for data in topic.partitions {
            let key = (topic.topic_id, PartitionId(data.partition_index));
            let Some((partition, leader_epoch)) = partitions.get(&key) else { continue };
            if let Err(wait) = take_partition(broker, partition, *leader_epoch, data).await {
                // It leaves the session meanwhile, and the leader is told anew where this replica stands.
                session.told.insert(key, None);
                delayed.push((key, Instant::now() + wait));
            }
        }
    }
    delayed
}

async fn take_partition(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    leader_epoch: LeaderEpoch,
    data: PartitionData,
) -> Result<(), Duration> {
    let log_start = Offset(data.log_start_offset);
    match data.error_code {
        ErrorCode::NONE => {}
        // Nothing of this log is the beginning of the leader's.
        ErrorCode::OFFSET_OUT_OF_RANGE if log_start >= Offset::ZERO => {
            let partition = Arc::clone(partition);
            return cut(move || partition.restart_at(leader_epoch, log_start)).await;
        }
        error => {
            tracing::debug!(partition = %partition.id, ?error, "the leader does not answer for a partition");
            return Err(PARTITION_RETRY);
        }
    }
    if data.diverging_epoch.epoch >= 0 {
        let diverging = EpochEnd {
            epoch: LeaderEpoch(data.diverging_epoch.epoch),
            end: Offset(data.diverging_epoch.end_offset),
        };
        let partition = Arc::clone(partition);
        let now = broker.clock.now();
        return cut(move || partition.cut_to_leader(leader_epoch, diverging, now)).await;
    }
    if let Some(Payload::Here(records)) = data.records {
        append(broker, partition, leader_epoch, records)?;
    }
    partition.follow_watermarks(leader_epoch, Offset(data.high_watermark), log_start);
    Ok(())
}

fn append(
    broker: &Broker,
    partition: &Arc<Partition>,
    leader_epoch: LeaderEpoch,
    records: Bytes,
) -> Result<(), Duration> {
    if records.is_empty() {
        return Ok(());
    }
    let bytes = records.len();
    if let Some(limit) = broker.throttles.following(broker, partition) {
        limit.throttle().spend(bytes);
    }
    match partition.append_from_leader(leader_epoch, records, broker.clock.now()) {
        Ok(_) => {
            broker.metrics.replicated(bytes);
            Ok(())
        }
        Err(error) => {
            if partition.may_complain(broker.ticks()) {
                tracing::error!(partition = %partition.id, %error, "what the leader sent cannot be appended");
            }
            Err(APPEND_RETRY)
        }
    }
}

async fn cut(
    act: impl FnOnce() -> Result<(), storage::StorageError> + Send + 'static,
) -> Result<(), Duration> {
    match blocking::run(act).await {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(%error, "a log could not be cut to its leader's");
            Err(LEADER_RETRY)
        }
    }
}

/// Tells the leader what has become durable, as soon as it has.
async fn acknowledge(broker: Arc<Broker>, fetcher: Arc<Fetcher>, mut stop: watch::Receiver<bool>) {
    let mut link = broker.metadata.quorum().peers().reach().link();
    let mut told: BTreeMap<Key, (LeaderEpoch, Offset)> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = fetcher.progress.notified() => {}
        }
        let wake = fetcher.recall.swap(false, Ordering::AcqRel);
        let partitions = fetcher.partitions();
        told.retain(|key, _| partitions.contains_key(key));
        let mut topics: Vec<FlushedTopic> = Vec::new();
        for (key, (partition, leader_epoch)) in &partitions {
            if partition.is_out_of_service() {
                continue;
            }
            let Some(flushed_end) = partition.acknowledgeable_end(*leader_epoch) else { continue };
            if told.insert(*key, (*leader_epoch, flushed_end)) == Some((*leader_epoch, flushed_end)) {
                continue;
            }
            let flushed = FlushedPartition {
                partition_index: key.1.0,
                leader_epoch: leader_epoch.0,
                flushed_end: flushed_end.0,
            };
            match topics.last_mut().filter(|topic| topic.topic_id == key.0) {
                Some(topic) => topic.partitions.push(flushed),
                None => topics.push(FlushedTopic { topic_id: key.0, partitions: vec![flushed] }),
            }
        }
        if topics.is_empty() && !wake {
            continue;
        }
        let request = AcknowledgeFlushedRequest {
            broker_id: broker.node_id.0,
            broker_epoch: broker.epoch.load(Ordering::Acquire),
            topics,
            wake,
        };
        let Some(address) = broker.metadata.quorum().peers().address_of(fetcher.leader) else { continue };
        if let Err(error) = link.ask(&address, request, ANSWER_MAX).await {
            tracing::debug!(leader = %fetcher.leader, %error, "a leader could not be told what is durable");
            // The next fetch tells, unless it is the one that was to come back.
            told.clear();
            sleep(LEADER_RETRY).await;
            if wake {
                fetcher.recall.store(true, Ordering::Release);
                fetcher.progress.notify_one();
            }
        }
    }
}

/// The fetches of followers that are parked at this broker, by follower.
///
/// A recall may come while the fetch that it is for is still on its way, over another connection: it holds for the next fetch
/// that parks, too, or that would wait in vain for as long as it may. One that knows better comes back once too often.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    parked: Mutex<BTreeMap<BrokerId, ParkedFollower>>,
}

#[derive(Debug, Default)]
struct ParkedFollower {
    fetch: Option<Arc<ParkedFetch>>,
    recalls_next: bool,
}

impl Followers {
    /// Remembers a follower's parked fetch, of which there is one at a time.
    pub(crate) fn park(&self, follower: BrokerId, fetch: &Arc<ParkedFetch>) {
        let mut parked = self.parked.lock();
        let parked = parked.entry(follower).or_default();
        parked.fetch = Some(Arc::clone(fetch));
        if std::mem::take(&mut parked.recalls_next) {
            fetch.recall();
        }
    }

    /// Has a follower's fetch come back.
    pub(crate) fn recall(&self, follower: BrokerId) {
        let mut parked = self.parked.lock();
        let parked = parked.entry(follower).or_default();
        parked.recalls_next = true;
        if let Some(fetch) = parked.fetch.take() {
            fetch.recall();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_overtakes_the_fetch_that_it_is_for() {
        let followers = Followers::default();
        let [one, other] = [BrokerId(1), BrokerId(2)];
        followers.recall(one);
        let (late, elsewhere, next) = (ParkedFetch::new(), ParkedFetch::new(), ParkedFetch::new());
        followers.park(one, &late);
        followers.park(other, &elsewhere);
        followers.park(one, &next);
        assert_eq!([&late, &elsewhere, &next].map(|fetch| fetch.is_recalled()), [true, false, false]);
        followers.recall(one);
        assert!(next.is_recalled());
    }
}
