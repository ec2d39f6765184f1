//! The share coordinator's APIs, which brokers ask each other: each partition is a question to the pure machine of its shard.

use std::sync::Arc;

use state::share::state::{SharePartitionKey, Write};
use wire::messages::delete_share_group_state as delete;
use wire::messages::initialize_share_group_state as initialize;
use wire::messages::read_share_group_state as read;
use wire::messages::read_share_group_state_summary as summary;
use wire::messages::write_share_group_state as write;
use wire::{ErrorCode, LeaderEpoch, PartitionId, Str, Uuid};

use crate::broker::Broker;
use crate::share_coordinator::{Failure, deliveries_of, start_of};

fn key(group: &Str, topic: Uuid, partition: i32) -> SharePartitionKey {
    SharePartitionKey { group: Str::copy_from(group), topic, partition: PartitionId(partition) }
}

fn told(result: Result<(), Failure>) -> (ErrorCode, Option<Str>) {
    match result {
        Ok(()) => (ErrorCode::NONE, None),
        Err(failure) => (failure.error, failure.message),
    }
}

/// InitializeShareGroupState.
pub(crate) async fn initialize(
    broker: Arc<Broker>,
    request: initialize::InitializeShareGroupStateRequest,
) -> initialize::InitializeShareGroupStateResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let key = key(&request.group_id, topic.topic_id, asked.partition);
            let start = start_of(asked.start_offset);
            let done = broker.initialize_share_state_here(&key, asked.state_epoch, start).await;
            let (error_code, error_message) = told(done);
            let partition = asked.partition;
            partitions.push(initialize::PartitionResult { partition, error_code, error_message });
        }
        results.push(initialize::InitializeStateResult { topic_id: topic.topic_id, partitions });
    }
    initialize::InitializeShareGroupStateResponse { results }
}

/// ReadShareGroupState.
pub(crate) async fn read(
    broker: Arc<Broker>,
    request: read::ReadShareGroupStateRequest,
) -> read::ReadShareGroupStateResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let key = key(&request.group_id, topic.topic_id, asked.partition);
            let partition = asked.partition;
            partitions.push(
                match broker.read_share_state_here(&key, LeaderEpoch(asked.leader_epoch)).await {
                    Ok(state) => {
                        let batches = state.deliveries.iter().map(|run| read::StateBatch {
                            first_offset: run.first.0,
                            last_offset: run.last.0,
                            delivery_state: run.value.state.number(),
                            delivery_count: run.value.count,
                        });
                        read::PartitionResult {
                            partition,
                            state_epoch: state.state_epoch,
                            start_offset: state.start.map_or(-1, |start| start.0),
                            state_batches: batches.collect(),
                            ..Default::default()
                        }
                    }
                    Err(Failure { error, message }) => read::PartitionResult {
                        partition,
                        error_code: error,
                        error_message: message,
                        ..Default::default()
                    },
                },
            );
        }
        results.push(read::ReadStateResult { topic_id: topic.topic_id, partitions });
    }
    read::ReadShareGroupStateResponse { results }
}

/// WriteShareGroupState.
pub(crate) async fn write(
    broker: Arc<Broker>,
    request: write::WriteShareGroupStateRequest,
) -> write::WriteShareGroupStateResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let key = key(&request.group_id, topic.topic_id, asked.partition);
            let partition = asked.partition;
            let (error_code, error_message) = told(write_one(&broker, &key, asked).await);
            partitions.push(write::PartitionResult { partition, error_code, error_message });
        }
        results.push(write::WriteStateResult { topic_id: topic.topic_id, partitions });
    }
    write::WriteShareGroupStateResponse { results }
}

async fn write_one(
    broker: &Arc<Broker>,
    key: &SharePartitionKey,
    asked: write::PartitionData,
) -> Result<(), Failure> {
    let batches = asked.state_batches.iter();
    let batches = batches.map(|b| (b.first_offset, b.last_offset, b.delivery_state, b.delivery_count));
    let write = Write {
        state_epoch: asked.state_epoch,
        leader_epoch: LeaderEpoch(asked.leader_epoch),
        start: start_of(asked.start_offset),
        delivery_complete_count: asked.delivery_complete_count,
        deliveries: deliveries_of(batches)?,
    };
    broker.write_share_state_here(key, &write).await
}

/// DeleteShareGroupState.
pub(crate) async fn delete(
    broker: Arc<Broker>,
    request: delete::DeleteShareGroupStateRequest,
) -> delete::DeleteShareGroupStateResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let key = key(&request.group_id, topic.topic_id, asked.partition);
            let (error_code, error_message) = told(broker.delete_share_state_here(&key).await);
            let partition = asked.partition;
            partitions.push(delete::PartitionResult { partition, error_code, error_message });
        }
        results.push(delete::DeleteStateResult { topic_id: topic.topic_id, partitions });
    }
    delete::DeleteShareGroupStateResponse { results }
}

/// ReadShareGroupStateSummary.
pub(crate) async fn summary(
    broker: Arc<Broker>,
    request: summary::ReadShareGroupStateSummaryRequest,
) -> summary::ReadShareGroupStateSummaryResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let key = key(&request.group_id, topic.topic_id, asked.partition);
            let partition = asked.partition;
            let epoch = LeaderEpoch(asked.leader_epoch);
            partitions.push(match broker.share_state_summary_here(&key, epoch).await {
                Ok(summary) => summary::PartitionResult {
                    partition,
                    state_epoch: summary.state_epoch,
                    leader_epoch: summary.leader_epoch.0,
                    start_offset: summary.start.map_or(-1, |start| start.0),
                    delivery_complete_count: summary.delivery_complete_count,
                    ..Default::default()
                },
                Err(Failure { error, message }) => summary::PartitionResult {
                    partition,
                    error_code: error,
                    error_message: message,
                    ..Default::default()
                },
            });
        }
        results.push(summary::ReadStateSummaryResult { topic_id: topic.topic_id, partitions });
    }
    summary::ReadShareGroupStateSummaryResponse { results }
}
