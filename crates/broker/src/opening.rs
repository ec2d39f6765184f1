//! From a data directory to partitions that can be served.
//!
//! Invariant: a log is only ever opened for the topic id that it was written for; what is on disk and in no topic is
//! set aside, never read and never removed. Opening recovers, so nothing here runs on the reactor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use state::metadata::Image;
use storage::{DataDir, DataDirOptions, Disk, FoundLog, StorageError};
use tokio::task::spawn_blocking;
use wire::{LeaderEpoch, Millis, PartitionId, Str, TopicPartition, Uuid};

use crate::broker::Broker;
use crate::metadata::{METADATA_TOPIC, Metadata};
use crate::node::StartError;
use crate::partition::Partition;
use crate::settings::Settings;

/// Kafka's id of the metadata topic.
const METADATA_TOPIC_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// What is open before the broker exists.
pub(crate) struct Opened {
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) metadata: Metadata,
    pub(crate) found: Vec<FoundLog>,
}

/// Locks the data directory and rebuilds the metadata.
pub(crate) async fn open(
    settings: &Arc<Settings>,
    disk: &Arc<dyn Disk>,
    now: Millis,
) -> Result<Opened, StartError> {
    let (settings, disk) = (Arc::clone(settings), Arc::clone(disk));
    spawn_blocking(move || {
        let data_dir_options = DataDirOptions {
            node_id: settings.node_id(),
            cluster_id: settings.broker().node.cluster_id.as_deref().map(Str::copy_from),
            new_cluster_id: Str::from(Uuid(rand::random()).to_string()),
            new_directory_id: Uuid(rand::random()),
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
        let metadata = Metadata::load(metadata_log)?;
        Ok(Opened { data_dir, metadata, found })
    })
    .await
    .expect("opening a data directory does not panic")
}

impl Broker {
    /// Opens the logs of every partition in the image, and sets aside what is on disk but in no topic.
    pub(crate) async fn open_partitions(self: &Arc<Self>, found: Vec<FoundLog>) -> Result<(), StartError> {
        let broker = Arc::clone(self);
        let opened = spawn_blocking(move || {
            let image = broker.metadata.image();
            broker.set_aside_strays(&image, &found)?;
            let wanted: Vec<_> = image
                .topics()
                .flat_map(|topic| topic.partitions().map(move |(id, partition)| (topic, id, partition)))
                .collect();
            let partitions = for_each_parallel(
                &wanted,
                open_threads(&broker.settings()),
                |(topic, id, state)| {
                    let id = TopicPartition { topic: topic.name.clone(), partition: *id };
                    match broker.open_partition(&image, id, topic.id, state.leader_epoch) {
                        Ok(partition) => Ok(Some(partition)),
                        // One rotten file must not keep all other partitions from being served.
                        Err(StartError::Log { partition, error: error @ StorageError::Damaged { .. } }) => {
                            tracing::error!(%partition, %error, "the partition is not served: restore its directory from a copy, or delete the topic");
                            Ok(None)
                        }
                        Err(error) => Err(error),
                    }
                },
            )?;
            broker.partitions.insert(partitions.into_iter().flatten());
            Ok::<(), StartError>(())
        });
        opened.await.expect("opening logs does not panic")?;
        self.take_over_groups();
        Ok(())
    }

    /// Opens or creates one partition's log. Blocks.
    pub(crate) fn open_partition(
        &self,
        image: &Image,
        id: TopicPartition,
        topic_id: Uuid,
        leader_epoch: LeaderEpoch,
    ) -> Result<Arc<Partition>, StartError> {
        let config = self.log_config(image, &id.topic);
        let log = self
            .data_dir
            .open_log(&id, topic_id, config, self.clock.now())
            .map_err(|error| StartError::Log { partition: id.clone(), error })?;
        let metrics = self.metrics.topic(&id.topic);
        Ok(Partition::new(id, topic_id, leader_epoch, log, Arc::clone(&self.flusher), metrics))
    }

    /// A log whose topic is gone, or came back under another id, must not be taken for the new topic's.
    fn set_aside_strays(&self, image: &Image, found: &[FoundLog]) -> Result<(), StartError> {
        for log in found {
            let partition = &log.topic_partition;
            let is_known = &*partition.topic == METADATA_TOPIC
                || image.topic(&partition.topic).is_some_and(|topic| {
                    topic.id == log.topic_id && topic.partition(partition.partition).is_some()
                });
            if !is_known {
                tracing::warn!(%partition, "a log of no topic is set aside");
                self.data_dir
                    .set_aside_stray(partition)
                    .map_err(|error| StartError::Log { partition: partition.clone(), error })?;
            }
        }
        Ok(())
    }
}

/// Logs that are opened at a time. Opening after a crash waits for the disk, not for a processor, so more of them
/// than `num.recovery.threads.per.data.dir` asks for on machines that it was made for.
const OPEN_THREADS_MIN: usize = 32;

fn open_threads(settings: &Settings) -> usize {
    settings.broker().node.recovery_threads.max(OPEN_THREADS_MIN)
}

/// Applies `job` to every item on up to `threads` threads. The first error ends it; results keep the items' order.
fn for_each_parallel<Item: Sync, Done: Send, Error: Send>(
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
