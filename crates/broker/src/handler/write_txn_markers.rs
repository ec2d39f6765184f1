//! WriteTxnMarkers: a transaction coordinator ends a transaction in the partitions that this broker leads.
//!
//! A marker is answered when it is safe. Where the broker's own records belong to the transaction - offsets that a group
//! commits with it - their machine learns of the end with the marker.

use std::sync::Arc;
use std::time::Duration;

use state::txn::{Producer, Protocol};
use tokio::time::{Instant, timeout_at};
use wire::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use wire::{ErrorCode, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::groups::OFFSETS_TOPIC;
use crate::partition::{Marker, Partition};
use crate::waiting::ParkedProduce;

/// How long markers may take to be safe.
const SAFE_MAX: Duration = Duration::from_secs(8);

/// From this level on the epoch rises with every transaction.
const OWN_EPOCH_LEVEL_MIN: i8 = 2;

/// A marker that is appended.
struct Written {
    partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
    required: Offset,
}

/// Answers each partition by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _: RequestContext,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    write(broker, request).await
}

/// The same, for a coordinator on this broker.
pub(crate) async fn write(broker: Arc<Broker>, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let deadline = Instant::now() + SAFE_MAX;
    let mut appended: Vec<Result<Written, ErrorCode>> = Vec::new();
    for asked in &request.markers {
        let marker = marker(asked);
        for topic in &asked.topics {
            let indexes = topic.partition_indexes.iter().copied().map(PartitionId);
            appended.extend(indexes.map(|index| append(&broker, &topic.name, index, marker)));
        }
    }
    let parts = appended.iter().filter_map(|part| part.as_ref().ok()).count();
    if parts > 0 {
        let parked = ParkedProduce::new(parts);
        for (place, part) in appended.iter().filter_map(|part| part.as_ref().ok()).enumerate() {
            part.partition.park_produce(part.required, part.leader_epoch, &parked, place);
        }
        // What is not safe by then is answered as that.
        let _ = timeout_at(deadline, parked.finished()).await;
        let mut place = 0;
        for part in &mut appended {
            if part.is_ok() {
                let outcome = parked.outcome(place).unwrap_or(ErrorCode::REQUEST_TIMED_OUT);
                place += 1;
                if !outcome.is_ok() {
                    *part = Err(outcome);
                }
            }
        }
    }
    let mut outcomes = appended.into_iter().map(|part| part.err().unwrap_or(ErrorCode::NONE));
    let markers = request.markers.into_iter().map(|asked| WritableTxnMarkerResult {
        producer_id: asked.producer_id,
        topics: asked
            .topics
            .into_iter()
            .map(|topic| WritableTxnMarkerTopicResult {
                name: topic.name,
                partitions: topic
                    .partition_indexes
                    .into_iter()
                    .map(|partition_index| WritableTxnMarkerPartitionResult {
                        partition_index,
                        error_code: outcomes.next().expect("each partition has an outcome"),
                    })
                    .collect(),
            })
            .collect(),
    });
    WriteTxnMarkersResponse { markers: markers.collect() }
}

fn marker(asked: &WritableTxnMarker) -> Marker {
    Marker {
        producer: Producer { id: ProducerId(asked.producer_id), epoch: ProducerEpoch(asked.producer_epoch) },
        commit: asked.transaction_result,
        coordinator_epoch: asked.coordinator_epoch,
        protocol: match asked.transaction_version {
            OWN_EPOCH_LEVEL_MIN.. => Protocol::Second,
            _ => Protocol::First,
        },
    }
}

fn append(
    broker: &Arc<Broker>,
    topic: &str,
    index: PartitionId,
    marker: Marker,
) -> Result<Written, ErrorCode> {
    let hosted = broker.partitions.load();
    let partition = hosted.topic(topic).and_then(|topic| topic.partition(index));
    let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    partition.check_leader(LeaderEpoch::NONE)?;
    if !partition.has_enough_in_sync() {
        return Err(ErrorCode::NOT_ENOUGH_REPLICAS);
    }
    if broker.is_cut_off() {
        return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
    if topic == OFFSETS_TOPIC {
        let (partition, leader_epoch, required) = broker.groups.write_marker(index, marker)?;
        return Ok(Written { partition, leader_epoch, required });
    }
    let led = partition.append_marker(marker, broker.clock.now())?;
    Ok(Written {
        partition: Arc::clone(partition),
        leader_epoch: led.leader_epoch,
        required: led.appended.last_offset.plus(1),
    })
}
