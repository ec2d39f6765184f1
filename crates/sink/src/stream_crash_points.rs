//! Each command to Redis as a place to die at: at the end each record is in the stream, exactly once.
//!
//! Instances run over a real Redis, each world under a name of its own. One of them dies, fails or pauses at its n-th step, for every n
//! there is; another takes over. A command is two steps, one before it is sent and one before its answer comes. Redis is set back to
//! whatever stream and position were together. Each test prints how many points it came to.

#[path = "../../offsets/tests/support/mod.rs"]
mod servers;

use std::future::pending;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use client::ConsumedRecord;
use offsets::{Position, RedisConnection};
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};
use servers::Redis;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, TopicPartition, Uuid};

use crate::key::Key;
use crate::store::StoreError;
use crate::stream_entry::{self, Id};
use crate::stream_hold::StreamHold;
use crate::stream_settings::StreamSettings;
use crate::stream_store::{Appended, StreamError, StreamStore, position_of};
use crate::testing::record;

const NOW: Millis = Millis(0);
const RECORDS: i64 = 12;
const EPOCH: LeaderEpoch = LeaderEpoch(3);

/// What happens at the chosen step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing is done any more.
    Dies,
    /// It fails, and what comes after it does not.
    Fails,
    /// It is done after a while.
    Pauses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AtWork,
    Paused,
    Dead,
    Over,
}

/// Counts an instance's steps, and has one of them meet its fate.
struct Steps {
    at: Option<(u64, Fate)>,
    count: AtomicU64,
    state: watch::Sender<State>,
}

impl Steps {
    fn new(at: Option<(u64, Fate)>) -> Arc<Self> {
        Arc::new(Self { at, count: AtomicU64::new(0), state: watch::Sender::new(State::AtWork) })
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    async fn step(&self) -> Result<(), RedisError> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        match self.at.filter(|(at, _)| *at == number).map(|(_, fate)| fate) {
            None => Ok(()),
            Some(Fate::Fails) => Err(io::Error::from(ErrorKind::ConnectionReset).into()),
            Some(Fate::Dies) => {
                self.state.send_replace(State::Dead);
                pending().await
            }
            Some(Fate::Pauses) => {
                self.state.send_replace(State::Paused);
                self.until(|state| state != State::Paused).await;
                Ok(())
            }
        }
    }

    async fn until(&self, is_it: impl Fn(State) -> bool) {
        self.state.subscribe().wait_for(|state| is_it(*state)).await.map(drop).expect("it is there");
    }

    /// Until it has paused or died, or is over.
    async fn until_stopped(&self) {
        self.until(|state| state != State::AtWork).await;
    }

    fn resume(&self) {
        self.state.send_if_modified(|state| {
            let was_paused = *state == State::Paused;
            if was_paused {
                *state = State::AtWork;
            }
            was_paused
        });
    }
}

/// The connection as one instance has it.
#[derive(Clone)]
struct Stepping {
    connection: ConnectionManager,
    steps: Arc<Steps>,
    world: Arc<World>,
}

impl ConnectionLike for Stepping {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            self.steps.step().await?;
            let answer = self.connection.req_packed_command(cmd).await;
            self.world.note_version().await;
            self.steps.step().await?;
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        unreachable!("one command is sent at a time")
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

/// How an instance reads.
#[derive(Clone, Copy)]
struct Habits {
    at_once: usize,
    token: i64,
}

const FIRST: Habits = Habits { at_once: 3, token: 1 };
const SECOND: Habits = Habits { at_once: 4, token: 2 };
const THIRD: Habits = Habits { at_once: 5, token: 3 };

type Outcome = Option<Result<(), StreamError>>;

/// Stream and position, as Redis would write them down.
type Version = [Option<Vec<u8>>; 2];

struct World {
    connection: RedisConnection,
    name: String,
    key: Key,
    log: Vec<ConsumedRecord>,
    /// All that there ever was of stream and position, one after the other.
    versions: Mutex<Vec<Version>>,
}

/// Where worlds are made.
struct Worlds {
    redis: Redis,
    connection: RedisConnection,
    made: AtomicU64,
}

impl Worlds {
    async fn new() -> Self {
        let redis = Redis::start().await;
        // It is not killed here.
        redis.command(&["CONFIG", "SET", "appendfsync", "no"]).await;
        let connection = RedisConnection::connect(&redis.address(), "").await.unwrap();
        let worlds = Self { redis, connection, made: AtomicU64::new(0) };
        worlds.world().run_alone(FIRST).await.unwrap();
        worlds
    }

    fn world(&self) -> Arc<World> {
        let name = format!("w{}", self.made.fetch_add(1, Ordering::Relaxed));
        // With holes between their offsets.
        let record = |number: i64| ConsumedRecord {
            offset: Offset(number + number / 4 * 2),
            leader_epoch: EPOCH,
            ..record(Some(format!("v{number}").as_bytes()))
        };
        Arc::new(World {
            connection: self.connection.clone(),
            key: Key {
                line: format!("{name}.nearline").parse().unwrap(),
                cluster_id: "c".to_owned(),
                partition: TopicPartition::new("orders", PartitionId(0)),
                topic_id: Uuid([7; 16]),
            },
            name,
            log: (0..RECORDS).map(record).collect(),
            versions: Mutex::new(vec![[None, None]]),
        })
    }

    /// How many steps an instance takes alone.
    async fn steps(&self, habits: Habits) -> u64 {
        let (world, steps) = (self.world(), Steps::new(None));
        world.run(&steps, habits).await.unwrap().unwrap();
        world.assert_whole("undisturbed").await;
        steps.count()
    }

    /// Redis has never heard of a script.
    async fn forget_scripts(&self) {
        self.redis.command(&["SCRIPT", "FLUSH"]).await;
    }
}

impl World {
    fn store<C: ConnectionLike + Clone + Send + Sync>(&self, commands: C) -> StreamStore<C> {
        let declared = StreamSettings { address: String::new(), prefix: "s".to_owned(), len_max: None };
        StreamStore::over(self.connection.clone(), commands, &self.name, &declared)
    }

    fn keys(&self) -> [String; 2] {
        let place = self.store(self.connection.commands()).place(&self.key.partition);
        let position = position_of(&place);
        [place, position]
    }

    /// Behind the end of what the line gets to see.
    fn end(&self) -> Offset {
        self.log.last().unwrap().offset.plus(3)
    }

    async fn note_version(&self) {
        let mut version = [None, None];
        for (at, key) in self.keys().iter().enumerate() {
            let dumped = redis::cmd("DUMP").arg(key).query_async(&mut self.connection.commands()).await;
            version[at] = dumped.unwrap();
        }
        let mut versions = self.versions.lock().unwrap();
        if versions.last() != Some(&version) {
            versions.push(version);
        }
    }

    /// Redis forgets so many changes, if there were so many.
    async fn set_back(&self, lost: usize) -> bool {
        let version = {
            let mut versions = self.versions.lock().unwrap();
            let Some(left) = versions.len().checked_sub(lost).filter(|&left| left > 0) else { return false };
            versions.truncate(left);
            versions[left - 1].clone()
        };
        for (key, content) in self.keys().iter().zip(version) {
            let restoring = match content {
                Some(content) => redis::cmd("RESTORE").arg(key).arg(0).arg(content).arg("REPLACE").to_owned(),
                None => redis::cmd("DEL").arg(key).to_owned(),
            };
            restoring.exec_async(&mut self.connection.commands()).await.unwrap();
        }
        true
    }

    /// One instance, from taking hold to the end of the log, unless it dies.
    async fn run(self: &Arc<Self>, steps: &Arc<Steps>, habits: Habits) -> Outcome {
        let connection = self.connection.commands();
        let store = self.store(Stepping { connection, steps: Arc::clone(steps), world: Arc::clone(self) });
        let outcome = tokio::select! {
            outcome = self.work(&store, habits) => Some(outcome),
            () = steps.until(|state| state == State::Dead) => None,
        };
        steps.state.send_replace(State::Over);
        outcome
    }

    async fn work(&self, store: &StreamStore<Stepping>, habits: Habits) -> Result<(), StreamError> {
        let token = habits.token;
        let mut hold = StreamHold::take(store, self.key.clone(), Offset::ZERO, token, NOW).await?;
        loop {
            let at = self.log.partition_point(|record| record.offset < hold.position.next);
            let records = &self.log[at..self.log.len().min(at + habits.at_once)];
            // Behind the last is what nobody gets to see.
            let next = records.last().map_or(self.end(), |record| record.offset.plus(1));
            let to = Position { next, leader_epoch: EPOCH };
            match hold.append(store, records, to, NOW).await? {
                Appended::Done if records.is_empty() => return Ok(()),
                Appended::Done => {}
                Appended::SetBack => hold.take_again(store, token + 10, NOW).await?,
            }
        }
    }

    fn start(self: &Arc<Self>, steps: &Arc<Steps>, habits: Habits) -> JoinHandle<Outcome> {
        let (world, steps) = (Arc::clone(self), Arc::clone(steps));
        tokio::spawn(async move { world.run(&steps, habits).await })
    }

    async fn run_alone(self: &Arc<Self>, habits: Habits) -> Result<(), StreamError> {
        self.run(&Steps::new(None), habits).await.expect("nothing befalls it")
    }

    async fn kill(self: &Arc<Self>, at: u64, habits: Habits) -> Outcome {
        self.run(&Steps::new(Some((at, Fate::Dies))), habits).await
    }

    /// The token of whoever has taken hold last.
    async fn holder(&self) -> Option<i64> {
        let store = self.store(self.connection.commands());
        store.look_at(&self.key.partition).await.unwrap().stored.map(|stored| stored.fence.token)
    }

    fn changes(&self) -> usize {
        self.versions.lock().unwrap().len()
    }

    async fn assert_whole(&self, what: &str) {
        let store = self.store(self.connection.commands());
        let all = (Id::NONE, Id::of(Offset(i64::MAX)));
        let found = store.entries(&self.key.partition, all.0, all.1, 1000).await.unwrap();
        let entry = |record: &ConsumedRecord| {
            let fields = stream_entry::fields(record);
            let words = fields.iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.to_vec()]);
            (Id::of(record.offset), words.collect::<Vec<_>>())
        };
        assert_eq!(found, self.log.iter().map(entry).collect::<Vec<_>>(), "{what}");
        let kept = store.kept(&self.key).await.unwrap().unwrap();
        let last = Id::of(self.log.last().unwrap().offset);
        assert_eq!((kept.begun, kept.position.next, kept.last), (Offset::ZERO, self.end(), last), "{what}");
    }
}

/// Of one that was not the only one: it is done, or is told that another has the partition, or that Redis has lost all of it.
fn assert_told(outcome: &Outcome, what: &str) {
    let is_told = |error: &StreamError| {
        matches!(error, StreamError::Store(StoreError::Fenced { .. }) | StreamError::Lost { .. })
    };
    match outcome {
        None | Some(Ok(())) => {}
        Some(Err(error)) => assert!(is_told(error), "{what}: {error}"),
    }
}

fn report(what: &str, points: u64) {
    println!("{what}, streams in Redis: {points} crash points");
}

#[tokio::test]
async fn whoever_is_killed_at_any_step_is_taken_over_from_exactly() {
    let worlds = Worlds::new().await;
    let mut points = 0;
    loop {
        // So that the scripts are sent as well.
        worlds.forget_scripts().await;
        let (world, at) = (worlds.world(), points + 1);
        let killed = world.kill(at, FIRST).await;
        world.run_alone(SECOND).await.unwrap();
        world.assert_whole(&format!("killed at {at}")).await;
        if killed.is_some() {
            break;
        }
        points += 1;
    }
    assert!(points > worlds.steps(FIRST).await, "scripts are sent when they are asked for first");
    report("killed", points);
}

#[tokio::test]
async fn a_command_that_fails_or_whose_answer_is_lost_is_asked_again_and_done_once() {
    let worlds = Worlds::new().await;
    let steps = worlds.steps(FIRST).await;
    let mut all = JoinSet::new();
    for at in 1..=steps {
        let world = worlds.world();
        // Each waits a moment before it asks again.
        all.spawn(async move {
            let what = format!("failed at {at}");
            world.run(&Steps::new(Some((at, Fate::Fails))), FIRST).await.unwrap().expect(&what);
            world.assert_whole(&what).await;
            world.run_alone(SECOND).await.expect(&what);
            world.assert_whole(&what).await;
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    report("failed", steps);
}

#[tokio::test]
async fn a_successor_that_dies_as_well_is_taken_over_from_too() {
    let worlds = Worlds::new().await;
    let mut points = 0;
    for first in 1..=worlds.steps(FIRST).await {
        for second in 1.. {
            let world = worlds.world();
            assert!(world.kill(first, FIRST).await.is_none());
            let ended = world.kill(second, SECOND).await;
            world.run_alone(THIRD).await.unwrap();
            world.assert_whole(&format!("killed at {first}, then at {second}")).await;
            points += 1;
            if ended.is_some() {
                break;
            }
        }
    }
    report("killed twice", points);
}

/// The first pauses at a step, and the second at one of its own; then Redis forgets so much; the first wakes and does whatever it still
/// can, and then the second.
async fn wake(world: &Arc<World>, (first, second): (u64, u64), lost: usize, what: &str) -> bool {
    let zombie = Steps::new(Some((first, Fate::Pauses)));
    let successor = Steps::new(Some((second, Fate::Pauses)));
    let old = world.start(&zombie, FIRST);
    zombie.until_stopped().await;
    let was_held = world.holder().await == Some(FIRST.token);
    let new = world.start(&successor, SECOND);
    successor.until_stopped().await;
    let is_set_back = lost > 0 && world.set_back(lost).await;
    let (is_taken, before) = (world.holder().await == Some(SECOND.token), world.changes());
    zombie.resume();
    assert_told(&old.await.unwrap(), what);
    if was_held && is_taken && !is_set_back {
        assert_eq!(world.changes(), before, "{what}: it adds nothing");
    }
    successor.resume();
    let ended = new.await.unwrap();
    assert_told(&ended, what);
    let is_over = successor.count() < second;
    if is_set_back || matches!(ended, Some(Err(_))) {
        world.run_alone(THIRD).await.expect(what);
    }
    world.assert_whole(what).await;
    is_over
}

#[tokio::test]
async fn a_zombie_that_wakes_at_any_moment_of_its_successor_adds_nothing() {
    let worlds = Worlds::new().await;
    let mut points = 0;
    for first in 1..=worlds.steps(FIRST).await {
        for second in 1.. {
            points += 1;
            let what = format!("woke at {first}, with its successor at {second}");
            if wake(&worlds.world(), (first, second), 0, &what).await {
                break;
            }
        }
    }
    report("zombies", points);
}

#[tokio::test]
async fn a_redis_that_forgets_while_two_sleep_has_each_record_once_whoever_wakes() {
    let worlds = Worlds::new().await;
    let mut points = 0;
    for first in 1..=worlds.steps(FIRST).await {
        for second in 1.. {
            points += 1;
            // Each number of changes is lost at some steps of either.
            let lost = 1 + (first * 31 + second * 17) as usize % 5;
            let what = format!("{lost} changes lost, woke at {first}, with its successor at {second}");
            if wake(&worlds.world(), (first, second), lost, &what).await {
                break;
            }
        }
    }
    report("Redis forgot, zombies", points);
}

#[tokio::test]
async fn a_redis_that_forgets_any_number_of_changes_is_gone_on_with_from_there() {
    let worlds = Worlds::new().await;
    let mut points = 0;
    for at in 1..=worlds.steps(FIRST).await {
        for (fate, lost) in
            [Fate::Dies, Fate::Pauses].into_iter().flat_map(|fate| (1..=6).map(move |lost| (fate, lost)))
        {
            let what = format!("{lost} changes lost at {at}, {fate:?}");
            let (world, steps) = (worlds.world(), Steps::new(Some((at, fate))));
            let old = world.start(&steps, FIRST);
            steps.until_stopped().await;
            let is_set_back = world.set_back(lost).await;
            steps.resume();
            assert_told(&old.await.unwrap(), &what);
            if is_set_back {
                world.run_alone(SECOND).await.expect(&what);
                world.assert_whole(&what).await;
                points += 1;
            }
        }
    }
    report("Redis forgot", points);
}
