//! The metadata log's driver: decisions of the pure cluster image become records of `__cluster_metadata`, and the
//! image follows the log.
//!
//! Invariant: a record is flushed before it is applied, and applied before anybody is told of it; so the image never
//! holds what a crash could take back. Decisions are taken one at a time; readers take a snapshot pointer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use state::metadata::{Decision, Image, MetadataRecord, RecordError};
use storage::{Append, AppendError, Log, Origin, StorageError};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use wire::records::{BatchBuilder, BatchOptions};
use wire::{LeaderEpoch, Millis};

use crate::log_reader::{LogReader, LogReaderError};

/// The topic that holds the cluster's metadata, in one partition.
pub(crate) const METADATA_TOPIC: &str = "__cluster_metadata";

/// The metadata log could not be read when the broker started.
#[derive(Debug, thiserror::Error)]
pub enum MetadataLoadError {
    /// The log itself cannot be read.
    #[error("the metadata log cannot be read: {0}")]
    Log(Box<dyn std::error::Error + Send + Sync>),
    /// A record of it is not one that this version knows.
    #[error("a record of the metadata log cannot be understood: {0}")]
    Record(#[from] RecordError),
}

/// A decision could not be made durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The image, and the log that it follows.
pub(crate) struct Metadata {
    shared: Arc<Shared>,
    /// Held through a commit, by the job that carries it out.
    commits: Arc<tokio::sync::Mutex<()>>,
}

struct Shared {
    log: Arc<Log>,
    /// True once the log is offline.
    failed: watch::Sender<bool>,
    image: ArcSwap<Image>,
}

impl Metadata {
    /// Rebuilds the image from the log. Blocks.
    pub(crate) fn load(log: Arc<Log>) -> Result<Self, MetadataLoadError> {
        let mut image = Image::default();
        let mut failed = None;
        LogReader::new(&log, log.log_end())
            .for_each(|record| {
                if failed.is_some() {
                    return;
                }
                match MetadataRecord::decode(record.value.as_ref().unwrap_or(&Bytes::new())) {
                    Ok(record) => image.apply(&record),
                    Err(error) => failed = Some(error),
                }
            })
            .map_err(|error: LogReaderError| MetadataLoadError::Log(error.into()))?;
        match failed {
            Some(error) => Err(error.into()),
            None => {
                let (failed, _) = watch::channel(false);
                let shared = Arc::new(Shared { log, failed, image: ArcSwap::from_pointee(image) });
                Ok(Metadata { shared, commits: Arc::default() })
            }
        }
    }

    /// The cluster as of now.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.shared.image.load_full()
    }

    /// Decides on the current image, makes the decision durable, applies it, and returns its reply. A commit that
    /// was begun is carried out also when nobody waits for it any more.
    pub(crate) async fn commit<R>(
        &self,
        now: Millis,
        decide: impl FnOnce(&Image) -> Decision<R>,
    ) -> Result<R, CommitError> {
        let one_at_a_time = Arc::clone(&self.commits).lock_owned().await;
        let Decision { records, reply } = decide(&self.shared.image.load());
        if records.is_empty() {
            return Ok(reply);
        }
        let shared = Arc::clone(&self.shared);
        let carried_out = spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time;
            shared.carry_out(&records, now)
        });
        let carried_out = carried_out.await.expect("a commit does not panic");
        self.check();
        carried_out?;
        Ok(reply)
    }

    /// Notices that the log has gone offline, whoever took it there.
    pub(crate) fn check(&self) {
        if self.shared.log.is_offline() {
            self.shared.failed.send_replace(true);
        }
    }

    /// Waits until the log is offline.
    pub(crate) async fn failed(&self) {
        let mut failed = self.shared.failed.subscribe();
        // The sender lives as long as this does.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// As [`Metadata::commit`], for decisions that may be refused as a whole.
    pub(crate) async fn try_commit<R, E>(
        &self,
        now: Millis,
        decide: impl FnOnce(&Image) -> Result<Decision<R>, E>,
    ) -> Result<Result<R, E>, CommitError> {
        let decide = |image: &Image| match decide(image) {
            Ok(decision) => Decision { records: decision.records, reply: Ok(decision.reply) },
            Err(refusal) => Decision { records: Vec::new(), reply: Err(refusal) },
        };
        self.commit(now, decide).await
    }
}

impl Shared {
    /// One decision is one batch: after a crash it is there as a whole or not at all. Blocks.
    fn carry_out(&self, records: &[MetadataRecord], now: Millis) -> Result<(), CommitError> {
        let mut batch = BatchBuilder::new(BatchOptions::default());
        for record in records {
            batch.append(now, None, Some(&record.encode()), &[]);
        }
        let append = Append { leader_epoch: LeaderEpoch(0), now, origin: Origin::Coordinator };
        self.log.append(batch.build(), append)?;
        self.log.flush()?;
        let mut image = Image::clone(&self.image.load());
        for record in records {
            image.apply(record);
        }
        self.image.store(Arc::new(image));
        Ok(())
    }
}
