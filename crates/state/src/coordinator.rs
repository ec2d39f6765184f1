//! What the machines of the coordinators have in common: each keeps one partition ("shard") of a topic of the broker's own, and
//! what it believes is what the records of that partition say.
//!
//! # What the shell owes these machines
//!
//! Memory changes at once, the log a moment later. So the shell appends [`Outcome::records`] in the order of the calls
//! and delivers replies, those of read-only calls included, only when everything that this shard returned before is
//! durable. If an append fails, the shell drops the whole machine and loads the partition again.

use bytes::Bytes;
use wire::{DecodeError, Decoder, Encoder, Message, Millis, ProducerEpoch, ProducerId, Response};

/// Names one parked request of the shell. The shell may forget a token at any time: a reply to it is then dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What time it is, twice: deadlines follow a clock that only runs forward, what is stored follows the calendar's, which
/// may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never jumps, from any beginning.
    pub ticks: Millis,
    /// Milliseconds since the Unix epoch.
    pub wall: Millis,
}

impl Now {
    /// The deadline in `ms` milliseconds.
    pub(crate) fn plus(self, ms: i64) -> Millis {
        self.ticks.plus(ms)
    }
}

/// One clock for both, where nobody sets it.
impl From<Millis> for Now {
    fn from(now: Millis) -> Self {
        Now { ticks: now, wall: now }
    }
}

/// What a command leaves to do: records to append, and requests to answer once they are durable.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Records for the shard's partition, in order.
    pub records: Vec<CoordinatorRecord>,
    /// The transaction that the records belong to, if they do: they count when it is committed.
    pub transaction: Option<(ProducerId, ProducerEpoch)>,
    /// Answers, which may go to requests that were parked by earlier commands.
    pub replies: Vec<(Token, Response)>,
}

impl Outcome {
    pub(crate) fn reply(token: Token, response: Response) -> Self {
        Outcome { replies: vec![(token, response)], ..Outcome::default() }
    }
}

/// A record to append to the shard's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorRecord {
    /// Record type and key.
    pub key: Bytes,
    /// Version and value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// What a shard's partition holds, as a machine that is loaded sees it.
#[derive(Clone, Copy, Debug)]
pub enum Replayed<'a> {
    /// A record that counts.
    Record {
        /// Record type and key.
        key: &'a [u8],
        /// Version and value.
        value: Option<&'a [u8]>,
    },
    /// A record that counts when the producer's transaction is committed.
    InTransaction {
        /// The producer.
        producer: ProducerId,
        /// Record type and key.
        key: &'a [u8],
        /// Version and value.
        value: Option<&'a [u8]>,
    },
    /// The end of a producer's transaction in this partition.
    Ended {
        /// The producer.
        producer: ProducerId,
        /// Whether it was committed.
        commit: bool,
    },
}

/// Why a record could not be replayed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// A record of something that is not kept here, such as a KIP-848 group.
    #[error("record type {0} is not known")]
    UnknownType(i16),
    /// The bytes are not what the schema says, or of a version from the future.
    #[error("record does not decode: {0}")]
    Malformed(#[from] DecodeError),
    /// The record's number stands for nothing.
    #[error("a transaction has no state {0}")]
    UnknownState(i8),
    /// The record's number stands for nothing.
    #[error("a record of a share-partition has no state {0}")]
    UnknownDeliveryState(i8),
    /// Offsets that are in no order.
    #[error("no offsets lie between {first} and {last}")]
    NotARange {
        /// Where they are said to begin.
        first: i64,
        /// Where they are said to end.
        last: i64,
    },
    /// Only some kinds of records can belong to a transaction.
    #[error("a record of this type does not belong into a transaction")]
    NotInTransaction,
}

/// A value is preceded by the version of its schema.
pub(crate) fn versioned<M: Message>(value: &[u8]) -> Result<M, DecodeError> {
    let mut decoder = Decoder::new(Bytes::copy_from_slice(value));
    let version = decoder.int16()?;
    M::decode(&mut decoder, version)
}

/// What `body` writes, behind a record type or a version.
pub(crate) fn prefixed(prefix: i16, body: impl FnOnce(&mut Encoder)) -> Bytes {
    let mut encoder = Encoder::new();
    encoder.int16(prefix);
    body(&mut encoder);
    encoder.into_bytes()
}
