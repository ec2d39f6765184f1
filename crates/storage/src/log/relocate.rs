//! Moving to another data directory of the same broker (KIP-113): a copy of the log catches up with it, and takes its place
//! when the two are equal. Invariant: the log's place changes under the locks of everything that changes the log, at a moment
//! when the copy is durable to the log's end; whoever holds the log notices nothing. The copy is written as a follower writes,
//! so every batch is checked on its way.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use wire::{Millis, Offset};

use super::{BEGUN_ANEW, CLOSED, Log};
use crate::{
    config::LogConfig,
    error::{AppendError, ReadError, StorageError},
    header::Header,
    slice::{Hints, Located, ReadLimits, ReadMode},
};

/// Bytes that are copied while appends wait, when a copy takes the log's place.
const LAST_BYTES_MAX: u64 = 1 << 20;
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

    /// Has a copy that has nearly caught up take this log's place. `commit` gives the copy the log's name on disk, and says
    /// what its directory is called then; it is told the end and the start of the log. False when the copy has too much to
    /// catch up with, and nothing has changed.
    pub(crate) fn replace_with(
        &self,
        copy: &Log,
        now: Millis,
        commit: impl FnOnce(Offset, Offset) -> Result<std::path::PathBuf, StorageError>,
    ) -> Result<bool, AppendError> {
        let _maintenance = self.interrupt_cleaning();
        let _turn = self.flush_turn.lock();
        let mut appender = self.appender.lock();
        self.check_open()?;
        let mut left = LAST_BYTES_MAX;
        loop {
            if self.lowest_cut.load(Ordering::Acquire) != i64::MAX {
                return Ok(false);
            }
            match self.copy_on(copy, now)? {
                Copied::All => break,
                Copied::Bytes(bytes) if bytes < left => left -= bytes.max(1),
                Copied::Bytes(_) => return Ok(false),
            }
        }
        let (log_start, log_end) = {
            let view = self.view.read();
            (view.log_start, view.log_end)
        };
        assert!(copy.log_end() == log_end, "a copy takes the place of its equal");
        {
            // What the log knows beyond its records: epochs without any, producers whose batches are compacted away.
            let mut copied = copy.appender.lock();
            copied.epochs = appender.epochs.to_write();
            copied.producers = appender.producers.clone();
            if log_end > Offset::ZERO {
                copy.write_snapshot(&mut copied, log_end).map_err(|e| copy.fail(e))?;
            }
        }
        let noted = copy.checkpoint(now)?;
        assert!(noted.recovery_point == log_end, "the copy is durable");
        let path = commit(log_end, log_start)?;

        let home = copy.home.read().clone();
        home.dir.renamed(path);
        std::mem::swap(&mut *appender, &mut *copy.appender.lock());
        self.generation.fetch_add(1, Ordering::AcqRel);
        {
            let mut view = self.view.write();
            let copied = copy.view.read();
            view.segments = copied.segments.clone();
            view.hints = Arc::new(Hints::default());
            view.flushed_end = log_end;
        }
        *self.home.write() = home;
        copy.condition.store(CLOSED, Ordering::Release);
        self.end_move();
        Ok(true)
    }

    /// The files of before have another name now, for whoever still reads them.
    pub(crate) fn renamed_aside(&self, path: Option<&Path>) {
        if let Some(path) = path {
            self.dir().renamed(path.to_owned());
        }
    }

    /// Takes the log out of service if another copy of it may have been given its place on disk.
    pub(crate) fn fail_over(&self) {
        self.take_offline();
        tracing::error!(partition = %self.partition, "the log goes offline: its disk cannot say that it is still the right one");
    }
}
