//! Rows: how topics come into being, and the values they have when they say nothing themselves.

section! {
    /// How topics come into being, and the values they have when they say nothing themselves.
    TopicDefaults, ROWS;

    /// Create a topic when a client asks for one that does not exist.
    "auto.create.topics.enable" Boolean Any = "true", ReadOnly High => auto_create: bool;
    /// Allow topics to be deleted.
    "delete.topic.enable" Boolean Any = "true", ReadOnly High => delete_enabled: bool;
    /// Partitions of a topic whose creator names no number.
    "num.partitions" Int AtLeast(1) = "1", ReadOnly Medium => partitions: i32;
    /// Replicas of a partition of a topic whose creator names no number.
    "default.replication.factor" Int AtLeast(1) = "1", ReadOnly Medium => replication_factor: i16;
    /// In-sync replicas that must have a record before a producer with acks=all is answered. The first controller's value is the
    /// cluster's, until it is changed for all brokers.
    "min.insync.replicas" Int AtLeast(1) = "1", ClusterWide High => min_insync_replicas: i32;
    /// Let a replica that may lack acknowledged records become leader. Off: rather no leader than lost records.
    "unclean.leader.election.enable" Boolean Any = "false", ClusterWide High
        => unclean_leader_election: bool;
    /// Largest record batch in bytes, as compressed by the producer.
    "message.max.bytes" Int AtLeast(0) = "1048588", ClusterWide High => message_bytes_max: usize;
    /// Codec in which batches are stored; `producer` keeps what the producer chose, which costs nothing.
    "compression.type" String OneOf(super::topic::COMPRESSION_TYPES) = "producer", ClusterWide High => compression_type: String;
    /// Level when the broker itself compresses with gzip; -1 is the codec's default.
    "compression.gzip.level" Int BetweenOrMinusOne(1, 9) = "-1", ClusterWide Medium => gzip_level: i32;
    /// Level when the broker itself compresses with LZ4.
    "compression.lz4.level" Int Between(1, 17) = "9", ClusterWide Medium => lz4_level: i32;
    /// Level when the broker itself compresses with Zstandard.
    "compression.zstd.level" Int Between(-131_072, 22) = "3", ClusterWide Medium => zstd_level: i32;
}
