//! Positions in PostgreSQL, moved in the very transaction that writes the results.
//!
//! One table, a row per partition. A commit is one update that touches the row only where holder, position and topic are what
//! they should be; inside the user's transaction it locks the row until results and position are there together, or neither.
//! A reader that takes hold meanwhile waits for that. Nothing here begins or ends a transaction of the user's.

use std::sync::Arc;

use client::BoxFuture;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, Error as PostgresError, GenericClient, NoTls, Row};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::key::{Key, ReaderName};
use crate::store::{Claim, Expected, Fence, Found, Held, OffsetStore, Position, StoreError, Stored, judge};

/// PostgreSQL truncates longer names silently.
const NAME_LEN_MAX: usize = 63;

/// Positions in a table of a PostgreSQL. Clones share the connection, which is opened anew when it broke.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    table: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl PostgresStore {
    /// The table's name unless another one is chosen.
    pub const TABLE: &str = "ottla_offsets";

    /// Connects, as `host=127.0.0.1 user=reader dbname=results` or `postgresql://reader@127.0.0.1/results` says, and creates the
    /// table if it is not there.
    pub async fn connect(address: &str) -> Result<Self, StoreError> {
        Self::connect_table(address, Self::TABLE).await
    }

    /// Like [`PostgresStore::connect`], with another name for the table, if wanted behind `schema.`.
    pub async fn connect_table(address: &str, table: &str) -> Result<Self, StoreError> {
        let is_name = |name: &str| {
            let mut chars = name.chars();
            name.len() <= NAME_LEN_MAX
                && chars.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
                && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let is_allowed = match table.split_once('.') {
            Some((schema, name)) => is_name(schema) && is_name(name),
            None => is_name(table),
        };
        if !is_allowed {
            return Err(StoreError::Garbage {
                place: "the setting".to_owned(),
                found: format!("{table:?}"),
                expected: "table name (lower case letters, digits and '_', at most 63)",
            });
        }
        let config = address.parse().map_err(unavailable)?;
        let inner = Inner { config, table: table.to_owned(), client: Mutex::default() };
        let store = Self { inner: Arc::new(inner) };
        store.create().await?;
        Ok(store)
    }

    async fn create(&self) -> Result<(), StoreError> {
        let table = &self.inner.table;
        // Several readers may start at once; IF NOT EXISTS alone lets one of them fail.
        let statement = format!(
            "BEGIN;
             SELECT pg_advisory_xact_lock(hashtext('{table}'));
             CREATE TABLE IF NOT EXISTS {table} (
                 reader text NOT NULL,
                 cluster_id text NOT NULL,
                 topic text NOT NULL,
                 partition integer NOT NULL,
                 topic_id text,
                 next_offset bigint CHECK (next_offset >= 0),
                 leader_epoch integer NOT NULL DEFAULT -1,
                 fence bigint NOT NULL,
                 holder bigint NOT NULL,
                 updated_at timestamptz NOT NULL DEFAULT now(),
                 PRIMARY KEY (reader, cluster_id, topic, partition)
             );
             COMMIT"
        );
        self.client().await?.batch_execute(&statement).await.map_err(unavailable)
    }

    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut slot = self.inner.client.lock().await;
        if let Some(client) = slot.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let (client, connection) = self.inner.config.connect(NoTls).await.map_err(unavailable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to PostgreSQL is over");
            }
        });
        let client = Arc::new(client);
        *slot = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Moves a position in a transaction of the caller's, who writes the results in it too: both are there when it commits.
    ///
    /// After any error the transaction has to be rolled back. [`StoreError::AlreadyThere`] says that an earlier transaction, whose
    /// commit was not answered, has done the same: results and position are there.
    pub async fn commit_in(&self, transaction: &impl GenericClient, claim: &Claim) -> Result<(), StoreError> {
        let table = &self.inner.table;
        let Claim { key, fence, expected, position } = claim;
        let Key { reader, cluster_id, partition, topic_id } = key;
        let topic_id = topic_id.to_string();
        let condition = match expected {
            Expected::Nothing => "next_offset IS NULL AND $10::bigint IS NULL",
            Expected::At(_) => "next_offset = $10 AND topic_id = $7",
            Expected::Anything => "$10::bigint IS NULL",
        };
        let expected = match expected {
            Expected::At(offset) => Some(offset.0),
            Expected::Nothing | Expected::Anything => None,
        };
        let update = format!(
            "UPDATE {table} SET topic_id = $7, next_offset = $8, leader_epoch = $9, updated_at = now()
             WHERE reader = $1 AND cluster_id = $2 AND topic = $3 AND partition = $4 AND fence = $5 AND holder = $6
             AND {condition}"
        );
        let updated = transaction
            .execute(
                &update,
                &[
                    &reader.as_str(),
                    cluster_id,
                    &&*partition.topic,
                    &partition.partition.0,
                    &fence.number,
                    &fence.token,
                    &topic_id,
                    &position.next.0,
                    &position.leader_epoch.0,
                    &expected,
                ],
            )
            .await
            .map_err(unavailable)?;
        if updated == 1 {
            return Ok(());
        }
        let select = format!(
            "SELECT fence, holder, next_offset, topic_id FROM {table}
             WHERE reader = $1 AND cluster_id = $2 AND topic = $3 AND partition = $4"
        );
        let row = transaction
            .query_opt(&select, &[&reader.as_str(), cluster_id, &&*partition.topic, &partition.partition.0])
            .await
            .map_err(unavailable)?;
        let found = row.map(|row| found(key, &row)).transpose()?;
        judge(claim, found)?;
        // It was not so a moment ago, when the update looked.
        Err(StoreError::Busy { key: Box::new(key.clone()) })
    }
}

impl OffsetStore for PostgresStore {
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            let table = &self.inner.table;
            let token: i64 = rand::random();
            let statement = format!(
                "INSERT INTO {table} AS had (reader, cluster_id, topic, partition, fence, holder) VALUES ($1, $2, $3, $4, 1, $5)
                 ON CONFLICT (reader, cluster_id, topic, partition) DO UPDATE SET fence = had.fence + 1, holder = $5
                 RETURNING fence, holder, next_offset, topic_id, leader_epoch, {UPDATED_MS}"
            );
            let Key { reader, cluster_id, partition, .. } = key;
            let client = self.client().await?;
            let row = client
                .query_one(
                    &statement,
                    &[&reader.as_str(), cluster_id, &&*partition.topic, &partition.partition.0, &token],
                )
                .await
                .map_err(unavailable)?;
            let found = found(key, &row)?;
            Ok(Held { fence: found.fence, stored: found.at.map(|at| stored(at, &row)) })
        })
    }

    fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let client = self.client().await?;
            self.commit_in(&*client, claim).await
        })
    }

    fn list<'a>(&'a self, reader: &'a ReaderName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move {
            let statement = format!(
                "SELECT fence, holder, next_offset, topic_id, leader_epoch, {UPDATED_MS}, cluster_id, topic, partition
                 FROM {} AS had WHERE reader = $1 AND next_offset IS NOT NULL ORDER BY cluster_id, topic, partition",
                self.inner.table
            );
            let client = self.client().await?;
            let rows = client.query(&statement, &[&reader.as_str()]).await.map_err(unavailable)?;
            let mut listed = Vec::with_capacity(rows.len());
            for row in rows {
                let partition = TopicPartition::new(Str::copy_from(row.get(7)), PartitionId(row.get(8)));
                let mut key =
                    Key { reader: reader.clone(), cluster_id: row.get(6), partition, topic_id: Uuid::ZERO };
                let Some(at) = found(&key, &row)?.at else { continue };
                key.topic_id = at.1;
                listed.push((key, stored(at, &row)));
            }
            Ok(listed)
        })
    }
}

const UPDATED_MS: &str = "(extract(epoch FROM had.updated_at) * 1000)::bigint";

/// Of a row that begins with fence, holder, next_offset and topic_id.
fn found(key: &Key, row: &Row) -> Result<Found, StoreError> {
    let fence = Fence { number: row.get(0), token: row.get(1) };
    let Some(next) = row.get::<_, Option<i64>>(2) else { return Ok(Found { fence, at: None }) };
    let topic_id = row.get::<_, Option<&str>>(3).unwrap_or_default();
    let topic_id = topic_id.parse().map_err(|_| StoreError::Garbage {
        place: format!("the row of {key}"),
        found: format!("{topic_id:?}"),
        expected: "topic id",
    })?;
    Ok(Found { fence, at: Some((Offset(next), topic_id)) })
}

/// Of a row whose next columns are leader_epoch and the time in milliseconds.
fn stored((next, topic_id): (Offset, Uuid), row: &Row) -> Stored {
    let leader_epoch = LeaderEpoch(row.get(4));
    Stored { position: Position { next, leader_epoch }, topic_id, updated: Millis(row.get(5)) }
}

fn unavailable(error: PostgresError) -> StoreError {
    StoreError::Unavailable { store: "PostgreSQL", source: Arc::new(error) }
}
