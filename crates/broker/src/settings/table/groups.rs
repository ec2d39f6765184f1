//! Rows: consumer groups and the offsets they commit.

use std::time::Duration;

use wire::Millis;

section! {
    /// Consumer groups and the offsets they commit.
    GroupSettings, ROWS;

    /// Time that the first rebalance of an empty group waits for further members.
    "group.initial.rebalance.delay.ms" Int AtLeast(0) = "3000", ReadOnly Medium => initial_rebalance_delay: Millis;
    /// Shortest session timeout that a member may ask for.
    "group.min.session.timeout.ms" Int AtLeast(1) = "6000", ReadOnly Medium => session_timeout_min: Millis;
    /// Longest session timeout that a member may ask for.
    "group.max.session.timeout.ms" Int AtLeast(1) = "1800000", ReadOnly Medium => session_timeout_max: Millis;
    /// Members that one group may have. A further one is refused with GROUP_MAX_SIZE_REACHED.
    "group.max.size" Int AtLeast(1) = "2147483647", ReadOnly Medium => group_size_max: usize;
    /// Rebalance protocols on offer: `classic`, and `consumer` (KIP-848).
    "group.coordinator.rebalance.protocols" List OneOf(&["consumer", "classic", "share", "streams"])
        = "classic,consumer", ReadOnly Medium => rebalance_protocols: Vec<String>;
    /// Time after which a member of the consumer protocol that is not heard of is taken for gone.
    "group.consumer.session.timeout.ms" Int AtLeast(1) = "45000", ReadOnly Medium
        => consumer_session_timeout: Millis;
    /// How long members of the consumer protocol wait between heartbeats at most. While a coordinator has few of them it has them
    /// come more often, so that they hear of changes sooner; a group's own `consumer.heartbeat.interval.ms` is kept exactly.
    "group.consumer.heartbeat.interval.ms" Int AtLeast(1) = "5000", ReadOnly Medium
        => consumer_heartbeat_interval: Millis;
    /// Members that one group of the consumer protocol may have.
    "group.consumer.max.size" Int AtLeast(1) = "2147483647", ReadOnly Medium => consumer_group_size_max: usize;
    /// Assignors that members of the consumer protocol may ask for; the first one assigns where they ask for none.
    "group.consumer.assignors" List OneOf(&["uniform", "range"]) = "uniform,range", ReadOnly Medium
        => consumer_assignors: Vec<String>;
    /// Whether a group goes from the classic protocol to the consumer protocol and back while its members are up.
    "group.consumer.migration.policy" String OneOf(&["bidirectional", "upgrade", "downgrade", "disabled"])
        = "bidirectional", ReadOnly Medium => consumer_migration_policy: String;

    /// Longest metadata text that may be committed with an offset, in bytes.
    "offset.metadata.max.bytes" Int AtLeast(0) = "4096", ReadOnly High => offset_metadata_bytes_max: usize;
    /// Time that a commit waits to be stored before it is refused.
    "offsets.commit.timeout.ms" Int AtLeast(1) = "5000", ReadOnly High,
        inert "a commit is answered when it is stored"
        => commit_timeout: Duration;
    /// Minutes for which the offsets of a group without members are kept.
    "offsets.retention.minutes" Int AtLeast(1) = "10080", ReadOnly High => offsets_retention_minutes: i64;
    /// Minutes for which it is remembered that an offset has expired, which it was, and when: `ottla group describe` tells it from one
    /// that was never committed. 0 remembers nothing.
    "offsets.expired.retention.minutes" Int AtLeast(0) = "43200", ReadOnly Medium
        => expired_retention_minutes: i64;
    /// Partitions of groups coordinated here whose lag is on the metrics page; of further ones only the number is. 0 shows no lag.
    "group.lag.metrics.max" Int AtLeast(0) = "2000", ReadOnly Medium => lag_metrics_max: usize;
    /// How often offsets are looked at for that.
    "offsets.retention.check.interval.ms" Long AtLeast(1) = "600000", ReadOnly High
        => offsets_retention_check_interval: Duration;
    /// Partitions of `__consumer_offsets`. It cannot be changed once the topic exists.
    "offsets.topic.num.partitions" Int AtLeast(1) = "50", ReadOnly High => offsets_topic_partitions: i32;
    /// Replicas of each partition of `__consumer_offsets`; as many as there are brokers where those are fewer.
    "offsets.topic.replication.factor" Short AtLeast(1) = "3", ReadOnly High => offsets_topic_replication_factor: i16;
    /// Segment size of `__consumer_offsets` in bytes. Small segments are compacted sooner and loaded faster.
    "offsets.topic.segment.bytes" Int AtLeast(1) = "104857600", ReadOnly High => offsets_topic_segment_bytes: u32;
    /// Bytes read at a time when a partition of `__consumer_offsets` is loaded.
    "offsets.load.buffer.size" Int AtLeast(1) = "5242880", ReadOnly High,
        inert "offsets are loaded batch by batch"
        => offsets_load_bytes_max: usize;
}
