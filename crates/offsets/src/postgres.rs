//! Positions in PostgreSQL, moved in the very transaction that writes the results.
//!
//! One table, a row per partition. A commit is one update that touches the row only where holder, position and topic are what
//! they should be; inside the user's transaction it locks the row until results and position are there together, or neither.
//! A reader that takes hold meanwhile waits for that, for a while. Nothing here begins or ends a transaction of the user's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::BoxFuture;
use tokio::time::timeout;
use tokio_postgres::{GenericClient, Row};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::key::{Key, ReaderName};
use crate::postgres_connection::{ANSWER_MAX, PostgresConnection};
use crate::store::{
    Claim, Expected, Fence, Found, Held, OffsetStore, Position, Seen, StoreError, Stored, judge, positions,
};

/// Others that take hold of the same partitions in the same moment make it try again.
const TRIES_MAX: u32 = 100;

/// Positions in a table of a PostgreSQL. Clones share the connection, which is opened anew when it broke.
#[derive(Clone)]
pub struct PostgresStore {
    connection: Arc<PostgresConnection>,
}

/// The table's columns.
const DEFINITIONS: &str = "
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
    chosen_over bigint,
    PRIMARY KEY (reader, cluster_id, topic, partition)
";

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
        let connection = Arc::new(PostgresConnection::new(address, table)?);
        connection.create_table(DEFINITIONS).await?;
        Ok(Self { connection })
    }

    /// Moves a position in a transaction of the caller's, who writes the results in it too: both are there when it commits.
    ///
    /// After any error the transaction has to be rolled back. [`StoreError::AlreadyThere`] says that an earlier transaction, whose
    /// commit was not answered, has done the same: results and position are there.
    pub async fn commit_in(&self, transaction: &impl GenericClient, claim: &Claim) -> Result<(), StoreError> {
        let Claim { key, fence, position, over, .. } = claim;
        let Key { reader, cluster_id, partition, topic_id } = key;
        let topic_id = topic_id.to_string();
        let updated = transaction
            .execute(
                &update(self.connection.table(), claim.expected),
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
                    &over.map(|over| over.0),
                    &at(claim.expected),
                ],
            )
            .await
            .map_err(|error| self.connection.failed(error))?;
        if updated == 1 {
            return Ok(());
        }
        let select = select_one(self.connection.table());
        let row = transaction
            .query_opt(&select, &[&reader.as_str(), cluster_id, &&*partition.topic, &partition.partition.0])
            .await
            .map_err(|error| self.connection.failed(error))?;
        let found = row.map(|row| self.found(&row)).transpose()?;
        judge(claim, found)?;
        // It was not so a moment ago, when the update looked.
        Err(StoreError::Busy { key: Box::new(key.clone()) })
    }

    /// Takes hold of partitions of one reader in one cluster, of each only if nobody has done so since it was looked at: what
    /// arrives late takes nothing from whoever came meanwhile. Those that are missing in the answer were taken by others.
    async fn take(
        &self,
        keys: &[&Key],
    ) -> Result<HashMap<TopicPartition, Result<Held, StoreError>>, StoreError> {
        let Some(first) = keys.first() else { return Ok(HashMap::new()) };
        let table = self.connection.table();
        let (reader, cluster_id) = (first.reader.as_str(), &first.cluster_id);
        let topics: Vec<&str> = keys.iter().map(|key| &*key.partition.topic).collect();
        let partitions: Vec<i32> = keys.iter().map(|key| key.partition.partition.0).collect();
        let client = self.connection.client().await?;
        let look = format!(
            "SELECT coalesce(had.fence, 0) FROM unnest($3::text[], $4::integer[]) WITH ORDINALITY AS asked (topic, partition, place)
             LEFT JOIN {table} AS had ON had.reader = $1 AND had.cluster_id = $2
             AND had.topic = asked.topic AND had.partition = asked.partition ORDER BY place"
        );
        let rows =
            self.connection.asking(client.query(&look, &[&reader, cluster_id, &topics, &partitions])).await?;
        let mut fences = Vec::with_capacity(rows.len());
        for row in &rows {
            fences.push(self.connection.column::<i64>(row, 0)?);
        }
        let token: i64 = rand::random();
        // In one order, so that two that take hold at once do not wait for each other.
        let take = format!(
            "INSERT INTO {table} AS had (reader, cluster_id, topic, partition, fence, holder)
             SELECT $1, $2, topic, partition, fence + 1, $6
             FROM unnest($3::text[], $4::integer[], $5::bigint[]) AS asked (topic, partition, fence) ORDER BY topic, partition
             ON CONFLICT (reader, cluster_id, topic, partition)
             DO UPDATE SET fence = excluded.fence, holder = excluded.holder WHERE had.fence = excluded.fence - 1
             RETURNING {COLUMNS}"
        );
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&reader, cluster_id, &topics, &partitions, &fences, &token];
        let mut held = HashMap::new();
        for row in self.connection.asking(client.query(&take, &values)).await? {
            let (_, partition) = self.place(&row)?;
            let taken = self.found(&row).and_then(|found| {
                let stored = found.at.map(|at| self.stored(at, &row)).transpose()?;
                Ok(Held { fence: found.fence, stored })
            });
            held.insert(partition, taken);
        }
        Ok(held)
    }

    /// Which of these somebody's transaction has locked.
    async fn locked(&self, keys: &[&Key]) -> Result<HashSet<TopicPartition>, StoreError> {
        let Some(first) = keys.first() else { return Ok(HashSet::new()) };
        let table = self.connection.table();
        let (reader, cluster_id) = (first.reader.as_str(), &first.cluster_id);
        let topics: Vec<&str> = keys.iter().map(|key| &*key.partition.topic).collect();
        let partitions: Vec<i32> = keys.iter().map(|key| key.partition.partition.0).collect();
        let asked = format!(
            "FROM {table} AS had WHERE had.reader = $1 AND had.cluster_id = $2 AND (had.topic, had.partition) IN
             (SELECT * FROM unnest($3::text[], $4::integer[]))"
        );
        let look = format!(
            "WITH free AS (SELECT had.topic, had.partition {asked} FOR UPDATE SKIP LOCKED)
             SELECT had.topic, had.partition {asked} AND (had.topic, had.partition) NOT IN (SELECT * FROM free)"
        );
        let client = self.connection.client().await?;
        let rows =
            self.connection.asking(client.query(&look, &[&reader, cluster_id, &topics, &partitions])).await?;
        let place = |row: &Row| {
            let partition = PartitionId(self.connection.column(row, 1)?);
            Ok(TopicPartition::new(Str::copy_from(self.connection.column(row, 0)?), partition))
        };
        rows.iter().map(place).collect()
    }

    /// Takes hold of what can be had. What somebody's transaction has locked keeps all of it waiting once, and the rest never more
    /// than once again.
    async fn take_all(&self, keys: &[&Key]) -> HashMap<TopicPartition, Result<Held, StoreError>> {
        let mut held = HashMap::new();
        let mut left: Vec<&Key> = keys.to_vec();
        let mut is_sorted = false;
        for _ in 0..TRIES_MAX {
            match self.take(&left).await {
                Ok(taken) => held.extend(taken),
                Err(error) if is_locked(&error) && left.len() > 1 && !is_sorted => {
                    is_sorted = true;
                    let locked = self.locked(&left).await;
                    let refused = |key: &&Key| match &locked {
                        Ok(locked) => locked.contains(&key.partition).then(|| error.clone()),
                        Err(error) => Some(error.clone()),
                    };
                    held.extend(
                        left.iter().filter_map(|key| Some((key.partition.clone(), Err(refused(key)?)))),
                    );
                }
                Err(error) => {
                    held.extend(left.drain(..).map(|key| (key.partition.clone(), Err(error.clone()))));
                }
            }
            left.retain(|key| !held.contains_key(&key.partition));
            if left.is_empty() {
                break;
            }
        }
        let busy = |key: &Key| (key.partition.clone(), Err(StoreError::Busy { key: Box::new(key.clone()) }));
        held.extend(left.into_iter().map(busy));
        held
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn table(&self) -> &str {
        self.connection.table()
    }

    // Rows.

    /// Of a row of [`COLUMNS`].
    fn found(&self, row: &Row) -> Result<Found, StoreError> {
        let fence = Fence { number: self.connection.column(row, 0)?, token: self.connection.column(row, 1)? };
        let Some(next) = self.connection.column::<Option<i64>>(row, 2)? else {
            return Ok(Found { fence, at: None });
        };
        let topic_id = self.connection.column::<Option<&str>>(row, 3)?.unwrap_or_default();
        let topic_id = topic_id.parse().map_err(|_| StoreError::Garbage {
            place: match self.place(row) {
                Ok((cluster, partition)) => format!("the row of {partition} in cluster {cluster}"),
                Err(_) => format!("a row of {}", self.connection.table()),
            },
            found: format!("{topic_id:?}"),
            expected: "topic id",
        })?;
        Ok(Found { fence, at: Some((Offset(next), topic_id)) })
    }

    fn stored(&self, (next, topic_id): (Offset, Uuid), row: &Row) -> Result<Stored, StoreError> {
        let leader_epoch = LeaderEpoch(self.connection.column(row, 4)?);
        Ok(Stored {
            position: Position { next, leader_epoch },
            topic_id,
            updated: Millis(self.connection.column(row, 5)?),
            over: self.connection.column::<Option<i64>>(row, 6)?.map(Offset),
        })
    }

    fn place(&self, row: &Row) -> Result<(String, TopicPartition), StoreError> {
        let partition = PartitionId(self.connection.column(row, 9)?);
        Ok((
            self.connection.column(row, 7)?,
            TopicPartition::new(Str::copy_from(self.connection.column(row, 8)?), partition),
        ))
    }
}

impl OffsetStore for PostgresStore {
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            let taken = self.take_all(&[key]).await.remove(&key.partition);
            taken.unwrap_or_else(|| Err(StoreError::Busy { key: Box::new(key.clone()) }))
        })
    }

    fn acquire_all<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Held, StoreError>>> {
        Box::pin(async move {
            let mut held = self.take_all(&keys.iter().collect::<Vec<_>>()).await;
            let busy = |key: &Key| Err(StoreError::Busy { key: Box::new(key.clone()) });
            keys.iter().map(|key| held.remove(&key.partition).unwrap_or_else(|| busy(key))).collect()
        })
    }

    fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let client = self.connection.client().await?;
            match timeout(ANSWER_MAX, self.commit_in(&*client, claim)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.connection.hang_up().await;
                    Err(StoreError::Silent { after: ANSWER_MAX })
                }
            }
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
            let statement = format!(
                "SELECT {COLUMNS} FROM {} AS had WHERE reader = $1 ORDER BY cluster_id, topic, partition",
                self.connection.table()
            );
            let client = self.connection.client().await?;
            let rows = self.connection.asking(client.query(&statement, &[&reader.as_str()])).await?;
            let seen = |row: &Row| {
                let found = self.found(row)?;
                let stored = found.at.map(|at| self.stored(at, row)).transpose()?;
                let (cluster_id, partition) = self.place(row)?;
                let topic_id = stored.map_or(Uuid::ZERO, |stored| stored.topic_id);
                let key = Key { reader: reader.clone(), cluster_id, partition, topic_id };
                Ok(Seen { key, fence: Some(found.fence), stored })
            };
            Ok(rows.iter().map(seen).collect())
        })
    }
}

/// What is read of a row, in this order.
const COLUMNS: &str = "had.fence, had.holder, had.next_offset, had.topic_id, had.leader_epoch, \
    (extract(epoch FROM had.updated_at) * 1000)::bigint, had.chosen_over, had.cluster_id, had.topic, had.partition";

/// Moves a position, of reader $1, cluster $2, topic $3 and partition $4, held as $5 and $6 say, to topic id $7, offset $8, leader
/// epoch $9 and passing over copy $10, if it is at $11.
pub(crate) fn update(table: &str, expected: Expected) -> String {
    let condition = match expected {
        Expected::Nothing => "next_offset IS NULL AND $11::bigint IS NULL",
        Expected::At(_) => "next_offset = $11 AND topic_id = $7",
        Expected::Anything => "$11::bigint IS NULL",
    };
    format!(
        "UPDATE {table}
         SET topic_id = $7, next_offset = $8, leader_epoch = $9, chosen_over = $10, updated_at = now()
         WHERE reader = $1 AND cluster_id = $2 AND topic = $3 AND partition = $4 AND fence = $5 AND holder = $6
         AND {condition}"
    )
}

pub(crate) fn at(expected: Expected) -> Option<i64> {
    match expected {
        Expected::At(offset) => Some(offset.0),
        Expected::Nothing | Expected::Anything => None,
    }
}

pub(crate) fn select_one(table: &str) -> String {
    format!(
        "SELECT {COLUMNS} FROM {table} AS had WHERE reader = $1 AND cluster_id = $2 AND topic = $3 AND partition = $4"
    )
}

/// Whether somebody's transaction has locked a row for longer than was waited.
fn is_locked(error: &StoreError) -> bool {
    let StoreError::Unavailable { source, .. } = error else { return false };
    let said = source.downcast_ref::<tokio_postgres::error::DbError>();
    said.is_some_and(|said| *said.code() == tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE)
}
