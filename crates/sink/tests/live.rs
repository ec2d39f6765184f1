//! The offline line between a real broker and real files: dropped in the middle, taken over, with transactions, and stopped by what
//! it must not pass over.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment,
};
use sink::{Done, LocalFiles, RunError, Settings, Until, Verified};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{PartitionId, Str};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
}

impl World {
    async fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap() };
        world.create(partitions).await;
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        options.set("max.poll.records", "37").unwrap();
        options
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    fn admin(&self) -> Admin {
        Admin::new(self.cluster())
    }

    async fn create(&self, partitions: i32) {
        let topic = NewTopic {
            name: "orders".into(),
            partitions: Some(partitions),
            replicas: Some(1),
            configs: Vec::new(),
        };
        let created = self.admin().create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
    }

    async fn send(&self, partition: i32, values: impl IntoIterator<Item = String>) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut handles = Vec::new();
        for value in values {
            let mut record = ProducerRecord::new("orders", value);
            record.partition = Some(PartitionId(partition));
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

    fn settings(&self, more: &str) -> Settings {
        let table = self.table();
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n{more}\n[offline]\ntable = {table:?}\nroll_rows = 100\n"
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A line that goes on until it is stopped or dropped.
    fn start(&self, until: Until, more: &str) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(more), self.options());
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        tokio::spawn(async move { sink::run(&settings, options, environment, files, until, pending()).await })
    }

    async fn run_to_end(&self, more: &str) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(Until::End, more)).await.expect("it ends").unwrap()
    }

    async fn verified(&self) -> Vec<Verified> {
        let (settings, cluster) = (self.settings(""), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        timeout(PATIENCE, verified).await.expect("it ends").unwrap()
    }

    async fn assert_whole(&self, records: u64) {
        let verified = self.verified().await;
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        assert_eq!(verified.iter().map(|one| one.records).sum::<u64>(), records);
        assert_eq!(verified.iter().map(|one| one.rows).sum::<u64>(), records);
    }

    /// Waits until so much is committed, in all partitions together.
    async fn until_committed(&self, offsets: i64) {
        timeout(PATIENCE, async {
            loop {
                let files = Arc::new(LocalFiles);
                let status = sink::status(&self.settings(""), &self.cluster(), files).await;
                let committed = |status: &sink::Status| status.committed.map_or(0, |offset| offset.0);
                if status.is_ok_and(|status| status.iter().map(committed).sum::<i64>() >= offsets) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it gets there");
    }
}

fn numbers(range: std::ops::Range<i32>) -> impl Iterator<Item = String> {
    range.map(|number| format!("{{\"id\":{number}}}"))
}

fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(parquet_files(&path)),
            false if path.extension().is_some_and(|extension| extension == "parquet") => found.push(path),
            false => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_dropped_again_and_again_has_each_record_once() {
    let world = World::new(2).await;
    for round in 0..5 {
        world.send(0, numbers(0..300)).await;
        world.send(1, numbers(0..130)).await;
        let running = world.start(Until::Stopped, "");
        // Far enough to have committed something of this round, with more in hand.
        world.until_committed(round * 430 + 200).await;
        running.abort();
        let _ = running.await;
    }
    world.run_to_end("").await.unwrap();
    world.assert_whole(5 * 430).await;
    for file in parquet_files(&world.table()) {
        let path = file.strip_prefix(world.table()).unwrap().display().to_string();
        assert!(path.starts_with("dt=") && path.contains("/hour=") && path.contains("/orders-"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_takes_over_and_the_first_one_ends() {
    let world = World::new(1).await;
    world.send(0, numbers(0..150)).await;
    let first = world.start(Until::Stopped, "");
    world.until_committed(100).await;
    let second = world.start(Until::Stopped, "");
    world.send(0, numbers(0..500)).await;
    let refused = timeout(PATIENCE, first).await.expect("it ends").unwrap().unwrap_err();
    assert!(refused.to_string().contains("another instance"), "{refused}");
    // Of 650, what does not fill a range is in hand.
    world.until_committed(550).await;
    second.abort();
    let _ = second.await;
    world.run_to_end("").await.unwrap();
    world.assert_whole(650).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_took_back_is_not_in_the_table() {
    let world = World::new(1).await;
    let mut options = world.options();
    options.set("transactional.id", "t").unwrap();
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap();
    producer.init_transactions().await.unwrap();
    for round in 0..6 {
        let transaction = producer.begin().await.unwrap();
        for number in 0..40 {
            let mut record = ProducerRecord::new("orders", format!("{number}"));
            record.partition = Some(PartitionId(0));
            transaction.send(record).await.unwrap();
        }
        match round % 2 {
            0 => transaction.commit().await.unwrap(),
            _ => transaction.abort().await.unwrap(),
        }
    }
    producer.close(PATIENCE).await.unwrap();
    world.run_to_end("").await.unwrap();
    world.assert_whole(120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_row_ends_it_by_name_with_what_came_before_committed() {
    let world = World::new(1).await;
    world.send(0, numbers(0..142).chain(["{\"id\":\"x\"}".to_owned()]).chain(numbers(0..10))).await;
    let json = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\" }]";
    let refused = world.run_to_end(json).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("orders-0 at offset 142, field \"id\": \"x\" is not a whole number of 64 bits"),
        "{refused}"
    );
    let verified = world.verified().await;
    assert!(verified[0].is_clean(), "{verified:?}");
    assert_eq!((verified[0].rows, verified[0].committed.unwrap().end.0), (142, 142));
    // The declaration is corrected, and it goes on behind.
    let text = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"string\" }]";
    let refused = world.run_to_end(text).await.unwrap_err().to_string();
    assert!(refused.starts_with("orders-0 at offset 143, field \"id\": 0 is not a string"), "{refused}");
    world.run_to_end("[value]\nformat = \"text\"").await.unwrap();
    world.assert_whole(153).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_and_a_store_that_is_gone_stop_it() {
    let world = World::new(1).await;
    world.send(0, numbers(0..50)).await;
    world.run_to_end("").await.unwrap();

    let store = world.table().join("_sink");
    std::fs::rename(&store, world.dir.path().join("kept")).unwrap();
    let refused = world.run_to_end("").await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "orders-0: the table holds [0, 50) and the store has committed 0 to 0 only: \
         the store has lost something, which `ottla sink repair` gives back, or the table is another's: a sink wants \
         a table of its own"
    );
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(world.dir.path().join("kept"), &store).unwrap();
    world.run_to_end("").await.unwrap();

    let deleted = world.admin().delete_topics(&[Str::from("orders")]).await.unwrap();
    assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));
    world.create(1).await;
    world.send(0, numbers(0..80)).await;
    let refused = world.run_to_end("").await.unwrap_err().to_string();
    assert!(refused.contains("was deleted and created again"), "{refused}");
}
