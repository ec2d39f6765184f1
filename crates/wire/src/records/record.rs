//! The records inside a batch.
//!
//! Invariant: a record is yielded only if it fills the length it announces and its offset lies inside the batch,
//! after the one before; headers keep their order and their duplicates. It never copies keys or values: they
//! are slices of the batch, or of its decompressed records.

use std::iter::FusedIterator;

use bytes::Bytes;

use super::batch::Timestamps;
use super::{BatchError, varint};
use crate::compression::DecompressError;
use crate::{Millis, Offset, Str};

/// A record as an application sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its position in the partition.
    pub offset: Offset,
    /// When it was made, or appended, as the batch says.
    pub timestamp: Millis,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order; a key may occur more than once.
    pub headers: Vec<Header>,
}

/// A record's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name. Bytes that are not UTF-8 are shown as replacement characters, as Kafka's own client does.
    pub key: Str,
    /// Its value, if it has one.
    pub value: Option<Bytes>,
}

/// A record with its boundaries found and its headers untouched: what compaction copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Unused so far, carried along.
    pub attributes: i8,
    /// Timestamp less the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset less the batch's base offset.
    pub offset_delta: i32,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// The count of headers and the headers, as on the wire.
    pub headers: Bytes,
}

impl RawRecord {
    /// Takes the record that starts at `at` of `payload`, and says where the next one starts.
    fn parse(payload: &Bytes, at: usize) -> Result<(RawRecord, usize), &'static str> {
        let mut rest = &payload[at..];
        let len = varint::take_i32(&mut rest).ok_or("its length is no varint")?;
        let len = usize::try_from(len).map_err(|_| "its length is negative")?;
        let body = rest.get(..len).ok_or("it is longer than the batch")?;
        let end = payload.len() - rest.len() + len;

        let (attributes, mut body) = body.split_first().ok_or("it is empty")?;
        let timestamp_delta = varint::take_i64(&mut body).ok_or("its timestamp is no varint")?;
        let offset_delta = varint::take_i32(&mut body).ok_or("its offset is no varint")?;
        let key = take_bytes(payload, end, &mut body).ok_or("its key is longer than the record")?;
        let value = take_bytes(payload, end, &mut body).ok_or("its value is longer than the record")?;
        check_headers(body)?;
        let headers = match body {
            // Most have none, and a slice would count its owners.
            [0] => Bytes::from_static(&[0]),
            _ => payload.slice(end - body.len()..end),
        };
        let attributes = *attributes as i8;
        Ok((RawRecord { attributes, timestamp_delta, offset_delta, key, value, headers }, end))
    }

    /// The headers, decoded.
    pub fn decode_headers(&self) -> Vec<Header> {
        let end = self.headers.len();
        let mut rest = &self.headers[..];
        // Boundaries were checked when the record was found; a raw record made by hand may still lie, and then
        // has the headers that can be read.
        let count = varint::take_i32(&mut rest).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let mut headers = Vec::with_capacity(count.min(rest.len() / 2));
        while headers.len() < count
            && let Some(Some(key)) = take_bytes(&self.headers, end, &mut rest)
            && let Some(value) = take_bytes(&self.headers, end, &mut rest)
        {
            let key = match Str::from_utf8(key.clone()) {
                Some(key) => key,
                None => Str::from(String::from_utf8_lossy(&key).into_owned()),
            };
            headers.push(Header { key, value });
        }
        headers
    }
}

/// Takes a length and that many bytes off the front of `rest`, which ends at `end` of `payload`: the outer option
/// is none if they are not there, the inner one if they are null.
fn take_bytes(payload: &Bytes, end: usize, rest: &mut &[u8]) -> Option<Option<Bytes>> {
    let len = varint::take_i32(rest)?;
    if len == -1 {
        return Some(None);
    }
    let len = usize::try_from(len).ok()?;
    let start = end - rest.len();
    *rest = rest.get(len..)?;
    Some(Some(payload.slice(start..start + len)))
}

/// Walks the headers without taking anything. A lying count ends with the bytes.
fn check_headers(mut rest: &[u8]) -> Result<(), &'static str> {
    let count = varint::take_i32(&mut rest).ok_or("its header count is no varint")?;
    if count < 0 {
        return Err("its header count is negative");
    }
    for _ in 0..count {
        skip_bytes(&mut rest).filter(|present| *present).ok_or("the key of a header is malformed")?;
        skip_bytes(&mut rest).ok_or("the value of a header is malformed")?;
    }
    if rest.is_empty() { Ok(()) } else { Err("it is longer than what it holds") }
}

/// Steps over a length and that many bytes, and says whether they were not null; none if they are not there.
fn skip_bytes(rest: &mut &[u8]) -> Option<bool> {
    let len = varint::take_i32(rest)?;
    if len == -1 {
        return Some(false);
    }
    *rest = rest.get(usize::try_from(len).ok()?..)?;
    Some(true)
}

/// The records of a batch, undecoded. Ends after the first error; a count that lies is an error at the end.
#[derive(Debug, Clone)]
pub struct RawRecords {
    /// What could not be decompressed is yielded as the first and only error.
    payload: Result<Bytes, DecompressError>,
    at: usize,
    index: usize,
    count: usize,
    last_offset_delta: i32,
    previous_delta: i32,
    ended: bool,
}

impl RawRecords {
    pub(super) fn new(
        payload: Result<Bytes, DecompressError>,
        count: usize,
        last_offset_delta: i32,
    ) -> RawRecords {
        RawRecords { payload, at: 0, index: 0, count, last_offset_delta, previous_delta: -1, ended: false }
    }

    /// Decompressed bytes of the records, if they could be decompressed.
    pub fn payload_bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }

    fn advance(&mut self) -> Result<Option<RawRecord>, BatchError> {
        let payload = self.payload.as_ref().map_err(|error| BatchError::from(error.clone()))?;
        if self.index == self.count {
            return match payload.len() - self.at {
                0 => Ok(None),
                left => Err(BatchError::TrailingBytes(left)),
            };
        }
        let refuse = |reason| BatchError::Record { index: self.index, reason };
        if self.at == payload.len() {
            return Err(refuse("the batch ends before it"));
        }
        let (record, end) = RawRecord::parse(payload, self.at).map_err(refuse)?;
        if record.offset_delta <= self.previous_delta || record.offset_delta > self.last_offset_delta {
            return Err(refuse("its offset is out of order or out of the batch"));
        }
        self.at = end;
        self.index += 1;
        self.previous_delta = record.offset_delta;
        Ok(Some(record))
    }
}

impl Iterator for RawRecords {
    type Item = Result<RawRecord, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl FusedIterator for RawRecords {}

/// The records of a batch. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records {
    raw: RawRecords,
    base_offset: Offset,
    timestamps: Timestamps,
}

impl Records {
    pub(super) fn new(raw: RawRecords, base_offset: Offset, timestamps: Timestamps) -> Records {
        Records { raw, base_offset, timestamps }
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = match self.raw.next()? {
            Ok(raw) => raw,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(Record {
            offset: self.base_offset.plus(i64::from(raw.offset_delta)),
            timestamp: match self.timestamps {
                Timestamps::Relative { base } => Millis(base.0.wrapping_add(raw.timestamp_delta)),
                Timestamps::Same(timestamp) => timestamp,
            },
            headers: raw.decode_headers(),
            key: raw.key,
            value: raw.value,
        }))
    }
}

impl FusedIterator for Records {}
