//! A segment's sparse indexes: offset to position, and timestamp to offset. Entries only grow; those
//! appended last wait in memory and reach the file in bulk, at the roll and at a checkpoint, so the file may
//! end earlier than the segment but never says anything untrue about it. No memory map: a lookup is a binary
//! search by positioned reads, and an idle index holds no descriptor.

use std::{io, io::IoSlice, marker::PhantomData, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use wire::{Millis, Offset};

use crate::{
    disk::{Disk, DiskFile, OpenMode, write_all_at},
    slice::ReadMode,
};

/// Entries that wait in memory before they are written out.
const TAIL_ENTRIES_MAX: usize = 256;
/// Entries fetched in one read once a search has narrowed to them.
const SEARCH_ENTRIES: u32 = 64;

/// A fixed-size index entry with an increasing key.
pub(crate) trait Entry: Copy + std::fmt::Debug + PartialEq {
    const BYTES: usize;
    /// What a lookup compares.
    fn key(&self) -> i64;
    fn encode(&self, out: &mut Vec<u8>);
    fn decode(bytes: &[u8]) -> Self;
    /// The last offset that the entry speaks of, relative to the segment's base.
    fn relative_offset(&self) -> u32;
}

/// `(last offset of a batch, position of that batch)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    pub(crate) relative_offset: u32,
    pub(crate) position: u32,
}

/// `(largest timestamp so far, last offset of the batch that holds it)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp: Millis,
    pub(crate) relative_offset: u32,
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |field| u32::from_be_bytes(*field))
}

impl Entry for OffsetEntry {
    const BYTES: usize = 8;

    fn key(&self) -> i64 {
        i64::from(self.relative_offset)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> OffsetEntry {
        OffsetEntry { relative_offset: be_u32(bytes), position: be_u32(&bytes[4..]) }
    }

    fn relative_offset(&self) -> u32 {
        self.relative_offset
    }
}

impl Entry for TimeEntry {
    const BYTES: usize = 12;

    fn key(&self) -> i64 {
        self.timestamp.0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> TimeEntry {
        let timestamp = Millis(bytes.first_chunk().map_or(0, |field| i64::from_be_bytes(*field)));
        TimeEntry { timestamp, relative_offset: be_u32(&bytes[8..]) }
    }

    fn relative_offset(&self) -> u32 {
        self.relative_offset
    }
}

/// One index of one segment.
#[derive(Debug)]
pub(crate) struct SparseIndex<E> {
    inner: Mutex<Inner<E>>,
    entry: PhantomData<E>,
}

#[derive(Debug)]
struct Inner<E> {
    file: Option<Arc<dyn DiskFile>>,
    /// Entries in the file.
    written: u32,
    /// Entries that follow them, not yet in the file.
    tail: Vec<E>,
    /// The entry before the tail, once it is known.
    last_written: Option<E>,
    /// Whether the file holds something that no sync has covered.
    unsynced: bool,
}

/// Where an index lives; made up when it is needed, so that an idle index keeps no path.
pub(crate) struct IndexPlace<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) path: PathBuf,
}

impl<E: Entry> SparseIndex<E> {
    /// An index whose file has `bytes` bytes; a ragged end is passed over.
    pub(crate) fn new(bytes: u64) -> SparseIndex<E> {
        let written = (bytes / E::BYTES as u64).min(u64::from(u32::MAX)) as u32;
        let inner = Inner { file: None, written, tail: Vec::new(), last_written: None, unsynced: false };
        SparseIndex { inner: Mutex::new(inner), entry: PhantomData }
    }

    /// Entries in file and memory.
    pub(crate) fn len(&self) -> u32 {
        let inner = self.inner.lock();
        inner.written + inner.tail.len() as u32
    }

    /// Adds an entry; one that does not grow the key is left out, as it would say nothing new.
    pub(crate) fn append(&self, place: &IndexPlace<'_>, entry: E) -> io::Result<()> {
        if self.last(place)?.is_some_and(|last| entry.key() <= last.key()) {
            return Ok(());
        }
        let mut inner = self.inner.lock();
        inner.tail.push(entry);
        if inner.tail.len() >= TAIL_ENTRIES_MAX { inner.write_out(place) } else { Ok(()) }
    }

    /// The newest entry.
    pub(crate) fn last(&self, place: &IndexPlace<'_>) -> io::Result<Option<E>> {
        let mut inner = self.inner.lock();
        if let Some(last) = inner.tail.last() {
            return Ok(Some(*last));
        }
        if inner.written == 0 {
            return Ok(None);
        }
        if inner.last_written.is_none() {
            let at = inner.written - 1;
            inner.last_written =
                read_entries(&*inner.file(place)?, ReadMode::Blocking, at, 1)?.and_then(first);
        }
        Ok(inner.last_written)
    }

    /// The largest entry whose key is at most `key`. The outer `None`: the read would wait for the device.
    #[allow(clippy::option_option)]
    pub(crate) fn lookup(
        &self,
        place: &IndexPlace<'_>,
        mode: ReadMode,
        key: i64,
    ) -> io::Result<Option<Option<E>>> {
        self.last_where(place, mode, |entry| entry.key() <= key)
    }

    /// The last entry that `holds`, which no entry behind one that does not may. The outer `None`: the read would
    /// wait for the device.
    #[allow(clippy::option_option)]
    pub(crate) fn last_where(
        &self,
        place: &IndexPlace<'_>,
        mode: ReadMode,
        holds: impl Fn(&E) -> bool,
    ) -> io::Result<Option<Option<E>>> {
        let (file, written) = {
            let mut inner = self.inner.lock();
            let at = inner.tail.partition_point(&holds);
            if at > 0 {
                return Ok(Some(Some(inner.tail[at - 1])));
            }
            if inner.written == 0 {
                return Ok(Some(None));
            }
            (inner.file(place)?, inner.written)
        };
        let (mut low, mut high) = (0, written);
        while high - low > SEARCH_ENTRIES {
            let middle = low + (high - low) / 2;
            let Some(entries) = read_entries::<E>(&*file, mode, middle, 1)? else { return Ok(None) };
            if entries.first().is_some_and(&holds) { low = middle } else { high = middle }
        }
        let Some(entries) = read_entries::<E>(&*file, mode, low, high - low)? else { return Ok(None) };
        let at = entries.partition_point(&holds);
        Ok(Some(at.checked_sub(1).map(|at| entries[at])))
    }

    /// Moves what waits in memory into the file, which exists afterwards.
    pub(crate) fn write_out(&self, place: &IndexPlace<'_>) -> io::Result<()> {
        self.inner.lock().write_out(place)
    }

    /// Writes out and syncs, if there is anything to sync.
    pub(crate) fn sync(&self, place: &IndexPlace<'_>) -> io::Result<()> {
        let file = {
            let mut inner = self.inner.lock();
            if !inner.tail.is_empty() {
                inner.write_out(place)?;
            }
            if !std::mem::take(&mut inner.unsynced) {
                return Ok(());
            }
            inner.file(place)?
        };
        file.sync_data()
    }

    /// Drops every entry that speaks of `relative_offset` or later, and a zeroed end that a crash or
    /// preallocation left.
    pub(crate) fn truncate(&self, place: &IndexPlace<'_>, relative_offset: i64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.tail.retain(|entry| i64::from(entry.relative_offset()) < relative_offset);
        // Also where there is nothing to drop: a process that was killed may have dropped it and not synced.
        inner.unsynced = true;
        if inner.written == 0 {
            return Ok(());
        }
        let file = inner.file(place)?;
        // Both keys and offsets grow within a sound index, so the entries to keep are a prefix; a zero after
        // the first entry marks the unused end.
        let (mut low, mut high) = (0, inner.written);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = read_entries::<E>(&*file, ReadMode::Blocking, middle, 1)?.and_then(first);
            let keep = entry.is_some_and(|entry| {
                i64::from(entry.relative_offset()) < relative_offset && (middle == 0 || entry.key() != 0)
            });
            if keep { low = middle + 1 } else { high = middle }
        }
        if low < inner.written || file.len()? != u64::from(low) * E::BYTES as u64 {
            file.truncate(u64::from(low) * E::BYTES as u64)?;
        }
        inner.written = low;
        inner.last_written = None;
        Ok(())
    }

    /// Opens the file now, so that this index keeps reading it after the name is gone.
    pub(crate) fn pin(&self, place: &IndexPlace<'_>) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if inner.written > 0 { inner.file(place).map(drop) } else { Ok(()) }
    }
}

impl<E: Entry> Inner<E> {
    fn file(&mut self, place: &IndexPlace<'_>) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let file = place.disk.open(&place.path, OpenMode::Create)?;
        self.file = Some(file.clone());
        Ok(file)
    }

    fn write_out(&mut self, place: &IndexPlace<'_>) -> io::Result<()> {
        let file = self.file(place)?;
        if self.tail.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.tail.len() * E::BYTES);
        for entry in &self.tail {
            entry.encode(&mut bytes);
        }
        write_all_at(&*file, &mut [IoSlice::new(&bytes)], u64::from(self.written) * E::BYTES as u64)?;
        self.written += self.tail.len() as u32;
        self.last_written = self.tail.last().copied();
        self.unsynced = true;
        self.tail = Vec::new();
        Ok(())
    }
}

fn first<E: Copy>(entries: Vec<E>) -> Option<E> {
    entries.first().copied()
}

fn read_entries<E: Entry>(
    file: &dyn DiskFile,
    mode: ReadMode,
    at: u32,
    count: u32,
) -> io::Result<Option<Vec<E>>> {
    let mut bytes = vec![0; count as usize * E::BYTES];
    let Some(read) = mode.read_at(file, &mut bytes, u64::from(at) * E::BYTES as u64)? else {
        return Ok(None);
    };
    Ok(Some(bytes[..read].chunks_exact(E::BYTES).map(E::decode).collect()))
}

/// `offset` relative to a segment's base, if it fits an index entry.
pub(crate) fn relative(base: Offset, offset: Offset) -> Option<u32> {
    i32::try_from(offset.0.checked_sub(base.0)?).ok()?.try_into().ok()
}
