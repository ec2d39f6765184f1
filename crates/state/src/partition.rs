//! One partition's replicas: what is safe, who is in sync, and where a follower has to cut its log.
//!
//! Invariant: the high watermark never passes what a member of the in-sync set, or one that is about to join it, has made
//! durable; so whoever of them leads next holds everything that was acknowledged. Nothing here reads a log: ends and epochs
//! come in as arguments, and what moves goes out as answers.

mod follower;
mod leader;

#[cfg(test)]
mod leader_tests;

pub use self::follower::{EpochEnd, truncation};
pub use self::leader::{Fetched, IsrProposal, Leader, LeaderStart};

use wire::{BrokerId, LeaderEpoch};

/// What the metadata says about a partition, as far as its replicas act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Rises with every new leader.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change.
    pub partition_epoch: i32,
    /// All replicas.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub isr: Vec<BrokerId>,
    /// `min.insync.replicas`, at most the number of replicas.
    pub isr_min: usize,
}
