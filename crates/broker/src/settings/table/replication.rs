//! Rows: what a cluster of several brokers and transactions will read.
//! They are checked and described today so that a file written for a cluster loads, and say which part they wait for.

use std::time::Duration;

section! {
    /// What a cluster of several brokers and transactions will read.
    ReplicationSettings, ROWS;

    /// Time without catching up after which a follower leaves the in-sync set.
    "replica.lag.time.max.ms" Long AtLeast(1) = "30000", ReadOnly High, awaits "replication" => lag_max: Duration;
    /// Most bytes that a follower asks for per partition.
    "replica.fetch.max.bytes" Int AtLeast(0) = "1048576", ReadOnly Medium, awaits "replication"
        => fetch_partition_bytes_max: usize;
    /// Most bytes that a follower asks for in one Fetch.
    "replica.fetch.response.max.bytes" Int AtLeast(0) = "10485760", ReadOnly Medium, awaits "replication"
        => fetch_bytes_max: usize;
    /// Bytes that a follower waits for.
    "replica.fetch.min.bytes" Int AtLeast(0) = "1", ReadOnly High, awaits "replication" => fetch_bytes_min: usize;
    /// Longest that a follower waits for them.
    "replica.fetch.wait.max.ms" Int AtLeast(0) = "500", ReadOnly High, awaits "replication" => fetch_wait_max: Duration;
    /// Wait after a failed Fetch.
    "replica.fetch.backoff.ms" Int AtLeast(0) = "1000", ReadOnly Medium, awaits "replication" => fetch_backoff: Duration;
    /// Time after which a follower gives up on an answer.
    "replica.socket.timeout.ms" Int AtLeast(1) = "30000", ReadOnly High, awaits "replication" => socket_timeout: Duration;
    /// SO_RCVBUF of a follower's connections in bytes; -1 leaves it to the operating system.
    "replica.socket.receive.buffer.bytes" Int AtLeast(-1) = "65536", ReadOnly High, awaits "replication"
        => receive_buffer_bytes: Option<usize>;
    /// How often high watermarks are written down.
    "replica.high.watermark.checkpoint.interval.ms" Long AtLeast(1) = "5000", ReadOnly High,
        awaits "replication"
        => high_watermark_checkpoint_interval: Duration;
    /// Connections over which a follower fetches from one leader.
    "num.replica.fetchers" Int AtLeast(1) = "1", ClusterWide High, awaits "replication" => fetchers: usize;
    /// Move leadership back to the preferred replicas by itself.
    "auto.leader.rebalance.enable" Boolean Any = "true", ReadOnly High, awaits "replication" => auto_leader_rebalance: bool;
    /// How often that is looked at.
    "leader.imbalance.check.interval.seconds" Long AtLeast(1) = "300", ReadOnly High, awaits "replication"
        => leader_imbalance_check_seconds: u64;
    /// Hand leadership over before stopping.
    "controlled.shutdown.enable" Boolean Any = "true", ReadOnly Medium, awaits "replication" => controlled_shutdown: bool;
    /// Bytes per second that leaders may send to throttled followers.
    "leader.replication.throttled.rate" Long AtLeast(0) = "9223372036854775807", PerBroker Medium, awaits "replication"
        => leader_throttle: u64;
    /// Bytes per second that throttled followers may fetch.
    "follower.replication.throttled.rate" Long AtLeast(0) = "9223372036854775807", PerBroker Medium, awaits "replication"
        => follower_throttle: u64;

    /// Listeners that carry the controller's traffic. Ottla's controller uses the broker listener; listeners named here
    /// are not opened.
    "controller.listener.names" List Any = "", ReadOnly High => controller_listeners: Vec<String>;
    /// Nodes that carry the metadata, as `id@host:port`.
    "controller.quorum.voters" List Any = "", ReadOnly High, awaits "replication" => quorum_voters: Vec<String>;
    /// Addresses at which a new node finds the metadata quorum.
    "controller.quorum.bootstrap.servers" List Any = "", ReadOnly High, awaits "replication"
        => quorum_bootstrap_servers: Vec<String>;
    /// Time between a broker's heartbeats to the controller.
    "broker.heartbeat.interval.ms" Int AtLeast(1) = "2000", ReadOnly Medium, awaits "replication"
        => heartbeat_interval: Duration;
    /// Time without a heartbeat after which a broker counts as dead.
    "broker.session.timeout.ms" Int AtLeast(1) = "9000", ReadOnly Medium, awaits "replication" => session_timeout: Duration;

    /// Longest transaction that a producer may ask for.
    "transaction.max.timeout.ms" Int AtLeast(1) = "900000", ReadOnly High, awaits "transactions"
        => transaction_timeout_max: Duration;
    /// Time after which a transactional id without activity is forgotten.
    "transactional.id.expiration.ms" Int AtLeast(1) = "604800000", ReadOnly High, awaits "transactions"
        => transactional_id_expiration: Duration;
    /// Verify that a partition belongs to a transaction before the first append to it (KIP-890).
    "transaction.partition.verification.enable" Boolean Any = "true", ClusterWide Low, awaits "transactions"
        => transaction_verification: bool;
    /// Partitions of `__transaction_state`.
    "transaction.state.log.num.partitions" Int AtLeast(1) = "50", ReadOnly High, awaits "transactions"
        => transaction_topic_partitions: i32;
    /// Replicas of each partition of `__transaction_state`.
    "transaction.state.log.replication.factor" Short AtLeast(1) = "3", ReadOnly High, awaits "transactions"
        => transaction_topic_replication_factor: i16;
    /// `min.insync.replicas` of `__transaction_state`.
    "transaction.state.log.min.isr" Int AtLeast(1) = "2", ReadOnly High, awaits "transactions"
        => transaction_topic_min_insync_replicas: i32;
    /// Segment size of `__transaction_state` in bytes.
    "transaction.state.log.segment.bytes" Int AtLeast(1) = "104857600", ReadOnly High, awaits "transactions"
        => transaction_topic_segment_bytes: u32;
}
