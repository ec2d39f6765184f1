//! The product's own client in a cluster that fails, on machines that fail: producers, members of groups, readers with a store of
//! their own, copiers in transactions, and instances of a sink's near-real-time line, each one process after the other, killed and paused
//! wherever it is.
//!
//! What they were told must fit together (`history`), and in the end, when all is healed, everything that is in the log was
//! handled, within a bound.

mod history;
mod stage;
mod store;
mod producing;
mod consuming;
mod reading;
mod copying;
mod sinking;
mod mishaps;

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Admin, Consumer, Start};
use tokio::time::{sleep, timeout};
use turmoil::Sim;
use wire::{ErrorCode, PartitionId, Str, TopicPartition};

use crate::dice::Dice;
use crate::history::{History, Place};
use crate::load::{self, Client, RETRY, WHOLE_MAX};
use crate::story::Cast;
use history::ClientHistory;
pub(crate) use mishaps::Mishaps;
use stage::{PARTITIONS, SOURCE, Stage};
use store::{Kind, Store};

const READ_UNCOMMITTED: i8 = 0;
/// How often somebody looks at what is committed.
const AUDIT: Duration = Duration::from_millis(300);
/// How groups share partitions.
const PROTOCOLS: [&[(&str, &str)]; 3] = [
    &[("group.protocol", "classic"), ("partition.assignment.strategy", "range")],
    &[("group.protocol", "classic"), ("partition.assignment.strategy", "cooperative-sticky")],
    &[("group.protocol", "consumer")],
];

/// What of the client a story is about, besides its producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Group,
    Store(Kind),
    Copier,
    Line,
}

/// Those who read, each part with its machines.
struct Readers {
    parts: Vec<Part>,
    stores: Vec<Store>,
}

/// Has the clients play: returns what befalls their machines. The story ends when its director is content, or has given up.
pub(crate) fn enter(
    sim: &mut Sim<'_>,
    history: &History,
    (dice, cast): (&Dice, Cast),
    brokers: i32,
    (calm, until): (Duration, Duration),
) -> Mishaps {
    let seen = ClientHistory::new(history.clone());
    let stage = Stage::new(seen.clone(), dice.fork(), brokers, until);
    let parts = match cast {
        Cast::Sink => vec![Part::Line],
        Cast::Load | Cast::Clients => any_two(dice),
    };
    let mut hosts = Vec::new();
    let mut stores = Vec::new();
    for host in ["p1", "p2"] {
        let stage = stage.clone();
        sim.host(host, move || ends(producing::run(stage.clone(), host)));
        hosts.push(host);
    }
    for part in &parts {
        let protocol = PROTOCOLS[usize::try_from(dice.below(3)).expect("a few")];
        let own: &[&'static str] = match part {
            Part::Group => &["g1", "g2"],
            Part::Copier => &["c1", "c2"],
            Part::Store(Kind::Transactional) => &["s1", "s2"],
            Part::Store(_) => &["r1", "r2"],
            Part::Line => &["l1", "l2", "l3"],
        };
        if let Part::Store(kind) = part {
            let role = if *kind == Kind::Transactional { "postgres" } else { "redis" };
            stores.push(Store::new(*kind, role, seen.clone(), dice));
        }
        history.note(&format!("{part:?}, {}", protocol.last().map_or("", |(_, value)| value)));
        for &host in own {
            let (stage, part, store) = (stage.clone(), *part, stores.last().cloned());
            sim.host(host, move || {
                let (stage, store) = (stage.clone(), store.clone());
                ends(async move {
                    match (part, store) {
                        (Part::Group, _) => consuming::run(stage, host, protocol).await,
                        (Part::Copier, _) => copying::run(stage, host, protocol).await,
                        (Part::Line, _) => sinking::run(stage, host, protocol).await,
                        (Part::Store(_), Some(store)) => reading::run(stage, host, store, protocol).await,
                        (Part::Store(_), None) => unreachable!("its store was just made"),
                    }
                })
            });
            hosts.push(host);
        }
    }
    let readers = Readers { parts, stores: stores.clone() };
    let (client, directed) = (Client::new(brokers, dice.fork()), stage.clone());
    sim.client("director", ends(direct(client, directed, readers)));
    Mishaps::new(dice.fork(), stage, (hosts, stores), brokers, calm)
}

/// Two of the four are enough for one story.
fn any_two(dice: &Dice) -> Vec<Part> {
    let mut parts =
        vec![Part::Group, Part::Copier, Part::Store(Kind::Transactional), Part::Store(any_redis(dice))];
    for _ in 0..2 {
        parts.remove(usize::try_from(dice.below(parts.len() as u64)).expect("a few"));
    }
    parts
}

fn any_redis(dice: &Dice) -> Kind {
    if dice.percent(50) { Kind::Redis } else { Kind::RedisForPositions }
}

async fn ends(what: impl Future<Output = ()>) -> turmoil::Result {
    what.await;
    Ok(())
}

/// Opens the stage, looks on, and in the end at everything.
async fn direct(mut client: Client, stage: Stage, readers: Readers) {
    client.create(SOURCE, PARTITIONS).await;
    let (output, partitions) = match readers.parts.contains(&Part::Line) {
        true => (sinking::TOPIC, sinking::PARTITIONS),
        false => (copying::TOPIC, copying::PARTITIONS),
    };
    client.create(output, partitions).await;
    stage.seen.history.note("the topics are there");
    stage.open();
    let admin = Admin::new(stage.cluster(stage.options(&[])));
    while !stage.is_ending() {
        sleep(AUDIT).await;
        if readers.parts.contains(&Part::Group) {
            audit(&stage, &admin).await;
        }
    }
    let sent = timeout(WHOLE_MAX, async {
        while !["p1", "p2"].iter().all(|host| stage.has_finished(host)) {
            sleep(RETRY).await;
        }
    });
    if sent.await.is_err() {
        stage.seen.history.anomaly("producers of the healed cluster do not come to an end".to_owned());
        return;
    }
    let history = &stage.seen.history;
    let mut log = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for (index, _) in load::whole(&mut client, history, (SOURCE, PARTITIONS)).await {
        match timeout(WHOLE_MAX, whole_log(&mut client, index)).await {
            Ok(found) => {
                ends.insert(index, i64::try_from(found.len()).expect("a few"));
                log.extend(found.into_iter().map(|(offset, value)| ((index, offset), value)));
            }
            Err(_) => history.anomaly(format!("{SOURCE}-{index} cannot be read to its end")),
        }
    }
    stage.seen.check_log(&log);
    for part in &readers.parts {
        let done = match part {
            Part::Group => timeout(WHOLE_MAX, everything_is_committed(&stage, &admin, &ends)).await.is_ok(),
            Part::Copier => timeout(WHOLE_MAX, everything_is(&stage, copying::ROLE, &ends)).await.is_ok(),
            Part::Line => timeout(WHOLE_MAX, everything_is_written(&admin, &ends)).await.is_ok(),
            Part::Store(kind) => {
                let store = readers.stores.iter().find(|store| store.kind == *kind).expect("it has one");
                timeout(WHOLE_MAX, everything_is_stored(store, &ends)).await.is_ok()
            }
        };
        if !done {
            let floors = ends.keys().map(|partition| stage.seen.floor(role(*part), *partition));
            history.anomaly(format!(
                "{part:?} has not come to the end of {ends:?} in the healed cluster, but to {:?}",
                floors.collect::<Vec<_>>()
            ));
        }
    }
    for store in &readers.stores {
        check_results(&stage, store, &log);
    }
    if readers.parts.contains(&Part::Copier) {
        match timeout(WHOLE_MAX, written(&stage, &admin, (output, partitions))).await {
            Ok(copies) => stage.seen.check_copies(&copies, &ends),
            Err(_) => history.anomaly("what was copied cannot be read to its end".to_owned()),
        }
    }
    if readers.parts.contains(&Part::Line) {
        match timeout(WHOLE_MAX, written(&stage, &admin, (output, partitions))).await {
            Ok(found) => stage.seen.check_output(&found, &log),
            Err(_) => history.anomaly("the output cannot be read to its end".to_owned()),
        }
    }
    history.note(&format!("verified: {ends:?}"));
}

fn role(part: Part) -> &'static str {
    match part {
        Part::Group => consuming::ROLE,
        Part::Copier => copying::ROLE,
        Part::Line => sinking::GROUP,
        Part::Store(Kind::Transactional) => "postgres",
        Part::Store(_) => "redis",
    }
}

/// What a group has committed, if its coordinator says so.
async fn committed(admin: &Admin, group: &'static str) -> Option<BTreeMap<i32, i64>> {
    let found = admin.group_offsets(&Str::from(group)).await.ok()?;
    let of = found.committed.into_iter();
    Some(of.map(|(partition, committed)| (partition.partition.0, committed.offset.0)).collect())
}

/// Looks whether what is committed was handled.
async fn audit(stage: &Stage, admin: &Admin) {
    for (partition, offset) in committed(admin, consuming::ROLE).await.unwrap_or_default() {
        stage.seen.committed(consuming::ROLE, partition, offset, false);
    }
}

/// Waits until a group has committed everything. What a member was told to be committed is never taken back.
async fn everything_is_committed(stage: &Stage, admin: &Admin, ends: &BTreeMap<i32, i64>) {
    loop {
        let told = ends.keys().map(|partition| stage.seen.last_committed(consuming::ROLE, *partition));
        let told: Vec<i64> = told.collect();
        if let Some(committed) = committed(admin, consuming::ROLE).await {
            let now = |partition| committed.get(partition).copied().unwrap_or(0);
            for ((partition, end), told) in ends.iter().zip(told) {
                let now = now(partition);
                stage.seen.committed(consuming::ROLE, *partition, now, false);
                if now < told || now > *end {
                    stage.seen.history.anomaly(format!(
                        "{now} is committed for {partition} of {end}, and a member was told {told} before"
                    ));
                }
            }
            if ends.iter().all(|(partition, end)| now(partition) == *end) {
                return;
            }
        }
        sleep(RETRY).await;
    }
}

async fn everything_is(stage: &Stage, role: &'static str, ends: &BTreeMap<i32, i64>) {
    while !ends.iter().all(|(partition, end)| stage.seen.floor(role, *partition) >= *end) {
        sleep(RETRY).await;
    }
}

/// Waits until the positions of the line are at the ends.
async fn everything_is_written(admin: &Admin, ends: &BTreeMap<i32, i64>) {
    loop {
        let committed = committed(admin, sinking::GROUP).await.unwrap_or_default();
        if ends.iter().all(|(partition, end)| committed.get(partition).copied().unwrap_or(0) == *end) {
            return;
        }
        sleep(RETRY).await;
    }
}

async fn everything_is_stored(store: &Store, ends: &BTreeMap<i32, i64>) {
    let reader = store.role.parse().expect("a name");
    loop {
        let positions = store.positions(&reader).await;
        let is_there = |(partition, end): (&i32, &i64)| {
            store.floor(*partition) == *end && positions.get(partition).copied().unwrap_or(0) == *end
        };
        if ends.iter().all(is_there) {
            return;
        }
        sleep(RETRY).await;
    }
}

/// Compares results with the log.
fn check_results(stage: &Stage, store: &Store, log: &BTreeMap<Place, String>) {
    for (place, value) in store.rows() {
        if log.get(&place) != Some(&value) {
            stage.seen.history.anomaly(format!(
                "{} has {value} as the result of {place:?}, where {:?} lies",
                store.role,
                log.get(&place)
            ));
        }
    }
}

/// Everything in a partition, as its leader has it.
async fn whole_log(client: &mut Client, partition: i32) -> BTreeMap<i64, String> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    loop {
        let Some(leader) = client.leader(SOURCE, partition).await else {
            sleep(RETRY).await;
            continue;
        };
        match client.fetch_from(leader, (SOURCE, partition), offset, READ_UNCOMMITTED).await {
            Some(data) if data.error_code == ErrorCode::NONE => {
                let records = data.records.map(wire::Payload::into_bytes).unwrap_or_default();
                for (at, value) in load::values(records, offset) {
                    offset = at + 1;
                    found.insert(at, value);
                }
                if offset >= data.high_watermark {
                    return found;
                }
            }
            _ => sleep(RETRY).await,
        }
    }
}

/// The committed records of a topic, as the product's consumer reads them.
async fn written(
    stage: &Stage,
    admin: &Admin,
    (topic, partitions): (&'static str, i32),
) -> Vec<(Place, String)> {
    let partitions: Vec<TopicPartition> =
        (0..partitions).map(|partition| TopicPartition::new(topic, PartitionId(partition))).collect();
    let options = stage.options(&[("isolation.level", "read_committed")]);
    let mut consumer = Consumer::new(stage.cluster(options));
    let begin = partitions.iter().map(|partition| (partition.clone(), Some(Start::Earliest)));
    consumer.assign(begin).expect("nothing is subscribed to");
    let specs: Vec<_> =
        partitions.iter().map(|partition| (partition.clone(), client::OffsetSpec::Latest)).collect();
    let mut copies = Vec::new();
    loop {
        while let Ok(Some(Ok(records))) = timeout(RETRY * 5, consumer.next()).await {
            let partition = records.partition().partition.0;
            copies
                .extend(consuming::values(&records).into_iter().map(|(at, value)| ((partition, at), value)));
            records.done();
        }
        let Ok(listed) = admin.list_offsets(&specs, client::Isolation::ReadUncommitted).await else {
            continue;
        };
        let is_there = |(partition, end): &(TopicPartition, Result<client::ListedOffset, client::Error>)| {
            let end = end.as_ref().ok().and_then(|end| end.offset);
            end.is_some() && consumer.position(partition) >= end
        };
        if listed.iter().all(is_there) {
            return copies;
        }
    }
}
