//! One partition's log: segments, what is known of its epochs and producers, and how far it is written and
//! flushed. The appender's mutex orders everything that changes the log; readers take the view's lock just
//! long enough to copy what they need. After a disk error the log answers `Offline` to everything and never
//! tries again.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard, RwLock};
use wire::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, TopicPartition, Uuid};

use crate::{
    checkpoint::Checkpoints,
    config::LogConfig,
    disk::DiskFile,
    epochs::{EpochStart, Epochs},
    error::{ReadError, StorageError},
    producers::{ActiveProducer, Producers},
    segment::{LogDir, Segment},
    slice::{Hints, ReadLimits, Segments, Slice},
};

// In the order of a log's life.
mod open;
mod append;
mod flush;
mod lookup;
mod cut;
mod clean;
mod scrub;
mod relocate;

pub use append::{Append, Appended};
pub use clean::{Clean, CleanStats};
pub use cut::Retained;
pub(crate) use flush::LogCheckpoint;
pub(crate) use lookup::record_timestamp;
pub use lookup::{TimestampOffset, Visible};
pub(crate) use open::{Opening, read_topic_id};
pub(crate) use relocate::Copied;
pub use scrub::{Rot, ScrubPoint, Scrubbed};

/// A partition's log. Every method takes `&self` and may be called from any thread.
#[derive(Debug)]
pub struct Log {
    partition: TopicPartition,
    topic_id: Uuid,
    home: RwLock<Home>,
    /// Where the log was cut most deeply since a move looked last: what it has copied from there on is void.
    lowest_cut: AtomicI64,
    /// Whether the log is being copied to another data directory. It is not compacted meanwhile: a copy that had taken a
    /// record would miss the tombstone.
    is_moving: AtomicBool,
    /// What is appended from here on is not acknowledged, while a move ends; otherwise the largest number.
    held_end: AtomicI64,
    condition: AtomicU8,
    config: RwLock<Arc<LogConfig>>,
    /// Held by whoever takes segments away: one at a time, and not while cleaning.
    maintenance: Mutex<()>,
    /// Asks a running cleaning to give up its turn.
    clean_abort: AtomicBool,
    /// Goes up before anything below the log end is taken away: a checkpoint of before is void then.
    generation: AtomicU64,
    /// Held through a flush; callers behind it find their work done.
    flush_turn: Mutex<()>,
    appender: Mutex<Appender>,
    view: RwLock<View>,
}

/// Where a log lies. It changes when the log moves to another data directory.
#[derive(Clone, Debug)]
struct Home {
    dir: Arc<LogDir>,
    root: PathBuf,
    checkpoints: Arc<Checkpoints>,
}

/// What readers see.
#[derive(Debug)]
struct View {
    segments: Segments,
    log_start: Offset,
    log_end: Offset,
    flushed_end: Offset,
    /// Where offsets lie. Replaced when positions stop being true, so that a reader of before notes into what it knew.
    hints: Arc<Hints>,
    /// Whether transactions hold readers of committed data back. Here, so that fetches of logs without any do not
    /// wait for a writer.
    has_undecided: bool,
}

/// What appending changes.
#[derive(Debug)]
struct Appender {
    epochs: Epochs,
    producers: Producers,
    /// Segments with bytes that no flush has covered.
    dirty: Vec<Arc<Segment>>,
    /// Whether the directory has names that no sync has covered.
    dir_dirty: bool,
    /// `partition.metadata` of a partition whose own name in the data directory is not yet synced.
    newborn: Option<Arc<dyn DiskFile>>,
    /// Closed segments whose indexes no checkpoint has covered.
    indexes_dirty: Vec<Arc<Segment>>,
    /// Snapshots in the directory, ascending.
    snapshots: Vec<Offset>,
    /// Those of them that no checkpoint has covered.
    snapshots_unsynced: Vec<Arc<dyn DiskFile>>,
    /// The log end at the last checkpoint.
    checkpointed_end: Option<Offset>,
}

impl Appender {
    /// Has nobody write or sync files of a segment that is taken away: its names may be another's soon.
    fn forget(&mut self, segment: &Arc<Segment>) {
        self.dirty.retain(|dirty| !Arc::ptr_eq(dirty, segment));
        self.indexes_dirty.retain(|dirty| !Arc::ptr_eq(dirty, segment));
    }

    /// Whether no file and no name waits for a flush or a checkpoint.
    fn is_synced(&self) -> bool {
        self.dirty.is_empty() && !self.dir_dirty && self.newborn.is_none() && self.indexes_dirty.is_empty()
    }
}

/// Below every offset: nothing that was copied of the log counts any more.
const BEGUN_ANEW: i64 = i64::MIN;

const OPEN: u8 = 0;
const OFFLINE: u8 = 1;
const CLOSED: u8 = 2;

impl Log {
    /// Whose log it is.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The topic's id; zero when its directory names none.
    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// The partition's directory.
    pub fn path(&self) -> PathBuf {
        self.dir().path()
    }

    fn dir(&self) -> Arc<LogDir> {
        self.home.read().dir.clone()
    }

    fn root(&self) -> PathBuf {
        self.home.read().root.clone()
    }

    fn checkpoints(&self) -> Arc<Checkpoints> {
        self.home.read().checkpoints.clone()
    }

    /// The first offset there is.
    pub fn log_start(&self) -> Offset {
        self.view.read().log_start
    }

    /// The offset that the next record will get.
    pub fn log_end(&self) -> Offset {
        self.view.read().log_end
    }

    /// Everything below is durable.
    pub fn flushed_end(&self) -> Offset {
        self.view.read().flushed_end
    }

    /// Bytes of all segments' records.
    pub fn size_bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.size()).sum()
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments().len()
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<LogConfig> {
        self.config.read().clone()
    }

    /// Puts other settings in force, from the next operation on.
    pub fn update_config(&self, config: LogConfig) {
        *self.config.write() = Arc::new(config);
    }

    /// Whether the log is in service: neither offline nor closed.
    pub fn is_open(&self) -> bool {
        self.condition.load(Ordering::Acquire) == OPEN
    }

    /// Asks a running cleaning to give way; what it has replaced so far stays.
    pub(crate) fn stop_cleaning(&self) {
        self.clean_abort.store(true, Ordering::Release);
    }

    /// Waits for a running cleaning to give way, and keeps others from starting.
    fn interrupt_cleaning(&self) -> MutexGuard<'_, ()> {
        self.stop_cleaning();
        let turn = self.maintenance.lock();
        self.clean_abort.store(false, Ordering::Release);
        turn
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a disk error took the log out of service.
    pub fn is_offline(&self) -> bool {
        self.condition.load(Ordering::Acquire) == OFFLINE
    }

    /// Resolves a range to read; the reading is the slice's, outside of any lock. An offset between `upper`
    /// and the log end gives an empty slice.
    pub fn read(&self, from: Offset, limits: ReadLimits) -> Result<Slice, ReadError> {
        self.check_open()?;
        let (segments, log_start, log_end, hints) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start, view.log_end, view.hints.clone())
        };
        if from < log_start || from > log_end {
            return Err(ReadError::OutOfRange { asked: from, log_start, log_end });
        }
        let limits = ReadLimits { upper: limits.upper.min(log_end), ..limits };
        let at = segments.partition_point(|segment| segment.base() <= from).saturating_sub(1);
        // Opened while the name is sure to be there: retention may remove it before the slice is read.
        segments[at].file().map_err(|e| StorageError::disk(self.path())(e))?;
        Ok(Slice { segments, at, from, limits, hints })
    }

    /// The newest leader epoch that the log knows.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.appender.lock().epochs.latest()
    }

    /// Notes that `epoch` begins at the log end; older and known epochs change nothing.
    pub fn assign_epoch(&self, epoch: LeaderEpoch) {
        let mut appender = self.appender.lock();
        let log_end = self.view.read().log_end;
        appender.epochs.assign(epoch, log_end);
    }

    /// The largest epoch that is at most `epoch` and where it ended, as OffsetForLeaderEpoch answers it.
    pub fn epoch_end_offset(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let appender = self.appender.lock();
        let log_end = self.view.read().log_end;
        appender.epochs.end_offset(epoch, log_end)
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.appender.lock().epochs.at(offset)
    }

    /// Every epoch with its first offset.
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.appender.lock().epochs.entries().to_vec()
    }

    /// The producers that the log remembers.
    pub fn producers(&self) -> Vec<ActiveProducer> {
        self.appender.lock().producers.active()
    }

    /// Forgets producers that were silent for `producer.id.expiration.ms`.
    pub fn expire_producers(&self, now: Millis) {
        let config = self.config();
        let mut appender = self.appender.lock();
        appender.producers.expire(now, config.producer_id_expiration_ms, config.producers_max);
    }

    /// The offset below which readers of committed data may read, given the high watermark.
    pub fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        if !self.view.read().has_undecided {
            return high_watermark;
        }
        let mut appender = self.appender.lock();
        let last_stable_offset = appender.producers.last_stable_offset(high_watermark);
        let mut view = self.view.write();
        view.has_undecided = appender.producers.has_undecided();
        // The beginning of an open transaction may have been deleted.
        last_stable_offset.max(view.log_start)
    }

    /// The epoch in which a producer has a transaction open here, if it has.
    pub fn open_transaction(&self, producer: ProducerId) -> Option<ProducerEpoch> {
        if !self.view.read().has_undecided {
            return None;
        }
        self.appender.lock().producers.open_transaction(producer)
    }

    /// The newest epoch of a producer that the log knows.
    pub fn producer_epoch(&self, producer: ProducerId) -> Option<ProducerEpoch> {
        self.appender.lock().producers.epoch_of(producer)
    }

    fn segments(&self) -> Segments {
        self.view.read().segments.clone()
    }

    fn check_open(&self) -> Result<(), StorageError> {
        match self.condition.load(Ordering::Acquire) {
            OPEN => Ok(()),
            OFFLINE => Err(StorageError::Offline),
            _ => Err(StorageError::Closed),
        }
    }

    /// Takes the log out of service with the data directory that it lies in. One that is closed stays so.
    pub(crate) fn take_offline(&self) {
        let _ = self.condition.compare_exchange(OPEN, OFFLINE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Takes no more, at once, whatever its disk does: for a log whose files can no longer be reached.
    pub(crate) fn leave(&self) {
        self.condition.store(CLOSED, Ordering::Release);
    }

    /// Takes the log out of service for a disk error. What the file holds behind the flushed end is unknown
    /// from here on, so nothing is tried again (fsync may report an error once and succeed the next time).
    fn fail(&self, source: io::Error) -> StorageError {
        self.condition.store(OFFLINE, Ordering::Release);
        self.checkpoints().suspect();
        tracing::error!(partition = %self.partition, error = %source, "log goes offline after a disk error");
        StorageError::Disk { path: self.dir().path(), source }
    }
}

impl View {
    fn active(&self) -> &Arc<Segment> {
        self.segments.last().unwrap_or_else(|| unreachable!("a log has at least one segment"))
    }
}

/// The index of the segment that `offset` is in.
fn segment_at(segments: &Segments, offset: Offset) -> usize {
    segments.partition_point(|segment| segment.base() <= offset).saturating_sub(1)
}
