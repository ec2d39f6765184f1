//! A whole batch as a slice of the frame or file it came from.
//!
//! Invariant: the bytes are exactly the batch's, the header is checked. The checksum is verified by those who
//! ask for it, once, where the batch arrives. It never copies.

use std::iter::FusedIterator;
use std::ops::Deref;

use bytes::Bytes;

use super::header::{ATTRIBUTES_AT, BatchHeader, HEADER_BYTES};
use super::record::{RawRecords, Records};
use super::{BatchError, TimestampType};
use crate::Millis;
use crate::compression::Compression;

/// One batch; its header's fields are methods of [`BatchHeader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Deref for Batch {
    type Target = BatchHeader;
    fn deref(&self) -> &BatchHeader {
        &self.header
    }
}

impl Batch {
    /// The batch at the start of `bytes`, which may go on behind it.
    pub fn parse(bytes: &Bytes) -> Result<Batch, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        if bytes.len() < header.size() {
            return Err(BatchError::Truncated { wanted: header.size(), left: bytes.len() });
        }
        Ok(Batch { header, bytes: bytes.slice(..header.size()) })
    }

    /// The header by itself.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as it is on the wire and on disk.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The batch as it is on the wire and on disk.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Whether the checksum is that of the bytes.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let (stored, computed) = (self.header.crc(), crc32c::crc32c(&self.bytes[ATTRIBUTES_AT..]));
        if stored == computed { Ok(()) } else { Err(BatchError::Crc { stored, computed }) }
    }

    /// The records, decompressed to at most `limit` bytes.
    pub fn records(&self, limit: usize) -> Records {
        Records::new(self.raw_records(limit), self.header.base_offset(), self.timestamps())
    }

    /// The records undecoded but for their boundaries, decompressed to at most `limit` bytes.
    pub fn raw_records(&self, limit: usize) -> RawRecords {
        let payload = self.bytes.slice(HEADER_BYTES..);
        let payload = match self.header.attributes().compression() {
            // Nothing is decompressed here, so that there is nothing to limit.
            Compression::None => Ok(payload),
            codec => codec.decompress(&payload, limit).map(Bytes::from),
        };
        let (count, last_delta) = (self.header.record_count(), self.header.last_offset_delta());
        RawRecords::new(payload, count as usize, last_delta)
    }

    fn timestamps(&self) -> Timestamps {
        match self.header.attributes().timestamp_type() {
            TimestampType::CreateTime => Timestamps::Relative { base: self.header.base_timestamp() },
            TimestampType::LogAppendTime => Timestamps::Same(self.header.max_timestamp()),
        }
    }
}

/// Where the timestamps of a batch's records come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Timestamps {
    Relative { base: Millis },
    Same(Millis),
}

/// The batches of a records field, one after the other. Ends after the first error: where one batch is wrong,
/// the next cannot be found. A fetch response may end with a batch cut off; that is [`BatchError::Truncated`].
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// The batches in `records`.
    pub fn new(records: Bytes) -> Batches {
        Batches { rest: records }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = Batch::parse(&self.rest);
        self.rest = match &batch {
            Ok(batch) => self.rest.slice(batch.size()..),
            Err(_) => Bytes::new(),
        };
        Some(batch)
    }
}

impl FusedIterator for Batches {}
