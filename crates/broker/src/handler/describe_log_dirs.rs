//! DescribeLogDirs: what lies in each data directory, and how much room is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use storage::DirState;
use wire::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeLogDirsResult, DescribeLogDirsTopic,
};
use wire::{ErrorCode, PartitionId, Str, TopicPartition};

use crate::blocking;
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::partition::Partition;

/// Answers for each data directory.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let results = blocking::run(move || describe(&broker, request.topics)).await;
    DescribeLogDirsResponse { results, ..Default::default() }
}

/// No list of topics stands for all of them. Partitions that are not here are left out, as Kafka does: they may be on another
/// broker.
fn describe(broker: &Broker, topics: Option<Vec<DescribableLogDirTopic>>) -> Vec<DescribeLogDirsResult> {
    let wanted: Option<BTreeSet<TopicPartition>> = topics.map(|topics| {
        let ids = topics.into_iter().flat_map(|topic| {
            let of_topic = move |id| TopicPartition::new(topic.topic.clone(), PartitionId(id));
            topic.partitions.into_iter().map(of_topic)
        });
        ids.collect()
    });
    let is_wanted = |id: &TopicPartition| wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
    let mut found: BTreeMap<usize, BTreeMap<TopicPartition, Vec<DescribeLogDirsPartition>>> = BTreeMap::new();
    let hosted = broker.partitions.load_full();
    for partition in hosted.partitions().filter(|partition| is_wanted(&partition.id)) {
        let Some(at) = broker.data_dirs.place_of(&partition.id) else { continue };
        let described = describe_partition(partition);
        found.entry(at).or_default().entry(partition.id.clone()).or_default().push(described);
    }
    for moving in broker.moves.underway().into_iter().filter(|moving| is_wanted(&moving.partition)) {
        let described = DescribeLogDirsPartition {
            partition_index: moving.partition.partition.0,
            partition_size: i64::try_from(moving.size_bytes).unwrap_or(i64::MAX),
            offset_lag: moving.lag,
            is_future_key: true,
        };
        found.entry(moving.to).or_default().entry(moving.partition).or_default().push(described);
    }
    let dirs = broker.data_dirs.states().into_iter().enumerate();
    dirs.map(|(at, dir)| describe_dir(&dir, found.remove(&at).unwrap_or_default())).collect()
}

fn describe_dir(
    dir: &DirState,
    partitions: BTreeMap<TopicPartition, Vec<DescribeLogDirsPartition>>,
) -> DescribeLogDirsResult {
    let log_dir = Str::from(dir.path.to_string_lossy().into_owned());
    if dir.is_offline {
        let error_code = ErrorCode::KAFKA_STORAGE_ERROR;
        return DescribeLogDirsResult { error_code, log_dir, ..Default::default() };
    }
    let mut topics: Vec<DescribeLogDirsTopic> = Vec::new();
    for (id, described) in partitions {
        match topics.last_mut().filter(|topic| topic.name == id.topic) {
            Some(topic) => topic.partitions.extend(described),
            None => topics.push(DescribeLogDirsTopic { name: id.topic, partitions: described }),
        }
    }
    let room = Room::of(&dir.path);
    DescribeLogDirsResult {
        log_dir,
        topics,
        total_bytes: room.total_bytes,
        usable_bytes: room.usable_bytes,
        ..Default::default()
    }
}

fn describe_partition(partition: &Partition) -> DescribeLogDirsPartition {
    let lag = partition.high_watermark().0 - partition.log.log_end().0;
    DescribeLogDirsPartition {
        partition_index: partition.id.partition.0,
        partition_size: i64::try_from(partition.log.size_bytes()).unwrap_or(i64::MAX),
        offset_lag: lag.max(0),
        ..Default::default()
    }
}

/// A file system's size; -1 where it is not known.
struct Room {
    total_bytes: i64,
    usable_bytes: i64,
}

impl Room {
    fn of(path: &Path) -> Room {
        match rustix::fs::statvfs(path) {
            Ok(fs) => {
                let bytes =
                    |blocks: u64| i64::try_from(blocks.saturating_mul(fs.f_frsize)).unwrap_or(i64::MAX);
                Room { total_bytes: bytes(fs.f_blocks), usable_bytes: bytes(fs.f_bavail) }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the room on the disk is not known");
                Room { total_bytes: -1, usable_bytes: -1 }
            }
        }
    }
}
