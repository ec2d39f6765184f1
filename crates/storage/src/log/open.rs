//! Bringing a log into service: creating it, opening it after a clean stop, recovering it after a crash. Only
//! what the last checkpoint does not cover is read and checked; the first batch there that is torn ends the
//! log, as nothing behind it was ever acknowledged. Below the recovery point nothing is cut: what is wrong
//! there is an error to be told.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64},
    },
};

use parking_lot::{Mutex, RwLock};
use wire::{Millis, Offset, TopicPartition, Uuid};

use super::{Appender, Home, Log, OPEN, View, append::marker_of};
use crate::{
    checkpoint::Checkpoints,
    config::LogConfig,
    disk::{
        DirEntry, Disk, OpenMode, read_exact_at, read_small, read_small_if_exists, remove_if_exists,
        write_all_at,
    },
    epochs::Epochs,
    error::StorageError,
    header::{HEADER_BYTES, crc_matches},
    layout::{self, FileKind, segment_file},
    producers::Producers,
    segment::{LogDir, Segment, SegmentLens},
    slice::{Hints, ReadMode, Segments},
    snapshot, swap, txn_index,
    walk::{BatchWalk, HeaderWalk, Stop},
};

const EPOCHS_BYTES_MAX: u64 = 64 << 20;
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
const METADATA_BYTES_MAX: u64 = 4096;

/// What `DataDir` knows of a log before it is opened.
pub(crate) struct Opening<'a> {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) root: PathBuf,
    pub(crate) partition: &'a TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) config: LogConfig,
    pub(crate) checkpoints: Arc<Checkpoints>,
    /// Whether the last stop was clean: nothing is checked then.
    pub(crate) clean: bool,
    pub(crate) now: Millis,
}

/// What the directory held.
#[derive(Debug, Default)]
struct Found {
    segments: BTreeMap<Offset, SegmentLens>,
    snapshots: Vec<Offset>,
    swaps: Vec<Offset>,
    has_epochs: bool,
    /// From `partition.metadata`, zero without one.
    topic_id: Uuid,
}

impl Log {
    pub(crate) fn open(opening: Opening<'_>) -> Result<Log, StorageError> {
        let path = layout::partition_dir(&opening.root, opening.partition);
        Log::open_at(opening, path)
    }

    /// The same in a directory of another name, as a copy has it until it takes the log's place.
    pub(crate) fn open_at(opening: Opening<'_>, path: PathBuf) -> Result<Log, StorageError> {
        let dir = Arc::new(LogDir::new(opening.disk.clone(), path));
        match opening.disk.list(&dir.path()) {
            Ok(entries) => {
                // Names unknown to the checkpoint are part of what the crash left; see `recover`.
                let found = sort_out(&dir, entries).map_err(StorageError::disk(&dir.path()))?;
                recover(opening, dir, found)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                opening.checkpoints.forget_before_create(opening.partition)?;
                opening.disk.create_dir(&dir.path()).map_err(StorageError::disk(&dir.path()))?;
                let (disk, root, path) = (opening.disk.clone(), opening.root.clone(), dir.path());
                recover(opening, dir, Found::default()).map_err(|error| {
                    // It has held nothing. Where it is made the next time may be somewhere else.
                    let gone = remove_if_exists(&*disk, &path).and_then(|()| disk.sync_dir(&root));
                    if gone.is_ok() { error } else { StorageError::HalfMade(Box::new(error)) }
                })
            }
            Err(e) => Err(StorageError::disk(&dir.path())(e)),
        }
    }
}

/// The topic id in a partition's directory, zero without one.
pub(crate) fn read_topic_id(disk: &dyn Disk, dir: &std::path::Path) -> io::Result<Uuid> {
    let path = dir.join(layout::PARTITION_METADATA);
    let Some(content) = read_small_if_exists(disk, &path, METADATA_BYTES_MAX)? else { return Ok(Uuid::ZERO) };
    let text = String::from_utf8_lossy(&content);
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id:"));
    // A crash between making and syncing the file can leave it empty; the partition held nothing yet.
    Ok(id.and_then(|id| Uuid::from_str(id.trim()).ok()).unwrap_or(Uuid::ZERO))
}

/// Sorts the directory's names, and removes what a crash left half done.
fn sort_out(dir: &LogDir, entries: Vec<DirEntry>) -> io::Result<Found> {
    let mut found = Found::default();
    let mut indexes = Vec::new();
    for entry in &entries {
        let name = entry.name.as_str();
        let half_done = [layout::CLEANED_SUFFIX, layout::DELETED_SUFFIX, layout::TMP_SUFFIX];
        if half_done.iter().any(|suffix| name.ends_with(suffix)) {
            dir.disk.remove(&dir.path().join(name))?;
        } else if let Some(swapped) = name.strip_suffix(layout::SWAP_SUFFIX) {
            match layout::parse_segment_file(swapped) {
                Some((base, FileKind::Log)) => found.swaps.push(base),
                // Indexes are built again.
                _ => dir.disk.remove(&dir.path().join(name))?,
            }
        } else if let Some((base, kind)) = layout::parse_segment_file(name) {
            match kind {
                FileKind::Log => found.segments.entry(base).or_default().log = entry.len,
                FileKind::Snapshot => found.snapshots.push(base),
                kind => indexes.push((base, kind, entry.len)),
            }
        } else {
            found.has_epochs |= name == layout::LEADER_EPOCHS;
            if name == layout::PARTITION_METADATA {
                found.topic_id = read_topic_id(&*dir.disk, &dir.path())?;
            }
        }
    }
    for (base, kind, len) in indexes {
        match (found.segments.get_mut(&base), kind) {
            (Some(lens), FileKind::OffsetIndex) => lens.index = len,
            (Some(lens), FileKind::TimeIndex) => lens.time_index = len,
            (Some(_), _) => {}
            // An index without a log is the rest of a removal.
            (None, kind) => dir.disk.remove(&segment_file(&dir.path(), base, kind))?,
        }
    }
    found.snapshots.sort_unstable();
    Ok(found)
}

struct Recovery {
    dir: Arc<LogDir>,
    config: LogConfig,
    recovery_point: Offset,
    clean: bool,
    segments: Vec<Arc<Segment>>,
    epochs: Epochs,
    /// Closed segments whose indexes were made again.
    indexes_dirty: Vec<Arc<Segment>>,
    /// Whether there was anything behind the recovery point.
    touched: bool,
    /// Whether something of it was removed.
    was_cut: bool,
    now: Millis,
}

fn recover(opening: Opening<'_>, dir: Arc<LogDir>, found: Found) -> Result<Log, StorageError> {
    let disk_error = StorageError::disk(dir.path());
    let partition = opening.partition;
    let topic_id = settle_topic_id(&opening, &dir, found.topic_id)?;
    // Names that a process made just before it was killed may never have been synced: the first flush after an
    // unclean stop syncs the directory, and `partition.metadata` where no checkpoint ever did.
    let mut dir_dirty = !opening.clean;
    let mut newborn = None;
    let metadata = dir.path().join(layout::PARTITION_METADATA);
    if topic_id != found.topic_id {
        newborn = Some(write_metadata(&dir, topic_id).map_err(StorageError::disk(&metadata))?);
        dir_dirty = true;
    } else if !topic_id.is_zero() && opening.checkpoints.recovery_point(partition).is_none() {
        newborn = Some(dir.disk.open(&metadata, OpenMode::Write).map_err(StorageError::disk(&metadata))?);
    }
    let log_start = opening.checkpoints.log_start(partition).unwrap_or(Offset::ZERO);
    let mut recovery = Recovery {
        recovery_point: opening.checkpoints.recovery_point(partition).unwrap_or(Offset::ZERO),
        clean: opening.clean,
        config: opening.config.clone(),
        segments: Vec::with_capacity(found.segments.len().max(1)),
        epochs: Epochs::default(),
        indexes_dirty: Vec::new(),
        touched: false,
        was_cut: false,
        now: opening.now,
        dir: dir.clone(),
    };
    if found.has_epochs {
        recovery.read_epochs().map_err(disk_error)?;
    }
    for (base, lens) in &found.segments {
        recovery.segments.push(Arc::new(Segment::new(dir.clone(), *base, *lens)));
    }
    for base in &found.swaps {
        recovery.finish_swap(*base)?;
    }
    if recovery.segments.is_empty() {
        let first = Segment::create(dir.clone(), log_start).map_err(StorageError::disk(&dir.path()))?;
        recovery.segments.push(Arc::new(first));
        dir_dirty = true;
    }
    let log_end = recovery.scan()?;
    recovery.complete_indexes().map_err(StorageError::disk(&dir.path()))?;
    let (snapshots, producers) = recovery.producers(found.snapshots, log_end)?;
    let first_base = recovery.segments[0].base();
    if log_start > log_end {
        // Before the log grows past it again: what is written there would then be hidden.
        opening.checkpoints.lower_log_start(partition, log_end)?;
    }
    let log_start = log_start.max(first_base).min(log_end);
    recovery.epochs.truncate_end(log_end);
    recovery.epochs.truncate_start(log_start);

    // What was found behind the recovery point may be in the page cache alone, and so may names. Where acknowledged
    // means flushed, it is flushed before anyone sees it; elsewhere the next flush takes it.
    let mut dirty = Vec::new();
    let mut flushed_end = log_end;
    if !recovery.clean && (recovery.config.flush_before_ack || recovery.was_cut) {
        recovery.sync().map_err(StorageError::disk(&dir.path()))?;
        if let Some(metadata) = newborn.take() {
            sync_newborn(&*dir.disk, &*metadata, &opening.root).map_err(StorageError::disk(&opening.root))?;
        }
        dir_dirty = false;
    } else if recovery.touched {
        flushed_end = recovery.recovery_point.min(log_end).max(log_start);
        dirty = recovery.tail().to_vec();
    }
    let has_undecided = producers.has_undecided();
    Ok(Log {
        partition: partition.clone(),
        topic_id,
        home: RwLock::new(Home { dir, root: opening.root, checkpoints: opening.checkpoints }),
        lowest_cut: AtomicI64::new(i64::MAX),
        is_moving: AtomicBool::new(false),
        held_end: AtomicI64::new(i64::MAX),
        condition: AtomicU8::new(OPEN),
        config: RwLock::new(Arc::new(opening.config)),
        maintenance: Mutex::new(()),
        clean_abort: AtomicBool::new(false),
        generation: AtomicU64::new(0),
        flush_turn: Mutex::new(()),
        appender: Mutex::new(Appender {
            epochs: recovery.epochs,
            producers,
            dirty,
            dir_dirty,
            newborn,
            indexes_dirty: recovery.indexes_dirty,
            snapshots,
            snapshots_unsynced: Vec::new(),
            // After a crash the indexes were cut, and that is not durable yet.
            checkpointed_end: (recovery.clean && !recovery.touched).then_some(log_end),
        }),
        view: RwLock::new(View {
            segments: Arc::new(recovery.segments),
            log_start,
            log_end,
            flushed_end,
            hints: Arc::new(Hints::default()),
            has_undecided,
        }),
    })
}

fn settle_topic_id(opening: &Opening<'_>, dir: &LogDir, known: Uuid) -> Result<Uuid, StorageError> {
    match (known.is_zero(), opening.topic_id.is_zero()) {
        (true, _) => Ok(opening.topic_id),
        (false, true) => Ok(known),
        (false, false) if known == opening.topic_id => Ok(known),
        (false, false) => {
            Err(StorageError::ForeignTopic { path: dir.path(), found: known, expected: opening.topic_id })
        }
    }
}

/// Makes a new partition's own name durable, and whose it is.
pub(super) fn sync_newborn(
    disk: &dyn Disk,
    metadata: &dyn crate::DiskFile,
    root: &std::path::Path,
) -> io::Result<()> {
    metadata.sync_data()?;
    disk.sync_dir(root)
}

fn write_metadata(dir: &LogDir, topic_id: Uuid) -> io::Result<Arc<dyn crate::DiskFile>> {
    let file = dir.disk.open(&dir.path().join(layout::PARTITION_METADATA), OpenMode::Truncate)?;
    let text = format!("version: 0\ntopic_id: {topic_id}\n");
    write_all_at(&*file, &mut [io::IoSlice::new(text.as_bytes())], 0)?;
    Ok(file)
}

impl Recovery {
    fn read_epochs(&mut self) -> io::Result<()> {
        let content =
            read_small(&*self.dir.disk, &self.dir.path().join(layout::LEADER_EPOCHS), EPOCHS_BYTES_MAX)?;
        // A file that is not one (Kafka writes it without fsync) is made again from the batches as they come.
        self.epochs = std::str::from_utf8(&content).ok().and_then(Epochs::parse).unwrap_or_default();
        if !self.clean {
            // What lay there when the file was written may have been cut, and an older epoch's records taken instead.
            self.epochs.truncate_end(self.recovery_point);
        }
        Ok(())
    }

    /// Completes a replacement that was durable when the crash came: the segments that the cleaned one stands
    /// for go, it takes its place, and its indexes are built again.
    fn finish_swap(&mut self, base: Offset) -> Result<(), StorageError> {
        let act = |recovery: &mut Recovery| -> io::Result<()> {
            let replaced = swap::replaced_by(&recovery.dir, base, &recovery.segments)?;
            let segment = swap::complete(&recovery.dir, base, &replaced, &recovery.config)?;
            recovery.segments.retain(|known| !replaced.iter().any(|gone| Arc::ptr_eq(known, gone)));
            let at = recovery.segments.partition_point(|known| known.base() < base);
            recovery.segments.insert(at, segment);
            Ok(())
        };
        act(self).map_err(StorageError::disk(segment_file(&self.dir.path(), base, FileKind::Log)))
    }

    /// Index of the segment that holds the recovery point.
    fn tail_at(&self) -> usize {
        self.segments.partition_point(|segment| segment.base() <= self.recovery_point).saturating_sub(1)
    }

    /// The segments that the checkpoint does not cover whole.
    fn tail(&self) -> &[Arc<Segment>] {
        &self.segments[self.tail_at().min(self.segments.len() - 1)..]
    }

    fn damaged(&self, segment: &Segment, at: Offset, reason: String) -> StorageError {
        StorageError::Damaged { path: segment.path(FileKind::Log), at, reason }
    }

    /// Finds the log end. Walks headers from the last index entry that can be trusted, checks every batch
    /// behind the recovery point, and cuts the log at the first one that is not whole.
    fn scan(&mut self) -> Result<Offset, StorageError> {
        let mut at = if self.clean { self.segments.len() - 1 } else { self.tail_at() };
        let mut log_end = self.segments[at].base();
        while at < self.segments.len() {
            let segment = self.segments[at].clone();
            let limit = self.segments.get(at + 1).map(|next| next.base());
            let (end, mut cut) = self.scan_segment(&segment, limit)?;
            log_end = end;
            at += 1;
            let gap = limit.map_or(0, |limit| limit.since(end));
            if cut.is_none() && gap > 0 && gap <= i64::from(i32::MAX / 2) && !self.clean {
                // The end of this segment was lost, though it stops at a batch, and a later one was not.
                if end < self.recovery_point {
                    return Err(self.damaged(&segment, end, format!("{gap} offsets are missing")));
                }
                cut = Some(segment.size());
            }
            if let Some(position) = cut {
                self.cut(&segment, at, position).map_err(StorageError::disk(segment.path(FileKind::Log)))?;
            }
        }
        if log_end < self.recovery_point {
            let segment = self.segments[self.segments.len() - 1].clone();
            let reason = format!("{} was flushed", self.recovery_point);
            return Err(self.damaged(&segment, log_end, reason));
        }
        Ok(log_end)
    }

    /// Walks one segment of the tail. Answers its end, and where it has to be cut.
    fn scan_segment(
        &mut self,
        segment: &Arc<Segment>,
        limit: Option<Offset>,
    ) -> Result<(Offset, Option<u64>), StorageError> {
        let disk_error = || StorageError::disk(segment.path(FileKind::Log));
        if !self.clean {
            // What it says of markers that no checkpoint covers is found again with them.
            txn_index::truncate(segment, self.recovery_point).map_err(disk_error())?;
        }
        if segment.size() == 0 {
            if !self.clean {
                segment.truncate_indexes(segment.base()).map_err(disk_error())?;
            }
            return Ok((segment.base(), None));
        }
        if !self.clean {
            segment.truncate_indexes(self.recovery_point.max(segment.base())).map_err(disk_error())?;
        }
        let size = segment.size();
        let start = if segment.is_index_sound().map_err(disk_error())? {
            segment.last_indexed_position().map_err(disk_error())?
        } else {
            // Torn, or another's: without it the walk is longer, not wrong.
            segment.truncate_indexes(segment.base()).map_err(disk_error())?;
            0
        };
        segment.forget_times();
        let file = segment.file().map_err(disk_error())?;
        let mut walk = BatchWalk::new(file, start, size);
        let mut end = segment.base();
        let (position, reason) = loop {
            let position = walk.position();
            let (header, batch) = match walk.next() {
                Ok(None) => return Ok((end, None)),
                Ok(Some(found)) => found,
                Err(Stop::Broken { reason, .. }) => break (position, reason),
                Err(stop) => return Err(disk_error()(stop.into_io())),
            };
            if header.base_offset < end || limit.is_some_and(|limit| header.last_offset() >= limit) {
                break (position, format!("offset {} does not follow", header.base_offset));
            }
            let covered = self.clean || header.last_offset() < self.recovery_point;
            if !covered && !crc_matches(batch) {
                break (position, "checksum".to_owned());
            }
            segment.note_batch(&header, position, &self.config).map_err(disk_error())?;
            self.epochs.assign(header.leader_epoch, header.base_offset);
            self.touched |= !covered;
            end = header.next_offset();
        };
        if end < self.recovery_point || self.clean {
            return Err(self.damaged(segment, end, reason));
        }
        let path = segment.path(FileKind::Log);
        tracing::info!(segment = %path.display(), position, end = end.0, reason, "unflushed tail is cut");
        Ok((end, Some(position)))
    }

    /// Ends the log at `position` of `segment`; the segments from `next` on go, the last one first, so that a
    /// crash in between leaves no hole.
    fn cut(&mut self, segment: &Segment, next: usize, position: u64) -> io::Result<()> {
        self.touched = true;
        self.was_cut = true;
        for later in self.segments.drain(next..).rev() {
            later.remove()?;
            self.dir.disk.sync_dir(&self.dir.path())?;
        }
        segment.truncate_file(position)
    }

    /// Has the closed segments of the tail end their indexes as they would have when they were closed: nobody walks
    /// them again.
    fn complete_indexes(&mut self) -> io::Result<()> {
        if self.clean {
            return Ok(());
        }
        let Some((_active, closed)) = self.tail().split_last() else { return Ok(()) };
        let closed: Vec<_> = closed.iter().filter(|segment| segment.size() > 0).cloned().collect();
        for segment in &closed {
            segment.seal()?;
        }
        self.indexes_dirty = closed;
        Ok(())
    }

    /// Makes what was found durable. The tail is written once more: where a sync failed before, the kernel holds pages
    /// that it takes for clean and that the disk never got.
    fn sync(&self) -> io::Result<()> {
        for segment in self.tail() {
            if self.touched {
                segment.rewrite_from(self.recovery_point)?;
            }
            // Also where nothing is left to write: a cut may not be durable yet.
            segment.file()?.sync_data()?;
        }
        self.dir.disk.sync_dir(&self.dir.path())
    }

    /// The producers at `log_end`: the newest snapshot that is whole, and the batches since. Snapshots of what
    /// is no longer there go.
    fn producers(
        &mut self,
        mut snapshots: Vec<Offset>,
        log_end: Offset,
    ) -> Result<(Vec<Offset>, Producers), StorageError> {
        let act = |recovery: &mut Recovery| -> io::Result<(Vec<Offset>, Producers)> {
            let dir = recovery.dir.clone();
            for beyond in snapshots.extract_if(.., |offset| *offset > log_end) {
                dir.disk.remove(&segment_file(&dir.path(), beyond, FileKind::Snapshot))?;
                recovery.touched = true;
                recovery.was_cut = true;
            }
            let segments: Segments = Arc::new(recovery.segments.clone());
            // Later snapshots may be whole, and the aborted transactions before them lost.
            let known_to = if recovery.clean { log_end } else { recovery.recovery_point.min(log_end) };
            let later = snapshots.split_off(snapshots.partition_point(|offset| *offset <= known_to));
            let producers = load_producers(&dir, &segments, &mut snapshots, log_end, recovery.now)?;
            snapshots.extend(later);
            Ok((snapshots, producers))
        };
        act(self).map_err(StorageError::disk(self.dir.path()))
    }
}

/// The producers at `end`, from the newest of `snapshots` that is whole and the headers since. Those that are not whole are
/// removed. Aborted transactions that the walk comes across are in the index of their segment afterwards.
pub(super) fn load_producers(
    dir: &LogDir,
    segments: &Segments,
    snapshots: &mut Vec<Offset>,
    end: Offset,
    now: Millis,
) -> io::Result<Producers> {
    let mut producers = Producers::default();
    let mut from = segments[0].base();
    while let Some(newest) = snapshots.last().copied() {
        let path = segment_file(&dir.path(), newest, FileKind::Snapshot);
        let content = read_small(&*dir.disk, &path, SNAPSHOT_BYTES_MAX)?;
        if let Some(loaded) = snapshot::decode(&content, now) {
            producers = loaded;
            from = newest.max(from);
            break;
        }
        dir.disk.remove(&path)?;
        snapshots.pop();
    }
    for segment in &segments[super::segment_at(segments, from)..] {
        if from >= end || segment.size() == 0 {
            continue;
        }
        let position = segment.position_before(from, ReadMode::Blocking)?.unwrap_or(0);
        let file = segment.file()?;
        let mut walk = HeaderWalk::new(file.clone(), ReadMode::Blocking, position, segment.size());
        while let Some((position, header)) = walk.next().map_err(Stop::into_io)? {
            if header.last_offset() < from || !header.has_producer() {
                continue;
            }
            let mut marker = None;
            if header.is_control() {
                let mut body = vec![0; header.size as usize - HEADER_BYTES];
                read_exact_at(&*file, &mut body, position + HEADER_BYTES as u64)?;
                marker = marker_of(&header, &body);
            }
            // Compaction may have taken the front of it, so that it seems to begin later now.
            if let Some(aborted) = producers.apply(&header, marker, now)
                && !txn_index::read(segment)?.iter().any(|known| known.last_offset == aborted.last_offset)
            {
                txn_index::append(segment, &aborted)?;
            }
        }
    }
    Ok(producers)
}
