//! A line over one partition, as those tests run it that have it die: the log, how instances differ, and one of them at work.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::{ConsumedRecord, TimestampType};
use sink::{
    Chunk, Extra, Files, Format, Key, Layout, Limits, LineSettings, Partition, PartitionError, PositionStore,
    Shape, Table,
};
use wire::compression::Compression;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition, Uuid};

use super::Process;
use super::letters::{DeadTopic, Sending};

pub const HOUR_MS: i64 = 3_600_000;

pub fn key() -> Key {
    Key {
        line: "orders.offline".parse().unwrap(),
        cluster_id: "c".to_owned(),
        partition: TopicPartition::new("orders", PartitionId(0)),
        topic_id: Uuid([7; 16]),
    }
}

/// Whether a record is none of text: some here and there, and five in a row.
pub fn is_letter(number: i64) -> bool {
    number % 6 == 4 || (7..12).contains(&number)
}

/// Records of three hours, mixed, with holes between their offsets.
pub fn log(records: i64) -> Vec<ConsumedRecord> {
    let value = |number| match is_letter(number) {
        true => Bytes::from(vec![0xff, u8::try_from(number).unwrap()]),
        false => format!("v{number}").into(),
    };
    let record = |number: i64| ConsumedRecord {
        topic: "orders".into(),
        partition: PartitionId(0),
        offset: Offset(number + number / 4 * 2),
        leader_epoch: LeaderEpoch(3),
        timestamp: Millis(1_700_000_000_000 + number % 5 / 2 * HOUR_MS),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        value: Some(value(number)),
        headers: Vec::new(),
        compression: Compression::None,
        is_transactional: false,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
    };
    (0..records).map(record).collect()
}

/// How an instance reads and closes ranges.
#[derive(Clone, Copy)]
pub struct Habits {
    pub rows_max: u64,
    pub files_max: usize,
    pub at_once: usize,
    pub token: i64,
    pub format: fn() -> Format,
    pub extras: &'static [Extra],
    pub layout: Layout,
    pub late_ms_max: Option<i64>,
    /// Whether it sends dead letters, instead of being stopped by them.
    pub is_sending: bool,
    /// Whether it has no memory to keep rows in.
    pub is_spilling: bool,
}

pub const FIRST: Habits = Habits {
    rows_max: 6,
    files_max: 8,
    at_once: 3,
    token: 1,
    format: || Format::Text,
    extras: &[Extra::Offset],
    layout: Layout::Hour,
    late_ms_max: None,
    is_sending: true,
    is_spilling: false,
};
pub const SECOND: Habits =
    Habits { rows_max: 5, files_max: 2, at_once: 4, token: 2, is_spilling: true, ..FIRST };
pub const THIRD: Habits = Habits { rows_max: 100, at_once: 5, token: 3, ..FIRST };

/// What an instance works with.
pub struct Place {
    pub key: Key,
    /// Its steps, for what is no file.
    pub process: Process,
    pub files: Arc<dyn Files>,
    pub table: PathBuf,
    pub store: Arc<dyn PositionStore>,
}

/// One instance, from taking hold of the partition to the end of the log.
pub async fn work(
    place: Place,
    topic: &Arc<Mutex<DeadTopic>>,
    habits: Habits,
    log: &[ConsumedRecord],
) -> Result<(), PartitionError> {
    let Place { key, process, files, table, store } = place;
    let limits = Limits {
        rows_max: habits.rows_max,
        bytes_max: u64::MAX,
        age_ms_max: i64::MAX,
        late_ms_max: habits.late_ms_max,
    };
    let shape = Arc::new(Shape::new((habits.format)(), habits.extras.to_vec()).unwrap());
    let settings = LineSettings { limits, layout: habits.layout, files_max: habits.files_max, shape };
    let table = Table::new(files, table);
    let (now, token) = (Millis(2_000_000_000_000), habits.token);
    let opened = Partition::open(key.clone(), store, table.clone(), settings, Offset(0), token, now).await;
    let sending = Sending::new(process, Arc::clone(topic));
    let mut partition = match habits.is_sending {
        true => opened?.with_letters(Box::new(sending)),
        false => opened?,
    };
    let listing = table.list().map_err(|source| PartitionError::Files {
        key: Box::new(key.clone()),
        doing: "list",
        path: table.root().to_owned(),
        source,
    })?;
    partition.compare(&listing).await?;
    while let Some(first) = log.iter().position(|record| record.offset >= partition.read()) {
        let records = &log[first..log.len().min(first + habits.at_once)];
        let position = partition.read();
        let next = records.last().unwrap().offset.plus(1);
        partition.take(Chunk { position, next, leader_epoch: LeaderEpoch(3), records }, now).await?;
        if habits.is_spilling {
            partition.spill()?;
            assert_eq!(partition.memory().rows, 0);
        }
    }
    partition.finish(now).await
}
