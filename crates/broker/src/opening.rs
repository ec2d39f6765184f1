//! From data directories to partitions that can be served.
//!
//! Invariant: a log is only ever opened for the topic id that it was written for (see `replicas.rs` for what is on disk and in
//! no topic). Opening recovers, so nothing here runs on the reactor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use state::metadata::Image;
use storage::{Arrival, DataDirs, DataDirsOptions, Disk, Log, StorageError};
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
    pub(crate) data_dirs: Arc<DataDirs>,
    pub(crate) metadata_log: Arc<Log>,
}

/// Locks the data directories and opens the metadata's log. `fresh_id` makes ids for a cluster and directories that are new.
pub(crate) async fn open(
    settings: &Arc<Settings>,
    disk: &Arc<dyn Disk>,
    now: Millis,
    mut fresh_id: impl FnMut() -> Uuid,
) -> Result<Opened, StartError> {
    let (settings, disk) = (Arc::clone(settings), Arc::clone(disk));
    let new_cluster_id = Str::from(fresh_id().to_string());
    // What clients name is absolute, as Kafka says it.
    let absolute = |dir: &Path| std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let dirs: Vec<(PathBuf, Uuid)> =
        settings.log_dirs().iter().map(|dir| (absolute(dir), fresh_id())).collect();
    let metadata_dir = absolute(settings.metadata_log_dir());
    let metadata_id = dirs.iter().find(|(dir, _)| *dir == metadata_dir).map(|(_, id)| *id);
    let metadata_dir = (metadata_dir, metadata_id.unwrap_or_else(&mut fresh_id));
    blocking::run(move || {
        let options = DataDirsOptions {
            node_id: settings.node_id(),
            cluster_id: settings.broker().node.cluster_id.as_deref().map(Str::copy_from),
            new_cluster_id,
            dirs,
            metadata_dir,
        };
        let data_dirs = Arc::new(DataDirs::open(&disk, options)?);
        let partition = TopicPartition { topic: Str::from(METADATA_TOPIC), partition: PartitionId(0) };
        let metadata_path = data_dirs.metadata_dir().path().to_owned();
        check_metadata(&data_dirs, &partition, &metadata_path)?;
        let config = settings.metadata_log_config();
        let metadata_log = data_dirs
            .open_metadata_log(&partition, METADATA_TOPIC_ID, config, now)
            .map_err(|error| StartError::Log { partition: partition.clone(), error })?;
        Ok(Opened { data_dirs, metadata_log })
    })
    .await
}

/// Refuses directories that hold partitions without the metadata that says whose they are: taken for a new cluster's, every
/// partition would be set aside.
fn check_metadata(dirs: &DataDirs, metadata: &TopicPartition, path: &Path) -> Result<(), StartError> {
    let is_metadata = |log: &&(usize, storage::FoundLog)| log.1.topic_partition == *metadata;
    let found = dirs.found();
    if found.is_empty() || found.iter().filter(is_metadata).any(|(at, _)| dirs.path_of(*at) == Some(path)) {
        return Ok(());
    }
    match found.iter().find(is_metadata).and_then(|(at, _)| dirs.path_of(*at)) {
        Some(elsewhere) => {
            Err(StartError::MetadataElsewhere { path: path.to_owned(), elsewhere: elsewhere.to_owned() })
        }
        None => Err(StartError::NoMetadata { path: path.to_owned(), partitions: found.len() }),
    }
}

impl Broker {
    /// Opens or creates one partition's log. Blocks.
    pub(crate) fn open_partition(
        &self,
        image: &Image,
        id: TopicPartition,
        topic_id: Uuid,
        arrival: Arrival,
    ) -> Result<Arc<Partition>, StorageError> {
        let topic = self.topic_settings(image, &id.topic);
        let config = self.settings().log_config(&topic);
        let log = self.data_dirs.open_log(&id, topic_id, config, self.clock.now(), arrival)?;
        let high_watermark = self.data_dirs.high_watermark(&id).unwrap_or(Offset::ZERO);
        let metrics = self.metrics.topic(&id.topic);
        let partition = Partition::new(id, topic_id, high_watermark, log, Arc::clone(&self.flusher), metrics);
        partition.set_lane(self.data_dirs.place_of(&partition.id).unwrap_or(0));
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
