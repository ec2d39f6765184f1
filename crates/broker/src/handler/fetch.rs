//! Fetch: finds what there is, waits for more if that is too little, and answers with where it lies.
//!
//! A round looks at each partition without touching files; the fetch is parked between rounds (see `waiting.rs`) until
//! one of its partitions moves or `max.wait.ms` has passed. Only then the batches are located, and they are read when
//! the socket takes them (see `outbound.rs`). Invariant: no reader gets a byte past the high watermark, or past the
//! last stable offset if it reads committed records only.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use storage::{Located, ReadError, ReadLimits, ReadMode, Slice, StoredBatches};
use tokio::time::{Instant, timeout_at};
use wire::messages::fetch::{
    EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use wire::{ErrorCode, LeaderEpoch, Payload};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::fetch_session::{FetchAnswer, FetchKey, FetchPlan, FetchTarget};
use crate::metrics::TopicMetrics;
use crate::partition::Partition;
use crate::partitions::Hosted;
use crate::waiting::ParkedFetch;

/// Requests name topics by id from this version on (KIP-516).
const TOPIC_ID_VERSION_MIN: i16 = 13;
const READ_COMMITTED: i8 = 1;

/// Answers a fetch, after waiting for `min_bytes` at most `max_wait_ms`: the response, and the batches for its
/// deferred places.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: FetchRequest,
) -> (FetchResponse, Vec<StoredBatches>) {
    let wants = Wants {
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0),
        bytes_max: usize::try_from(request.max_bytes)
            .unwrap_or(0)
            .min(broker.settings().broker().network.fetch_bytes_max),
        by_topic_id: context.version >= TOPIC_ID_VERSION_MIN,
        committed_only: request.isolation_level == READ_COMMITTED,
    };
    let deadline = context.received + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let plan = match broker.fetch_sessions.plan(request) {
        Ok(plan) => plan,
        Err(error_code) => return (FetchResponse { error_code, ..Default::default() }, Vec::new()),
    };
    let found = find_enough(&broker, &wants, &plan.targets, deadline).await;
    let answers = locate_batches(found).await;
    respond(&plan, answers)
}

/// What the request as a whole asks for.
struct Wants {
    bytes_min: usize,
    bytes_max: usize,
    by_topic_id: bool,
    committed_only: bool,
}

/// One partition's answer, and what is still to be located for it.
struct Found {
    answer: FetchAnswer,
    wanted: Option<Wanted>,
}

/// What a reader gets, and who counts it.
struct Wanted {
    slice: Slice,
    metrics: Arc<TopicMetrics>,
}

impl Found {
    fn new(target: &FetchTarget, data: PartitionData) -> Self {
        Found { answer: FetchAnswer { key: target.key.clone(), data, batches: None }, wanted: None }
    }
}

/// Looks at every partition, and again whenever one of them moves, until there is enough or the time is up.
async fn find_enough(
    broker: &Broker,
    wants: &Wants,
    targets: &[FetchTarget],
    deadline: Instant,
) -> Vec<Found> {
    let round = find(&broker.partitions.load(), wants, targets);
    if round.is_enough(wants) || Instant::now() >= deadline {
        return round.found;
    }
    loop {
        let parked = ParkedFetch::new();
        // Parked first, looked at after: a partition that moves in between wakes it.
        let round = {
            let hosted = broker.partitions.load();
            for target in targets {
                if let Ok(partition) = locate(&hosted, wants, &target.key) {
                    partition.waiting.park_fetch(&parked);
                }
            }
            find(&hosted, wants, targets)
        };
        if round.is_enough(wants) || timeout_at(deadline, parked.woken()).await.is_err() {
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

fn find(hosted: &Hosted, wants: &Wants, targets: &[FetchTarget]) -> Round {
    let mut round = Round { found: Vec::with_capacity(targets.len()), bytes: 0, has_error: false };
    for target in targets {
        let left = wants.bytes_max.saturating_sub(round.bytes);
        // The first batch of an answer is delivered however large it is, so that a reader always gets on.
        let minimum_one = round.bytes == 0;
        let found = match locate(hosted, wants, &target.key) {
            Ok(partition) => find_in(partition, wants, target, left, minimum_one),
            Err(error) => refused(target, error),
        };
        round.bytes += found.wanted.as_ref().map_or(0, |wanted| wanted.slice.len_max());
        let data = &found.answer.data;
        round.has_error |= !data.error_code.is_ok() || data.diverging_epoch.epoch >= 0;
        round.found.push(found);
    }
    round
}

fn locate<'a>(hosted: &'a Hosted, wants: &Wants, key: &FetchKey) -> Result<&'a Arc<Partition>, ErrorCode> {
    let (topic, unknown) = if wants.by_topic_id {
        (hosted.topic_by_id(key.topic_id), ErrorCode::UNKNOWN_TOPIC_ID)
    } else {
        (hosted.topic(&key.topic), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    };
    topic.ok_or(unknown)?.partition(key.partition).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

fn find_in(
    partition: &Partition,
    wants: &Wants,
    target: &FetchTarget,
    bytes_left: usize,
    minimum_one: bool,
) -> Found {
    if let Err(error) = partition.check_epoch(target.leader_epoch) {
        return refused(target, error);
    }
    let high_watermark = partition.high_watermark();
    let last_stable_offset = partition.last_stable_offset();
    let upper = if wants.committed_only { last_stable_offset } else { high_watermark };
    let mut data = PartitionData {
        partition_index: target.key.partition.0,
        high_watermark: high_watermark.0,
        last_stable_offset: last_stable_offset.0,
        log_start_offset: partition.log.log_start().0,
        // Nothing can be aborted yet: transactional ids are refused (see `init_producer_id`).
        aborted_transactions: wants.committed_only.then(Vec::new),
        records: Some(Payload::default()),
        ..Default::default()
    };
    if let Some(diverging) = diverging(partition, target) {
        data.diverging_epoch = diverging;
        return Found::new(target, data);
    }
    let limits = ReadLimits { bytes_max: bytes_left.min(target.bytes_max), upper, minimum_one };
    match partition.read(target.offset, limits) {
        Ok(slice) => {
            let metrics = Arc::clone(&partition.metrics);
            let wanted = (!slice.is_empty()).then_some(Wanted { slice, metrics });
            Found { wanted, ..Found::new(target, data) }
        }
        Err(error) => Found::new(target, PartitionData { error_code: error_code(&error), ..data }),
    }
}

/// Where the reader's history and the log's part ways, if they do (KIP-320).
fn diverging(partition: &Partition, target: &FetchTarget) -> Option<EpochEndOffset> {
    if target.last_fetched_epoch == LeaderEpoch::NONE {
        return None;
    }
    let (epoch, end) = partition.log.epoch_end_offset(target.last_fetched_epoch)?;
    (epoch < target.last_fetched_epoch || end < target.offset)
        .then_some(EpochEndOffset { epoch: epoch.0, end_offset: end.0 })
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
        ReadError::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// Finds where the batches lie: by what is in memory here and now, else all of it in one visit to the blocking pool.
async fn locate_batches(mut found: Vec<Found>) -> Vec<FetchAnswer> {
    let is_cold = !locate_in(&mut found, ReadMode::CachedOnly);
    if is_cold {
        let blocking = tokio::task::spawn_blocking(move || {
            locate_in(&mut found, ReadMode::Blocking);
            found
        });
        found = blocking.await.expect("locating batches does not panic");
    }
    found.into_iter().map(|part| part.answer).collect()
}

/// Locates the slices that are still to be located; false if one would have to wait for the disk.
fn locate_in(found: &mut [Found], mode: ReadMode) -> bool {
    for part in found {
        let Some(wanted) = &part.wanted else { continue };
        match wanted.slice.locate(mode) {
            Ok(Located::Batches(batches)) => {
                wanted.metrics.fetched(batches.len());
                part.answer.data.records = Some(Payload::Deferred(batches.len()));
                part.answer.batches = Some(batches);
            }
            Ok(Located::Nothing) => {}
            Ok(Located::WouldBlock) => return false,
            Err(error) => storage_failed(&mut part.answer, &error),
        }
        part.wanted = None;
    }
    true
}

fn storage_failed(answer: &mut FetchAnswer, error: &io::Error) {
    let FetchAnswer { key, data, .. } = answer;
    tracing::error!(topic = %key.topic, partition = %key.partition, %error, "a segment cannot be read");
    data.error_code = ErrorCode::KAFKA_STORAGE_ERROR;
}

/// Puts the partitions that are to be answered under their topics, in the order in which they were served, and their
/// batches into the order in which the response defers them.
fn respond(plan: &FetchPlan, answers: Vec<FetchAnswer>) -> (FetchResponse, Vec<StoredBatches>) {
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut batches: Vec<Vec<StoredBatches>> = Vec::new();
    let mut places = HashMap::new();
    for FetchAnswer { key, data, batches: stored } in plan.answer(answers) {
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
    let response = FetchResponse { session_id: plan.session_id(), responses, ..Default::default() };
    (response, batches.into_iter().flatten().collect())
}
