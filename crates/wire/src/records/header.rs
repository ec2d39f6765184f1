//! The 61 bytes that every batch starts with.
//!
//! ```text
//!  0 base offset            8 batch length        12 leader epoch   16 format (2)   17 CRC-32C of what follows
//! 21 attributes            23 last offset delta   27 base timestamp                 35 max timestamp
//! 43 producer id           51 producer epoch      53 base sequence  57 record count  61 records
//! ```
//!
//! Invariant: a header in hand is consistent with itself. It never reads past its 61 bytes, so that a log can
//! be walked without reading records.

use super::BatchError;
use crate::compression::Compression;
use crate::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 61;
/// Bytes up to and including the length, which counts what follows it.
pub const LENGTH_PREFIX_BYTES: usize = 12;

pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const FORMAT_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
/// The first byte that the checksum covers.
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const BASE_SEQUENCE_AT: usize = 53;
pub(super) const RECORD_COUNT_AT: usize = 57;

pub(super) const FORMAT: i8 = 2;
pub(super) const COMPRESSION_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// Length, attributes, two deltas, key and value length, header count: one byte each.
const RECORD_BYTES_MIN: usize = 7;

/// Who set the timestamps of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer, for each record.
    #[default]
    CreateTime,
    /// The broker, one for the batch.
    LogAppendTime,
}

/// The attribute bits of a batch whose compression is known to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(i16);

impl Attributes {
    fn parse(bits: i16) -> Result<Attributes, BatchError> {
        let code = bits & COMPRESSION_MASK;
        Compression::from_code(code).ok_or(BatchError::UnknownCompression(code))?;
        Ok(Attributes(bits))
    }

    /// As on the wire.
    pub fn bits(self) -> i16 {
        self.0
    }

    /// How the records are compressed.
    pub fn compression(self) -> Compression {
        Compression::from_code(self.0 & COMPRESSION_MASK).expect("checked when parsed")
    }

    /// Who set the timestamps.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the records belong to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Whether the records are markers, of no interest to applications.
    pub fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Whether the base timestamp is the time from which tombstones may go (KIP-534).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }
}

/// A checked header, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    base_offset: Offset,
    size: usize,
    leader_epoch: LeaderEpoch,
    crc: u32,
    attributes: Attributes,
    last_offset_delta: i32,
    base_timestamp: Millis,
    max_timestamp: Millis,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which need not hold the records.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let truncated = |wanted| BatchError::Truncated { wanted, left: bytes.len() };
        // The format is asked for first: what follows it means something else in an old message.
        match bytes.get(FORMAT_AT).map(|format| *format as i8) {
            Some(FORMAT) => {}
            Some(old @ (0 | 1)) => return Err(BatchError::OldFormat(old)),
            Some(unknown) => return Err(BatchError::UnknownFormat(unknown)),
            None => return Err(truncated(HEADER_BYTES)),
        }
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(truncated(HEADER_BYTES))?;
        let length = i32::from_be_bytes(field(header, 8));
        let size = usize::try_from(length).ok().map(|length| length.saturating_add(LENGTH_PREFIX_BYTES));
        let size = size.filter(|size| *size >= HEADER_BYTES).ok_or(BatchError::Length(length))?;
        let parsed = BatchHeader {
            base_offset: Offset(i64::from_be_bytes(field(header, 0))),
            size,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(header, LEADER_EPOCH_AT))),
            crc: u32::from_be_bytes(field(header, CRC_AT)),
            attributes: Attributes::parse(i16::from_be_bytes(field(header, ATTRIBUTES_AT)))?,
            last_offset_delta: i32::from_be_bytes(field(header, LAST_OFFSET_DELTA_AT)),
            base_timestamp: Millis(i64::from_be_bytes(field(header, BASE_TIMESTAMP_AT))),
            max_timestamp: Millis(i64::from_be_bytes(field(header, MAX_TIMESTAMP_AT))),
            producer_id: ProducerId(i64::from_be_bytes(field(header, PRODUCER_ID_AT))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(header, PRODUCER_EPOCH_AT))),
            base_sequence: i32::from_be_bytes(field(header, BASE_SEQUENCE_AT)),
            record_count: i32::from_be_bytes(field(header, RECORD_COUNT_AT)),
        };
        parsed.check_arithmetic()?;
        Ok(parsed)
    }

    fn check_arithmetic(&self) -> Result<(), BatchError> {
        let offsets = i64::from(self.last_offset_delta) + 1;
        if offsets <= 0 || self.base_offset.0.checked_add(offsets).is_none() {
            return Err(BatchError::LastOffsetDelta(self.last_offset_delta));
        }
        // Fewer records than offsets is what compaction leaves behind; more cannot be.
        let count =
            usize::try_from(self.record_count).ok().filter(|_| i64::from(self.record_count) <= offsets);
        let count = count.ok_or(BatchError::RecordCount(self.record_count))?;
        let plain = self.attributes.compression() == Compression::None;
        if plain && count > (self.size - HEADER_BYTES) / RECORD_BYTES_MIN {
            return Err(BatchError::RecordCount(self.record_count));
        }
        Ok(())
    }

    /// The offset of the first record, as the batch was written: compaction may have removed that record.
    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// The offset of the last record, as the batch was written.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// Last offset less base offset, never negative.
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta
    }

    /// The epoch of the leader that appended the batch.
    pub fn partition_leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The CRC-32C of everything from the attributes on.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Compression and flags.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// What record timestamps are relative to; with a delete horizon, that horizon.
    pub fn base_timestamp(&self) -> Millis {
        self.base_timestamp
    }

    /// The highest timestamp of the records; with log append time, the timestamp of each.
    pub fn max_timestamp(&self) -> Millis {
        self.max_timestamp
    }

    /// From when on tombstones of the batch may be removed, if compaction has set it.
    pub fn delete_horizon(&self) -> Option<Millis> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// The idempotent producer, or [`ProducerId::NONE`].
    pub fn producer_id(&self) -> ProducerId {
        self.producer_id
    }

    /// The producer's epoch, or [`ProducerEpoch::NONE`].
    pub fn producer_epoch(&self) -> ProducerEpoch {
        self.producer_epoch
    }

    /// The sequence of the first record, or -1.
    pub fn base_sequence(&self) -> i32 {
        self.base_sequence
    }

    /// The sequence of the last record, or -1. Sequences wrap from the largest integer to zero.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }

    /// How many records there are, never negative; compaction may have left fewer than offsets, or none.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        self.size
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("inside the header")
}
