//! Doing: the only async shell of the workspace. It owns the clock, the sockets and the tasks.
//!
//! The modules stand in the order in which a record travels: read from top to bottom they follow one produced record
//! from the socket to its acknowledgement.

// Before anything: what the broker is told to do.
pub mod settings;
// A record's way in.
pub mod network;
mod listener;
mod connection;
mod inbound;
mod outbound;
mod dispatch;
mod context;
mod quotas;
mod telemetry;
mod authorize;
mod handler;
// Where it is kept, made safe, and waited for.
mod unpacking;
mod partitions;
mod partition;
mod flush;
mod waiting;
mod fetch_session;
// How others come to have it too.
mod peer;
mod replication;
mod throttle;
mod isr;
mod leader_hints;
// What the cluster has decided, and what the broker makes of it.
mod quorum;
mod metadata;
mod controller;
mod controller_link;
mod lifecycle;
mod disks;
mod clock_skew;
mod replicas;
mod moves;
// What the broker knows of topics, groups, transactions and share groups.
mod topics;
mod producer_ids;
mod coordinator;
mod groups;
mod group_lag;
mod transactions;
mod markers;
mod share_coordinator;
mod share_partitions;
mod share_sessions;
mod dead_letters;
mod log_reader;
// Around it.
mod blocking;
mod descriptors;
mod broker;
mod opening;
mod node;
mod inspect;
mod housekeeping;
mod scrub;
pub mod clock;
pub mod admin;
pub mod metrics;
pub mod logging;
pub mod embedded;

pub use inspect::{Inspector, Replica, Standing};
pub use node::{Node, NodeOptions, StartError};
pub use quorum::QuorumLogError;
