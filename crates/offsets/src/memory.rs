//! A store that lasts as long as its process, for tests and for output that does not last longer either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{BoxFuture, Environment};
use wire::{Millis, TopicPartition, Uuid};

use crate::key::{Key, ReaderName};
use crate::store::{Claim, Fence, Found, Held, OffsetStore, Seen, StoreError, Stored, judge, positions};

/// Positions in memory. Clones share them.
#[derive(Clone)]
pub struct MemoryStore {
    environment: Arc<dyn Environment>,
    rows: Arc<Mutex<Rows>>,
}

type Rows = BTreeMap<(ReaderName, String, TopicPartition), Row>;

#[derive(Debug, Clone)]
struct Row {
    fence: Fence,
    stored: Option<Stored>,
}

/// What was in a store at some moment.
#[derive(Debug, Clone)]
pub struct Snapshot(Rows);

impl MemoryStore {
    /// An empty one, with this environment's clock and dice.
    pub fn new(environment: Arc<dyn Environment>) -> Self {
        Self { environment, rows: Arc::default() }
    }

    /// All that is there now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.rows().clone())
    }

    /// Loses what has happened since, as a store does that fails over to a copy that was behind.
    pub fn roll_back(&self, to: &Snapshot) {
        *self.rows() = to.0.clone();
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        self.environment.now()
    }
}

fn place(key: &Key) -> (ReaderName, String, TopicPartition) {
    (key.reader.clone(), key.cluster_id.clone(), key.partition.clone())
}

impl OffsetStore for MemoryStore {
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            let token = self.environment.random() as i64;
            let mut rows = self.rows();
            let row =
                rows.entry(place(key)).or_insert(Row { fence: Fence { number: 0, token }, stored: None });
            row.fence = Fence { number: row.fence.number + 1, token };
            Ok(Held { fence: row.fence, stored: row.stored })
        })
    }

    fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let updated = self.now();
            let mut rows = self.rows();
            let row = rows.get_mut(&place(&claim.key));
            let found = row.as_ref().map(|row| Found {
                fence: row.fence,
                at: row.stored.map(|stored| (stored.position.next, stored.topic_id)),
            });
            judge(claim, found)?;
            let row = row.expect("a claim on nothing is refused");
            let Claim { key, position, over, .. } = claim;
            row.stored = Some(Stored { position: *position, topic_id: key.topic_id, updated, over: *over });
            Ok(())
        })
    }

    fn list<'a>(&'a self, reader: &'a ReaderName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move { Ok(positions(self.survey(reader).await?)) })
    }

    fn survey<'a>(
        &'a self,
        reader: &'a ReaderName,
    ) -> BoxFuture<'a, Result<Vec<Result<Seen, StoreError>>, StoreError>> {
        Box::pin(async move {
            let rows = self.rows();
            let of_reader = rows.iter().filter(|((name, ..), _)| name == reader);
            let seen = of_reader.map(|((reader, cluster_id, partition), row)| {
                let key = Key {
                    reader: reader.clone(),
                    cluster_id: cluster_id.clone(),
                    partition: partition.clone(),
                    topic_id: row.stored.map_or(Uuid::ZERO, |stored| stored.topic_id),
                };
                Ok(Seen { key, fence: Some(row.fence), stored: row.stored })
            });
            Ok(seen.collect())
        })
    }
}
