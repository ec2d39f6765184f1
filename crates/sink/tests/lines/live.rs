//! The offline line between a real broker and real files: dropped in the middle, taken over, with transactions, and stopped by what
//! it must not pass over.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{
    Admin, Cluster, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment,
};
use sink::{DeadLetter, Done, LocalFiles, Replayed, RunError, Settings, Until, Verified, Which};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Offset, PartitionId, Str, TopicPartition};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    broker: EmbeddedBroker,
    dir: TempDir,
}

impl World {
    async fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::builder().start().unwrap();
        let world = Self { broker, dir: TempDir::new().unwrap() };
        world.create(partitions).await;
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

    async fn create(&self, partitions: i32) {
        self.create_topic("orders", partitions).await;
    }

    async fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic {
            name: Str::copy_from(name),
            partitions: Some(partitions),
            replicas: Some(1),
            configs: Vec::new(),
        };
        let created = self.admin().create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));
    }

    async fn send(&self, partition: i32, values: impl IntoIterator<Item = String>) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut handles = Vec::new();
        for value in values {
            let mut record = ProducerRecord::new("orders", value);
            record.partition = Some(PartitionId(partition));
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

    fn settings(&self, more: &str) -> Settings {
        let table = self.table();
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n{more}\n[offline]\ntable = {table:?}\nroll_rows = 100\n"
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A line that goes on until it is stopped or dropped.
    fn start(&self, until: Until, more: &str) -> JoinHandle<Result<Vec<Done>, RunError>> {
        self.start_as("one", until, more)
    }

    fn start_as(&self, instance: &str, until: Until, more: &str) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(more), self.instance(instance));
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        tokio::spawn(async move { sink::run(&settings, options, environment, files, until, pending()).await })
    }

    /// An instance that goes on until it is told to stop.
    fn start_until(
        &self,
        instance: &str,
        stop: oneshot::Receiver<()>,
    ) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(""), self.instance(instance));
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        let stop = async move { stop.await.unwrap_or(()) };
        tokio::spawn(
            async move { sink::run(&settings, options, environment, files, Until::Stopped, stop).await },
        )
    }

    async fn run_to_end(&self, more: &str) -> Result<Vec<Done>, RunError> {
        timeout(PATIENCE, self.start(Until::End, more)).await.expect("it ends").unwrap()
    }

    async fn verified(&self) -> Vec<Verified> {
        self.verified_by("").await
    }

    async fn verified_by(&self, more: &str) -> Vec<Verified> {
        let (settings, cluster) = (self.settings(more), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        timeout(PATIENCE, verified).await.expect("it ends").unwrap()
    }

    async fn assert_whole(&self, records: u64) {
        let verified = self.verified().await;
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        assert_eq!(verified.iter().map(|one| one.records).sum::<u64>(), records);
        assert_eq!(verified.iter().map(|one| one.rows).sum::<u64>(), records);
    }

    async fn letters(&self, which: Which) -> Vec<DeadLetter> {
        let (settings, cluster) = (self.settings(WITH_LETTERS), self.cluster());
        let listed = sink::dead_letters(&settings, &cluster, which);
        timeout(PATIENCE, listed).await.expect("it ends").unwrap()
    }

    async fn replay(&self) -> Replayed {
        let (settings, options) = (self.settings(WITH_LETTERS), self.options());
        let replay = sink::replay(&settings, options, Arc::new(TokioEnvironment));
        timeout(PATIENCE, replay).await.expect("it ends").unwrap()
    }

    /// Sends a letter again, as one of another offset.
    async fn send_letter(&self, letter: &DeadLetter, offset: Offset) {
        let producer = Producer::new(self.cluster()).unwrap();
        let mut record = ProducerRecord::new("orders.dead", "again");
        record.headers = letter.record.headers.clone();
        for header in &mut record.headers {
            if &*header.key == "__connect.errors.offset" {
                header.value = Some(offset.to_string().into());
            }
        }
        producer.send(record).await.unwrap();
        producer.close(PATIENCE).await.unwrap();
    }

    /// Waits until so much is committed, in all partitions together.
    async fn until_committed(&self, offsets: i64) {
        timeout(PATIENCE, async {
            loop {
                let files = Arc::new(LocalFiles);
                let status = sink::status(&self.settings(""), &self.cluster(), files).await;
                let committed = |status: &sink::Status| status.committed.map_or(0, |offset| offset.0);
                if status.is_ok_and(|status| status.iter().map(committed).sum::<i64>() >= offsets) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it gets there");
    }
}

fn numbers(range: std::ops::Range<i32>) -> impl Iterator<Item = String> {
    range.map(|number| format!("{{\"id\":{number}}}"))
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

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_dropped_again_and_again_has_each_record_once() {
    let world = World::new(2).await;
    for round in 0..5 {
        world.send(0, numbers(0..300)).await;
        world.send(1, numbers(0..130)).await;
        let running = world.start(Until::Stopped, "");
        // Far enough to have committed something of this round, with more in hand.
        world.until_committed(round * 430 + 200).await;
        running.abort();
        let _ = running.await;
    }
    world.run_to_end("").await.unwrap();
    world.assert_whole(5 * 430).await;
    for file in parquet_files(&world.table()) {
        let path = file.strip_prefix(world.table()).unwrap().display().to_string();
        assert!(path.starts_with("dt=") && path.contains("/hour=") && path.contains("/orders-"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_takes_over_and_the_first_one_ends() {
    let world = World::new(1).await;
    world.send(0, numbers(0..150)).await;
    let first = world.start(Until::Stopped, "");
    world.until_committed(100).await;
    let second = world.start(Until::Stopped, "");
    world.send(0, numbers(0..500)).await;
    let refused = timeout(PATIENCE, first).await.expect("it ends").unwrap().unwrap_err();
    assert!(refused.to_string().contains("another instance"), "{refused}");
    // Of 650, what does not fill a range is in hand.
    world.until_committed(550).await;
    second.abort();
    let _ = second.await;
    world.run_to_end("").await.unwrap();
    world.assert_whole(650).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_partitions_and_take_over_from_one_another() {
    let world = World::new(4).await;
    for partition in 0..4 {
        world.send(partition, numbers(0..120)).await;
    }
    let (stop_first, stopped_first) = oneshot::channel();
    let (stop_second, stopped_second) = oneshot::channel();
    let first = world.start_until("a", stopped_first);
    world.until_committed(400).await;
    let second = world.start_until("b", stopped_second);
    let third = world.start_as("c", Until::Stopped, "");
    // What is given up is committed first: of each partition that moves, all 120.
    world.until_committed(440).await;
    for partition in 0..4 {
        world.send(partition, numbers(120..240)).await;
    }
    world.until_committed(800).await;
    // One dies, one leaves in order, and the last one has everything.
    third.abort();
    let _ = third.await;
    stop_first.send(()).unwrap();
    let first = timeout(PATIENCE, first).await.expect("it ends").unwrap().unwrap();
    for partition in 0..4 {
        world.send(partition, numbers(240..480)).await;
    }
    world.until_committed(1_600).await;
    stop_second.send(()).unwrap();
    let second = timeout(PATIENCE, second).await.expect("it ends").unwrap().unwrap();
    assert!(first.len() + second.len() > 4, "{first:?} {second:?}");
    assert_eq!(second.len(), 4, "{second:?}");
    world.run_to_end("").await.unwrap();
    world.assert_whole(1_920).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_where_all_instances_are_there() {
    let world = World::new(3).await;
    for partition in 0..3 {
        world.send(partition, numbers(0..250)).await;
    }
    let runs = ["a", "b", "c", "d"].map(|name| world.start_as(name, Until::End, ""));
    for run in runs {
        timeout(PATIENCE, run).await.expect("it ends").unwrap().unwrap();
        // Whichever ends first: nothing is missing then.
        world.assert_whole(750).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_took_back_is_not_in_the_table() {
    let world = World::new(1).await;
    let mut options = world.options();
    options.set("transactional.id", "t").unwrap();
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()).unwrap();
    producer.init_transactions().await.unwrap();
    for round in 0..6 {
        let transaction = producer.begin().await.unwrap();
        for number in 0..40 {
            let mut record = ProducerRecord::new("orders", format!("{number}"));
            record.partition = Some(PartitionId(0));
            transaction.send(record).await.unwrap();
        }
        match round % 2 {
            0 => transaction.commit().await.unwrap(),
            _ => transaction.abort().await.unwrap(),
        }
    }
    producer.close(PATIENCE).await.unwrap();
    world.run_to_end("").await.unwrap();
    world.assert_whole(120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_row_ends_it_by_name_with_what_came_before_committed() {
    let world = World::new(1).await;
    world.send(0, numbers(0..142).chain(["{\"id\":\"x\"}".to_owned()]).chain(numbers(0..10))).await;
    let json = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\" }]";
    let refused = world.run_to_end(json).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("orders-0 at offset 142, field \"id\": \"x\" is not a whole number of 64 bits"),
        "{refused}"
    );
    let verified = world.verified().await;
    assert!(verified[0].is_clean(), "{verified:?}");
    assert_eq!((verified[0].rows, verified[0].committed.unwrap().end.0), (142, 142));
    // The declaration is corrected, and it goes on behind.
    let text = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"string\" }]";
    let refused = world.run_to_end(text).await.unwrap_err().to_string();
    assert!(refused.starts_with("orders-0 at offset 143, field \"id\": 0 is not a string"), "{refused}");
    world.run_to_end("[value]\nformat = \"text\"").await.unwrap();
    world.assert_whole(153).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_gone_are_missed_also_where_retention_has_removed_the_first_records() {
    let world = World::new(1).await;
    world.send(0, numbers(0..300)).await;
    world.run_to_end("").await.unwrap();
    let sums = |all: &[Verified]| (all[0].rows, all[0].records, all[0].passed, all[0].missing, all[0].double);
    let partition = TopicPartition::new("orders", PartitionId(0));
    // In the middle of a range: the rest of it is compared all the same.
    world.admin().delete_records(&[(partition.clone(), Offset(50))]).await.unwrap();
    let verified = world.verified().await;
    assert!(verified[0].is_clean(), "{verified:?}");
    assert_eq!(sums(&verified), (300, 250, 50, 0, 0));

    for file in parquet_files(&world.table()) {
        std::fs::remove_file(file).unwrap();
    }
    let verified = world.verified().await;
    assert_eq!(sums(&verified), (0, 250, 0, 250, 0));
    let problem =
        "no file is there from 0 to 50, and the log begins at 50: what was there is in neither of them";
    assert_eq!(verified[0].findings[0].problem, problem);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_the_sinks_are_found_where_readers_would_see_them() {
    let world = World::new(1).await;
    world.send(0, numbers(0..20)).await;
    world.run_to_end("").await.unwrap();
    let file = parquet_files(&world.table()).remove(0);
    for name in ["copy.parquet", "orders-7-0-20.parquet", "notes.txt"] {
        std::fs::copy(&file, file.with_file_name(name)).unwrap();
    }
    let verified = world.verified().await;
    let problems: Vec<_> = verified[0].findings.iter().map(|finding| finding.problem.as_str()).collect();
    let expected = [
        "it is not the sink's, and readers of the table see its rows",
        "orders-7 is no partition of the topics, and readers of the table see its rows",
    ];
    assert_eq!(problems, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_and_a_store_that_is_gone_stop_it() {
    let world = World::new(1).await;
    world.send(0, numbers(0..50)).await;
    world.run_to_end("").await.unwrap();

    let store = world.table().join("_sink");
    std::fs::rename(&store, world.dir.path().join("kept")).unwrap();
    let refused = world.run_to_end("").await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "orders-0: the table holds [0, 50) and the store has committed 0 to 0 only: \
         the store has lost something, which `ottla sink repair` gives back, or the table is another's: a sink wants \
         a table of its own"
    );
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(world.dir.path().join("kept"), &store).unwrap();
    world.run_to_end("").await.unwrap();

    let deleted = world.admin().delete_topics(&[Str::from("orders")]).await.unwrap();
    assert!(deleted.iter().all(|(_, deleted)| deleted.is_ok()));
    world.create(1).await;
    world.send(0, numbers(0..80)).await;
    let refused = world.run_to_end("").await.unwrap_err().to_string();
    assert!(refused.contains("was deleted and created again"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sinks_that_begin_in_one_table_do_not_both_write_to_it() {
    let world = World::new(1).await;
    let table = world.table();
    let other = format!("name = \"other\"\ntopics = [\"orders\"]\n[offline]\ntable = {table:?}\n");
    let run = async |settings: Settings| {
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        sink::run(&settings, world.options(), environment, files, Until::End, pending()).await
    };
    // Nothing is there to be read yet: the table is empty when the second one comes.
    run(world.settings("")).await.unwrap();
    let refused = run(Settings::parse(&other).unwrap()).await.unwrap_err().to_string();
    let place = table.join("_staging/orders.offline/orders-0").display().to_string();
    assert_eq!(
        refused,
        format!(
            "orders-0 of line other.offline: another line writes it into this table, and a sink wants a table of its own; if \
             that one is gone for good, remove {place}"
        )
    );
    // It has left nothing that is in the way of the first.
    world.send(0, numbers(0..20)).await;
    run(world.settings("")).await.unwrap();
    world.assert_whole(20).await;
}

/// Numbers are rows, and what is not sent to a topic of its own.
const WITH_LETTERS: &str = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\" }]\n\
                            [dead_letters]\ntopic = \"orders.dead\"";

/// Every fifth is no number.
fn some_bad(range: std::ops::Range<i32>) -> impl Iterator<Item = String> {
    range.map(|number| match number % 5 {
        0 => format!("{{\"id\":\"bad {number}\"}}"),
        _ => format!("{{\"id\":{number}}}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_converted_is_among_the_dead_letters_once_whatever_is_dropped_when() {
    let world = World::new(2).await;
    let refused = world.run_to_end(WITH_LETTERS).await.unwrap_err().to_string();
    assert!(refused.contains("topic orders.dead does not exist"), "{refused}");
    world.create_topic("orders.dead", 3).await;
    for round in 0..5 {
        world.send(0, some_bad(0..300)).await;
        world.send(1, some_bad(0..130)).await;
        let running = world.start(Until::Stopped, WITH_LETTERS);
        // Far enough to have committed something of this round, with more in hand.
        world.until_committed(round * 430 + 200).await;
        running.abort();
        let _ = running.await;
    }
    // Nothing but letters.
    world.send(1, (0..7).map(|_| "no JSON".to_owned())).await;
    world.run_to_end(WITH_LETTERS).await.unwrap();
    world.send(0, (0..7).map(|_| "no JSON".to_owned())).await;
    let done = world.run_to_end(WITH_LETTERS).await.unwrap();
    assert_eq!(done.iter().map(|done| (done.records, done.letters)).collect::<Vec<_>>(), [(7, 7), (0, 0)]);

    let verified = world.verified_by(WITH_LETTERS).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    let sum = |of: fn(&Verified) -> u64| verified.iter().map(of).sum::<u64>();
    assert_eq!((sum(|one| one.records), sum(|one| one.rows), sum(|one| one.letters)), (2164, 1720, 444));

    // A letter that is there again is found, and so is one that is in the table as well.
    let letters = world.letters(Which::All).await;
    assert_eq!(letters.len(), 444);
    world.send_letter(&letters[0], letters[0].offset).await;
    let double: u64 = world.verified_by(WITH_LETTERS).await.iter().map(|one| one.double).sum();
    assert_eq!(double, 1);
    let row = Offset(1);
    world.send_letter(&letters[0], row).await;
    let double: u64 = world.verified_by(WITH_LETTERS).await.iter().map(|one| one.double).sum();
    assert_eq!(double, 2);
    // Without their topic, they are missing.
    let missing: u64 = world.verified().await.iter().map(|one| one.missing).sum();
    assert_eq!(missing, 444);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_back_once_as_they_were() {
    let world = World::new(2).await;
    world.create_topic("orders.dead", 2).await;
    world.send(1, some_bad(0..250)).await;
    world.run_to_end(WITH_LETTERS).await.unwrap();
    let letters = world.letters(Which::Waiting).await;
    assert_eq!(letters.len(), 50);
    assert_eq!(letters[0].partition, TopicPartition::new("orders", PartitionId(1)));
    let message = "\"bad 0\" is not a whole number of 64 bits";
    assert!(letters.iter().any(|letter| letter.offset == Offset(0) && letter.message.contains(message)));
    // Somebody else's, in the same topic.
    let producer = Producer::new(world.cluster()).unwrap();
    producer.send(ProducerRecord::new("orders.dead", "another sink's")).await.unwrap();
    producer.close(PATIENCE).await.unwrap();

    // Dropped somewhere, and begun again.
    for patience in 0..20 {
        let (settings, options) = (world.settings(WITH_LETTERS), world.options());
        let replay = sink::replay(&settings, options, Arc::new(TokioEnvironment));
        let _ = timeout(Duration::from_millis(patience * 3), replay).await;
    }
    assert!(world.replay().await.sent <= 50);
    assert_eq!(world.replay().await, Replayed::default());
    assert_eq!(world.letters(Which::Waiting).await, []);
    assert_eq!(world.letters(Which::All).await.len(), 50);

    // They come as records anew, and by a declaration that takes them they are rows.
    world.run_to_end("[value]\nformat = \"text\"").await.unwrap();
    let verified = world.verified_by(WITH_LETTERS).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    let one = &verified[1];
    assert_eq!((one.records, one.rows, one.letters), (300, 250, 50));
}
