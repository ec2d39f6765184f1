//! The near-real-time line, alone and beside the offline one, between a real broker and itself: dropped in the middle, paused and
//! taken over, with transactions, and stopped by what it must not pass over.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, ConsumedRecord, Consumer, ConsumerGroupMetadata, Execution, Header, Isolation, NewTopic,
    OffsetSpec, Options, Producer, ProducerRecord, Start, TokioEnvironment,
};
use sink::{Done, LINE_HEADER, Line, LocalFiles, RunError, SOURCE_HEADER, Settings, Status, Until, Verified};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Millis, Offset, PartitionId, Str, TopicPartition};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const NEARLINE: &str = "[nearline]\ntopic = \"out\"\nflush_rows = 50\n";

struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
}

impl World {
    async fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap() };
        world.create("orders", partitions).await;
        world.create("out", partitions).await;
        world
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.isolation_level = Isolation::ReadCommitted;
        options.set("bootstrap.servers", &self.broker.bootstrap_servers()).unwrap();
        options.set("fetch.max.wait.ms", "50").unwrap();
        options.set("max.poll.records", "37").unwrap();
        options
    }

    /// Of one of those that share the partitions.
    fn instance(&self, name: &str) -> Options {
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

    fn cluster(&self) -> Cluster {
        Cluster::new(self.options(), Arc::new(TokioEnvironment)).unwrap()
    }

    fn admin(&self) -> Admin {
        Admin::new(self.cluster())
    }

    async fn create(&self, name: &str, partitions: i32) {
        let topic = NewTopic {
            name: Str::copy_from(name),
            partitions: Some(partitions),
            replicas: Some(1),
            configs: Vec::new(),
        };
        let created = self.admin().create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
    }

    async fn delete(&self, name: &str) {
        let deleted = self.admin().delete_topics(&[Str::copy_from(name)]).await.unwrap();
        assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));
    }

    fn producer(&self, transactional_id: Option<&str>) -> Producer {
        let mut options = self.options();
        options.transactional_id = transactional_id.map(str::to_owned);
        Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap()
    }

    async fn send(&self, partition: i32, numbers: std::ops::Range<i32>) {
        let producer = self.producer(None);
        let mut handles = Vec::new();
        for number in numbers {
            handles.push(producer.enqueue(record(partition, number)).await.unwrap());
        }
        for handle in handles {
            handle.await.unwrap();
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn settings(&self, lines: &str) -> Settings {
        let text = format!("name = \"orders\"\ntopics = [\"orders\"]\n{lines}");
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn both(&self) -> String {
        let table = self.dir.path().join("orders");
        format!("{NEARLINE}[offline]\ntable = {table:?}\nroll_rows = 100\n")
    }

    fn start(&self, until: Until, lines: &str) -> JoinHandle<Result<Vec<Done>, RunError>> {
        self.start_as("one", until, lines)
    }

    fn start_as(&self, instance: &str, until: Until, lines: &str) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(lines), self.instance(instance));
        tokio::spawn(run(settings, options, until))
    }

    async fn run_to_end(&self, lines: &str) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(Until::End, lines)).await.expect("it ends").unwrap()
    }

    async fn refused(&self, lines: &str) -> String {
        self.run_to_end(lines).await.expect_err("it is refused").to_string()
    }

    async fn status(&self, lines: &str) -> Result<Vec<Status>, RunError> {
        sink::status(&self.settings(lines), &self.cluster(), Arc::new(LocalFiles)).await
    }

    async fn until_committed(&self, lines: &str, line: Line, offsets: i64) {
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

    async fn verified(&self, lines: &str) -> Vec<Verified> {
        let (settings, cluster) = (self.settings(lines), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        timeout(PATIENCE, verified).await.expect("it ends").unwrap()
    }

    /// Sends what was read once more, as it is.
    async fn send_again(&self, record: &ConsumedRecord) {
        let again = ProducerRecord {
            topic: record.topic.clone(),
            partition: Some(record.partition),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.clone(),
            timestamp: Some(record.timestamp),
        };
        let producer = self.producer(None);
        producer.send(again).await.unwrap();
        producer.close(PATIENCE).await.unwrap();
    }

    /// Gives the line the positions that it has in `out` in another topic.
    async fn forge_positions_in(&self, topic: &str) {
        let admin = self.admin();
        let ids = admin.describe_topics(&[Str::from("out"), Str::copy_from(topic)]).await.unwrap();
        let [out, other_id] = [0, 1].map(|at| ids[at].1.as_ref().unwrap().id.to_string());
        let group = Str::from("orders.nearline");
        let partition = TopicPartition::new(Str::from("orders"), PartitionId(0));
        let mut kept = admin.group_offsets(&group).await.unwrap().committed.remove(&partition).unwrap();
        kept.metadata = kept.metadata.map(|metadata| Str::copy_from(&metadata.replace(&out, &other_id)));
        let producer = self.producer(Some("forger"));
        producer.init_transactions().await.unwrap();
        let transaction = producer.begin().await.unwrap();
        let as_group = ConsumerGroupMetadata::of_group(group);
        transaction.send_positions([(partition, kept)], &as_group).await.unwrap();
        transaction.commit().await.unwrap();
        producer.close(PATIENCE).await.unwrap();
    }

    async fn end(&self, topic: &str, isolation: Isolation) -> i64 {
        let partition = TopicPartition::new(Str::copy_from(topic), PartitionId(0));
        let listed = self.admin().list_offsets(&[(partition, OffsetSpec::Latest)], isolation).await.unwrap();
        listed[0].1.as_ref().unwrap().offset.unwrap().0
    }

    /// What readers of committed records see of a topic, by partition.
    async fn records(&self, topic: &str, partitions: i32) -> BTreeMap<i32, Vec<ConsumedRecord>> {
        let mut all = BTreeMap::new();
        for number in 0..partitions {
            let partition = TopicPartition::new(Str::copy_from(topic), PartitionId(number));
            let spec = [(partition.clone(), OffsetSpec::Latest)];
            let listed = self.admin().list_offsets(&spec, Isolation::ReadCommitted).await.unwrap();
            let end = listed[0].1.as_ref().unwrap().offset.unwrap();
            let mut consumer = Consumer::new(self.cluster());
            consumer.assign([(partition.clone(), Some(Start::Earliest))]).unwrap();
            let records: &mut Vec<ConsumedRecord> = all.entry(number).or_default();
            while consumer.position(&partition).is_none_or(|position| position < end) {
                if let Ok(next) = timeout(Duration::from_millis(20), consumer.next()).await {
                    let next = next.unwrap().unwrap();
                    records.extend(next.iter().cloned());
                    next.done();
                }
            }
            records.retain(|record| record.offset < end);
        }
        all
    }

    /// Each visible record of the input is in the output, as it is, once and in order.
    async fn assert_whole(&self, partitions: i32, expected: usize) {
        let inputs = self.records("orders", partitions).await;
        let outputs = self.records("out", partitions).await;
        assert_eq!(inputs.values().map(Vec::len).sum::<usize>(), expected);
        for (partition, input) in &inputs {
            let output = &outputs[partition];
            assert_eq!(input.len(), output.len(), "of partition {partition}");
            for (input, output) in input.iter().zip(output) {
                let [own @ .., source, line] = &output.headers[..] else { panic!("{output:?}") };
                let place = format!("orders:{partition}:{}", input.offset);
                assert_eq!((&*source.key, source.value.as_deref()), (SOURCE_HEADER, Some(place.as_bytes())));
                assert_eq!((&*line.key, line.value.as_deref()), (LINE_HEADER, Some(&b"orders.nearline"[..])));
                assert_eq!(own, input.headers);
                assert_eq!((&input.key, &input.value), (&output.key, &output.value));
                assert_eq!(input.timestamp, output.timestamp);
            }
        }
    }
}

fn record(partition: i32, number: i32) -> ProducerRecord {
    let mut record = ProducerRecord::new("orders", format!("value {number}"));
    record.partition = Some(PartitionId(partition));
    record.key = (number % 3 > 0).then(|| format!("key {number}").into());
    record.value = record.value.filter(|_| number % 7 > 0);
    record.timestamp = Some(Millis(1_700_000_000_000 + i64::from(number)));
    record.headers = vec![Header { key: "a".into(), value: None }; number as usize % 3];
    record
}

async fn run(settings: Settings, options: Options, until: Until) -> Result<Vec<Done>, RunError> {
    sink::run(&settings, options, Arc::new(TokioEnvironment), Arc::new(LocalFiles), until, pending()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_lines_that_are_dropped_again_and_again_have_each_record_once() {
    let world = World::new(2).await;
    let both = world.both();
    for round in 0..6 {
        world.send(0, 0..300).await;
        world.send(1, 0..130).await;
        let running = world.start(Until::Stopped, &both);
        // Far enough to have committed something of this round, with more in hand.
        let line = if round % 2 == 0 { Line::Nearline } else { Line::Offline };
        world.until_committed(&both, line, i64::from(round) * 430 + 150).await;
        running.abort();
        let _ = running.await;
    }
    let done = world.run_to_end(&both).await.unwrap();
    let lines: Vec<_> = done.iter().map(|done| (done.line, done.partition.partition.0, done.to.0)).collect();
    let expected = [
        (Line::Offline, 0, 1800),
        (Line::Offline, 1, 780),
        (Line::Nearline, 0, 1800),
        (Line::Nearline, 1, 780),
    ];
    assert_eq!(lines, expected);
    world.assert_whole(2, 6 * 430).await;
    let status = world.status(&both).await.unwrap();
    assert!(status.iter().all(|one| (one.lag, one.ahead) == (0, Some(0))), "{status:?}");
    let verified = world.verified(&both).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    let rows: Vec<_> = verified.iter().map(|one| (one.line, one.rows, one.records)).collect();
    let expected = [
        (Line::Offline, 1800, 1800),
        (Line::Offline, 780, 780),
        (Line::Nearline, 1800, 1800),
        (Line::Nearline, 780, 780),
    ];
    assert_eq!(rows, expected);
    let common: Vec<_> = verified.iter().map(|one| one.common.map(|range| range.end.0)).collect();
    assert_eq!(common, [None, None, Some(1800), Some(780)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_table_are_in_the_output_as_they_were_and_the_lines_agree() {
    let world = World::new(1).await;
    world.create("dead", 1).await;
    let more = "[dead_letters]\ntopic = \"dead\"\n\
                [value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\", required = true }]\n";
    let both = format!("{more}{}", world.both());
    world.send(0, 0..150).await;
    let producer = world.producer(None);
    for number in 0..60 {
        let mut row = ProducerRecord::new("orders", format!("{{\"id\":{number}}}"));
        row.partition = Some(PartitionId(0));
        producer.send(row).await.unwrap();
    }
    producer.close(PATIENCE).await.unwrap();
    let done = world.run_to_end(&both).await.unwrap();
    let counts: Vec<_> = done.iter().map(|done| (done.line, done.records, done.letters)).collect();
    assert_eq!(counts, [(Line::Offline, 210, 150), (Line::Nearline, 210, 0)]);
    let verified = world.verified(&both).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    let counts: Vec<_> = verified.iter().map(|one| (one.line, one.records, one.rows, one.letters)).collect();
    assert_eq!(counts, [(Line::Offline, 210, 60, 150), (Line::Nearline, 210, 210, 0)]);
    assert_eq!(verified[1].common.map(|range| range.end), Some(Offset(210)));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_is_double_missing_and_another() {
    let world = World::new(1).await;
    let both = world.both();
    world.send(0, 0..100).await;
    world.run_to_end(&both).await.unwrap();
    let written = world.records("out", 1).await.remove(&0).unwrap();
    let sums = |all: &[Verified]| {
        let one = all.iter().find(|one| one.line == Line::Nearline).unwrap();
        (one.rows, one.records, one.missing, one.double, one.passed, one.findings.len())
    };
    assert_eq!(sums(&world.verified(&both).await), (100, 100, 0, 0, 0, 0));

    // What others write is not the line's, and is left alone.
    world.send_again(&ConsumedRecord { headers: Vec::new(), ..written[0].clone() }).await;
    assert_eq!(sums(&world.verified(&both).await), (100, 100, 0, 0, 0, 0));

    // Twice. The lines hold different records then, too.
    world.send_again(&written[41]).await;
    let all = world.verified(&both).await;
    assert_eq!(sums(&all), (101, 100, 0, 1, 0, 1));
    assert_eq!(
        all[1].findings[0].to_string(),
        "orders-0 [0, 100): the lines do not hold the same records: their numbers differ, with 100 in the table and \
         101 in the output topic"
    );
    assert!(all[0].is_clean(), "{all:?}");

    // The output loses its beginning: that is what retention does, and no fault.
    let out = TopicPartition::new(Str::from("out"), PartitionId(0));
    world.admin().delete_records(&[(out.clone(), written[10].offset)]).await.unwrap();
    assert_eq!(sums(&world.verified(NEARLINE).await), (91, 90, 0, 1, 10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_record_that_is_missing_in_the_middle_and_one_that_is_another() {
    let world = World::new(1).await;
    let both = world.both();
    world.send(0, 0..100).await;
    world.run_to_end(&both).await.unwrap();
    let written = world.records("out", 1).await.remove(&0).unwrap();

    // A second output, with the same records but for one that is left out and one that is changed; and the positions of the first.
    world.create("other", 1).await;
    for record in written.iter().filter(|record| record.offset != written[60].offset) {
        let mut record = ConsumedRecord { topic: "other".into(), ..record.clone() };
        if record.offset == written[30].offset {
            record.value = Some("forged".into());
        }
        world.send_again(&record).await;
    }
    let other = both.replace("\"out\"", "\"other\"");
    let all = world.verified(&other).await;
    assert!(all[1].findings[0].problem.contains("is of what is in the output topic with id"), "{all:?}");

    world.forge_positions_in("other").await;

    let all = world.verified(&other).await;
    assert_eq!((all[1].rows, all[1].records, all[1].missing, all[1].double), (99, 100, 1, 0));
    let found: Vec<_> = all[1].findings.iter().map(ToString::to_string).collect();
    assert_eq!(found[0], "other-0 at offset 30: it is not what orders-0 at offset 30 is");
    assert!(
        found[1].ends_with("their numbers differ, with 100 in the table and 99 in the output topic"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_partitions_and_take_over_from_one_another() {
    let world = World::new(4).await;
    let first = world.start_as("a", Until::Stopped, NEARLINE);
    let second = world.start_as("b", Until::Stopped, NEARLINE);
    for round in 0..3 {
        for partition in 0..4 {
            world.send(partition, 100 * round..100 * (round + 1)).await;
        }
        world.until_committed(NEARLINE, Line::Nearline, 400 * (i64::from(round) + 1)).await;
    }
    first.abort();
    let _ = first.await;
    for partition in 0..4 {
        world.send(partition, 300..400).await;
    }
    world.until_committed(NEARLINE, Line::Nearline, 1_600).await;
    second.abort();
    let _ = second.await;
    world.run_to_end(NEARLINE).await.unwrap();
    world.assert_whole(4, 1_600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_outputs_retention_cannot_have_removed_is_missing() {
    let world = World::new(1).await;
    world.send(0, 0..100).await;
    world.run_to_end(NEARLINE).await.unwrap();
    let written = world.records("out", 1).await.remove(&0).unwrap();

    // An output from which three records of somebody else were removed, and which never had the first ten of the line.
    world.create("other", 1).await;
    let others = std::iter::repeat_n(ConsumedRecord { headers: Vec::new(), ..written[0].clone() }, 3);
    for record in others.chain(written[10..].iter().cloned()) {
        world.send_again(&ConsumedRecord { topic: "other".into(), ..record }).await;
    }
    world.forge_positions_in("other").await;
    let other = TopicPartition::new(Str::from("other"), PartitionId(0));
    let admin = world.admin();
    admin.delete_records(&[(other.clone(), Offset(3))]).await.unwrap();
    let lines = NEARLINE.replace("\"out\"", "\"other\"");
    let one = &world.verified(&lines).await[0];
    assert_eq!((one.rows, one.records, one.passed, one.missing), (90, 97, 3, 7));
    // All of the line's is gone; that much it was.
    admin.delete_records(&[(other, Offset(93))]).await.unwrap();
    let one = &world.verified(&lines).await[0];
    assert_eq!((one.rows, one.records, one.passed, one.missing), (0, 7, 93, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_paused_with_a_transaction_open_commits_nothing_once_it_is_taken_over() {
    let ended = paused_with_a_transaction_open("one").await.expect("its name is another's").unwrap_err();
    assert!(ended.to_string().contains("was taken over by another instance"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_paused_for_longer_than_its_session_commits_nothing_of_what_it_had() {
    // It is a member like any other again.
    assert!(paused_with_a_transaction_open("two").await.is_none());
}

/// The first instance has this name, and its successor is called one. How the first one has ended, if it has not gone on.
async fn paused_with_a_transaction_open(instance: &str) -> Option<Result<Vec<Done>, RunError>> {
    let world = World::new(1).await;
    let slow = "[nearline]\ntopic = \"out\"\nflush_age = \"25s\"\nflush_rows = 150\n";
    world.send(0, 0..100).await;
    // A process of its own: all of it stands still at once.
    let (settings, options) = (world.settings(slow), world.instance(instance));
    let (pause, pauses) = mpsc::channel::<()>();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let first = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let running = tokio::spawn(run(settings, options, Until::Stopped));
            while pauses.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            goes_on.recv().unwrap();
            while !running.is_finished() {
                if pauses.try_recv().is_ok() {
                    return None;
                }
                tokio::task::yield_now().await;
            }
            Some(running.await.unwrap())
        })
    });
    timeout(PATIENCE, async {
        while world.end("out", Isolation::ReadUncommitted).await < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it has written");
    assert_eq!(world.end("out", Isolation::ReadCommitted).await, 0);
    pause.send(()).unwrap();

    let second = world.start(Until::Stopped, NEARLINE);
    world.until_committed(NEARLINE, Line::Nearline, 100).await;
    world.send(0, 100..200).await;
    world.until_committed(NEARLINE, Line::Nearline, 200).await;
    // Awake, with 100 records in a transaction that is none, and with 100 more before it.
    go_on.send(()).unwrap();
    let ended = match instance {
        "one" => tokio::task::spawn_blocking(move || first.join().unwrap()).await.unwrap(),
        _ => None,
    };
    world.send(0, 200..250).await;
    world.until_committed(NEARLINE, Line::Nearline, 250).await;
    second.abort();
    let _ = second.await;
    world.run_to_end(NEARLINE).await.unwrap();
    world.assert_whole(1, 250).await;
    // Nobody listens to a thread that has ended.
    let _ = pause.send(());
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_of_the_input_is_waited_for_and_one_taken_back_is_left_out() {
    let world = World::new(1).await;
    let producer = world.producer(Some("t"));
    producer.init_transactions().await.unwrap();
    for round in 0..6 {
        let transaction = producer.begin().await.unwrap();
        for number in 0..40 {
            transaction.send(record(0, number)).await.unwrap();
        }
        match round % 2 {
            0 => transaction.commit().await.unwrap(),
            _ => transaction.abort().await.unwrap(),
        }
    }
    let open = producer.begin().await.unwrap();
    open.send(record(0, 0)).await.unwrap();
    world.send(0, 0..10).await;
    let done = world.run_to_end(NEARLINE).await.unwrap();
    // Every transaction ends with a marker, and what was taken back is passed.
    assert_eq!((done[0].records, done[0].to), (120, Offset(6 * 41)));
    world.assert_whole(1, 120).await;
    open.commit().await.unwrap();
    assert_eq!(world.run_to_end(NEARLINE).await.unwrap()[0].records, 11);
    world.assert_whole(1, 131).await;
    producer.close(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_and_positions_that_are_gone_or_set_by_hand_stop_it() {
    let world = World::new(1).await;
    let group = Str::from("orders.nearline");
    let partition = TopicPartition::new(Str::from("orders"), PartitionId(0));
    world.send(0, 0..50).await;
    world.run_to_end(NEARLINE).await.unwrap();

    let kept = world.admin().group_offsets(&group).await.unwrap().committed[&partition].clone();
    assert!(kept.metadata.unwrap().starts_with("ottla.sink/1 topic="));
    let by_hand = [(partition.clone(), Offset(20))];
    world.admin().set_group_offsets(&group, &by_hand).await.unwrap();
    let refused = world.refused(NEARLINE).await;
    assert!(refused.contains("was not committed by the line: 20 with the metadata \"\""), "{refused}");

    world.admin().delete_groups(std::slice::from_ref(&group)).await;
    let refused = world.refused(NEARLINE).await;
    assert!(refused.contains("is gone, and out-0 holds what was at offset 0"), "{refused}");

    world.delete("orders").await;
    world.create("orders", 1).await;
    world.send(0, 0..80).await;
    let refused = world.refused(NEARLINE).await;
    assert!(refused.contains("deleted and created again"), "{refused}");
    assert_eq!(world.records("out", 1).await[&0].len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_a_position_waits_for_what_may_hide_its_own_records() {
    let world = World::new(1).await;
    // It has a position by the time that somebody else's transaction is open.
    world.run_to_end(NEARLINE).await.unwrap();
    let producer = world.producer(Some("another"));
    producer.init_transactions().await.unwrap();
    let open = producer.begin().await.unwrap();
    open.send(ProducerRecord { topic: "out".into(), ..record(0, 1) }).await.unwrap();
    world.send(0, 0..50).await;
    world.run_to_end(NEARLINE).await.unwrap();
    world.admin().delete_groups(&[Str::from("orders.nearline")]).await;
    assert_eq!(world.end("out", Isolation::ReadCommitted).await, 0, "nothing of it is to be seen");
    let running = world.start(Until::End, NEARLINE);
    open.commit().await.unwrap();
    let refused = timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err().to_string();
    assert!(refused.contains("is gone, and out-0 holds what was at offset 0"), "{refused}");
    producer.close(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_a_position_begins_only_if_asked_where_the_output_has_lost_its_beginning() {
    let world = World::new(1).await;
    world.send(0, 0..50).await;
    world.run_to_end(NEARLINE).await.unwrap();
    world.admin().delete_groups(&[Str::from("orders.nearline")]).await;
    let out = TopicPartition::new(Str::from("out"), PartitionId(0));
    let end = Offset(world.end("out", Isolation::ReadCommitted).await);
    world.admin().delete_records(&[(out, end)]).await.unwrap();
    let refused = world.refused(NEARLINE).await;
    let expected = format!("is gone or never was, and out-0 begins at {end} by now");
    assert!(refused.contains(&expected) && refused.contains("if_removed = \"begin\""), "{refused}");
    let begin = format!("{NEARLINE}if_removed = \"begin\"\n");
    assert_eq!(world.run_to_end(&begin).await.unwrap()[0].records, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_under_a_line_that_reads_it_stops_it() {
    let world = World::new(1).await;
    world.send(0, 0..50).await;
    let running = world.start(Until::Stopped, NEARLINE);
    world.until_committed(NEARLINE, Line::Nearline, 50).await;
    world.delete("orders").await;
    world.create("orders", 1).await;
    world.send(0, 0..80).await;
    let ended = timeout(PATIENCE, running).await.expect("it ends").unwrap();
    let refused = ended.unwrap_err().to_string();
    assert!(refused.contains("orders"), "{refused}");
    assert_eq!(world.records("out", 1).await[&0].len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_before_it_was_read_stops_it_with_the_place() {
    let world = World::new(1).await;
    world.send(0, 0..50).await;
    world.run_to_end(NEARLINE).await.unwrap();
    world.send(0, 0..50).await;
    let partition = TopicPartition::new(Str::from("orders"), PartitionId(0));
    world.admin().delete_records(&[(partition, Offset(70))]).await.unwrap();
    let refused = world.refused(NEARLINE).await;
    assert_eq!(
        refused,
        "orders-0 of line orders.nearline stops: records that were not read yet have been removed (retention, or \
         deleted by hand); committed 50, found 70, log 70 to 100"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_take_it_is_refused() {
    let world = World::new(1).await;
    let refused = world.refused("[nearline]\ntopic = \"nowhere\"\n").await;
    assert!(refused.starts_with("the output topic nowhere is not there"), "{refused}");
    world.create("wide", 3).await;
    let text = "name = \"wide\"\ntopics = [\"wide\"]\n[nearline]\ntopic = \"out\"\n";
    let settings = Settings::parse(text).unwrap();
    let refused = run(settings, world.options(), Until::End).await.unwrap_err().to_string();
    assert!(refused.contains("has 1 partitions") && refused.contains("wide-2 needs 3"), "{refused}");
    let refused = world.refused("[nearline]\ntopic = \"out\"\nflush_age = \"40s\"\n").await;
    assert!(refused.contains("transaction.timeout.ms"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_one_line_ends_the_other_in_order() {
    let world = World::new(1).await;
    world.send(0, 0..142).await;
    // Tombstones are no JSON objects, and the first record is one.
    let json = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\" }]\n";
    let lines = format!("{json}{}", world.both());
    let refused = timeout(PATIENCE, world.start(Until::Stopped, &lines)).await.expect("it ends").unwrap();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.starts_with("orders-0 at offset "), "{refused}");
    world.run_to_end(NEARLINE).await.unwrap();
    world.assert_whole(1, 142).await;
}
