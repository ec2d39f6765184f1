//! Rows: the log on disk: durability, segments, retention, compaction, timestamps.
//! Most of these are what topics inherit; `TopicSettings` is where the log reads them.

use std::time::Duration;

section! {
    /// The log on disk: durability, segments, retention, compaction, timestamps.
    LogSettings, ROWS;

    /// Answer producers with acks=all only after their records are flushed to the disk. Off: answer from the page cache, as
    /// Kafka does, and lose acknowledged records when all replicas lose power at once.
    "log.flush.before.ack" Boolean Any = "true", ClusterWide High => flush_before_ack: bool;
    /// How many bytes a second a broker reads again of what it holds, to find what has rotted on the disk; 0 is none. What is
    /// found is taken anew from another replica. A pass begins when the broker starts, and every ten minutes where it takes no
    /// longer.
    "log.scrub.bytes.per.second" Long AtLeast(0) = "4194304", ClusterWide Low => scrub_bytes_per_second: u64;
    /// Flush a log after this many records, whoever waits for it.
    "log.flush.interval.messages" Long AtLeast(1) = "9223372036854775807", ClusterWide High,
        inert "acknowledged records are on the disk already, others are left to the operating system"
        => flush_messages: u64;
    /// Flush a log when its oldest unflushed record is this old. Without it `log.flush.scheduler.interval.ms`.
    "log.flush.interval.ms" Long AtLeast(0) = null, ClusterWide High,
        inert "see `log.flush.interval.messages`"
        => flush_interval: Option<Duration>;
    /// How often logs are looked at for a flush by age.
    "log.flush.scheduler.interval.ms" Long AtLeast(0) = "9223372036854775807", ReadOnly High,
        inert "see `log.flush.interval.messages`"
        => flush_check_interval: Duration;
    /// How often the offset below which a restart need not look is written down.
    "log.flush.offset.checkpoint.interval.ms" Int AtLeast(0) = "60000", ReadOnly High
        => recovery_checkpoint_interval: Duration;
    /// How often the first offsets of the logs are written down.
    "log.flush.start.offset.checkpoint.interval.ms" Int AtLeast(0) = "60000", ReadOnly High,
        inert "first offsets are written with `log.flush.offset.checkpoint.interval.ms`"
        => log_start_checkpoint_interval: Duration;

    /// Size in bytes at which a segment is closed and the next begun.
    "log.segment.bytes" Int AtLeast(1_048_576) = "1073741824", ClusterWide High => segment_bytes: u32;
    /// Age at which a segment is closed; wins over `log.roll.hours`.
    "log.roll.ms" Long AtLeast(1) = null, ClusterWide High => roll: Option<Duration>;
    /// Age in hours at which a segment is closed.
    "log.roll.hours" Int AtLeast(1) = "168", ReadOnly High => roll_hours: u32;
    /// Most that is taken off a segment's age limit at random, so that segments do not all roll at once; wins over
    /// `log.roll.jitter.hours`.
    "log.roll.jitter.ms" Long AtLeast(0) = null, ClusterWide High,
        inert "segments roll at their age"
        => roll_jitter: Option<Duration>;
    /// The same in hours.
    "log.roll.jitter.hours" Int AtLeast(0) = "0", ReadOnly High,
        inert "segments roll at their age"
        => roll_jitter_hours: u32;
    /// Size in bytes of an offset index when it is full; the segment is closed then.
    "log.index.size.max.bytes" Int AtLeast(4) = "10485760", ClusterWide Medium => index_bytes_max: u32;
    /// Bytes of log between two entries of the offset index.
    "log.index.interval.bytes" Int AtLeast(0) = "4096", ClusterWide Medium => index_interval_bytes: u32;
    /// Reserve a segment's whole size on the disk when it is begun.
    "log.preallocate" Boolean Any = "false", ClusterWide Medium,
        inert "the room of a segment is not reserved ahead"
        => preallocate: bool;
    /// Time between taking a segment out of the log and deleting its files.
    "log.segment.delete.delay.ms" Long AtLeast(0) = "60000", ClusterWide High,
        inert "files are deleted at once; who reads them keeps them open"
        => file_delete_delay: Duration;

    /// What happens to old records: `delete` drops segments by age and size, `compact` keeps the last record of each key,
    /// both may be given.
    "log.cleanup.policy" List OneOf(super::topic::CLEANUP_POLICIES) = "delete", ClusterWide Medium => cleanup_policy: Vec<String>;
    /// Age at which records are deleted; -1 keeps them; wins over `log.retention.minutes`.
    "log.retention.ms" Long AtLeast(-1) = null, ClusterWide High => retention: Option<Duration>;
    /// The same in minutes; wins over `log.retention.hours`.
    "log.retention.minutes" Int AtLeast(-1) = null, ReadOnly High => retention_minutes: Option<u32>;
    /// The same in hours.
    "log.retention.hours" Int AtLeast(-1) = "168", ReadOnly High => retention_hours: Option<u32>;
    /// Size in bytes that a partition's log may have before its oldest segments are deleted; -1 sets no bound.
    "log.retention.bytes" Long AtLeast(-1) = "-1", ClusterWide High => retention_bytes: Option<u64>;
    /// How often logs are looked at for segments to delete.
    "log.retention.check.interval.ms" Long AtLeast(1) = "300000", ReadOnly Medium => retention_check_interval: Duration;

    /// Run compaction. Without it the offsets topic grows without bound.
    "log.cleaner.enable" Boolean Any = "true", ReadOnly Medium => cleaner_enabled: bool;
    /// Logs that are compacted at the same time.
    "log.cleaner.threads" Int AtLeast(0) = "1", ClusterWide Medium,
        inert "one log is compacted at a time"
        => cleaner_threads: usize;
    /// Memory in bytes for the map from keys to their last offsets, over all threads.
    "log.cleaner.dedupe.buffer.size" Long AtLeast(1_048_576) = "134217728", ClusterWide Medium => cleaner_map_bytes_max: usize;
    /// Wait before the next look when nothing was to compact.
    "log.cleaner.backoff.ms" Long AtLeast(0) = "15000", ClusterWide Medium => cleaner_backoff: Duration;
    /// Share of a log that must be uncompacted before it is compacted.
    "log.cleaner.min.cleanable.ratio" Double Between(0, 1) = "0.5", ClusterWide Medium => min_cleanable_dirty_ratio: f64;
    /// Age below which a record is not compacted away.
    "log.cleaner.min.compaction.lag.ms" Long AtLeast(0) = "0", ClusterWide Medium => min_compaction_lag: Duration;
    /// Age at which a record is compacted whatever the ratio says.
    "log.cleaner.max.compaction.lag.ms" Long AtLeast(1) = "9223372036854775807", ClusterWide Medium
        => max_compaction_lag: Duration;
    /// Time for which a deletion marker (a record without a value) stays after compaction, so that readers learn of it.
    "log.cleaner.delete.retention.ms" Long AtLeast(0) = "86400000", ClusterWide Medium => delete_retention: Duration;

    /// Timestamp that records carry: `CreateTime` as the producer set it, `LogAppendTime` as the broker received it.
    "log.message.timestamp.type" String OneOf(super::topic::TIMESTAMP_TYPES) = "CreateTime", ClusterWide Medium => timestamp_type: String;
    /// How far before the broker's clock a producer's timestamp may lie.
    "log.message.timestamp.before.max.ms" Long AtLeast(0) = "9223372036854775807", ClusterWide Medium
        => timestamp_before_max: Duration;
    /// How far after the broker's clock a producer's timestamp may lie.
    "log.message.timestamp.after.max.ms" Long AtLeast(0) = "3600000", ClusterWide Medium => timestamp_after_max: Duration;

    /// Time without a record after which an idempotent producer's state is forgotten.
    "producer.id.expiration.ms" Int AtLeast(1) = "86400000", ClusterWide Low => producer_id_expiration: Duration;
    /// How often producers are looked at for that.
    "producer.id.expiration.check.interval.ms" Int AtLeast(1) = "600000", ReadOnly Low,
        inert "producers expire without a schedule of their own"
        => producer_id_expiration_check_interval: Duration;
    /// For tiered storage: bytes kept on the broker's own disk; -2 means the retention of the whole log.
    "log.local.retention.bytes" Long AtLeast(-2) = "-2", ClusterWide Medium, awaits "tiered storage"
        => local_retention_bytes: i64;
    /// For tiered storage: age of what is kept on the broker's own disk; -2 means the retention of the whole log.
    "log.local.retention.ms" Long AtLeast(-2) = "-2", ClusterWide Medium, awaits "tiered storage" => local_retention_ms: i64;
}
