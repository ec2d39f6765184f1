//! Rows: who this node is and what it runs on.

section! {
    /// Who this node is and what it runs on.
    NodeSettings, ROWS;

    /// Number of this node, unique in its cluster. It is written into the data directory, which then belongs to this node.
    "node.id" Int AtLeast(0) = null, ReadOnly High => node_id: Option<i32>;
    /// Older name of `node.id`; where both are given they must agree.
    "broker.id" Int AtLeast(-1) = "-1", ReadOnly High => broker_id: Option<i32>;
    /// Identity of the cluster, 1 to 64 visible ASCII characters. Without it the data directory's own is used, and a new
    /// data directory gets a random one.
    "cluster.id" String Any = null, ReadOnly Medium => cluster_id: Option<String>;
    /// Roles of this node. Every Ottla node with the role broker can also carry the cluster's metadata.
    "process.roles" List OneOf(&["broker", "controller"]) = "broker,controller", ReadOnly High => roles: Vec<String>;
    /// Rack or zone of this node, as Metadata reports it to clients.
    "broker.rack" String Any = null, ReadOnly Medium => rack: Option<String>;
    /// Directories for the logs when `log.dirs` is not given.
    "log.dir" List NotEmpty = "/tmp/kafka-logs", ReadOnly High => log_dir: Vec<String>;
    /// Directories for the logs, one for each disk. A new partition goes to the one with the fewest. They belong to one node
    /// of one cluster and are locked while the node runs.
    "log.dirs" List NotEmpty = null, ReadOnly High => log_dirs: Vec<String>;
    /// Directory for the cluster's metadata: one of `log.dirs`, or another one. Without it the first of `log.dirs`. The node
    /// stops when this one fails.
    "metadata.log.dir" String NotEmpty = null, ReadOnly High => metadata_log_dir: Option<String>;
    /// Address of the operations endpoint (`/livez`, `/readyz`, `/metrics`) as `host:port`. Without it there is none.
    "admin.listener" String Any = null, ReadOnly Medium => admin_listener: Option<String>;
    /// Threads that carry the connections. A change takes effect at the next start.
    "num.network.threads" Int AtLeast(1) = "3", ClusterWide High,
        inert "the runtime has one thread per processor"
        => network_threads: usize;
    /// Requests that may wait for the disk at the same time, such as reads of records that are no longer cached.
    "num.io.threads" Int AtLeast(1) = "8", ClusterWide High,
        inert "reads that must wait for the disk have a pool that grows as it needs"
        => io_threads: usize;
    /// Logs of one data directory that are recovered at the same time at start. Fewer than 32 count as 32: recovery waits
    /// for the disk, not for a processor.
    "num.recovery.threads.per.data.dir" Int AtLeast(1) = "2", ClusterWide High => recovery_threads: usize;
}
