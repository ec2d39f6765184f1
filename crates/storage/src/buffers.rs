//! Buffers for reads, kept and given out again: a fresh one would cost a page fault or a zeroing for every
//! 4 KiB. At most a fixed number of bytes is kept; what a reader holds is counted by whoever sends it. A
//! buffer given out shows only what was read into it.

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller reads take a plain allocation.
const POOLED_BYTES_MIN: usize = 16 * 1024;
/// Larger buffers are given back to the allocator.
const POOLED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes kept for the next readers.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), kept_bytes: 0 });

struct Pool {
    free: Vec<Vec<u8>>,
    kept_bytes: usize,
}

/// A buffer of some length, to be read into.
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    len: usize,
}

impl ReadBuffer {
    /// A buffer of `len` bytes with whatever content.
    pub(crate) fn take(len: usize) -> ReadBuffer {
        if !(POOLED_BYTES_MIN..=POOLED_BYTES_MAX).contains(&len) {
            return ReadBuffer { bytes: vec![0; len], len };
        }
        let capacity = len.next_power_of_two();
        let mut pool = POOL.lock();
        if let Some(at) = pool.free.iter().position(|free| free.len() == capacity) {
            let bytes = pool.free.swap_remove(at);
            pool.kept_bytes -= capacity;
            return ReadBuffer { bytes, len };
        }
        drop(pool);
        ReadBuffer { bytes: vec![0; capacity], len }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The first `len` bytes, as a value that gives the buffer back when its last clone goes.
    pub(crate) fn freeze(mut self, len: usize) -> Bytes {
        assert!(len <= self.len, "a buffer of {} bytes cannot show {len}", self.len);
        if len == 0 {
            return Bytes::new();
        }
        self.len = len;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.len().is_power_of_two() || !(POOLED_BYTES_MIN..=POOLED_BYTES_MAX).contains(&bytes.len()) {
            return;
        }
        let mut pool = POOL.lock();
        if pool.kept_bytes + bytes.len() <= KEPT_BYTES_MAX {
            pool.kept_bytes += bytes.len();
            pool.free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_shows_only_what_was_read_into_it() {
        let mut buffer = ReadBuffer::take(20_000);
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        assert_eq!(buffer.freeze(3), Bytes::from_static(b"abc"));
        assert_eq!(ReadBuffer::take(17_000).as_slice().len(), 17_000);
        assert_eq!(ReadBuffer::take(10).freeze(0), Bytes::new());
    }
}
