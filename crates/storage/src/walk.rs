//! Steps from batch header to batch header through a file, without reading the bodies between. It reads a
//! few KiB at a time where batches are small and only the headers where they are large, and stops at the
//! first thing that is not a whole batch. It never checks a checksum.

use std::{io, sync::Arc};

use crate::{
    disk::DiskFile,
    header::{HEADER_BYTES, Header, HeaderError},
    slice::ReadMode,
};

const CHUNK_BYTES: usize = 4096;

/// Where a walk is.
pub(crate) struct HeaderWalk {
    file: Arc<dyn DiskFile>,
    mode: ReadMode,
    position: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_start: u64,
    chunk_bytes_next: usize,
}

/// What ends a walk before the end of the file.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The bytes are not in memory, and the walk may not wait for them.
    WouldBlock,
    /// No whole batch starts at `position`.
    Broken { position: u64, reason: String },
    /// The disk failed.
    Disk(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Disk(error)
    }
}

impl Stop {
    /// For walks that may block, over a file whose content has been checked before.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Stop::WouldBlock => io::ErrorKind::WouldBlock.into(),
            Stop::Disk(error) => error,
            Stop::Broken { position, reason } => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no batch at position {position}: {reason}"),
            ),
        }
    }
}

impl HeaderWalk {
    /// A walk over the batches of `file` in `position..end`.
    pub(crate) fn new(file: Arc<dyn DiskFile>, mode: ReadMode, position: u64, end: u64) -> HeaderWalk {
        HeaderWalk {
            file,
            mode,
            position,
            end,
            chunk: Vec::new(),
            chunk_start: 0,
            chunk_bytes_next: CHUNK_BYTES,
        }
    }

    /// The next batch and its position, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Header)>, Stop> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let broken = |reason: String| Stop::Broken { position, reason };
        if self.end - position < HEADER_BYTES as u64 {
            return Err(broken(HeaderError::Short((self.end - position) as usize).to_string()));
        }
        self.fill()?;
        let header = Header::parse(&self.chunk[(position - self.chunk_start) as usize..])
            .map_err(|e| broken(e.to_string()))?;
        if header.size > self.end - position {
            return Err(broken(format!("{} of its {} bytes", self.end - position, header.size)));
        }
        self.position += header.size;
        self.chunk_bytes_next = if header.size < CHUNK_BYTES as u64 { CHUNK_BYTES } else { HEADER_BYTES };
        Ok(Some((position, header)))
    }

    /// Has the header at the current position in the chunk.
    fn fill(&mut self) -> Result<(), Stop> {
        let chunk_end = self.chunk_start + self.chunk.len() as u64;
        if self.position >= self.chunk_start && self.position + HEADER_BYTES as u64 <= chunk_end {
            return Ok(());
        }
        let wanted = (self.end - self.position).min(self.chunk_bytes_next as u64) as usize;
        self.chunk.resize(wanted, 0);
        self.chunk_start = self.position;
        match self.mode.read_at(&*self.file, &mut self.chunk, self.position)? {
            None => Err(Stop::WouldBlock),
            Some(read) if read < HEADER_BYTES => {
                Err(Stop::Broken { position: self.position, reason: HeaderError::Short(read).to_string() })
            }
            Some(read) => {
                self.chunk.truncate(read);
                Ok(())
            }
        }
    }
}

/// Bytes read at a time by a walk that wants the bodies too.
const BODY_CHUNK_BYTES: u64 = 256 * 1024;

/// Steps through a file's batches with their bodies, in reads that are large where there is much to read.
pub(crate) struct BatchWalk {
    file: Arc<dyn DiskFile>,
    position: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_start: u64,
}

impl BatchWalk {
    /// A walk over the batches of `file` in `position..end`; it waits for the device.
    pub(crate) fn new(file: Arc<dyn DiskFile>, position: u64, end: u64) -> BatchWalk {
        BatchWalk { file, position, end, chunk: Vec::new(), chunk_start: position }
    }

    /// Where the next batch starts.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch's header and all its bytes, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(Header, &[u8])>, Stop> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let broken = |reason: String| Stop::Broken { position, reason };
        let left = self.end - position;
        self.fill(left.min(HEADER_BYTES as u64))?;
        let header = Header::parse(self.unread()).map_err(|e| broken(e.to_string()))?;
        if header.size > left {
            return Err(broken(format!("{left} of its {} bytes", header.size)));
        }
        self.fill(header.size)?;
        self.position += header.size;
        let start = (position - self.chunk_start) as usize;
        Ok(Some((header, &self.chunk[start..start + header.size as usize])))
    }

    fn unread(&self) -> &[u8] {
        &self.chunk[(self.position - self.chunk_start) as usize..]
    }

    /// Has the next `count` bytes in the chunk; never more than the file's own length is asked for.
    fn fill(&mut self, count: u64) -> Result<(), Stop> {
        if self.unread().len() as u64 >= count {
            return Ok(());
        }
        let wanted = count.max(BODY_CHUNK_BYTES).min(self.end - self.position) as usize;
        self.chunk.resize(wanted, 0);
        self.chunk_start = self.position;
        let read = self.file.read_at(&mut self.chunk, self.position)?;
        self.chunk.truncate(read);
        if (read as u64) < count {
            return Err(Stop::Broken { position: self.position, reason: format!("{read} of {count} bytes") });
        }
        Ok(())
    }
}
