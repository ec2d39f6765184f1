//! Taking away: the end (truncation after a change of leader), the start (delete-records), and old segments
//! (retention). Files go in an order that leaves a log without holes wherever a crash comes, and the recovery
//! point is lowered, durably, before anything below it is cut.

use std::{io, sync::Arc, sync::atomic::Ordering};

use wire::{Millis, Offset};

use super::{Appender, BEGUN_ANEW, Log, open::load_producers, segment_at};
use crate::{
    disk::remove_if_exists,
    error::{ReadError, StorageError},
    layout::{FileKind, segment_file},
    segment::Segment,
    slice::{ReadMode, Segments},
    txn_index,
    walk::{HeaderWalk, Stop},
};

/// What retention removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments removed.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Log {
    /// Removes everything from `to` on, and the batch that `to` is in the middle of. For what was never
    /// below the high watermark: readers of what goes may see it go, and where compaction left a hole before
    /// `to` the log would end in front of it. Epochs that begin there go too, also those without a record.
    pub fn truncate_to(&self, to: Offset, now: Millis) -> Result<(), StorageError> {
        let _maintenance = self.interrupt_cleaning();
        let _turn = self.flush_turn.lock();
        let mut appender = self.appender.lock();
        self.check_open()?;
        let (log_start, log_end) = {
            let view = self.view.read();
            (view.log_start, view.log_end)
        };
        if to >= log_end {
            // Epochs that wrote nothing have no records that could go, and go all the same.
            appender.epochs.truncate_end(log_end);
            return Ok(());
        }
        if to < log_start {
            return self.restart_at(&mut appender, to);
        }
        let segments = self.segments();
        let at = segment_at(&segments, to);
        let place = place_of(&segments[at], to).map_err(|e| self.fail(e))?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.checkpoints().lower_recovery_point(&self.partition, place.end)?;
        // A batch that the start is in the middle of goes whole.
        self.checkpoints().lower_log_start(&self.partition, place.end)?;
        self.lowest_cut.fetch_min(place.end.0, Ordering::AcqRel);
        self.truncate(&mut appender, at, place, now).map_err(|e| self.fail(e))
    }

    /// Removes everything and goes on at `to`, as a follower does whose leader has nothing older.
    pub fn truncate_fully_at(&self, to: Offset) -> Result<(), StorageError> {
        let _maintenance = self.interrupt_cleaning();
        let _turn = self.flush_turn.lock();
        let mut appender = self.appender.lock();
        self.check_open()?;
        self.restart_at(&mut appender, to)
    }

    fn truncate(&self, appender: &mut Appender, at: usize, place: Place, now: Millis) -> io::Result<()> {
        let Place { position, end } = place;
        let mut segments = self.segments().as_ref().clone();
        for later in segments.drain(at + 1..).rev() {
            appender.forget(&later);
            later.remove()?;
            self.dir().disk.sync_dir(&self.dir().path())?;
        }
        let segment = segments[at].clone();
        segment.truncate_file(position)?;
        segment.truncate_indexes(end)?;
        txn_index::truncate(&segment, end)?;
        self.relearn_times(&segment)?;
        segment.file()?.sync_data()?;
        for beyond in appender.snapshots.extract_if(.., |offset| *offset > end) {
            self.dir().disk.remove(&segment_file(&self.dir().path(), beyond, FileKind::Snapshot))?;
        }
        self.dir().disk.sync_dir(&self.dir().path())?;

        let segments: Segments = Arc::new(segments);
        appender.epochs.truncate_end(end);
        appender.producers = load_producers(&self.dir(), &segments, &mut appender.snapshots, end, now)?;
        appender.indexes_dirty.push(segment);
        let mut view = self.view.write();
        view.hints = Arc::default();
        view.segments = segments;
        view.log_end = end;
        view.log_start = view.log_start.min(end);
        view.flushed_end = view.flushed_end.min(end);
        view.has_undecided = appender.producers.has_undecided();
        Ok(())
    }

    /// Walks what the indexes do not tell, so that the largest timestamp is right again.
    fn relearn_times(&self, segment: &Segment) -> io::Result<()> {
        segment.forget_times();
        let config = self.config();
        let from = segment.last_indexed_position()?;
        let mut walk = HeaderWalk::new(segment.file()?, ReadMode::Blocking, from, segment.size());
        while let Some((position, header)) = walk.next().map_err(Stop::into_io)? {
            segment.note_batch(&header, position, &config)?;
        }
        Ok(())
    }

    fn restart_at(&self, appender: &mut Appender, to: Offset) -> Result<(), StorageError> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.lowest_cut.store(BEGUN_ANEW, Ordering::Release);
        self.checkpoints().lower_recovery_point(&self.partition, Offset::ZERO)?;
        self.checkpoints().lower_log_start(&self.partition, to)?;
        let act = |appender: &mut Appender| -> io::Result<Arc<Segment>> {
            for segment in self.segments().iter().rev() {
                segment.remove()?;
                self.dir().disk.sync_dir(&self.dir().path())?;
            }
            for snapshot in appender.snapshots.drain(..) {
                remove_if_exists(
                    &*self.dir().disk,
                    &segment_file(&self.dir().path(), snapshot, FileKind::Snapshot),
                )?;
            }
            let first = Arc::new(Segment::create(self.dir(), to)?);
            self.dir().disk.sync_dir(&self.dir().path())?;
            if let Some(metadata) = appender.newborn.take() {
                self.sync_newborn(&*metadata)?;
            }
            Ok(first)
        };
        let first = act(appender).map_err(|e| self.fail(e))?;
        appender.epochs.clear();
        appender.producers = crate::producers::Producers::default();
        appender.dirty.clear();
        appender.indexes_dirty.clear();
        appender.snapshots_unsynced.clear();
        appender.checkpointed_end = None;
        let mut view = self.view.write();
        view.hints = Arc::default();
        view.has_undecided = false;
        view.segments = Arc::new(vec![first]);
        view.log_start = to;
        view.log_end = to;
        view.flushed_end = to;
        Ok(())
    }

    /// Has the log start at `to` (DeleteRecords), and removes the segments before. The caller has compared
    /// `to` with the high watermark.
    pub fn advance_log_start(&self, to: Offset) -> Result<Offset, ReadError> {
        let _maintenance = self.maintenance.lock();
        let mut appender = self.appender.lock();
        self.check_open()?;
        let (log_start, log_end) = {
            let view = self.view.read();
            (view.log_start, view.log_end)
        };
        if to > log_end {
            return Err(ReadError::OutOfRange { asked: to, log_start, log_end });
        }
        if to <= log_start {
            return Ok(log_start);
        }
        let segments = self.segments();
        let whole = segments.windows(2).take_while(|pair| pair[1].base() <= to).count();
        let gone = self.take_first(&mut appender, whole, to);
        drop(appender);
        self.remove(&gone).map_err(|e| self.fail(e))?;
        Ok(to)
    }

    /// Removes segments that are too old or too many, all of them below the high watermark.
    pub fn apply_retention(&self, now: Millis, high_watermark: Offset) -> Result<Retained, StorageError> {
        let _maintenance = self.maintenance.lock();
        let mut appender = self.appender.lock();
        self.check_open()?;
        let config = self.config();
        let (segments, log_start, log_end) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start, view.log_end)
        };
        let mut bytes_left: u64 = segments.iter().map(|segment| segment.size()).sum();
        let mut retained = Retained::default();
        for (at, segment) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(log_end, |next| next.base());
            let last_and_empty = end == log_end && segment.size() == 0;
            if end > high_watermark || last_and_empty {
                break;
            }
            let size = segment.size();
            let expired = config.cleanup.delete
                && match config.retention_ms {
                    Some(retention_ms) => {
                        let newest = segment.max_timestamp().map_err(|e| self.fail(e))?;
                        newest.is_some_and(|newest| now.0.saturating_sub(newest.timestamp.0) > retention_ms)
                    }
                    None => false,
                };
            let excess =
                config.cleanup.delete && config.retention_bytes.is_some_and(|max| bytes_left - size >= max);
            if !(expired || excess || end <= log_start) {
                break;
            }
            bytes_left -= size;
            retained.segments += 1;
            retained.bytes += size;
        }
        if retained.segments == 0 {
            return Ok(retained);
        }
        if retained.segments == segments.len() {
            // The log end must outlive its last segment.
            self.roll(&mut appender, log_end, now)?;
            self.dir().disk.sync_dir(&self.dir().path()).map_err(|e| self.fail(e))?;
            if let Some(metadata) = appender.newborn.take() {
                self.sync_newborn(&*metadata).map_err(|e| self.fail(e))?;
            }
        }
        let new_start = self.segments()[retained.segments].base().max(log_start);
        let gone = self.take_first(&mut appender, retained.segments, new_start);
        drop(appender);
        self.remove(&gone).map_err(|e| self.fail(e))?;
        Ok(retained)
    }

    /// Takes the first `count` segments out of the log, which then starts at `new_start`; their files are still there.
    fn take_first(&self, appender: &mut Appender, count: usize, new_start: Offset) -> Gone {
        let mut view = self.view.write();
        let mut kept = view.segments.as_ref().clone();
        let segments: Vec<Arc<Segment>> = kept.drain(..count).collect();
        let first = kept[0].base();
        view.segments = Arc::new(kept);
        view.log_start = new_start;
        view.flushed_end = view.flushed_end.max(new_start);
        drop(view);
        appender.epochs.truncate_start(new_start);
        segments.iter().for_each(|gone| appender.forget(gone));
        appender.checkpointed_end = None;
        let snapshots = appender.snapshots.extract_if(.., |offset| *offset < first).collect();
        Gone { segments, snapshots }
    }

    /// Removes the files of what was taken out, the oldest first. Appenders and readers go on meanwhile: a large file
    /// takes its time to go.
    fn remove(&self, gone: &Gone) -> io::Result<()> {
        if !gone.segments.is_empty() {
            // The names of those that stay first: with neither, the log would have lost its end.
            self.dir().disk.sync_dir(&self.dir().path())?;
        }
        for segment in &gone.segments {
            segment.remove()?;
            self.dir().disk.sync_dir(&self.dir().path())?;
        }
        for snapshot in &gone.snapshots {
            remove_if_exists(
                &*self.dir().disk,
                &segment_file(&self.dir().path(), *snapshot, FileKind::Snapshot),
            )?;
        }
        Ok(())
    }
}

/// What was taken out of the front of a log, and whose files are to be removed.
struct Gone {
    segments: Vec<Arc<Segment>>,
    snapshots: Vec<Offset>,
}

/// Where a segment is cut, and the offset at which it then ends.
#[derive(Clone, Copy, Debug)]
struct Place {
    position: u64,
    end: Offset,
}

/// The place where nothing from `to` on stays.
fn place_of(segment: &Segment, to: Offset) -> io::Result<Place> {
    let from = segment.position_before(to, ReadMode::Blocking)?.unwrap_or(0);
    let mut walk = HeaderWalk::new(segment.file()?, ReadMode::Blocking, from, segment.size());
    // An index entry never lies behind what it was asked for, so without a batch before it the cut is at the
    // segment's front or in the middle of the first batch looked at.
    let mut end = None;
    while let Some((position, header)) = walk.next().map_err(Stop::into_io)? {
        if header.last_offset() >= to {
            let front = if position == 0 { segment.base() } else { header.base_offset };
            return Ok(Place { position, end: end.unwrap_or(front) });
        }
        end = Some(header.next_offset());
    }
    Ok(Place { position: segment.size(), end: end.unwrap_or(segment.base()) })
}
