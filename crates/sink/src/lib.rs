//! Leaving: topics into tables, each record exactly once.
//!
//! The modules stand in the order of a record's way: what a position belongs to and how files are called (`key`), what is done next
//! (`plan`), records into columns (`kind`, `column`, `columns`, `decimal`, `json`), columns into files beside the table (`writer`), the fence of those files
//! (`staging`), the table (`table`), the positions (`store`, `file_store`), records that are no rows (`letters`, `verdicts`), one
//! partition that goes through all of it (`partition`), what is declared (`settings`), the line at work (`run`), and what can be said of it from outside (`status`,
//! `replay`, `verify`). Invariant: a range is frozen before its files are in the table, and committed after; whoever repeats it writes the
//! same files.

mod key;
mod files;
mod plan;
mod kind;
mod column;
mod columns;
mod decimal;
mod json;
mod table;
mod staging;
mod writer;
mod store;
mod file_store;
mod letters;
mod verdicts;
mod partition;
mod settings;
mod run;
mod status;
mod replay;
mod verify;

pub use columns::{Columns, Extra, Format, OFFSET_COLUMN, Shape, Unconvertible};
pub use file_store::FileStore;
pub use files::{Entry, Files, LocalFiles, NewFile};
pub use key::{FileName, Key, Layout, LineName, Range};
pub use kind::{JsonField, Kind};
pub use letters::{HEADER_PREFIX, Letter, Letters};
pub use partition::{Chunk, LineSettings, Partition, PartitionError};
pub use plan::{Action, Event, Limits, Plan};
pub use replay::{DeadLetter, Replayed, Which, dead_letters, replay};
pub use run::{Done, RunError, Until, run};
pub use settings::{DeadLetterSettings, OfflineSettings, Settings, SettingsError};
pub use status::{Status, status};
pub use store::{
    Acquire, Change, Entry as StoreEntry, Frozen, Held, PositionStore, StoreError, Stored, acquired,
    committed, frozen,
};
pub use table::{Ahead, Listing, Table, TableFile};
pub use verify::{Finding, Verified, verify};
