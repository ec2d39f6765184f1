//! A broker, and lines that run against it: dropped in the middle, taken over, and asked where they stand.

// Each test binary compiles this for itself and uses its own part of it.
#![allow(dead_code, unreachable_pub)]

use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, Header, Isolation, NewTopic, Options, Producer, ProducerRecord,
    TokioEnvironment,
};
use sink::{Done, Line, LocalFiles, RunError, Settings, Status, Until, Verified};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Millis, PartitionId, Str};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The topic `orders`, and what is made of it.
pub struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
}

impl World {
    pub async fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap() };
        world.create("orders", partitions).await;
        world
    }

    pub fn options(&self) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        options.set("max.poll.records", "37").unwrap();
        options
    }

    /// Of one of those that share the partitions.
    pub fn instance(&self, name: &str) -> Options {
        let mut options = self.options();
        for (key, value) in [
            ("group.instance.id", name),
            ("session.timeout.ms", "6000"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ] {
            options.set(key, value).unwrap();
        }
        options
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    pub fn admin(&self) -> Admin {
        Admin::new(self.cluster())
    }

    pub async fn create(&self, name: &str, partitions: i32) {
        let topic = NewTopic {
            name: Str::copy_from(name),
            partitions: Some(partitions),
            replicas: Some(1),
            configs: Vec::new(),
        };
        let created = self.admin().create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
    }

    pub async fn delete(&self, name: &str) {
        let deleted = self.admin().delete_topics(&[Str::copy_from(name)]).await.unwrap();
        assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));
    }

    pub fn producer(&self, transactional_id: Option<&str>) -> Producer {
        let mut options = self.options();
        options.transactional_id = transactional_id.map(str::to_owned);
        Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap()
    }

    pub async fn send(&self, partition: i32, numbers: std::ops::Range<i32>) {
        self.send_all(numbers.map(|number| record(partition, number))).await;
    }

    pub async fn send_all(&self, records: impl Iterator<Item = ProducerRecord>) {
        let producer = self.producer(None);
        let mut handles = Vec::new();
        for record in records {
            handles.push(producer.enqueue(record).await.unwrap());
        }
        for handle in handles {
            handle.await.unwrap();
        }
        producer.close(PATIENCE).await.unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn settings(&self, lines: &str) -> Settings {
        let text = format!("name = \"orders\"\ntopics = [\"orders\"]\n{lines}");
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn start(&self, until: Until, lines: &str) -> JoinHandle<Result<Vec<Done>, RunError>> {
        self.start_as("one", until, lines)
    }

    pub fn start_as(
        &self,
        instance: &str,
        until: Until,
        lines: &str,
    ) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(lines), self.instance(instance));
        tokio::spawn(run(settings, options, until))
    }

    /// An instance in a process of its own, as far as all of it stands still at once.
    pub fn start_that_can_pause(&self, instance: &str, lines: &str) -> Pausable {
        let (settings, options) = (self.settings(lines), self.instance(instance));
        let (pause, pauses) = mpsc::channel::<()>();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let running = tokio::spawn(run(settings, options, Until::Stopped));
                while !running.is_finished() {
                    if pauses.try_recv().is_ok() && goes_on.recv().is_err() {
                        return None;
                    }
                    tokio::task::yield_now().await;
                }
                Some(running.await.unwrap())
            })
        });
        Pausable { pause, go_on, thread }
    }

    pub async fn run_to_end(&self, lines: &str) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(Until::End, lines)).await.expect("it ends").unwrap()
    }

    pub async fn refused(&self, lines: &str) -> String {
        self.run_to_end(lines).await.expect_err("it is refused").to_string()
    }

    pub async fn status(&self, lines: &str) -> Result<Vec<Status>, RunError> {
        sink::status(&self.settings(lines), &self.cluster(), Arc::new(LocalFiles)).await
    }

    pub async fn until_committed(&self, lines: &str, line: Line, offsets: i64) {
        let is_there = |all: &[Status]| {
            let of_line = all.iter().filter(|status| status.line == line);
            of_line.map(|status| status.committed.map_or(0, |offset| offset.0)).sum::<i64>() >= offsets
        };
        timeout(PATIENCE, async {
            while !self.status(lines).await.is_ok_and(|all| is_there(&all)) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it gets there");
    }

    pub async fn verified(&self, lines: &str) -> Vec<Verified> {
        let (settings, cluster) = (self.settings(lines), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        timeout(PATIENCE, verified).await.expect("it ends").unwrap()
    }

    /// Each record is there once, of so many in each line, and the lines agree.
    pub async fn assert_whole(&self, lines: &str, records: u64) {
        let verified = self.verified(lines).await;
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        for line in self.settings(lines).lines() {
            let of_line = verified.iter().filter(|one| one.line == line);
            let sums =
                of_line.fold((0, 0), |sums, one| (sums.0 + one.records, sums.1 + one.rows + one.letters));
            assert_eq!(sums, (records, records), "{line}: {verified:?}");
        }
    }
}

/// An instance that can be made to stand still.
pub struct Pausable {
    pause: mpsc::Sender<()>,
    go_on: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Option<Result<Vec<Done>, RunError>>>,
}

impl Pausable {
    /// From here on it does nothing.
    pub fn pause(&self) {
        self.pause.send(()).unwrap();
    }

    pub fn go_on(&self) {
        self.go_on.send(()).unwrap();
    }

    /// How it has ended by itself.
    pub async fn ended(self) -> Result<Vec<Done>, RunError> {
        let joined = tokio::task::spawn_blocking(move || self.thread.join().unwrap());
        timeout(PATIENCE, joined).await.expect("it ends").unwrap().expect("it was let go on")
    }
}

/// Some have no key, some no value, and some have a header twice.
pub fn record(partition: i32, number: i32) -> ProducerRecord {
    let mut record = ProducerRecord::new("orders", format!("value {number}"));
    record.partition = Some(PartitionId(partition));
    record.key = (number % 3 > 0).then(|| format!("key {number}").into());
    record.value = record.value.filter(|_| number % 7 > 0);
    record.timestamp = Some(Millis(1_700_000_000_000 + i64::from(number)));
    record.headers = vec![Header { key: "a".into(), value: None }; number as usize % 3];
    record
}

pub async fn run(settings: Settings, options: Options, until: Until) -> Result<Vec<Done>, RunError> {
    sink::run(&settings, options, Arc::new(TokioEnvironment), Arc::new(LocalFiles), until, pending()).await
}
