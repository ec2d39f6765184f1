//! Making what was appended durable. A flush takes the list of dirty files under the appender's lock and syncs
//! them outside of it, so appends go on meanwhile; only what was written before the list was taken counts as
//! flushed. An error ends the log's service: it is never tried again.

use wire::{Millis, Offset};

use super::{CLOSED, Log, open::sync_newborn};
use crate::{
    disk::{DiskFile, OpenMode, remove_if_exists, replace_file, write_all_at},
    error::StorageError,
    layout::{self, FileKind, segment_file},
    slice::Hint,
    snapshot, txn_index,
};

/// What a log can promise a restart after a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogCheckpoint {
    pub(crate) recovery_point: Offset,
    pub(crate) log_start: Offset,
    /// The log's generation when this was true: after a truncation it no longer is.
    pub(crate) generation: u64,
}

impl Log {
    /// Makes everything that was appended before the call durable, and answers the new flushed end. Any
    /// number of callers may flush at once; they take turns, and find their work done by the one before.
    pub fn flush(&self) -> Result<Offset, StorageError> {
        let wanted = self.log_end();
        let _turn = self.flush_turn.lock();
        self.check_open()?;
        let flushed = self.flushed_end();
        if self.is_held() {
            // Whoever ends the move has it flushed afterwards.
            return Ok(flushed);
        }
        if flushed >= wanted && !self.appender.lock().dir_dirty {
            return Ok(flushed);
        }
        self.flush_in_turn()
    }

    /// The flush itself; the caller holds the turn.
    fn flush_in_turn(&self) -> Result<Offset, StorageError> {
        let mut appender = self.appender.lock();
        let dirty = std::mem::take(&mut appender.dirty);
        let dir_dirty = std::mem::take(&mut appender.dir_dirty);
        let newborn = appender.newborn.take();
        let (target, active) = {
            let view = self.view.read();
            (view.log_end, view.active().clone())
        };
        let end = Hint { offset: target, segment: active.id(), position: active.size() };
        let hints = self.view.read().hints.clone();
        drop(appender);

        for segment in &dirty {
            segment.file().and_then(|file| file.sync_data()).map_err(|e| self.fail(e))?;
        }
        if dir_dirty {
            self.dir().disk.sync_dir(&self.dir().path()).map_err(|e| self.fail(e))?;
        }
        if let Some(metadata) = newborn {
            self.sync_newborn(&*metadata).map_err(|e| self.fail(e))?;
        }
        // Where the high watermark will be: readers that stop there need not look for the place.
        hints.note(end);
        let mut view = self.view.write();
        view.flushed_end = view.flushed_end.max(target);
        assert!(view.flushed_end <= view.log_end, "what was not written cannot be flushed");
        Ok(view.flushed_end)
    }

    pub(super) fn sync_newborn(&self, metadata: &dyn DiskFile) -> std::io::Result<()> {
        sync_newborn(&*self.dir().disk, metadata, &self.root())
    }

    /// Makes durable all that a restart needs beside the records: indexes, epochs, producers. Costs
    /// nothing when nothing happened since the last time.
    pub(crate) fn checkpoint(&self, now: Millis) -> Result<LogCheckpoint, StorageError> {
        let _turn = self.flush_turn.lock();
        self.check_open()?;
        if self.is_held() {
            return Err(StorageError::Moving);
        }
        let config = self.config();
        let mut appender = self.appender.lock();
        let (log_end, log_start, segments) = {
            let view = self.view.read();
            (view.log_end, view.log_start, view.segments.clone())
        };
        let generation = self.generation();
        let epochs = appender.epochs.take_changed();
        if appender.checkpointed_end == Some(log_end) && epochs.is_none() && appender.is_synced() {
            return Ok(LogCheckpoint { recovery_point: self.flushed_end(), log_start, generation });
        }
        appender.producers.expire(now, config.producer_id_expiration_ms, config.producers_max);
        let newest = appender.snapshots.last().copied();
        let snapshot = (newest != Some(log_end) && log_end > Offset::ZERO)
            .then(|| snapshot::encode(&appender.producers));
        let mut indexes = std::mem::take(&mut appender.indexes_dirty);
        let unsynced = std::mem::take(&mut appender.snapshots_unsynced);
        appender.checkpointed_end = Some(log_end);
        drop(appender);

        // Appends go on: what the flush covers beyond this checkpoint's indexes and epochs is the next one's.
        let recovery_point = self.flush_in_turn()?.min(log_end);
        let fail = |e| self.fail(e);
        indexes.extend(segments.last().cloned());
        for segment in &indexes {
            segment.sync_indexes().map_err(fail)?;
            txn_index::sync(segment).map_err(fail)?;
        }
        for file in unsynced {
            file.sync_data().map_err(fail)?;
        }
        if let Some(text) = epochs {
            replace_file(&*self.dir().disk, &self.dir().path().join(layout::LEADER_EPOCHS), text.as_bytes())
                .map_err(fail)?;
        }
        if let Some(content) = &snapshot {
            let path = segment_file(&self.dir().path(), log_end, FileKind::Snapshot);
            let file = self.dir().disk.open(&path, OpenMode::Truncate).map_err(fail)?;
            write_all_at(&*file, &mut [std::io::IoSlice::new(content)], 0).map_err(fail)?;
            file.sync_data().map_err(fail)?;
        }
        self.dir().disk.sync_dir(&self.dir().path()).map_err(fail)?;
        if snapshot.is_some() {
            self.keep_snapshot(log_end).map_err(fail)?;
        }
        Ok(LogCheckpoint { recovery_point, log_start, generation })
    }

    /// Notes the snapshot of a checkpoint and removes that of the one before, which no segment needs.
    fn keep_snapshot(&self, at: Offset) -> std::io::Result<()> {
        let mut appender = self.appender.lock();
        let segments = self.segments();
        let stale: Vec<Offset> = appender
            .snapshots
            .iter()
            .copied()
            .filter(|offset| *offset < at && segments.binary_search_by_key(offset, |s| s.base()).is_err())
            .collect();
        appender.snapshots.retain(|offset| !stale.contains(offset));
        if let Err(position) = appender.snapshots.binary_search(&at) {
            appender.snapshots.insert(position, at);
        }
        for offset in stale {
            remove_if_exists(
                &*self.dir().disk,
                &segment_file(&self.dir().path(), offset, FileKind::Snapshot),
            )?;
        }
        Ok(())
    }

    /// Makes everything durable and takes no more. A log that is offline is left as it is.
    pub fn close(&self, now: Millis) -> Result<(), StorageError> {
        self.finish(now).map(|_| ())
    }

    pub(crate) fn finish(&self, now: Millis) -> Result<LogCheckpoint, StorageError> {
        let _maintenance = self.interrupt_cleaning();
        {
            let appender = self.appender.lock();
            self.check_open()?;
            let active = self.view.read().active().clone();
            active.cut_unnoted().map_err(|e| self.fail(e))?;
            if active.size() > 0 {
                active.seal().map_err(|e| self.fail(e))?;
            }
            drop(appender);
        }
        let checkpoint = self.checkpoint(now)?;
        self.condition.store(CLOSED, std::sync::atomic::Ordering::Release);
        Ok(checkpoint)
    }

    /// Takes no more, durable or not: for a log whose partition is deleted.
    pub(crate) fn abandon(&self) {
        let _maintenance = self.interrupt_cleaning();
        let _turn = self.flush_turn.lock();
        let mut appender = self.appender.lock();
        self.condition.store(CLOSED, std::sync::atomic::Ordering::Release);
        appender.dirty = Vec::new();
    }
}
