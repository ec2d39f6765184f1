//! Share groups (KIP-932): a topic as a queue, whose records are delivered to one member at a time and acknowledged one by one.
//!
//! Two machines stand here. [`partition`] is one partition as one group works on it: which of its records are with whom. It
//! lives with the partition's leader. [`state`] keeps what of it must not be lost, in the records of `__share_group_state`, and
//! lives with the share coordinator, which may be another broker.

pub mod partition;
mod runs;
pub mod state;

pub use self::runs::{Run, Runs};
