//! DescribeLogDirs: what lies in the data directory, and how much room is left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use wire::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeLogDirsResult, DescribeLogDirsTopic,
};
use wire::{PartitionId, Str};

use crate::blocking;
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::partition::Partition;

/// Answers for the one data directory that there is.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let described = blocking::run(move || describe(&broker, request.topics));
    let result = described.await;
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

/// No list of topics stands for all of them.
fn describe(broker: &Broker, topics: Option<Vec<DescribableLogDirTopic>>) -> DescribeLogDirsResult {
    let hosted = broker.partitions.load_full();
    let wanted: Vec<&Arc<Partition>> = match &topics {
        None => hosted.partitions().collect(),
        // Partitions that are not here are left out, as Kafka does: they may be on another broker.
        Some(topics) => {
            let ids = topics.iter().flat_map(|topic| topic.partitions.iter().map(|id| (&topic.topic, *id)));
            ids.filter_map(|(topic, id)| hosted.partition(topic, PartitionId(id))).collect()
        }
    };
    let mut found: BTreeMap<Str, BTreeMap<PartitionId, &Partition>> = BTreeMap::new();
    for partition in wanted {
        found.entry(partition.id.topic.clone()).or_default().insert(partition.id.partition, partition);
    }
    let topics = found.into_iter().map(|(name, partitions)| DescribeLogDirsTopic {
        name,
        partitions: partitions.into_values().map(describe_partition).collect(),
    });
    let settings = broker.settings();
    let room = Room::of(settings.log_dir());
    let path = std::path::absolute(settings.log_dir()).unwrap_or_else(|_| settings.log_dir().to_owned());
    DescribeLogDirsResult {
        log_dir: Str::from(path.to_string_lossy().into_owned()),
        topics: topics.collect(),
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
