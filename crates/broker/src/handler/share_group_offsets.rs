//! Where share groups are in their partitions: describing, moving and deleting it. The group's shard says what the group has, the
//! share coordinator where it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use state::group::share::Partitions;
use state::share::state::SharePartitionKey;
use wire::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, AlterShareGroupOffsetsResponsePartition,
    AlterShareGroupOffsetsResponseTopic,
};
use wire::messages::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse, DeleteShareGroupOffsetsResponseTopic,
};
use wire::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
    DescribeShareGroupOffsetsRequestTopic, DescribeShareGroupOffsetsResponse,
    DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
    DescribeShareGroupOffsetsResponseTopic,
};
use wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use wire::{ErrorCode, LeaderEpoch, Offset, PartitionId, Str, Uuid};

use crate::broker::Broker;
use crate::coordinator::partition_for;
use crate::groups::OFFSETS_TOPIC;
use crate::handler::share_group::{alone, begin_again, delete_topics, finish_deleting, for_each, to_the_end};
use crate::share_coordinator::Failure;

/// "Nobody has settled it", and "not known".
const NO_OFFSET: i64 = -1;
/// Asks for a partition's end.
const LATEST: i64 = -1;
/// How long a partition's leader may take to answer.
const ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// DescribeShareGroupOffsets. Share state that the group should have and that is missing begins again with it.
pub(crate) async fn describe(
    broker: Arc<Broker>,
    request: DescribeShareGroupOffsetsRequest,
) -> DescribeShareGroupOffsetsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    for asked in request.groups {
        let group_id = asked.group_id;
        groups.push(match describe_group(&broker, &group_id, asked.topics).await {
            Ok(topics) => DescribeShareGroupOffsetsResponseGroup { group_id, topics, ..Default::default() },
            Err(Failure { error, message }) => DescribeShareGroupOffsetsResponseGroup {
                group_id,
                error_code: error,
                error_message: message,
                ..Default::default()
            },
        });
    }
    DescribeShareGroupOffsetsResponse { groups, ..Default::default() }
}

async fn describe_group(
    broker: &Arc<Broker>,
    group: &Str,
    asked: Option<Vec<DescribeShareGroupOffsetsRequestTopic>>,
) -> Result<Vec<DescribeShareGroupOffsetsResponseTopic>, Failure> {
    let has = broker.groups.ask(group, |groups, _now| (Vec::new(), groups.share_partitions(group)));
    let has = has.await??;
    let image = broker.metadata.image();
    let mut topics: Vec<(Str, Uuid, Vec<i32>)> = Vec::new();
    match asked {
        None => {
            for (id, indexes) in &has {
                let Some(topic) = image.topic_by_id(*id) else { continue };
                topics.push((topic.name.clone(), *id, indexes.iter().copied().collect()));
            }
        }
        Some(asked) => {
            for topic in asked {
                let id = image.topic(&topic.topic_name).map_or(Uuid::ZERO, |topic| topic.id);
                let indexes: BTreeSet<i32> = topic.partitions.into_iter().collect();
                topics.push((topic.topic_name, id, indexes.into_iter().collect()));
            }
        }
    }
    let mut described = Vec::with_capacity(topics.len());
    for (topic_name, topic_id, indexes) in topics {
        let known: Partitions = [(topic_id, indexes.iter().copied().collect())].into();
        let partitions = match image.topic_by_id(topic_id) {
            Some(_) => {
                let told = for_each(broker, group, &known, describe_one);
                told.await
            }
            None => indexes
                .into_iter()
                .map(|index| refused(index, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.into()))
                .collect(),
        };
        described.push(DescribeShareGroupOffsetsResponseTopic { topic_name, topic_id, partitions });
    }
    // What is not there looks like what nobody has read yet.
    let mut missing = Partitions::new();
    for topic in &described {
        let is_missing = |told: &&DescribeShareGroupOffsetsResponsePartition| {
            told.error_code.is_ok() && told.start_offset < 0
        };
        let unread = topic.partitions.iter().filter(is_missing).map(|told| told.partition_index);
        let unread = unread.filter(|index| has.get(&topic.topic_id).is_some_and(|has| has.contains(index)));
        missing.entry(topic.topic_id).or_default().extend(unread);
    }
    if missing.values().any(|indexes| !indexes.is_empty()) {
        begin_again(broker, group, missing).await?;
    }
    Ok(described)
}

/// Has the group's coordinator look whether a share-partition should have state. If so, it has some afterwards.
pub(crate) async fn look_for_state(broker: &Arc<Broker>, key: &SharePartitionKey) -> Result<(), Failure> {
    let image = broker.metadata.image();
    let topic = image.topic_by_id(key.topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let topics = vec![DescribeShareGroupOffsetsRequestTopic {
        topic_name: topic.name.clone(),
        partitions: vec![key.partition.0],
    }];
    let coordinators = image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
    let coordinator = coordinators.partition(partition_for(&key.group, coordinators.partition_count()));
    let coordinator = coordinator.and_then(|partition| partition.leader);
    let coordinator = coordinator.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    if coordinator == broker.node_id {
        return describe_group(broker, &key.group, Some(topics)).await.map(drop);
    }
    let address = broker.metadata.quorum().peers().address_of(coordinator);
    let address = address.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let group = DescribeShareGroupOffsetsRequestGroup { group_id: key.group.clone(), topics: Some(topics) };
    let request = DescribeShareGroupOffsetsRequest { groups: vec![group] };
    let answer = broker.peers.ask(coordinator, &address, request, ANSWER_MAX).await;
    let answer = answer.map_err(|error| {
        tracing::debug!(%error, node = %coordinator, "the group coordinator does not answer");
        ErrorCode::COORDINATOR_NOT_AVAILABLE
    })?;
    let told = answer.groups.into_iter().next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
    if told.error_code.is_ok() {
        Ok(())
    } else {
        Err(Failure { error: told.error_code, message: told.error_message })
    }
}

fn refused(partition_index: i32, failure: Failure) -> DescribeShareGroupOffsetsResponsePartition {
    DescribeShareGroupOffsetsResponsePartition {
        partition_index,
        start_offset: NO_OFFSET,
        error_code: failure.error,
        error_message: failure.message,
        ..Default::default()
    }
}

async fn describe_one(
    broker: Arc<Broker>,
    key: SharePartitionKey,
) -> DescribeShareGroupOffsetsResponsePartition {
    let summary = match broker.share_state_summary(&key).await {
        Ok(summary) => summary,
        Err(failure) => return refused(key.partition.0, failure),
    };
    // What is done with beyond the start offset does not wait any more (KIP-1226).
    let lag = match summary.start.filter(|_| summary.delivery_complete_count >= 0) {
        Some(start) => end_of(&broker, &key)
            .await
            .map_or(NO_OFFSET, |end| (end.since(start) - i64::from(summary.delivery_complete_count)).max(0)),
        None => NO_OFFSET,
    };
    DescribeShareGroupOffsetsResponsePartition {
        partition_index: key.partition.0,
        start_offset: summary.start.map_or(NO_OFFSET, |start| start.0),
        leader_epoch: summary.leader_epoch.0,
        lag,
        ..Default::default()
    }
}

/// The high watermark of a partition, wherever it is led.
async fn end_of(broker: &Arc<Broker>, key: &SharePartitionKey) -> Option<Offset> {
    let image = broker.metadata.image();
    let topic = image.topic_by_id(key.topic)?;
    let leader = topic.partition(key.partition)?.leader?;
    if leader == broker.node_id {
        let hosted = broker.partitions.load();
        let partition = hosted.topic_by_id(key.topic)?.partition(key.partition)?;
        partition.check_leader(LeaderEpoch::NONE).ok()?;
        return Some(partition.high_watermark());
    }
    let address = broker.metadata.quorum().peers().address_of(leader)?;
    let partition = ListOffsetsPartition {
        partition_index: key.partition.0,
        current_leader_epoch: LeaderEpoch::NONE.0,
        timestamp: LATEST,
        ..Default::default()
    };
    let topic = ListOffsetsTopic { name: topic.name.clone(), partitions: vec![partition] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let answer = broker.peers.ask(leader, &address, request, ANSWER_MAX).await.ok()?;
    let found = answer.topics.into_iter().flat_map(|topic| topic.partitions).next()?;
    found.error_code.is_ok().then_some(Offset(found.offset))
}

/// AlterShareGroupOffsets.
pub(crate) async fn alter(
    broker: Arc<Broker>,
    request: AlterShareGroupOffsetsRequest,
) -> AlterShareGroupOffsetsResponse {
    match alter_group(&broker, request).await {
        Ok(responses) => AlterShareGroupOffsetsResponse { responses, ..Default::default() },
        Err(Failure { error, message }) => {
            AlterShareGroupOffsetsResponse { error_code: error, error_message: message, ..Default::default() }
        }
    }
}

async fn alter_group(
    broker: &Arc<Broker>,
    request: AlterShareGroupOffsetsRequest,
) -> Result<Vec<AlterShareGroupOffsetsResponseTopic>, Failure> {
    let group = Str::copy_from(&request.group_id);
    let image = broker.metadata.image();
    let named = request.topics.iter().filter_map(|topic| image.topic(&topic.topic_name));
    finish_deleting(broker, &group, named.map(|topic| topic.id).collect()).await?;
    let _shared = broker.share_deletions.of(&group).read_owned().await;
    let image = broker.metadata.image();
    let mut wanted: BTreeMap<(Uuid, i32), Offset> = BTreeMap::new();
    let mut partitions = Partitions::new();
    for topic in &request.topics {
        let Some(known) = image.topic(&topic.topic_name) else { continue };
        for asked in &topic.partitions {
            let index = asked.partition_index;
            if known.partition(PartitionId(index)).is_some() && asked.start_offset >= 0 {
                wanted.insert((known.id, index), Offset(asked.start_offset));
                partitions.entry(known.id).or_default().insert(index);
            }
        }
    }
    let altered =
        broker.groups.ask(&group, |groups, now| groups.share_alter_offsets(&group, &partitions, &image, now));
    let state_epoch = altered.await??;
    let begun = for_each(broker, &group, &partitions, |broker, key| {
        let place = (key.topic, key.partition.0);
        let start = wanted.get(&place).copied();
        async move { (place, broker.initialize_share_state(&key, state_epoch, start).await) }
    });
    let begun: HashMap<(Uuid, i32), Result<(), Failure>> = begun.await.into_iter().collect();
    let mut done = Partitions::new();
    for ((topic, index), _) in begun.iter().filter(|(_, begun)| begun.is_ok()) {
        done.entry(*topic).or_default().insert(*index);
    }
    // Where nothing could be begun there need not be a group.
    if !done.is_empty() {
        let told = broker
            .groups
            .ask(&group, |groups, now| groups.share_initialized(&group, None, &done, &image, now));
        told.await??;
    }
    let topics = request.topics.into_iter().map(|topic| {
        let topic_id = image.topic(&topic.topic_name).map_or(Uuid::ZERO, |topic| topic.id);
        let partitions = topic.partitions.iter().map(|asked| {
            let outcome = match begun.get(&(topic_id, asked.partition_index)) {
                Some(outcome) => outcome.clone(),
                None if asked.start_offset < 0 => Err(Failure {
                    error: ErrorCode::INVALID_REQUEST,
                    message: Some(Str::from("a start offset is not negative")),
                }),
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.into()),
            };
            let failure = outcome.err();
            AlterShareGroupOffsetsResponsePartition {
                partition_index: asked.partition_index,
                error_code: failure.as_ref().map_or(ErrorCode::NONE, |failure| failure.error),
                error_message: failure.and_then(|failure| failure.message),
            }
        });
        let partitions = partitions.collect();
        AlterShareGroupOffsetsResponseTopic { topic_name: topic.topic_name, topic_id, partitions }
    });
    Ok(topics.collect())
}

/// DeleteShareGroupOffsets.
pub(crate) async fn delete(
    broker: Arc<Broker>,
    request: DeleteShareGroupOffsetsRequest,
) -> DeleteShareGroupOffsetsResponse {
    match delete_offsets(&broker, request).await {
        Ok(responses) => DeleteShareGroupOffsetsResponse { responses, ..Default::default() },
        Err(Failure { error, message }) => DeleteShareGroupOffsetsResponse {
            error_code: error,
            error_message: message,
            ..Default::default()
        },
    }
}

async fn delete_offsets(
    broker: &Arc<Broker>,
    request: DeleteShareGroupOffsetsRequest,
) -> Result<Vec<DeleteShareGroupOffsetsResponseTopic>, Failure> {
    let group = Str::copy_from(&request.group_id);
    let image = broker.metadata.image();
    let topics = request.topics.into_iter().map(|topic| {
        let id = image.topic(&topic.topic_name).map(|topic| topic.id);
        (topic.topic_name, id)
    });
    let topics: Vec<(Str, Option<Uuid>)> = topics.collect();
    let ids: BTreeSet<Uuid> = topics.iter().filter_map(|(_, id)| *id).collect();
    let alone = alone(broker, &group).await?;
    let broker = Arc::clone(broker);
    let deleted = to_the_end(async move {
        let _alone = alone;
        let asked =
            broker.groups.ask(&group, |groups, _now| groups.share_offsets_to_delete(&group, &ids, &image));
        let partitions = asked.await??;
        delete_topics(&broker, &group, &partitions).await
    });
    let failures = deleted.await?.failures;
    let responses = topics.into_iter().map(|(topic_name, id)| {
        let failure = match id {
            None => Some(Failure::from(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
            Some(id) => failures.get(&id).cloned(),
        };
        DeleteShareGroupOffsetsResponseTopic {
            topic_name,
            topic_id: id.unwrap_or_default(),
            error_code: failure.as_ref().map_or(ErrorCode::NONE, |failure| failure.error),
            error_message: failure.and_then(|failure| failure.message),
        }
    });
    Ok(responses.collect())
}
