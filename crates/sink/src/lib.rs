//! Leaving: topics into tables, each record exactly once.
//!
//! Invariant: a range is frozen before its files are in the table, and committed after; whoever repeats it writes the same files.
//!
//! The modules stand in the order of a record's way:
//!
//! - what a position belongs to and how files are called: `key`; how they are laid out in directories: `layout`
//! - where files are: `files`, and objects in their place: `bucket`, `s3`
//! - what is done next: `plan`
//! - records into columns: `kind`, `column`, `columns`, `decimal`, `json`; by schemas: `fault`, `avro_schema`, `avro`,
//!   `protobuf_schema`, `protobuf`, `registry`, `encoded`
//! - columns into files beside the table: `encodings`, `placement`, `writer`; whose those files are: `staging`; and objects: `claims`
//! - the table: `table`; a directory in place of another: `exchange`; what files say of themselves: `footer`; and what was removed of
//!   them: `expired`
//! - positions: `store`; where they are kept: `file_store`, and by way of `server_store`: `redis_store`, `postgres_store`
//! - records that are no rows: `letters`, `verdicts`
//! - one partition that goes through all of it: `partition`
//! - what is declared: `settings`, `value_settings`, `positions`
//! - how fast it may be read, and whether at all: `throttle`, `gate`; what is told meanwhile: `meter`, `progress`, `metrics`; how it is
//!   to be done: `running`
//! - which partitions are this instance's: `shares`; which are another's by now: `taken`; what is read, and whether it continues: `source`
//! - lines into tables at work: `offline`; hours that are complete: `success`
//! - the near-real-time line into a topic: `log_reader`, `origin`, `output`, `nearline_position`, `nearline`; into streams:
//!   `stream_settings`, `stream_entry`, `stream_store`, `stream_hold`, `stream`
//! - both lines: `run`; who holds them: `pause`; what is looked at beside them: `watch`
//! - what can be said of it from outside: `status`, `replay`, `digest`, `beside`, `verify_nearline`, `verify_stream`, `verify`
//! - positions from the table itself: `repair`; before there are any: `reset`
//! - what keeps a table in order: `compact`, `expire`

mod key;
mod layout;
mod bucket;
mod files;
mod s3;
mod plan;
mod kind;
mod column;
mod columns;
mod placement;
mod decimal;
mod json;
mod fault;
mod avro_schema;
mod avro;
mod protobuf;
mod protobuf_schema;
mod registry;
mod encoded;
mod table;
mod staging;
mod claims;
mod exchange;
mod encodings;
mod writer;
mod store;
mod file_store;
mod server_store;
mod redis_store;
mod postgres_store;
mod letters;
mod verdicts;
mod partition;
mod footer;
mod expired;
mod settings;
mod value_settings;
mod positions;
mod throttle;
mod gate;
mod meter;
mod progress;
mod metrics;
mod running;
mod shares;
mod taken;
mod source;
mod log_reader;
mod success;
mod offline;
mod origin;
mod output;
mod nearline_position;
mod nearline;
mod stream_settings;
mod stream_entry;
mod stream_store;
mod stream_hold;
mod stream;
mod pause;
mod watch;
mod run;
mod status;
mod replay;
mod digest;
mod beside;
mod verify_nearline;
mod verify_stream;
mod verify;
mod repair;
mod reset;
mod compact;
mod expire;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod stream_crash_points;

pub use bucket::{Bucket, Depth, Objects, Put};
pub use columns::{Columns, Extra, Format, OFFSET_COLUMN, Shape, Unconvertible};
pub use compact::{Compaction, Merge, Merges, UpkeepOutcome, compact};
pub use encoded::{Encoded, SchemaError};
pub use expire::{Expiries, Expiry, OldDirectory, expire};
pub use file_store::FileStore;
pub use files::{Entry, Files, LocalFiles, NewFile};
pub use key::{FileName, Key, LineName, Range};
pub use kind::{JsonField, Kind};
pub use layout::{FieldLayout, Layout, Misplaced, MisplacedAt};
pub use letters::{HEADER_PREFIX, Letter, Letters};
pub use meter::{Left, Meter, Metered, MeteredLine, Standing, Work};
pub use origin::{LINE_HEADER, SOURCE_HEADER};
pub use partition::{Chunk, LineSettings, Partition, PartitionError, Placed};
pub use pause::{Held as HeldLine, Hold, hold};
pub use plan::{Action, Event, Limits, Plan};
pub use positions::{Positions, open_store};
pub use postgres_store::PostgresStore;
pub use progress::Progress;
pub use redis_store::RedisStore;
pub use registry::{Registry, RegistryError};
pub use repair::{Repair, RepairAction, repair};
pub use replay::{DeadLetter, Replayed, Which, dead_letters, replay};
pub use reset::{Reset, ResetEffect, ResetWhich, reset};
pub use run::{Done, RunError, Until, run};
pub use running::{Pace, Running};
pub use s3::S3Settings;
pub use server_store::{Server as PositionServer, Version as EntryVersion};
pub use settings::size as parse_size;
pub use settings::{
    DeadLetterSettings, IfRemoved, Line, NearlineOutput, NearlineSettings, Settings, SettingsError,
    TableSettings,
};
pub use status::{Status, status};
pub use store::{
    Acquire, Change, Entry as StoreEntry, Frozen, Held, PositionStore, Rebuild, StoreError, Stored, acquired,
    committed, frozen, rebuilt,
};
pub use stream_settings::StreamSettings;
pub use stream_store::StreamError;
pub use table::{Ahead, Listing, Table, TableFile};
pub use verify::{Finding, Verified, verify};
pub use writer::Memory;
