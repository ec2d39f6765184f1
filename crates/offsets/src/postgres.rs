//! Positions in PostgreSQL, moved in the very transaction that writes the results.
//!
//! One table, a row per partition. A commit is one update that touches the row only where holder, position and topic are what
//! they should be; inside the user's transaction it locks the row until results and position are there together, or neither.
//! A reader that takes hold meanwhile waits for that, for a while. Nothing here begins or ends a transaction of the user's.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Config, Error as PostgresError, GenericClient, NoTls, Row};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::key::{Key, ReaderName};
use crate::store::{
    Claim, Expected, Fence, Found, Held, OffsetStore, Position, Seen, StoreError, Stored, judge, positions,
};

/// PostgreSQL truncates longer names silently.
const NAME_LEN_MAX: usize = 63;
/// For a connection to be there, unless the address says otherwise (`connect_timeout`, in seconds).
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// For a row that somebody's transaction has locked, unless the address says otherwise (`options='-c lock_timeout=MS'`).
const LOCK_MS_MAX: u64 = 10_000;
/// For any answer. Behind it the connection is taken for dead.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Others that take hold of the same partitions in the same moment make it try again.
const TRIES_MAX: u32 = 100;

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
        let mut config: Config = address.parse().map_err(|error| StoreError::Refused {
            store: STORE,
            source: Arc::new(error),
            advice: "an address is postgresql://USER@HOST/DATABASE",
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_MAX);
        }
        let inner = Inner { config, table: table.to_owned(), client: Mutex::default() };
        let store = Self { inner: Arc::new(inner) };
        store.create().await?;
        Ok(store)
    }

    async fn create(&self) -> Result<(), StoreError> {
        let table = &self.inner.table;
        let client = self.client().await?;
        // Who may only use the table has to be told that it is there, and not to create it.
        let there = self.asking(client.query_one("SELECT to_regclass($1) IS NOT NULL", &[table])).await?;
        if self.column(&there, 0)? {
            return Ok(());
        }
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
                 chosen_over bigint,
                 PRIMARY KEY (reader, cluster_id, topic, partition)
             );
             COMMIT"
        );
        let created = self.asking(client.batch_execute(&statement)).await;
        if created.is_err() {
            // It may have failed half way.
            *self.inner.client.lock().await = None;
        }
        created
    }

    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut slot = self.inner.client.lock().await;
        if let Some(client) = slot.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let config = &self.inner.config;
        let opening = async {
            let (client, connection) = config.connect(NoTls).await.map_err(|error| self.failed(error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to PostgreSQL is over");
                }
            });
            if !config.get_options().is_some_and(|options| options.contains("lock_timeout")) {
                let set = format!("SET lock_timeout = {LOCK_MS_MAX}");
                client.batch_execute(&set).await.map_err(|error| self.failed(error))?;
            }
            Ok(Arc::new(client))
        };
        let opened = timeout(ANSWER_MAX, opening).await;
        let client = opened.unwrap_or(Err(StoreError::Silent { after: ANSWER_MAX }))?;
        *slot = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Waits for an answer on the store's own connection; without one, the next question goes over a new connection.
    async fn asking<T>(&self, ask: impl Future<Output = Result<T, PostgresError>>) -> Result<T, StoreError> {
        match timeout(ANSWER_MAX, ask).await {
            Ok(answer) => answer.map_err(|error| self.failed(error)),
            Err(_) => {
                *self.inner.client.lock().await = None;
                Err(StoreError::Silent { after: ANSWER_MAX })
            }
        }
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
                &update(&self.inner.table, claim.expected),
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
            .map_err(|error| self.failed(error))?;
        if updated == 1 {
            return Ok(());
        }
        let select = select_one(&self.inner.table);
        let row = transaction
            .query_opt(&select, &[&reader.as_str(), cluster_id, &&*partition.topic, &partition.partition.0])
            .await
            .map_err(|error| self.failed(error))?;
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
        let table = &self.inner.table;
        let (reader, cluster_id) = (first.reader.as_str(), &first.cluster_id);
        let topics: Vec<&str> = keys.iter().map(|key| &*key.partition.topic).collect();
        let partitions: Vec<i32> = keys.iter().map(|key| key.partition.partition.0).collect();
        let client = self.client().await?;
        let look = format!(
            "SELECT coalesce(had.fence, 0) FROM unnest($3::text[], $4::integer[]) WITH ORDINALITY AS asked (topic, partition, place)
             LEFT JOIN {table} AS had ON had.reader = $1 AND had.cluster_id = $2
             AND had.topic = asked.topic AND had.partition = asked.partition ORDER BY place"
        );
        let rows = self.asking(client.query(&look, &[&reader, cluster_id, &topics, &partitions])).await?;
        let mut fences = Vec::with_capacity(rows.len());
        for row in &rows {
            fences.push(self.column::<i64>(row, 0)?);
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
        for row in self.asking(client.query(&take, &values)).await? {
            let (_, partition) = self.place(&row)?;
            let taken = self.found(&row).and_then(|found| {
                let stored = found.at.map(|at| self.stored(at, &row)).transpose()?;
                Ok(Held { fence: found.fence, stored })
            });
            held.insert(partition, taken);
        }
        Ok(held)
    }

    /// Takes hold of what can be had at once; of what somebody's transaction has locked, one after the other.
    async fn take_all(&self, keys: &[&Key]) -> HashMap<TopicPartition, Result<Held, StoreError>> {
        let mut held = HashMap::new();
        let mut left: Vec<&Key> = keys.to_vec();
        for _ in 0..TRIES_MAX {
            match self.take(&left).await {
                Ok(taken) => held.extend(taken),
                Err(error) if is_locked(&error) && left.len() > 1 => {
                    for key in left.drain(..) {
                        held.extend(Box::pin(self.take_all(&[key])).await);
                    }
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
        &self.inner.table
    }

    // Rows, which may be of a table that is somebody else's.

    fn column<'a, T: FromSql<'a>>(&self, row: &'a Row, at: usize) -> Result<T, StoreError> {
        row.try_get(at).map_err(|error| self.failed(error))
    }

    /// Of a row of [`COLUMNS`].
    fn found(&self, row: &Row) -> Result<Found, StoreError> {
        let fence = Fence { number: self.column(row, 0)?, token: self.column(row, 1)? };
        let Some(next) = self.column::<Option<i64>>(row, 2)? else { return Ok(Found { fence, at: None }) };
        let topic_id = self.column::<Option<&str>>(row, 3)?.unwrap_or_default();
        let topic_id = topic_id.parse().map_err(|_| StoreError::Garbage {
            place: match self.place(row) {
                Ok((cluster, partition)) => format!("the row of {partition} in cluster {cluster}"),
                Err(_) => format!("a row of {}", self.inner.table),
            },
            found: format!("{topic_id:?}"),
            expected: "topic id",
        })?;
        Ok(Found { fence, at: Some((Offset(next), topic_id)) })
    }

    fn stored(&self, (next, topic_id): (Offset, Uuid), row: &Row) -> Result<Stored, StoreError> {
        let leader_epoch = LeaderEpoch(self.column(row, 4)?);
        Ok(Stored {
            position: Position { next, leader_epoch },
            topic_id,
            updated: Millis(self.column(row, 5)?),
            over: self.column::<Option<i64>>(row, 6)?.map(Offset),
        })
    }

    fn place(&self, row: &Row) -> Result<(String, TopicPartition), StoreError> {
        let partition = PartitionId(self.column(row, 9)?);
        Ok((self.column(row, 7)?, TopicPartition::new(Str::copy_from(self.column(row, 8)?), partition)))
    }

    /// What an error means, for whoever asks again or has to change something.
    fn failed(&self, error: PostgresError) -> StoreError {
        let said = error.to_string();
        if said.starts_with("error deserializing") || said.starts_with("error serializing") {
            let cause = std::error::Error::source(&error).map_or(said, ToString::to_string);
            return StoreError::Garbage {
                place: format!("table {}", self.inner.table),
                found: cause,
                expected: "table of positions (another table has its name: choose another name)",
            };
        }
        let code = error.code().map(|code| code.code().to_owned());
        let is_login = said.starts_with("authentication error") || said.starts_with("invalid configuration");
        // The cause is what the database said; the error around it only says that there is one.
        let has_cause = std::error::Error::source(&error).is_some();
        let source: Arc<dyn std::error::Error + Send + Sync> = match has_cause {
            true => error.into_source().map_or_else(|| unreachable!("it has a cause"), Arc::from),
            false => Arc::new(error),
        };
        match code.as_deref().and_then(advice).or(is_login.then_some(LOGIN)) {
            Some(advice) => StoreError::Refused { store: STORE, source, advice },
            None => StoreError::Unavailable { store: STORE, source },
        }
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
            let client = self.client().await?;
            match timeout(ANSWER_MAX, self.commit_in(&*client, claim)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    *self.inner.client.lock().await = None;
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
                self.inner.table
            );
            let client = self.client().await?;
            let rows = self.asking(client.query(&statement, &[&reader.as_str()])).await?;
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

pub(crate) const STORE: &str = "PostgreSQL";
const LOGIN: &str = "set the user and the password in the store's address right";

/// What to change when PostgreSQL says this (SQLSTATE); nothing where asking again may help.
pub(crate) fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "42501" => "give the reader's user SELECT, INSERT and UPDATE on its table, or CREATE on the schema",
        "42P01" => "the table is gone: it is created again when the reader starts",
        "3D000" => "create the database, or set it right in the store's address",
        "3F000" => "create the schema, or leave it out of the table's name",
        _ if code.starts_with("42") => "another table has the name: choose another name for the reader's",
        _ if code.starts_with("28") => LOGIN,
        _ => return None,
    })
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
