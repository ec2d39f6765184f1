//! A range of a log that a reader asked for, resolved as far as memory allows and read outside of any lock.
//! What comes out is whole batches, all of them below the reader's bound, starting with the one that holds
//! the offset asked for. A slice keeps its segments alive: retention and compaction do not disturb it.

use std::{io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::Offset;

use crate::{
    buffers::ReadBuffer,
    disk::DiskFile,
    header::{HEADER_BYTES, Header},
    segment::{Segment, SegmentId},
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

enum Start {
    At(u64),
    /// The segment holds nothing at or after the offset (compaction).
    NotHere,
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

    /// The bytes, or `None` when the read would have to wait and may not.
    pub fn read(&self, mode: ReadMode) -> io::Result<Option<Bytes>> {
        if self.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        for segment in &self.segments[self.at..] {
            if segment.base() >= self.limits.upper {
                break;
            }
            match self.start_in(segment, mode)? {
                Start::At(start) => return self.read_from(segment, start, mode),
                Start::NotHere => {}
                Start::WouldBlock => return Ok(None),
            }
        }
        Ok(Some(Bytes::new()))
    }

    fn start_in(&self, segment: &Segment, mode: ReadMode) -> io::Result<Start> {
        let size = segment.size();
        if size == 0 {
            return Ok(Start::NotHere);
        }
        if self.from <= segment.base() {
            return Ok(Start::At(0));
        }
        if let Some(position) = self.hints.position(self.from, segment.id()) {
            return Ok(if position < size { Start::At(position) } else { Start::NotHere });
        }
        let Some(position) = segment.position_before(self.from, mode)? else { return Ok(Start::WouldBlock) };
        let mut walk = HeaderWalk::new(segment.file()?, mode, position, size);
        loop {
            match walk.next() {
                Ok(Some((position, header))) if header.last_offset() >= self.from => {
                    return Ok(Start::At(position));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Start::NotHere),
                Err(Stop::WouldBlock) => return Ok(Start::WouldBlock),
                Err(stop) => return Err(stop.into_io()),
            }
        }
    }

    fn read_from(&self, segment: &Segment, start: u64, mode: ReadMode) -> io::Result<Option<Bytes>> {
        let file = segment.file()?;
        let end = self.hints.position(self.limits.upper, segment.id()).unwrap_or_else(|| segment.size());
        let available = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut wanted = self.limits.bytes_max.min(available);
        if self.limits.minimum_one {
            wanted = wanted.max(HEADER_BYTES.min(available));
        }
        loop {
            let mut buffer = ReadBuffer::take(wanted);
            let Some(read) = mode.read_at(&*file, buffer.as_mut(), start)? else { return Ok(None) };
            let whole = whole_batches(&buffer.as_slice()[..read], self.limits.upper)
                .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
            match whole.first_size {
                Some(size)
                    if whole.bytes == 0 && self.limits.minimum_one && size > wanted && size <= available =>
                {
                    wanted = size;
                    continue;
                }
                _ => {}
            }
            if let Some(next) = whole.next {
                self.hints.note(Hint {
                    offset: next,
                    segment: segment.id(),
                    position: start + whole.bytes as u64,
                });
            }
            return Ok(Some(buffer.freeze(whole.bytes)));
        }
    }
}

struct Whole {
    /// Bytes of the whole batches below the bound.
    bytes: usize,
    /// The offset behind the last of them.
    next: Option<Offset>,
    /// Size of the first batch when it is below the bound, whole or not.
    first_size: Option<usize>,
}

fn whole_batches(bytes: &[u8], upper: Offset) -> Result<Whole, String> {
    let mut whole = Whole { bytes: 0, next: None, first_size: None };
    while bytes.len() - whole.bytes >= HEADER_BYTES {
        let header = Header::parse(&bytes[whole.bytes..]).map_err(|e| format!("not a batch: {e}"))?;
        if header.last_offset() >= upper {
            break;
        }
        let size = usize::try_from(header.size).map_err(|e| e.to_string())?;
        whole.first_size.get_or_insert(size);
        if size > bytes.len() - whole.bytes {
            break;
        }
        whole.bytes += size;
        whole.next = Some(header.next_offset());
    }
    Ok(whole)
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

    /// Forgets everything, when positions stop being true: truncation.
    pub(crate) fn clear(&self) {
        *self.ring.lock() = Ring::default();
    }
}
