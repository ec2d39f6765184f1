//! A server of positions in memory, asked as Redis and PostgreSQL are: each request is a step that may fail, and so is its answer.
//!
//! Entries are read and replaced as `sink` does it with a real server.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::BoxFuture;
use sink::{EntryVersion, Key, LineName, PositionServer, StoreEntry, StoreError};

use super::Process;

/// What the server holds, by what a key is called there.
#[derive(Clone, Default)]
pub struct PositionTable {
    entries: BTreeMap<String, (Key, EntryVersion, StoreEntry)>,
    /// How many changes there were.
    pub changes: usize,
}

impl PositionTable {
    fn place(key: &Key) -> String {
        format!("{}:{}", key.line, key.partition)
    }
}

/// The server, as one process asks it.
pub struct Asking {
    process: Process,
    table: Arc<Mutex<PositionTable>>,
}

impl Asking {
    pub fn new(process: Process, table: Arc<Mutex<PositionTable>>) -> Self {
        Self { process, table }
    }

    /// A request, and its answer.
    fn request<'a, T: Send + 'a>(
        &self,
        carry_out: impl FnOnce(&mut PositionTable) -> T,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let carried_out = || {
            self.process.steps.step()?;
            let answer = carry_out(&mut self.table.lock().expect("nobody panics with it"));
            self.process.steps.step()?;
            Ok(answer)
        };
        let answer = carried_out().map_err(|source: io::Error| match self.process.steps.is_dead() {
            // Whoever is dead does not ask again.
            true => StoreError::Files { doing: "ask", path: PathBuf::from("the server"), source },
            false => offsets::StoreError::Silent { after: Duration::ZERO }.into(),
        });
        Box::pin(async move { answer })
    }
}

impl PositionServer for Asking {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.request(|_| ())
    }

    fn read<'a>(
        &'a self,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<(EntryVersion, StoreEntry)>, StoreError>> {
        self.request(|table| {
            let found = table.entries.get(&PositionTable::place(key));
            found.map(|(_, version, entry)| (*version, entry.clone()))
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        read: Option<EntryVersion>,
        entry: &'a StoreEntry,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.request(|table| {
            let place = PositionTable::place(key);
            let is_as_read = table.entries.get(&place).map(|(_, version, _)| *version) == read;
            if is_as_read {
                table.changes += 1;
                let number = read.map_or(1, |read| read.number + 1);
                let version = EntryVersion { number, fence: entry.fence };
                table.entries.insert(place, (key.clone(), version, entry.clone()));
            }
            is_as_read
        })
    }

    fn entries<'a>(
        &'a self,
        line: &'a LineName,
    ) -> BoxFuture<'a, Result<Vec<(Key, StoreEntry)>, StoreError>> {
        self.request(|table| {
            let own = table.entries.values().filter(|(key, ..)| key.line == *line);
            own.map(|(key, _, entry)| {
                let StoreEntry { cluster_id, topic_id, .. } = entry.clone();
                (Key { cluster_id, topic_id, ..key.clone() }, entry.clone())
            })
            .collect()
        })
    }
}
