//! Fetch: finds what there is, waits for more if that is too little, and answers with where it lies.
//!
//! A round locates each partition's batches by what is in memory; the fetch is parked between rounds (see `waiting.rs`)
//! until one of its partitions moves or `max.wait.ms` has passed. The batches are read when the socket takes them (see
//! `outbound.rs`). Invariant: no reader gets a byte past the high watermark, or past the last stable offset if it reads
//! committed records only. A follower reads up to the log's end, tells by where it reads on what it has, and its word counts
//! only after its history was compared with the leader's.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use state::partition::Fetched;
use storage::{AbortedTxn, Located, ReadError, ReadLimits, ReadMode, Slice, StorageError, StoredBatches};
use tokio::time::{Instant, timeout_at};
use wire::compression::Compression;
use wire::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse,
    LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Millis, Offset, Payload, Str};

use crate::blocking;
use crate::broker::{Broker, Named};
use crate::context::RequestContext;
use crate::fetch_session::{
    FetchAnswer, FetchKey, FetchPlan, FetchTarget, SessionOwner, TOPIC_ID_VERSION_MIN,
};
use crate::leader_hints::LeaderHints;
use crate::metrics::TopicMetrics;
use crate::partition::Partition;
use crate::partitions::Hosted;
use crate::quotas::{FetchVerdict, wire_ms};
use crate::throttle::Throttle;
use crate::waiting::ParkedFetch;

/// Clients that ask in an older version cannot read zstd (KIP-110).
const ZSTD_VERSION_MIN: i16 = 10;
const READ_COMMITTED: i8 = 1;
/// Consumers may read from followers from this version on (KIP-392).
const FOLLOWER_VERSION_MIN: i16 = 11;
/// Answers tell who leads instead from this version on (KIP-951).
const NODE_ENDPOINTS_VERSION_MIN: i16 = 16;

/// Answers a fetch, after waiting for `min_bytes` at most `max_wait_ms`: the response, and the batches for its
/// deferred places.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: FetchRequest,
) -> (FetchResponse, Vec<StoredBatches>) {
    let bytes_max = usize::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(broker.settings().broker().network.fetch_bytes_max);
    let replica = replica_of(&request);
    let bytes_max = match replica {
        Some(_) => bytes_max,
        // Whoever asks for more than its quota allows gets what it allows.
        None => bytes_max.min(broker.fetch_bytes_max(&context)),
    };
    let session_of = replica.map_or(SessionOwner::Reader, |replica| SessionOwner::Follower(replica.id));
    let wants = Wants {
        replica,
        now: broker.ticks(),
        // Who wants more than it takes gets what it takes.
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
        bytes_max,
        version: context.version,
        committed_only: request.isolation_level == READ_COMMITTED,
        rack: request.rack_id.clone(),
    };
    let deadline = context.received + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let plan = match broker.fetch_sessions.plan(request, context.version, session_of) {
        Ok(plan) => plan,
        Err(error_code) => return (FetchResponse { error_code, ..Default::default() }, Vec::new()),
    };
    let work = async {
        let found = find_enough(&broker, &wants, &plan.targets, deadline).await;
        locate_rest(found).await
    };
    let (found, busy) = broker.quotas.timed(work).await;
    if replica.is_none() {
        let bytes = found.iter().map(Found::bytes).sum();
        if let FetchVerdict::HoldBack(wait) = broker.count_fetch(&context, bytes, busy) {
            return (held_back(&broker, &plan, wait), Vec::new());
        }
    }
    let answers = found.into_iter().map(Found::delivered).collect();
    respond(&broker, &context, &plan, answers)
}

/// The answer to a reader that is over its quota: it says nothing of any partition, and the session stays as it was.
fn held_back(broker: &Broker, plan: &FetchPlan, wait: Duration) -> FetchResponse {
    let session_id = broker.fetch_sessions.held_back(plan);
    FetchResponse { session_id, throttle_time_ms: wire_ms(wait), ..Default::default() }
}

/// Who fetches, where it is another broker.
fn replica_of(request: &FetchRequest) -> Option<Replica> {
    let state = &request.replica_state;
    let (id, broker_epoch) = if state.replica_id >= 0 {
        (state.replica_id, state.replica_epoch)
    } else {
        (request.replica_id, -1)
    };
    (id >= 0).then_some(Replica { id: BrokerId(id), broker_epoch })
}

/// A broker that follows.
#[derive(Clone, Copy)]
struct Replica {
    id: BrokerId,
    broker_epoch: i64,
}

/// What the request as a whole asks for.
struct Wants {
    replica: Option<Replica>,
    /// When the request came, on a clock that never goes back.
    now: Millis,
    bytes_min: usize,
    bytes_max: usize,
    version: i16,
    committed_only: bool,
    /// Where the reader stands, if it says so (KIP-392).
    rack: Str,
}

/// One partition's answer, and what is still to be located for it.
struct Found {
    answer: FetchAnswer,
    /// What the index, not in memory, has to be asked for.
    unlocated: Option<Slice>,
    metrics: Option<Arc<TopicMetrics>>,
    /// What the answer is counted against.
    throttle: Option<Arc<Throttle>>,
}

impl Found {
    fn new(target: &FetchTarget, data: PartitionData) -> Self {
        let answer = FetchAnswer { key: target.key.clone(), data, batches: None };
        Found { answer, unlocated: None, metrics: None, throttle: None }
    }

    /// Bytes that the partition adds to the answer; of what is not located, at most.
    fn bytes(&self) -> usize {
        let located = self.answer.batches.as_ref().map_or(0, StoredBatches::len);
        located + self.unlocated.as_ref().map_or(0, Slice::len_max)
    }

    /// The answer, which counts as delivered from now on.
    fn delivered(self) -> FetchAnswer {
        if let (Some(metrics), Some(batches)) = (&self.metrics, &self.answer.batches) {
            metrics.fetched(batches.len());
            self.throttle.iter().for_each(|throttle| throttle.spend(batches.len()));
        }
        self.answer
    }

    /// Locates the slice; one that would have to wait for the disk is kept for later.
    fn locate(&mut self, slice: Slice, mode: ReadMode) {
        let located = slice.locate(mode).and_then(|located| match located {
            Located::Batches(batches) => self.deliver(&slice, batches).map(|()| false),
            Located::Nothing => Ok(false),
            Located::WouldBlock => Ok(true),
        });
        match located {
            Ok(false) => {}
            Ok(true) => self.unlocated = Some(slice),
            Err(error) => storage_failed(&mut self.answer, &error),
        }
    }

    /// Answers with these batches, and tells a reader of committed records what not to read of them.
    fn deliver(&mut self, slice: &Slice, batches: StoredBatches) -> io::Result<()> {
        let FetchAnswer { data, .. } = &mut self.answer;
        if let Some(aborted) = &mut data.aborted_transactions {
            *aborted = slice.aborted_transactions(batches.end())?.iter().map(told).collect();
        }
        data.records = Some(Payload::Deferred(batches.len()));
        self.answer.batches = Some(batches);
        Ok(())
    }
}

/// Looks at every partition, and again whenever one of them moves, until there is enough or the time is up.
async fn find_enough(
    broker: &Arc<Broker>,
    wants: &Wants,
    targets: &[FetchTarget],
    deadline: Instant,
) -> Vec<Found> {
    let round = find(broker, &broker.partitions.load(), wants, targets);
    if round.is_enough(wants) || Instant::now() >= deadline {
        return round.found;
    }
    loop {
        let parked = ParkedFetch::new();
        if let Some(replica) = wants.replica {
            broker.followers.park(replica.id, &parked);
        }
        // Parked first, looked at after: a partition that moves in between wakes it.
        let round = {
            let hosted = broker.partitions.load();
            for target in targets {
                let Ok(partition) = locate(&hosted, wants, &target.key) else { continue };
                match wants.replica {
                    // What is held back is looked at again with the next fetch.
                    Some(replica) if is_held_back(broker, partition, replica) => {}
                    Some(_) => partition.waiting.park_follower(&parked),
                    None => partition.waiting.park_fetch(&parked),
                }
            }
            find(broker, &hosted, wants, targets)
        };
        if round.is_enough(wants) || timeout_at(deadline, parked.woken()).await.is_err() {
            return round.found;
        }
        if parked.is_recalled() {
            return round.found;
        }
    }
}

/// One look at every partition.
struct Round {
    found: Vec<Found>,
    bytes: usize,
    has_error: bool,
}

impl Round {
    fn is_enough(&self, wants: &Wants) -> bool {
        self.bytes >= wants.bytes_min || self.has_error || self.found.is_empty()
    }
}

fn find(broker: &Arc<Broker>, hosted: &Hosted, wants: &Wants, targets: &[FetchTarget]) -> Round {
    let mut round = Round { found: Vec::with_capacity(targets.len()), bytes: 0, has_error: false };
    // The first batch of an answer is delivered however large it is, so that a reader always gets on.
    let mut minimum_one = true;
    for target in targets {
        let left = wants.bytes_max.saturating_sub(round.bytes);
        let found = match locate(hosted, wants, &target.key) {
            Ok(partition) => find_in(broker, partition, wants, target, left, minimum_one),
            Err(asked) => refused(target, broker.missing(asked, target.key.partition)),
        };
        round.bytes += found.bytes();
        minimum_one &= found.answer.batches.is_none() && found.unlocated.is_none();
        let data = &found.answer.data;
        round.has_error |=
            !data.error_code.is_ok() || data.diverging_epoch.epoch >= 0 || data.preferred_read_replica >= 0;
        round.found.push(found);
    }
    round
}

/// Whether a follower has to wait for what it may be sent, however much there is.
fn is_held_back(broker: &Broker, partition: &Partition, follower: Replica) -> bool {
    let limit = broker.throttles.leading(broker, partition, follower.id);
    limit.is_some_and(|limit| limit.wait().is_some())
}

fn locate<'a>(hosted: &'a Hosted, wants: &Wants, key: &'a FetchKey) -> Result<&'a Arc<Partition>, Named<'a>> {
    let (topic, asked) = if wants.version >= TOPIC_ID_VERSION_MIN {
        (hosted.topic_by_id(key.topic_id), Named::Id(key.topic_id))
    } else {
        (hosted.topic(&key.topic), Named::Name(&key.topic))
    };
    topic.and_then(|topic| topic.partition(key.partition)).ok_or(asked)
}

fn find_in(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    wants: &Wants,
    target: &FetchTarget,
    bytes_left: usize,
    minimum_one: bool,
) -> Found {
    let allowed = match wants.replica {
        // A follower has to know whom it follows.
        Some(_) if target.leader_epoch == LeaderEpoch::NONE => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        None if wants.version >= FOLLOWER_VERSION_MIN => partition.check_epoch(target.leader_epoch),
        Some(_) | None => partition.check_leader(target.leader_epoch),
    };
    if let Err(error) = allowed {
        return refused(target, error);
    }
    if wants.version < ZSTD_VERSION_MIN && partition.log.config().compression_type.is(Compression::Zstd) {
        return refused(target, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    }
    let high_watermark = partition.high_watermark();
    let last_stable_offset = partition.last_stable_offset();
    let upper = if wants.committed_only { last_stable_offset } else { high_watermark };
    let data = PartitionData {
        partition_index: target.key.partition.0,
        high_watermark: high_watermark.0,
        last_stable_offset: last_stable_offset.0,
        log_start_offset: partition.log.log_start().0,
        aborted_transactions: wants.committed_only.then(Vec::new),
        records: Some(Payload::default()),
        ..Default::default()
    };
    match diverging(partition, target) {
        Ok(None) => {}
        Ok(Some(diverging)) => {
            return Found::new(target, PartitionData { diverging_epoch: diverging, ..data });
        }
        Err(error_code) => return Found::new(target, PartitionData { error_code, ..data }),
    }
    let mut data = data;
    let mut upper = upper;
    let mut bytes_max = bytes_left.min(target.bytes_max);
    let mut throttle = None;
    if let Some(replica) = wants.replica {
        // Its history is this log's up to here, so what it says that it has counts.
        let fetched = Fetched {
            replica: replica.id,
            broker_epoch: replica.broker_epoch,
            offset: target.offset,
            durable_end: target.flushed_end.max(Offset::ZERO),
            now: wants.now,
        };
        match partition.follower_fetched(fetched) {
            Ok(may_join) if may_join => broker.isr.consider(partition),
            Ok(_) => {}
            Err(error) => return refused(target, error),
        }
        data.high_watermark = partition.high_watermark().0;
        upper = partition.log.log_end();
        if let Some(limit) = broker.throttles.leading(broker, partition, replica.id) {
            if limit.wait().is_some() {
                return Found::new(target, data);
            }
            bytes_max = bytes_max.min(limit.bytes_max());
            throttle = Some(limit.throttle());
        }
    } else if let Some(closer) = broker.closer_replica(partition, &wants.rack, target.offset) {
        data.preferred_read_replica = closer.0;
        return Found::new(target, data);
    }
    let limits = ReadLimits { bytes_max, upper, minimum_one };
    match partition.read(target.offset, limits) {
        Ok(slice) => {
            let metrics = Some(Arc::clone(&partition.metrics));
            let mut found = Found { metrics, throttle, ..Found::new(target, data) };
            if !slice.is_empty() {
                found.locate(slice, ReadMode::CachedOnly);
            }
            found
        }
        Err(error) => Found::new(target, PartitionData { error_code: error_code(&error), ..data }),
    }
}

/// Where the reader's history and the log's part ways, if they do (KIP-320, KIP-595). A reader whose history cannot be
/// compared, or lies before the log, is out of range.
fn diverging(partition: &Partition, target: &FetchTarget) -> Result<Option<EpochEndOffset>, ErrorCode> {
    if target.last_fetched_epoch == LeaderEpoch::NONE {
        return Ok(None);
    }
    let log_start = partition.log.log_start();
    if target.offset <= log_start {
        // Of a history that is not there any more nothing can differ.
        return if target.offset == log_start { Ok(None) } else { Err(ErrorCode::OFFSET_OUT_OF_RANGE) };
    }
    let known = partition.log.epoch_end_offset(target.last_fetched_epoch);
    let (epoch, end) = known.ok_or(ErrorCode::OFFSET_OUT_OF_RANGE)?;
    let is_diverging = epoch < target.last_fetched_epoch || end < target.offset;
    Ok(is_diverging.then_some(EpochEndOffset { epoch: epoch.0, end_offset: end.0 }))
}

fn told(aborted: &AbortedTxn) -> AbortedTransaction {
    AbortedTransaction { producer_id: aborted.producer_id.0, first_offset: aborted.first_offset.0 }
}

fn refused(target: &FetchTarget, error_code: ErrorCode) -> Found {
    let data = PartitionData {
        partition_index: target.key.partition.0,
        error_code,
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        records: Some(Payload::default()),
        ..Default::default()
    };
    Found::new(target, data)
}

fn error_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        // Deleted between its look-up and here.
        ReadError::Storage(StorageError::Closed) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ReadError::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// Locates what was not in memory, all of it in one visit to the blocking pool.
async fn locate_rest(mut found: Vec<Found>) -> Vec<Found> {
    if found.iter().any(|part| part.unlocated.is_some()) {
        let located = blocking::run(move || {
            for part in &mut found {
                if let Some(slice) = part.unlocated.take() {
                    part.locate(slice, ReadMode::Blocking);
                }
            }
            found
        });
        found = located.await;
    }
    found
}

fn storage_failed(answer: &mut FetchAnswer, error: &io::Error) {
    let FetchAnswer { key, data, .. } = answer;
    tracing::error!(topic = %key.topic, partition = %key.partition, %error, "a segment cannot be read");
    data.error_code = ErrorCode::KAFKA_STORAGE_ERROR;
}

/// Puts the partitions that are to be answered under their topics, in the order in which they were served, and their
/// batches into the order in which the response defers them.
fn respond(
    broker: &Broker,
    context: &RequestContext,
    plan: &FetchPlan,
    answers: Vec<FetchAnswer>,
) -> (FetchResponse, Vec<StoredBatches>) {
    let mut leaders = LeaderHints::new(broker);
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut batches: Vec<Vec<StoredBatches>> = Vec::new();
    let mut places = HashMap::new();
    for FetchAnswer { key, mut data, batches: stored } in plan.answer(answers) {
        if let Some((leader, epoch)) = leaders.hint(data.error_code, &key.topic, key.topic_id, key.partition)
        {
            data.current_leader = LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: epoch.0 };
        }
        let place = *places.entry((key.topic.clone(), key.topic_id)).or_insert(responses.len());
        if place == responses.len() {
            let topic =
                FetchableTopicResponse { topic: key.topic, topic_id: key.topic_id, ..Default::default() };
            responses.push(topic);
            batches.push(Vec::new());
        }
        responses[place].partitions.push(data);
        batches[place].extend(stored);
    }
    let node_endpoints = if context.version >= NODE_ENDPOINTS_VERSION_MIN {
        let endpoint = |(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack };
        leaders.endpoints(context).map(endpoint).collect()
    } else {
        Vec::new()
    };
    let response =
        FetchResponse { session_id: plan.session_id(), responses, node_endpoints, ..Default::default() };
    (response, batches.into_iter().flatten().collect())
}
