//! DescribeProducers: who writes to a partition with sequence numbers (KIP-664).

use std::collections::HashSet;
use std::sync::Arc;

use wire::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use wire::{ErrorCode, PartitionId, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::partition::Partition;

/// Answers each partition by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let hosted = broker.partitions.load();
    // A partition named twice is answered once: answers can be large.
    let mut seen = HashSet::new();
    let topics = request.topics.into_iter().map(|mut topic| {
        let here = hosted.topic(&topic.name);
        topic.partition_indexes.retain(|index| seen.insert((topic.name.clone(), *index)));
        let partitions = topic.partition_indexes.into_iter().map(|partition_index| {
            match here.and_then(|topic| topic.partition(PartitionId(partition_index))) {
                Some(partition) if !partition.is_leader() => PartitionResponse {
                    partition_index,
                    error_code: ErrorCode::NOT_LEADER_OR_FOLLOWER,
                    error_message: Some(Str::from("Another broker leads this partition.")),
                    ..Default::default()
                },
                Some(partition) => PartitionResponse {
                    partition_index,
                    active_producers: producers(partition),
                    ..Default::default()
                },
                None => PartitionResponse {
                    partition_index,
                    error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    error_message: Some(Str::from("This server does not host this topic-partition.")),
                    ..Default::default()
                },
            }
        });
        TopicResponse { name: topic.name, partitions: partitions.collect() }
    });
    DescribeProducersResponse { topics: topics.collect(), ..Default::default() }
}

fn producers(partition: &Partition) -> Vec<ProducerState> {
    let states = partition.log.producers().into_iter().map(|producer| ProducerState {
        producer_id: producer.producer_id.0,
        producer_epoch: i32::from(producer.epoch.0),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_timestamp.0,
        coordinator_epoch: producer.coordinator_epoch,
        current_txn_start_offset: producer.txn_start.map_or(-1, |offset| offset.0),
    });
    states.collect()
}
