//! A sink while it runs: held back by a throttle, paused and let go on, beginning with what is old, and told to those who look.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Environment, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord, Start,
    TokioEnvironment,
};
use sink::{
    Done, Hold, Line, LocalFiles, Meter, Metered, Pace, Reset, ResetEffect, ResetWhich, RunError, Running,
    Settings, Until, Verified,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Millis, Offset, PartitionId, Str};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
}

/// An instance that runs until it is told to stop.
struct Instance {
    meter: Meter,
    stop: oneshot::Sender<()>,
    run: JoinHandle<Result<Vec<Done>, RunError>>,
}

impl Instance {
    async fn stop(self) -> Vec<Done> {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.run).await.expect("it ends").unwrap().unwrap()
    }

    /// Waits until what is metered is so.
    async fn until(&self, is_so: impl Fn(&Meter) -> bool) {
        timeout(PATIENCE, async {
            while !is_so(&self.meter) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("it gets there: {:?}", self.meter));
    }
}

impl World {
    async fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap() };
        for name in ["orders", "out"] {
            let topic = NewTopic {
                name: Str::copy_from(name),
                partitions: Some(partitions),
                replicas: Some(1),
                configs: Vec::new(),
            };
            let created = world.admin().create_topics(&[topic], Execution::Apply).await.unwrap();
            assert!(created.iter().all(|(_, created)| created.is_ok()));
        }
        world
    }

    fn options(&self, instance: Option<&str>) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        for (key, value) in [
            ("bootstrap.servers", self.broker.bootstrap_servers().as_str()),
            ("fetch.max.wait.ms", "50"),
            ("max.poll.records", "37"),
            ("session.timeout.ms", "6000"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ] {
            options.set(key, value).unwrap();
        }
        options.group_instance_id = instance.map(str::to_owned);
        options
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(None), Arc::new(TokioEnvironment)).unwrap()
    }

    fn admin(&self) -> Admin {
        Admin::new(self.cluster())
    }

    async fn send(&self, partition: i32, count: usize, size: usize) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut handles = Vec::new();
        for _ in 0..count {
            let mut record = ProducerRecord::new("orders", "x".repeat(size));
            record.partition = Some(PartitionId(partition));
            // In one directory of the table, whenever this runs.
            record.timestamp = Some(Millis(1_700_000_000_000));
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

    /// Both lines.
    fn settings(&self, top: &str, offline: &str) -> Settings {
        let table = self.table();
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n{top}\n[nearline]\ntopic = \"out\"\n\
             [offline]\ntable = {table:?}\n{offline}\n"
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn start(&self, instance: &str, settings: &Settings, running: Running) -> Instance {
        let meter = Meter::watched();
        let running = Running { meter: meter.clone(), ..running };
        let (settings, options) = (settings.clone(), self.options(Some(instance)));
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        };
        let run =
            tokio::spawn(
                async move { sink::run(&settings, options, environment, files, running, stopped).await },
            );
        Instance { meter, stop, run }
    }

    async fn run_to_end(&self, settings: &Settings, running: Running) -> Meter {
        let instance = self.start("last", settings, Running { until: Until::End, ..running });
        timeout(PATIENCE, instance.run).await.expect("it ends").unwrap().unwrap();
        instance.meter
    }

    async fn hold(&self, settings: &Settings, hold: Hold) -> Vec<(Line, bool, bool)> {
        let held = sink::hold(settings, &self.cluster(), hold).await.unwrap();
        held.iter().map(|held| (held.line, held.was_paused, held.is_paused)).collect()
    }

    async fn assert_whole(&self, settings: &Settings, records: u64) {
        let cluster = self.cluster();
        let verified = sink::verify(settings, &cluster, Arc::new(LocalFiles));
        let verified = timeout(PATIENCE, verified).await.expect("it ends").unwrap();
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        for line in [Line::Offline, Line::Nearline] {
            let of_line = verified.iter().filter(|one| one.line == line);
            assert_eq!(of_line.map(|one| one.rows).sum::<u64>(), records, "{line}");
        }
    }
}

fn stopped() -> Running {
    Until::Stopped.into()
}

fn of(meter: &Meter, line: Line) -> Vec<Metered> {
    meter.partitions().into_iter().filter(|one| one.line == line).collect()
}

/// What a line has taken.
fn records(meter: &Meter, line: Line) -> u64 {
    of(meter, line).iter().map(|one| one.work.records).sum()
}

/// How much of a line's partitions is committed.
fn committed(meter: &Meter, line: Line) -> i64 {
    of(meter, line).iter().filter_map(|one| one.standing).map(|standing| standing.committed.0).sum()
}

fn parquet_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: PathBuf| match path.is_dir() {
        true => parquet_files(&path),
        false => usize::from(path.extension().is_some_and(|extension| extension == "parquet")),
    };
    entries.map(count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_holds_back_reading_and_nothing_else() {
    const RECORDS: usize = 4_000;
    let world = World::new(2).await;
    for partition in 0..2 {
        world.send(partition, RECORDS / 2, 1_000).await;
    }
    // Of four million bytes, which would take a quarter of an hour.
    let settings = world.settings("throttle = \"4KiB\"", "roll_age = \"50ms\"");
    let first = world.start("a", &settings, stopped());
    // What is due is committed while nothing can be read.
    for line in [Line::Offline, Line::Nearline] {
        first.until(|meter| committed(meter, line) > 0).await;
    }
    // What is asked back is given: a second one gets a partition of each line.
    let second = world.start("b", &settings, stopped());
    for line in [Line::Offline, Line::Nearline] {
        second.until(|meter| of(meter, line).iter().any(|one| one.standing.is_some())).await;
    }
    for instance in [first, second] {
        let taken = [Line::Offline, Line::Nearline].map(|line| records(&instance.meter, line));
        assert!(taken.iter().all(|&taken| taken < RECORDS as u64 / 2), "{taken:?}");
        // And an end is an end.
        instance.stop().await;
    }
    // What is said with the run counts instead.
    let running = Running { throttle: Some(1 << 30), ..stopped() };
    world.run_to_end(&settings, running).await;
    world.assert_whole(&settings, RECORDS as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_commits_what_is_in_hand_and_holds_every_instance_until_it_is_over() {
    let world = World::new(2).await;
    let settings = world.settings("", "roll_age = \"1h\"");
    let both = [Line::Offline, Line::Nearline];
    for partition in 0..2 {
        world.send(partition, 100, 10).await;
    }
    let first = world.start("a", &settings, stopped());
    first.until(|meter| both.iter().all(|&line| records(meter, line) == 200)).await;
    assert_eq!(committed(&first.meter, Line::Offline), 0);

    let paused = world.hold(&settings, Hold::Pause).await;
    assert_eq!(paused, [(Line::Offline, false, true), (Line::Nearline, false, true)]);
    // Twice is once.
    let again = world.hold(&settings, Hold::Pause).await;
    assert_eq!(again, [(Line::Offline, true, true), (Line::Nearline, true, true)]);
    first.until(|meter| both.iter().all(|&line| committed(meter, line) == 200)).await;
    let status = sink::status(&settings, &world.cluster(), Arc::new(LocalFiles)).await.unwrap();
    assert!(status.iter().all(|status| status.is_paused), "{status:?}");

    // One that is killed is paused when it comes back, and so is one that is new.
    first.run.abort();
    let _ = first.run.await;
    for partition in 0..2 {
        world.send(partition, 50, 10).await;
    }
    let first = world.start("a", &settings, stopped());
    let second = world.start("b", &settings, stopped());
    for instance in [&first, &second] {
        // It has a partition of each line, and sees what it could read.
        let sees = |one: &Metered| one.left.is_some_and(|left| left.lag == 50);
        instance.until(|meter| both.iter().all(|&line| of(meter, line).iter().any(sees))).await;
        assert!(instance.meter.lines().iter().all(|(_, line)| line.is_paused));
        assert_eq!(both.map(|line| records(&instance.meter, line)), [0, 0]);
    }

    // One line goes on, and the other one with the next command.
    let nearline = settings.only(Line::Nearline).unwrap();
    assert_eq!(world.hold(&nearline, Hold::Resume).await, [(Line::Nearline, true, false)]);
    let all_of = |line| move |(one, other): (u64, u64)| (line, one + other);
    let taken = |line| all_of(line)((records(&first.meter, line), records(&second.meter, line)));
    first.until(|_| taken(Line::Nearline).1 == 100).await;
    assert_eq!(taken(Line::Offline).1, 0);
    world.hold(&settings, Hold::Resume).await;
    first.until(|_| taken(Line::Offline).1 == 100).await;
    first.stop().await;
    second.stop().await;
    world.assert_whole(&settings, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_comes_into_large_files_and_what_is_new_when_it_is_due() {
    let world = World::new(2).await;
    for partition in 0..2 {
        world.send(partition, 2_000, 100).await;
    }
    // A file for each portion that is read, as far as its age goes.
    let settings = world.settings("start = \"latest\"", "roll_age = \"1ms\"");
    let instance = world.start("a", &settings, Running { pace: Pace::Backfill, ..stopped() });
    instance.until(|meter| committed(meter, Line::Offline) == 4_000).await;
    assert_eq!(parquet_files(&world.table()), 2);
    // It goes on with what comes, and that is not waited for any longer than is declared.
    for partition in 0..2 {
        world.send(partition, 10, 100).await;
    }
    instance.until(|meter| committed(meter, Line::Offline) == 4_020).await;
    instance.stop().await;
    world.run_to_end(&settings, stopped()).await;
    world.assert_whole(&settings, 4_020).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_begins_where_it_is_told_to_and_is_never_moved_after_that() {
    let world = World::new(2).await;
    let settings = world.settings("", "");
    for partition in 0..2 {
        world.send(partition, 100, 10).await;
    }
    let reset = async |partition: Option<i32>, to: Start, execution: Execution| {
        let which = ResetWhich { topic: None, partition: partition.map(PartitionId) };
        let environment: Arc<dyn Environment> = Arc::new(TokioEnvironment);
        let (cluster, files) = (world.cluster(), Arc::new(LocalFiles));
        let reset = sink::reset(&settings, &cluster, &environment, files, &which, to, execution).await;
        let told =
            |resets: Vec<Reset>| resets.iter().map(|reset| (reset.to.0, reset.effect)).collect::<Vec<_>>();
        reset.map(told).map_err(|error| error.to_string())
    };
    let begins = |to| Ok(vec![(to, ResetEffect::Begins); 2]);
    // Looked at, and done: in both lines, of one partition.
    assert_eq!(reset(Some(0), Start::BeforeLatest(40), Execution::Validate).await, begins(60));
    assert_eq!(reset(Some(0), Start::BeforeLatest(30), Execution::Apply).await, begins(70));
    let stays = Ok(vec![(70, ResetEffect::Stays); 2]);
    assert_eq!(reset(Some(0), Start::Offset(Offset(70)), Execution::Apply).await, stays);
    let refused = reset(Some(1), Start::Offset(Offset(101)), Execution::Apply).await.unwrap_err();
    assert_eq!(refused, "orders-1 goes from 0 to 100, and a line cannot begin at 101 in it");
    world.run_to_end(&settings, stopped()).await;
    world.assert_whole(&settings, 130).await;

    // What has a position is not moved, and nothing is done of the rest then.
    world.send(0, 5, 10).await;
    let skips = |offsets| (100 + offsets as i64, ResetEffect::Skips(offsets));
    let effects = reset(Some(0), Start::Latest, Execution::Apply).await;
    assert_eq!(effects, Ok(vec![skips(5), skips(5)]));
    let effects = reset(Some(0), Start::Earliest, Execution::Apply).await;
    assert_eq!(effects, Ok(vec![(0, ResetEffect::Repeats(100)); 2]));
    world.run_to_end(&settings, stopped()).await;
    world.assert_whole(&settings, 135).await;

    // A store that is gone is not begun anew over a table that is there.
    std::fs::remove_dir_all(world.table().join("_sink")).unwrap();
    let effects = reset(Some(0), Start::Latest, Execution::Apply).await;
    assert_eq!(effects, Ok(vec![(105, ResetEffect::Lost), (105, ResetEffect::Stays)]));
}
