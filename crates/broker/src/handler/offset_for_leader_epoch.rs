//! OffsetForLeaderEpoch: where an epoch of a partition ends, so that a reader finds out whether its history is still the
//! log's (KIP-101, KIP-320).

use std::sync::Arc;

use wire::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};
use wire::{ErrorCode, LeaderEpoch, Offset, PartitionId};

use crate::broker::{Broker, Named};
use crate::context::RequestContext;
use crate::partition::Partition;

/// Answers each partition by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let hosted = broker.partitions.load();
    let topics = request.topics.into_iter().map(|topic| {
        let here = hosted.topic(&topic.topic);
        let partitions = topic.partitions.into_iter().map(|asked| {
            let partition = asked.partition;
            let end = here
                .and_then(|topic| topic.partition(PartitionId(partition)))
                .ok_or_else(|| broker.missing(Named::Name(&topic.topic), PartitionId(partition)))
                .and_then(|here| epoch_end(here, &asked));
            match end {
                Ok(Some((epoch, end))) => EpochEndOffset {
                    partition,
                    leader_epoch: epoch.0,
                    end_offset: end.0,
                    ..Default::default()
                },
                // No error: the reader learns that the log knows nothing of its epoch.
                Ok(None) => EpochEndOffset { partition, ..Default::default() },
                Err(error_code) => EpochEndOffset { partition, error_code, ..Default::default() },
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult { topic: topic.topic, partitions }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}

fn epoch_end(
    partition: &Partition,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(LeaderEpoch, Offset)>, ErrorCode> {
    partition.check_leader(LeaderEpoch(asked.current_leader_epoch))?;
    let epoch = LeaderEpoch(asked.leader_epoch);
    // The current epoch has not ended, also when nothing has been written in it yet.
    if epoch == partition.leader_epoch() {
        return Ok(Some((epoch, partition.log.log_end())));
    }
    Ok(partition.log.epoch_end_offset(epoch))
}
