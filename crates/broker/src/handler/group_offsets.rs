//! OffsetCommit, OffsetFetch and OffsetDelete: a group's positions.
//!
//! The state machine keeps positions by topic name and does not know which topics exist. Here ids become names, and
//! topics that are not there are answered without bothering the group. Invariant: the answer names every partition
//! that the request named, in its order.

use std::collections::HashSet;
use std::sync::Arc;

use state::group::ExpiredOffset;
use state::metadata::Image;
use state::txn::{Producer, Protocol};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
};
use wire::{ErrorCode, PartitionId, ProducerEpoch, ProducerId, Response, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::verification::{self, Asking};

/// Requests name topics by id from this version on (KIP-848).
const TOPIC_ID_VERSION_MIN: i16 = 10;
/// Requests ask for several groups from this version on (KIP-709).
const BATCH_VERSION_MIN: i16 = 8;
/// The group's partition belongs to the transaction when offsets are committed to it from this version on; before, the client
/// has named it.
const IMPLICIT_VERSION_MIN: i16 = 5;
/// Clients know of transactions that have to be aborted from this version on (KIP-890).
const ABORTABLE_VERSION_MIN: i16 = 4;
/// Answers have a place for an error of the whole group from this version on.
const TOP_LEVEL_ERROR_VERSION_MIN: i16 = 2;

/// OffsetCommit.
pub(crate) async fn commit(
    broker: Arc<Broker>,
    context: RequestContext,
    mut request: OffsetCommitRequest,
) -> Response {
    let image = broker.metadata.image();
    let by_id = context.version >= TOPIC_ID_VERSION_MIN;
    let mut refused = Refused::default();
    request.topics = std::mem::take(&mut request.topics)
        .into_iter()
        .enumerate()
        .filter_map(|(place, topic)| known_part(&image, by_id, place, topic, &mut refused))
        .collect();
    if request.topics.is_empty() && !refused.topics.is_empty() {
        let topics = refused.merge(Vec::new());
        return Response::OffsetCommit(OffsetCommitResponse { topics, ..Default::default() });
    }
    let version = context.version;
    let step = broker
        .groups
        .run(&request.group_id, |groups, token, now| groups.commit_offsets(token, version, &request, now));
    let mut response = match step.await {
        Ok(Response::OffsetCommit(response)) => response,
        Ok(other) => return other,
        Err(error) => OffsetCommitResponse {
            topics: request.topics.iter().map(|topic| refuse_topic(topic, error)).collect(),
            ..Default::default()
        },
    };
    response.topics = refused.merge(response.topics);
    Response::OffsetCommit(response)
}

/// TxnOffsetCommit: a commit that counts when the producer's transaction is committed (KIP-98, KIP-447).
pub(crate) async fn commit_in_transaction(
    broker: Arc<Broker>,
    context: RequestContext,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let producer =
        Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
    let image = broker.metadata.image();
    let mut refused = Refused::default();
    let topics = request.topics.into_iter().map(|topic| OffsetCommitRequestTopic {
        name: topic.name,
        topic_id: Uuid::ZERO,
        partitions: topic
            .partitions
            .into_iter()
            .map(|partition| OffsetCommitRequestPartition {
                partition_index: partition.partition_index,
                committed_offset: partition.committed_offset,
                committed_leader_epoch: partition.committed_leader_epoch,
                committed_metadata: partition.committed_metadata,
            })
            .collect(),
    });
    let commit = OffsetCommitRequest {
        group_id: request.group_id,
        generation_id_or_member_epoch: request.generation_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        retention_time_ms: -1,
        topics: topics
            .enumerate()
            .filter_map(|(place, topic)| known_part(&image, false, place, topic, &mut refused))
            .collect(),
    };
    let committed = if commit.topics.is_empty() {
        Ok(Vec::new())
    } else {
        let asking = Asking {
            transactional_id: &request.transactional_id,
            producer,
            protocol: match context.version {
                IMPLICIT_VERSION_MIN.. => Protocol::Second,
                _ => Protocol::First,
            },
        };
        commit_with(&broker, context.version, asking, &commit).await
    };
    let known = committed
        .unwrap_or_else(|error| commit.topics.iter().map(|topic| refuse_topic(topic, error)).collect());
    let topics = refused.merge(known).into_iter().map(|topic| TxnOffsetCommitResponseTopic {
        name: topic.name,
        partitions: topic
            .partitions
            .into_iter()
            .map(|partition| TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: partition.error_code,
            })
            .collect(),
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

async fn commit_with(
    broker: &Arc<Broker>,
    version: i16,
    asking: Asking<'_>,
    commit: &OffsetCommitRequest,
) -> Result<Vec<OffsetCommitResponseTopic>, ErrorCode> {
    let producer = asking.producer;
    let partition = broker.groups.partition(&commit.group_id)?;
    let verification = if partition.begins_transaction(producer) {
        let asked = verification::ask(broker, asking, std::slice::from_ref(&partition)).await.next();
        let (_, outcome) = asked.expect("one question, one answer");
        Some(outcome.map_err(|error| match error {
            None if version >= ABORTABLE_VERSION_MIN => ErrorCode::TRANSACTION_ABORTABLE,
            None => ErrorCode::INVALID_TXN_STATE,
            // The group's coordinator is the right one: it is asked again, and not looked for.
            Some(
                ErrorCode::CONCURRENT_TRANSACTIONS
                | ErrorCode::COORDINATOR_NOT_AVAILABLE
                | ErrorCode::NOT_COORDINATOR,
            ) => ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
            Some(ErrorCode::PRODUCER_FENCED) => ErrorCode::INVALID_PRODUCER_EPOCH,
            Some(error) => error,
        })?)
    } else {
        None
    };
    let step = broker.groups.run_in_transaction(
        &commit.group_id,
        producer,
        verification.as_ref(),
        |groups, token, now| groups.commit_in_transaction(token, commit, (producer.id, producer.epoch), now),
    );
    match step.await? {
        Response::OffsetCommit(response) => Ok(response.topics),
        _ => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}

/// Parts of a commit that name topics or partitions which do not exist, with their topic's place in the request.
#[derive(Default)]
struct Refused {
    topics: Vec<(usize, OffsetCommitResponseTopic)>,
}

impl Refused {
    /// Puts the refused parts back where the request had them.
    fn merge(self, known: Vec<OffsetCommitResponseTopic>) -> Vec<OffsetCommitResponseTopic> {
        let mut merged = known;
        for (place, topic) in self.topics {
            let same = merged.iter_mut().find(|t| t.name == topic.name && t.topic_id == topic.topic_id);
            match same {
                Some(present) => present.partitions.extend(topic.partitions),
                None => merged.insert(place.min(merged.len()), topic),
            }
        }
        merged
    }
}

/// The part of a topic's commit that names existing partitions, with the topic's name filled in.
fn known_part(
    image: &Image,
    by_id: bool,
    place: usize,
    mut topic: OffsetCommitRequestTopic,
    refused: &mut Refused,
) -> Option<OffsetCommitRequestTopic> {
    let found = if by_id { image.topic_by_id(topic.topic_id) } else { image.topic(&topic.name) };
    let Some(found) = found else {
        let error = if by_id { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
        refused.topics.push((place, refuse_topic(&topic, error)));
        return None;
    };
    topic.name = found.name.clone();
    topic.topic_id = found.id;
    let (known, unknown): (Vec<_>, Vec<_>) = std::mem::take(&mut topic.partitions)
        .into_iter()
        .partition(|partition| found.partition(PartitionId(partition.partition_index)).is_some());
    if !unknown.is_empty() {
        let unknown = OffsetCommitRequestTopic { partitions: unknown, ..topic.clone() };
        refused.topics.push((place, refuse_topic(&unknown, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)));
    }
    topic.partitions = known;
    (!topic.partitions.is_empty()).then_some(topic)
}

fn refuse_topic(topic: &OffsetCommitRequestTopic, error_code: ErrorCode) -> OffsetCommitResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code,
    });
    OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

/// OffsetFetch.
pub(crate) async fn fetch(
    broker: Arc<Broker>,
    context: RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if context.version < BATCH_VERSION_MIN {
        return fetch_one(&broker, request, context.version).await;
    }
    let by_id = context.version >= TOPIC_ID_VERSION_MIN;
    let wants = Wants { stable: request.require_stable, expired: request.wants_expired };
    let mut groups = Vec::with_capacity(request.groups.len());
    // A group named twice is answered once: answers can be large.
    let mut seen = HashSet::new();
    for group in request.groups.into_iter().filter(|group| seen.insert(group.group_id.clone())) {
        groups.push(fetch_group(&broker, group, by_id, wants).await);
    }
    OffsetFetchResponse { groups, ..Default::default() }
}

/// The request of versions 1 to 7 names one group, and its answer stands at the top level.
async fn fetch_one(broker: &Arc<Broker>, request: OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
    let asked = request.topics.clone().unwrap_or_default();
    let wants = Wants { stable: request.require_stable, expired: request.wants_expired };
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        });
        topics.collect()
    });
    let group = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
    let fetched = fetch_group(broker, group, false, wants).await;
    if version < TOP_LEVEL_ERROR_VERSION_MIN && !fetched.error_code.is_ok() {
        let topics = asked.into_iter().map(|topic| OffsetFetchResponseTopic {
            partitions: topic.partition_indexes.iter().map(|id| failed(*id, fetched.error_code)).collect(),
            name: topic.name,
        });
        return OffsetFetchResponse { topics: topics.collect(), ..Default::default() };
    }
    let topics = fetched.topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(old_partition).collect(),
    });
    OffsetFetchResponse { topics: topics.collect(), error_code: fetched.error_code, ..Default::default() }
}

/// Before the answer had a place for an error, each partition told it.
fn failed(partition_index: i32, error_code: ErrorCode) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(Str::default()),
        error_code,
        ..Default::default()
    }
}

fn old_partition(partition: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
        expired_offset: partition.expired_offset,
        expired_at: partition.expired_at,
    }
}

/// What a reader of offsets asks for.
#[derive(Clone, Copy)]
struct Wants {
    /// Not those that an open transaction may replace.
    stable: bool,
    /// What is remembered of those that have expired, too: Ottla's own question.
    expired: bool,
}

async fn fetch_group(
    broker: &Arc<Broker>,
    mut group: OffsetFetchRequestGroup,
    by_id: bool,
    wants: Wants,
) -> OffsetFetchResponseGroup {
    if broker.is_cut_off() {
        // Offsets may have been committed elsewhere by now.
        let error_code = ErrorCode::NOT_COORDINATOR;
        return OffsetFetchResponseGroup { group_id: group.group_id, error_code, ..Default::default() };
    }
    let image = broker.metadata.image();
    let mut unknown = Vec::new();
    if by_id && let Some(topics) = group.topics.take() {
        let (known, missing): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| image.topic_by_id(topic.topic_id).is_some());
        unknown = missing.into_iter().map(refuse_fetch).collect();
        let named = known.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: image.topic_by_id(topic.topic_id).map(|found| found.name.clone()).unwrap_or_default(),
            ..topic
        });
        group.topics = Some(named.collect());
    }
    let id_of = |name: &str| image.topic(name).map(|topic| topic.id);
    let fetched = broker.groups.ask(&group.group_id, |groups, _now| {
        let mut fetched = groups.fetch_offsets(&group, wants.stable, id_of);
        if wants.expired {
            let is_asked_for_all = group.topics.is_none();
            for expired in groups.expired_offsets(&group.group_id, id_of) {
                tell_expired(&mut fetched, expired, is_asked_for_all);
            }
        }
        (Vec::new(), fetched)
    });
    let fetched = fetched.await;
    match fetched {
        Ok(mut fetched) => {
            if by_id {
                fetched.topics.retain_mut(|topic| match image.topic(&topic.name) {
                    Some(found) => {
                        topic.topic_id = found.id;
                        true
                    }
                    None => false,
                });
            }
            fetched.topics.extend(unknown);
            fetched
        }
        Err(error_code) => {
            OffsetFetchResponseGroup { group_id: group.group_id, error_code, ..Default::default() }
        }
    }
}

/// Puts what is remembered of an expired offset where the answer says that nothing is committed.
fn tell_expired(
    fetched: &mut OffsetFetchResponseGroup,
    (name, partition, expired): (Str, PartitionId, ExpiredOffset),
    is_asked_for_all: bool,
) {
    let place = fetched.topics.iter().position(|topic| topic.name == name);
    let place = match place {
        Some(place) => place,
        None if is_asked_for_all => {
            fetched.topics.push(OffsetFetchResponseTopics { name, ..Default::default() });
            fetched.topics.len() - 1
        }
        None => return,
    };
    let partitions = &mut fetched.topics[place].partitions;
    if is_asked_for_all {
        partitions.push(OffsetFetchResponsePartitions {
            partition_index: partition.0,
            committed_offset: -1,
            committed_leader_epoch: -1,
            metadata: Some(Str::default()),
            ..Default::default()
        });
    }
    if let Some(told) = partitions.iter_mut().find(|told| told.partition_index == partition.0) {
        told.expired_offset = expired.offset.0;
        told.expired_at = expired.expired_at.0;
    }
}

fn refuse_fetch(topic: OffsetFetchRequestTopics) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|&partition_index| OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        error_code: ErrorCode::UNKNOWN_TOPIC_ID,
        ..Default::default()
    });
    OffsetFetchResponseTopics {
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
        ..Default::default()
    }
}

/// OffsetDelete. What of it names no topic or partition is refused here, as Kafka does.
pub(crate) async fn delete(
    broker: Arc<Broker>,
    _: RequestContext,
    mut request: OffsetDeleteRequest,
) -> Response {
    let image = broker.metadata.image();
    let mut unknown = Vec::new();
    for topic in &mut request.topics {
        let found = image.topic(&topic.name);
        let (known, missing): (Vec<_>, Vec<_>) =
            std::mem::take(&mut topic.partitions).into_iter().partition(|partition| {
                found.is_some_and(|topic| topic.partition(PartitionId(partition.partition_index)).is_some())
            });
        topic.partitions = known;
        if !missing.is_empty() {
            let partitions = missing.into_iter().map(|partition| OffsetDeleteResponsePartition {
                partition_index: partition.partition_index,
                error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            });
            unknown.push(OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions: partitions.collect(),
            });
        }
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    let deleted = broker
        .groups
        .run(&request.group_id, |groups, token, _now| groups.delete_offsets(token, &request))
        .await;
    match deleted {
        Ok(Response::OffsetDelete(mut response)) if response.error_code.is_ok() => {
            for topic in unknown {
                match response.topics.iter_mut().find(|present| present.name == topic.name) {
                    Some(present) => present.partitions.extend(topic.partitions),
                    None => response.topics.push(topic),
                }
            }
            Response::OffsetDelete(response)
        }
        Ok(response) => response,
        Err(error_code) => Response::OffsetDelete(OffsetDeleteResponse { error_code, ..Default::default() }),
    }
}
