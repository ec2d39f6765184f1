//! Rows: settings of single groups, as far as Kafka has them. Where a group has none of its own, the default holds.
//! The bounds are what Kafka's brokers allow by default; of share groups they are settings of the broker.

use wire::Millis;

/// Values of `share.isolation.level`.
const ISOLATION_LEVELS: &[&str] = &["read_committed", "read_uncommitted"];

section! {
    /// One group's settings.
    GroupConfigs, ROWS;

    /// Time after which a silent member of a consumer group is taken for dead.
    "consumer.session.timeout.ms" Int Between(45_000, 60_000) = "45000", Group Medium,
        from ["group.consumer.session.timeout.ms"]
        => consumer_session_timeout: Millis;
    /// Time between the heartbeats of a consumer group's members.
    "consumer.heartbeat.interval.ms" Int Between(5_000, 15_000) = "5000", Group Medium,
        from ["group.consumer.heartbeat.interval.ms"]
        => consumer_heartbeat_interval: Millis;
    /// Time between two assignments of a consumer group.
    "consumer.assignment.interval.ms" Int Between(0, 15_000) = "1000", Group Medium,
        inert "assignments are computed when they change"
        => consumer_assignment_interval: Millis;
    /// Time after which a silent member of a share group is taken for dead.
    "share.session.timeout.ms" Int AtLeast(1) = "45000", Group Medium,
        from ["group.share.session.timeout.ms"]
        => share_session_timeout: Millis;
    /// Time between the heartbeats of a share group's members.
    "share.heartbeat.interval.ms" Int AtLeast(1) = "5000", Group Medium,
        from ["group.share.heartbeat.interval.ms"]
        => share_heartbeat_interval: Millis;
    /// Time between two assignments of a share group.
    "share.assignment.interval.ms" Int Between(0, 15_000) = "1000", Group Medium, inert "assignments are computed when they change"
        => share_assignment_interval: Millis;
    /// Time for which a record is a member's of a share group before others may have it.
    "share.record.lock.duration.ms" Int AtLeast(1000) = "30000", Group Medium,
        from ["group.share.record.lock.duration.ms"]
        => share_record_lock_duration: Millis;
    /// Times that a record is given to members of a share group at most.
    "share.delivery.count.limit" Int AtLeast(2) = "5", Group Medium,
        from ["group.share.delivery.count.limit"]
        => share_delivery_count_max: i16;
    /// Records of a partition that may be in flight in a share group: all from the oldest that is not done with on.
    "share.partition.max.record.locks" Int AtLeast(100) = "2000", Group Medium,
        from ["group.share.partition.max.record.locks"]
        => share_in_flight_max: u32;
    /// Where a share group begins to read a partition: `earliest`, `latest`, or `by_duration:` and how far back (ISO 8601).
    "share.auto.offset.reset" String OffsetReset = "latest", Group Medium
        => share_offset_reset: String;
    /// Whether a share group is given records of transactions that are not committed.
    "share.isolation.level" String OneOf(ISOLATION_LEVELS) = "read_uncommitted", Group Medium
        => share_isolation_level: String;
    /// Whether members of a share group may keep a record for longer.
    "share.renew.acknowledge.enable" Boolean Any = "true", Group Medium
        => share_renew_enabled: bool;
    /// Topic that records of a share group go to that are rejected, or were delivered as often as is allowed; empty: there is none.
    "errors.deadletterqueue.topic.name" String Any = "", Group Medium => dead_letter_topic: String;
    /// Whether key and value of a record go to the dead-letter topic, or only headers that say which record it is.
    "errors.deadletterqueue.copy.record.enable" Boolean Any = "false", Group Medium => dead_letters_copied: bool;
}
