//! AlterReplicaLogDirs (KIP-113): moves replicas of this broker between its data directories.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use wire::messages::alter_replica_log_dirs::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
};
use wire::{ErrorCode, PartitionId, Str, TopicPartition};

use crate::blocking;
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::moves;

/// Begins the moves; they go on after the answer. A partition that is not here yet is made in the directory when it comes.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let results = blocking::run(move || alter(&broker, &request)).await;
    AlterReplicaLogDirsResponse { results, ..Default::default() }
}

fn alter(broker: &Arc<Broker>, request: &AlterReplicaLogDirsRequest) -> Vec<AlterReplicaLogDirTopicResult> {
    let mut results: BTreeMap<Str, BTreeMap<i32, ErrorCode>> = BTreeMap::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            let answers = results.entry(topic.name.clone()).or_default();
            for index in &topic.partitions {
                let partition = TopicPartition::new(topic.name.clone(), PartitionId(*index));
                answers.entry(*index).or_insert_with(|| match alter_one(broker, &dir.path, &partition) {
                    Ok(()) => ErrorCode::NONE,
                    Err(error) => {
                        tracing::info!(%partition, dir = %dir.path, ?error, "a replica is not moved to a directory");
                        error
                    }
                });
            }
        }
    }
    let results = results.into_iter().map(|(topic_name, partitions)| {
        let partitions = partitions.into_iter().map(|(partition_index, error_code)| {
            AlterReplicaLogDirPartitionResult { partition_index, error_code }
        });
        AlterReplicaLogDirTopicResult { topic_name, partitions: partitions.collect() }
    });
    results.collect()
}

fn alter_one(broker: &Arc<Broker>, path: &str, partition: &TopicPartition) -> Result<(), ErrorCode> {
    let dirs = &broker.data_dirs;
    let to = dirs.at_path(Path::new(path)).ok_or(ErrorCode::LOG_DIR_NOT_FOUND)?;
    if dirs.is_offline(to) {
        return Err(ErrorCode::KAFKA_STORAGE_ERROR);
    }
    let hosted = broker.partitions.load_full();
    let Some(here) = hosted.partition(&partition.topic, partition.partition) else {
        let image = broker.metadata.image();
        let topic = image.topic(&partition.topic);
        let is_known = topic.is_some_and(|topic| topic.partition(partition.partition).is_some());
        if topic.is_some_and(|topic| broker.replicas.is_unopened(topic.id, partition.partition)) {
            return Err(ErrorCode::KAFKA_STORAGE_ERROR);
        }
        dirs.prefer(partition, to);
        return Err(match is_known {
            true => ErrorCode::REPLICA_NOT_AVAILABLE,
            false => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        });
    };
    moves::begin(broker, here, to)
}
