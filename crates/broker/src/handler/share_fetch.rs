//! ShareFetch: acknowledges what the member says of earlier records, then gives it records that nobody has.
//!
//! The fetch is parked while there are none, or fewer than `min_bytes`, until one of its partitions moves, or is loaded, or records
//! there become available again, or `max_wait_ms` has passed. Records leave in whole batches; which of them are the member's the answer says beside. Invariant: a
//! record is locked before it leaves, and nobody gets one above the high watermark, or above the last stable offset where the
//! group reads committed records only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use state::metadata::QuotaKey;
use state::share::partition::{AcknowledgedBatch, Acquired, Extent, Wanted};
use state::share::state::SharePartitionKey;
use storage::{AbortedTxn, Located, ReadError, ReadLimits, ReadMode};
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::messages::share_fetch::{
    AcquiredRecords, LeaderIdAndEpoch, NodeEndpoint, PartitionData, ShareFetchRequest, ShareFetchResponse,
    ShareFetchableTopicResponse,
};
use wire::records::{Batch, Batches};
use wire::{ErrorCode, Offset, PartitionId, Str};

use crate::blocking;
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::share_acknowledge::{Said, invalid, owner, say};
use crate::leader_hints::LeaderHints;
use crate::quotas;
use crate::settings::group::ShareGroupSettings;
use crate::share_coordinator::Failure;
use crate::share_partitions::Held;
use crate::share_sessions::{Place, SharePlan};
use crate::waiting::ParkedFetch;

/// Bytes that are read of one partition at a time, its first batch aside.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// How often a partition is read again in one round, where all that was read was nothing to deliver.
const READS_MAX: usize = 16;
/// How long an answer is kept back that has nothing but errors, and no news.
const ERRORS_PAUSE: Duration = Duration::from_millis(100);
/// Kafka's number of "no more records than asked for" (KIP-1206).
const RECORD_LIMIT: i8 = 1;

/// Answers a fetch.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ShareFetchRequest,
) -> ShareFetchResponse {
    match fetch(&broker, &context, request).await {
        Ok(response) => response,
        Err(Failure { error, message }) => {
            ShareFetchResponse { error_code: error, error_message: message, ..Default::default() }
        }
    }
}

async fn fetch(
    broker: &Arc<Broker>,
    context: &RequestContext,
    request: ShareFetchRequest,
) -> Result<ShareFetchResponse, Failure> {
    let (group, member) = owner(request.group_id, request.member_id)?;
    let owner = (&group, &member);
    let mut named = Vec::new();
    let mut said = Vec::new();
    let mut seen = HashSet::new();
    for topic in request.topics {
        for asked in topic.partitions {
            let place = (topic.topic_id, PartitionId(asked.partition_index));
            if !seen.insert(place) {
                continue;
            }
            named.push(place);
            if asked.acknowledgement_batches.is_empty() {
                continue;
            }
            let batches = asked.acknowledgement_batches.into_iter().map(|batch| AcknowledgedBatch {
                first: Offset(batch.first_offset),
                last: Offset(batch.last_offset),
                types: batch.acknowledge_types,
            });
            said.push(Said { place, batches: batches.collect(), is_renew: request.is_renew_ack });
        }
    }
    if request.share_session_epoch == 0 && !said.is_empty() {
        return Err(invalid("the first fetch of a share session has nothing to acknowledge"));
    }
    let forgotten: Vec<Place> = request
        .forgotten_topics_data
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic_id, PartitionId(*index))))
        .collect();
    let plan = broker.share_sessions.fetch(
        owner,
        request.share_session_epoch,
        &context.connection,
        &named,
        &forgotten,
    )?;
    if plan.had_session {
        broker.share_session_ended(&group, &member).await;
    }
    let settings = broker.share_group_settings(&group);
    let mut answers: HashMap<Place, PartitionData> = HashMap::new();
    for (place, said) in say(broker, owner, &settings, said).await {
        let mut data = PartitionData { partition_index: place.1.0, ..Default::default() };
        if let Err(failure) = said {
            data.acknowledge_error_code = failure.error;
            data.acknowledge_error_message = failure.message;
        }
        answers.insert(place, data);
    }
    if plan.is_final {
        broker.share_session_ended(&group, &member).await;
    }
    let network_max = broker.settings().broker().network.fetch_bytes_max;
    let records_max = i64::from(request.max_records.max(0));
    let wants = Wants {
        group: &group,
        member: &member,
        settings: &settings,
        wanted: match request.share_acquire_mode {
            RECORD_LIMIT => Wanted::AtMost(records_max),
            _ => Wanted::WholeBatches(records_max),
        },
        records_max,
        batch_records: i64::from(request.batch_size),
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0),
        bytes_max: usize::try_from(request.max_bytes)
            .unwrap_or(0)
            .min(network_max)
            .min(broker.fetch_bytes_max(context)),
    };
    // As in Kafka what has become of acknowledgements is told with the records: who acknowledges with each fetch would get nothing
    // else at once, and ask again.
    let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let deadline = context.received + Duration::from_millis(wait_ms);
    let may_acquire = wants.records_max > 0 && wants.bytes_max > 0 && !request.is_renew_ack;
    let found = match may_acquire {
        true => find_some(broker, &wants, &plan, deadline).await,
        false => Vec::new(),
    };
    for (place, found) in found {
        let news = found.error.is_some() || !found.acquired.is_empty();
        if !news && !plan.is_new {
            continue;
        }
        if !found.acquired.is_empty() {
            broker.share_sessions.served(owner, place);
        }
        let data = answers
            .entry(place)
            .or_insert_with(|| PartitionData { partition_index: place.1.0, ..Default::default() });
        found.put_into(data);
    }
    let bytes = answers.values().map(|data| data.records.len()).sum();
    let mut response = respond(broker, context, &settings, answers);
    // What is acquired is the member's: it hears of its quota with the records.
    let held_back = broker.count_bytes(context, QuotaKey::ConsumerByteRate, bytes);
    response.throttle_time_ms = quotas::left_ms(held_back);
    Ok(response)
}

fn respond(
    broker: &Broker,
    context: &RequestContext,
    settings: &ShareGroupSettings,
    answers: HashMap<Place, PartitionData>,
) -> ShareFetchResponse {
    let mut leaders = LeaderHints::new(broker);
    let mut answers: Vec<_> = answers.into_iter().collect();
    answers.sort_by_key(|(place, _)| *place);
    let mut responses: Vec<ShareFetchableTopicResponse> = Vec::new();
    for ((topic_id, partition), mut data) in answers {
        let error = if data.error_code.is_ok() { data.acknowledge_error_code } else { data.error_code };
        if let Some((leader, epoch)) = leaders.hint(error, &Str::default(), topic_id, partition) {
            data.current_leader = LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: epoch.0 };
        }
        match responses.last_mut().filter(|last| last.topic_id == topic_id) {
            Some(last) => last.partitions.push(data),
            None => responses.push(ShareFetchableTopicResponse { topic_id, partitions: vec![data] }),
        }
    }
    let endpoint = |(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack };
    ShareFetchResponse {
        acquisition_lock_timeout_ms: i32::try_from(settings.lock_ms).unwrap_or(i32::MAX),
        responses,
        node_endpoints: leaders.endpoints(context).map(endpoint).collect(),
        ..Default::default()
    }
}

/// What the request as a whole asks for.
struct Wants<'a> {
    group: &'a Str,
    member: &'a Str,
    settings: &'a ShareGroupSettings,
    wanted: Wanted,
    records_max: i64,
    /// How many records are acquired in one piece, if they are not of one batch.
    batch_records: i64,
    /// Fewer are not worth an answer before the time is up.
    bytes_min: usize,
    bytes_max: usize,
}

impl Wants<'_> {
    fn left(&self, records: i64) -> Wanted {
        match self.wanted {
            Wanted::WholeBatches(max) => Wanted::WholeBatches(max - records),
            Wanted::AtMost(max) => Wanted::AtMost(max - records),
        }
    }
}

/// What one partition has for the member.
#[derive(Default)]
struct Found {
    error: Option<Failure>,
    acquired: Vec<Acquired>,
    records: Bytes,
    /// Whether it was looked at so much that is not to be delivered that what comes behind is for the next look.
    is_unfinished: bool,
}

impl From<Failure> for Found {
    fn from(failure: Failure) -> Self {
        Found { error: Some(failure), ..Found::default() }
    }
}

impl Found {
    fn count(&self) -> i64 {
        self.acquired.iter().map(Acquired::len).sum()
    }

    fn put_into(self, data: &mut PartitionData) {
        if let Some(failure) = self.error {
            data.error_code = readable(failure.error);
            data.error_message = failure.message;
        }
        data.records = self.records;
        let acquired = self.acquired.iter().map(|run| AcquiredRecords {
            first_offset: run.first.0,
            last_offset: run.last.0,
            delivery_count: run.value,
        });
        data.acquired_records = acquired.collect();
    }
}

/// What a member can be told of a partition that it reads: it takes anything else for the end. The others look at the partition again
/// after they have looked for its leader, which is what it takes.
fn readable(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NOT_LEADER_OR_FOLLOWER
        | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::UNKNOWN_TOPIC_ID
        | ErrorCode::INCONSISTENT_TOPIC_ID
        | ErrorCode::FENCED_LEADER_EPOCH
        | ErrorCode::KAFKA_STORAGE_ERROR
        | ErrorCode::UNKNOWN_SERVER_ERROR
        | ErrorCode::TOPIC_AUTHORIZATION_FAILED => error,
        _ => ErrorCode::NOT_LEADER_OR_FOLLOWER,
    }
}

/// A partition that a member reads, or why it cannot.
type Reading = (Place, Result<Arc<Held>, Failure>);

/// Looks at every partition, and again whenever one of them has something new, until there is something or the time is up. What
/// cannot be read is told with the rest, as in Kafka: it keeps nobody from waiting for the others.
async fn find_some(
    broker: &Arc<Broker>,
    wants: &Wants<'_>,
    plan: &SharePlan,
    deadline: Instant,
) -> Vec<(Place, Found)> {
    let held = |(topic, partition): Place| {
        let key = SharePartitionKey { group: Str::copy_from(wants.group), topic, partition };
        broker.share_partition(&key, wants.settings)
    };
    // Those that are not here yet are loaded at the same time, and wake the fetch when they are.
    let reading: Vec<Reading> = plan.places.iter().map(|place| (*place, held(*place))).collect();
    loop {
        let parked = ParkedFetch::new();
        // Parked first, looked at after: what moves in between wakes it.
        for held in reading.iter().filter_map(|(_, held)| held.as_ref().ok()) {
            held.waiting.park_fetch(&parked);
            held.partition.waiting.park_fetch(&parked);
        }
        let is_late = Instant::now() >= deadline;
        let found = match is_late || has_enough(broker, wants, &reading).await {
            true => find(broker, wants, &reading).await,
            false => Vec::new(),
        };
        let is_something = found.iter().any(|(_, found)| !found.acquired.is_empty());
        if is_something || is_late || reading.is_empty() {
            return found;
        }
        if found.iter().any(|(_, found)| found.is_unfinished) {
            continue;
        }
        let are_all_in_error =
            found.len() == reading.len() && found.iter().all(|(_, found)| found.error.is_some());
        if are_all_in_error {
            // Who has heard of it, and asks again at once, would do nothing else.
            if !plan.is_new {
                sleep_until(deadline.min(Instant::now() + ERRORS_PAUSE)).await;
            }
            return found;
        }
        let woken = timeout_at(deadline, parked.woken()).await;
        if woken.is_ok() && broker.is_stopping() {
            return found;
        }
    }
}

/// Whether so much can be had as the member wants to be woken for. Nothing is acquired for that.
async fn has_enough(broker: &Arc<Broker>, wants: &Wants<'_>, reading: &[Reading]) -> bool {
    let mut missing = wants.bytes_min.min(wants.bytes_max);
    if missing <= 1 {
        return true;
    }
    for held in reading.iter().filter_map(|(_, held)| held.as_ref().ok()) {
        // Errors are told with what is found.
        let Ok(Some(from)) = held.with(broker, |machine| machine.next_fetch_offset()) else { continue };
        let upper = readable_end(wants, held);
        if from >= upper {
            continue;
        }
        let partition = Arc::clone(&held.partition);
        // More than what is missing: batches that do not fit count for nothing.
        let limits = ReadLimits { bytes_max: READ_BYTES_MAX.max(missing), upper, minimum_one: true };
        let located = blocking::run(move || {
            let slice = partition.read(from, limits).ok()?;
            match slice.locate(ReadMode::Blocking) {
                Ok(Located::Batches(batches)) => Some(batches.len()),
                Ok(Located::Nothing | Located::WouldBlock) | Err(_) => None,
            }
        });
        missing = missing.saturating_sub(located.await.unwrap_or(0));
        if missing == 0 {
            return true;
        }
    }
    // Where nothing can be read there is nothing to wait for.
    reading.iter().all(|(_, held)| held.as_ref().is_ok_and(|held| held.has_failed()) || held.is_err())
}

fn readable_end(wants: &Wants<'_>, held: &Held) -> Offset {
    match wants.settings.committed_only {
        true => held.partition.last_stable_offset(),
        false => held.partition.high_watermark(),
    }
}

async fn find(broker: &Arc<Broker>, wants: &Wants<'_>, reading: &[Reading]) -> Vec<(Place, Found)> {
    let mut found = Vec::with_capacity(reading.len());
    let (mut records, mut bytes) = (0, 0);
    for (place, held) in reading {
        let held = match held {
            Ok(held) => held,
            Err(failure) => {
                found.push((*place, failure.clone().into()));
                continue;
            }
        };
        if records >= wants.records_max || bytes >= wants.bytes_max {
            break;
        }
        if held.is_loading() {
            found.push((*place, Found::default()));
            continue;
        }
        let bytes_max = (wants.bytes_max - bytes).min(READ_BYTES_MAX);
        let here = find_in(broker, wants, held, wants.left(records), bytes_max).await;
        let here = here.unwrap_or_else(Found::from);
        records += here.count();
        bytes += here.records.len();
        found.push((*place, here));
    }
    found
}

/// Reads where the next record is to be had, and takes it for the member.
async fn find_in(
    broker: &Arc<Broker>,
    wants: &Wants<'_>,
    held: &Arc<Held>,
    wanted: Wanted,
    bytes_max: usize,
) -> Result<Found, Failure> {
    let committed_only = wants.settings.committed_only;
    for _ in 0..READS_MAX {
        let Some(from) = held.with(broker, |machine| machine.next_fetch_offset())? else {
            return Ok(Found::default());
        };
        let upper = readable_end(wants, held);
        if from >= upper {
            return Ok(Found::default());
        }
        let partition = Arc::clone(&held.partition);
        let limits = ReadLimits { bytes_max, upper, minimum_one: true };
        let read = blocking::run(move || {
            let slice = partition.read(from, limits).map_err(|error| read_error(&error))?;
            let records = slice.read().map_err(|error| {
                tracing::error!(partition = %partition.id, %error, "a segment cannot be read");
                ErrorCode::KAFKA_STORAGE_ERROR
            })?;
            let aborted = match committed_only {
                true => slice.aborted_transactions(upper).map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR)?,
                false => Vec::new(),
            };
            Ok::<_, ErrorCode>((records, aborted))
        });
        let (records, aborted) = match read.await {
            Ok(read) => read,
            // The log's start has moved meanwhile, or is about to be heard of.
            Err(ErrorCode::OFFSET_OUT_OF_RANGE) => continue,
            Err(error) => return Err(error.into()),
        };
        let batches: Vec<Batch> = Batches::new(records).map_while(Result::ok).collect();
        if batches.is_empty() {
            return Ok(Found::default());
        }
        let extents: Vec<Extent> = batches.iter().map(|batch| extent(batch, &aborted)).collect();
        let now = broker.ticks();
        let acquired =
            held.with(broker, |machine| machine.acquire(wants.member, from, &extents, wanted, now))?;
        if let (Some(first), Some(last)) = (acquired.first(), acquired.last()) {
            let records = cut(&batches, first.first, last.last);
            held.partition.metrics.fetched(records.len());
            let acquired = in_batches(&acquired, &extents, wants.batch_records);
            return Ok(Found { acquired, records, ..Found::default() });
        }
    }
    Ok(Found { is_unfinished: true, ..Found::default() })
}

/// Cuts what is acquired where a batch of the log ends, so that each piece but the last of a run has so many records: members
/// acknowledge by piece.
fn in_batches(acquired: &[Acquired], extents: &[Extent], records: i64) -> Vec<Acquired> {
    let mut pieces = Vec::with_capacity(acquired.len());
    for run in acquired {
        let mut rest = *run;
        let ends =
            extents.iter().map(|extent| extent.last).filter(|last| run.first <= *last && *last < run.last);
        for last in ends {
            let piece = Acquired { last, ..rest };
            if records > 0 && piece.len() >= records {
                pieces.push(piece);
                rest.first = last.plus(1);
            }
        }
        pieces.push(rest);
    }
    pieces
}

fn read_error(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        ReadError::Storage(storage::StorageError::Closed) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ReadError::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

fn extent(batch: &Batch, aborted: &[AbortedTxn]) -> Extent {
    let header = batch.header();
    let (first, last) = (header.base_offset(), header.last_offset());
    let is_aborted = header.attributes().is_transactional()
        && aborted.iter().any(|txn| {
            txn.producer_id == header.producer_id() && txn.first_offset <= first && last <= txn.last_offset
        });
    Extent { first, last, is_data: !header.attributes().is_control() && !is_aborted }
}

/// The batches that have records between these offsets, both included.
fn cut(batches: &[Batch], first: Offset, last: Offset) -> Bytes {
    let is_wanted =
        |batch: &&Batch| batch.header().last_offset() >= first && batch.header().base_offset() <= last;
    let mut records = BytesMut::new();
    for batch in batches.iter().filter(is_wanted) {
        records.extend_from_slice(batch.bytes());
    }
    records.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acquired_is_cut_where_batches_end() {
        let run = |first, last, value| Acquired { first: Offset(first), last: Offset(last), value };
        let extent = |first, last| Extent { first: Offset(first), last: Offset(last), is_data: true };
        let extents = [extent(0, 3), extent(4, 5), extent(6, 6), extent(7, 20)];
        let cut = |acquired: &[Acquired], records| in_batches(acquired, &extents, records);
        assert_eq!(cut(&[run(0, 20, 1)], 5), [run(0, 5, 1), run(6, 20, 1)]);
        assert_eq!(cut(&[run(0, 20, 1)], 4), [run(0, 3, 1), run(4, 20, 1)]);
        assert_eq!(cut(&[run(0, 3, 1)], 2), [run(0, 3, 1)], "a batch is not cut");
        assert_eq!(
            cut(&[run(2, 5, 2), run(6, 20, 1)], 1),
            [run(2, 3, 2), run(4, 5, 2), run(6, 6, 1), run(7, 20, 1)]
        );
        assert_eq!(cut(&[run(0, 20, 1)], 0), [run(0, 20, 1)]);
    }
}
