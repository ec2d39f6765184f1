//! The fixed 61 bytes of a record batch, read from wherever they lie. `wire::records` views whole batches in
//! memory; the log also walks files, where the body is not at hand. Only structure is checked here, never
//! the checksum, and nothing is allocated.

use wire::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes that the log assigns: base offset, length, leader epoch. The checksum starts behind them.
pub(crate) const ASSIGNED_BYTES: usize = 16;
/// Bytes before the part that the batch's own length counts.
const PREFIX_BYTES: u64 = 12;
/// Where the checksummed part starts.
pub(crate) const CRC_START: usize = 21;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const TIMESTAMP_TYPE_BIT: u16 = 1 << 3;
const TRANSACTIONAL_BIT: u16 = 1 << 4;
const CONTROL_BIT: u16 = 1 << 5;
const DELETE_HORIZON_BIT: u16 = 1 << 6;

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: Offset,
    /// Bytes of the whole batch.
    pub(crate) size: u64,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) crc: u32,
    pub(crate) attributes: u16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: Millis,
    pub(crate) max_timestamp: Millis,
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
}

/// Why 61 bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("{0} bytes are too few for a batch header")]
    Short(usize),
    #[error("message format {0}")]
    Magic(i8),
    #[error("length {0}")]
    Length(i32),
    #[error("base offset {0}")]
    Offset(i64),
    #[error("last offset delta {0}")]
    Delta(i32),
    #[error("record count {0}")]
    Count(i32),
}

fn take<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl Header {
    /// Reads the header at the front of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Short(bytes.len()));
        };
        let magic = bytes[16] as i8;
        if magic != 2 {
            return Err(HeaderError::Magic(magic));
        }
        let length = i32::from_be_bytes(take(bytes, 8));
        if length < HEADER_BYTES as i32 - PREFIX_BYTES as i32 {
            return Err(HeaderError::Length(length));
        }
        let header = Header {
            base_offset: Offset(i64::from_be_bytes(take(bytes, 0))),
            size: PREFIX_BYTES + length as u64,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(take(bytes, 12))),
            crc: u32::from_be_bytes(take(bytes, CRC_AT)),
            attributes: u16::from_be_bytes(take(bytes, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(take(bytes, 23)),
            base_timestamp: Millis(i64::from_be_bytes(take(bytes, 27))),
            max_timestamp: Millis(i64::from_be_bytes(take(bytes, MAX_TIMESTAMP_AT))),
            producer_id: ProducerId(i64::from_be_bytes(take(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(take(bytes, 51))),
            base_sequence: i32::from_be_bytes(take(bytes, 53)),
            record_count: i32::from_be_bytes(take(bytes, 57)),
        };
        if header.base_offset.0 < 0 || header.base_offset.0 > i64::MAX - i64::from(i32::MAX) - 1 {
            return Err(HeaderError::Offset(header.base_offset.0));
        }
        if header.last_offset_delta < 0 {
            return Err(HeaderError::Delta(header.last_offset_delta));
        }
        // Compaction leaves batches with fewer records than offsets, never with more.
        if header.record_count < 0 || i64::from(header.record_count) > i64::from(header.last_offset_delta) + 1
        {
            return Err(HeaderError::Count(header.record_count));
        }
        Ok(header)
    }

    pub(crate) fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    pub(crate) fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    pub(crate) fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_BIT != 0
    }

    pub(crate) fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    pub(crate) fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// The low three bits of the attributes: the codec's number.
    pub(crate) fn codec(&self) -> i16 {
        (self.attributes & 7) as i16
    }

    /// The sequence of the last record; sequences wrap to 0 after `i32::MAX`.
    pub(crate) fn last_sequence(&self) -> i32 {
        sequence_plus(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence` moved on by `count`, wrapping from `i32::MAX` to 0.
pub(crate) fn sequence_plus(sequence: i32, count: i32) -> i32 {
    if sequence < 0 { sequence } else { (i64::from(sequence) + i64::from(count)).rem_euclid(1 << 31) as i32 }
}

/// Writes what the log assigns into the front of a header.
pub(crate) fn assign(bytes: &mut [u8; ASSIGNED_BYTES], base: Offset, epoch: LeaderEpoch) {
    bytes[..8].copy_from_slice(&base.0.to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Turns a header into one of log append time `now`, checksum included. `body` is what follows the header.
pub(crate) fn stamp_append_time(header: &mut [u8; HEADER_BYTES], body: &[u8], now: Millis) {
    let attributes = u16::from_be_bytes(take(header, ATTRIBUTES_AT)) | TIMESTAMP_TYPE_BIT;
    header[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    header[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&now.0.to_be_bytes());
    seal(header, body);
}

/// Computes the checksum of header and body into the header.
pub(crate) fn seal(header: &mut [u8; HEADER_BYTES], body: &[u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[CRC_START..]), body);
    header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Whether the checksum of a whole batch is right.
pub(crate) fn crc_matches(batch: &[u8]) -> bool {
    match Header::parse(batch) {
        Ok(header) if batch.len() as u64 == header.size => crc32c::crc32c(&batch[CRC_START..]) == header.crc,
        _ => false,
    }
}
