//! Rows: addresses, connections and the bounds on what they may hold.

use std::time::Duration;

section! {
    /// Addresses, connections and the bounds on what they may hold.
    NetworkSettings, ROWS;

    /// Addresses to listen on, as `NAME://host:port`. An empty host listens on every interface, port 0 takes a free one.
    "listeners" List NotEmpty = "PLAINTEXT://:9092", ReadOnly High => listeners: Vec<String>;
    /// Addresses that clients are told to use, by listener name. A listener without one advertises the address that the
    /// client itself has dialled.
    "advertised.listeners" List NotEmpty = null, ReadOnly High => advertised_listeners: Vec<String>;
    /// Security protocol of each listener name, as `NAME:PROTOCOL`. Only PLAINTEXT is available in this version.
    "listener.security.protocol.map" String Any
        = "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
        ReadOnly Low => listener_protocols: String;
    /// Listener that brokers use among themselves. Without it the first PLAINTEXT listener.
    "inter.broker.listener.name" String Any = null, ReadOnly Medium => inter_broker_listener: Option<String>;
    /// Largest request in bytes. A connection that announces a larger one is closed.
    "socket.request.max.bytes" Int AtLeast(1) = "104857600", ReadOnly High => request_bytes_max: usize;
    /// SO_RCVBUF of client connections in bytes; -1 leaves it to the operating system.
    "socket.receive.buffer.bytes" Int AtLeast(-1) = "102400", ReadOnly High,
        inert "the operating system sizes the buffers by itself"
        => receive_buffer_bytes: Option<usize>;
    /// SO_SNDBUF of client connections in bytes; -1 leaves it to the operating system.
    "socket.send.buffer.bytes" Int AtLeast(-1) = "102400", ReadOnly High,
        inert "the operating system sizes the buffers by itself"
        => send_buffer_bytes: Option<usize>;
    /// Connections that may wait to be accepted.
    "socket.listen.backlog.size" Int AtLeast(1) = "50", ReadOnly Medium,
        inert "the backlog is 1024"
        => listen_backlog_max: u32;
    /// Time after which a connection without requests is closed.
    "connections.max.idle.ms" Long AtLeast(1) = "600000", ReadOnly Medium => connection_idle_max: Duration;
    /// Connections that may be open at the same time, over all listeners. A further one is closed at once. Where there are
    /// several listeners, the one for brokers takes more. `listener.name.NAME.max.connections` bounds one listener beside it.
    "max.connections" Int AtLeast(0) = "2147483647", ClusterWide Medium => connections_max: usize;
    /// Connections that one address may have open at the same time. A further one is closed at once.
    "max.connections.per.ip" Int AtLeast(0) = "2147483647", ClusterWide Medium => connections_per_ip_max: usize;
    /// Exceptions to `max.connections.per.ip`, as `address:count`.
    "max.connections.per.ip.overrides" String PerAddress = "", ClusterWide Medium => connections_per_ip_overrides: String;
    /// Connections that are accepted per second, over all listeners. Further ones wait. Where there are several listeners,
    /// the one for brokers does not. `listener.name.NAME.max.connection.creation.rate` bounds one listener beside it.
    "max.connection.creation.rate" Int AtLeast(0) = "2147483647", ClusterWide Medium => connection_rate_max: i32;
    /// Requests read from the network that may wait or be worked on, over all connections. Beyond it connections are
    /// not read from.
    "queued.max.requests" Int AtLeast(1) = "500", ReadOnly High,
        inert "each connection bounds the requests that it has in work"
        => requests_queued_max: usize;
    /// Bytes of requests larger than 64 KiB that may be read or be half read, over all connections. Beyond it connections
    /// with such requests wait for their turn. -1 sets no bound, which leaves `socket.request.max.bytes` for each connection.
    "queued.max.request.bytes" Long AtLeast(-1) = "-1", ReadOnly Medium => request_bytes_queued_max: Option<u64>;
    /// Most bytes that one Fetch is answered with. The first batch of the first partition is delivered even when it is
    /// larger.
    "fetch.max.bytes" Int AtLeast(1024) = "57671680", ReadOnly Medium => fetch_bytes_max: usize;
    /// Fetch sessions (KIP-227) remembered at the same time; without a free slot clients send whole requests.
    "max.incremental.fetch.session.cache.slots" Int AtLeast(0) = "1000", ReadOnly Medium => fetch_sessions_max: usize;
    /// Most partitions that one DescribeTopicPartitions is answered with.
    "max.request.partition.size.limit" Int AtLeast(1) = "2000", ReadOnly Medium => describe_partitions_max: usize;
    /// Largest telemetry that a client may push, in bytes as it is compressed.
    "telemetry.max.bytes" Int AtLeast(1) = "1048576", ReadOnly Low => telemetry_bytes_max: usize;
    /// Time that a change of topics may take where the request for it names none.
    "request.timeout.ms" Int AtLeast(1) = "30000", ReadOnly High => request_timeout: Duration;
    /// Windows over which what clients take is measured against their quotas, the current one included.
    "quota.window.num" Int AtLeast(1) = "11", ReadOnly Low => quota_windows: u32;
    /// Length of such a window in seconds.
    "quota.window.size.seconds" Int AtLeast(1) = "1", ReadOnly Low => quota_window_seconds: u32;
    /// Windows whose worth of `controller_mutation_rate` may be saved up.
    "controller.quota.window.num" Int AtLeast(1) = "11", ReadOnly Low => controller_quota_windows: u32;
    /// Length of such a window in seconds.
    "controller.quota.window.size.seconds" Int AtLeast(1) = "1", ReadOnly Low
        => controller_quota_window_seconds: u32;
}
