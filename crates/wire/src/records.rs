//! Record batches, format version 2: the unit in which records travel, are stored and are checked.
//!
//! Invariant: a [`Batch`] in hand has a header whose arithmetic holds and exactly the bytes its length says.
//! Nothing here decodes a record unless asked to, and nothing changes a batch except [`edit`].

mod header;
mod batch;
mod record;
mod varint;
mod builder;
pub mod edit;

use crate::ErrorCode;
use crate::compression::DecompressError;

pub use batch::{Batch, Batches};
pub use builder::{BatchBuilder, BatchOptions};
pub use header::{Attributes, BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, TimestampType};
pub use record::{Header, RawRecord, RawRecords, Record, Records};

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The batch goes on, the bytes do not.
    #[error("a batch of {wanted} bytes is cut off after {left}")]
    Truncated {
        /// Bytes of the batch as far as known.
        wanted: usize,
        /// Bytes there are.
        left: usize,
    },
    /// The batch's length is less than its header's.
    #[error("batch length {0} is less than that of a header")]
    Length(i32),
    /// Message sets of before Kafka 0.11.
    #[error("message format {0} is not supported, only 2 is")]
    OldFormat(i8),
    /// Neither an old format nor the one there is.
    #[error("unknown message format {0}")]
    UnknownFormat(i8),
    /// The checksum is not that of the bytes.
    #[error("checksum is {stored:#010x}, the bytes have {computed:#010x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A codec number that nobody has given away.
    #[error("unknown compression code {0}")]
    UnknownCompression(i16),
    /// A last offset before the first, or past the largest there is.
    #[error("last offset delta {0} is not possible")]
    LastOffsetDelta(i32),
    /// More records than offsets or bytes, or fewer than none.
    #[error("record count {0} is not possible")]
    RecordCount(i32),
    /// A record that is not one.
    #[error("record {index} is malformed: {reason}")]
    Record {
        /// Its place in the batch, from zero.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The records do not fill the batch: the count lies.
    #[error("{0} bytes are left after the last record")]
    TrailingBytes(usize),
    /// The compressed records are corrupt, or too large decompressed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
}

impl BatchError {
    /// What a client is told.
    ///
    /// Bytes that were damaged on the way are CORRUPT_MESSAGE, which clients retry. What a client made wrong
    /// will be wrong the next time, too: INVALID_RECORD.
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            BatchError::Truncated { .. }
            | BatchError::Length(_)
            | BatchError::UnknownFormat(_)
            | BatchError::Crc { .. } => ErrorCode::CORRUPT_MESSAGE,
            BatchError::OldFormat(_) => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
            BatchError::UnknownCompression(_)
            | BatchError::LastOffsetDelta(_)
            | BatchError::RecordCount(_)
            | BatchError::Record { .. }
            | BatchError::TrailingBytes(_)
            | BatchError::Decompress(DecompressError::Corrupt { .. }) => ErrorCode::INVALID_RECORD,
            BatchError::Decompress(DecompressError::TooLarge { .. }) => ErrorCode::MESSAGE_TOO_LARGE,
        }
    }
}
