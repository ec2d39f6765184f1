//! One segment: a `.log` file and its indexes. The file only grows at its end while the segment is active
//! and never changes afterwards, so any number of readers share it without a lock. A segment is not aware
//! of its neighbours, and nothing here decides when to roll or to delete.

use std::{
    io,
    io::IoSlice,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use wire::{Millis, Offset};

use crate::{
    config::LogConfig,
    disk::{Disk, DiskFile, OpenMode, read_exact_at, remove_if_exists, write_all_at},
    header::{HEADER_BYTES, Header},
    index::{IndexPlace, OffsetEntry, SparseIndex, TimeEntry, relative},
    layout::{FileKind, segment_file},
    slice::ReadMode,
    txn_index::{self, AbortedTxn},
    walk::{HeaderWalk, Stop},
};

/// Bytes that recovery writes again at a time.
const REWRITE_BYTES: u64 = 1 << 20;

/// A partition's directory and the disk that it lies on. The directory may get another name while files in it are open.
#[derive(Debug)]
pub(crate) struct LogDir {
    pub(crate) disk: Arc<dyn Disk>,
    path: Mutex<PathBuf>,
}

impl LogDir {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> LogDir {
        LogDir { disk, path: Mutex::new(path) }
    }

    /// What it is called now. For what happens rarely.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.lock().clone()
    }

    /// It was given another name.
    pub(crate) fn renamed(&self, path: PathBuf) {
        *self.path.lock() = path;
    }
}

/// A timestamp and the last offset of the batch that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxTimestamp {
    pub(crate) timestamp: Millis,
    pub(crate) offset: Offset,
}

/// Lengths of a segment's files when it is opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SegmentLens {
    pub(crate) log: u64,
    pub(crate) index: u64,
    pub(crate) time_index: u64,
}

/// Tells a segment from the one that replaces it under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId(u64);

static SEGMENT_ID_NEXT: AtomicU64 = AtomicU64::new(0);

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    id: SegmentId,
    dir: Arc<LogDir>,
    base: Offset,
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Bytes that hold whole batches.
    size: AtomicU64,
    index: SparseIndex<OffsetEntry>,
    time_index: SparseIndex<TimeEntry>,
    times: Mutex<Times>,
    /// What the `.txnindex` holds, once somebody has asked.
    aborted: Mutex<Option<Arc<[AbortedTxn]>>>,
}

#[derive(Debug, Default)]
struct Times {
    /// `None` until it is known; an empty segment has none to know.
    max: Option<MaxTimestamp>,
    /// The first batch's largest timestamp: what `segment.ms` counts from.
    first: Option<Millis>,
    bytes_since_entry: u64,
}

impl Segment {
    /// A segment over files that have these lengths; nothing is opened yet.
    pub(crate) fn new(dir: Arc<LogDir>, base: Offset, lens: SegmentLens) -> Segment {
        Segment {
            id: SegmentId(SEGMENT_ID_NEXT.fetch_add(1, Ordering::Relaxed)),
            dir,
            base,
            file: Mutex::new(None),
            size: AtomicU64::new(lens.log),
            index: SparseIndex::new(lens.index),
            time_index: SparseIndex::new(lens.time_index),
            times: Mutex::new(Times::default()),
            aborted: Mutex::new(None),
        }
    }

    /// The aborted transactions whose markers lie in the segment.
    pub(crate) fn aborted_transactions(&self) -> io::Result<Arc<[AbortedTxn]>> {
        let mut aborted = self.aborted.lock();
        if let Some(known) = &*aborted {
            return Ok(known.clone());
        }
        let read: Arc<[AbortedTxn]> = txn_index::read(self)?.into();
        *aborted = Some(read.clone());
        Ok(read)
    }

    /// The `.txnindex` has changed.
    pub(crate) fn forget_aborted_transactions(&self) {
        *self.aborted.lock() = None;
    }

    /// A new, empty segment with its `.log` file.
    pub(crate) fn create(dir: Arc<LogDir>, base: Offset) -> io::Result<Segment> {
        let segment = Segment::new(dir, base, SegmentLens::default());
        *segment.file.lock() = Some(segment.dir.disk.open(&segment.path(FileKind::Log), OpenMode::Truncate)?);
        Ok(segment)
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn path(&self, kind: FileKind) -> PathBuf {
        segment_file(&self.dir.path(), self.base, kind)
    }

    /// The `.log` file, opened at the first use.
    pub(crate) fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        let mut file = self.file.lock();
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let opened = self.dir.disk.open(&self.path(FileKind::Log), OpenMode::Write)?;
        *file = Some(opened.clone());
        Ok(opened)
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.dir.disk
    }

    fn place(&self, kind: FileKind) -> IndexPlace<'_> {
        IndexPlace { disk: &*self.dir.disk, path: self.path(kind) }
    }

    /// Writes whole batches at the end. They belong to the segment once they are noted; before, they are as good as not
    /// there, and the next ones take their place.
    pub(crate) fn write(&self, bufs: &mut [IoSlice<'_>]) -> io::Result<()> {
        let written = write_all_at(&*self.file()?, bufs, self.size());
        if written.is_err() {
            // Part of them may be there, and whoever opens the file next would take it for a batch. If it stays for now, a
            // stop in order sees to it.
            let _ = self.cut_unnoted();
        }
        written
    }

    /// Removes what was written and never noted, durably.
    pub(crate) fn cut_unnoted(&self) -> io::Result<()> {
        let file = self.file()?;
        if file.len()? > self.size() {
            file.truncate(self.size())?;
            file.sync_data()?;
        }
        Ok(())
    }

    /// Takes the batches of `headers`, which were just written, into the segment.
    pub(crate) fn note_written(&self, headers: &[Header], config: &LogConfig) -> io::Result<()> {
        let mut position = self.size();
        for header in headers {
            self.note_batch(header, position, config)?;
            position += header.size;
        }
        self.size.store(position, Ordering::Release);
        Ok(())
    }

    /// Takes a batch that lies at `position` into indexes and times; also how recovery rebuilds them.
    pub(crate) fn note_batch(&self, header: &Header, position: u64, config: &LogConfig) -> io::Result<()> {
        let mut times = self.times.lock();
        if position == 0 {
            times.first = Some(header.max_timestamp);
            times.max = None;
        } else if times.max.is_none() {
            times.max = self.stored_max()?;
        }
        // A batch that compaction left empty keeps its timestamp, but no record has it.
        let counts = header.record_count > 0;
        if counts && times.max.is_none_or(|max| header.max_timestamp > max.timestamp) {
            times.max = Some(MaxTimestamp { timestamp: header.max_timestamp, offset: header.last_offset() });
        }
        if times.bytes_since_entry > u64::from(config.index_interval_bytes) {
            let entry = relative(self.base, header.last_offset()).zip(u32::try_from(position).ok());
            if let Some((relative_offset, position)) = entry {
                self.index
                    .append(&self.place(FileKind::OffsetIndex), OffsetEntry { relative_offset, position })?;
            }
            self.append_time_entry(times.max)?;
            times.bytes_since_entry = 0;
        }
        times.bytes_since_entry += header.size;
        Ok(())
    }

    fn append_time_entry(&self, max: Option<MaxTimestamp>) -> io::Result<()> {
        let Some(max) = max.filter(|max| max.timestamp.0 >= 0) else { return Ok(()) };
        let Some(relative_offset) = relative(self.base, max.offset) else { return Ok(()) };
        self.time_index
            .append(&self.place(FileKind::TimeIndex), TimeEntry { timestamp: max.timestamp, relative_offset })
    }

    fn stored_max(&self) -> io::Result<Option<MaxTimestamp>> {
        let last = self.time_index.last(&self.place(FileKind::TimeIndex))?;
        Ok(last.map(|entry| MaxTimestamp {
            timestamp: entry.timestamp,
            offset: self.base.plus(i64::from(entry.relative_offset)),
        }))
    }

    /// Forgets what was learned of times, before recovery walks the segment again from an index entry.
    pub(crate) fn forget_times(&self) {
        *self.times.lock() = Times::default();
    }

    /// The largest timestamp in the segment and where it is; `None` when it holds no batch with one.
    pub(crate) fn max_timestamp(&self) -> io::Result<Option<MaxTimestamp>> {
        let mut times = self.times.lock();
        if times.max.is_none() && self.size() > 0 {
            times.max = self.stored_max()?;
        }
        Ok(times.max.filter(|max| max.timestamp.0 >= 0))
    }

    /// The timestamp that `segment.ms` counts from.
    pub(crate) fn first_timestamp(&self) -> io::Result<Option<Millis>> {
        let mut times = self.times.lock();
        if times.first.is_none() && self.size() >= HEADER_BYTES as u64 {
            let mut bytes = [0; HEADER_BYTES];
            crate::disk::read_exact_at(&*self.file()?, &mut bytes, 0)?;
            times.first = Header::parse(&bytes).ok().map(|header| header.max_timestamp);
        }
        Ok(times.first)
    }

    /// Whether the indexes have no room, or the offset cannot be named in them.
    pub(crate) fn is_index_full(&self, last_offset: Offset, config: &LogConfig) -> bool {
        self.index.len() >= config.index_entries_max()
            || self.time_index.len() >= config.time_index_entries_max()
            || relative(self.base, last_offset).is_none()
    }

    /// A position at or before the batch that holds `offset`. `None`: the read would wait for the device.
    pub(crate) fn position_before(&self, offset: Offset, mode: ReadMode) -> io::Result<Option<u64>> {
        let key = offset.0.saturating_sub(self.base.0);
        let found = self.index.lookup(&self.place(FileKind::OffsetIndex), mode, key)?;
        Ok(found.map(|entry| entry.map_or(0, |entry| u64::from(entry.position)).min(self.size())))
    }

    /// Where a batch starts, at `position` or before it. `None`: the read would wait for the device.
    pub(crate) fn batch_start_before(&self, position: u64, mode: ReadMode) -> io::Result<Option<u64>> {
        let starts_before = |entry: &OffsetEntry| u64::from(entry.position) <= position;
        let found = self.index.last_where(&self.place(FileKind::OffsetIndex), mode, starts_before)?;
        Ok(found.map(|entry| entry.map_or(0, |entry| u64::from(entry.position))))
    }

    /// An offset such that everything before it in the segment is older than `timestamp`.
    pub(crate) fn offset_before(&self, timestamp: Millis) -> io::Result<Offset> {
        let place = self.place(FileKind::TimeIndex);
        let entry =
            self.time_index.lookup(&place, ReadMode::Blocking, timestamp.0.saturating_sub(1))?.flatten();
        Ok(entry.map_or(self.base, |entry| self.base.plus(i64::from(entry.relative_offset) + 1)))
    }

    /// Whether the newest offset index entry names a batch that is there. What was never synced can come back torn from a
    /// crash, and then reads as an entry of older offsets.
    pub(crate) fn is_index_sound(&self) -> io::Result<bool> {
        let Some(last) = self.index.last(&self.place(FileKind::OffsetIndex))? else { return Ok(true) };
        let mut walk =
            HeaderWalk::new(self.file()?, ReadMode::Blocking, u64::from(last.position), self.size());
        match walk.next() {
            Ok(Some((_, header))) => {
                Ok(relative(self.base, header.last_offset()) == Some(last.relative_offset))
            }
            Ok(None) | Err(Stop::Broken { .. }) => Ok(false),
            Err(stop) => Err(stop.into_io()),
        }
    }

    /// Position of the newest offset index entry, 0 without one: where a walk to the end starts.
    pub(crate) fn last_indexed_position(&self) -> io::Result<u64> {
        let last = self.index.last(&self.place(FileKind::OffsetIndex))?;
        Ok(last.map_or(0, |entry| u64::from(entry.position)))
    }

    /// Cuts indexes to what they say about offsets below `offset`.
    pub(crate) fn truncate_indexes(&self, offset: Offset) -> io::Result<()> {
        let below = offset.0.saturating_sub(self.base.0);
        self.index.truncate(&self.place(FileKind::OffsetIndex), below)?;
        self.time_index.truncate(&self.place(FileKind::TimeIndex), below)
    }

    /// Cuts the file at `position`; indexes and times are the caller's.
    pub(crate) fn truncate_file(&self, position: u64) -> io::Result<()> {
        self.size.store(position, Ordering::Release);
        self.file()?.truncate(position)
    }

    /// Writes what lies from the batch of `offset` on where it lies once more, so that the next sync takes it along.
    pub(crate) fn rewrite_from(&self, offset: Offset) -> io::Result<()> {
        let file = self.file()?;
        let mut at = self.position_before(offset, ReadMode::Blocking)?.unwrap_or(0);
        let mut chunk = vec![0; REWRITE_BYTES.min(self.size() - at) as usize];
        while at < self.size() {
            let len = (self.size() - at).min(REWRITE_BYTES) as usize;
            read_exact_at(&*file, &mut chunk[..len], at)?;
            write_all_at(&*file, &mut [IoSlice::new(&chunk[..len])], at)?;
            at += len as u64;
        }
        Ok(())
    }

    /// Closes the books when no more will be appended: the last time entry, and both index files whole.
    pub(crate) fn seal(&self) -> io::Result<()> {
        let max = self.max_timestamp()?;
        self.append_time_entry(max)?;
        self.write_indexes()
    }

    /// Brings both index files up to date, making them when they do not exist.
    pub(crate) fn write_indexes(&self) -> io::Result<()> {
        self.index.write_out(&self.place(FileKind::OffsetIndex))?;
        self.time_index.write_out(&self.place(FileKind::TimeIndex))
    }

    /// Makes the indexes durable.
    pub(crate) fn sync_indexes(&self) -> io::Result<()> {
        self.index.sync(&self.place(FileKind::OffsetIndex))?;
        self.time_index.sync(&self.place(FileKind::TimeIndex))
    }

    /// Entries of both indexes, for the cleaner's grouping.
    pub(crate) fn index_entries(&self) -> u32 {
        self.index.len().max(self.time_index.len())
    }

    /// Opens every file, so that readers of this segment outlive its names.
    pub(crate) fn pin(&self) -> io::Result<()> {
        self.file()?;
        self.aborted_transactions()?;
        self.index.pin(&self.place(FileKind::OffsetIndex))?;
        self.time_index.pin(&self.place(FileKind::TimeIndex))
    }

    /// Removes the files. Who holds the segment can go on reading it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.pin()?;
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Log] {
            remove_if_exists(&*self.dir.disk, &self.path(kind))?;
        }
        Ok(())
    }
}
