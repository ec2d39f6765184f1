//! From a topic's settings to what its log is opened with.
//! Words become types here, once; `storage` never sees a text. The match arms cover what the table's rows allow.

use storage::{Cleanup, CompressionType, LogConfig, TimestampType};
use wire::compression::Compression;

use super::{Settings, TopicSettings};

/// Batches of the metadata log may be as large as Kafka's.
const METADATA_BATCH_BYTES_MAX: u32 = 8 * 1024 * 1024;

impl Settings {
    /// What the logs of a topic with these settings are opened with.
    #[must_use]
    pub fn log_config(&self, topic: &TopicSettings) -> LogConfig {
        let log = &self.broker.log;
        LogConfig {
            segment_bytes: topic.segment_bytes,
            segment_ms: topic.segment_ms.0,
            segment_index_bytes: topic.segment_index_bytes,
            index_interval_bytes: topic.index_interval_bytes,
            retention_ms: topic.retention_ms.map(|ms| ms.0),
            retention_bytes: topic.retention_bytes,
            cleanup: Cleanup { delete: has(topic, "delete"), compact: has(topic, "compact") },
            delete_retention_ms: topic.delete_retention_ms.0,
            min_cleanable_dirty_ratio: topic.min_cleanable_dirty_ratio,
            min_compaction_lag_ms: topic.min_compaction_lag_ms.0,
            max_compaction_lag_ms: topic.max_compaction_lag_ms.0,
            max_message_bytes: u32::try_from(topic.message_bytes_max).unwrap_or(u32::MAX),
            message_timestamp_type: timestamp_type(topic),
            timestamp_before_max_ms: topic.timestamp_before_max_ms.0,
            timestamp_after_max_ms: topic.timestamp_after_max_ms.0,
            compression_type: compression_type(topic),
            file_delete_delay_ms: topic.file_delete_delay_ms.0,
            flush_before_ack: topic.flush_before_ack,
            preallocate: topic.preallocate,
            producer_id_expiration_ms: i64::try_from(log.producer_id_expiration.as_millis())
                .unwrap_or(i64::MAX),
            ..LogConfig::default()
        }
    }

    /// What the log of the cluster's metadata is opened with. Nothing of it may ever expire, and nothing is answered
    /// before it is on the disk, whatever topics are told.
    #[must_use]
    pub fn metadata_log_config(&self) -> LogConfig {
        LogConfig {
            retention_ms: None,
            retention_bytes: None,
            cleanup: Cleanup { delete: false, compact: false },
            max_message_bytes: METADATA_BATCH_BYTES_MAX,
            timestamp_after_max_ms: i64::MAX,
            compression_type: CompressionType::Producer,
            flush_before_ack: true,
            ..LogConfig::default()
        }
    }
}

fn has(topic: &TopicSettings, policy: &str) -> bool {
    topic.cleanup_policy.iter().any(|item| item == policy)
}

fn timestamp_type(topic: &TopicSettings) -> TimestampType {
    match &*topic.timestamp_type {
        "CreateTime" => TimestampType::CreateTime,
        "LogAppendTime" => TimestampType::LogAppendTime,
        other => unreachable!("the table does not allow timestamp type {other}"),
    }
}

fn compression_type(topic: &TopicSettings) -> CompressionType {
    let codec = |codec, level| CompressionType::Codec { codec, level };
    match &*topic.compression_type {
        "producer" => CompressionType::Producer,
        "uncompressed" => codec(Compression::None, None),
        "gzip" => codec(Compression::Gzip, Some(topic.gzip_level).filter(|level| *level != -1)),
        "snappy" => codec(Compression::Snappy, None),
        "lz4" => codec(Compression::Lz4, Some(topic.lz4_level)),
        "zstd" => codec(Compression::Zstd, Some(topic.zstd_level)),
        other => unreachable!("the table does not allow compression type {other}"),
    }
}
