//! Positions in PostgreSQL: a row for each partition of a line, in the table `ottla_sink_positions`.
//!
//! A row is replaced by one update that names the version and the holder that were read, and made by one insert that does nothing
//! where there is one: compare-and-set without a lock that somebody could hold.

use client::BoxFuture;
use offsets::{Fence, Position, PostgresConnection};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition};

use crate::key::{Key, LineName, Range};
use crate::server_store::{Server, Version};
use crate::store::{Entry, Frozen, StoreError, Stored};

const TABLE: &str = "ottla_sink_positions";

/// The table's columns.
const DEFINITIONS: &str = "
    line text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    cluster_id text NOT NULL,
    topic_id text NOT NULL,
    version bigint NOT NULL,
    epoch bigint NOT NULL,
    token bigint NOT NULL,
    begun bigint NOT NULL,
    committed bigint NOT NULL,
    leader_epoch integer NOT NULL,
    frozen_start bigint,
    frozen_end bigint,
    frozen_epoch bigint,
    frozen_layout text,
    frozen_letters bigint,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (line, topic, partition)
";

/// What is read of a row, in this order.
const COLUMNS: &str = "topic, partition, cluster_id, topic_id, version, epoch, token, begun, committed, leader_epoch, \
    frozen_start, frozen_end, frozen_epoch, frozen_layout, frozen_letters, (extract(epoch FROM updated_at) * 1000)::bigint";

/// A store in a PostgreSQL.
pub struct PostgresStore {
    connection: PostgresConnection,
}

impl PostgresStore {
    /// Connects to an address such as `postgresql://sink@127.0.0.1/results`.
    pub async fn connect(address: &str) -> Result<Self, StoreError> {
        let connection = PostgresConnection::new(address, TABLE)?;
        connection.client().await?;
        Ok(Self { connection })
    }

    fn row(&self, line: &LineName, row: &Row) -> Result<(Key, Version, Entry), StoreError> {
        let topic: &str = self.column(row, 0)?;
        let partition = TopicPartition::new(Str::copy_from(topic), PartitionId(self.column(row, 1)?));
        let garbage = |problem: String| StoreError::Garbage {
            place: format!("the row of {partition} of line {line} in {TABLE}"),
            problem,
        };
        let cluster_id: String = self.column(row, 2)?;
        let topic_id: &str = self.column(row, 3)?;
        let topic_id =
            topic_id.parse().map_err(|_| garbage(format!("topic_id is {topic_id:?}, which is no id")))?;
        let fence = Fence { number: self.column(row, 5)?, token: self.column(row, 6)? };
        let numbers: [Option<i64>; 4] =
            [self.column(row, 10)?, self.column(row, 11)?, self.column(row, 12)?, self.column(row, 14)?];
        let layout: Option<&str> = self.column(row, 13)?;
        let frozen = match (numbers, layout) {
            ([None, None, None, None], None) => None,
            ([Some(start), Some(end), Some(epoch), Some(letters)], Some(layout)) => {
                let range = Range { start: Offset(start), end: Offset(end) };
                let layout =
                    layout.parse().map_err(|problem| garbage(format!("frozen_layout: {problem}")))?;
                let letters = u64::try_from(letters)
                    .map_err(|_| garbage(format!("frozen_letters is {letters}, which is no count")))?;
                Some(Frozen { range, epoch, layout, letters })
            }
            _ => {
                return Err(garbage("of what is frozen some columns are null and others are not".to_owned()));
            }
        };
        let committed =
            Position { next: Offset(self.column(row, 8)?), leader_epoch: LeaderEpoch(self.column(row, 9)?) };
        let begun = Offset(self.column(row, 7)?);
        let stored = Stored { begun, committed, frozen, updated: Millis(self.column(row, 15)?) };
        let version = Version { number: self.column(row, 4)?, fence };
        let entry = Entry { cluster_id: cluster_id.clone(), topic_id, fence, stored };
        let entry = entry.check().map_err(garbage)?;
        Ok((Key { line: line.clone(), cluster_id, partition, topic_id }, version, entry))
    }

    fn column<'a, T: FromSql<'a>>(&self, row: &'a Row, at: usize) -> Result<T, StoreError> {
        Ok(self.connection.column(row, at)?)
    }
}

impl Server for PostgresStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(self.connection.create_table(DEFINITIONS).await?) })
    }

    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<(Version, Entry)>, StoreError>> {
        Box::pin(async move {
            let statement =
                format!("SELECT {COLUMNS} FROM {TABLE} WHERE line = $1 AND topic = $2 AND partition = $3");
            let TopicPartition { topic, partition } = &key.partition;
            let (line, topic) = (key.line.as_str(), topic.as_str());
            let client = self.connection.client().await?;
            let values: [&(dyn ToSql + Sync); 3] = [&line, &topic, &partition.0];
            let asked = client.query_opt(&statement, &values);
            let Some(row) = self.connection.asking(asked).await? else { return Ok(None) };
            let (_, version, entry) = self.row(&key.line, &row)?;
            Ok(Some((version, entry)))
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        read: Option<Version>,
        entry: &'a Entry,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            const NAMES: &str = "cluster_id, topic_id, version, epoch, token, begun, committed, leader_epoch, \
                frozen_start, frozen_end, frozen_epoch, frozen_layout, frozen_letters, updated_at";
            const VALUES: &str = "$4, $5, $6::bigint, $7::bigint, $8::bigint, $9::bigint, $10::bigint, $11::integer, \
                $12::bigint, $13::bigint, $14::bigint, $15::text, $16::bigint, to_timestamp($17::float8 / 1000)";
            let Entry { cluster_id, topic_id, fence, stored } = entry;
            let TopicPartition { topic, partition } = &key.partition;
            let version = read.map_or(1, |read| read.number.saturating_add(1));
            let topic_id = topic_id.to_string();
            let frozen = stored.frozen.as_ref();
            let frozen_start = frozen.map(|frozen| frozen.range.start.0);
            let frozen_end = frozen.map(|frozen| frozen.range.end.0);
            let frozen_epoch = frozen.map(|frozen| frozen.epoch);
            let frozen_layout = frozen.map(|frozen| frozen.layout.name());
            let frozen_letters = frozen.and_then(|frozen| i64::try_from(frozen.letters).ok());
            // Exact up to the year 287396.
            let updated = stored.updated.0 as f64;
            let (line, topic) = (key.line.as_str(), topic.as_str());
            let mut values: Vec<&(dyn ToSql + Sync)> = vec![
                &line,
                &topic,
                &partition.0,
                cluster_id,
                &topic_id,
                &version,
                &fence.number,
                &fence.token,
                &stored.begun.0,
                &stored.committed.next.0,
                &stored.committed.leader_epoch.0,
                &frozen_start,
                &frozen_end,
                &frozen_epoch,
                &frozen_layout,
                &frozen_letters,
                &updated,
            ];
            let statement = match &read {
                None => format!(
                    "INSERT INTO {TABLE} (line, topic, partition, {NAMES}) VALUES ($1, $2, $3, {VALUES})
                     ON CONFLICT (line, topic, partition) DO NOTHING"
                ),
                Some(Version { number, fence }) => {
                    values.push(number);
                    values.push(&fence.number);
                    values.push(&fence.token);
                    format!(
                        "UPDATE {TABLE} SET ({NAMES}) = ({VALUES})
                         WHERE line = $1 AND topic = $2 AND partition = $3 AND version = $18 AND epoch = $19 AND token = $20"
                    )
                }
            };
            let client = self.connection.client().await?;
            let changed = self.connection.asking(client.execute(&statement, &values)).await?;
            Ok(changed == 1)
        })
    }

    fn entries<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Entry)>, StoreError>> {
        Box::pin(async move {
            let statement =
                format!("SELECT {COLUMNS} FROM {TABLE} WHERE line = $1 ORDER BY topic, partition");
            let client = self.connection.client().await?;
            let asked = async {
                match client.query(&statement, &[&line.as_str()]).await {
                    // Nobody has taken hold of anything yet.
                    Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Vec::new()),
                    answer => answer,
                }
            };
            let mut all = Vec::new();
            for row in self.connection.asking(asked).await? {
                let (key, _, entry) = self.row(line, &row)?;
                all.push((key, entry));
            }
            Ok(all)
        })
    }
}
