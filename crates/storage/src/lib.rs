//! Keeping: partitions' logs on disk, in Kafka's file format to the byte.
//!
//! Invariant: what `Log::flush` has answered for is on disk, unchanged, at its offset, and a restart finds it;
//! a reader is only ever given whole batches. This crate reads no clock, rolls no die, and touches files only
//! by way of the [`Disk`] that it is given.
//!
//! In reading order: the disk and its two implementations; what is decided without I/O (settings, headers,
//! validation, epochs, producers); a segment and its indexes; the log; the directory of all logs.

mod disk;
mod real_disk;
pub mod fault;
mod layout;
mod config;
mod error;
mod header;
mod raw;
mod codec;
mod validate;
mod epochs;
mod producers;
mod snapshot;
mod index;
mod segment;
mod txn_index;
mod walk;
mod slice;
mod checkpoint;
mod swap;
mod offset_map;
mod cleaner;
mod log;
mod data_dir;
mod data_dirs;

pub use config::{Cleanup, CompressionType, LogConfig, TimestampType};
pub use data_dir::{DataDir, DataDirOptions, FoundLog};
pub use data_dirs::{Arrival, DataDirs, DataDirsOptions, DirState, Move, Removal, Superseded};
pub use disk::{
    DirEntry, Disk, DiskFile, DiskLock, OpenMode, read_small_if_exists, remove_if_exists, replace_file,
};
pub use epochs::EpochStart;
pub use error::{AppendError, DataDirError, ReadError, StorageError};
pub use log::{
    Append, Appended, Clean, CleanStats, Log, Retained, Rot, ScrubPoint, Scrubbed, TimestampOffset, Visible,
};
pub use producers::ActiveProducer;
pub use real_disk::RealDisk;
pub use slice::{Located, ReadLimits, ReadMode, Slice, StoredBatches};
pub use txn_index::AbortedTxn;
pub use validate::Origin;
