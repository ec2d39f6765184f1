//! Offsets that live where the results live.
//!
//! A [`Reader`] reads partitions from the positions in its own [`OffsetStore`] and refuses to carry on over a gap. The modules
//! stand in the order of a record's way: what a position belongs to (`key`), what a store promises (`store`) and the stores that
//! keep the promise, what a partition must look like to be read on (`continuity`)
//! and how it does (`look`), the reader itself, and the same view for people (`inspect`). Invariant: a position
//! moves only from where its holder left it, and only by its last holder.

mod key;
mod store;
mod memory;
#[cfg(feature = "redis")]
mod redis_connection;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "postgres")]
mod postgres_connection;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlx")]
mod sqlx;
mod continuity;
mod look;
mod reader;
mod inspect;
mod window;

pub use continuity::{Cause, First, Gap, Log, Policy, check, check_first, check_new};
pub use inspect::{Inspected, Inspector, State};
pub use key::{Key, ReaderName};
pub use memory::{MemoryStore, Snapshot};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "postgres")]
pub use postgres_connection::PostgresConnection;
pub use reader::{Batch, Reader, ReaderError, ReaderOptions};
#[cfg(feature = "redis")]
pub use redis::RedisStore;
#[cfg(feature = "redis")]
pub use redis_connection::RedisConnection;
pub use store::{Claim, Expected, Fence, Held, OffsetStore, Position, Seen, StoreError, Stored};
pub use window::Window;
