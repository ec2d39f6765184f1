//! Rows: settings of one group, each with the broker setting that it inherits from.

section! {
    /// What one share group goes by.
    ShareGroupSettings, SHARE_ROWS;

    /// Time without a heartbeat after which a member is taken for gone.
    "share.session.timeout.ms" Int AtLeast(1) = "45000", Group Medium, from ["group.share.session.timeout.ms"]
        => session_timeout_ms: i32;
    /// How often members are told to send heartbeats.
    "share.heartbeat.interval.ms" Int AtLeast(1) = "5000", Group Medium, from ["group.share.heartbeat.interval.ms"]
        => heartbeat_interval_ms: i32;
    /// How long a record is a member's to acknowledge.
    "share.record.lock.duration.ms" Int AtLeast(1000) = "30000", Group Medium,
        from ["group.share.record.lock.duration.ms"]
        => lock_ms: i64;
    /// How often a record is delivered before it is given up.
    "share.delivery.count.limit" Int AtLeast(2) = "5", Group Medium, from ["group.share.delivery.count.limit"]
        => delivery_count_max: i16;
    /// Records of one partition that may be under way.
    "share.partition.max.record.locks" Int AtLeast(100) = "2000", Group Medium,
        from ["group.share.partition.max.record.locks"]
        => locks_max: i64;
    /// Where a partition begins that the group has not read before: latest, earliest, or by_duration:<ISO 8601 duration>,
    /// so long ago.
    "share.auto.offset.reset" String Any = "latest", Group Medium => auto_offset_reset: String;
    /// Whether records of transactions are delivered before these are committed, and if they never are.
    "share.isolation.level" String OneOf(&["read_committed", "read_uncommitted"]) = "read_uncommitted", Group Medium
        => isolation_level: String;
    /// Whether members may renew the locks of records that they have.
    "share.renew.acknowledge.enable" Boolean Any = "true", Group Medium => renew_enabled: bool;
}
