//! ListOffsets: the start, the end, or the first record of a time. With the end, in a field of Ottla's own, the first records that
//! readers at given offsets have not read: how long those wait is the readers' lag in time.
//! What a consumer is told lies below what it may see: the high watermark, or the last stable offset if it reads
//! committed records only. Lookups by time read the log, so they run on the blocking pool; the others only look. Where this
//! broker alone is in sync, whoever was told of an append (`acks=1`) sees it: the end is told once the disk has it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use storage::{StorageError, TimestampOffset, Visible};
use tokio::time::timeout;
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse, UnreadRecord,
};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, Str};

use crate::blocking;
use crate::broker::{Broker, Named};
use crate::context::RequestContext;
use crate::partition::Partition;
use crate::waiting::ParkedProduce;

const CONSUMER: i32 = -1;
const READ_COMMITTED: i8 = 1;

/// Answers each partition by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    answer(broker, context.version, request).await
}

/// Readers' offsets that one request may ask about, over all partitions: each costs a look into the log.
pub(crate) const UNREAD_MAX: usize = 10_000;

/// Answers a client, or this broker itself.
pub(crate) async fn answer(
    broker: Arc<Broker>,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    seen(unseen(&broker, asked_by_end(&request, version))).await;
    let mut partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
    let reads_log = partitions.any(|partition| {
        !partition.unread_from.is_empty()
            || Wanted::read(partition.timestamp, version).is_some_and(Wanted::reads_log)
    });
    if reads_log {
        let listed = blocking::run(move || list(&broker, request, version));
        return listed.await;
    }
    list(&broker, request, version)
}

/// The partitions of which a consumer is told something that changes when readers see more.
fn asked_by_end(request: &ListOffsetsRequest, version: i16) -> impl Iterator<Item = (&Str, i32)> {
    let topics = request.topics.iter().filter(|_| request.replica_id == CONSUMER);
    let partitions =
        topics.flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition)));
    let depends = move |asked: &ListOffsetsPartition| {
        Wanted::read(asked.timestamp, version).is_some_and(Wanted::depends_on_end)
    };
    let partitions = partitions.filter(move |(_, partition)| depends(partition));
    partitions.map(|(topic, partition)| (topic, partition.partition_index))
}

/// A disk that hangs does not hang those who ask where logs end.
const SEEN_WAIT_MAX: Duration = Duration::from_secs(1);

/// What of these partitions readers do not see, though nothing but the disk of this broker keeps them from it. In Kafka an append
/// to such a partition is seen at once, so a client that was told of it with `acks=1` may count on it.
pub(super) fn unseen<'a>(
    broker: &Broker,
    asked: impl Iterator<Item = (&'a Str, i32)>,
) -> Option<Arc<ParkedProduce>> {
    let hosted = broker.partitions.load();
    let unseen = asked.filter_map(|(topic, index)| {
        let partition = hosted.topic(topic)?.partition(PartitionId(index))?;
        partition.unseen_end().map(|(end, leader_epoch)| (partition, end, leader_epoch))
    });
    let unseen: Vec<_> = unseen.collect();
    if unseen.is_empty() {
        return None;
    }
    let parked = ParkedProduce::new(unseen.len());
    for (index, (partition, end, leader_epoch)) in unseen.into_iter().enumerate() {
        partition.park_produce(end, leader_epoch, &parked, index);
    }
    Some(parked)
}

/// Waits for that. Whatever comes of it, the answer says what is seen then.
pub(super) async fn seen(unseen: Option<Arc<ParkedProduce>>) {
    if let Some(parked) = unseen {
        let _seen = timeout(SEEN_WAIT_MAX, parked.finished()).await;
    }
}

/// Clients know that an offset may not be available from this version on.
const OFFSET_NOT_AVAILABLE_VERSION_MIN: i16 = 5;

/// What the request's timestamp stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    Latest,
    Earliest,
    MaxTimestamp,
    /// The start of what is on this broker's own disk: everything, without tiered storage.
    EarliestLocal,
    /// In tiered storage, which is not there.
    Tiered,
    /// The first record that is not older.
    Time(Millis),
}

impl Wanted {
    /// Names mean something from some version on: KIP-734, KIP-405, KIP-1005, KIP-1023.
    fn read(timestamp: i64, version: i16) -> Option<Wanted> {
        Some(match timestamp {
            -1 => Wanted::Latest,
            -2 => Wanted::Earliest,
            -3 if version >= 7 => Wanted::MaxTimestamp,
            -4 if version >= 8 => Wanted::EarliestLocal,
            -5 if version >= 9 => Wanted::Tiered,
            -6 if version >= 11 => Wanted::Tiered,
            time if time >= 0 => Wanted::Time(Millis(time)),
            _unknown => return None,
        })
    }

    /// Whether the answer can change when readers see more.
    fn depends_on_end(self) -> bool {
        matches!(self, Wanted::Latest | Wanted::MaxTimestamp | Wanted::Time(_))
    }

    fn reads_log(self) -> bool {
        matches!(self, Wanted::MaxTimestamp | Wanted::Time(_))
    }
}

fn list(broker: &Broker, request: ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    let view = View {
        version,
        is_consumer: request.replica_id == CONSUMER,
        committed_only: request.isolation_level == READ_COMMITTED,
    };
    let hosted = broker.partitions.load();
    let all = request.topics.iter().flat_map(|topic| &topic.partitions);
    let unread: usize = all.map(|partition| partition.unread_from.len()).sum();
    let too_many = unread > UNREAD_MAX;
    let topics = request.topics.into_iter().map(|topic| {
        let here = hosted.topic(&topic.name);
        // Answers are matched by partition: one that is named twice could not tell which time it answers.
        let mut seen = HashSet::with_capacity(topic.partitions.len());
        let mut twice = HashSet::new();
        for asked in &topic.partitions {
            if !seen.insert(asked.partition_index) {
                twice.insert(asked.partition_index);
            }
        }
        let mut answered = HashSet::new();
        let partitions = topic.partitions.into_iter().filter_map(|asked| {
            let index = asked.partition_index;
            let found = if too_many && !asked.unread_from.is_empty() {
                Err(ErrorCode::INVALID_REQUEST)
            } else if twice.contains(&index) {
                if !answered.insert(index) {
                    return None;
                }
                Err(ErrorCode::INVALID_REQUEST)
            } else {
                here.and_then(|topic| topic.partition(PartitionId(index)))
                    .ok_or_else(|| broker.missing(Named::Name(&topic.name), PartitionId(index)))
                    .and_then(|partition| find(partition, view, &asked))
            };
            Some(respond(index, found))
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse { name: topic.name, partitions }
    });
    let topics = topics.collect();
    let now = if unread == 0 { -1 } else { broker.clock.now().0 };
    ListOffsetsResponse { topics, now, ..Default::default() }
}

fn respond(partition_index: i32, found: Result<Found, ErrorCode>) -> ListOffsetsPartitionResponse {
    match found {
        Ok(found) => ListOffsetsPartitionResponse {
            partition_index,
            timestamp: found.timestamp.0,
            offset: found.offset.0,
            leader_epoch: found.leader_epoch.0,
            unread: found.unread,
            ..Default::default()
        },
        Err(error_code) => ListOffsetsPartitionResponse { partition_index, error_code, ..Default::default() },
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct View {
    version: i16,
    is_consumer: bool,
    committed_only: bool,
}

impl View {
    /// The end of what this reader may see.
    fn upper(self, partition: &Partition) -> Offset {
        match self {
            View { is_consumer: false, .. } => partition.log.log_end(),
            View { committed_only: true, .. } => partition.last_stable_offset(),
            View { .. } => partition.high_watermark(),
        }
    }
}

/// An offset and what is known of it.
struct Found {
    timestamp: Millis,
    offset: Offset,
    leader_epoch: LeaderEpoch,
    unread: Vec<UnreadRecord>,
}

const UNKNOWN_TIME: Millis = Millis(-1);
const NOTHING: Found = Found {
    timestamp: UNKNOWN_TIME,
    offset: Offset(-1),
    leader_epoch: LeaderEpoch::NONE,
    unread: Vec::new(),
};

fn find(partition: &Partition, view: View, asked: &ListOffsetsPartition) -> Result<Found, ErrorCode> {
    partition.check_leader(LeaderEpoch(asked.current_leader_epoch))?;
    if partition.log.is_offline() {
        return Err(ErrorCode::KAFKA_STORAGE_ERROR);
    }
    let upper = view.upper(partition);
    match Wanted::read(asked.timestamp, view.version).ok_or(ErrorCode::UNSUPPORTED_VERSION)? {
        // An earlier leader may have told readers more (KIP-207).
        Wanted::Latest if view.is_consumer && !partition.is_watermark_sure() => Err(match view.version {
            ..OFFSET_NOT_AVAILABLE_VERSION_MIN => ErrorCode::LEADER_NOT_AVAILABLE,
            _ => ErrorCode::OFFSET_NOT_AVAILABLE,
        }),
        Wanted::Latest => {
            let leader_epoch = partition.leader_epoch();
            let unread = unread(partition, view, &asked.unread_from, upper)?;
            Ok(Found { timestamp: UNKNOWN_TIME, offset: upper, leader_epoch, unread })
        }
        Wanted::Earliest | Wanted::EarliestLocal => {
            let offset = partition.log.log_start();
            let leader_epoch = partition.log.epoch_at(offset).unwrap_or(partition.leader_epoch());
            Ok(Found { offset, leader_epoch, ..NOTHING })
        }
        Wanted::MaxTimestamp => looked_up(partition, partition.log.max_timestamp_offset(upper)),
        Wanted::Time(time) => looked_up(partition, partition.log.offset_for_time(time, upper)),
        Wanted::Tiered => Ok(NOTHING),
    }
}

fn looked_up(
    partition: &Partition,
    found: Result<Option<TimestampOffset>, StorageError>,
) -> Result<Found, ErrorCode> {
    match found {
        Ok(Some(TimestampOffset { timestamp, offset, leader_epoch })) => {
            Ok(Found { timestamp, offset, leader_epoch, unread: Vec::new() })
        }
        Ok(None) => Ok(NOTHING),
        Err(error) => Err(failed(partition, &error)),
    }
}

/// The first record that a reader has not read, for each of these readers' next offsets.
fn unread(
    partition: &Partition,
    view: View,
    from: &[i64],
    upper: Offset,
) -> Result<Vec<UnreadRecord>, ErrorCode> {
    let visible = if view.committed_only { Visible::Committed } else { Visible::Uncommitted };
    let record = |from: &i64| {
        let found = partition.log.first_record(Offset(*from), upper, visible);
        match found.map_err(|error| failed(partition, &error))? {
            Some(found) => Ok(UnreadRecord { offset: found.offset.0, timestamp: found.timestamp.0 }),
            None => Ok(UnreadRecord { offset: -1, timestamp: -1 }),
        }
    };
    from.iter().map(record).collect()
}

fn failed(partition: &Partition, error: &StorageError) -> ErrorCode {
    tracing::error!(partition = %partition.id, %error, "an offset could not be looked up in the log");
    ErrorCode::KAFKA_STORAGE_ERROR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_times_are_names() {
        assert_eq!(Wanted::read(-1, 1), Some(Wanted::Latest));
        assert_eq!(Wanted::read(-6, 11), Some(Wanted::Tiered));
        assert_eq!(Wanted::read(0, 1), Some(Wanted::Time(Millis(0))));
        for unknown in [-7, i64::MIN] {
            assert_eq!(Wanted::read(unknown, 11), None);
        }
        assert_eq!((Wanted::read(-3, 6), Wanted::read(-3, 7)), (None, Some(Wanted::MaxTimestamp)));
    }
}
