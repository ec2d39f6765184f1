//! From a data directory to partitions that can be served.
//!
//! Invariant: a log is only ever opened for the topic id that it was written for (see `replicas.rs` for what is on disk and in
//! no topic). Opening recovers, so nothing here runs on the reactor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use state::metadata::Image;
use storage::{DataDir, DataDirOptions, Disk, FoundLog, Log, StorageError};
use wire::{Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::blocking;
use crate::broker::Broker;
use crate::metadata::METADATA_TOPIC;
use crate::node::StartError;
use crate::partition::Partition;
use crate::settings::Settings;

/// Kafka's id of the metadata topic.
const METADATA_TOPIC_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// What is open before the broker exists.
pub(crate) struct Opened {
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) metadata_log: Arc<Log>,
    pub(crate) found: Vec<FoundLog>,
}

/// Locks the data directory and opens the metadata's log. `ids` are for a cluster and a directory that are new.
pub(crate) async fn open(
    settings: &Arc<Settings>,
    disk: &Arc<dyn Disk>,
    now: Millis,
    ids: [Uuid; 2],
) -> Result<Opened, StartError> {
    let (settings, disk) = (Arc::clone(settings), Arc::clone(disk));
    blocking::run(move || {
        let data_dir_options = DataDirOptions {
            node_id: settings.node_id(),
            cluster_id: settings.broker().node.cluster_id.as_deref().map(Str::copy_from),
            new_cluster_id: Str::from(ids[0].to_string()),
            new_directory_id: ids[1],
        };
        let data_dir = Arc::new(DataDir::open(disk, settings.log_dir(), data_dir_options)?);
        let partition = TopicPartition { topic: Str::from(METADATA_TOPIC), partition: PartitionId(0) };
        let found = data_dir.partitions()?;
        if !found.is_empty() && found.iter().all(|log| log.topic_partition != partition) {
            // Taken for a new cluster's, every partition would be set aside.
            let path = data_dir.path().to_owned();
            return Err(StartError::NoMetadata { path, partitions: found.len() });
        }
        let config = settings.metadata_log_config();
        let metadata_log = data_dir
            .open_log(&partition, METADATA_TOPIC_ID, config, now)
            .map_err(|error| StartError::Log { partition: partition.clone(), error })?;
        Ok(Opened { data_dir, metadata_log, found })
    })
    .await
}

impl Broker {
    /// Opens or creates one partition's log. Blocks.
    pub(crate) fn open_partition(
        &self,
        image: &Image,
        id: TopicPartition,
        topic_id: Uuid,
    ) -> Result<Arc<Partition>, StorageError> {
        let topic = self.topic_settings(image, &id.topic);
        let config = self.settings().log_config(&topic);
        let log = self.data_dir.open_log(&id, topic_id, config, self.clock.now())?;
        let high_watermark = self.data_dir.high_watermark(&id).unwrap_or(Offset::ZERO);
        let metrics = self.metrics.topic(&id.topic);
        let partition = Partition::new(id, topic_id, high_watermark, log, Arc::clone(&self.flusher), metrics);
        partition.throttled.update(&topic, partition.id.partition, self.node_id);
        Ok(partition)
    }
}

/// Logs that are opened at a time. Opening after a crash waits for the disk, not for a processor, so more of them
/// than `num.recovery.threads.per.data.dir` asks for on machines that it was made for.
const OPEN_THREADS_MIN: usize = 32;

pub(crate) fn open_threads(settings: &Settings) -> usize {
    if blocking::is_in_place() { 1 } else { settings.broker().node.recovery_threads.max(OPEN_THREADS_MIN) }
}

/// Applies `job` to every item on up to `threads` threads. The first error ends it; results keep the items' order.
pub(crate) fn for_each_parallel<Item: Sync, Done: Send, Error: Send>(
    items: &[Item],
    threads: usize,
    job: impl Fn(&Item) -> Result<Done, Error> + Sync,
) -> Result<Vec<Done>, Error> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return Ok(done) };
            done.push((index, job(item)?));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(work)).collect();
        let mut done = work()?;
        for worker in workers {
            done.extend(worker.join().expect("a job does not panic")?);
        }
        Ok(done)
    })?;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
