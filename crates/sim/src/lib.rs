//! Whole clusters in one thread: the real brokers on a simulated network, disks and clocks, and everything that can happen to
//! them, from one seed.
//!
//! The same seed does the same, byte for byte: there is one source of dice, one clock, one thread. A story goes through three
//! parts: the cluster comes up and takes writes; faults come and go while it does; then all is healed, and what was
//! acknowledged must be there, on every replica.

mod dice;
mod world;
mod truth;
mod history;
mod group_history;
mod share_history;
mod invariants;
mod load;
mod transactions;
mod groups;
mod shares;
mod clients;
mod faults;
mod story;

pub use story::{Cast, GroupKind, Outcome, Story, tell};
