//! Each step of what keeps a table in order as a place to die at, beside a line that goes on writing into the same directories.
//!
//! As in `crash_points`, a file system in memory forgets what was not made durable. Readers are those of a glob: they see each
//! committed record once, whatever has died when. What `verify` reads beside it is a real broker's log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::parquet_file::ParquetFile;
use crate::support::{Disk, Fate, Process, Steps};
use broker::embedded::EmbeddedBroker;
use bytes::Bytes;
use client::{
    Admin, Cluster, ConsumedRecord, Environment, Execution, Isolation, NewTopic, Options, Producer,
    ProducerRecord, TimestampType, TokioEnvironment,
};
use sink::{
    Chunk, Compaction, Expiries, Expiry, Extra, FileStore, Format, Key, Layout, Limits, Line, LineSettings,
    Merges, Partition, PartitionError, PositionStore, RunError, Settings, Shape, Table, Until, UpkeepOutcome,
    Verified,
};
use tokio::runtime::Runtime;
use wire::compression::Compression;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId};

const TABLE: &str = "/table";
const HOUR_MS: i64 = 3_600_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes before and what comes after the table is put in order: late records of the same hours.
const BEFORE: usize = 9;
const ALL: usize = 13;

/// A broker with the records, and how a table of them begins.
struct Origin {
    runtime: Runtime,
    // It lives as long as its log is read.
    broker: EmbeddedBroker,
    key: Key,
    log: Vec<ConsumedRecord>,
    /// With a table of what comes before.
    begun: Disk,
}

fn settings() -> Settings {
    let text = format!(
        "name = \"orders\"\ntopics = [\"orders\"]\n[value]\nformat = \"text\"\n[offline]\ntable = {TABLE:?}\n"
    );
    Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn options(broker: &EmbeddedBroker) -> Options {
    let mut options = Options::default();
    options.isolation_level = Isolation::ReadCommitted;
    options.set("bootstrap.servers", &broker.bootstrap_servers()).unwrap();
    options.set("fetch.max.wait.ms", "10").unwrap();
    options
}

fn timestamp(number: usize) -> Millis {
    Millis(1_700_000_000_000 + i64::try_from(number % 3 / 2).unwrap() * HOUR_MS)
}

fn record(number: usize) -> ConsumedRecord {
    ConsumedRecord {
        topic: "orders".into(),
        partition: PartitionId(0),
        offset: Offset(i64::try_from(number).unwrap()),
        leader_epoch: LeaderEpoch(0),
        timestamp: timestamp(number),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        value: Some(format!("v{number}").into()),
        headers: Vec::new(),
        compression: Compression::None,
        is_transactional: false,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
    }
}

impl Origin {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let broker = EmbeddedBroker::builder().start().unwrap();
        let settings = settings();
        let key = runtime.block_on(async {
            let cluster = Cluster::new(options(&broker), Arc::new(TokioEnvironment)).unwrap();
            let topic = NewTopic {
                name: "orders".into(),
                partitions: Some(1),
                replicas: Some(1),
                configs: Vec::new(),
            };
            let created =
                Admin::new(cluster.clone()).create_topics(&[topic], Execution::Apply).await.unwrap();
            assert!(created.iter().all(|(_, created)| created.is_ok()));
            let producer = Producer::new(cluster).unwrap();
            for number in 0..ALL {
                let mut record = ProducerRecord::new("orders", format!("v{number}"));
                record.partition = Some(PartitionId(0));
                record.timestamp = Some(timestamp(number));
                producer.enqueue(record).await.unwrap().await.unwrap();
            }
            producer.close(PATIENCE).await.unwrap();
            // What it is called by: a table that is thrown away tells.
            let files = Arc::new(empty_disk());
            let environment = Arc::new(TokioEnvironment);
            let run = sink::run(
                &settings,
                options(&broker),
                environment,
                files.clone(),
                Until::End,
                std::future::pending(),
            );
            run.await.unwrap();
            let stored = FileStore::new(files, TABLE).list(&settings.line_name(Line::Offline)).await.unwrap();
            stored[0].0.clone()
        });
        let begun = empty_disk().disk;
        let mut origin =
            Self { runtime, broker, key, log: (0..ALL).map(record).collect(), begun: Disk::new() };
        World { origin: &origin, disk: Arc::clone(&begun) }.run(FIRST, BEFORE, None).unwrap();
        origin.begun = begun.lock().unwrap().clone();
        origin
    }

    /// A table with what comes before.
    fn world(&self) -> World<'_> {
        World { origin: self, disk: Arc::new(Mutex::new(self.begun.clone())) }
    }
}

fn empty_disk() -> Process {
    let mut disk = Disk::new();
    disk.make_dir(Path::new(TABLE)).unwrap();
    let root = Process { disk: Arc::new(Mutex::new(disk)), steps: Steps::new(None) };
    sink::Files::sync_dir(&root, Path::new("/")).unwrap();
    root
}

/// How an instance of the line closes ranges.
#[derive(Clone, Copy)]
struct Habits {
    rows_max: u64,
    token: i64,
}

const FIRST: Habits = Habits { rows_max: 2, token: 1 };
const SECOND: Habits = Habits { rows_max: 3, token: 2 };
const THIRD: Habits = Habits { rows_max: 100, token: 3 };

struct World<'a> {
    origin: &'a Origin,
    disk: Arc<Mutex<Disk>>,
}

impl World<'_> {
    fn process(&self, at: Option<(u64, Fate)>) -> Process {
        Process { disk: Arc::clone(&self.disk), steps: Steps::new(at) }
    }

    fn cut_power(&self) {
        self.disk.lock().unwrap().cut_power();
    }

    /// One instance of the line, from taking hold of the partition to the end of so many records.
    fn run(&self, habits: Habits, records: usize, at: Option<(u64, Fate)>) -> Result<(), PartitionError> {
        self.run_as(&self.process(at), habits, records)
    }

    fn run_as(&self, process: &Process, habits: Habits, records: usize) -> Result<(), PartitionError> {
        let files = Arc::new(process.clone());
        let (key, log) = (&self.origin.key, &self.origin.log[..records]);
        let limits = Limits {
            rows_max: habits.rows_max,
            bytes_max: u64::MAX,
            age_ms_max: i64::MAX,
            late_ms_max: None,
        };
        let shape = Arc::new(Shape::new(Format::Text, vec![Extra::Offset]).unwrap());
        let settings = LineSettings { limits, layout: Layout::Hour, files_max: 8, shape };
        let table = Table::new(files.clone(), TABLE);
        let store = Arc::new(FileStore::new(files, TABLE));
        let work = async {
            let (now, token) = (Millis(0), habits.token);
            let mut partition =
                Partition::open(key.clone(), store, table.clone(), settings, Offset(0), token, now).await?;
            let listing = table.list().map_err(|source| PartitionError::Files {
                key: Box::new(key.clone()),
                doing: "list",
                path: PathBuf::from(TABLE),
                source,
            })?;
            partition.compare(&listing).await?;
            while let Some(first) = log.iter().position(|record| record.offset >= partition.read()) {
                let records = &log[first..log.len().min(first + 2)];
                let (position, next) = (partition.read(), records.last().unwrap().offset.plus(1));
                partition.take(Chunk { position, next, leader_epoch: LeaderEpoch(0), records }, now).await?;
            }
            partition.finish(now).await
        };
        let outcome = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
        process.steps.over();
        outcome
    }

    fn compact(&self, at: Option<(u64, Fate)>) -> Result<Merges, RunError> {
        self.compact_as(&self.process(at))
    }

    fn compact_as(&self, process: &Process) -> Result<Merges, RunError> {
        let compaction =
            Compaction { target_bytes: 1 << 20, older_than_ms: HOUR_MS, execution: Execution::Apply };
        let settings = settings();
        let work = sink::compact(&settings, &TokioEnvironment, Arc::new(process.clone()), compaction);
        let outcome = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
        process.steps.over();
        outcome
    }

    fn expire(&self, at: Option<(u64, Fate)>) -> Result<Expiries, RunError> {
        self.expire_as(&self.process(at))
    }

    /// Of the two hours, the first is old enough.
    fn expire_as(&self, process: &Process) -> Result<Expiries, RunError> {
        self.expire_all_before(process, Millis(1_700_002_800_000))
    }

    fn expire_all_before(&self, process: &Process, end: Millis) -> Result<Expiries, RunError> {
        let age = TokioEnvironment.now().0 - end.0;
        let expiry = Expiry { older_than_ms: age - 60_000, execution: Execution::Apply };
        let settings = settings();
        let work = sink::expire(&settings, &TokioEnvironment, Arc::new(process.clone()), expiry);
        let outcome = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
        process.steps.over();
        outcome
    }

    /// The files that `*/*/*.parquet` finds, of all there is.
    fn files(&self) -> Vec<(PathBuf, Bytes)> {
        let disk = self.disk.lock().unwrap();
        let mut level = vec![PathBuf::from(TABLE)];
        for _ in 0..2 {
            let below = level.iter().flat_map(|dir| {
                let entries = disk.list(dir).unwrap().into_iter().filter(|entry| entry.is_dir);
                entries.map(|entry| dir.join(entry.name))
            });
            level = below.collect();
        }
        let mut files = Vec::new();
        for dir in level {
            for entry in disk.list(&dir).unwrap() {
                let path = dir.join(&entry.name);
                if !entry.is_dir && entry.name.ends_with(".parquet") {
                    files.push((path.clone(), disk.read(&path).unwrap().into()));
                }
            }
        }
        files
    }

    /// The records in the table.
    fn rows(&self) -> Vec<(i64, String)> {
        let mut rows = Vec::new();
        for (path, bytes) in self.files() {
            rows.extend_from_slice(&ParquetFile::read(&path, &bytes).rows);
        }
        rows.sort();
        rows
    }

    /// Of what is committed each record once, and of what is not, none twice.
    fn assert_exactly_once(&self, committed: usize, what: &str) {
        let rows = self.rows();
        let expected: Vec<_> = (0..rows.len().max(committed))
            .map(|number| (i64::try_from(number).unwrap(), format!("v{number}")))
            .collect();
        assert!(rows.starts_with(&expected[..committed]), "{what}: not exactly once: {rows:?}");
        assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "{what}: something is there twice: {rows:?}");
    }

    fn assert_whole(&self, what: &str) {
        self.assert_exactly_once(ALL, what);
        assert_eq!(self.rows().len(), ALL, "{what}");
    }

    /// Of the hour that is old, of the records up to `before`, all or none; all others, once. Tells how many rows are gone.
    fn assert_expired(&self, before: usize, committed: usize, what: &str) -> usize {
        let rows = self.rows();
        assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "{what}: something is there twice: {rows:?}");
        let is_there = |number: usize| rows.contains(&(i64::try_from(number).unwrap(), format!("v{number}")));
        let (old, others): (Vec<_>, Vec<_>) =
            (0..committed).partition(|&number| is_old(number) && number < before);
        assert!(others.into_iter().all(is_there), "{what}: something is lost: {rows:?}");
        let gone = old.iter().filter(|&&number| !is_there(number)).count();
        assert!(gone == 0 || gone == old.len(), "{what}: an hour is there in part: {rows:?}");
        gone
    }

    /// By footers, rows and the broker's log.
    fn assert_verified(&self, what: &str) {
        self.assert_verified_without(0, what);
    }

    /// The same, with so many rows removed for their age.
    fn assert_verified_without(&self, expired: usize, what: &str) {
        let Origin { runtime, broker, .. } = self.origin;
        let settings = settings();
        let verified = runtime.block_on(async {
            let cluster = Cluster::new(options(broker), Arc::new(TokioEnvironment)).unwrap();
            let verify = sink::verify(&settings, &cluster, Arc::new(self.process(None)));
            tokio::time::timeout(PATIENCE, verify).await.expect("it ends").unwrap()
        });
        assert!(verified.iter().all(Verified::is_clean), "{what}: {verified:?}");
        assert_eq!(verified.iter().map(|one| one.expired).sum::<u64>(), expired as u64, "{what}");
        assert_eq!(verified.iter().map(|one| one.rows).sum::<u64>(), (ALL - expired) as u64, "{what}");
    }

    /// Nothing is left of what was begun.
    fn assert_tidy(&self, what: &str) {
        let left = self.disk.lock().unwrap().list(&Path::new(TABLE).join("_staging/.exchange")).unwrap();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// Whether a record is of the hour that is old enough.
fn is_old(number: usize) -> bool {
    number % 3 < 2
}

fn compaction_steps(origin: &Origin) -> u64 {
    let world = origin.world();
    let process = world.process(None);
    let merges = world.compact_as(&process).unwrap().merges;
    assert!(
        merges.len() == 2 && merges.iter().all(|merge| merge.outcome == UpkeepOutcome::Done),
        "{merges:?}"
    );
    assert_eq!(world.files().len(), 2, "one for each hour");
    world.assert_exactly_once(BEFORE, "undisturbed");
    process.steps.count()
}

fn late_steps(origin: &Origin) -> u64 {
    let world = origin.world();
    let process = world.process(None);
    world.run_as(&process, SECOND, ALL).unwrap();
    world.assert_whole("undisturbed");
    process.steps.count()
}

fn report(what: &str, points: u64) {
    println!("{what}: {points} crash points");
}

#[test]
fn a_compaction_that_ends_at_any_step_leaves_each_row_once_and_the_next_one_finishes() {
    let origin = Origin::new();
    let steps = compaction_steps(&origin);
    let mut points = 0;
    for (fate, is_power_cut) in [(Fate::Dies, false), (Fate::Dies, true), (Fate::Fails, false)] {
        for at in 1..=steps {
            let what = format!("{fate:?} at {at}, power cut: {is_power_cut}");
            let world = origin.world();
            let _ = world.compact(Some((at, fate)));
            if is_power_cut {
                world.cut_power();
            }
            world.assert_exactly_once(BEFORE, &what);
            // Late records, of a line that knows nothing of it.
            world.run(SECOND, ALL, None).unwrap();
            world.assert_whole(&what);
            if at % 4 == 0 {
                world.assert_verified(&what);
            }
            world.compact(None).unwrap();
            world.assert_whole(&what);
            world.assert_verified(&what);
            world.assert_tidy(&what);
            assert_eq!(world.files().len(), 2, "{what}: one for each hour");
            points += 1;
        }
    }
    report("compactions", points);
}

/// Two processes: the one pauses at a step, the other runs up to one of its own, then the first goes on, then the second. Tells
/// whether the second was over by then.
fn interleaved<A: Send, B: Send>(
    world: &World<'_>,
    (first_at, first): (u64, impl FnOnce(&Process) -> A + Send),
    (second_at, second): (u64, impl FnOnce(&Process) -> B + Send),
) -> (A, B, bool) {
    let one = world.process(Some((first_at, Fate::Pauses)));
    let other = world.process(Some((second_at, Fate::Pauses)));
    thread::scope(|scope| {
        let first = scope.spawn(|| first(&one));
        one.steps.until_paused();
        let second = scope.spawn(|| second(&other));
        other.steps.until_paused();
        one.steps.resume();
        let first = first.join().unwrap();
        other.steps.resume();
        let second = second.join().unwrap();
        (first, second, other.steps.count() < second_at)
    })
}

#[test]
fn a_line_that_places_late_records_at_any_moment_of_a_compaction_loses_and_doubles_none() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=compaction_steps(&origin) {
        for second in 1.. {
            let what = format!("the compaction woke before step {first}, with the line behind {second}");
            let world = origin.world();
            let compact = |process: &Process| world.compact_as(process);
            let run = |process: &Process| world.run_as(process, SECOND, ALL);
            let (compacted, ran, is_whole) = interleaved(&world, (first, compact), (second, run));
            ran.unwrap_or_else(|error| panic!("{what}: {error}"));
            compacted.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_whole(&what);
            points += 1;
            if is_whole {
                world.assert_verified(&what);
                break;
            }
        }
    }
    report("lines within compactions", points);
}

#[test]
fn a_compaction_at_any_moment_of_a_line_loses_and_doubles_nothing() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=late_steps(&origin) {
        for second in 1.. {
            let what = format!("the line woke before step {first}, with the compaction behind {second}");
            let world = origin.world();
            let compact = |process: &Process| world.compact_as(process);
            let run = |process: &Process| world.run_as(process, SECOND, ALL);
            let (ran, compacted, is_whole) = interleaved(&world, (first, run), (second, compact));
            ran.unwrap_or_else(|error| panic!("{what}: {error}"));
            compacted.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_whole(&what);
            points += 1;
            if is_whole {
                world.assert_verified(&what);
                break;
            }
        }
    }
    report("compactions within lines", points);
}

#[test]
fn a_power_cut_within_a_compaction_takes_nothing_that_a_line_has_committed() {
    let origin = Origin::new();
    let (steps, late) = (compaction_steps(&origin), late_steps(&origin));
    let mut points = 0;
    for first in 1..=steps {
        for second in 1..=late + 1 {
            let what = format!("power cut before step {first} of a compaction and {second} of a line");
            let world = origin.world();
            let compaction = world.process(Some((first, Fate::Pauses)));
            thread::scope(|scope| {
                let compacted = scope.spawn(|| world.compact_as(&compaction));
                compaction.steps.until_paused();
                let ran = world.run(SECOND, ALL, Some((second, Fate::Dies)));
                let committed = if ran.is_ok() { ALL } else { BEFORE };
                world.cut_power();
                world.assert_exactly_once(committed, &what);
                compaction.steps.kill();
                let _ = compacted.join().unwrap();
            });
            world.run(THIRD, ALL, None).unwrap();
            world.assert_whole(&what);
            world.compact(None).unwrap();
            world.assert_whole(&what);
            if second > late {
                world.assert_verified(&what);
            }
            points += 1;
        }
    }
    report("power cuts within compactions and lines", points);
}

#[test]
fn of_two_compactions_at_once_each_row_is_there_once() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=compaction_steps(&origin) {
        for second in 1.. {
            let what = format!("the first woke before step {first}, with the second behind {second}");
            let world = origin.world();
            let compact = |process: &Process| world.compact_as(process);
            let (one, other, is_whole) = interleaved(&world, (first, compact), (second, compact));
            one.unwrap_or_else(|error| panic!("{what}: {error}"));
            other.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_exactly_once(BEFORE, &what);
            world.run(THIRD, ALL, None).unwrap();
            world.compact(None).unwrap();
            world.assert_whole(&what);
            points += 1;
            if is_whole {
                world.assert_verified(&what);
                break;
            }
        }
    }
    report("two compactions", points);
}

#[test]
fn a_zombie_of_a_line_that_wakes_after_a_compaction_brings_nothing_back() {
    let origin = Origin::new();
    let late = late_steps(&origin);
    for at in 1..=late {
        let what = format!("woke before step {at}");
        let world = origin.world();
        let zombie = world.process(Some((at, Fate::Pauses)));
        thread::scope(|scope| {
            let old = scope.spawn(|| world.run_as(&zombie, SECOND, ALL));
            zombie.steps.until_paused();
            world.run(THIRD, ALL, None).unwrap();
            world.compact(None).unwrap();
            zombie.steps.resume();
            let _ = old.join().unwrap();
        });
        world.assert_whole(&what);
        world.assert_verified(&what);
    }
    report("zombies after a compaction", late);
}

/// How many of so many records are old.
fn old(records: usize) -> usize {
    (0..records).filter(|&number| is_old(number)).count()
}

fn expiry_steps(origin: &Origin) -> u64 {
    let world = origin.world();
    let process = world.process(None);
    let expired = world.expire_as(&process).unwrap();
    assert!(expired.findings.is_empty(), "{expired:?}");
    let told: Vec<_> = expired.directories.iter().map(|one| (one.rows, one.outcome)).collect();
    assert_eq!(told, [(old(BEFORE) as u64, UpkeepOutcome::Done)]);
    assert_eq!(world.assert_expired(BEFORE, BEFORE, "undisturbed"), old(BEFORE));
    process.steps.count()
}

#[test]
fn an_expiry_that_ends_at_any_step_leaves_an_hour_or_nothing_of_it_and_the_next_one_finishes() {
    let origin = Origin::new();
    let steps = expiry_steps(&origin);
    let mut points = 0;
    for (fate, is_power_cut) in [(Fate::Dies, false), (Fate::Dies, true), (Fate::Fails, false)] {
        for at in 1..=steps {
            let what = format!("{fate:?} at {at}, power cut: {is_power_cut}");
            let world = origin.world();
            let _ = world.expire(Some((at, fate)));
            if is_power_cut {
                world.cut_power();
            }
            world.assert_expired(BEFORE, BEFORE, &what);
            // Late records, also of the hour that is gone.
            world.run(SECOND, ALL, None).unwrap();
            let gone = world.assert_expired(BEFORE, ALL, &what);
            world.assert_verified_without(gone, &what);
            world.compact(None).unwrap();
            assert_eq!(world.assert_expired(BEFORE, ALL, &what), gone, "{what}");
            world.assert_verified_without(gone, &what);
            // What came late goes with the next one.
            world.expire(None).unwrap();
            assert_eq!(world.assert_expired(ALL, ALL, &what), old(ALL), "{what}");
            world.assert_verified_without(old(ALL), &what);
            world.assert_tidy(&what);
            points += 1;
        }
    }
    report("expiries", points);
}

#[test]
fn a_line_that_places_late_records_at_any_moment_of_an_expiry_keeps_them() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=expiry_steps(&origin) {
        for second in 1.. {
            let what = format!("the expiry woke before step {first}, with the line behind {second}");
            let world = origin.world();
            let expire = |process: &Process| world.expire_as(process);
            let run = |process: &Process| world.run_as(process, SECOND, ALL);
            let (expired, ran, is_whole) = interleaved(&world, (first, expire), (second, run));
            ran.unwrap_or_else(|error| panic!("{what}: {error}"));
            expired.unwrap_or_else(|error| panic!("{what}: {error}"));
            // Of what was there when the directory was listed, which late records may have been as well.
            let gone = ALL - world.rows().len();
            world.assert_expired(if gone > old(BEFORE) { ALL } else { BEFORE }, ALL, &what);
            points += 1;
            if is_whole || points % 16 == 0 {
                world.assert_verified_without(gone, &what);
            }
            if is_whole {
                break;
            }
        }
    }
    report("lines within expiries", points);
}

#[test]
fn an_expiry_at_any_moment_of_a_line_takes_no_late_record_that_it_has_not_written_down() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=late_steps(&origin) {
        for second in 1.. {
            let what = format!("the line woke before step {first}, with the expiry behind {second}");
            let world = origin.world();
            let expire = |process: &Process| world.expire_as(process);
            let run = |process: &Process| world.run_as(process, SECOND, ALL);
            let (ran, expired, is_whole) = interleaved(&world, (first, run), (second, expire));
            ran.unwrap_or_else(|error| panic!("{what}: {error}"));
            expired.unwrap_or_else(|error| panic!("{what}: {error}"));
            points += 1;
            if is_whole || points % 16 == 0 {
                world.assert_verified_without(ALL - world.rows().len(), &what);
            }
            if is_whole {
                break;
            }
        }
    }
    report("expiries within lines", points);
}

#[test]
fn a_power_cut_within_an_expiry_takes_nothing_that_a_line_has_committed() {
    let origin = Origin::new();
    let (steps, late) = (expiry_steps(&origin), late_steps(&origin));
    let mut points = 0;
    for first in 1..=steps {
        for second in 1..=late + 1 {
            let what = format!("power cut before step {first} of an expiry and {second} of a line");
            let world = origin.world();
            let expiry = world.process(Some((first, Fate::Pauses)));
            thread::scope(|scope| {
                let expired = scope.spawn(|| world.expire_as(&expiry));
                expiry.steps.until_paused();
                let ran = world.run(SECOND, ALL, Some((second, Fate::Dies)));
                let committed = if ran.is_ok() { ALL } else { BEFORE };
                world.cut_power();
                world.assert_expired(BEFORE, committed, &what);
                expiry.steps.kill();
                let _ = expired.join().unwrap();
            });
            world.run(THIRD, ALL, None).unwrap();
            let gone = world.assert_expired(BEFORE, ALL, &what);
            if second % 8 == 0 || second > late {
                world.assert_verified_without(gone, &what);
            }
            points += 1;
        }
    }
    report("power cuts within expiries and lines", points);
}

#[test]
fn an_expiry_beside_a_compaction_leaves_each_row_once_or_written_down() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=expiry_steps(&origin) {
        for second in 1.. {
            let what = format!("the expiry woke before step {first}, with the compaction behind {second}");
            let world = origin.world();
            let expire = |process: &Process| world.expire_as(process);
            let compact = |process: &Process| world.compact_as(process);
            let (expired, compacted, is_whole) = interleaved(&world, (first, expire), (second, compact));
            expired.unwrap_or_else(|error| panic!("{what}: {error}"));
            compacted.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_expired(BEFORE, BEFORE, &what);
            world.run(THIRD, ALL, None).unwrap();
            let gone = world.assert_expired(BEFORE, ALL, &what);
            points += 1;
            if is_whole || points % 16 == 0 {
                world.assert_verified_without(gone, &what);
                world.expire(None).unwrap();
                assert_eq!(world.assert_expired(ALL, ALL, &what), old(ALL), "{what}");
                world.assert_verified_without(old(ALL), &what);
            }
            if is_whole {
                break;
            }
        }
    }
    report("expiries and compactions", points);
}

/// The line pauses at a step, an upkeep at one of its own, the line goes on to its end, and then there is no power. Tells what was
/// committed by then.
fn cut_behind_a_line(
    world: &World<'_>,
    first: u64,
    second: u64,
    upkeep: impl FnOnce(&Process) + Send,
) -> (usize, bool) {
    let line = world.process(Some((first, Fate::Pauses)));
    let other = world.process(Some((second, Fate::Pauses)));
    thread::scope(|scope| {
        let ran = scope.spawn(|| world.run_as(&line, SECOND, ALL));
        line.steps.until_paused();
        let done = scope.spawn(|| upkeep(&other));
        other.steps.until_paused();
        line.steps.resume();
        let committed = if ran.join().unwrap().is_ok() { ALL } else { BEFORE };
        world.cut_power();
        let is_whole = other.steps.count() < second;
        other.steps.kill();
        done.join().unwrap();
        (committed, is_whole)
    })
}

#[test]
fn a_power_cut_behind_a_line_that_a_compaction_came_between_takes_nothing_committed() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=late_steps(&origin) {
        for second in 1.. {
            let what = format!("power cut: the line paused before {first}, the compaction before {second}");
            let world = origin.world();
            let compact = |process: &Process| drop(world.compact_as(process));
            let (committed, is_whole) = cut_behind_a_line(&world, first, second, compact);
            world.assert_exactly_once(committed, &what);
            world.run(THIRD, ALL, None).unwrap();
            world.assert_whole(&what);
            points += 1;
            if is_whole {
                world.assert_verified(&what);
                break;
            }
        }
    }
    report("power cuts behind lines with compactions between", points);
}

#[test]
fn a_power_cut_behind_a_line_that_an_expiry_came_between_takes_nothing_that_is_not_written_down() {
    let origin = Origin::new();
    let mut points = 0;
    for first in 1..=late_steps(&origin) {
        for second in 1.. {
            let what = format!("power cut: the line paused before {first}, the expiry before {second}");
            let world = origin.world();
            let expire = |process: &Process| drop(world.expire_as(process));
            let (_, is_whole) = cut_behind_a_line(&world, first, second, expire);
            world.run(THIRD, ALL, None).unwrap();
            // A late record is gone only with what was there before it.
            let gone = ALL - world.rows().len();
            world.assert_expired(if gone > old(BEFORE) { ALL } else { BEFORE }, ALL, &what);
            points += 1;
            if is_whole || points % 8 == 0 {
                world.assert_verified_without(gone, &what);
            }
            if is_whole {
                break;
            }
        }
    }
    report("power cuts behind lines with expiries between", points);
}
