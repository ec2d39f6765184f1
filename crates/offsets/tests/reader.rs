//! A reader against a real broker: it goes on from its store's positions, exactly, and where they cannot be continued it stops and
//! says why.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, NewTopic, Options, Producer, ProducerRecord, Start, TokioEnvironment,
};
use offsets::{
    Batch, Cause, MemoryStore, OffsetStore, Policy, Reader, ReaderError, ReaderOptions, StoreError,
};
use support::Postgres;
use tokio::time::timeout;
use wire::{Offset, PartitionId, Str, TopicPartition};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    broker: EmbeddedBroker,
    store: Arc<MemoryStore>,
    sent: u64,
}

impl World {
    async fn new() -> Self {
        Self::on(EmbeddedBroker::builder().start().unwrap()).await
    }

    async fn on(broker: EmbeddedBroker) -> Self {
        let world = Self { broker, store: Arc::new(MemoryStore::new(Arc::new(TokioEnvironment))), sent: 0 };
        world.create().await;
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        // Who dies without a word is waited for so long.
        options.set("session.timeout.ms", "6000").unwrap();
        options.set("heartbeat.interval.ms", "500").unwrap();
        options
    }

    fn admin(&self) -> Admin {
        Admin::new(Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap())
    }

    async fn create(&self) {
        let topic =
            NewTopic { name: "orders".into(), partitions: Some(2), replicas: Some(1), configs: Vec::new() };
        let created = self.admin().create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
    }

    /// Sends so many records to a partition, each a number of its own.
    async fn send(&mut self, partition: i32, records: u64) {
        let producer =
            Producer::new(Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()).unwrap();
        for _ in 0..records {
            let mut record = ProducerRecord::new("orders", self.sent.to_string());
            record.partition = Some(PartitionId(partition));
            producer.send(record).await.unwrap();
            self.sent += 1;
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn reader(&self, store: Arc<dyn OffsetStore>, at_gap: Policy) -> Reader {
        let options = ReaderOptions { at_gap, ..ReaderOptions::new("billing".parse().unwrap()) };
        Reader::subscribe(self.options(), Arc::new(TokioEnvironment), store, options, ["orders"]).unwrap()
    }

    fn own_reader(&self) -> Reader {
        self.reader(Arc::clone(&self.store) as Arc<dyn OffsetStore>, Policy::Stop)
    }

    async fn stored(&self, partition: i32) -> i64 {
        let listed = self.store.list(&"billing".parse().unwrap()).await.unwrap();
        let of = |(key, _): &&(offsets::Key, offsets::Stored)| key.partition.partition.0 == partition;
        listed.iter().find(of).map_or(-1, |(_, stored)| stored.position.next.0)
    }
}

async fn next(reader: &mut Reader) -> Result<Batch, ReaderError> {
    timeout(PATIENCE, reader.next()).await.expect("something comes").expect("it reads")
}

fn values(batch: &Batch) -> Vec<i64> {
    batch
        .iter()
        .map(|record| std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect()
}

/// Reads and commits so many records.
async fn read(reader: &mut Reader, records: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < records {
        let batch = next(reader).await.unwrap();
        seen.extend(values(&batch));
        reader.commit(batch).await.unwrap();
    }
    seen.sort_unstable();
    seen
}

fn gap(outcome: Result<Batch, ReaderError>) -> Box<offsets::Gap> {
    match outcome {
        Err(ReaderError::Gap(gap)) => gap,
        Err(other) => panic!("not a gap: {other}"),
        Ok(batch) => panic!("not a gap: {batch:?}", batch = values(&batch)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_the_store_says_and_batches_are_stored_in_order() {
    let mut world = World::new().await;
    world.send(0, 5).await;
    let mut reader = world.own_reader();
    assert_eq!(read(&mut reader, 5).await, [0, 1, 2, 3, 4]);
    // In hand and not committed when it ends: it comes again.
    world.send(0, 1).await;
    let undone = next(&mut reader).await.unwrap();
    assert_eq!(values(&undone), [5]);
    world.send(0, 1).await;
    let behind = next(&mut reader).await.unwrap();
    assert!(matches!(behind.claim(), Err(ReaderError::OutOfOrder { at: Offset(6), stored: Offset(5), .. })));
    drop((undone, behind));
    drop(reader);
    assert_eq!(world.stored(0).await, 5);

    let mut reader = world.own_reader();
    assert_eq!(read(&mut reader, 2).await, [5, 6]);
    reader.close(PATIENCE).await.unwrap();
    assert_eq!(world.stored(0).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_removed_stops_its_partition_and_no_other() {
    let mut world = World::new().await;
    world.send(0, 4).await;
    let mut reader = world.own_reader();
    read(&mut reader, 4).await;
    reader.close(PATIENCE).await.unwrap();
    world.send(0, 4).await;
    world.send(1, 1).await;
    let first = TopicPartition::new("orders", PartitionId(0));
    let deleted = world.admin().delete_records(&[(first, Offset(6))]).await.unwrap();
    assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));

    let mut reader = world.own_reader();
    let (mut gaps, mut seen) = (Vec::new(), Vec::new());
    while gaps.is_empty() || seen.is_empty() {
        match next(&mut reader).await {
            Ok(batch) => {
                seen.extend(values(&batch));
                reader.commit(batch).await.unwrap();
            }
            outcome => gaps.push(gap(outcome)),
        }
    }
    assert_eq!(seen, [8], "the other partition's");
    let found = &gaps[0];
    assert_eq!(
        (found.cause, found.stored, found.found),
        (Cause::RetentionPassed, Offset(4), Some(Offset(6)))
    );
    assert!(found.to_string().contains("ottla offsets set billing orders:0"), "{found}");
    reader.close(PATIENCE).await.unwrap();
    assert_eq!(world.stored(0).await, 4, "nobody has decided");

    let mut reader = world.reader(Arc::clone(&world.store) as Arc<dyn OffsetStore>, Policy::Nearest);
    assert_eq!(read(&mut reader, 2).await, [6, 7]);
    assert_eq!(reader.resets(), 1);
    assert_eq!(world.stored(0).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_is_another_one() {
    let mut world = World::new().await;
    world.send(0, 3).await;
    let mut reader = world.own_reader();
    read(&mut reader, 3).await;
    reader.close(PATIENCE).await.unwrap();
    let deleted = world.admin().delete_topics(&[Str::from("orders")]).await.unwrap();
    deleted.into_iter().for_each(|(_, deleted)| deleted.unwrap());
    world.create().await;
    world.send(0, 5).await;

    let mut reader = world.own_reader();
    let found = gap(next(&mut reader).await);
    assert_eq!(found.cause, Cause::TopicRecreated);
    assert_eq!(world.stored(0).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_last_commits_is_noticed() {
    let mut world = World::new().await;
    world.send(0, 3).await;
    let mut reader = world.own_reader();
    read(&mut reader, 3).await;
    let before = world.store.snapshot();
    world.send(0, 2).await;
    read(&mut reader, 2).await;
    // Its copy goes to the group coordinator.
    reader.close(PATIENCE).await.unwrap();
    world.store.roll_back(&before);
    assert_eq!(world.stored(0).await, 3);

    let mut reader = world.own_reader();
    let found = gap(next(&mut reader).await);
    assert_eq!((found.cause, found.stored, found.expected), (Cause::StoreRolledBack, Offset(3), Offset(5)));
    assert_eq!(world.stored(0).await, 3, "it is not overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_moves_nothing() {
    let mut world = World::new().await;
    world.send(0, 2).await;
    let assigned = |world: &World| {
        let options = ReaderOptions::new("billing".parse().unwrap());
        let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
        let partition = TopicPartition::new("orders", PartitionId(0));
        Reader::assign(world.options(), Arc::new(TokioEnvironment), store, options, [partition]).unwrap()
    };
    let mut first = assigned(&world);
    let held = next(&mut first).await.unwrap();
    let mut second = assigned(&world);
    let taken = next(&mut second).await.unwrap();
    assert_eq!(values(&taken), values(&held), "nothing was committed");
    second.commit(taken).await.unwrap();
    let refused = first.commit(held).await;
    assert!(matches!(refused, Err(ReaderError::Store(StoreError::Fenced { .. }))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_position_are_in_postgres_together_whatever_dies() {
    const ROUNDS: u64 = 6;
    const RECORDS: u64 = 20;
    let mut world = World::new().await;
    let mut postgres = Postgres::start().await;
    let results = postgres.client().await;
    results.batch_execute("CREATE TABLE results (value bigint)").await.unwrap();
    drop(results);
    for round in 0..ROUNDS {
        world.send((round % 2) as i32, RECORDS).await;
        let store = postgres.store().await;
        let mut client = postgres.client().await;
        let mut reader = world.reader(Arc::new(store.clone()), Policy::Stop);
        let expected = ((round + 1) * RECORDS) as i64;
        let mut batches = 0;
        loop {
            let batch = next(&mut reader).await.unwrap();
            let transaction = client.transaction().await.unwrap();
            for value in values(&batch) {
                transaction.execute("INSERT INTO results VALUES ($1)", &[&value]).await.unwrap();
            }
            store.commit_in(&transaction, &batch.claim().unwrap()).await.unwrap();
            batches += 1;
            // The first transaction of each other round dies with its database, its reader, or its broker.
            if batches == 1 && round % 2 == 1 {
                drop(transaction);
                break;
            }
            transaction.commit().await.unwrap();
            batch.stored();
            let count = "SELECT count(*) FROM results";
            if client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == expected {
                break;
            }
        }
        drop(reader);
        match round % 6 {
            1 => postgres.kill_and_restart().await,
            3 => {
                world.broker.kill();
                world.broker.start_again().unwrap();
            }
            _ => {}
        }
    }
    let store = postgres.store().await;
    let mut client = postgres.client().await;
    let mut reader = world.reader(Arc::new(store.clone()), Policy::Stop);
    let all = "SELECT value FROM results ORDER BY value";
    let wanted: Vec<i64> = (0..(ROUNDS * RECORDS) as i64).collect();
    loop {
        let rows: Vec<i64> = client.query(all, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        if rows.len() >= wanted.len() {
            assert_eq!(rows, wanted, "each input once");
            break;
        }
        let batch = next(&mut reader).await.unwrap();
        let transaction = client.transaction().await.unwrap();
        for value in values(&batch) {
            transaction.execute("INSERT INTO results VALUES ($1)", &[&value]).await.unwrap();
        }
        store.commit_in(&transaction, &batch.claim().unwrap()).await.unwrap();
        transaction.commit().await.unwrap();
        batch.stored();
    }
    reader.close(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_transactions_are_no_holes() {
    let mut world = World::new().await;
    let mut options = world.options();
    options.set("transactional.id", "orders").unwrap();
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap();
    producer.init_transactions().await.unwrap();
    let mut wanted = Vec::new();
    for at in 0..6_i64 {
        let transaction = producer.begin().await.unwrap();
        let mut record = ProducerRecord::new("orders", at.to_string());
        record.partition = Some(PartitionId(0));
        transaction.send(record).await.unwrap();
        match at % 3 {
            2 => transaction.abort().await.unwrap(),
            _ => {
                transaction.commit().await.unwrap();
                wanted.push(at);
            }
        }
    }
    producer.close(PATIENCE).await.unwrap();
    let committed = |world: &World| {
        let mut options = world.options();
        options.set("isolation.level", "read_committed").unwrap();
        let reader = ReaderOptions { at_gap: Policy::Stop, ..ReaderOptions::new("billing".parse().unwrap()) };
        let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
        Reader::subscribe(options, Arc::new(TokioEnvironment), store, reader, ["orders"]).unwrap()
    };
    let mut reader = committed(&world);
    assert_eq!(read(&mut reader, 2).await, wanted[..2]);
    reader.close(PATIENCE).await.unwrap();
    let mut reader = committed(&world);
    assert_eq!(read(&mut reader, 2).await, wanted[2..]);
    // Behind the end of the last one, too.
    reader.close(PATIENCE).await.unwrap();
    world.send(0, 1).await;
    let mut reader = committed(&world);
    assert_eq!(read(&mut reader, 1).await, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_everything_is_not_begun_anew() {
    let mut world = World::new().await;
    let empty = world.store.snapshot();
    world.send(0, 3).await;
    let mut reader = world.own_reader();
    read(&mut reader, 3).await;
    reader.close(PATIENCE).await.unwrap();
    world.store.roll_back(&empty);
    world.send(0, 2).await;

    let options = ReaderOptions { start: Start::Latest, ..ReaderOptions::new("billing".parse().unwrap()) };
    let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
    let mut reader =
        Reader::subscribe(world.options(), Arc::new(TokioEnvironment), store, options, ["orders"]).unwrap();
    let found = gap(next(&mut reader).await);
    assert_eq!((found.cause, found.expected), (Cause::StoreRolledBack, Offset(3)));
    assert_eq!(world.stored(0).await, -1);
    reader.close(PATIENCE).await.unwrap();

    let mut reader = world.reader(Arc::clone(&world.store) as Arc<dyn OffsetStore>, Policy::Nearest);
    assert_eq!(read(&mut reader, 2).await, [3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_refused_for_good_stops_the_partition() {
    let mut world = World::new().await;
    world.send(0, 2).await;
    let mut reader = world.own_reader();
    let batch = next(&mut reader).await.unwrap();
    // Somebody takes the partition by its name in the store.
    let claim = batch.claim().unwrap();
    world.store.acquire(&claim.key).await.unwrap();
    let refused = reader.commit(batch).await;
    assert!(matches!(refused, Err(ReaderError::Store(StoreError::Fenced { .. }))), "{refused:?}");
    let stopped = next(&mut reader).await.map(|batch| values(&batch));
    assert!(matches!(stopped, Err(ReaderError::Store(StoreError::Fenced { .. }))), "{stopped:?}");
}

/// Lets the reader do what it does while nothing comes, until the store has what is waited for.
async fn until(reader: &mut Reader, mut is_there: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_there().await {
            if let Ok(next) = timeout(Duration::from_millis(20), reader.next()).await {
                panic!("something comes: {:?}", next.map(|next| next.map(|batch| values(&batch))));
            }
        }
    };
    timeout(PATIENCE, waiting).await.expect("it gets there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_moves_over_a_tail_that_nobody_gets_to_see() {
    let world = World::new().await;
    let mut options = world.options();
    options.set("transactional.id", "orders").unwrap();
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap();
    producer.init_transactions().await.unwrap();
    for is_kept in [true, false] {
        let transaction = producer.begin().await.unwrap();
        let mut record = ProducerRecord::new("orders", "7");
        record.partition = Some(PartitionId(0));
        transaction.send(record).await.unwrap();
        match is_kept {
            true => transaction.commit().await.unwrap(),
            false => transaction.abort().await.unwrap(),
        }
    }
    producer.close(PATIENCE).await.unwrap();
    let reader = |interval: &str| {
        let mut options = world.options();
        options.set("isolation.level", "read_committed").unwrap();
        options.set("auto.commit.interval.ms", interval).unwrap();
        let reader = ReaderOptions::new("billing".parse().unwrap());
        let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
        Reader::subscribe(options, Arc::new(TokioEnvironment), store, reader, ["orders"]).unwrap()
    };
    // A record and the end of its transaction, then one that was taken back, and that end.
    let mut first = reader("50");
    assert_eq!(read(&mut first, 1).await, [7]);
    let group = Str::from("billing");
    let copy = async || {
        let offsets = world.admin().group_offsets(&group).await.unwrap();
        offsets.committed.get(&TopicPartition::new("orders", PartitionId(0))).map(|copy| copy.offset.0)
    };
    until(&mut first, async || world.stored(0).await == 4 && copy().await == Some(4)).await;
    first.close(PATIENCE).await.unwrap();

    // All of it goes, and none of it was missed.
    let whole = (TopicPartition::new("orders", PartitionId(0)), Offset(4));
    world.admin().delete_records(&[whole]).await.unwrap().into_iter().for_each(|(_, deleted)| {
        deleted.unwrap();
    });
    let mut world = world;
    world.send(0, 1).await;
    let mut options = world.options();
    options.set("auto.commit.interval.ms", "600000").unwrap();
    let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
    let name = ReaderOptions::new("billing".parse().unwrap());
    let mut second = Reader::subscribe(options, Arc::new(TokioEnvironment), store, name, ["orders"]).unwrap();
    assert_eq!(read(&mut second, 1).await, [0]);
    assert_eq!(world.stored(0).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_a_policy_chose_stays_chosen_when_the_reader_dies() {
    let mut world = World::new().await;
    world.send(0, 1).await;
    let mut reader = world.own_reader();
    read(&mut reader, 1).await;
    let before = world.store.snapshot();
    for _ in 0..3 {
        world.send(0, 1).await;
        read(&mut reader, 1).await;
    }
    reader.close(PATIENCE).await.unwrap();
    world.store.roll_back(&before);
    let without_copies = |policy| {
        let mut options = world.options();
        options.set("enable.auto.commit", "false").unwrap();
        let name = ReaderOptions { at_gap: policy, ..ReaderOptions::new("billing".parse().unwrap()) };
        let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
        Reader::subscribe(options, Arc::new(TokioEnvironment), store, name, ["orders"]).unwrap()
    };
    // The policy chooses, and the reader dies before anything is stored.
    let mut reader = without_copies(Policy::Nearest);
    assert_eq!(values(&next(&mut reader).await.unwrap()), [1]);
    assert_eq!(reader.resets(), 1);
    reader.close(Duration::ZERO).await.unwrap();
    // The next one dies before its copy goes to the coordinator.
    let mut reader = without_copies(Policy::Stop);
    assert_eq!(read(&mut reader, 1).await, [1]);
    reader.close(Duration::ZERO).await.unwrap();

    let over = async |world: &World| {
        let listed = world.store.list(&"billing".parse().unwrap()).await.unwrap();
        listed.iter().find(|(key, _)| key.partition.partition.0 == 0).unwrap().1.over
    };
    assert_eq!((world.stored(0).await, over(&world).await), (2, Some(Offset(4))));
    let mut options = world.options();
    options.set("auto.commit.interval.ms", "50").unwrap();
    let name = ReaderOptions::new("billing".parse().unwrap());
    let store = Arc::clone(&world.store) as Arc<dyn OffsetStore>;
    let mut reader = Reader::subscribe(options, Arc::new(TokioEnvironment), store, name, ["orders"]).unwrap();
    assert_eq!(read(&mut reader, 2).await, [2, 3]);
    // The copy has moved, so that it counts again.
    until(&mut reader, async || over(&world).await.is_none()).await;
    reader.close(PATIENCE).await.unwrap();
    world.store.roll_back(&before);
    let mut reader = world.own_reader();
    assert_eq!(gap(next(&mut reader).await).cause, Cause::StoreRolledBack);
}

/// All files of a directory, with what is in them.
fn files(of: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_and_written_anew_is_another_even_if_it_is_as_long() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on(EmbeddedBroker::builder().data_dir(dir.path()).start().unwrap()).await;
    world.send(0, 3).await;
    // What a replica has that has fallen behind.
    let log = world.broker.data_dir().join("orders-0");
    world.broker.kill();
    let behind = files(&log);
    world.broker.start_again().unwrap();
    world.send(0, 2).await;
    let mut reader = world.own_reader();
    read(&mut reader, 5).await;
    reader.close(PATIENCE).await.unwrap();

    // It is elected, and others write where the reader has been.
    world.broker.kill();
    files(&log).into_iter().for_each(|(path, _)| std::fs::remove_file(path).unwrap());
    behind.into_iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    world.broker.start_again().unwrap();
    world.send(0, 4).await;
    let mut reader = world.own_reader();
    let found = gap(next(&mut reader).await);
    assert_eq!(
        (found.cause, found.stored, found.found, found.log.end),
        (Cause::Truncated, Offset(5), Some(Offset(3)), Offset(7))
    );
    assert_eq!(world.stored(0).await, 5);
    drop(reader);

    let mut reader = world.reader(Arc::clone(&world.store) as Arc<dyn OffsetStore>, Policy::Nearest);
    assert_eq!(read(&mut reader, 4).await, [5, 6, 7, 8], "from where the logs part");
}
