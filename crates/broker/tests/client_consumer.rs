//! The client's consumer against real brokers, ours and Apache Kafka's: what it was told to be done is committed and nothing else, whatever happens
//! to it, to its group and to its connections in between.

#[macro_use]
mod support;

// The client's examples, as their documents show them.
#[path = "../../client/examples/consume_transform_produce.rs"]
#[allow(dead_code, unreachable_pub)]
mod consume_transform_produce;
#[path = "../../client/examples/consumer.rs"]
#[allow(dead_code, unreachable_pub)]
mod consumer_example;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{
    Address, Assigned, Begin, BoxFuture, Cluster, Committed, Consumer, Environment, Error, Offsets, Options,
    Record, Records, Socket, Start, TokioEnvironment,
};
use support::{Place, Site, TestClient, TestCluster, batch_of, wait_until};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use wire::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use wire::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use wire::messages::describe_groups::DescribeGroupsRequest;
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::{ErrorCode, Millis, Offset, PartitionId, Str, TopicPartition};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const RANGE: &[(&str, &str)] = &[("group.protocol", "classic"), ("partition.assignment.strategy", "range")];
const COOPERATIVE: &[(&str, &str)] =
    &[("group.protocol", "classic"), ("partition.assignment.strategy", "cooperative-sticky")];
const CONSUMER: &[(&str, &str)] = &[("group.protocol", "consumer")];
const PROTOCOLS: [&[(&str, &str)]; 3] = [RANGE, COOPERATIVE, CONSUMER];

fn run(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE * 4, story).await.expect("the story comes to its end") });
}

fn options(broker: &Site, settings: &[&[(&str, &str)]]) -> Options {
    let mut options = Options::default();
    let defaults = [
        ("group.id", "g"),
        ("auto.offset.reset", "earliest"),
        ("heartbeat.interval.ms", "100"),
        ("fetch.max.wait.ms", "100"),
    ];
    let brokers = broker.addr().to_string();
    options.set("bootstrap.servers", &brokers).unwrap();
    for (key, value) in defaults.iter().chain(settings.iter().copied().flatten()) {
        let value = if *key == "group.id" { broker.name(value) } else { value };
        options.set(key, value).unwrap();
    }
    options
}

fn cluster(broker: &Site, settings: &[&[(&str, &str)]]) -> Cluster {
    Cluster::new(options(broker, settings), Arc::new(TokioEnvironment)).unwrap()
}

fn consumer(broker: &Site, settings: &[&[(&str, &str)]]) -> Consumer {
    Consumer::new(cluster(broker, settings))
}

fn t(topic: &'static str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, PartitionId(partition))
}

/// Appends records whose values are their offsets, three to a batch.
fn append(client: &mut TestClient, topic: &'static str, partition: i32, offsets: std::ops::Range<i64>) {
    for first in offsets.clone().step_by(3) {
        let values: Vec<_> = (first..offsets.end.min(first + 3)).map(|offset| offset.to_string()).collect();
        let records: Vec<_> =
            values.iter().map(|value| (1_700_000_000_000 + first, value.as_bytes())).collect();
        assert_eq!(client.append(topic, partition, batch_of(&records)), first);
    }
}

async fn next(consumer: &mut Consumer) -> Records {
    let next = timeout(PATIENCE, consumer.next()).await.expect("records come");
    next.expect("something is read").expect("it can be")
}

async fn next_error(consumer: &mut Consumer) -> Error {
    loop {
        match timeout(PATIENCE, consumer.next()).await.expect("something comes").expect("something is read") {
            Ok(records) => records.done(),
            Err(error) => return error,
        }
    }
}

fn offsets(records: &Records) -> Vec<i64> {
    records.iter().map(|record| record.offset.0).collect()
}

async fn committed(consumer: &Consumer, topic: &'static str, partition: i32) -> Option<i64> {
    let committed = consumer.committed(&[t(topic, partition)]).await.unwrap();
    committed[&t(topic, partition)].map(|offset| offset.0)
}

/// A member in a task of its own that is done with everything at once and tells what it saw.
struct Member {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Committed>,
}

impl Member {
    fn start(
        name: &'static str,
        mut consumer: Consumer,
        seen: mpsc::UnboundedSender<(&'static str, i32, i64)>,
    ) -> Member {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                let records = tokio::select! {
                    records = consumer.next() => records.expect("it is subscribed").expect("it can read"),
                    _ = &mut stopped => break,
                };
                for record in &records {
                    seen.send((name, record.partition.0, record.offset.0)).unwrap();
                }
                records.done();
            }
            consumer.close(PATIENCE).await.unwrap()
        });
        Member { stop, task }
    }

    async fn stop(self) -> Committed {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}

on_both! {
    members_share_and_hand_over_without_loss_or_doubles,
    members_of_different_assignors_agree_on_what_both_have,
    a_slow_handler_keeps_its_partitions_past_the_session_timeout,
    who_takes_longer_than_the_poll_interval_hears_so_and_reads_on_where_it_was_committed,
    ending_commits_what_is_done_in_whatever_order_it_is_asked_for,
    a_consumer_that_is_dropped_commits_nothing_that_was_not_done,
    what_is_dropped_undone_comes_again_in_order,
    single_records_are_acknowledged_by_themselves,
    single_records_are_unsubscribed_from_in_the_middle_of_a_batch,
    connections_that_break_change_nothing,
    topics_that_match_are_read_when_they_appear,
    partitions_that_are_added_are_read,
    a_static_member_comes_back_to_what_it_had_and_leaves_it_to_the_others_for_good,
    who_slept_leaves_its_name_to_whoever_has_it_by_now,
    reading_pauses_goes_on_and_goes_elsewhere,
    a_zombie_commits_nothing,
    a_position_that_is_gone_stops_its_partition_alone_or_is_reset_and_counted,
    a_store_says_where_to_begin_and_stops_what_it_cannot_answer_for,
    what_cannot_work_is_said,
    the_examples_do_what_they_say,
}

fn members_share_and_hand_over_without_loss_or_doubles(place: Place) {
    for protocol in PROTOCOLS {
        let broker = place.start();
        let mut client = broker.client();
        let topic = broker.create_topic("t", 4);
        let join = |name| {
            let consumer = consumer(&broker, &[protocol]);
            consumer.subscribe([topic]).unwrap();
            (name, consumer)
        };
        run(async {
            let (told, mut seen) = mpsc::unbounded_channel();
            let mut counts: BTreeMap<(i32, i64), u32> = BTreeMap::new();
            let (name, first) = join("first");
            let first = Member::start(name, first, told.clone());
            (0..4).for_each(|partition| append(&mut client, topic, partition, 0..30));
            while counts.len() < 120 {
                let (_, partition, offset) = timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
                *counts.entry((partition, offset)).or_default() += 1;
            }
            // A second one comes and gets its share while records keep coming.
            let (name, second) = join("second");
            let second = Member::start(name, second, told.clone());
            let mut by_second = BTreeSet::new();
            let mut end = 30;
            while by_second.len() < 2 {
                (0..4).for_each(|partition| append(&mut client, topic, partition, end..end + 3));
                end += 3;
                while counts.len() < 4 * end as usize {
                    let (name, partition, offset) = timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
                    *counts.entry((partition, offset)).or_default() += 1;
                    if name == "second" {
                        by_second.insert(partition);
                    }
                }
            }
            // The first one goes.
            first.stop().await;
            (0..4).for_each(|partition| append(&mut client, topic, partition, end..end + 30));
            end += 30;
            while counts.len() < 4 * end as usize {
                let (name, partition, offset) = timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
                assert!(name == "second" || offset < end - 30);
                *counts.entry((partition, offset)).or_default() += 1;
            }
            let last = second.stop().await;
            assert_eq!(last.void, BTreeMap::new());
            let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
            assert!(doubled.is_empty(), "{protocol:?}: {doubled:?}");
            let looker = consumer(&broker, &[protocol]);
            for partition in 0..4 {
                assert_eq!(committed(&looker, topic, partition).await, Some(end), "{protocol:?}");
            }
        });
    }
}

fn members_of_different_assignors_agree_on_what_both_have(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 2);
    (0..2).for_each(|partition| append(&mut client, topic, partition, 0..3));
    run(async {
        // Kafka's default, and what one gets by going over to the cooperative assignor.
        let mut both = consumer(&broker, &[]);
        let mut one = consumer(&broker, &[COOPERATIVE]);
        both.subscribe([topic]).unwrap();
        one.subscribe([topic]).unwrap();
        while both.assignment().len() != 1 || one.assignment().len() != 1 {
            tokio::select! {
                records = next(&mut both) => records.done(),
                records = next(&mut one) => records.done(),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
        both.close(PATIENCE).await.unwrap();
        one.close(PATIENCE).await.unwrap();
    });
}

fn a_slow_handler_keeps_its_partitions_past_the_session_timeout(place: Place) {
    let broker = place.start_with(&[
        "group.min.session.timeout.ms=500",
        "group.consumer.min.session.timeout.ms=500",
        "group.consumer.session.timeout.ms=1000",
        "group.consumer.min.heartbeat.interval.ms=100",
        "group.consumer.heartbeat.interval.ms=100",
    ]);
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..6);
    // Where a broker is shared it keeps the longer sessions of the second protocol, which no client asks for.
    let protocols = match place {
        Place::Ottla => &[("classic", RANGE), ("consumer", CONSUMER)][..],
        Place::Kafka => &[("classic", RANGE)],
    };
    for &(group, protocol) in protocols {
        run(async {
            let slow = [("group.id", group), ("session.timeout.ms", "1000")];
            let mut consumer = consumer(&broker, &[protocol, &slow]);
            consumer.subscribe([topic]).unwrap();
            let records = next(&mut consumer).await;
            // The handling itself takes that long.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            records.done();
            let outcome = consumer.commit().await.unwrap();
            assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(3))]));
            assert_eq!(outcome.void, BTreeMap::new());
            assert_eq!(offsets(&next(&mut consumer).await), [3, 4, 5], "nothing came twice");
            consumer.close(Duration::from_secs(1)).await.unwrap();
        });
    }
}

fn who_takes_longer_than_the_poll_interval_hears_so_and_reads_on_where_it_was_committed(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..6);
    for protocol in PROTOCOLS {
        let group = [("group.id", protocol[protocol.len() - 1].1), ("max.poll.interval.ms", "700")];
        run(async {
            let mut consumer = consumer(&broker, &[protocol, &group]);
            consumer.subscribe([topic]).unwrap();
            next(&mut consumer).await.done();
            consumer.commit().await.unwrap();
            let late = next(&mut consumer).await;
            while !consumer.assignment().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            late.done();
            let error = next_error(&mut consumer).await;
            let Error::PollInterval { idle, interval } = error else { panic!("{error}") };
            assert!(idle > interval && interval == Duration::from_millis(700), "{error}");
            let again = next(&mut consumer).await;
            assert_eq!(offsets(&again), [3, 4, 5], "the late acknowledgement counts for nothing");
            again.done();
            let outcome = consumer.commit().await.unwrap();
            assert_eq!(outcome.void, BTreeMap::from([(t(topic, 0), 1)]), "and that is told");
            assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(6))]));
            consumer.close(PATIENCE).await.unwrap();
        });
    }
}

fn ending_commits_what_is_done_in_whatever_order_it_is_asked_for(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..9);
    for protocol in PROTOCOLS {
        let group = [("group.id", protocol[protocol.len() - 1].1)];
        run(async {
            let mut consumer = self::consumer(&broker, &[protocol, &group]);
            consumer.subscribe([topic]).unwrap();
            next(&mut consumer).await.done();
            let outcome = consumer.unsubscribe().await.unwrap();
            assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(3))]));
            assert!(consumer.next().await.is_none(), "nothing is read any more");
            assert_eq!(consumer.unsubscribe().await.unwrap(), Committed::default(), "twice does no harm");
            consumer.subscribe([topic]).unwrap();
            let mut records = next(&mut consumer).await;
            assert_eq!(offsets(&records), [3, 4, 5]);
            records.done_through(Offset(4));
            // What is in hand is waited for, but not for ever.
            let outcome = consumer.close(Duration::from_secs(1)).await.unwrap();
            assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(5))]));
            assert_eq!(outcome.in_hand, [t(topic, 0)]);
            records.done();

            let mut consumer = self::consumer(&broker, &[protocol, &group]);
            consumer.subscribe([topic]).unwrap();
            let records = next(&mut consumer).await;
            assert_eq!(offsets(&records), [5], "it was done too late");
            let (closed, ()) = tokio::join!(consumer.close(PATIENCE), async {
                tokio::task::yield_now().await;
                records.done();
            });
            let closed = closed.unwrap();
            assert_eq!(closed.offsets, BTreeMap::from([(t(topic, 0), Offset(6))]));
            assert_eq!(closed.in_hand, []);

            let looker = self::consumer(&broker, &[protocol, &group]);
            looker.unsubscribe().await.unwrap();
            assert_eq!(committed(&looker, topic, 0).await, Some(6));
            looker.close(PATIENCE).await.unwrap();
        });
    }
}

fn a_consumer_that_is_dropped_commits_nothing_that_was_not_done(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..9);
    run(async {
        let mut consumer = self::consumer(&broker, &[]);
        consumer.subscribe([topic]).unwrap();
        next(&mut consumer).await.done();
        let held = next(&mut consumer).await;
        drop(consumer);
        // It has left, so that the next one gets the partition at once.
        let mut consumer = self::consumer(&broker, &[]);
        consumer.subscribe([topic]).unwrap();
        assert_eq!(offsets(&next(&mut consumer).await), [3, 4, 5]);
        held.done();
        assert_eq!(committed(&consumer, topic, 0).await, Some(3));
    });
}

fn what_is_dropped_undone_comes_again_in_order(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..9);
    run(async {
        let mut consumer = self::consumer(&broker, &[]);
        consumer.subscribe([topic]).unwrap();
        let first = next(&mut consumer).await;
        let second = next(&mut consumer).await;
        let third = next(&mut consumer).await;
        third.done();
        drop(second);
        let again = next(&mut consumer).await;
        assert_eq!(offsets(&again), [3, 4, 5]);
        assert_eq!(
            offsets(&next(&mut consumer).await),
            [6, 7, 8],
            "though it was done, for the order's sake"
        );
        let outcome = consumer.commit().await.unwrap();
        assert_eq!(outcome.offsets.get(&t(topic, 0)), Some(&Offset(0)), "where it began, and no further");
        first.done();
        let mut again = again;
        again.done_through(Offset(3));
        drop(again);
        assert_eq!(consumer.commit().await.unwrap().offsets, BTreeMap::from([(t(topic, 0), Offset(4))]));
        assert_eq!(offsets(&next(&mut consumer).await), [4, 5]);

        // A handler that panics is one that is not done.
        let mut consumer = handle(consumer, |_| panic!("no")).await;
        let records = next(&mut consumer).await;
        assert_eq!(offsets(&records), [4, 5]);
        records.done();
        let outcome = consumer.close(PATIENCE).await.unwrap();
        assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(6))]));
    });
}

/// Handles what comes next in a task of its own, and survives it.
async fn handle(mut consumer: Consumer, handler: fn(Records)) -> Consumer {
    let records = next(&mut consumer).await;
    let handled = tokio::spawn(async move { handler(records) }).await;
    assert!(handled.is_err());
    consumer
}

fn single_records_are_acknowledged_by_themselves(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..7);
    run(async {
        let consumer = self::consumer(&broker, &[&[("max.poll.records", "2")]]);
        consumer.subscribe([topic]).unwrap();
        let mut singles = consumer.singles();
        let mut taken: Vec<Record> = Vec::new();
        while taken.len() < 7 {
            taken.push(timeout(PATIENCE, singles.next()).await.unwrap().unwrap().unwrap());
        }
        let values: Vec<_> = taken.iter().map(|record| record.offset.0).collect();
        assert_eq!(values, [0, 1, 2, 3, 4, 5, 6]);
        // From the last to the second: all wait for the first.
        while taken.len() > 1 {
            taken.pop().unwrap().done();
        }
        let outcome = singles.consumer().commit().await.unwrap();
        assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(0))]));
        taken.pop().unwrap().done();
        let outcome = singles.close(PATIENCE).await.unwrap();
        assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(7))]));
    });
}

fn single_records_are_unsubscribed_from_in_the_middle_of_a_batch(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..7);
    run(async {
        let consumer = self::consumer(&broker, &[]);
        consumer.subscribe([topic]).unwrap();
        let mut singles = consumer.singles();
        for _ in 0..3 {
            timeout(PATIENCE, singles.next()).await.unwrap().unwrap().unwrap().done();
        }
        // What the stream has in hand itself is nothing to wait for.
        let outcome = timeout(PATIENCE, singles.unsubscribe()).await.unwrap().unwrap();
        assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(3))]));
        assert!(singles.next().await.is_none());
        singles.close(PATIENCE).await.unwrap();
    });
}

/// The network, with scissors.
#[derive(Default)]
struct Cutting {
    open: Mutex<Vec<std::net::TcpStream>>,
    /// Ports that were dialled.
    dialled: Mutex<BTreeMap<u16, usize>>,
}

impl Cutting {
    fn cut_all(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        open.iter().filter(|socket| socket.shutdown(Shutdown::Both).is_ok()).count()
    }
}

impl Environment for Cutting {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let socket =
                tokio::net::TcpStream::connect((address.host.as_str(), address.port)).await?.into_std()?;
            self.open.lock().unwrap().push(socket.try_clone()?);
            *self.dialled.lock().unwrap().entry(address.port).or_default() += 1;
            Ok(Box::new(tokio::net::TcpStream::from_std(socket)?) as Box<dyn Socket>)
        })
    }

    fn now(&self) -> Millis {
        TokioEnvironment.now()
    }

    fn random(&self) -> u64 {
        TokioEnvironment.random()
    }
}

fn connections_that_break_change_nothing(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..3);
    for protocol in PROTOCOLS {
        let group = [("group.id", protocol[protocol.len() - 1].1)];
        let network = Arc::new(Cutting::default());
        let options = options(&broker, &[protocol, &group]);
        let end = client_end(&mut client, topic);
        run(async {
            let mut consumer = Consumer::new(Cluster::new(options, Arc::clone(&network) as _).unwrap());
            consumer.subscribe([topic]).unwrap();
            let mut read = 0;
            for round in 0..5 {
                let wanted = end + 3 * round;
                while read < wanted {
                    let records = next(&mut consumer).await;
                    assert_eq!(records.position(), Offset(read), "nothing left out, nothing twice");
                    read = records.next_offset().0;
                    assert!(network.cut_all() > 0);
                    records.done();
                    consumer.commit().await.unwrap();
                }
                append(&mut client, topic, 0, wanted..wanted + 3);
            }
            let outcome = consumer.close(PATIENCE).await.unwrap();
            assert_eq!(outcome.void, BTreeMap::new());
        });
    }
}

fn client_end(client: &mut TestClient, topic: &'static str) -> i64 {
    let mut end = 0;
    while client.fetch(topic, 0, end).is_ok_and(|records| !records.is_empty()) {
        end += 3;
    }
    end
}

/// Appends to whoever leads, as a producer does: again while another is about to.
fn append_to_leader(cluster: &TestCluster, first: i64) {
    wait_until(|| {
        let any = cluster.running()[0];
        let leader = cluster.wait_for_partition(any, "t", |partition| partition.leader_id >= 0).leader_id;
        if !cluster.running().contains(&leader) {
            return false;
        }
        let values: Vec<_> = (first..first + 3).map(|offset| offset.to_string()).collect();
        let records: Vec<_> = values.iter().map(|value| (1_700_000_000_000, value.as_bytes())).collect();
        let (error, base) = cluster.client(leader).try_append("t", 0, batch_of(&records));
        assert!(!error.is_ok() || base == first, "{base} instead of {first}");
        error.is_ok()
    });
}

#[test]
fn reading_follows_the_nearest_replica_and_then_the_leader_through_their_deaths() {
    let mut cluster = TestCluster::start_in_racks(
        &["a", "b", "c", "a", "b"],
        &[
            "min.insync.replicas=1",
            "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector",
        ],
    );
    let assignment = CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![1, 2, 3] };
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: vec![assignment],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_eq!(cluster.client(1).ask(request).topics[0].error_code, ErrorCode::NONE);
    append_to_leader(&cluster, 0);

    let network = Arc::new(Cutting::default());
    let mut options = Options::default();
    let brokers: Vec<_> = (1..=5).map(|id| cluster.addr(id).to_string()).collect();
    options.set("bootstrap.servers", &brokers[3..].join(",")).unwrap();
    options.set("client.rack", "c").unwrap();
    options.set("fetch.max.wait.ms", "100").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let consumer = runtime.block_on(async {
        let consumer = Consumer::new(Cluster::new(options, Arc::clone(&network) as _).unwrap());
        consumer.assign([(t("t", 0), Some(Start::Earliest))]).unwrap();
        consumer
    });
    let mut consumer = consumer;
    let mut read = |expected: i64| {
        let records = runtime.block_on(next(&mut consumer));
        assert_eq!(records.position(), Offset(expected));
        records.done();
    };
    read(0);
    assert!(network.dialled.lock().unwrap().contains_key(&cluster.addr(3).port()), "it is in the same rack");
    cluster.kill(3);
    append_to_leader(&cluster, 3);
    read(3);
    // The next leader is asked whether its log has what was read, before it is read on.
    cluster.kill(1);
    append_to_leader(&cluster, 6);
    read(6);
    assert_eq!(consumer.resets(), 0);
}

fn topics_that_match_are_read_when_they_appear(place: Place) {
    // With the consumer protocol it is the broker that looks for topics, and Apache Kafka takes ten seconds and more.
    let protocols = if place == Place::Kafka { &PROTOCOLS[..2] } else { &PROTOCOLS[..] };
    for &protocol in protocols {
        let broker = place.start();
        let mut client = broker.client();
        let first = broker.create_topic("orders-a", 1);
        let others = broker.create_topic("others", 1);
        append(&mut client, first, 0, 0..3);
        append(&mut client, others, 0, 0..3);
        run(async {
            let mut consumer = consumer(&broker, &[protocol, &[("metadata.max.age.ms", "200")]]);
            consumer.subscribe_pattern(broker.name("orders-.")).unwrap();
            let records = next(&mut consumer).await;
            assert_eq!(records.partition().topic, first);
            records.done();
            let second = broker.create_topic("orders-b", 1);
            append(&mut client, second, 0, 0..3);
            let records = next(&mut consumer).await;
            assert_eq!(records.partition().topic, second, "{protocol:?}");
            records.done();
            assert_eq!(consumer.assignment().len(), 2);
            let error = consumer.subscribe_pattern("orders-(").unwrap_err();
            assert!(error.to_string().starts_with("\"orders-(\" is no regular expression"), "{error}");
            // Going over to a list of topics takes back what the list does not have.
            consumer.subscribe([others]).unwrap();
            let records = next(&mut consumer).await;
            assert_eq!(records.partition().topic, others);
            records.done();
            consumer.close(PATIENCE).await.unwrap();
        });
    }
}

fn partitions_that_are_added_are_read(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    run(async {
        let mut consumer = consumer(&broker, &[&[("metadata.max.age.ms", "200")]]);
        consumer.subscribe([topic]).unwrap();
        append(&mut client, topic, 0, 0..3);
        next(&mut consumer).await.done();
        let wanted = CreatePartitionsTopic { name: topic.into(), count: 2, assignments: None };
        let request =
            CreatePartitionsRequest { topics: vec![wanted], timeout_ms: 10_000, ..Default::default() };
        assert_eq!(client.ask(request).results[0].error_code, ErrorCode::NONE);
        append(&mut client, topic, 1, 0..3);
        assert_eq!(next(&mut consumer).await.partition(), &t(topic, 1));
    });
}

fn a_static_member_comes_back_to_what_it_had_and_leaves_it_to_the_others_for_good(place: Place) {
    for protocol in PROTOCOLS {
        let broker = place.start();
        let mut client = broker.client();
        let topic = broker.create_topic("t", 4);
        (0..4).for_each(|partition| append(&mut client, topic, partition, 0..3));
        let member = |name: &'static str| {
            // In the classic protocol nobody else gets what a member leaves behind by its session's end here.
            let options = [("group.instance.id", name), ("session.timeout.ms", "600000")];
            let consumer = consumer(&broker, &[protocol, &options]);
            consumer.subscribe([topic]).unwrap();
            consumer
        };
        run(async {
            let (mut one, mut two) = (member("one"), member("two"));
            let mut held = BTreeMap::new();
            let mut end = 3;
            while one.assignment().len() != 2 || two.assignment().len() != 2 || held.len() < 2 {
                tokio::select! {
                    records = next(&mut one) => records.done(),
                    records = next(&mut two) => {
                        held.insert(records.partition().clone(), records);
                        held.retain(|_, records| records.is_wanted());
                    }
                    () = tokio::time::sleep(Duration::from_millis(10)) => {
                        held.retain(|_, records| records.is_wanted());
                        if two.assignment().len() == 2 && held.len() < 2 {
                            // The first one may have been done with everything before the other one came.
                            (0..4).for_each(|partition| append(&mut client, topic, partition, end..end + 3));
                            end += 3;
                        }
                    }
                }
            }
            let had: BTreeSet<_> = one.assignment().into_iter().collect();
            one.close(PATIENCE).await.unwrap();
            let one = member("one");
            while one.assignment().len() != 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(one.assignment().into_iter().collect::<BTreeSet<_>>(), had, "{protocol:?}");
            assert!(held.values().all(Records::is_wanted), "{protocol:?}: the other one noticed nothing");
            held.into_values().for_each(Records::done);
            let outcome = two.leave(PATIENCE).await.unwrap();
            assert_eq!(outcome.void, BTreeMap::new());
            while one.assignment().len() != 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            one.close(PATIENCE).await.unwrap();
        });
    }
}

fn who_slept_leaves_its_name_to_whoever_has_it_by_now(place: Place) {
    let broker = place.start_with(&["group.min.session.timeout.ms=500"]);
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..6);
    let session = Duration::from_millis(1000);
    for protocol in [RANGE, COOPERATIVE] {
        let group =
            [("group.id", protocol[1].1), ("group.instance.id", "one"), ("session.timeout.ms", "1000")];
        let member = || {
            let consumer = consumer(&broker, &[protocol, &group]);
            consumer.subscribe([topic]).unwrap();
            consumer
        };
        // What is on this runtime stands still between the blocks.
        let asleep = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let awake =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut sleeper = asleep.block_on(async {
            let mut sleeper = member();
            next(&mut sleeper).await.done();
            sleeper.commit().await.unwrap();
            sleeper
        });
        let slept = tokio::time::Instant::now();
        let heir = awake.block_on(async {
            let mut heir = member();
            let records = next(&mut heir).await;
            assert_eq!(offsets(&records), [3, 4, 5]);
            records.done();
            heir
        });
        // By its own clock the session is over when it wakes.
        std::thread::sleep((session * 3 / 2).saturating_sub(slept.elapsed()));
        let error = asleep.block_on(next_error(&mut sleeper));
        assert_eq!(error.code(), Some(ErrorCode::FENCED_INSTANCE_ID), "{protocol:?}: {error}");
        awake.block_on(async {
            let outcome = heir.commit().await.unwrap();
            assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(6))]), "{protocol:?}");
            heir.close(PATIENCE).await.unwrap();
        });
    }
}

fn reading_pauses_goes_on_and_goes_elsewhere(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 2);
    (0..2).for_each(|partition| append(&mut client, topic, partition, 0..9));
    run(async {
        let mut consumer = consumer(&broker, &[]);
        assert!(consumer.next().await.is_none(), "nothing is read yet");
        consumer
            .assign([(t(topic, 0), Some(Start::Earliest)), (t(topic, 1), Some(Start::Earliest))])
            .unwrap();
        assert!(consumer.subscribe([topic]).is_err(), "not while partitions are assigned by name");
        consumer.pause(&[t(topic, 1)]).unwrap();
        for position in [0, 3, 6] {
            let records = next(&mut consumer).await;
            assert_eq!((records.partition(), records.position()), (&t(topic, 0), Offset(position)));
            records.done();
        }
        assert_eq!(
            (consumer.position(&t(topic, 0)), consumer.position(&t(topic, 1))),
            (Some(Offset(9)), Some(Offset(0)))
        );
        consumer.resume(&[t(topic, 1)]).unwrap();
        let records = next(&mut consumer).await;
        assert_eq!((records.partition(), offsets(&records)), (&t(topic, 1), vec![0, 1, 2]));

        // What was in hand at the old place does not count at the new one.
        consumer.seek(&t(topic, 1), Offset(7)).unwrap();
        records.done();
        let records = next(&mut consumer).await;
        assert_eq!(offsets(&records), [7, 8]);
        assert_eq!(
            (records.base_offset(), records.position(), records.next_offset()),
            (Offset(6), Offset(7), Offset(9))
        );
        assert_eq!(records.watermarks().high_watermark, Offset(9));
        assert!(!records.topic_id().is_zero());
        records.done();
        let outcome = consumer.commit().await.unwrap();
        assert_eq!(outcome.offsets, BTreeMap::from([(t(topic, 0), Offset(9)), (t(topic, 1), Offset(9))]));
        assert_eq!(outcome.void, BTreeMap::from([(t(topic, 1), 1)]));

        let places = [
            (Start::Earliest, 0),
            (Start::BeforeLatest(2), 7),
            (Start::At(Millis(1_700_000_000_003)), 3),
            (Start::AfterEarliest(4), 4),
        ];
        for (start, expected) in places {
            consumer.seek(&t(topic, 1), start).unwrap();
            let records = next(&mut consumer).await;
            assert_eq!(
                (records.partition(), records.position()),
                (&t(topic, 1), Offset(expected)),
                "{start:?}"
            );
        }
        consumer.seek(&t(topic, 1), Start::Latest).unwrap();
        append(&mut client, topic, 1, 9..12);
        while consumer.position(&t(topic, 1)).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = consumer.seek(&t(topic, 7), Offset(0)).unwrap_err();
        assert_eq!(error.to_string(), format!("{topic}-7 is not assigned to this consumer"));
    });
}

fn a_zombie_commits_nothing(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 1);
    append(&mut client, topic, 0, 0..6);
    for protocol in PROTOCOLS {
        let group: &'static str = protocol[protocol.len() - 1].1;
        // It hears of nothing by itself for as long as the story lasts.
        let settings = [("group.id", group), ("heartbeat.interval.ms", "20000")];
        run(async {
            let mut zombie = consumer(&broker, &[protocol, &settings, &[("client.id", "zombie")]]);
            zombie.subscribe([topic]).unwrap();
            next(&mut zombie).await.done();
            zombie.commit().await.unwrap();
            let held = next(&mut zombie).await;
            expel(&mut client, broker.name(group), protocol == CONSUMER, &zombie);

            let mut heir = consumer(&broker, &[protocol, &[("group.id", group)]]);
            heir.subscribe([topic]).unwrap();
            assert_eq!(offsets(&next(&mut heir).await), [3, 4, 5]);
            held.done();
            match zombie.commit().await {
                // It did not know yet.
                Err(error) => assert!(
                    matches!(
                        error.code(),
                        Some(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::STALE_MEMBER_EPOCH)
                    ),
                    "{error}"
                ),
                // It knew.
                Ok(outcome) => {
                    assert_eq!(
                        (outcome.offsets.get(&t(topic, 0)), outcome.void.get(&t(topic, 0))),
                        (None, Some(&1))
                    );
                }
            }
            let looker = consumer(&broker, &[protocol, &[("group.id", group)]]);
            assert_eq!(committed(&looker, topic, 0).await, Some(3));
            heir.close(Duration::ZERO).await.unwrap();
        });
    }
}

/// Takes the only member of a group for gone.
fn expel(client: &mut TestClient, group: &'static str, is_consumer: bool, _of: &Consumer) {
    if is_consumer {
        use wire::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
        let request = ConsumerGroupDescribeRequest { group_ids: vec![group.into()], ..Default::default() };
        let member = client.ask(request).groups[0].members[0].clone();
        let request = ConsumerGroupHeartbeatRequest {
            group_id: group.into(),
            member_id: member.member_id,
            member_epoch: -1,
            ..Default::default()
        };
        assert_eq!(client.ask(request).error_code, ErrorCode::NONE);
        return;
    }
    let request = DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() };
    let member_id = client.ask(request).groups[0].members[0].member_id.clone();
    let member = MemberIdentity { member_id, ..Default::default() };
    let request = LeaveGroupRequest { group_id: group.into(), members: vec![member], ..Default::default() };
    assert_eq!(client.ask(request).members[0].error_code, ErrorCode::NONE);
}

fn a_position_that_is_gone_stops_its_partition_alone_or_is_reset_and_counted(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 2);
    (0..2).for_each(|partition| append(&mut client, topic, partition, 0..9));
    let part = DeleteRecordsPartition { partition_index: 0, offset: 6 };
    let deleted = DeleteRecordsTopic { name: topic.into(), partitions: vec![part] };
    let request = DeleteRecordsRequest { topics: vec![deleted], timeout_ms: 10_000 };
    assert_eq!(client.ask(request).topics[0].partitions[0].error_code, ErrorCode::NONE);
    run(async {
        let mut consumer = self::consumer(&broker, &[&[("auto.offset.reset", "none")]]);
        let both = [t(topic, 0), t(topic, 1)].map(|partition| (partition, Some(Start::Offset(Offset(2)))));
        consumer.assign(both).unwrap();
        let error = next_error(&mut consumer).await;
        let Error::Stopped { partition, .. } = &error else { panic!("{error}") };
        assert_eq!((partition, error.code()), (&t(topic, 0), Some(ErrorCode::OFFSET_OUT_OF_RANGE)));
        // The other one is read on.
        append(&mut client, topic, 1, 9..12);
        while consumer.position(&t(topic, 1)) != Some(Offset(12)) {
            let records = next(&mut consumer).await;
            assert_eq!(records.partition(), &t(topic, 1));
            records.done();
        }
        consumer.seek(&t(topic, 0), Start::Earliest).unwrap();
        assert_eq!(offsets(&next(&mut consumer).await), [6, 7, 8]);
        assert_eq!(consumer.resets(), 0);

        let mut consumer = self::consumer(&broker, &[]);
        consumer.assign([(t(topic, 0), Some(Start::Offset(Offset(2))))]).unwrap();
        assert_eq!(offsets(&next(&mut consumer).await), [6, 7, 8]);
        assert_eq!(consumer.resets(), 1);
    });
}

/// A store that knows where to begin in one partition and not in the other.
#[derive(Default)]
struct Store {
    told: Mutex<Vec<String>>,
}

impl Offsets for Store {
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>> {
        Box::pin(async move {
            let load = |assigned: &Assigned| {
                assert!(!assigned.topic_id.is_zero() && assigned.epoch > 0);
                self.told.lock().unwrap().push(format!("load {}", assigned.partition));
                match assigned.partition.partition.0 {
                    0 => Ok(Some(Offset(4).into())),
                    1 => Err(Error::store("the store went back")),
                    _ => Ok(None),
                }
            };
            assigned.iter().map(load).collect()
        })
    }

    fn revoked<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let names = partitions.iter().map(|partition| format!("revoked {partition}"));
            self.told.lock().unwrap().extend(names);
        })
    }
}

fn a_store_says_where_to_begin_and_stops_what_it_cannot_answer_for(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let topic = broker.create_topic("t", 3);
    (0..3).for_each(|partition| append(&mut client, topic, partition, 0..6));
    for protocol in PROTOCOLS {
        let group = [("group.id", protocol[protocol.len() - 1].1)];
        let store = Arc::new(Store::default());
        run(async {
            let cluster = cluster(&broker, &[protocol, &group]);
            let mut consumer = Consumer::with_offsets(cluster, Arc::clone(&store) as _);
            consumer.subscribe([topic]).unwrap();
            let error = next_error(&mut consumer).await;
            assert_eq!(error.to_string(), format!("{topic}-1 is not read on: the store went back"));
            let mut firsts = BTreeMap::new();
            while firsts.len() < 2 {
                let records = next(&mut consumer).await;
                firsts.entry(records.partition().partition.0).or_insert(records.position().0);
                records.done();
            }
            consumer.seek(&t(topic, 1), Offset(5)).unwrap();
            while !firsts.contains_key(&1) {
                let records = next(&mut consumer).await;
                firsts.entry(records.partition().partition.0).or_insert(records.position().0);
            }
            assert_eq!(firsts[&1], 5);
            // Whoever finds something else than the store says stops the partition, too.
            consumer.stop(&t(topic, 2), Error::store("not what was stored")).unwrap();
            let error = next_error(&mut consumer).await;
            assert_eq!(error.to_string(), format!("{topic}-2 is not read on: not what was stored"));
            consumer.close(PATIENCE).await.unwrap();
        });
        let told = store.told.lock().unwrap();
        assert_eq!(
            *told,
            ["load", "revoked"]
                .map(|told| (0..3).map(|at| format!("{told} {topic}-{at}")).collect::<Vec<_>>())
                .concat(),
            "{protocol:?}"
        );
    }
}

fn what_cannot_work_is_said(place: Place) {
    let broker = place.start();
    run(async {
        let mut options = options(&broker, &[CONSUMER]);
        options.group_remote_assignor = Some("nobody's".to_owned());
        let mut consumer = Consumer::new(Cluster::new(options.clone(), Arc::new(TokioEnvironment)).unwrap());
        consumer.subscribe(["t"]).unwrap();
        let error = next_error(&mut consumer).await;
        assert_eq!(error.code(), Some(ErrorCode::UNSUPPORTED_ASSIGNOR), "{error}");
        assert!(consumer.next().await.is_none());
        options.group_id = None;
        let consumer = Consumer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap());
        let error = consumer.subscribe([Str::from("t")]).unwrap_err();
        assert_eq!(error.to_string(), "group.id= cannot be used: a name, to read as a member of a group");
        consumer.close(PATIENCE).await.unwrap();
    });
}

/// Where an example writes its lines.
struct Lines(mpsc::UnboundedSender<String>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn the_examples_do_what_they_say(place: Place) {
    let broker = place.start();
    let mut client = broker.client();
    let amounts = broker.create_topic("amounts", 1);
    let doubled = broker.create_topic("doubled", 1);
    let address = broker.addr().to_string();
    run(async {
        // Each time it is started, it goes on where its last transaction ended.
        for end in [9, 18] {
            append(&mut client, amounts, 0, end - 9..end);
            let mut reader = consumer(&broker, &[&[("isolation.level", "read_committed")]]);
            reader.assign([(t(doubled, 0), Some(Start::Earliest))]).unwrap();
            let mut seen = Vec::new();
            let all_seen = async {
                while seen.len() < end as usize {
                    let records = next(&mut reader).await;
                    seen.extend(records.iter().map(|record| record.value.clone().expect("an amount")));
                    records.done();
                }
            };
            consume_transform_produce::run(&address, amounts, doubled, all_seen).await.unwrap();
            let expected: Vec<_> = (0..end).map(|amount| (amount * 2).to_string()).collect();
            assert_eq!(seen, expected);
        }

        let (told, mut lines) = mpsc::unbounded_channel::<String>();
        let mut said = String::new();
        let all_said = async {
            while said.matches('\n').count() < 18 {
                said += &lines.recv().await.expect("it goes on");
            }
        };
        let group = broker.name("readers");
        consumer_example::run(&address, group, amounts, &mut Lines(told), all_said).await.unwrap();
        let expected: Vec<_> = (0..18).map(|at| format!("{amounts}-0 {at}: {at}")).collect();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
        let looker = consumer(&broker, &[&[("group.id", "readers")]]);
        assert_eq!(committed(&looker, amounts, 0).await, Some(18));
    });
}
