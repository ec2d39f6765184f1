//! Each request to an object store as a place to die at: at the end each record is in the table or among the dead letters, exactly once.
//!
//! Instances run over objects in memory. One of them dies, fails or pauses at its n-th request, before it is carried out or before
//! its answer comes, for every n there is; another takes over. Its limits differ, so that nothing but what is frozen and claimed can make the two
//! agree. Positions are objects too, or in a store that forgets what it said.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use crate::support::letters::DeadTopic;
use crate::support::line::{self, FIRST, Habits, Place, SECOND, THIRD, key, log};
use crate::support::{Disk, Fate, Process, Steps};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use broker::embedded::EmbeddedBroker;
use bytes::Bytes;
use client::{Admin, BoxFuture, Cluster, ConsumedRecord, Execution, NewTopic, Options, TokioEnvironment};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sink::{
    Acquire, Bucket, Change, Depth, Extra, FileName, FileStore, Files, Held, Key, LineName, Objects,
    PartitionError, PositionStore, Put, Rebuild, Repair, RepairAction, Settings, StoreEntry, StoreError,
    Stored, acquired, committed, frozen, rebuilt,
};
use tokio::runtime::{Builder, Runtime};
use wire::{LeaderEpoch, Str};

const TABLE: &str = "s3://shop/tables/orders";
const PREFIX: &str = "tables/orders/";
/// Where positions beside the table are.
const POSITIONS: &str = "tables/orders/_sink/";

type Cloud = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// What positions beside the table were before each of their changes.
type History = Arc<Mutex<Vec<BTreeMap<String, Vec<u8>>>>>;

/// When a request meets its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Before it is carried out.
    Asked,
    /// After it, and before its answer comes.
    Done,
}

/// The objects as one process sees them.
struct Asking {
    cloud: Cloud,
    history: History,
    /// The keys of all that was ever put, or was to be.
    put: Arc<Mutex<Vec<String>>>,
    steps: Arc<Steps>,
    when: When,
    /// How many puts it is until one is asked again whose answer was lost.
    again: Option<Arc<AtomicI64>>,
}

impl Asking {
    fn request<T>(
        &self,
        carry_out: impl Fn(&mut BTreeMap<String, Vec<u8>>) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.when == When::Asked {
            self.steps.step()?;
        } else if self.steps.is_dead() {
            return Err(io::Error::other("killed"));
        }
        let answer = carry_out(&mut self.cloud.lock().unwrap());
        if self.when == When::Done {
            self.steps.step()?;
        }
        answer
    }
}

/// Those of the objects that are positions.
fn positions(objects: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let is_position = |(key, _): &(&String, &Vec<u8>)| key.starts_with(POSITIONS);
    objects.iter().filter(is_position).map(|(key, content)| (key.clone(), content.clone())).collect()
}

impl Objects for Asking {
    fn put(&self, key: &str, content: Bytes, put: Put) -> io::Result<()> {
        self.put.lock().unwrap().push(key.to_owned());
        let is_again = self.again.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) == 1);
        self.request(|objects| {
            let mut carry_out = || match put {
                Put::New if objects.contains_key(key) => Err(ErrorKind::AlreadyExists.into()),
                _ => {
                    if key.starts_with(POSITIONS) {
                        self.history.lock().unwrap().push(positions(objects));
                    }
                    objects.insert(key.to_owned(), content.to_vec());
                    Ok(())
                }
            };
            match is_again {
                true => carry_out().and_then(|()| carry_out()),
                false => carry_out(),
            }
        })
    }

    fn get(&self, key: &str) -> io::Result<Vec<u8>> {
        self.request(|objects| objects.get(key).cloned().ok_or_else(|| ErrorKind::NotFound.into()))
    }

    fn get_end(&self, key: &str, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let mut all = self.get(key)?;
        let len = all.len();
        Ok((len as u64, all.split_off(len - len.min(bytes_max))))
    }

    fn list(&self, prefix: &str, depth: Depth) -> io::Result<Vec<String>> {
        self.request(|objects| {
            let below = objects.keys().filter_map(|key| Some((key, key.strip_prefix(prefix)?)));
            let mut keys: Vec<_> = below
                .map(|(key, name)| match (depth, name.split_once('/')) {
                    (Depth::One, Some((above, _))) => format!("{prefix}{above}/"),
                    _ => key.clone(),
                })
                .collect();
            keys.dedup();
            Ok(keys)
        })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.request(|objects| {
            objects.remove(key);
            Ok(())
        })
    }
}

/// A store that is no part of the table, and can be set back; each change is a request.
struct Ledger {
    /// All that it ever held, one version after the other.
    versions: Arc<Mutex<Vec<Option<StoreEntry>>>>,
    steps: Arc<Steps>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<StoreEntry>>> {
        self.versions.lock().unwrap()
    }

    fn change(
        &self,
        decide: impl Fn(Option<&StoreEntry>) -> Result<Option<StoreEntry>, StoreError>,
    ) -> Result<(), StoreError> {
        let lost = |source| StoreError::Files { doing: "ask", path: "the ledger".into(), source };
        self.steps.step().map_err(lost)?;
        let mut versions = self.lock();
        let newest = versions.last().cloned().flatten();
        if let Some(entry) = decide(newest.as_ref())? {
            versions.push(Some(entry));
        }
        drop(versions);
        self.steps.step().map_err(lost)
    }
}

impl PositionStore for Ledger {
    fn acquire<'a>(&'a self, acquire: &'a Acquire) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            self.change(|found| acquired(found, acquire).map(Some))?;
            let held = self.lock().last().cloned().flatten().unwrap();
            Ok(Held { fence: held.fence, stored: held.stored })
        })
    }

    fn freeze<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.change(|found| frozen(found, change)) })
    }

    fn commit<'a>(
        &'a self,
        change: &'a Change,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.change(|found| committed(found, change, leader_epoch)) })
    }

    fn rebuild<'a>(&'a self, rebuild: &'a Rebuild) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.change(|found| rebuilt(found, rebuild)) })
    }

    fn list<'a>(&'a self, _line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move {
            let newest = self.lock().last().cloned().flatten();
            Ok(newest.map(|entry| (key(), entry.stored)).into_iter().collect())
        })
    }
}

/// Where positions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Positions {
    Beside,
    Elsewhere,
}

const BOTH: [Positions; 2] = [Positions::Beside, Positions::Elsewhere];

struct World {
    key: Key,
    cloud: Cloud,
    history: History,
    put: Arc<Mutex<Vec<String>>>,
    positions: Positions,
    ledger: Arc<Mutex<Vec<Option<StoreEntry>>>>,
    topic: Arc<Mutex<DeadTopic>>,
    log: Vec<ConsumedRecord>,
}

impl World {
    fn new(records: i64, positions: Positions) -> Self {
        let (cloud, history) = (Cloud::default(), History::default());
        let (put, ledger, topic) = (Arc::default(), Arc::default(), Arc::default());
        Self { key: key(), cloud, history, put, positions, ledger, topic, log: log(records) }
    }

    fn bucket(&self, steps: &Arc<Steps>, when: When, again: Option<Arc<AtomicI64>>) -> Arc<Bucket> {
        let (cloud, history, put) =
            (Arc::clone(&self.cloud), Arc::clone(&self.history), Arc::clone(&self.put));
        let asking = Asking { cloud, history, put, steps: Arc::clone(steps), when, again };
        Arc::new(Bucket::new(Arc::new(asking), "shop", std::env::temp_dir()))
    }

    fn place(&self, steps: &Arc<Steps>, when: When, again: Option<Arc<AtomicI64>>) -> Place {
        let files: Arc<dyn Files> = self.bucket(steps, when, again);
        let store: Arc<dyn PositionStore> = match self.positions {
            Positions::Beside => Arc::new(FileStore::new(Arc::clone(&files), TABLE)),
            Positions::Elsewhere => {
                Arc::new(Ledger { versions: Arc::clone(&self.ledger), steps: Arc::clone(steps) })
            }
        };
        let process = Process { disk: Arc::new(Mutex::new(Disk::new())), steps: Arc::clone(steps) };
        Place { key: self.key.clone(), process, files, table: TABLE.into(), store }
    }

    fn run_at(&self, steps: &Arc<Steps>, when: When, habits: Habits) -> Result<(), PartitionError> {
        self.run_in(self.place(steps, when, None), habits)
    }

    fn run_in(&self, place: Place, habits: Habits) -> Result<(), PartitionError> {
        let steps = Arc::clone(&place.process.steps);
        let work = line::work(place, &self.topic, habits, &self.log);
        let outcome = Builder::new_current_thread().build().unwrap().block_on(work);
        steps.over();
        outcome
    }

    fn run(&self, habits: Habits, at: Option<(u64, Fate)>, when: When) -> Result<(), PartitionError> {
        self.run_at(&Steps::new(at), when, habits)
    }

    fn run_alone(&self, habits: Habits) -> Result<(), PartitionError> {
        self.run(habits, None, When::Asked)
    }

    /// The offsets in the table, and whether each is in the file that it belongs to.
    fn offsets(&self) -> Vec<i64> {
        let mut found = Vec::new();
        for (key, content) in &*self.cloud.lock().unwrap() {
            let path = key.strip_prefix(PREFIX).unwrap();
            if path.starts_with('_') {
                continue;
            }
            let name = FileName::parse(path.rsplit('/').next().unwrap()).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(content.clone())).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
                for offset in offsets.values() {
                    assert!((name.range.start.0..name.range.end.0).contains(offset), "{name} holds {offset}");
                    found.push(*offset);
                }
            }
        }
        found.sort_unstable();
        found
    }

    fn letters(&self) -> Vec<i64> {
        let mut offsets: Vec<_> =
            self.topic.lock().unwrap().committed.iter().map(|letter| letter.offset.0).collect();
        offsets.sort_unstable();
        offsets
    }

    fn assert_exactly_once(&self, what: &str) {
        let (letters, rows): (Vec<_>, Vec<_>) =
            self.log.iter().partition(|record| record.value.as_deref().unwrap()[0] == 0xff);
        let offsets = |records: Vec<&ConsumedRecord>| -> Vec<_> {
            records.into_iter().map(|record| record.offset.0).collect()
        };
        assert_eq!(self.offsets(), offsets(rows), "{what}: rows, {:?}", self.positions);
        assert_eq!(self.letters(), offsets(letters), "{what}: letters, {:?}", self.positions);
    }

    fn assert_nothing_twice(&self, what: &str) {
        for mut found in [self.offsets(), self.letters()] {
            let before = found.clone();
            found.dedup();
            assert_eq!(found, before, "{what}, {:?}", self.positions);
        }
    }
}

fn is_file(key: &str) -> bool {
    key.ends_with(".parquet")
}

/// How many requests an instance makes alone.
fn steps(records: i64, positions: Positions) -> u64 {
    let world = World::new(records, positions);
    let steps = Steps::new(None);
    world.run_at(&steps, When::Asked, FIRST).unwrap();
    world.assert_exactly_once("undisturbed");
    steps.count()
}

fn report(what: &str, points: u64) {
    println!("{what}: {points} crash points");
}

#[test]
fn whoever_is_killed_at_any_request_is_taken_over_from_exactly() {
    let mut points = 0;
    for positions in BOTH {
        for (at, when) in (1..=steps(30, positions)).flat_map(|at| [(at, When::Asked), (at, When::Done)]) {
            let world = World::new(30, positions);
            let _ = world.run(FIRST, Some((at, Fate::Dies)), when);
            world.run_alone(SECOND).unwrap();
            world.assert_exactly_once(&format!("killed at {at}, {when:?}"));
            points += 1;
        }
    }
    report("killed", points);
}

#[test]
fn a_request_that_fails_or_whose_answer_is_lost_loses_and_doubles_nothing() {
    let mut points = 0;
    for positions in BOTH {
        for (at, when) in (1..=steps(30, positions)).flat_map(|at| [(at, When::Asked), (at, When::Done)]) {
            let world = World::new(30, positions);
            let _ = world.run(FIRST, Some((at, Fate::Fails)), when);
            world.run_alone(SECOND).unwrap();
            world.assert_exactly_once(&format!("failed at {at}, {when:?}"));
            points += 1;
        }
    }
    report("failed", points);
}

#[test]
fn who_asks_again_for_a_put_that_was_done_takes_it_for_its_own() {
    let mut points = 0;
    for positions in BOTH {
        for put in 1.. {
            let world = World::new(30, positions);
            let steps = Steps::new(None);
            let left = Arc::new(AtomicI64::new(put));
            let place = world.place(&steps, When::Asked, Some(Arc::clone(&left)));
            world.run_in(place, FIRST).unwrap_or_else(|error| panic!("{put}: {error}"));
            world.assert_exactly_once(&format!("put {put} was asked twice"));
            points += 1;
            // It has put less than that.
            if left.load(Ordering::Relaxed) > 0 {
                break;
            }
        }
    }
    report("asked again", points);
}

#[test]
fn who_repeats_a_range_does_not_send_again_what_is_there() {
    let mut found = 0;
    for at in 1..=steps(30, Positions::Beside) {
        let world = World::new(30, Positions::Beside);
        let _ = world.run(FIRST, Some((at, Fate::Dies)), When::Done);
        let there: Vec<_> = world.cloud.lock().unwrap().keys().filter(|key| is_file(key)).cloned().collect();
        world.put.lock().unwrap().clear();
        world.run_alone(SECOND).unwrap();
        let put = world.put.lock().unwrap();
        assert!(!there.iter().any(|file| put.contains(file)), "killed at {at}: {put:?}");
        found += there.len();
    }
    assert!(found > 0);
}

#[test]
fn a_successor_that_dies_as_well_is_taken_over_from_too() {
    let mut points = 0;
    for positions in BOTH {
        for first in 1..=steps(12, positions) {
            for second in 1.. {
                let world = World::new(12, positions);
                let _ = world.run(FIRST, Some((first, Fate::Dies)), When::Done);
                let ended = world.run(SECOND, Some((second, Fate::Dies)), When::Done);
                world.run_alone(THIRD).unwrap();
                world.assert_exactly_once(&format!("killed at {first}, then at {second}"));
                points += 1;
                if ended.is_ok() {
                    break;
                }
            }
        }
    }
    report("killed twice", points);
}

/// The first pauses at a request; the second runs up to one of its own, or to its end; the first wakes and does whatever it still
/// can; the second goes on.
fn wake_as_zombie(world: &World, first: u64, second: u64) -> bool {
    let zombie = Steps::new(Some((first, Fate::Pauses)));
    let successor = Steps::new(Some((second, Fate::Pauses)));
    thread::scope(|scope| {
        let old = scope.spawn(|| world.run_at(&zombie, When::Asked, FIRST));
        zombie.until_paused();
        let new = scope.spawn(|| world.run_at(&successor, When::Asked, SECOND));
        successor.until_paused();
        zombie.resume();
        // It may have been done before anybody took over, or be told that it is not the holder any more.
        let _ = old.join().unwrap();
        successor.resume();
        let ended = new.join().unwrap();
        let is_whole = successor.count() < second;
        if let Err(error) = ended {
            // The zombie had not begun to take hold of the partition, so that it is the successor's successor.
            let is_told = matches!(
                error,
                PartitionError::TakenOver { .. } | PartitionError::Store(_) | PartitionError::Files { .. }
            );
            assert!(is_told, "{first}, {second}: {error}");
            world.run_alone(THIRD).unwrap_or_else(|error| panic!("{first}, {second}: {error}"));
        }
        is_whole
    })
}

#[test]
fn a_zombie_that_wakes_at_any_moment_of_its_successor_adds_nothing() {
    let mut points = 0;
    for positions in BOTH {
        for first in 1..=steps(12, positions) {
            for second in 1.. {
                let world = World::new(12, positions);
                let is_whole = wake_as_zombie(&world, first, second);
                world.assert_exactly_once(&format!("woke before {first}, behind {second}"));
                points += 1;
                if is_whole {
                    break;
                }
            }
        }
    }
    report("zombies", points);
}

/// One dies or sleeps at a request, and the store forgets its last changes; another takes over, and then the first wakes.
fn forget(at: u64, fate: Fate, lost: usize) -> Option<Result<(), PartitionError>> {
    let world = World::new(12, Positions::Elsewhere);
    let what = format!("{lost} changes lost at {at}, {fate:?}");
    let first = Steps::new(Some((at, fate)));
    let outcome = thread::scope(|scope| {
        let old = scope.spawn(|| world.run_at(&first, When::Asked, FIRST));
        match fate {
            Fate::Pauses => {
                first.until_paused();
            }
            _ => drop(old.join().unwrap()),
        }
        let mut versions = world.ledger.lock().unwrap();
        let left = versions.len().checked_sub(lost);
        versions.truncate(left.unwrap_or(usize::MAX));
        drop(versions);
        let outcome = left.map(|_| world.run_alone(SECOND));
        first.resume();
        outcome
    });
    match &outcome {
        Some(Ok(())) => {
            world.assert_exactly_once(&what);
            world.run_alone(THIRD).unwrap();
            world.assert_exactly_once(&what);
        }
        _ => world.assert_nothing_twice(&what),
    }
    outcome
}

#[test]
fn a_store_that_forgets_while_somebody_sleeps_doubles_nothing() {
    let (mut refused, mut points) = (0, 0);
    for at in 1..=steps(12, Positions::Elsewhere) {
        for (fate, lost) in
            [Fate::Dies, Fate::Pauses].into_iter().flat_map(|fate| (1..=4).map(move |lost| (fate, lost)))
        {
            let Some(outcome) = forget(at, fate, lost) else { continue };
            points += 1;
            if let Err(error) = outcome {
                let is_told = matches!(error, PartitionError::Ahead(_) | PartitionError::LettersAhead { .. });
                assert!(is_told, "{lost} lost at {at}, {fate:?}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && refused < points, "both happen: {refused} of {points} were refused");
    report("store forgot", points);
}

/// A broker, for what asks one; and the topic's partition there.
struct Brokered {
    runtime: Runtime,
    broker: EmbeddedBroker,
    key: Key,
}

impl Brokered {
    fn new() -> Self {
        let (runtime, broker) = (Runtime::new().unwrap(), EmbeddedBroker::builder().start().unwrap());
        let topic = NewTopic {
            name: Str::copy_from("orders"),
            partitions: Some(1),
            replicas: Some(1),
            configs: Vec::new(),
        };
        let mut brokered = Self { runtime, broker, key: key() };
        let cluster = brokered.cluster();
        let (cluster_id, topic_id) = brokered.runtime.block_on(async {
            let created =
                Admin::new(cluster.clone()).create_topics(&[topic], Execution::Apply).await.unwrap();
            assert!(created.iter().all(|(_, created)| created.is_ok()));
            (cluster.id().await.unwrap(), cluster.topic_id(&Str::copy_from("orders")).await.unwrap())
        });
        brokered.key = Key { cluster_id: cluster_id.to_string(), topic_id, ..key() };
        brokered
    }

    fn cluster(&self) -> Cluster {
        let mut options = Options::default();
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()
    }

    /// A world with positions beside the table, in which one is killed at a request; then the store forgets its last changes, if it
    /// had so many.
    fn forgotten(&self, at: u64, when: When, lost: usize) -> Option<World> {
        let world = World { key: self.key.clone(), ..World::new(12, Positions::Beside) };
        let _ = world.run(FIRST, Some((at, Fate::Dies)), when);
        let history = world.history.lock().unwrap();
        let before = history.len().checked_sub(lost).map(|left| history[left].clone())?;
        drop(history);
        let mut cloud = world.cloud.lock().unwrap();
        cloud.retain(|key, _| !key.starts_with(POSITIONS));
        cloud.extend(before);
        drop(cloud);
        Some(world)
    }

    fn repair(&self, world: &World) -> Repair {
        let text = format!("name = \"orders\"\ntopics = [\"orders\"]\n[offline]\ntable = \"{TABLE}\"\n");
        let (settings, cluster) = (Settings::parse(&text).unwrap(), self.cluster());
        let bucket = world.bucket(&Steps::new(None), When::Asked, None);
        let repair = sink::repair(&settings, &cluster, &TokioEnvironment, bucket, Execution::Apply);
        self.runtime.block_on(repair).unwrap().remove(0)
    }
}

#[test]
fn what_a_store_has_forgotten_repair_gives_back_whatever_was_claimed_meanwhile() {
    let brokered = Brokered::new();
    let (mut repaired, mut points) = (0, 0);
    for (at, when) in (1..=steps(12, Positions::Beside)).flat_map(|at| [(at, When::Asked), (at, When::Done)])
    {
        for lost in 1..=4 {
            let Some(world) = brokered.forgotten(at, when, lost) else { continue };
            let what = format!("{lost} changes lost at {at}, {when:?}");
            points += 1;
            if let Err(error) = world.run_alone(SECOND) {
                assert!(matches!(error, PartitionError::Ahead(_)), "{what}: {error}");
                let repair = brokered.repair(&world);
                assert!(repair.is_done, "{what}: {repair:?}");
                repaired += 1;
            }
            world.run_alone(THIRD).unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_exactly_once(&what);
        }
    }
    assert!(repaired > 0 && repaired < points, "both happen: {repaired} of {points} were repaired");
    report("store forgot, and was repaired", points);
}

#[test]
fn a_claim_of_which_what_was_before_it_is_gone_is_named_with_what_to_do() {
    let brokered = Brokered::new();
    // Killed behind the second claim, before any file of it is put; what is committed before it is forgotten, and its files are gone.
    let (world, object) = (1..=steps(12, Positions::Beside))
        .find_map(|at| {
            let world = brokered.forgotten(at, When::Done, 2)?;
            let mut cloud = world.cloud.lock().unwrap();
            let claim = cloud.keys().rfind(|key| key.contains("/range-"))?.clone();
            let files: Vec<_> = cloud.keys().filter(|key| is_file(key)).cloned().collect();
            let is_first = claim.ends_with(&format!("range-{:020}.json", 0));
            let end = |file: &String| FileName::parse(file.rsplit('/').next().unwrap()).unwrap().range.end.0;
            let end = files.iter().map(end).max()?;
            if is_first || !claim.ends_with(&format!("range-{end:020}.json")) {
                return None;
            }
            cloud.retain(|key, _| !is_file(key));
            drop(cloud);
            Some((world, claim))
        })
        .unwrap();
    let refused = world.run_alone(SECOND).unwrap_err();
    assert!(matches!(refused, PartitionError::Ahead(_)), "{refused}");
    let repair = brokered.repair(&world);
    assert_eq!(repair.action, RepairAction::Refuse);
    assert_eq!(
        repair.findings[0].to_string(),
        format!(
            "s3://shop/{object}: it claims [13, 16), which is done once all before it is committed, and what is there ends at 0: put back \
             the files from 0 to 13; or, if they are gone for good, end the line, remove this object and repair, so that they are \
             read again"
        )
    );
    // As it says. That their letters were sent is known without them.
    world.cloud.lock().unwrap().remove(&object);
    world.run_alone(SECOND).unwrap();
    world.assert_exactly_once("read again");
}

#[test]
fn by_another_declaration_a_range_that_is_there_in_part_is_taken_as_it_is() {
    let wider = Habits { extras: &[Extra::Offset, Extra::Timestamp], ..SECOND };
    let mut points = 0;
    for positions in BOTH {
        for at in 1..=steps(30, positions) {
            let world = World::new(30, positions);
            let _ = world.run(FIRST, Some((at, Fate::Dies)), When::Done);
            world.run_alone(wider).unwrap();
            world.assert_exactly_once(&format!("killed at {at}, and declared otherwise"));
            points += 1;
        }
    }
    report("declared otherwise", points);
}

#[test]
fn a_file_of_another_epoch_or_of_nobody_is_not_taken_for_ones_own() {
    let foreign = |content: &dyn Fn(&[u8]) -> Vec<u8>| {
        // Killed behind the claim: what it was about to put is somebody else's by now.
        let total = steps(5, Positions::Beside);
        (1..=total).find_map(|at| {
            let world = World::new(5, Positions::Beside);
            let _ = world.run(FIRST, Some((at, Fate::Dies)), When::Done);
            let mut cloud = world.cloud.lock().unwrap();
            let mut names = cloud.keys().filter(|name| name.ends_with(".parquet")).cloned();
            let (name, None) = (names.next()?, names.next()) else { return None };
            let before = cloud[&name].clone();
            let other = content(&before);
            cloud.insert(name.clone(), other.clone());
            drop(cloud);
            let told = world.run_alone(SECOND).unwrap_err().to_string();
            assert_eq!(world.cloud.lock().unwrap()[&name], other, "it is left alone");
            Some(told.replace(&name, "FILE"))
        })
    };
    let told = foreign(&|_| b"no file at all, and of nobody's".to_vec()).unwrap();
    assert!(
        told.contains("is there already, and is not of the range that is on its way: it is no Parquet file"),
        "{told}"
    );
    let told = foreign(&|before| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(before.to_vec())).unwrap();
        let schema = reader.schema().clone();
        let mut content = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut content, schema, None).unwrap();
        reader.build().unwrap().for_each(|batch| writer.write(&batch.unwrap()).unwrap());
        writer.close().unwrap();
        content
    });
    let told = told.unwrap();
    assert!(told.contains("its footer says ottla."), "{told}");
}

#[test]
fn two_lines_do_not_write_into_one_table() {
    let world = World::new(5, Positions::Beside);
    world.run_alone(FIRST).unwrap();
    let staging: Vec<_> = world
        .cloud
        .lock()
        .unwrap()
        .keys()
        .filter(|key| key.starts_with("tables/orders/_staging/orders.offline/"))
        .cloned()
        .collect();
    assert_eq!(staging.len(), 2, "who is here, and what it has claimed: {staging:?}");
    let other = World::new(5, Positions::Beside);
    for key in staging {
        other.cloud.lock().unwrap().insert(key.replace("orders.offline", "other.offline"), b"1".to_vec());
    }
    let refused = other.run_alone(FIRST).unwrap_err();
    assert!(matches!(refused, PartitionError::Shared { .. }), "{refused}");
    assert!(
        refused.to_string().contains("s3://shop/tables/orders/_staging/other.offline/orders-0"),
        "{refused}"
    );
    // And it leaves nothing that would be in the other's way.
    let left = other.cloud.lock().unwrap();
    assert!(!left.keys().any(|key| key.contains("_staging/orders.offline")), "{:?}", left.keys());
}

#[test]
fn what_is_below_two_directories_or_hidden_is_no_file_of_the_table() {
    let world = World::new(5, Positions::Beside);
    world.run_alone(FIRST).unwrap();
    let put = |name: &str| world.cloud.lock().unwrap().insert(format!("{PREFIX}{name}"), b"1".to_vec());
    put("dt=2023-11-14/hour=22/_SUCCESS");
    put("dt=2023-11-14/hour=22/deeper/orders-0-0-9.parquet");
    put("_other/orders-0-0-9.parquet");
    put("notes.txt");
    put("/orders-0-0-9.parquet");
    put("dt=2023-11-14//orders-0-0-9.parquet");
    put("dt=2023-11-14/../orders-0-0-9.parquet");
    let steps = Steps::new(None);
    let listing = sink::Table::new(world.bucket(&steps, When::Asked, None), TABLE).list().unwrap();
    let mut foreign: Vec<_> = listing.foreign.iter().map(|path| path.display().to_string()).collect();
    foreign.sort();
    assert_eq!(
        foreign,
        [
            "/orders-0-0-9.parquet",
            "dt=2023-11-14/../orders-0-0-9.parquet",
            "dt=2023-11-14//orders-0-0-9.parquet",
            "dt=2023-11-14/hour=22/deeper/orders-0-0-9.parquet",
            "notes.txt"
        ]
    );
    assert_eq!(
        listing.marked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        ["dt=2023-11-14/hour=22"]
    );
    assert_eq!(listing.files.len(), 2, "one for each hour: {:?}", listing.files);
    assert_eq!(steps.count(), 1, "one request for all of it");
}
