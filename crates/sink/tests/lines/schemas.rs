//! Values whose schemas are in a registry, through a broker into a table: while schemas change, while the registry is away, and
//! where it knows of none.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::support::registry::TestRegistry;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use sink::{Done, LocalFiles, RunError, Settings, Until, Verified, Which};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::Str;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    broker: EmbeddedBroker,
    registry: TestRegistry,
    dir: TempDir,
    format: &'static str,
}

impl World {
    async fn new(format: &'static str) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let (registry, dir) = (TestRegistry::start().await, TempDir::new().unwrap());
        let world = Self { broker, registry, dir, format };
        for name in ["orders", "orders.dead"] {
            let topic = NewTopic {
                name: Str::copy_from(name),
                partitions: Some(1),
                replicas: Some(1),
                configs: Vec::new(),
            };
            let created =
                Admin::new(world.cluster()).create_topics(&[topic], Execution::Apply).await.unwrap();
            assert!(created.iter().all(|(_, created)| created.is_ok()));
        }
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

    /// The id of a new version of the values' schema.
    fn register(&self, fields: &Value) -> u32 {
        let schema = json!({ "type": "record", "name": "Order", "fields": fields });
        self.registry.register("orders-value", "AVRO", &schema.to_string(), json!([]))
    }

    async fn send(&self, values: impl IntoIterator<Item = Vec<u8>>) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut handles = Vec::new();
        for value in values {
            handles.push(producer.enqueue(ProducerRecord::new("orders", value)).await.unwrap());
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
        let (table, registry, format) = (self.table(), &self.registry.address, self.format);
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n[value]\nformat = {format:?}\nregistry = \"{registry}\"\n{more}\n[offline]\ntable = {table:?}\nroll_rows = 100\n"
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A line, and what stops it.
    fn start(
        &self,
        until: Until,
        more: &str,
    ) -> (JoinHandle<Result<Vec<Done>, RunError>>, oneshot::Sender<()>) {
        let (settings, options) = (self.settings(more), self.options());
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        };
        let line = async move { sink::run(&settings, options, environment, files, until, stopped).await };
        (tokio::spawn(line), stop)
    }

    async fn run_to_end(&self, more: &str) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(Until::End, more).0).await.expect("it ends").unwrap()
    }

    async fn verified(&self, more: &str) -> Verified {
        let (settings, cluster) = (self.settings(more), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        let mut verified = timeout(PATIENCE, verified).await.expect("it ends").unwrap();
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        verified.remove(0)
    }

    /// Ids and cities of all rows, in the order of ids.
    fn rows(&self) -> Vec<(i64, Option<String>)> {
        let mut rows = Vec::new();
        for path in parquet_files(&self.table()) {
            let file = std::fs::File::open(path).unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
                let cities = batch.column_by_name("city").map(|column| column.as_string::<i32>().clone());
                let city = |row: usize| cities.as_ref().and_then(|cities| cities.iter().nth(row).unwrap());
                rows.extend((0..batch.num_rows()).map(|row| (ids.value(row), city(row).map(str::to_owned))));
            }
        }
        rows.sort();
        rows
    }

    /// Waits until the registry was asked for this, so often.
    async fn until_asked(&self, path: &str, times: usize) {
        let mut left = times;
        timeout(PATIENCE, async {
            while left > 0 {
                left =
                    left.saturating_sub(self.registry.asked().iter().filter(|asked| *asked == path).count());
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it is asked");
    }
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

fn framed(schema: u32, value: &[u8]) -> Vec<u8> {
    [&[0][..], &schema.to_be_bytes(), value].concat()
}

/// A number of two bytes, as Avro writes it.
fn number(number: u8) -> [u8; 2] {
    let twice = u16::from(number) * 2;
    [twice as u8 | 0x80, (twice >> 7) as u8]
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_change_and_the_registry_is_away_and_each_record_is_there_once() {
    let world = World::new("avro").await;
    let old = world.register(&json!([{ "name": "id", "type": "int" }]));
    let new = world.register(&json!([
        { "name": "id", "type": "long" }, { "name": "city", "type": ["null", "string"], "default": null }
    ]));
    world.send((0..60).map(|id| framed(old, &number(id)))).await;
    let (running, _stop) = world.start(Until::Stopped, "");
    world.until_asked(&format!("/schemas/ids/{old}"), 1).await;

    // Records of another schema come while nobody says which: nothing is passed over.
    world.registry.fail(usize::MAX);
    world.send((60..100).map(|id| framed(new, &[&number(id)[..], &[2, 2, b'a']].concat()))).await;
    world.until_asked(&format!("/schemas/ids/{new}"), 3).await;
    running.abort();
    let _ = running.await;

    // Who waits is stopped in order.
    world.registry.fail(0);
    let (running, stop) = world.start(Until::Stopped, "");
    world.until_asked(&format!("/schemas/ids/{old}"), 1).await;
    stop.send(()).unwrap();
    timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap();

    let wider = world.register(&json!([
        { "name": "note", "type": "string", "default": "" }, { "name": "city", "type": "string" }, { "name": "id", "type": "int" }
    ]));
    let more = (100..110).map(|id| framed(wider, &[&[0, 2, b'b'][..], &number(id)].concat()));
    world.send(more).await;
    world.run_to_end("version = 2").await.unwrap();
    let verified = world.verified("version = 2").await;
    assert_eq!((verified.records, verified.rows), (110, 110));
    let city = |id| match id {
        0..60 => None,
        60..100 => Some("a".to_owned()),
        _ => Some("b".to_owned()),
    };
    assert_eq!(world.rows(), (0..110).map(|id| (id, city(id))).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_schema_is_known_for_stops_the_line_or_is_a_dead_letter() {
    let world = World::new("avro").await;
    let id = world.register(&json!([{ "name": "id", "type": "long" }]));
    let bad = [framed(99, &[2]), vec![1, 2, 3], framed(id, &[2, 2])];
    world.send([framed(id, &[2])]).await;
    world.send(bad).await;
    world.send([framed(id, &[4])]).await;
    let error = world.run_to_end("").await.unwrap_err().to_string();
    assert_eq!(error, "orders-0 at offset 1: the registry has no schema 99: Schema not found");
    assert_eq!(world.rows(), [(1, None)]);

    let letters = "[dead_letters]\ntopic = \"orders.dead\"";
    world.run_to_end(letters).await.unwrap();
    assert_eq!(world.rows(), [(1, None), (2, None)]);
    let verified = world.verified(letters).await;
    assert_eq!((verified.records, verified.rows), (5, 2));
    let (settings, cluster) = (world.settings(letters), world.cluster());
    let listed = sink::dead_letters(&settings, &cluster, Which::All);
    let listed = timeout(PATIENCE, listed).await.expect("it ends").unwrap();
    let offsets: Vec<_> = listed.iter().map(|letter| letter.offset.0).collect();
    assert_eq!(offsets, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_no_columns_ends_the_run_before_it_reads() {
    let world = World::new("avro").await;
    let told = |error: RunError| error.to_string().replace(&world.registry.address, "http://registry");
    assert_eq!(
        told(world.run_to_end("").await.unwrap_err()),
        "the schema that says the columns: http://registry does not have the latest version of orders-value: Subject not found"
    );
    world.register(&json!([{ "name": "id", "type": ["int", "string"] }]));
    assert_eq!(
        told(world.run_to_end("").await.unwrap_err()),
        "the schema that says the columns, of orders-value in http://registry: field id: a union of int, string cannot be a column; a union of null and one other type can"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_type_are_dead_letters_and_the_others_are_rows() {
    let world = World::new("protobuf").await;
    let text = "syntax = \"proto3\"; message Order { int64 id = 1; optional string city = 2; } message Refund { int64 id = 1; }";
    let id = world.registry.register("orders-value", "PROTOBUF", text, json!([]));
    world
        .send([
            framed(id, &[0, 0x08, 1]),
            framed(id, &[2, 2, 0x08, 1]),
            framed(id, &[2, 0, 0x08, 2, 0x12, 1, b'a']),
        ])
        .await;
    let declared = "message = \"Order\"\n[dead_letters]\ntopic = \"orders.dead\"";
    world.run_to_end(declared).await.unwrap();
    assert_eq!(world.rows(), [(1, None), (2, Some("a".to_owned()))]);
    let verified = world.verified(declared).await;
    assert_eq!((verified.records, verified.rows), (3, 2));
}
