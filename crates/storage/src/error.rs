//! The ways in which storing fails. A refusal (the input is wrong, nothing happened) and a fault (the disk
//! is wrong, the log is out of service) are different types or variants, never a string. Mapping them to
//! Kafka's error codes is the broker's.

use std::{io, path::PathBuf};

use wire::{Millis, Offset, ProducerEpoch, ProducerId};

/// A fault: the log, or the data directory, cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An earlier disk error took the log out of service; it stays so until the process restarts.
    #[error("the log is offline after an earlier disk error")]
    Offline,
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
    /// The log is about to lie in another data directory, or its files are about to go.
    #[error("the partition is just being moved or removed")]
    Moving,
    /// The disk failed just now; the log is offline from here on.
    #[error("{path}: {source}")]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// There was no room for the append. Nothing of it is kept, and the log goes on when there is.
    #[error("{path}: {source}")]
    Full {
        /// The partition's directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// What was flushed is no longer there or no longer right. It is never cut away; it wants a replica, or
    /// a person.
    #[error("{path}: damaged below the flushed end, at offset {at}: {reason}")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// The first offset that cannot be trusted.
        at: Offset,
        /// What is wrong with it.
        reason: String,
    },
    /// A log could not be made, for this reason, and some of it may be left.
    #[error("{0}; what there is of the log could not be removed")]
    HalfMade(Box<StorageError>),
    /// The data directory that holds the partition, or may hold it, is offline.
    #[error("data directory {path} is offline")]
    DirOffline {
        /// The data directory.
        path: PathBuf,
    },
    /// Nobody can tell whether the partition's records here are the newest: it is not served.
    #[error("{path}: {reason}")]
    Undecided {
        /// The partition's directory, or one of them.
        path: PathBuf,
        /// What is unclear, and what to do.
        reason: String,
    },
    /// The partition's directory belongs to another topic of the same name.
    #[error("{path} belongs to topic id {found}, not {expected}")]
    ForeignTopic {
        /// The partition's directory.
        path: PathBuf,
        /// The id in its `partition.metadata`.
        found: wire::Uuid,
        /// The id that was asked for.
        expected: wire::Uuid,
    },
}

/// Why an append did not happen. Except for `Storage`, nothing was written and the log goes on.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk or the log is out of service: KAFKA_STORAGE_ERROR.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Lengths or checksum are wrong: CORRUPT_MESSAGE.
    #[error("corrupt batch: {0}")]
    Corrupt(String),
    /// A message format before v2: UNSUPPORTED_FOR_MESSAGE_FORMAT.
    #[error("message format {0} is not supported")]
    UnsupportedFormat(i8),
    /// A batch above `max.message.bytes`: MESSAGE_TOO_LARGE.
    #[error("batch of {size} bytes exceeds the limit of {size_max}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        size_max: usize,
    },
    /// A batch, or what it decompresses to, cannot be in a segment: RECORD_LIST_TOO_LARGE.
    #[error("batches of {size} bytes exceed the segment size of {size_max}")]
    LargerThanSegment {
        /// Their size.
        size: usize,
        /// `segment.bytes`
        size_max: usize,
    },
    /// Counts, keys or kinds that the topic does not take: INVALID_RECORD.
    #[error("invalid record: {reason}")]
    InvalidRecord {
        /// Indexes in the batch of the records that are to blame (KIP-467); none where it is the batch itself.
        records: Vec<i32>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A timestamp outside `message.timestamp.*.max.ms`: INVALID_TIMESTAMP.
    #[error("timestamp {timestamp} is out of range at {now}")]
    InvalidTimestamp {
        /// Indexes in the batch of the records that have one; none where it is the batch itself.
        records: Vec<i32>,
        /// The offending timestamp.
        timestamp: Millis,
        /// The broker's clock at the append.
        now: Millis,
    },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER
    #[error("producer {producer_id}: sequence {found} where {expected} was due")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The sequence that continues its last batch.
        expected: i32,
        /// The sequence that came.
        found: i32,
    },
    /// INVALID_PRODUCER_EPOCH
    #[error("producer {producer_id}: epoch {found} is older than {current}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The epoch that the log knows.
        current: ProducerEpoch,
        /// The epoch that came.
        found: ProducerEpoch,
    },
    /// A plain batch within a producer's open transaction: INVALID_TXN_STATE.
    #[error("producer {0}: a batch outside of its open transaction")]
    InvalidTxnState(ProducerId),
    /// A marker of a coordinator that has been replaced: TRANSACTION_COORDINATOR_FENCED.
    #[error("producer {0}: a marker of a fenced transaction coordinator")]
    CoordinatorFenced(ProducerId),
    /// A replicated batch that does not continue this log.
    #[error("replicated offset {found} does not continue the log at {expected}")]
    OffsetsOutOfOrder {
        /// The log end.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
}

/// Why a read did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the log end: OFFSET_OUT_OF_RANGE.
    #[error("offset {asked} is outside of {log_start}..={log_end}")]
    OutOfRange {
        /// What was asked for.
        asked: Offset,
        /// The first offset there is.
        log_start: Offset,
        /// The offset that the next record will get.
        log_end: Offset,
    },
    /// The disk or the log is out of service: KAFKA_STORAGE_ERROR.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("data directory {path} is locked by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another cluster or node.
    #[error("data directory {path} belongs to {key} {found}, not {expected}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// `cluster.id` or `node.id`
        key: &'static str,
        /// What its `meta.properties` says.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The same directory twice, or a copy of it.
    #[error(
        "data directories {path} and {other} have the same directory.id {id}: one is a copy of the other, or both are one"
    )]
    SameDirectory {
        /// The directory.
        path: PathBuf,
        /// The one before.
        other: PathBuf,
        /// What both `meta.properties` say.
        id: wire::Uuid,
    },
    /// Every directory is out of order.
    #[error("no data directory can be used; the last one said: {0}")]
    NoneUsable(Box<DataDirError>),
    /// A file in it cannot be understood.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl StorageError {
    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.into();
        move |source| StorageError::Disk { path, source }
    }
}

impl DataDirError {
    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DataDirError {
        let path = path.into();
        move |source| DataDirError::Disk { path, source }
    }
}
