//! Records on their way in and out of the client.
//!
//! Both own their bytes by reference count: a consumed record keeps the fetched (or decompressed) block alive
//! that it lies in, and copies nothing.

use bytes::Bytes;
use wire::compression::Compression;
pub use wire::records::{Header, TimestampType};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Str};

/// A record to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct ProducerRecord {
    /// Where to.
    pub topic: Str,
    /// The partition; chosen by the key when absent.
    pub partition: Option<PartitionId>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; absent, the record is a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in order; a key may occur more than once.
    pub headers: Vec<Header>,
    /// When it happened; the time of sending when absent.
    pub timestamp: Option<Millis>,
}

impl ProducerRecord {
    /// A record with a value and nothing else.
    pub fn new(topic: impl Into<Str>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// What the record takes at most inside a batch, uncompressed.
    pub(crate) fn size(&self) -> usize {
        /// Length, attributes, timestamp and offset deltas, key, value and header counts as varints.
        const RECORD_OVERHEAD: usize = 32;
        /// Two lengths as varints.
        const HEADER_OVERHEAD: usize = 10;
        let headers = self
            .headers
            .iter()
            .map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len) + HEADER_OVERHEAD);
        RECORD_OVERHEAD
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers.sum::<usize>()
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumedRecord {
    /// Where from.
    pub topic: Str,
    /// The partition.
    pub partition: PartitionId,
    /// The record's place in the partition.
    pub offset: Offset,
    /// The epoch of the leader that wrote it.
    pub leader_epoch: LeaderEpoch,
    /// When it happened or was written, see `timestamp_type`.
    pub timestamp: Millis,
    /// Who set the timestamp.
    pub timestamp_type: TimestampType,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; absent in a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in order; a key may occur more than once.
    pub headers: Vec<Header>,
    /// How its batch was compressed.
    pub compression: Compression,
    /// Whether it was written in a transaction.
    pub is_transactional: bool,
    /// The idempotent producer that wrote it, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// That producer's epoch.
    pub producer_epoch: ProducerEpoch,
}
