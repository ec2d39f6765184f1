//! One partition on this broker: its log, its high watermark, and the requests that wait for it.
//!
//! Invariants: log start <= last stable offset <= high watermark <= log end; the high watermark never falls; where
//! the topic flushes before it acknowledges, the high watermark counts flushed bytes only, so that no reader sees
//! and no writer is told of what a power loss could still take.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use storage::{Append, AppendError, Appended, Log, Origin, ReadError, ReadLimits, Slice, StorageError};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, TopicPartition, Uuid};

use crate::flush::{FlushState, Flusher};
use crate::metrics::TopicMetrics;
use crate::waiting::{ParkedProduce, Waiting};

/// A partition that this broker leads.
pub(crate) struct Partition {
    pub(crate) id: TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) log: Arc<Log>,
    pub(crate) waiting: Waiting,
    pub(crate) flush_state: FlushState,
    pub(crate) metrics: Arc<TopicMetrics>,
    flusher: Arc<Flusher>,
    leader_epoch: LeaderEpoch,
    high_watermark: AtomicI64,
    /// Taken to move the high watermark, so that waiters are woken in its order.
    watermark_moves: Mutex<()>,
}

impl Partition {
    /// A partition over a log that has been opened and recovered. A lone replica's high watermark starts at the end of what
    /// counts as safe: what recovery kept is flushed, or need not be.
    pub(crate) fn new(
        id: TopicPartition,
        topic_id: Uuid,
        leader_epoch: LeaderEpoch,
        log: Arc<Log>,
        flusher: Arc<Flusher>,
        metrics: Arc<TopicMetrics>,
    ) -> Arc<Self> {
        let safe_end = if log.config().flush_before_ack { log.flushed_end() } else { log.log_end() };
        let high_watermark = AtomicI64::new(safe_end.0);
        Arc::new(Partition {
            id,
            topic_id,
            log,
            waiting: Waiting::default(),
            flush_state: FlushState::default(),
            metrics,
            flusher,
            leader_epoch,
            high_watermark,
            watermark_moves: Mutex::default(),
        })
    }

    /// The epoch in which this broker leads the partition.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The end of what readers may see.
    pub(crate) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// The end of what a read_committed reader may see.
    pub(crate) fn last_stable_offset(&self) -> Offset {
        self.log.last_stable_offset(self.high_watermark())
    }

    /// Refuses a request that carries an epoch of another leader (KIP-320). [`LeaderEpoch::NONE`] carries none.
    pub(crate) fn check_epoch(&self, requested: LeaderEpoch) -> Result<(), ErrorCode> {
        match requested {
            LeaderEpoch::NONE => Ok(()),
            older if older < self.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
            newer if newer > self.leader_epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
            _current => Ok(()),
        }
    }

    /// Appends a client's or a coordinator's batches. When this returns they have offsets; they are safe once the
    /// high watermark has passed them.
    pub(crate) fn append(
        self: &Arc<Self>,
        records: Bytes,
        now: Millis,
        origin: Origin,
    ) -> Result<Appended, AppendError> {
        let appended = self.log.append(records, Append { leader_epoch: self.leader_epoch, now, origin })?;
        if self.log.config().flush_before_ack {
            // Not by the flushed end: a checkpoint moves that too, and wakes nobody.
            if self.high_watermark() < self.log.log_end() {
                self.flusher.enqueue(self);
            }
        } else {
            self.advance_high_watermark(self.log.log_end());
        }
        Ok(appended)
    }

    /// Parks the part at `index` of a produce until everything below `required` is safe.
    pub(crate) fn park_produce(&self, required: Offset, produce: &Arc<ParkedProduce>, index: usize) {
        self.waiting.park_produce(required, produce, index);
        if self.log.is_offline() {
            self.waiting.fail(ErrorCode::KAFKA_STORAGE_ERROR);
        } else if !self.log.is_open() {
            // Closed under a living broker: the topic is gone.
            self.waiting.fail(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        } else if self.high_watermark() >= required {
            self.waiting.high_watermark_moved(self.high_watermark());
        }
    }

    /// Flushes what has been appended so far, and answers those who waited for it. Blocks: for flush threads.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        match self.log.flush() {
            Ok(flushed_end) => {
                self.advance_high_watermark(flushed_end);
                Ok(())
            }
            // The topic was deleted meanwhile; who deletes it wakes those who wait.
            Err(StorageError::Closed) => Ok(()),
            Err(error) => {
                tracing::error!(partition = %self.id, %error, "the log goes offline");
                self.waiting.fail(ErrorCode::KAFKA_STORAGE_ERROR);
                Err(error)
            }
        }
    }

    /// Finds what a reader at `from` gets, without reading it.
    pub(crate) fn read(&self, from: Offset, limits: ReadLimits) -> Result<Slice, ReadError> {
        assert!(limits.upper <= self.log.log_end());
        self.log.read(from, limits)
    }

    fn advance_high_watermark(&self, to: Offset) {
        assert!(to <= self.log.log_end());
        let _in_order = self.watermark_moves.lock();
        if self.high_watermark.fetch_max(to.0, Ordering::AcqRel) < to.0 {
            self.waiting.high_watermark_moved(to);
        }
    }
}
