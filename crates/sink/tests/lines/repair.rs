//! Positions that the store has lost, from the table's own files: between a real broker, real files and each of the stores.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::servers::{Postgres, Redis};
use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Environment, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord,
    TokioEnvironment,
};
use sink::{
    Compaction, Done, Entry, Expiries, Expiry, Files, Key, Line, LocalFiles, Merge, NewFile, Repair,
    RepairAction, RunError, Settings, Stored, Until, Verified,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Millis, Offset, PartitionId, TopicPartition};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;

/// Where positions are.
enum Store {
    Beside,
    Redis(Redis),
    Postgres(Postgres),
}

/// What was in a store.
enum Saved {
    Beside(BTreeMap<PathBuf, Vec<u8>>),
    Redis(TempDir),
    Postgres,
}

struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
    store: Store,
    /// Declared besides the table.
    declared: &'static str,
}

/// Bytes that are no text are dead letters.
const WITH_LETTERS: &str = "[value]\nformat = \"text\"\n[dead_letters]\ntopic = \"dead\"\n";

/// A disk that fails when a range's files are in their places, so that nothing after that is done.
struct Failing;

impl Files for Failing {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        LocalFiles.make_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        LocalFiles.list(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        LocalFiles.read(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        LocalFiles.create(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalFiles.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalFiles.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        LocalFiles.exchange(one, other)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalFiles.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("hour=")) {
            true => Err(io::Error::other("no space left")),
            false => LocalFiles.sync_dir(path),
        }
    }
}

impl World {
    async fn new(store: Store) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap(), store, declared: "" };
        let admin = Admin::new(world.cluster());
        let topics = [("orders", 2), ("dead", 1)].map(|(name, partitions)| NewTopic {
            name: name.into(),
            partitions: Some(partitions),
            replicas: Some(1),
            configs: Vec::new(),
        });
        let created = admin.create_topics(&topics, Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        // So that a range ends exactly where it is full.
        options.set("max.poll.records", "1").unwrap();
        options
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    /// Records of two hours, in turn.
    async fn send(&self, partition: i32, records: i64) {
        self.send_values(partition, (0..records).map(|number| number.to_string().into_bytes())).await;
    }

    /// Records that are no text.
    async fn send_bad(&self, records: u8) {
        self.send_values(0, (0..records).map(|number| vec![0xff, number])).await;
    }

    async fn send_values(&self, partition: i32, values: impl Iterator<Item = Vec<u8>>) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut handles = Vec::new();
        for (number, value) in (0..).zip(values) {
            let mut record = ProducerRecord::new("orders", value);
            record.partition = Some(PartitionId(partition));
            record.timestamp = Some(Millis(1_700_000_000_000 + number % 2 * HOUR_MS));
            handles.push(producer.enqueue(record).await.unwrap());
        }
        for handle in handles {
            handle.await.unwrap();
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("orders")
    }

    fn settings(&self) -> Settings {
        let table = self.table();
        let positions = match &self.store {
            Store::Beside => "beside".to_owned(),
            Store::Redis(redis) => redis.address(),
            Store::Postgres(postgres) => postgres.url(),
        };
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n{}\
             [offline]\ntable = {table:?}\npositions = {positions:?}\nroll_rows = 100\n",
            self.declared
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn start(&self, until: Until) -> JoinHandle<Result<Vec<Done>, RunError>> {
        self.start_on(Arc::new(LocalFiles), until)
    }

    fn start_on(&self, files: Arc<dyn Files>, until: Until) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(), self.options());
        let environment = Arc::new(TokioEnvironment);
        tokio::spawn(async move { sink::run(&settings, options, environment, files, until, pending()).await })
    }

    async fn run_to_end(&self) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(Until::End)).await.expect("it ends").unwrap()
    }

    /// A run that ends when it has placed the files of its first range.
    async fn run_to_the_first_files(&self) {
        let running = self.start_on(Arc::new(Failing), Until::End);
        let refused = timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err().to_string();
        assert!(refused.contains("no space left"), "{refused}");
    }

    async fn repair(&self, execution: Execution) -> Result<Vec<Repair>, RunError> {
        let (settings, cluster) = (self.settings(), self.cluster());
        let repair = sink::repair(&settings, &cluster, &TokioEnvironment, Arc::new(LocalFiles), execution);
        timeout(PATIENCE, repair).await.expect("it ends")
    }

    async fn compact(&self, execution: Execution) -> Vec<Merge> {
        let compaction = Compaction { target_bytes: 1 << 20, older_than_ms: HOUR_MS, execution };
        let (settings, files) = (self.settings(), Arc::new(LocalFiles));
        let compacted = sink::compact(&settings, &TokioEnvironment, files, compaction).await.unwrap();
        assert_eq!(compacted.findings, []);
        compacted.merges
    }

    /// The first of two hours is old enough.
    async fn expire(&self, execution: Execution) -> Expiries {
        let older_than_ms = TokioEnvironment.now().0 - 1_700_002_800_000 - HOUR_MS / 2;
        let (settings, files) = (self.settings(), Arc::new(LocalFiles));
        let expiry = Expiry { older_than_ms, execution };
        sink::expire(&settings, &TokioEnvironment, files, expiry).await.unwrap()
    }

    /// What is done about each partition, or the first finding.
    async fn told(&self, execution: Execution) -> Vec<String> {
        let told = |repair: Repair| match (repair.action, repair.is_done) {
            (RepairAction::Keep, _) => "keep".to_owned(),
            (RepairAction::Rebuild(range, None), false) => format!("would be {range}"),
            (RepairAction::Rebuild(range, None), true) => format!("is {range}"),
            (RepairAction::Rebuild(range, Some(frozen)), _) => format!("{range}, {} frozen", frozen.range),
            (RepairAction::Refuse, _) => repair.findings[0].to_string(),
        };
        self.repair(execution).await.unwrap().into_iter().map(told).collect()
    }

    async fn stored(&self) -> Vec<(Key, Stored)> {
        let settings = self.settings();
        let store = sink::open_store(settings.offline.as_ref().unwrap(), Arc::new(LocalFiles)).await.unwrap();
        store.list(&settings.line_name(Line::Offline)).await.unwrap()
    }

    async fn assert_whole(&self, records: u64) {
        let (settings, cluster) = (self.settings(), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        let verified = timeout(PATIENCE, verified).await.expect("it ends").unwrap();
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        assert_eq!(verified.iter().map(|one| one.rows + one.letters).sum::<u64>(), records);
    }

    /// The store loses everything.
    async fn lose(&self) {
        match &self.store {
            Store::Beside => fs::remove_dir_all(self.table().join("_sink")).unwrap(),
            Store::Redis(redis) => redis.command(&["FLUSHALL"]).await,
            Store::Postgres(postgres) => {
                postgres.client().await.batch_execute("DROP TABLE ottla_sink_positions").await.unwrap();
            }
        }
    }

    async fn save(&self) -> Saved {
        match &self.store {
            Store::Beside => Saved::Beside(files(&self.table().join("_sink"))),
            Store::Redis(redis) => Saved::Redis(redis.copy_of_its_files()),
            Store::Postgres(postgres) => {
                let save = "CREATE TABLE saved AS SELECT * FROM ottla_sink_positions";
                postgres.client().await.batch_execute(save).await.unwrap();
                Saved::Postgres
            }
        }
    }

    async fn set_back(&mut self, saved: Saved) {
        match (&mut self.store, saved) {
            (Store::Beside, Saved::Beside(files)) => {
                for (path, _) in self::files(&self.dir.path().join("orders/_sink")) {
                    fs::remove_file(path).unwrap();
                }
                for (path, content) in files {
                    fs::write(path, content).unwrap();
                }
            }
            (Store::Redis(redis), Saved::Redis(copy)) => redis.kill_and_set_back(&copy).await,
            (Store::Postgres(postgres), Saved::Postgres) => {
                let back =
                    "TRUNCATE ottla_sink_positions; INSERT INTO ottla_sink_positions SELECT * FROM saved";
                postgres.client().await.batch_execute(back).await.unwrap();
            }
            _ => panic!("it was saved elsewhere"),
        }
    }

    /// A file of the table.
    fn file(&self, name: &str) -> PathBuf {
        let files = files(&self.table());
        files.into_keys().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("there is no {name}"))
    }
}

/// All files below a directory, and what they hold.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

async fn a_store_that_is_behind_or_gone_gets_what_the_table_says(store: Store) {
    let mut world = World::new(store).await;
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"], "nothing was ever there");
    world.send(0, 250).await;
    world.send(1, 130).await;
    world.run_to_end().await.unwrap();
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"]);
    let saved = world.save().await;
    world.send(0, 120).await;
    world.run_to_end().await.unwrap();

    world.set_back(saved).await;
    let refused = world.run_to_end().await.unwrap_err().to_string();
    assert!(refused.contains("the store has lost something"), "{refused}");
    // To look changes nothing, neither there nor here.
    let (stored, files) = (world.stored().await, files(&world.table()));
    assert_eq!(world.told(Execution::Validate).await, ["would be [0, 370)", "keep"]);
    assert!(world.stored().await == stored && self::files(&world.table()) == files);
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 370)", "keep"]);
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"]);
    world.send(1, 10).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(510).await;

    world.lose().await;
    assert_eq!(world.told(Execution::Validate).await, ["would be [0, 370)", "would be [0, 140)"]);
    // A run that has found the store empty has begun anew in it.
    world.run_to_end().await.unwrap_err();
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 370)", "is [0, 140)"]);
    world.send(0, 10).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(520).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_beside_the_table_that_are_behind_or_gone_get_what_the_table_says() {
    a_store_that_is_behind_or_gone_gets_what_the_table_says(Store::Beside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_behind_or_empty_gets_what_the_table_says() {
    a_store_that_is_behind_or_gone_gets_what_the_table_says(Store::Redis(Redis::start().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_behind_or_empty_gets_what_the_table_says() {
    a_store_that_is_behind_or_gone_gets_what_the_table_says(Store::Postgres(Postgres::start().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_overlaps_and_what_is_not_whole_are_refused_by_name_and_nothing_is_changed() {
    let world = World::new(Store::Beside).await;
    world.send(0, 300).await;
    world.send(1, 100).await;
    world.run_to_end().await.unwrap();
    world.lose().await;
    let (early, late) = ("hour=22", "hour=23");
    let name = "orders-0-100-200.parquet";
    let check = async |problem: &str| {
        let files = files(&world.table());
        let told = world.told(Execution::Apply).await;
        assert!(told[0].contains(problem), "{told:?}");
        assert_eq!(told[1], "would be [0, 100)", "it waits for the other");
        assert!(self::files(&world.table()) == files, "nothing was changed");
    };

    let whole = files(&world.table());
    let put_back = || whole.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    // One of the range's two files is gone, then both.
    fs::remove_file(world.file(&format!("{early}/{name}"))).unwrap();
    check(&format!(
        "{late}/{name}: [100, 200) is in 2 files, says its footer, and there are 1: put back what is missing"
    ))
    .await;
    let told = world.told(Execution::Validate).await;
    assert!(told[0].ends_with("put back what is missing"), "nothing else would do: {told:?}");
    fs::remove_file(world.file(&format!("{late}/{name}"))).unwrap();
    check("/orders-0-200-300.parquet: before it, nothing is there from 100 to 200").await;
    put_back();
    fs::remove_file(world.file(&format!("{late}/orders-0-200-300.parquet"))).unwrap();
    check("put back what is missing; or remove what is there of this range, which is the last one").await;
    put_back();

    // A file that is there again under another name.
    let copy = world.table().join("dt=2023-11-14").join(early).join("orders-0-50-150.parquet");
    fs::copy(world.file(&format!("{early}/{name}")), &copy).unwrap();
    check("orders-0-50-150.parquet: its footer says ottla.range.start is 100, and it is 50").await;
    let refused = world.repair(Execution::Apply).await.unwrap();
    let overlaps =
        refused[0].findings.iter().any(|finding| finding.problem == "it overlaps what ends at 100");
    assert!(overlaps, "{refused:?}");
    fs::write(&copy, "PAR1").unwrap();
    check("orders-0-50-150.parquet: it is no Parquet file").await;
    fs::remove_file(&copy).unwrap();

    assert_eq!(world.told(Execution::Apply).await, ["is [0, 300)", "is [0, 100)"]);
    world.run_to_end().await.unwrap();
    world.assert_whole(400).await;

    // The store says more than the table: what is missing may only have been moved elsewhere.
    let last: Vec<PathBuf> =
        whole.into_keys().filter(|path| path.ends_with("orders-0-200-300.parquet")).collect();
    last.iter().for_each(|path| fs::remove_file(path).unwrap());
    let told = world.told(Execution::Apply).await;
    assert!(told[0].starts_with("orders-0: 300 is committed, and the table ends at 200"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_files_say_what_they_were_merged_from() {
    let world = World::new(Store::Beside).await;
    world.send(0, 250).await;
    world.send(1, 130).await;
    world.run_to_end().await.unwrap();
    let compacted = world.compact(Execution::Validate).await;
    let told: Vec<_> = compacted.iter().map(|merge| format!("{} of {}", merge.files, merge.into)).collect();
    let of_hour = ["3 of orders-0-0-250.parquet", "2 of orders-1-0-130.parquet"];
    assert_eq!(told, [of_hour, of_hour].concat());
    world.compact(Execution::Apply).await;
    world.assert_whole(380).await;
    assert_eq!(world.compact(Execution::Apply).await, [], "there is nothing more to merge");
    // What comes later is merged with it.
    world.send(0, 40).await;
    world.run_to_end().await.unwrap();
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"]);
    world.compact(Execution::Apply).await;
    world.assert_whole(420).await;

    world.lose().await;
    assert_eq!(world.told(Execution::Validate).await, ["would be [0, 290)", "would be [0, 130)"]);
    let merged = world.file("hour=22/orders-0-0-290.parquet");
    let content = fs::read(&merged).unwrap();
    fs::remove_file(&merged).unwrap();
    let told = world.told(Execution::Apply).await;
    let problem = "hour=23/orders-0-0-290.parquet: [0, 100) is in 2 files, says its footer, and there are 1";
    assert!(told[0].contains(problem), "{told:?}");
    // Under another name it says too much.
    let other = merged.with_file_name("orders-0-0-250.parquet");
    fs::write(&other, &content).unwrap();
    let told = world.told(Execution::Apply).await;
    assert!(told[0].contains("orders-0-0-250.parquet: its footer says ottla.range.end is 290"), "{told:?}");
    fs::rename(&other, &merged).unwrap();
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 290)", "is [0, 130)"]);
    world.send(1, 10).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(430).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expired_is_not_missing_to_a_repair() {
    let world = World::new(Store::Beside).await;
    world.send(0, 250).await;
    world.send(1, 130).await;
    world.run_to_end().await.unwrap();
    let foreign = world.table().join("dt=2023-11-14/hour=22/notes.txt");
    fs::write(&foreign, "of somebody's").unwrap();
    let expired = world.expire(Execution::Apply).await;
    assert!(expired.directories.is_empty(), "{expired:?}");
    let told = expired.findings[0].to_string();
    assert_eq!(told, "dt=2023-11-14/hour=22/notes.txt: it is not the sink's: the directory is left as it is");
    fs::remove_file(&foreign).unwrap();
    let expired = world.expire(Execution::Validate).await;
    assert_eq!((expired.directories[0].files, expired.directories[0].rows), (5, 190));
    world.assert_whole(380).await;
    world.expire(Execution::Apply).await;
    world.assert_whole(190).await;
    assert!(!world.table().join("dt=2023-11-14/hour=22").exists());
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"]);

    // The positions alone are lost.
    for partition in ["orders-0", "orders-1"] {
        fs::remove_dir_all(world.table().join("_sink/orders.offline").join(partition)).unwrap();
    }
    assert_eq!(world.told(Execution::Validate).await, ["would be [0, 250)", "would be [0, 130)"]);
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 250)", "is [0, 130)"]);
    // A late record of the hour that is gone stays.
    world.send(0, 2).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(192).await;
    assert!(world.table().join("dt=2023-11-14/hour=22").exists());

    // Without what was written down they are missing.
    for name in ["expired-1.json", "expired-2.json"] {
        let _ = fs::remove_file(world.table().join("_sink/orders.offline").join(name));
    }
    let told = world.told(Execution::Apply).await;
    assert!(told[0].contains("[0, 100) is in 2 files, says its footer, and there are 1"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_cluster_are_refused_by_name() {
    let (world, other) = (World::new(Store::Beside).await, World::new(Store::Beside).await);
    for (world, records) in [(&world, 100), (&other, 200)] {
        world.send(0, records).await;
        world.run_to_end().await.unwrap();
    }
    let name = "hour=22/orders-0-100-200.parquet";
    fs::copy(other.file(name), world.table().join("dt=2023-11-14").join(name)).unwrap();
    world.lose().await;
    let told = world.told(Execution::Apply).await;
    assert!(told[0].contains(&format!("{name}: its footer says ottla.cluster.id is ")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_range_whose_letters_may_not_have_been_sent_is_frozen_again_and_repeated() {
    let world = World { declared: WITH_LETTERS, ..World::new(Store::Beside).await };
    world.send(0, 100).await;
    world.run_to_end().await.unwrap();
    world.send(0, 50).await;
    world.send_bad(5).await;
    world.run_to_the_first_files().await;
    world.lose().await;
    // A run that finds the store empty leaves what says which records are letters.
    let refused = world.run_to_end().await.unwrap_err().to_string();
    assert!(refused.contains("the store has lost something"), "{refused}");
    assert_eq!(world.told(Execution::Apply).await, ["[0, 155), [100, 155) frozen", "keep"]);
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"], "the next run repeats it");
    world.run_to_end().await.unwrap();
    world.assert_whole(155).await;

    // They were sent: their position says so.
    world.lose().await;
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 155)", "keep"]);
    world.run_to_end().await.unwrap();
    world.assert_whole(155).await;

    // What says which they are is gone, and they were not.
    world.send_bad(5).await;
    world.run_to_the_first_files().await;
    world.lose().await;
    fs::remove_dir_all(world.table().join("_letters")).unwrap();
    let told = world.told(Execution::Apply).await;
    assert!(
        told[0].contains("[155, 160) has 5 dead letters of which it is not known that they were sent"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_nothing_but_letters_is_in_the_table_too() {
    let world = World { declared: WITH_LETTERS, ..World::new(Store::Beside).await };
    world.send_bad(5).await;
    world.run_to_end().await.unwrap();
    world.send(0, 20).await;
    world.run_to_end().await.unwrap();
    world.send_bad(3).await;
    world.run_to_end().await.unwrap();
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"]);
    world.lose().await;
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 28)", "keep"]);
    world.send(0, 20).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(48).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_nothing_but_letters_are_merged_and_were_committed() {
    let world = World { declared: WITH_LETTERS, ..World::new(Store::Beside).await };
    for _ in 0..2 {
        world.send_bad(4).await;
        world.run_to_end().await.unwrap();
    }
    let merges = world.compact(Execution::Apply).await;
    let told: Vec<_> = merges.iter().map(|merge| format!("{} of {}", merge.files, merge.into)).collect();
    assert_eq!(told, ["2 of orders-0-0-8.parquet"]);
    world.assert_whole(8).await;
    // What was merged was committed, and its letters sent, also where their position is gone.
    let group = "orders.dead-letters".into();
    let deleted = Admin::new(world.cluster()).delete_groups(&[group]).await;
    assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));
    world.lose().await;
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 8)", "keep"]);
    world.send(0, 20).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(28).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_whole_and_cannot_be_repeated_any_more_is_committed() {
    let world = World::new(Store::Beside).await;
    world.send(0, 50).await;
    world.run_to_the_first_files().await;
    assert_eq!(world.told(Execution::Apply).await, ["keep", "keep"], "the next run repeats it");
    let partition = TopicPartition::new("orders", PartitionId(0));
    Admin::new(world.cluster()).delete_records(&[(partition, Offset(10))]).await.unwrap();
    let refused = world.run_to_end().await.unwrap_err().to_string();
    assert!(refused.contains("`ottla sink repair`"), "{refused}");
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 50)", "keep"]);
    world.send(0, 20).await;
    world.run_to_end().await.unwrap();
    world.assert_whole(70).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_runs_ends_when_its_partition_is_repaired() {
    let world = World::new(Store::Redis(Redis::start().await)).await;
    world.send(0, 250).await;
    let running = world.start(Until::Stopped);
    timeout(PATIENCE, async {
        while world.stored().await.first().is_none_or(|(_, stored)| stored.committed.next.0 < 200) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it gets there");
    world.lose().await;
    assert_eq!(world.told(Execution::Apply).await, ["is [0, 200)", "keep"]);
    world.send(0, 100).await;
    let ended = timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err().to_string();
    assert!(ended.contains("is held by another instance"), "{ended}");
    world.run_to_end().await.unwrap();
    world.assert_whole(350).await;
}
