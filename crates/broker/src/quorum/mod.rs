//! The metadata quorum: the cluster's metadata log, replicated by Raft over the brokers' own listeners.
//!
//! The consensus is `raft`'s (a core without I/O); here are its log on our own storage, its transport, and the task that
//! drives it. Invariant: a vote, and an entry that is acknowledged, are on disk before anybody hears of them; an entry is
//! applied after a majority has it, in the same order on every node.
//!
//! In reading order: how entries look on disk and on the wire, what is kept in memory for the core, what makes it durable,
//! the way to the other nodes, what the broker holds of it all, and the task.

mod entry;
mod message;
mod memory;
mod durable;
mod transport;
mod handle;
mod driver;

pub(crate) use driver::Driver;
pub use durable::QuorumLogError;
pub(crate) use entry::MembersChange;
pub(crate) use handle::{
    NotCommitted, Quorum, QuorumDescription, QuorumOptions, QuorumStatus, ReplicaDescription, Touched,
};
pub(crate) use transport::Peers;

use wire::BrokerId;

/// Raft keeps 0 for nobody, and node ids begin there.
fn raft_id(node: BrokerId) -> u64 {
    u64::try_from(i64::from(node.0) + 1).expect("node ids are not negative")
}

fn node_id(raft_id: u64) -> Option<BrokerId> {
    let id = i32::try_from(raft_id.checked_sub(1)?).ok()?;
    Some(BrokerId(id))
}
