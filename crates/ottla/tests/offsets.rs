//! `ottla offsets` as an operator uses it: beside a real broker, a real Redis and a real PostgreSQL, with readers that stop.

#[path = "../../offsets/tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{Admin, Cluster, Execution, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment};
use offsets::{OffsetStore, Reader, ReaderError, ReaderOptions, StoreError};
use support::{Postgres, Redis};
use tokio::time::timeout;
use wire::{Offset, PartitionId, Str, TopicPartition};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    broker: EmbeddedBroker,
    address: String,
    sent: u64,
}

/// What a command said, and its exit code.
type Said = (String, i32);

impl World {
    async fn new(address: String) -> Self {
        let world = Self { broker: EmbeddedBroker::start().unwrap(), address, sent: 0 };
        world.create().await;
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        options
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    async fn create(&self) {
        let topic =
            NewTopic { name: "orders".into(), partitions: Some(2), replicas: Some(1), configs: Vec::new() };
        let created = Admin::new(self.cluster()).create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
    }

    async fn create_again(&self) {
        let deleted = Admin::new(self.cluster()).delete_topics(&[Str::from("orders")]).await.unwrap();
        deleted.into_iter().for_each(|(_, deleted)| deleted.unwrap());
        self.create().await;
    }

    async fn delete_before(&self, offset: i64) {
        let before = (TopicPartition::new("orders", PartitionId(0)), Offset(offset));
        let deleted = Admin::new(self.cluster()).delete_records(&[before]).await.unwrap();
        assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));
    }

    async fn send(&mut self, records: u64) {
        let producer = Producer::new(self.cluster()).unwrap();
        for _ in 0..records {
            let mut record = ProducerRecord::new("orders", self.sent.to_string());
            record.partition = Some(PartitionId(0));
            producer.send(record).await.unwrap();
            self.sent += 1;
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn reader(&self, store: &Arc<dyn OffsetStore>) -> Reader {
        let options = ReaderOptions::new("billing".parse().unwrap());
        let partition = TopicPartition::new("orders", PartitionId(0));
        Reader::assign(self.options(), Arc::new(TokioEnvironment), Arc::clone(store), options, [partition])
            .unwrap()
    }

    /// Runs a command line as it stands, in a terminal, and answers what it asks with yes.
    async fn in_a_terminal(&self, line: &str) -> Said {
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", line, "/dev/null"]);
        self.run(command, "y\n").await
    }

    async fn ottla(&self, arguments: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        command.args(arguments.split(' '));
        self.run(command, "").await
    }

    async fn run(&self, mut command: Command, input: &'static str) -> Said {
        let ottla = std::path::Path::new(env!("CARGO_BIN_EXE_ottla")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", ottla.display()))
            .env("OTTLA_BROKERS", self.broker.bootstrap_servers())
            .env("OTTLA_OFFSETS_STORE", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let running = tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().unwrap();
            process.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
            process.wait_with_output().unwrap()
        });
        let output = timeout(PATIENCE, running).await.expect("it ends").unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).unwrap(), output.status.code().unwrap_or(-1))
    }
}

async fn next(reader: &mut Reader) -> Result<offsets::Batch, ReaderError> {
    timeout(PATIENCE, reader.next()).await.expect("something comes").expect("it reads")
}

/// Reads and commits so many records.
async fn read(reader: &mut Reader, records: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < records {
        let batch = next(reader).await.unwrap();
        let value = |value: &bytes::Bytes| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
        seen.extend(batch.iter().map(|record| value(record.value.as_ref().unwrap())));
        reader.commit(batch).await.unwrap();
    }
    seen
}

/// The command that a gap's message names.
fn advice(outcome: Result<offsets::Batch, ReaderError>) -> String {
    let Err(error @ ReaderError::Gap(_)) = outcome else { panic!("it is to stop at a gap") };
    let said = error.to_string();
    said.split('`').nth(1).expect("it names a command").to_owned()
}

/// The words of each line of a table, but for those that are another each time.
fn table(said: &str) -> Vec<Vec<&str>> {
    said.lines().map(|line| line.split_whitespace().collect()).collect()
}

async fn a_gap_is_shown_and_resolved_by_what_its_message_says(address: String, store: Arc<dyn OffsetStore>) {
    let mut world = World::new(address).await;
    world.send(4).await;
    let mut reader = world.reader(&store);
    assert_eq!(read(&mut reader, 4).await, [0, 1, 2, 3]);
    reader.close(PATIENCE).await.unwrap();
    world.send(4).await;
    let (said, code) = world.ottla("offsets verify billing").await;
    assert_eq!(
        (table(&said), code),
        (
            vec![
                vec!["TOPIC", "PARTITION", "STATE", "STORED", "LOG-START", "LOG-END"],
                vec!["orders", "0", "continues", "4", "0", "8"]
            ],
            0
        )
    );

    // Retention.
    world.delete_before(6).await;
    let (said, code) = world.ottla("offsets show billing").await;
    let lines = table(&said);
    assert_eq!(code, 0, "{said}");
    let header = "TOPIC PARTITION STORED FENCE HOLDER UPDATED LOG-START LOG-END LAG STATE";
    assert_eq!(lines[0], header.split(' ').collect::<Vec<_>>());
    assert_eq!((&lines[1][..4], &lines[1][6..9]), (&["orders", "0", "4", "1"][..], &["6", "8", "2"][..]));
    assert!(said.contains("gap: records that were not read yet have been removed"), "{said}");
    let (said, code) = world.ottla("offsets verify billing --format json").await;
    assert_eq!(code, 1);
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    let (cause, found) = (&told[0]["cause"], &told[0]["found"]);
    assert_eq!((cause, found), (&"retention-passed".into(), &6.into()));

    let mut reader = world.reader(&store);
    let command = advice(next(&mut reader).await);
    assert_eq!(told[0]["command"], *command);
    assert_eq!(command, "ottla offsets set billing orders:0 --to 6");
    let (said, code) = world.ottla(command.strip_prefix("ottla ").unwrap()).await;
    assert_eq!((said.contains("give --yes to go ahead"), code), (true, 2), "{said}");
    let (said, code) = world.in_a_terminal(&command).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("move orders-0 of billing from 4 to 6? [y/N]"), "{said}");
    assert!(said.contains("moved"), "{said}");
    reader.close(PATIENCE).await.unwrap();
    let mut reader = world.reader(&store);
    assert_eq!(read(&mut reader, 2).await, [6, 7]);

    // A reader that runs is refused from then on, and what it had in hand comes again where it was told to.
    world.send(2).await;
    let in_hand = next(&mut reader).await.unwrap();
    let (said, code) = world.ottla("offsets set billing orders:0 --to 7 --dry-run").await;
    assert_eq!((said.contains("would be moved"), code), (true, 0), "{said}");
    let (said, code) = world.ottla("offsets set billing orders:0 --to 99 --yes").await;
    assert_eq!(
        (said.as_str(), code),
        ("error: 99 is not in the log of orders-0, which goes from 6 to 10\n", 2)
    );
    let (said, code) = world.ottla("offsets set billing orders:0 --to 7 --yes").await;
    assert_eq!(code, 0, "{said}");
    let refused = reader.commit(in_hand).await;
    assert!(matches!(refused, Err(ReaderError::Store(StoreError::Fenced { .. }))), "{refused:?}");
    reader.close(PATIENCE).await.unwrap();
    let mut reader = world.reader(&store);
    assert_eq!(read(&mut reader, 3).await, [7, 8, 9]);
    reader.close(PATIENCE).await.unwrap();

    // Another topic of the name: its ids are shown, and it is begun.
    world.create_again().await;
    world.send(2).await;
    let (said, _) = world.ottla("offsets show billing --format json").await;
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(shown[0]["topic_id"].is_string() && shown[0]["topic_id_now"].is_string(), "{said}");
    assert_ne!(shown[0]["topic_id"], shown[0]["topic_id_now"]);
    let mut reader = world.reader(&store);
    let command = advice(next(&mut reader).await);
    let (said, code) = world.in_a_terminal(&command).await;
    assert_eq!(code, 0, "{said}");
    reader.close(PATIENCE).await.unwrap();
    let mut reader = world.reader(&store);
    assert_eq!(read(&mut reader, 2).await, [10, 11]);
    reader.close(PATIENCE).await.unwrap();
    let (said, code) = world.ottla("offsets verify billing").await;
    assert_eq!((said.contains("continues"), code), (true, 0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis() {
    let redis = Redis::start().await;
    let store = Arc::new(redis.store().await);
    a_gap_is_shown_and_resolved_by_what_its_message_says(redis.address(), store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_postgres() {
    let postgres = Postgres::start().await;
    let store = Arc::new(postgres.store().await);
    a_gap_is_shown_and_resolved_by_what_its_message_says(postgres.url(), store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_it_says_where_to_name_one() {
    let told = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        let output = command.args(arguments).env_remove("OTTLA_OFFSETS_STORE").output().unwrap();
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    let missing = "error: where does the reader keep its positions?\n  \
                   tip: give --store redis://… or postgres://…, or set OTTLA_OFFSETS_STORE\n";
    assert_eq!(told(&["offsets", "show", "billing"]), (missing.to_owned(), Some(2)));
    let other = "error: a store's address begins with redis:// or postgres://\n";
    assert_eq!(told(&["offsets", "show", "billing", "--store", "mysql://x"]), (other.to_owned(), Some(2)));
}
