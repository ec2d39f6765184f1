//! A range of a log that a reader asked for: resolved as far as memory allows, located in a file outside of any lock,
//! and read by whoever sends it. What comes out is whole batches, all of them below the reader's bound, starting with
//! the one that holds the offset asked for. A slice keeps its segments alive: retention and compaction do not disturb it.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::Offset;

use crate::{
    disk::DiskFile,
    segment::{Segment, SegmentId},
    txn_index::AbortedTxn,
    walk::{HeaderWalk, Stop},
};

/// Whether a read may wait for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Only what is in memory; for threads that must not stall.
    CachedOnly,
    /// Waits.
    Blocking,
}

impl ReadMode {
    pub(crate) fn read_at(
        self,
        file: &dyn DiskFile,
        buf: &mut [u8],
        offset: u64,
    ) -> io::Result<Option<usize>> {
        match self {
            ReadMode::CachedOnly => file.read_cached_at(buf, offset),
            ReadMode::Blocking => file.read_at(buf, offset).map(Some),
        }
    }
}

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes at most, `minimum_one` aside.
    pub bytes_max: usize,
    /// Only batches that end below this offset: the high watermark or the last stable offset.
    pub upper: Offset,
    /// Whether the first batch comes whole even when it is larger than `bytes_max`.
    pub minimum_one: bool,
}

/// Segments of a log at one moment, in order.
pub(crate) type Segments = Arc<Vec<Arc<Segment>>>;

/// Part of a log, to be read.
#[derive(Debug)]
pub struct Slice {
    pub(crate) segments: Segments,
    /// The segment to begin with.
    pub(crate) at: usize,
    pub(crate) from: Offset,
    pub(crate) limits: ReadLimits,
    pub(crate) hints: Arc<Hints>,
}

/// What a slice comes to.
#[derive(Debug)]
pub enum Located {
    /// These batches.
    Batches(StoredBatches),
    /// No batch lies there, or the first is too large for the limits.
    Nothing,
    /// Finding out would have to wait for the device, and may not.
    WouldBlock,
}

impl Slice {
    /// The offset asked for.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Whether nothing can come out.
    pub fn is_empty(&self) -> bool {
        self.from >= self.limits.upper
    }

    /// Bytes that can come out at most, the whole first batch of `minimum_one` aside. Exact for a reader
    /// that follows the log's end.
    pub fn len_max(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let segment = &self.segments[self.at];
        let start = self.hints.position(self.from, segment.id()).unwrap_or(0);
        let end = self.hints.position(self.limits.upper, segment.id()).unwrap_or_else(|| segment.size());
        let available = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        available.min(self.limits.bytes_max)
    }

    /// Finds the batches, touching headers and indexes only: a few reads of a few bytes.
    pub fn locate(&self, mode: ReadMode) -> io::Result<Located> {
        match self.find(mode) {
            Ok(Some(batches)) => Ok(Located::Batches(batches)),
            Ok(None) => Ok(Located::Nothing),
            Err(Stop::WouldBlock) => Ok(Located::WouldBlock),
            Err(stop) => Err(stop.into_io()),
        }
    }

    /// All the bytes at once, waiting for the device: for readers that keep them.
    pub fn read(&self) -> io::Result<Bytes> {
        match self.find(ReadMode::Blocking).map_err(Stop::into_io)? {
            Some(batches) => {
                let mut bytes = vec![0; batches.len()];
                batches.read_at(0, &mut bytes, ReadMode::Blocking)?;
                Ok(bytes.into())
            }
            None => Ok(Bytes::new()),
        }
    }

    /// The aborted transactions that reach into what lies from the offset asked for up to `end`, for readers of committed
    /// data. Of the segments that the batches are read from, so that the two agree whatever compaction does meanwhile.
    pub fn aborted_transactions(&self, end: Offset) -> io::Result<Vec<AbortedTxn>> {
        aborted_transactions(&self.segments[self.at..], self.from..end)
    }

    fn find(&self, mode: ReadMode) -> Result<Option<StoredBatches>, Stop> {
        for (at, segment) in self.segments.iter().enumerate().skip(self.at) {
            if self.is_empty() || segment.base() >= self.limits.upper {
                break;
            }
            let Some(start) = self.start_in(segment, mode)? else { continue };
            let end = self.end_in(at, mode)?;
            if start < end {
                let (end, end_offset) = match self.fit(segment, start..end, mode)? {
                    Fit::Whole => {
                        let next = self.segments.get(at + 1).map(|next| next.base());
                        (end, next.map_or(self.limits.upper, |next| next.min(self.limits.upper)))
                    }
                    Fit::Until { position, offset } => (position, offset),
                };
                let len = usize::try_from(end - start).map_err(io::Error::other)?;
                return Ok((len > 0).then_some(StoredBatches {
                    file: segment.file()?,
                    position: start,
                    len,
                    end: end_offset,
                }));
            }
        }
        Ok(None)
    }

    /// Where the batch that holds the offset asked for starts; `None` when the segment holds nothing at or after it.
    fn start_in(&self, segment: &Segment, mode: ReadMode) -> Result<Option<u64>, Stop> {
        let size = segment.size();
        if size == 0 {
            return Ok(None);
        }
        if self.from <= segment.base() {
            return Ok(Some(0));
        }
        if let Some(position) = self.hints.position(self.from, segment.id()) {
            return Ok(Some(position).filter(|position| *position < size));
        }
        let position = segment.position_before(self.from, mode)?.ok_or(Stop::WouldBlock)?;
        let mut walk = HeaderWalk::new(segment.file()?, mode, position, size);
        while let Some((position, header)) = walk.next()? {
            if header.last_offset() >= self.from {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Where the batches below the reader's bound end in the segment at index `at`.
    fn end_in(&self, at: usize, mode: ReadMode) -> Result<u64, Stop> {
        let segment = &self.segments[at];
        let upper = self.limits.upper;
        if let Some(position) = self.hints.position(upper, segment.id()) {
            return Ok(position);
        }
        if self.segments.get(at + 1).is_some_and(|next| next.base() <= upper) {
            return Ok(segment.size());
        }
        let mut end = segment.position_before(upper, mode)?.ok_or(Stop::WouldBlock)?;
        let mut walk = HeaderWalk::new(segment.file()?, mode, end, segment.size());
        while let Some((position, header)) = walk.next()? {
            if header.last_offset() >= upper {
                break;
            }
            end = position + header.size;
        }
        self.hints.note(Hint { offset: upper, segment: segment.id(), position: end });
        Ok(end)
    }

    /// How much of `range` the limits let through, in whole batches.
    fn fit(&self, segment: &Segment, range: Range<u64>, mode: ReadMode) -> Result<Fit, Stop> {
        let bytes_max = self.limits.bytes_max as u64;
        if range.end - range.start <= bytes_max {
            return Ok(Fit::Whole);
        }
        // The index knows where batches begin, to within its interval; the header there says who reads on from it.
        let bound = range.start + bytes_max;
        let indexed = segment.batch_start_before(bound, mode)?.ok_or(Stop::WouldBlock)?;
        if range.contains(&indexed) && indexed > range.start {
            match HeaderWalk::new(segment.file()?, mode, indexed, range.end).next() {
                Ok(Some((position, header))) => {
                    self.hints.note(Hint { offset: header.base_offset, segment: segment.id(), position });
                    return Ok(Fit::Until { position, offset: header.base_offset });
                }
                Err(Stop::WouldBlock) => return Err(Stop::WouldBlock),
                // Nothing checks an index file's bytes: one that lies costs a walk.
                Ok(None) | Err(_) => {}
            }
        }
        let mut walk = HeaderWalk::new(segment.file()?, mode, range.start, range.end);
        let (mut end, mut offset) = (range.start, self.from);
        while let Some((position, header)) = walk.next()? {
            let is_owed = position == range.start && self.limits.minimum_one;
            if position + header.size > bound && !is_owed {
                break;
            }
            end = position + header.size;
            offset = header.next_offset();
            self.hints.note(Hint { offset, segment: segment.id(), position: end });
        }
        Ok(Fit::Until { position: end, offset })
    }
}

/// How much of a range fits.
enum Fit {
    Whole,
    /// Up to the batch at `position`, which begins at `offset` or behind it.
    Until {
        position: u64,
        offset: Offset,
    },
}

/// Whole batches of one segment where they lie in its file, to be read piece by piece as somebody takes them.
#[derive(Clone, Debug)]
pub struct StoredBatches {
    file: Arc<dyn DiskFile>,
    position: u64,
    len: usize,
    end: Offset,
}

impl StoredBatches {
    /// An offset that all of them lie below, and no batch that follows them.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all has been taken.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` with the bytes from `from` on; false when that would have to wait and may not.
    pub fn read_at(&self, from: usize, buf: &mut [u8], mode: ReadMode) -> io::Result<bool> {
        assert!(from + buf.len() <= self.len, "past the end of the batches");
        match mode.read_at(&*self.file, buf, self.position + from as u64)? {
            Some(read) if read == buf.len() => Ok(true),
            Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Ok(false),
        }
    }

    /// Leaves out the first `count` bytes: they have been taken.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "past the end of the batches");
        self.position += count as u64;
        self.len -= count;
    }
}

/// Where some offsets lie, as readers and flushes found out: a consumer that reads on, and one that waits at
/// the end, need no index. Entries are replaced in turn.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    ring: Mutex<Ring>,
}

const HINTS: usize = 8;

#[derive(Debug, Default)]
struct Ring {
    entries: [Option<Hint>; HINTS],
    next: usize,
}

/// `offset` is the first of the batch at `position`, or of what will be written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) offset: Offset,
    pub(crate) segment: SegmentId,
    pub(crate) position: u64,
}

impl Hints {
    pub(crate) fn position(&self, offset: Offset, segment: SegmentId) -> Option<u64> {
        let ring = self.ring.lock();
        let found =
            ring.entries.iter().flatten().find(|hint| hint.offset == offset && hint.segment == segment)?;
        Some(found.position)
    }

    pub(crate) fn note(&self, hint: Hint) {
        let mut ring = self.ring.lock();
        let known = ring.entries.iter().position(|entry| {
            entry.is_some_and(|entry| entry.offset == hint.offset && entry.segment == hint.segment)
        });
        let at = known.unwrap_or_else(|| {
            let at = ring.next;
            ring.next = (at + 1) % HINTS;
            at
        });
        ring.entries[at] = Some(hint);
    }
}

/// The aborted transactions that reach into `range`; its first offset lies in the first of the segments.
pub(crate) fn aborted_transactions(
    segments: &[Arc<Segment>],
    range: Range<Offset>,
) -> io::Result<Vec<AbortedTxn>> {
    let mut aborted = Vec::new();
    for segment in segments {
        let txns = segment.aborted_transactions()?;
        let reaches = |txn: &&AbortedTxn| txn.last_offset >= range.start && txn.first_offset < range.end;
        aborted.extend(txns.iter().filter(reaches));
        // Transactions that end where everything before the bound was decided are the last that reach below it.
        if txns.iter().any(|txn| txn.last_stable_offset >= range.end) {
            break;
        }
    }
    Ok(aborted)
}
