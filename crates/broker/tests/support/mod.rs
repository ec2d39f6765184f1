//! What the tests that go through a socket share: a broker on a free port with a data directory of its own, and a client
//! that speaks the protocol and nothing more. Both block; a test reads as a conversation, from top to bottom.

// Each test binary compiles this for itself and uses its own part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod broker;
mod client;
mod cluster;
mod mutation;
mod raw;
mod site;

pub use self::broker::{TestBroker, set};
pub use self::client::{TestClient, batch_of};
pub use self::cluster::{TestCluster, wait_until};
pub use self::mutation::{Xorshift, is_answered_at_once, mutate, resident_bytes, sample_frames};
pub use self::raw::{connect, get_metrics, header, read_frame};
pub use self::site::{Place, Site};
