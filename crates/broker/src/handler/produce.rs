//! Produce: appends each partition's batches when the request is read, and answers when they are safe.
//!
//! `acks=all` is answered when every partition's high watermark has passed its records, `acks=1` as soon as they are
//! appended, `acks=0` never. A partition that refuses its records leaves nothing behind; the others are not
//! affected.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::{AppendError, Origin};
use tokio::time::timeout_at;
use wire::compression::Compression;
use wire::messages::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData, TopicProduceResponse,
};
use wire::records::BatchHeader;
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, Str};

use crate::broker::{Broker, Named};
use crate::context::RequestContext;
use crate::handler::verification::{Verified, not_asked, transactional};
use crate::leader_hints::LeaderHints;
use crate::partition::{Led, NotAppended, Partition, Verification, append_error};
use crate::partitions::{Hosted, HostedTopic};
use crate::waiting::ParkedProduce;

/// Clients that ask in an older version cannot read zstd (KIP-110).
const ZSTD_VERSION_MIN: i16 = 7;
/// Compressed batches from this size on are opened off the reactor: at a few hundred megabytes a second, larger ones would
/// keep its other connections waiting.
const UNPACKED_ASIDE_BYTES_MIN: usize = 8 * 1024;

const ACKS_ALL: i16 = -1;
const ACKS_NONE: i16 = 0;
const ACKS_LEADER: i16 = 1;

/// Requests name topics by id from this version on (KIP-516).
const TOPIC_ID_VERSION_MIN: i16 = 13;
/// Answers tell who leads instead from this version on (KIP-951).
const LEADER_HINT_VERSION_MIN: i16 = 10;

/// A produce whose records are appended.
pub(crate) struct Produced {
    /// Whether the client wants an answer at all.
    pub(crate) wants_reply: bool,
    context: RequestContext,
    response: ProduceResponse,
    unsafe_yet: Vec<Unsafe>,
    timeout: Duration,
    received: tokio::time::Instant,
}

/// An appended part of the request that is not safe yet, and its place in the response.
struct Unsafe {
    topic: usize,
    partition: usize,
    log: Arc<Partition>,
    required: Offset,
    leader_epoch: LeaderEpoch,
}

/// The topic that a part of the request names, if it is here.
pub(super) fn topic_of<'a>(
    hosted: &'a Hosted,
    context: &RequestContext,
    topic: &TopicProduceData,
) -> Option<&'a Arc<HostedTopic>> {
    let by_id = context.version >= TOPIC_ID_VERSION_MIN;
    if by_id { hosted.topic_by_id(topic.topic_id) } else { hosted.topic(&topic.name) }
}

/// Appends the request's records, in its order. Waits for no disk and no peer; large compressed batches take their time
/// while other threads go on with the reactor's work. What the coordinator said of partitions in which a transaction begins is
/// in `verified`.
pub(crate) fn append(
    broker: &Broker,
    context: &RequestContext,
    request: ProduceRequest,
    mut verified: Verified,
) -> Produced {
    let now = broker.clock.now();
    let acks = request.acks;
    let names_transaction = request.transactional_id.is_some();
    let hosted = broker.partitions.load();
    let mut unsafe_yet = Vec::new();
    let mut responses = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let by_id = context.version >= TOPIC_ID_VERSION_MIN;
        let found = topic_of(&hosted, context, &topic);
        let named = if by_id { Named::Id(topic.topic_id) } else { Named::Name(&topic.name) };
        let mut partition_responses = Vec::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let index = data.index;
            let appended = match acks {
                ACKS_ALL | ACKS_NONE | ACKS_LEADER => append_partition(
                    broker,
                    context,
                    Target { found, named },
                    data,
                    Asked { acks, now, names_transaction },
                    &mut verified,
                ),
                _ => Err(Refusal::new(ErrorCode::INVALID_REQUIRED_ACKS, "acks must be -1 (all), 0 or 1")),
            };
            partition_responses.push(match appended {
                Ok(part) => {
                    if acks == ACKS_ALL && !part.log.is_safe(part.required, part.leader_epoch) {
                        unsafe_yet.push(Unsafe {
                            topic: responses.len(),
                            partition: partition_responses.len(),
                            log: part.log,
                            required: part.required,
                            leader_epoch: part.leader_epoch,
                        });
                    }
                    PartitionProduceResponse { index, ..part.response }
                }
                Err(refusal) => refusal.into_response(index),
            });
        }
        // Not the request's own string: that is a slice of the frame, and would keep its megabytes until the reply.
        let name = found.map_or_else(|| Str::copy_from(&topic.name), |hosted| hosted.name.clone());
        responses.push(TopicProduceResponse { name, topic_id: topic.topic_id, partition_responses });
    }
    Produced {
        wants_reply: acks != ACKS_NONE,
        context: context.clone(),
        response: ProduceResponse { responses, ..Default::default() },
        unsafe_yet,
        timeout: Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)),
        received: context.received,
    }
}

impl Produced {
    /// True when a client that asked for no reply must be told by other means (Kafka closes the connection).
    pub(crate) fn has_refusals(&self) -> bool {
        let partitions = self.response.responses.iter().flat_map(|topic| &topic.partition_responses);
        partitions.into_iter().any(|partition| !partition.error_code.is_ok())
    }

    /// True when nothing has to be waited for.
    pub(crate) fn is_safe(&self) -> bool {
        self.unsafe_yet.is_empty()
    }

    /// The reply of a produce that waits for nothing.
    pub(crate) fn into_response(self, broker: &Broker) -> ProduceResponse {
        assert!(self.is_safe());
        self.with_leaders(broker)
    }

    /// Names the leader where this broker is none (KIP-951).
    fn with_leaders(mut self, broker: &Broker) -> ProduceResponse {
        if self.context.version < LEADER_HINT_VERSION_MIN {
            return self.response;
        }
        let mut leaders = LeaderHints::new(broker);
        for topic in &mut self.response.responses {
            for partition in &mut topic.partition_responses {
                let index = PartitionId(partition.index);
                let hint = leaders.hint(partition.error_code, &topic.name, topic.topic_id, index);
                if let Some((leader, epoch)) = hint {
                    partition.current_leader =
                        LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: epoch.0 };
                }
            }
        }
        let endpoint = |(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack };
        self.response.node_endpoints = leaders.endpoints(&self.context).map(endpoint).collect();
        self.response
    }

    /// Waits until every partition is safe, has failed, or the request's own timeout has passed.
    pub(crate) async fn acknowledged(mut self, broker: &Broker) -> ProduceResponse {
        if self.is_safe() {
            return self.with_leaders(broker);
        }
        let parked = ParkedProduce::new(self.unsafe_yet.len());
        for (index, part) in self.unsafe_yet.iter().enumerate() {
            part.log.park_produce(part.required, part.leader_epoch, &parked, index);
        }
        // The outcome is read from `parked` part by part: after a timeout some may be safe.
        let _ = timeout_at(self.received + self.timeout, parked.finished()).await;
        for (index, part) in self.unsafe_yet.iter().enumerate() {
            let error = parked.outcome(index).unwrap_or(ErrorCode::REQUEST_TIMED_OUT);
            if !error.is_ok() {
                let response = &mut self.response.responses[part.topic].partition_responses[part.partition];
                *response = Refusal::from(error).into_response(response.index);
            }
        }
        self.with_leaders(broker)
    }
}

/// What holds for all partitions of a request.
#[derive(Clone, Copy)]
struct Asked {
    acks: i16,
    now: Millis,
    names_transaction: bool,
}

struct AppendedPart {
    log: Arc<Partition>,
    required: Offset,
    leader_epoch: LeaderEpoch,
    response: PartitionProduceResponse,
}

/// The topic that a part of the request is for.
struct Target<'a> {
    found: Option<&'a Arc<HostedTopic>>,
    named: Named<'a>,
}

fn append_partition(
    broker: &Broker,
    context: &RequestContext,
    target: Target<'_>,
    data: PartitionProduceData,
    asked: Asked,
    verified: &mut Verified,
) -> Result<AppendedPart, Refusal> {
    let id = PartitionId(data.index);
    let here = target.found.and_then(|topic| topic.partition(id));
    let (Some(topic), Some(partition)) = (target.found, here) else {
        return Err(broker.missing(target.named, id).into());
    };
    if broker.is_internal_topic(&topic.name) {
        return Err(Refusal::new(
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            "internal topics are written by the broker",
        ));
    }
    let records = data
        .records
        .filter(|records| !records.is_empty())
        .ok_or_else(|| Refusal::new(ErrorCode::INVALID_RECORD, "a produce without records"))?;
    partition.check_leader(LeaderEpoch::NONE)?;
    if asked.acks == ACKS_ALL && !partition.has_enough_in_sync() {
        return Err(ErrorCode::NOT_ENOUGH_REPLICAS.into());
    }
    if broker.is_cut_off() {
        // Another broker may lead by now; nobody can say that it does not.
        return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
    }
    let bytes = records.len();
    let verification = match verified.is_empty() {
        true => None,
        false => verified.remove(&partition.id).transpose()?,
    };
    let Led { appended, leader_epoch } =
        append_records(broker, context, partition, records, asked, verification)?;
    if !appended.duplicate {
        let records = appended.last_offset.plus(1).since(appended.base_offset);
        partition.metrics.produced(bytes, u64::try_from(records).unwrap_or(0));
    }
    Ok(AppendedPart {
        log: Arc::clone(partition),
        required: appended.last_offset.plus(1),
        leader_epoch,
        response: PartitionProduceResponse {
            // Clients take it for what it is: written, and nobody knows where.
            error_code: if appended.forgotten {
                ErrorCode::DUPLICATE_SEQUENCE_NUMBER
            } else {
                ErrorCode::NONE
            },
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time.map_or(-1, |time| time.0),
            log_start_offset: appended.log_start.0,
            ..Default::default()
        },
    })
}

fn append_records(
    broker: &Broker,
    context: &RequestContext,
    partition: &Arc<Partition>,
    records: Bytes,
    Asked { now, names_transaction, .. }: Asked,
    verification: Option<Verification>,
) -> Result<Led, Refusal> {
    // A header that does not parse is the log's to refuse.
    let Ok(header) = BatchHeader::parse(&records) else {
        return Ok(partition.append(records, now, Origin::Client)?);
    };
    let compression = header.attributes().compression();
    if compression == Compression::Zstd && context.version < ZSTD_VERSION_MIN {
        return Err(Refusal::new(
            ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
            "zstd is not there for Produce before version 7",
        ));
    }
    let recompresses = partition.log.config().compression_type.differs_from(compression);
    let is_heavy = compression != Compression::None || recompresses;
    let producer = transactional(&header);
    let append = || match producer {
        Some(producer) => {
            partition.append_in_transaction(records.clone(), now, producer, verification.as_ref())
        }
        None => partition.append(records.clone(), now, Origin::Client),
    };
    let appended = if is_heavy && records.len() >= UNPACKED_ASIDE_BYTES_MIN {
        broker.unpacking.run(append)
    } else {
        append()
    };
    appended.map_err(|error| match error {
        NotAppended::NotInTransaction if names_transaction && verification.is_none() => not_asked(),
        error => error.into(),
    })
}

/// Why a partition did not take its records.
#[derive(Debug)]
pub(crate) struct Refusal {
    error: ErrorCode,
    message: Option<String>,
    /// The records to blame, by their places in the batch.
    records: Vec<i32>,
}

impl Refusal {
    pub(super) fn new(error: ErrorCode, message: &str) -> Self {
        Refusal { error, message: Some(message.to_owned()), records: Vec::new() }
    }

    fn into_response(self, index: i32) -> PartitionProduceResponse {
        let message = self.message.map(Str::from);
        let record_errors = self.records.into_iter().map(|batch_index| BatchIndexAndErrorMessage {
            batch_index,
            batch_index_error_message: message.clone(),
        });
        PartitionProduceResponse {
            index,
            error_code: self.error,
            record_errors: record_errors.collect(),
            error_message: message,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            ..Default::default()
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Refusal { error, message: None, records: Vec::new() }
    }
}

impl From<NotAppended> for Refusal {
    fn from(error: NotAppended) -> Self {
        match error {
            NotAppended::Log(error) => error.into(),
            other => Refusal { message: Some(other.to_string()), ..Refusal::from(ErrorCode::from(other)) },
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let (code, message) = (append_error(&error), error.to_string());
        let records = match error {
            AppendError::InvalidRecord { records, .. } | AppendError::InvalidTimestamp { records, .. } => {
                records
            }
            _ => Vec::new(),
        };
        Refusal { error: code, message: Some(message), records }
    }
}
