//! Why acknowledgements are refused, and which Kafka error says so.

use wire::{ErrorCode, Offset};

/// Refused acknowledgements: all of a partition's, and nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A batch ends before it begins.
    #[error("no offsets lie between {first} and {last}")]
    NotARange {
        /// Where it is said to begin.
        first: Offset,
        /// Where it is said to end.
        last: Offset,
    },
    /// Batches come in order and do not overlap.
    #[error("the batch at {first} does not come after {before}, where the one before it ends")]
    OutOfOrder {
        /// Where the batch begins.
        first: Offset,
        /// Where the one before it ends.
        before: Offset,
    },
    /// One type counts for all offsets; otherwise there is one for each.
    #[error("{types} acknowledge types do not fit {offsets} offsets: one for all, or one for each")]
    TypeCount {
        /// How many there are.
        types: usize,
        /// How many offsets.
        offsets: i64,
    },
    /// The number stands for nothing.
    #[error(
        "there is no acknowledge type {0}: it is 0 (gap), 1 (accept), 2 (release), 3 (reject) or 4 (renew)"
    )]
    UnknownType(i8),
    /// The member does not have the record: it never had, its lock has ended, or it has said what has become of it.
    #[error("the record at {offset} is not with this member")]
    NotAcquired {
        /// Where it is.
        offset: Offset,
    },
}

impl From<Refusal> for ErrorCode {
    fn from(refusal: Refusal) -> ErrorCode {
        match refusal {
            Refusal::NotARange { .. }
            | Refusal::OutOfOrder { .. }
            | Refusal::TypeCount { .. }
            | Refusal::UnknownType(_) => ErrorCode::INVALID_REQUEST,
            Refusal::NotAcquired { .. } => ErrorCode::INVALID_RECORD_STATE,
        }
    }
}
