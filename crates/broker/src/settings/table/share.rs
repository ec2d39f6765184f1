//! Rows: share groups, and where their state is kept.

use std::time::Duration;

section! {
    /// Share groups, and where their state is kept.
    ShareSettings, ROWS;

    /// Time without a heartbeat after which a member of a share group is taken for gone.
    "group.share.session.timeout.ms" Int AtLeast(1) = "45000", ReadOnly Medium => session_timeout_ms: i32;
    /// Shortest `share.session.timeout.ms` that a group may have.
    "group.share.min.session.timeout.ms" Int AtLeast(1) = "45000", ReadOnly Medium => session_timeout_ms_min: i32;
    /// Longest `share.session.timeout.ms` that a group may have.
    "group.share.max.session.timeout.ms" Int AtLeast(1) = "60000", ReadOnly Medium => session_timeout_ms_max: i32;
    /// How often members of a share group are told to send heartbeats.
    "group.share.heartbeat.interval.ms" Int AtLeast(1) = "5000", ReadOnly Medium => heartbeat_interval_ms: i32;
    /// Shortest `share.heartbeat.interval.ms` that a group may have.
    "group.share.min.heartbeat.interval.ms" Int AtLeast(1) = "5000", ReadOnly Medium
        => heartbeat_interval_ms_min: i32;
    /// Longest `share.heartbeat.interval.ms` that a group may have.
    "group.share.max.heartbeat.interval.ms" Int AtLeast(1) = "15000", ReadOnly Medium
        => heartbeat_interval_ms_max: i32;
    /// Members that one share group may have. A further one is refused with GROUP_MAX_SIZE_REACHED.
    "group.share.max.size" Int Between(1, 1000) = "200", ReadOnly Medium => group_size_max: usize;
    /// How often a record is delivered before it is given up.
    "group.share.delivery.count.limit" Int Between(2, 10) = "5", ReadOnly Medium => delivery_count_max: i32;
    /// Smallest `share.delivery.count.limit` that a group may have.
    "group.share.min.delivery.count.limit" Int Between(2, 5) = "2", ReadOnly Medium => delivery_count_max_min: i32;
    /// Largest `share.delivery.count.limit` that a group may have.
    "group.share.max.delivery.count.limit" Int Between(5, 25) = "10", ReadOnly Medium => delivery_count_max_max: i32;
    /// How long a record is a member's to acknowledge. It is delivered again then.
    "group.share.record.lock.duration.ms" Int Between(1000, 3_600_000) = "30000", ReadOnly Medium => lock_ms: i32;
    /// Shortest `share.record.lock.duration.ms` that a group may have.
    "group.share.min.record.lock.duration.ms" Int Between(1000, 30000) = "15000", ReadOnly Medium => lock_ms_min: i32;
    /// Longest `share.record.lock.duration.ms` that a group may have.
    "group.share.max.record.lock.duration.ms" Int Between(30000, 3_600_000) = "60000", ReadOnly Medium
        => lock_ms_max: i32;
    /// Records of one partition that may be in flight in one group: all from the oldest that is not done with on, so that one slow
    /// record holds up the others when so many lie behind it.
    "group.share.partition.max.record.locks" Int Between(100, 10000) = "2000", ReadOnly Medium => in_flight_max: i32;
    /// Smallest `share.partition.max.record.locks` that a group may have.
    "group.share.min.partition.max.record.locks" Int Between(100, 2000) = "100", ReadOnly Medium
        => in_flight_max_min: i32;
    /// Largest `share.partition.max.record.locks` that a group may have.
    "group.share.max.partition.max.record.locks" Int Between(2000, 10000) = "4000", ReadOnly Medium
        => in_flight_max_max: i32;
    /// Members of share groups that may fetch from this broker at a time. A further one is refused with
    /// SHARE_SESSION_LIMIT_REACHED.
    "group.share.max.share.sessions" Int AtLeast(1) = "2000", ReadOnly Medium => sessions_max: usize;
    /// Whether a group's dead-letter topic is created when it is not there.
    "errors.deadletterqueue.auto.create.topics.enable" Boolean Any = "false", ClusterWide Medium
        => dead_letter_topics_created: bool;
    /// What the names of dead-letter topics begin with. What a group would send to another topic is given up without.
    "errors.deadletterqueue.topic.name.prefix" String Any = "dlq.", ClusterWide Medium => dead_letter_topic_prefix: String;

    /// Partitions of `__share_group_state`. It cannot be changed once the topic exists.
    "share.coordinator.state.topic.num.partitions" Int AtLeast(1) = "50", ReadOnly High => topic_partitions: i32;
    /// Replicas of each partition of `__share_group_state`; as many as there are brokers where those are fewer.
    "share.coordinator.state.topic.replication.factor" Short AtLeast(1) = "3", ReadOnly High
        => topic_replication_factor: i16;
    /// `min.insync.replicas` of `__share_group_state`.
    "share.coordinator.state.topic.min.isr" Short AtLeast(1) = "2", ReadOnly High => topic_min_insync_replicas: i16;
    /// Segment size of `__share_group_state` in bytes.
    "share.coordinator.state.topic.segment.bytes" Int AtLeast(1) = "104857600", ReadOnly High
        => topic_segment_bytes: u32;
    /// Updates of a share-partition's state that are written between two snapshots of it.
    "share.coordinator.snapshot.update.records.per.snapshot" Int Between(0, 500) = "500", ReadOnly Medium
        => updates_per_snapshot: u32;
    /// How often the records of `__share_group_state` that newer ones replace are let go of.
    "share.coordinator.state.topic.prune.interval.ms" Int AtLeast(1) = "300000", ReadOnly Low
        => prune_interval: Duration;
}
