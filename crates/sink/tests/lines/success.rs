//! The marks of hours that are complete, between a real broker and real files.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment,
};
use serde_json::Value;
use sink::{Compaction, LocalFiles, Settings, Until, Verified};
use tempfile::TempDir;
use tokio::time::timeout;
use wire::{Millis, PartitionId};

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;

struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap() };
        let topic =
            NewTopic { name: "orders".into(), partitions: Some(2), replicas: Some(1), configs: Vec::new() };
        let created = Admin::new(world.cluster()).create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        options
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    fn record(partition: i32, hour: i64) -> ProducerRecord {
        let mut record = ProducerRecord::new("orders", format!("{partition} {hour}"));
        record.partition = Some(PartitionId(partition));
        record.timestamp = Some(Millis(1_700_000_000_000 + hour * HOUR_MS));
        record
    }

    async fn send(&self, records: impl IntoIterator<Item = (i32, i64)>) {
        let producer = Producer::new(self.cluster()).unwrap();
        for (partition, hour) in records {
            producer.enqueue(Self::record(partition, hour)).await.unwrap().await.unwrap();
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("orders")
    }

    fn settings(&self) -> Settings {
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n[offline]\ntable = {:?}\nsuccess = \"10m\"\n",
            self.table()
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    async fn run_to_end(&self) {
        let (settings, options) = (self.settings(), self.options());
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        let run = sink::run(&settings, options, environment, files, Until::End, pending());
        timeout(PATIENCE, run).await.expect("it ends").unwrap();
    }

    async fn compact(&self) {
        let compaction = Compaction { target_bytes: 1 << 20, older_than_ms: 0, execution: Execution::Apply };
        let (settings, files) = (self.settings(), Arc::new(LocalFiles));
        let compacted = sink::compact(&settings, &TokioEnvironment, files, compaction).await.unwrap();
        assert!(!compacted.merges.is_empty());
    }

    /// What the marks say, by hour.
    fn marks(&self) -> BTreeMap<String, String> {
        let mut marks = BTreeMap::new();
        for hour in fs::read_dir(self.table().join("dt=2023-11-14")).unwrap() {
            let hour = hour.unwrap();
            let Ok(bytes) = fs::read(hour.path().join("_SUCCESS")) else { continue };
            let said = match serde_json::from_slice::<Value>(&bytes) {
                Err(_) => "none of ours".to_owned(),
                Ok(mark) => {
                    assert!(mark["set"].as_i64().unwrap() > 1_700_000_000_000);
                    let ends = mark["ends"].as_array().unwrap().iter();
                    let ends: Vec<_> = ends
                        .map(|end| {
                            format!(
                                "{}-{} to {}",
                                end["topic"].as_str().unwrap(),
                                end["partition"],
                                end["end"]
                            )
                        })
                        .collect();
                    format!("{} rows, {} late, {}", mark["rows"], mark["late"], ends.join(", "))
                }
            };
            marks.insert(hour.file_name().into_string().unwrap(), said);
        }
        marks
    }

    fn assert_marks(&self, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(hour, said)| ((*hour).to_owned(), (*said).to_owned()));
        assert_eq!(self.marks(), expected.collect());
    }

    async fn assert_whole(&self, records: u64) {
        let (settings, cluster) = (self.settings(), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        let verified = timeout(PATIENCE, verified).await.expect("it ends").unwrap();
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        assert_eq!(verified.iter().map(|one| one.rows).sum::<u64>(), records);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_is_complete_is_marked_and_what_comes_late_is_in_it_and_counted() {
    let world = World::new().await;
    world.send([(0, 0), (0, 0), (1, 0), (1, 1)]).await;
    world.run_to_end().await;
    let of_23 = ("hour=23", "1 rows, 0 late, orders-1 to 2");
    world.assert_marks(&[("hour=22", "3 rows, 0 late, orders-0 to 2, orders-1 to 2"), of_23]);

    world.send([(0, 0), (0, 0), (1, 0)]).await;
    world.run_to_end().await;
    world.assert_marks(&[("hour=22", "3 rows, 3 late, orders-0 to 2, orders-1 to 2"), of_23]);
    // Merged files tell the same.
    world.compact().await;
    world.send([(0, 0)]).await;
    world.run_to_end().await;
    world.assert_marks(&[("hour=22", "3 rows, 4 late, orders-0 to 2, orders-1 to 2"), of_23]);
    world.assert_whole(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_transaction_is_nothing_to_wait_for_and_the_mark_of_another_is_left_alone() {
    let world = World::new().await;
    let mut options = world.options();
    options.set("transactional.id", "t").unwrap();
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap();
    producer.init_transactions().await.unwrap();
    let transaction = producer.begin().await.unwrap();
    transaction.send(World::record(0, 0)).await.unwrap();
    transaction.commit().await.unwrap();
    producer.close(PATIENCE).await.unwrap();
    let hour = world.table().join("dt=2023-11-14/hour=23");
    fs::create_dir_all(&hour).unwrap();
    fs::write(hour.join("_SUCCESS"), "").unwrap();
    world.send([(1, 1)]).await;
    world.run_to_end().await;
    world.assert_marks(&[("hour=22", "1 rows, 0 late, orders-0 to 1"), ("hour=23", "none of ours")]);
    world.assert_whole(2).await;
}
