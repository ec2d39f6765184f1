//! The offline line between a real broker and a real server of S3: dropped in the middle, its server killed, its positions lost, and
//! refused by what the server does not allow.

use std::fs;
use std::future::pending;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment,
};
use sink::{Compaction, Done, Expiry, LocalFiles, RepairAction, RunError, Settings, Until, Verified};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use wire::{PartitionId, Str};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: u64 = 1000;

/// A server over a directory; it is killed with the value.
struct Server {
    dir: TempDir,
    port: u16,
    process: Child,
}

impl Server {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["data/shop", "users"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        // Whom nothing is allowed.
        let users = r#"{"accessAccounts":{"guest":{"access":"guest","secret":"guestsecret","role":"user"}}}"#;
        fs::write(dir.path().join("users/users.json"), users).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { process: run(dir.path(), port), dir, port };
        server.until_it_answers().await;
        server
    }

    async fn until_it_answers(&self) {
        let answers = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect("it answers");
    }

    /// kill -9.
    fn kill(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).unwrap();
    }

    async fn start_again(&mut self) {
        self.process = run(self.dir.path(), self.port);
        self.until_it_answers().await;
    }

    /// Where its objects are.
    fn bucket(&self) -> PathBuf {
        self.dir.path().join("data/shop")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(dir: &Path, port: u16) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/s3/versitygw");
    Command::new(&program)
        .args(["--port", &format!("127.0.0.1:{port}"), "--access", "key", "--secret", "secretkey", "--quiet"])
        .arg("--iam-dir")
        .arg(dir.join("users"))
        .arg("posix")
        .arg(dir.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            let program = program.display();
            panic!("cannot run {program}: {error}; `cargo xtask test` installs it, from compat/s3")
        })
}

struct World {
    broker: EmbeddedBroker,
    server: Server,
}

impl World {
    async fn new() -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, server: Server::start().await };
        let topic = NewTopic {
            name: Str::copy_from("orders"),
            partitions: Some(2),
            replicas: Some(1),
            configs: Vec::new(),
        };
        let created = Admin::new(world.cluster()).create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
        world.send(RECORDS).await;
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        for (key, value) in [
            ("bootstrap.servers", &*self.broker.bootstrap_servers()),
            ("fetch.max.wait.ms", "50"),
            ("max.poll.records", "20"),
            ("group.instance.id", "one"),
            ("session.timeout.ms", "6000"),
        ] {
            options.set(key, value).unwrap();
        }
        options
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    async fn send(&self, records: u64) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut handles = Vec::new();
        for number in 0..records {
            let mut record = ProducerRecord::new("orders", format!("v{number}"));
            record.partition = Some(PartitionId((number % 2) as i32));
            handles.push(producer.enqueue(record).await.unwrap());
        }
        for handle in handles {
            handle.await.unwrap();
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn settings_at(&self, table: &str, who: &str) -> Settings {
        let port = self.server.port;
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n[offline]\ntable = \"{table}\"\nroll_rows = 10\n\
             [offline.s3]\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\n{who}\n"
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn settings(&self) -> Settings {
        self.settings_at(
            "s3://shop/tables/orders",
            "access_key_id = \"key\"\nsecret_access_key = \"secretkey\"",
        )
    }

    fn start(&self, settings: Settings, until: Until) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (options, environment) = (self.options(), Arc::new(TokioEnvironment));
        let files = Arc::new(LocalFiles);
        tokio::spawn(async move { sink::run(&settings, options, environment, files, until, pending()).await })
    }

    async fn run_to_end(&self) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(self.settings(), Until::End)).await.expect("it ends").unwrap()
    }

    async fn refused(&self, settings: Settings) -> String {
        let ended = timeout(PATIENCE, self.start(settings, Until::End)).await.expect("it ends").unwrap();
        ended.unwrap_err().to_string().replace(&self.server.port.to_string(), "PORT")
    }

    async fn verified(&self) -> Vec<Verified> {
        sink::verify(&self.settings(), &self.cluster(), Arc::new(LocalFiles)).await.unwrap()
    }

    async fn assert_exactly_once(&self, records: u64) {
        let verified = self.verified().await;
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        assert_eq!(verified.iter().map(|verified| verified.rows).sum::<u64>(), records);
    }

    fn files(&self) -> usize {
        count(&self.server.bucket().join("tables/orders"))
    }

    /// Waits until so many files are in the table.
    async fn until_there_are(&self, files: usize) {
        let there = async {
            while self.files() < files {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, there).await.expect("the line writes");
    }
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => count(&path),
            path => usize::from(path.extension().is_some_and(|extension| extension == "parquet")),
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_bucket_has_each_record_once() {
    let world = World::new().await;
    let done = world.run_to_end().await.unwrap();
    assert_eq!(done.iter().map(|done| done.records).sum::<u64>(), RECORDS);
    world.assert_exactly_once(RECORDS).await;
    let status = sink::status(&world.settings(), &world.cluster(), Arc::new(LocalFiles)).await.unwrap();
    assert!(status.iter().all(|status| status.lag == 0 && status.output == status.committed), "{status:?}");
    world.send(10).await;
    world.run_to_end().await.unwrap();
    world.assert_exactly_once(RECORDS + 10).await;
    let refused = |outcome: Result<(), RunError>| outcome.unwrap_err().to_string();
    let (settings, files) = (world.settings(), Arc::new(LocalFiles));
    let compaction = Compaction { target_bytes: 1 << 20, older_than_ms: 0, execution: Execution::Apply };
    let compacted = sink::compact(&settings, &TokioEnvironment, files.clone(), compaction).await;
    let told = refused(compacted.map(drop));
    assert!(
        told.starts_with("s3://shop/tables/orders is in an object store, and is not compacted there"),
        "{told}"
    );
    let expiry = Expiry { older_than_ms: 0, execution: Execution::Apply };
    let told = refused(sink::expire(&settings, &TokioEnvironment, files, expiry).await.map(drop));
    assert!(
        told.starts_with("s3://shop/tables/orders is in an object store, and is not expired there"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_dropped_anywhere_is_gone_on_with() {
    let world = World::new().await;
    for files in [1, 4, 9, 15] {
        let line = world.start(world.settings(), Until::Stopped);
        world.until_there_are(files).await;
        line.abort();
        let _ = line.await;
    }
    world.run_to_end().await.unwrap();
    world.assert_exactly_once(RECORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_has_each_record_once() {
    let mut world = World::new().await;
    for files in [2, 8, 14] {
        let line = world.start(world.settings(), Until::Stopped);
        world.until_there_are(files).await;
        world.server.kill();
        world.server.start_again().await;
        // It waits for the server, and writes more.
        world.until_there_are(files + 2).await;
        line.abort();
        let _ = line.await;
    }
    world.run_to_end().await.unwrap();
    world.assert_exactly_once(RECORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_are_lost_come_back_from_the_footers() {
    let world = World::new().await;
    world.run_to_end().await.unwrap();
    fs::remove_dir_all(world.server.bucket().join("tables/orders/_sink")).unwrap();
    let told = world.refused(world.settings()).await;
    assert!(told.contains("which `ottla sink repair` gives back"), "{told}");
    let (settings, cluster, files) = (world.settings(), world.cluster(), Arc::new(LocalFiles));
    let repaired =
        sink::repair(&settings, &cluster, &TokioEnvironment, files, Execution::Apply).await.unwrap();
    assert!(
        repaired.iter().all(|repair| repair.is_done && matches!(repair.action, RepairAction::Rebuild(..))),
        "{repaired:?}"
    );
    world.send(10).await;
    world.run_to_end().await.unwrap();
    world.assert_exactly_once(RECORDS + 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_allow_is_told_without_a_secret() {
    let world = World::new().await;
    let who = |id: &str, secret: &str| format!("access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"");
    let table = "s3://shop/tables/orders";
    for (table, who, named) in [
        (table, who("key", "wrongsecret"), "knows the access key, and the secret key is not the one of it"),
        (table, who("nobody", "wrongsecret"), "http://127.0.0.1:PORT does not know this access key"),
        (
            table,
            who("guest", "guestsecret"),
            "does not allow to put objects (s3:PutObject) in bucket shop: AccessDenied",
        ),
        ("s3://none/orders", who("key", "secretkey"), "there is no bucket none at http://127.0.0.1:PORT"),
    ] {
        let told = world.refused(world.settings_at(table, &who)).await;
        assert!(told.contains(named), "{told}");
        assert!(!told.contains("secretkey") && !told.contains("wrongsecret"), "{told}");
    }
    assert_eq!(world.files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_fields_are_parts_of_keys_as_they_are_called() {
    let world = World::new().await;
    let topic = NewTopic {
        name: Str::copy_from("sales"),
        partitions: Some(1),
        replicas: Some(1),
        configs: Vec::new(),
    };
    let created = Admin::new(world.cluster()).create_topics(&[topic], Execution::Apply).await.unwrap();
    assert!(created.iter().all(|(_, created)| created.is_ok()));
    let producer = Producer::new(world.cluster()).unwrap();
    for city in ["\"Köln\"", "\"a/../b c,+&<%\"", "null", "\"..\""] {
        let value = format!("{{\"id\":1,\"city\":{city}}}");
        producer.enqueue(ProducerRecord::new("sales", value)).await.unwrap().await.unwrap();
    }
    producer.close(PATIENCE).await.unwrap();
    let text = format!(
        "name = \"sales\"\ntopics = [\"sales\"]\n[value]\nformat = \"json\"\nfields = [{{ name = \"id\", type = \"int64\" }}, {{ name = \"city\", type = \"string\" }}]\n\
         [offline]\ntable = \"s3://shop/sales\"\npartition_by = \"none\"\npartition_fields = [\"city\"]\nroll_rows = 2\n\
         [offline.s3]\nendpoint = \"http://127.0.0.1:{}\"\nregion = \"us-east-1\"\naccess_key_id = \"key\"\nsecret_access_key = \"secretkey\"\n",
        world.server.port
    );
    let settings = Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..2 {
        timeout(PATIENCE, world.start(settings.clone(), Until::End))
            .await
            .expect("it ends")
            .unwrap()
            .unwrap();
    }
    let mut found: Vec<_> = fs::read_dir(world.server.bucket().join("sales"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('_'))
        .collect();
    found.sort();
    let expected = ["city=..", "city=Köln", "city=__HIVE_DEFAULT_PARTITION__", "city=a%2F..%2Fb c,+&<%25"];
    assert_eq!(found, expected);
    let cluster = world.cluster();
    let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
    let verified = timeout(PATIENCE, verified).await.expect("it ends").unwrap();
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    assert_eq!((verified[0].files, verified[0].rows), (4, 4));
}
