//! DeleteRecords: moves the start of a partition's log forward.
//! Only records that every reader could have seen can be deleted, and never those of a compacted topic, whose oldest
//! record may be the only one of its key.

use std::sync::Arc;

use storage::ReadError;
use wire::messages::delete_records::{
    DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use wire::{ErrorCode, LeaderEpoch, Offset, PartitionId, Str};

use super::list_offsets::{seen, unseen};
use crate::blocking;
use crate::broker::{Broker, Named};
use crate::context::RequestContext;
use crate::partition::Partition;

/// Stands for the high watermark.
const TO_HIGH_WATERMARK: i64 = -1;

/// Deletes each partition's records by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    seen(unseen(&broker, asked(&request))).await;
    // Removes files, so it must not keep the connections waiting.
    let deleted = blocking::run(move || delete(&broker, request));
    deleted.await
}

fn asked(request: &DeleteRecordsRequest) -> impl Iterator<Item = (&Str, i32)> {
    let topics = request.topics.iter();
    topics.flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition.partition_index)))
}

fn delete(broker: &Broker, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let hosted = broker.partitions.load_full();
    let topics = request.topics.into_iter().map(|topic| {
        let here = hosted.topic(&topic.name);
        let is_internal = broker.is_internal_topic(&topic.name);
        let partitions = topic.partitions.into_iter().map(|asked| {
            let partition_index = asked.partition_index;
            let low_watermark = match here.and_then(|topic| topic.partition(PartitionId(partition_index))) {
                None => Err(broker.missing(Named::Name(&topic.name), PartitionId(partition_index))),
                Some(_) if is_internal => Err(ErrorCode::INVALID_TOPIC_EXCEPTION),
                Some(partition) => delete_in(partition, asked.offset),
            };
            match low_watermark {
                Ok(offset) => DeleteRecordsPartitionResult {
                    partition_index,
                    low_watermark: offset.0,
                    ..Default::default()
                },
                Err(error_code) => {
                    DeleteRecordsPartitionResult { partition_index, low_watermark: -1, error_code }
                }
            }
        });
        let partitions = partitions.collect();
        DeleteRecordsTopicResult { name: topic.name, partitions }
    });
    DeleteRecordsResponse { topics: topics.collect(), ..Default::default() }
}

fn delete_in(partition: &Partition, before: i64) -> Result<Offset, ErrorCode> {
    partition.check_leader(LeaderEpoch::NONE)?;
    if !partition.log.config().cleanup.delete {
        return Err(ErrorCode::POLICY_VIOLATION);
    }
    let high_watermark = partition.high_watermark();
    let before = if before == TO_HIGH_WATERMARK { high_watermark } else { Offset(before) };
    if before < Offset::ZERO || before > high_watermark {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    match partition.log.advance_log_start(before) {
        Ok(log_start) => Ok(log_start),
        Err(ReadError::OutOfRange { .. }) => Err(ErrorCode::OFFSET_OUT_OF_RANGE),
        Err(ReadError::Storage(error)) => {
            tracing::error!(partition = %partition.id, %error, "records could not be deleted");
            Err(ErrorCode::KAFKA_STORAGE_ERROR)
        }
    }
}
