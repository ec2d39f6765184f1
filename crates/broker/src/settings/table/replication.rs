//! Rows: what a cluster of several brokers reads, and what transactions do.
//! Those that wait for a part say which; they are checked and described today so that a file written for Kafka loads.

use std::time::Duration;

/// Kafka's name of the choice of a replica in the reader's rack.
pub const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
const LEADER: &str = "org.apache.kafka.common.replica.LeaderSelector";

section! {
    /// What a cluster of several brokers reads, and what transactions do.
    ReplicationSettings, ROWS;

    /// Time without catching up after which a follower leaves the in-sync set.
    "replica.lag.time.max.ms" Long AtLeast(1) = "30000", ReadOnly High => lag_max: Duration;
    /// Most bytes that a follower asks for per partition.
    "replica.fetch.max.bytes" Int AtLeast(0) = "1048576", ReadOnly Medium
        => fetch_partition_bytes_max: usize;
    /// Most bytes that a follower asks for in one Fetch.
    "replica.fetch.response.max.bytes" Int AtLeast(0) = "10485760", ReadOnly Medium
        => fetch_bytes_max: usize;
    /// Bytes that a follower waits for.
    "replica.fetch.min.bytes" Int AtLeast(0) = "1", ReadOnly High => fetch_bytes_min: usize;
    /// Longest that a follower waits for them.
    "replica.fetch.wait.max.ms" Int AtLeast(0) = "500", ReadOnly High => fetch_wait_max: Duration;
    /// Wait after a failed Fetch.
    "replica.fetch.backoff.ms" Int AtLeast(0) = "1000", ReadOnly Medium,
        inert "a follower asks again after a tenth of a second"
        => fetch_backoff: Duration;
    /// Time after which a follower gives up on an answer.
    "replica.socket.timeout.ms" Int AtLeast(1) = "30000", ReadOnly High,
        inert "a follower gives up ten seconds after an answer was due"
        => socket_timeout: Duration;
    /// SO_RCVBUF of a follower's connections in bytes; -1 leaves it to the operating system.
    "replica.socket.receive.buffer.bytes" Int AtLeast(-1) = "65536", ReadOnly High,
        inert "the operating system sizes the buffers by itself"
        => receive_buffer_bytes: Option<usize>;
    /// How often high watermarks are written down.
    "replica.high.watermark.checkpoint.interval.ms" Long AtLeast(1) = "5000", ReadOnly High,
        inert "they are written down with the recovery points (log.flush.offset.checkpoint.interval.ms)"
        => high_watermark_checkpoint_interval: Duration;
    /// Connections over which a follower fetches from one leader.
    "num.replica.fetchers" Int AtLeast(1) = "1", ClusterWide High,
        inert "a follower has one connection to each leader, which carries all of its partitions"
        => fetchers: usize;
    /// Move leadership back to the preferred replicas by itself.
    "auto.leader.rebalance.enable" Boolean Any = "true", ReadOnly High => auto_leader_rebalance: bool;
    /// How often that is looked at.
    "leader.imbalance.check.interval.seconds" Long AtLeast(1) = "300", ReadOnly High
        => leader_imbalance_check_seconds: u64;
    /// Percentage of the partitions that a broker is to lead and others do, from which on leadership is moved back.
    "leader.imbalance.per.broker.percentage" Int AtLeast(0) = "10", ReadOnly High => leader_imbalance_percent: i32;
    /// Who serves a consumer that says in which rack it is: without it the leader, else a replica in sync in that rack.
    "replica.selector.class" String OneOf(&[RACK_AWARE, LEADER]) = null, ReadOnly Medium => replica_selector: Option<String>;
    /// Hand leadership over before stopping.
    "controlled.shutdown.enable" Boolean Any = "true", ReadOnly Medium => controlled_shutdown: bool;
    /// Bytes per second that leaders may send to throttled followers.
    "leader.replication.throttled.rate" Long AtLeast(0) = "9223372036854775807", PerBroker Medium
        => leader_throttle: u64;
    /// Bytes per second that throttled followers may fetch.
    "follower.replication.throttled.rate" Long AtLeast(0) = "9223372036854775807", PerBroker Medium
        => follower_throttle: u64;
    /// Bytes per second that replicas may be copied with from one data directory to another.
    "replica.alter.log.dirs.io.max.bytes.per.second" Long AtLeast(0) = "9223372036854775807", PerBroker Medium
        => dirs_throttle: u64;

    /// Listeners that carry the controller's traffic. Ottla's controller uses the broker listener; listeners named here
    /// are not opened.
    "controller.listener.names" List Any = "", ReadOnly High => controller_listeners: Vec<String>;
    /// Nodes that begin the cluster and carry its metadata, as `id@host:port`, the same on all of them; later changes are
    /// made with `ottla cluster quorum`. Without it, and without bootstrap servers, the node is a cluster of its own.
    "controller.quorum.voters" List Any = "", ReadOnly High => quorum_voters: Vec<String>;
    /// Addresses of brokers at which a node that is no voter finds the cluster.
    "controller.quorum.bootstrap.servers" List Any = "", ReadOnly High
        => quorum_bootstrap_servers: Vec<String>;
    /// Time without a leader after which a voter stands for election; each waits for up to half as long again.
    "controller.quorum.election.timeout.ms" Int Between(200, 600000) = "1000", ReadOnly High => election_timeout: Duration;
    /// Time between a broker's heartbeats to the controller.
    "broker.heartbeat.interval.ms" Int AtLeast(1) = "500", ReadOnly Medium
        => heartbeat_interval: Duration;
    /// Time without a heartbeat after which a broker counts as dead, and counts itself as cut off. One whose process has
    /// ended is noticed sooner.
    "broker.session.timeout.ms" Int AtLeast(1) = "3000", ReadOnly Medium => session_timeout: Duration;

    /// Longest transaction that a producer may ask for.
    "transaction.max.timeout.ms" Int AtLeast(1) = "900000", ReadOnly High
        => transaction_timeout_max: Duration;
    /// Time after which a transactional id without activity is forgotten.
    "transactional.id.expiration.ms" Int AtLeast(1) = "604800000", ReadOnly High
        => transactional_id_expiration: Duration;
    /// Verify that a partition belongs to a transaction before the first append to it (KIP-890).
    "transaction.partition.verification.enable" Boolean Any = "true", ClusterWide Low,
        inert "what begins a transaction is always verified"
        => transaction_verification: bool;
    /// Partitions of `__transaction_state`.
    "transaction.state.log.num.partitions" Int AtLeast(1) = "50", ReadOnly High
        => transaction_topic_partitions: i32;
    /// Replicas of each partition of `__transaction_state`.
    "transaction.state.log.replication.factor" Short AtLeast(1) = "3", ReadOnly High
        => transaction_topic_replication_factor: i16;
    /// `min.insync.replicas` of `__transaction_state`.
    "transaction.state.log.min.isr" Int AtLeast(1) = "2", ReadOnly High
        => transaction_topic_min_insync_replicas: i32;
    /// Segment size of `__transaction_state` in bytes.
    "transaction.state.log.segment.bytes" Int AtLeast(1) = "104857600", ReadOnly High
        => transaction_topic_segment_bytes: u32;
}
