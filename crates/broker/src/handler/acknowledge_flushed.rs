//! AcknowledgeFlushed, between brokers: a follower tells what it has made durable since its fetch was parked.

use std::sync::Arc;

use state::partition::Fetched;
use wire::messages::acknowledge_flushed::{AcknowledgeFlushedRequest, AcknowledgeFlushedResponse};
use wire::{BrokerId, LeaderEpoch, Offset, PartitionId};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Counts a follower's votes, and has its parked fetch come back if it asks for that.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _: RequestContext,
    request: AcknowledgeFlushedRequest,
) -> AcknowledgeFlushedResponse {
    let follower = BrokerId(request.broker_id);
    let now = broker.ticks();
    let hosted = broker.partitions.load_full();
    for topic in &request.topics {
        let Some(here) = hosted.topic_by_id(topic.topic_id) else { continue };
        for data in &topic.partitions {
            let Some(partition) = here.partition(PartitionId(data.partition_index)) else { continue };
            // Its word is about the log of the leader of this epoch and of no other.
            if data.leader_epoch < 0 || partition.check_leader(LeaderEpoch(data.leader_epoch)).is_err() {
                continue;
            }
            let end = Offset(data.flushed_end.max(0));
            let fetched = Fetched {
                replica: follower,
                broker_epoch: request.broker_epoch,
                offset: end,
                durable_end: end,
                now,
            };
            if partition.follower_acknowledged(LeaderEpoch(data.leader_epoch), fetched) {
                broker.isr.consider(partition);
            }
        }
    }
    if request.wake {
        broker.followers.recall(follower);
    }
    AcknowledgeFlushedResponse::default()
}
