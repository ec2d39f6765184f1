//! Moving to another data directory of the same broker (KIP-113): a copy of the log catches up with it, and takes its place
//! when the two are equal. Invariant: the log's place changes under the locks of everything that changes the log, in memory
//! alone: neither disk has anything to do under a lock that an append takes. From before the first mark on disk says that
//! the copy is right until the log is the copy, nothing that is appended is acknowledged. The copy is written as a follower
//! writes, so every batch is checked on its way.

use std::sync::{Arc, atomic::Ordering};

use wire::{Millis, Offset};

use super::{Appender, BEGUN_ANEW, CLOSED, Log};
use crate::{
    config::LogConfig,
    error::{AppendError, ReadError, StorageError},
    header::Header,
    segment::LogDir,
    slice::{Hints, Located, ReadLimits, ReadMode},
};

/// How often in a row a copy may be behind again, by what was appended while it was brought up to the log's end.
const ROUNDS_MAX: usize = 10_000;
/// Bytes in one read.
const READ_BYTES: usize = 1 << 20;

/// What one step of copying came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// So many bytes; there may be more.
    Bytes(u64),
    /// The copy was equal to the log for a moment.
    All,
}

/// What the log has at some offset.
enum Stored {
    Batches(bytes::Bytes),
    /// Nothing up to the log's end: compaction has left a hole.
    Nothing,
    /// Retention or a cut has taken it while it was looked for.
    Gone,
}

/// For as long as this is there, nothing that is appended to the log is acknowledged.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Log);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held_end.store(i64::MAX, Ordering::Release);
    }
}

impl Log {
    /// A copy of this log begins. It is not compacted until the move ends.
    pub(crate) fn begin_move(&self) {
        let _maintenance = self.interrupt_cleaning();
        self.is_moving.store(true, Ordering::Release);
        self.lowest_cut.store(BEGUN_ANEW, Ordering::Release);
    }

    /// No copy of this log is made any more.
    pub(crate) fn end_move(&self) {
        self.is_moving.store(false, Ordering::Release);
    }

    /// Copies some more. What was cut from the log since the last time goes from the copy first.
    pub(crate) fn copy_to(&self, copy: &Log, now: Millis) -> Result<Copied, AppendError> {
        let cut = {
            // Held by whoever cuts: what is told here has been cut.
            let _appender = self.appender.lock();
            self.check_open()?;
            self.lowest_cut.swap(i64::MAX, Ordering::AcqRel)
        };
        let copied_to = copy.log_end();
        if cut == BEGUN_ANEW || cut < copy.log_start().0 {
            self.start_copy(copy)?;
        } else if cut < copied_to.0 {
            copy.truncate_to(Offset(cut), now)?;
        }
        self.copy_on(copy, now)
    }

    /// Empties the copy, and has it begin where the log does.
    fn start_copy(&self, copy: &Log) -> Result<(), StorageError> {
        let log_start = self.log_start();
        let mut start = log_start;
        match self.stored(log_start, 1)? {
            Stored::Batches(batches) => {
                // The first batch may begin before the log's start.
                let header = Header::parse(&batches).ok().map(|header| header.base_offset);
                start = header.map_or(log_start, |base| base.min(log_start));
            }
            Stored::Nothing => {}
            Stored::Gone => self.lowest_cut.store(BEGUN_ANEW, Ordering::Release),
        }
        copy.truncate_fully_at(start)
    }

    /// The batches at `from`, which is not past the log's end.
    fn stored(&self, from: Offset, bytes_max: usize) -> Result<Stored, StorageError> {
        let upper = self.log_end();
        let slice = match self.read(from, ReadLimits { bytes_max, upper, minimum_one: true }) {
            Ok(slice) => slice,
            Err(ReadError::OutOfRange { .. }) => return Ok(Stored::Gone),
            Err(ReadError::Storage(error)) => return Err(error),
        };
        let found = match slice.locate(ReadMode::Blocking) {
            Ok(Located::Batches(_)) => slice.read().map(Some),
            Ok(Located::Nothing | Located::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        };
        // Files that retention removes, or that are cut, are not there for good reason.
        let is_cut = self.lowest_cut.load(Ordering::Acquire) != i64::MAX || self.log_end() < upper;
        match found {
            _ if is_cut || from < self.log_start() => Ok(Stored::Gone),
            Ok(Some(batches)) if batches.is_empty() => Ok(Stored::Gone),
            Ok(Some(batches)) => Ok(Stored::Batches(batches)),
            Ok(None) => Ok(Stored::Nothing),
            Err(error) => {
                self.checkpoints().suspect();
                Err(StorageError::disk(self.path())(error))
            }
        }
    }

    fn copy_on(&self, copy: &Log, now: Millis) -> Result<Copied, AppendError> {
        let (from, end) = (copy.log_end(), self.log_end());
        if from < self.log_start() {
            // Retention was faster.
            self.start_copy(copy)?;
            return Ok(Copied::Bytes(0));
        }
        if from >= end {
            return Ok(Copied::All);
        }
        let records = match self.stored(from, READ_BYTES)? {
            Stored::Batches(records) => records,
            Stored::Nothing => {
                copy.skip_to(end, now)?;
                return Ok(Copied::Bytes(0));
            }
            Stored::Gone => return Ok(Copied::Bytes(0)),
        };
        let bytes = records.len();
        let config = copy.config();
        if bytes > config.segment_bytes as usize {
            // Segments may have been larger when this was written.
            let segment_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            copy.update_config(LogConfig { segment_bytes, ..LogConfig::clone(&config) });
        }
        copy.append_as_follower(records, now)?;
        Ok(Copied::Bytes(bytes as u64))
    }

    /// Has the log end at `to`, with a hole before it.
    fn skip_to(&self, to: Offset, now: Millis) -> Result<(), StorageError> {
        let mut appender = self.appender.lock();
        self.check_open()?;
        self.roll(&mut appender, to, now)?;
        let mut view = self.view.write();
        assert!(to >= view.log_end, "offsets only grow");
        view.log_end = to;
        Ok(())
    }

    /// The end of what is written, as far as it may be acknowledged without a flush: at the end of a move to another
    /// directory not what was appended since, which a crash may leave in the wrong one.
    pub fn written_end(&self) -> Offset {
        // In this order: an end that is read before the log is held is copied.
        let log_end = self.log_end();
        log_end.min(Offset(self.held_end.load(Ordering::Acquire)))
    }

    /// Whether a move is about to end: no flush or checkpoint may say that the log is durable where it lies.
    pub(super) fn is_held(&self) -> bool {
        self.held_end.load(Ordering::Acquire) != i64::MAX
    }

    /// Brings the copy up to the log's end, and acts at a moment when the two are equal and nobody appends. `None` when
    /// appends are faster.
    fn when_equal<T>(
        &self,
        copy: &Log,
        now: Millis,
        mut act: impl FnMut(&mut Appender) -> T,
    ) -> Result<Option<T>, AppendError> {
        for _ in 0..ROUNDS_MAX {
            if self.copy_to(copy, now)? != Copied::All {
                continue;
            }
            let mut appender = self.appender.lock();
            self.check_open()?;
            if self.is_equal(copy) {
                return Ok(Some(act(&mut appender)));
            }
        }
        Ok(None)
    }

    /// The caller holds the appender.
    fn is_equal(&self, copy: &Log) -> bool {
        self.lowest_cut.load(Ordering::Acquire) == i64::MAX && copy.log_end() == self.log_end()
    }

    /// Makes a copy that has nearly caught up durable, with what the log knows beyond its records: epochs without any, producers
    /// whose batches are compacted away. False when it has too much to catch up with.
    pub(crate) fn prepare(&self, copy: &Log, now: Millis) -> Result<bool, AppendError> {
        let known =
            self.when_equal(copy, now, |appender| (appender.epochs.to_write(), appender.producers.clone()));
        let Some((epochs, producers)) = known? else { return Ok(false) };
        {
            // Only a move knows the copy's, and what it appends to it from here on adds to this.
            let mut copied = copy.appender.lock();
            copied.epochs = epochs;
            copied.producers = producers;
            let log_end = copy.log_end();
            if log_end > Offset::ZERO {
                copy.write_snapshot(&mut copied, log_end).map_err(|e| copy.fail(e))?;
            }
        }
        copy.checkpoint(now)?;
        Ok(true)
    }

    /// Has nothing be acknowledged that is appended from now on, and the copy hold, durably, all that was before. `None` when
    /// appends are faster. Says where the copy ends, and where the log begins.
    pub(crate) fn hold(
        &self,
        copy: &Log,
        now: Millis,
    ) -> Result<Option<(Held<'_>, Offset, Offset)>, AppendError> {
        let held = {
            // A flush that is under way ends first: what it covers is in the log by now.
            let _turn = self.flush_turn.lock();
            let _appender = self.appender.lock();
            self.check_open()?;
            self.held_end.store(self.log_end().0, Ordering::Release);
            Held(self)
        };
        let ends = self.when_equal(copy, now, |_| (self.log_end(), self.log_start()))?;
        let Some((log_end, log_start)) = ends else { return Ok(None) };
        copy.checkpoint(now)?;
        assert!(copy.flushed_end() >= log_end, "the copy is durable");
        Ok(Some((held, log_end, log_start)))
    }

    /// Has a copy that is durable to where the log is held, and has its name, take this log's place.
    pub(crate) fn take_place(&self, copy: &Log, now: Millis) -> Result<(), AppendError> {
        assert!(self.is_held(), "what is acknowledged is in the copy");
        for _ in 0..ROUNDS_MAX {
            if self.copy_to(copy, now)? != Copied::All {
                continue;
            }
            // Retention may have the one while the disk here hangs, and a checkpoint the other while the disk there does: neither
            // is waited for by whoever has the other.
            let maintenance = self.interrupt_cleaning();
            let Some(_copy_turn) = copy.flush_turn.try_lock() else {
                drop(maintenance);
                drop(copy.flush_turn.lock());
                continue;
            };
            copy.check_open()?;
            let mut appender = self.appender.lock();
            self.check_open()?;
            if self.is_equal(copy) {
                self.switch(&mut appender, copy);
                return Ok(());
            }
        }
        // Nothing of it was acknowledged, so hardly anybody appends any more.
        Err(StorageError::Moving.into())
    }

    /// In memory alone: appends wait.
    fn switch(&self, appender: &mut Appender, copy: &Log) {
        let home = copy.home.read().clone();
        {
            let mut copied = copy.appender.lock();
            copied.epochs = appender.epochs.to_write();
            copied.producers = std::mem::take(&mut appender.producers);
            // Whatever was learnt without a record is written with the next one.
            copied.checkpointed_end = None;
            std::mem::swap(appender, &mut *copied);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        {
            let copied = copy.view.read();
            let mut view = self.view.write();
            assert!(copied.log_end == view.log_end, "a copy takes the place of its equal");
            view.segments = copied.segments.clone();
            view.hints = Arc::new(Hints::default());
            // What lies before the start needs no flush.
            let flushed_end = copied.flushed_end.max(view.log_start);
            assert!(flushed_end >= view.flushed_end, "what was acknowledged is in the copy");
            view.flushed_end = flushed_end;
        }
        *self.home.write() = home;
        copy.condition.store(CLOSED, Ordering::Release);
        self.end_move();
    }

    /// Where the log lies, for whoever gives that another name when the log lies somewhere else.
    pub(crate) fn log_dir(&self) -> Arc<LogDir> {
        self.dir()
    }

    /// Takes the log out of service if another copy of it may have been given its place on disk. It stays held for good: whoever
    /// found it open just before acknowledges nothing that the copy may lack.
    pub(crate) fn fail_over(&self, held: Held<'_>) {
        std::mem::forget(held);
        self.take_offline();
        tracing::error!(partition = %self.partition, "the log goes offline: its disk cannot say that it is still the right one");
    }
}
