//! Rows: topic settings, each with the broker settings that it inherits from.
//! The fields are what one partition's log and its appends read; absent bounds are `None`, never a magic number.

use wire::Millis;

/// Values of `cleanup.policy`.
pub(super) const CLEANUP_POLICIES: &[&str] = &["compact", "delete"];
/// Values of `message.timestamp.type`.
pub(super) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
/// Values of `compression.type`.
pub(super) const COMPRESSION_TYPES: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

section! {
    /// One topic's settings, after inheritance from the broker's.
    TopicSettings, ROWS;

    /// What happens to old records: `delete` drops segments by age and size, `compact` keeps the last record of each key,
    /// both may be given.
    "cleanup.policy" List OneOf(CLEANUP_POLICIES) = "delete", Topic Medium, from ["log.cleanup.policy"]
        => cleanup_policy: Vec<String>;
    /// Age in milliseconds at which records are deleted; -1 keeps them.
    "retention.ms" Long AtLeast(-1) = "604800000", Topic Medium,
        from ["log.retention.ms", "log.retention.minutes" * 60_000, "log.retention.hours" * 3_600_000]
        => retention_ms: Option<Millis>;
    /// Size in bytes that a partition may have before its oldest segments are deleted; -1 sets no bound.
    "retention.bytes" Long AtLeast(-1) = "-1", Topic Medium, from ["log.retention.bytes"] => retention_bytes: Option<u64>;
    /// Largest record batch in bytes, as compressed by the producer.
    "max.message.bytes" Int AtLeast(0) = "1048588", Topic Medium, from ["message.max.bytes"] => message_bytes_max: usize;
    /// In-sync replicas that must have a record before a producer with acks=all is answered.
    "min.insync.replicas" Int AtLeast(1) = "1", Topic Medium,
        from ["min.insync.replicas"] => min_insync_replicas: i32;
    /// Answer producers with acks=all only after their records are flushed to the disk. Off: answer from the page cache, as
    /// Kafka does.
    "flush.before.ack" Boolean Any = "true", Topic High, from ["log.flush.before.ack"] => flush_before_ack: bool;
    /// Flush a log after this many records, whoever waits for it.
    "flush.messages" Long AtLeast(1) = "9223372036854775807", Topic Medium,
        inert "acknowledged records are on the disk already, others are left to the operating system",
        from ["log.flush.interval.messages"]
        => flush_messages: u64;
    /// Flush a log when its oldest unflushed record is this old, in milliseconds.
    "flush.ms" Long AtLeast(0) = "9223372036854775807", Topic Medium,
        inert "see `flush.messages`",
        from ["log.flush.interval.ms", "log.flush.scheduler.interval.ms"] => flush_ms: Millis;

    /// Size in bytes at which a segment is closed and the next begun.
    "segment.bytes" Int AtLeast(1_048_576) = "1073741824", Topic Medium, from ["log.segment.bytes"] => segment_bytes: u32;
    /// Age in milliseconds at which a segment is closed.
    "segment.ms" Long AtLeast(1) = "604800000", Topic Medium, from ["log.roll.ms", "log.roll.hours" * 3_600_000]
        => segment_ms: Millis;
    /// Most milliseconds that are taken off a segment's age limit at random, so that segments do not all roll at once.
    "segment.jitter.ms" Long AtLeast(0) = "0", Topic Medium,
        inert "segments roll at their age",
        from ["log.roll.jitter.ms", "log.roll.jitter.hours" * 3_600_000] => segment_jitter_ms: Millis;
    /// Size in bytes of an offset index when it is full; the segment is closed then.
    "segment.index.bytes" Int AtLeast(4) = "10485760", Topic Medium, from ["log.index.size.max.bytes"]
        => segment_index_bytes: u32;
    /// Bytes of log between two entries of the offset index.
    "index.interval.bytes" Int AtLeast(0) = "4096", Topic Medium, from ["log.index.interval.bytes"]
        => index_interval_bytes: u32;
    /// Reserve a segment's whole size on the disk when it is begun.
    "preallocate" Boolean Any = "false", Topic Medium,
        inert "the room of a segment is not reserved ahead",
        from ["log.preallocate"] => preallocate: bool;
    /// Milliseconds between taking a segment out of the log and deleting its files.
    "file.delete.delay.ms" Long AtLeast(0) = "60000", Topic Medium,
        inert "files are deleted at once; who reads them keeps them open",
        from ["log.segment.delete.delay.ms"]
        => file_delete_delay_ms: Millis;

    /// Share of the log that must be uncompacted before it is compacted.
    "min.cleanable.dirty.ratio" Double Between(0, 1) = "0.5", Topic Medium, from ["log.cleaner.min.cleanable.ratio"]
        => min_cleanable_dirty_ratio: f64;
    /// Age in milliseconds below which a record is not compacted away.
    "min.compaction.lag.ms" Long AtLeast(0) = "0", Topic Medium, from ["log.cleaner.min.compaction.lag.ms"]
        => min_compaction_lag_ms: Millis;
    /// Age in milliseconds at which a record is compacted whatever the ratio says.
    "max.compaction.lag.ms" Long AtLeast(1) = "9223372036854775807", Topic Medium,
        from ["log.cleaner.max.compaction.lag.ms"] => max_compaction_lag_ms: Millis;
    /// Milliseconds for which a deletion marker (a record without a value) stays after compaction, so that readers learn of it.
    "delete.retention.ms" Long AtLeast(0) = "86400000", Topic Medium, from ["log.cleaner.delete.retention.ms"]
        => delete_retention_ms: Millis;

    /// Timestamp that records carry: `CreateTime` as the producer set it, `LogAppendTime` as the broker received it.
    "message.timestamp.type" String OneOf(TIMESTAMP_TYPES) = "CreateTime", Topic Medium,
        from ["log.message.timestamp.type"] => timestamp_type: String;
    /// How many milliseconds before the broker's clock a producer's timestamp may lie.
    "message.timestamp.before.max.ms" Long AtLeast(0) = "9223372036854775807", Topic Medium,
        from ["log.message.timestamp.before.max.ms"] => timestamp_before_max_ms: Millis;
    /// How many milliseconds after the broker's clock a producer's timestamp may lie.
    "message.timestamp.after.max.ms" Long AtLeast(0) = "3600000", Topic Medium,
        from ["log.message.timestamp.after.max.ms"] => timestamp_after_max_ms: Millis;
    /// Codec in which batches are stored; `producer` keeps what the producer chose, which costs nothing.
    "compression.type" String OneOf(COMPRESSION_TYPES) = "producer", Topic Medium, from ["compression.type"]
        => compression_type: String;
    /// Level when the broker itself compresses with gzip; -1 is the codec's default.
    "compression.gzip.level" Int BetweenOrMinusOne(1, 9) = "-1", Topic Medium, from ["compression.gzip.level"]
        => gzip_level: i32;
    /// Level when the broker itself compresses with LZ4.
    "compression.lz4.level" Int Between(1, 17) = "9", Topic Medium, from ["compression.lz4.level"] => lz4_level: i32;
    /// Level when the broker itself compresses with Zstandard.
    "compression.zstd.level" Int Between(-131_072, 22) = "3", Topic Medium, from ["compression.zstd.level"]
        => zstd_level: i32;

    /// Let a replica that may lack acknowledged records become leader. Off: rather no leader than lost records.
    "unclean.leader.election.enable" Boolean Any = "false", Topic Medium,
        from ["unclean.leader.election.enable"] => unclean_leader_election: bool;
    /// Replicas whose leaders are throttled, as `partition:broker`, or `*`.
    "leader.replication.throttled.replicas" List ThrottledReplicas = "", Topic Medium
        => leader_throttled_replicas: Vec<String>;
    /// Replicas that are throttled as followers, as `partition:broker`, or `*`.
    "follower.replication.throttled.replicas" List ThrottledReplicas = "", Topic Medium
        => follower_throttled_replicas: Vec<String>;
    /// Whether share groups may send dead letters to the topic.
    "errors.deadletterqueue.group.enable" Boolean Any = "false", Topic Medium => takes_dead_letters: bool;
    /// Keep closed segments in the object store.
    "remote.storage.enable" Boolean Any = "false", Topic Medium, awaits "tiered storage" => remote_storage: bool;
    /// Stop copying to the object store.
    "remote.log.copy.disable" Boolean Any = "false", Topic Medium, awaits "tiered storage" => remote_copy_disabled: bool;
    /// Delete what is in the object store when tiered storage is switched off.
    "remote.log.delete.on.disable" Boolean Any = "false", Topic Medium, awaits "tiered storage"
        => remote_delete_on_disable: bool;
    /// Bytes kept on the broker's own disk; -2 means the retention of the whole log.
    "local.retention.bytes" Long AtLeast(-2) = "-2", Topic Medium, awaits "tiered storage",
        from ["log.local.retention.bytes"] => local_retention_bytes: i64;
    /// Age in milliseconds of what is kept on the broker's own disk; -2 means the retention of the whole log.
    "local.retention.ms" Long AtLeast(-2) = "-2", Topic Medium, awaits "tiered storage",
        from ["log.local.retention.ms"] => local_retention_ms: i64;
}
