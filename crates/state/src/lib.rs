//! Deciding: pure state machines for consumer and share groups, for transactions, for the cluster's metadata and for a partition's
//! replicas.
//!
//! Each machine turns a command into records and replies, and rebuilds itself from those records alone, so that what
//! the log holds is what a restarted broker believes. Nothing here reads a clock, draws randomness, touches a disk or a
//! socket, or waits: `now` and fresh ids are arguments.

pub mod coordinator;
pub mod group;
pub mod metadata;
pub mod partition;
pub mod share;
pub mod txn;
