//! What a topic's settings say about its log, typed. Kafka's keys and defaults, units in the names; how a
//! string becomes one of these is the broker's settings table's business. A value here is already within
//! its bounds.

use wire::{Millis, compression::Compression};

/// Settings of one log. `Default` gives Kafka's defaults, except that acknowledged means flushed.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u32,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `segment.index.bytes`
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `retention.ms`, `None` for -1
    pub retention_ms: Option<i64>,
    /// `retention.bytes`, `None` for -1
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy`
    pub cleanup: Cleanup,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
    /// `max.message.bytes`: the largest batch, after any recompression
    pub max_message_bytes: u32,
    /// `message.timestamp.type`
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max_ms: i64,
    /// `compression.type`
    pub compression_type: CompressionType,
    /// `file.delete.delay.ms`. Kept to be described: readers hold descriptors, so files go at once.
    pub file_delete_delay_ms: i64,
    /// `log.flush.before.ack`: whether the high watermark counts flushed ends or written ones
    pub flush_before_ack: bool,
    /// `preallocate`. Kept to be described: see docs/decisions/003-flush-each-segment.md.
    pub preallocate: bool,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: i64,
    /// Producers remembered per partition; beyond it the longest silent one is forgotten.
    pub producers_max: usize,
}

/// `cleanup.policy`; both may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Old segments are removed by time and size.
    pub delete: bool,
    /// Of each key the latest record is kept.
    pub compact: bool,
}

/// `message.timestamp.type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// What the producer wrote.
    CreateTime,
    /// When the broker appended.
    LogAppendTime,
}

/// `compression.type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer compressed.
    Producer,
    /// Recompressed where it differs; the level is the codec's own, `None` for its default.
    Codec {
        /// Codec of every batch in the log.
        codec: Compression,
        /// `compression.<codec>.level`
        level: Option<i32>,
    },
}

impl CompressionType {
    /// Whether every batch of the log is in `codec`.
    pub fn is(self, codec: Compression) -> bool {
        matches!(self, CompressionType::Codec { codec: own, .. } if own == codec)
    }

    /// Whether a batch that came in `codec` is compressed anew.
    pub fn differs_from(self, codec: Compression) -> bool {
        matches!(self, CompressionType::Codec { codec: target, .. } if target != codec)
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: None,
            cleanup: Cleanup { delete: true, compact: false },
            delete_retention_ms: 24 * 3600 * 1000,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compression_type: CompressionType::Producer,
            file_delete_delay_ms: 60_000,
            flush_before_ack: true,
            preallocate: false,
            producer_id_expiration_ms: 24 * 3600 * 1000,
            producers_max: 100_000,
        }
    }
}

impl LogConfig {
    /// Whether `timestamp` lies too far from `now` for a CreateTime topic.
    pub(crate) fn refuses_timestamp(&self, timestamp: Millis, now: Millis) -> bool {
        let behind = now.0.saturating_sub(timestamp.0);
        behind > self.timestamp_before_max_ms || behind.saturating_neg() > self.timestamp_after_max_ms
    }

    /// Entries that the offset index of one segment may hold.
    pub(crate) fn index_entries_max(&self) -> u32 {
        (self.segment_index_bytes / 8).max(1)
    }

    /// Entries that the time index of one segment may hold; one is kept for the entry written at the roll.
    pub(crate) fn time_index_entries_max(&self) -> u32 {
        (self.segment_index_bytes / 12).saturating_sub(1).max(1)
    }
}
