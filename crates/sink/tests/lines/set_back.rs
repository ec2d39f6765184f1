//! A Redis that is killed and comes back without what it had acknowledged last, under a line that writes a table: whatever it has
//! lost, no record is in the table twice, and none is passed over.
//!
//! Its files are copied after every change that it acknowledged, and put back later: that is what a machine that died with
//! `appendfsync everysec` leaves, and a replica that took over too early.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use crate::servers::Redis;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use client::{BoxFuture, ConsumedRecord, TimestampType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sink::{
    Acquire, Change, Chunk, Extra, Format, Held, Key, Layout, Limits, LineName, LineSettings, LocalFiles,
    Partition, PartitionError, PositionStore, Rebuild, RedisStore, Shape, StoreError, Stored, Table,
};
use tempfile::TempDir;
use tokio::sync::Mutex;
use wire::compression::Compression;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition, Uuid};

const RECORDS: i64 = 30;
const HOUR_MS: i64 = 3_600_000;

fn key() -> Key {
    Key {
        line: "orders.offline".parse().unwrap(),
        cluster_id: "c".to_owned(),
        partition: TopicPartition::new("orders", PartitionId(0)),
        topic_id: Uuid([7; 16]),
    }
}

/// Records of three hours, mixed.
fn log() -> Vec<ConsumedRecord> {
    let record = |number: i64| ConsumedRecord {
        topic: "orders".into(),
        partition: PartitionId(0),
        offset: Offset(number),
        leader_epoch: LeaderEpoch(3),
        timestamp: Millis(1_700_000_000_000 + number % 5 / 2 * HOUR_MS),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        value: Some(format!("v{number}").into()),
        headers: Vec::new(),
        compression: Compression::None,
        is_transactional: false,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
    };
    (0..RECORDS).map(record).collect()
}

/// What happens to Redis after the n-th change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is set back, and the line goes on.
    SetBack,
    /// The line dies.
    Dies,
}

/// A Redis that loses changes, and the files that it had after each.
struct World {
    redis: Mutex<Redis>,
    copies: Mutex<Vec<TempDir>>,
    dir: TempDir,
}

impl World {
    async fn new() -> Arc<Self> {
        let redis = Redis::start().await;
        let copies = Mutex::new(vec![redis.copy_of_its_files()]);
        Arc::new(Self { redis: Mutex::new(redis), copies, dir: TempDir::new().unwrap() })
    }

    async fn set_back_to(&self, changes: usize) {
        let copies = self.copies.lock().await;
        self.redis.lock().await.kill_and_set_back(&copies[changes]).await;
    }

    /// The offsets in the table.
    fn offsets(&self) -> Vec<i64> {
        let mut offsets = Vec::new();
        collect(self.dir.path(), &mut offsets);
        offsets.sort_unstable();
        offsets
    }
}

fn collect(dir: &Path, offsets: &mut Vec<i64>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true if name.starts_with('_') => {}
            true => collect(&path, offsets),
            false => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
                for batch in reader.build().unwrap() {
                    let batch = batch.unwrap();
                    let column = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
                    offsets.extend_from_slice(column.values());
                }
            }
        }
    }
}

/// A store that meets its fate after so many changes.
struct Fated {
    world: Arc<World>,
    store: RedisStore,
    changes: Mutex<usize>,
    at: usize,
    then: Then,
}

impl Fated {
    async fn changed(&self) -> Result<(), StoreError> {
        let mut changes = self.changes.lock().await;
        *changes += 1;
        self.world.copies.lock().await.push(self.world.redis.lock().await.copy_of_its_files());
        match self.then {
            _ if *changes != self.at => Ok(()),
            Then::SetBack => {
                self.world.set_back_to(self.at - 1).await;
                Ok(())
            }
            Then::Dies => Err(StoreError::Busy { key: Box::new(key()) }),
        }
    }
}

impl PositionStore for Fated {
    fn acquire<'a>(&'a self, acquire: &'a Acquire) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            let held = self.store.acquire(acquire).await?;
            self.changed().await.map(|()| held)
        })
    }

    fn freeze<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.store.freeze(change).await?;
            self.changed().await
        })
    }

    fn commit<'a>(
        &'a self,
        change: &'a Change,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.store.commit(change, leader_epoch).await?;
            self.changed().await
        })
    }

    fn rebuild<'a>(&'a self, rebuild: &'a Rebuild) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.rebuild(rebuild)
    }

    fn list<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        self.store.list(line)
    }
}

/// A line, from taking hold of the partition to the end of the log.
async fn run(
    world: &World,
    store: Arc<dyn PositionStore>,
    token: i64,
    layout: Layout,
) -> Result<(), PartitionError> {
    let limits = Limits { rows_max: 7, bytes_max: u64::MAX, age_ms_max: i64::MAX, late_ms_max: None };
    let shape = Arc::new(Shape::new(Format::Text, vec![Extra::Offset]).unwrap());
    let settings = LineSettings { limits, layout, files_max: 8, shape };
    let table = Table::new(Arc::new(LocalFiles), world.dir.path());
    let now = Millis(0);
    let mut partition = Partition::open(key(), store, table.clone(), settings, Offset(0), token, now).await?;
    partition.compare(&table.list().unwrap()).await?;
    let log = log();
    while partition.read().0 < RECORDS {
        let records = &log[partition.read().0 as usize..log.len().min(partition.read().0 as usize + 7)];
        let (position, next) = (partition.read(), records.last().unwrap().offset.plus(1));
        partition.take(Chunk { position, next, leader_epoch: LeaderEpoch(3), records }, now).await?;
    }
    partition.finish(now).await
}

async fn store(world: &World) -> RedisStore {
    RedisStore::connect(&world.redis.lock().await.address()).await.unwrap()
}

async fn run_fated(world: &Arc<World>, at: usize, then: Then) -> Result<(), PartitionError> {
    let store = store(world).await;
    let fated = Fated { world: Arc::clone(world), store, changes: Mutex::new(0), at, then };
    run(world, Arc::new(fated), 1, Layout::Hour).await
}

/// Another line takes over what is left. Says whether it was stopped.
async fn is_stopped_or_exact(world: &World, layout: Layout, what: &str) -> bool {
    let outcome = run(world, Arc::new(store(world).await), 2, layout).await;
    let offsets = world.offsets();
    match outcome {
        Ok(()) => {
            assert_eq!(offsets, (0..RECORDS).collect::<Vec<_>>(), "{what}: not exactly once");
            false
        }
        Err(error) => {
            assert!(matches!(error, PartitionError::Ahead(_)), "{what}: {error}");
            let whole: Vec<i64> = (0..offsets.len() as i64).collect();
            assert_eq!(offsets, whole, "{what}: nothing is there twice, and nothing was passed over");
            true
        }
    }
}

/// So many changes does a line make.
async fn changes() -> usize {
    let world = World::new().await;
    run_fated(&world, usize::MAX, Then::Dies).await.unwrap();
    assert_eq!(world.offsets(), (0..RECORDS).collect::<Vec<_>>());
    let copies = world.copies.lock().await.len();
    copies - 1
}

#[tokio::test]
async fn a_line_whose_redis_has_lost_any_number_of_changes_stops_or_is_exact() {
    let changes = changes().await;
    let (mut stopped, mut exact) = (0, 0);
    for at in 1..=changes {
        for lost in 1..=at.min(3) {
            let world = World::new().await;
            run_fated(&world, at, Then::Dies).await.unwrap_err();
            world.set_back_to(at - lost).await;
            // What comes next is laid out otherwise: only what is frozen says how it was.
            match is_stopped_or_exact(&world, Layout::Day, &format!("{lost} lost at {at}")).await {
                true => stopped += 1,
                false => exact += 1,
            }
        }
    }
    assert!(stopped > 0 && exact > 0, "both happen: {stopped} stopped, {exact} exact");
    println!("{changes} changes: {stopped} stopped, {exact} exact");
}

#[tokio::test]
async fn a_line_under_which_redis_is_set_back_notices_at_its_next_change() {
    let changes = changes().await;
    let mut noticed = 0;
    for at in 1..=changes {
        let world = World::new().await;
        let outcome = run_fated(&world, at, Then::SetBack).await;
        let is_refused = matches!(
            outcome,
            Err(PartitionError::Store(
                StoreError::Lost { .. }
                    | StoreError::Fenced { .. }
                    | StoreError::Apart { .. }
                    | StoreError::NotFrozen { .. }
            ))
        );
        // Behind the last change there is none that could notice.
        assert!(is_refused || (at == changes && outcome.is_ok()), "{at}: {outcome:?}");
        noticed += u32::from(is_refused);
        is_stopped_or_exact(&world, Layout::Hour, &format!("set back at {at}")).await;
    }
    assert_eq!(noticed as usize, changes - 1);
}
