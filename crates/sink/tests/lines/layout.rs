//! Tables that are laid out by fields of the value: where rows lie and what readers make of it, and instances that die over them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::support::Fate;
use crate::support::instances::{Kept, Positions, World};
use crate::support::line::{FIRST, Habits, SECOND, is_letter, log};
use crate::support::parquet_file::ParquetFile;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use broker::embedded::EmbeddedBroker;
use bytes::Bytes;
use client::{
    Admin, Cluster, ConsumedRecord, Execution, Isolation, NewTopic, Options, Producer, ProducerRecord,
    TokioEnvironment,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sink::{Compaction, Expiry, Format, JsonField, Kind, Layout, LocalFiles, Settings, Until, Verified};
use tempfile::TempDir;
use tokio::time::timeout;
use wire::{Millis, Offset, Str};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// When records are sent, as they say themselves; what they tell of was at other times.
const SENT_MS: i64 = 1_700_000_000_000;

/// A broker with one topic, and a table of it.
struct Line {
    broker: EmbeddedBroker,
    dir: TempDir,
}

impl Line {
    async fn new() -> Self {
        let line = Self { broker: EmbeddedBroker::builder().start().unwrap(), dir: TempDir::new().unwrap() };
        for name in ["orders", "orders.dead"] {
            let topic = NewTopic {
                name: Str::copy_from(name),
                partitions: Some(1),
                replicas: Some(1),
                configs: Vec::new(),
            };
            let created = Admin::new(line.cluster()).create_topics(&[topic], Execution::Apply).await.unwrap();
            assert!(created.iter().all(|(_, created)| created.is_ok()));
        }
        line
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

    fn table(&self) -> PathBuf {
        self.dir.path().join("orders")
    }

    async fn send(&self, values: &[String]) {
        let producer = Producer::new(self.cluster()).unwrap();
        for value in values {
            let mut record = ProducerRecord::new("orders", value.clone());
            record.timestamp = Some(Millis(SENT_MS));
            producer.enqueue(record).await.unwrap().await.unwrap();
        }
        producer.close(PATIENCE).await.unwrap();
    }

    fn settings(&self, layout: &str) -> Settings {
        let fields = ["id:int64", "at:timestamp", "city:string", "shop:int32"].map(|field| {
            let (name, kind) = field.split_once(':').unwrap();
            format!("{{ name = {name:?}, type = {kind:?} }}")
        });
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n[value]\nformat = \"json\"\nfields = [{}]\n[dead_letters]\ntopic = \"orders.dead\"\n[offline]\ntable = {:?}\n{layout}\n",
            fields.join(", "),
            self.table()
        );
        Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    async fn run_to_end(&self, layout: &str) {
        let (settings, options) = (self.settings(layout), self.options());
        let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
        let run = sink::run(&settings, options, environment, files, Until::End, pending());
        timeout(PATIENCE, run).await.expect("it ends").unwrap();
    }

    async fn verified(&self, layout: &str) -> Verified {
        let (settings, cluster) = (self.settings(layout), self.cluster());
        let verified = sink::verify(&settings, &cluster, Arc::new(LocalFiles));
        let mut verified = timeout(PATIENCE, verified).await.expect("it ends").unwrap();
        assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
        verified.remove(0)
    }

    /// The ids in each directory, and which columns the files there have.
    fn rows(&self) -> BTreeMap<String, (Vec<i64>, String)> {
        let mut rows: BTreeMap<String, (Vec<i64>, String)> = BTreeMap::new();
        for path in parquet_files(&self.table()) {
            let directory = path.parent().unwrap().strip_prefix(self.table()).unwrap();
            let of_directory = rows.entry(directory.to_str().unwrap().to_owned()).or_default();
            let file = std::fs::File::open(&path).unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
                of_directory.0.extend(ids.values());
                let fields = batch.schema();
                of_directory.1 =
                    fields.fields().iter().map(|field| &**field.name()).collect::<Vec<_>>().join(" ");
            }
        }
        rows
    }

    fn assert_rows(&self, columns: &str, expected: &[(&str, &[i64])]) {
        let expected = expected
            .iter()
            .map(|(directory, ids)| ((*directory).to_owned(), (ids.to_vec(), columns.to_owned())));
        assert_eq!(self.rows(), expected.collect());
    }
}

fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if path.file_name().unwrap().to_str().unwrap().starts_with('_') => {}
            true => found.extend(parquet_files(&path)),
            false if path.extension().is_some_and(|extension| extension == "parquet") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn order(id: i64, at: Option<i64>, city: Option<&str>, shop: i64) -> String {
    serde_json::json!({ "id": id, "at": at, "city": city, "shop": shop }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_lie_where_their_fields_say_and_each_record_is_there_once() {
    const LAYOUT: &str = "time_field = \"at\"\npartition_fields = [\"city\", \"shop\"]";
    const COLUMNS: &str = "id at kafka_partition kafka_offset kafka_timestamp";
    let line = Line::new().await;
    let at = |hours: i64| Some(SENT_MS - 48 * HOUR_MS + hours * HOUR_MS);
    line.send(&[
        order(1, at(0), Some("Köln"), 1),
        order(2, at(1), Some("a/../b"), 1),
        order(3, at(0), Some("Köln"), 2),
        order(4, None, Some("Köln"), 1),
        order(5, at(0), Some(""), 1),
        order(6, at(0), None, 1),
        order(7, at(0), Some(&"x".repeat(251)), 1),
        order(8, at(0), Some("Köln"), 1),
        "{}".to_owned(),
    ])
    .await;
    line.run_to_end(LAYOUT).await;
    const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
    let unknown = format!("dt={NULL}/hour={NULL}/city=Köln/shop=1");
    let nothing = format!("dt={NULL}/hour={NULL}/city={NULL}/shop={NULL}");
    let nowhere = format!("dt=2023-11-12/hour=22/city={NULL}/shop=1");
    let rows = line.rows();
    let ids = |directory: &str| rows.get(directory).map(|(ids, columns)| (ids.as_slice(), columns.as_str()));
    assert_eq!(ids("dt=2023-11-12/hour=22/city=Köln/shop=1"), Some((&[1, 8][..], COLUMNS)));
    assert_eq!(ids("dt=2023-11-12/hour=22/city=Köln/shop=2"), Some((&[3][..], COLUMNS)));
    assert_eq!(ids("dt=2023-11-12/hour=23/city=a%2F..%2Fb/shop=1"), Some((&[2][..], COLUMNS)));
    assert_eq!(ids(&unknown), Some((&[4][..], COLUMNS)));
    assert_eq!(ids(&nowhere), Some((&[5, 6][..], COLUMNS)));
    assert_eq!(rows.len(), 6);
    assert!(rows.contains_key(&nothing));
    let verified = line.verified(LAYOUT).await;
    assert_eq!((verified.records, verified.rows, verified.letters), (9, 8, 1));

    // The files say where the line was, and it goes on by another layout.
    std::fs::remove_dir_all(line.table().join("_sink")).unwrap();
    let (settings, cluster) = (line.settings(LAYOUT), line.cluster());
    let repaired =
        sink::repair(&settings, &cluster, &TokioEnvironment, Arc::new(LocalFiles), Execution::Apply);
    let repaired = timeout(PATIENCE, repaired).await.expect("it ends").unwrap();
    assert!(repaired.iter().all(|repair| repair.is_done && repair.findings.is_empty()), "{repaired:?}");
    line.send(&[order(10, at(0), Some("Köln"), 1)]).await;
    line.run_to_end("").await;
    let rows = line.rows();
    assert_eq!(rows["dt=2023-11-14/hour=22"].0, [10]);
    assert_eq!(rows["dt=2023-11-12/hour=22/city=Köln/shop=1"].0, [1, 8]);
    assert_eq!(line.verified("").await.rows, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_fields_are_compacted_and_expire_by_the_time_above_them() {
    const LAYOUT: &str =
        "partition_by = \"day\"\ntime_field = \"at\"\npartition_fields = [\"city\"]\nroll_rows = 2";
    let line = Line::new().await;
    let orders = |first: i64| {
        (first..first + 4).map(|id| order(id, Some(SENT_MS), Some("a, b"), 1)).collect::<Vec<_>>()
    };
    line.send(&orders(0)).await;
    line.send(&[order(4, None, Some("a, b"), 1)]).await;
    line.run_to_end(LAYOUT).await;
    let compaction = Compaction { target_bytes: 1 << 20, older_than_ms: 0, execution: Execution::Apply };
    let settings = line.settings(LAYOUT);
    let merged = sink::compact(&settings, &TokioEnvironment, Arc::new(LocalFiles), compaction).await.unwrap();
    assert_eq!((merged.merges.len(), merged.merges[0].files, &merged.findings[..]), (1, 2, &[][..]));
    let verified = line.verified(LAYOUT).await;
    assert_eq!((verified.records, verified.rows, verified.files), (5, 5, 2));
    let expiry = Expiry { older_than_ms: 0, execution: Execution::Apply };
    let expired = sink::expire(&settings, &TokioEnvironment, Arc::new(LocalFiles), expiry).await.unwrap();
    assert_eq!((expired.directories.len(), expired.directories[0].rows), (1, 4));
    assert!(!line.table().join("dt=2023-11-14").exists());
    line.assert_rows(
        "id at shop kafka_partition kafka_offset kafka_timestamp",
        &[("dt=__HIVE_DEFAULT_PARTITION__/city=a, b", &[4])],
    );
    assert_eq!(line.verified(LAYOUT).await.expired, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_is_marked_by_the_time_of_a_field_with_all_directories_below_it() {
    const LAYOUT: &str = "time_field = \"at\"\npartition_fields = [\"city\"]\nsuccess = \"10m\"";
    let line = Line::new().await;
    let at = |hours: i64| Some(SENT_MS - 48 * HOUR_MS + hours * HOUR_MS);
    let day = line.table().join("dt=2023-11-12");
    let mark = |hour: &str| {
        let bytes = std::fs::read(day.join(hour).join("_SUCCESS")).unwrap();
        let mark: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert!(!day.join(hour).join("city=a").join("_SUCCESS").exists());
        (mark["rows"].as_u64().unwrap(), mark["late"].as_u64().unwrap())
    };
    line.send(&[order(1, at(0), Some("a"), 1), order(2, at(0), Some("b"), 1), order(3, at(1), Some("a"), 1)])
        .await;
    line.run_to_end(LAYOUT).await;
    assert_eq!((mark("hour=22"), mark("hour=23")), ((2, 0), (1, 0)));
    line.send(&[order(4, at(0), Some("a"), 1), order(5, at(0), Some("c"), 1)]).await;
    line.run_to_end(LAYOUT).await;
    assert_eq!((mark("hour=22"), mark("hour=23")), ((2, 2), (1, 0)));
    line.verified(LAYOUT).await;
    // A mark keeps no hour that is gone.
    let expiry = Expiry { older_than_ms: 0, execution: Execution::Apply };
    let settings = line.settings(LAYOUT);
    let expired = sink::expire(&settings, &TokioEnvironment, Arc::new(LocalFiles), expiry).await.unwrap();
    assert_eq!((expired.directories.len(), &expired.findings[..]), (4, &[][..]));
    assert!(!day.exists());
}

fn by_fields() -> Layout {
    Layout::Hour.by(Some("at"), &["shop"]).unwrap()
}

fn format() -> Format {
    let field = |name: &str, kind| JsonField { name: name.to_owned(), kind, is_required: false };
    Format::Json(vec![field("value", Kind::String), field("at", Kind::Timestamp), field("shop", Kind::Int32)])
}

/// The log of the crash points, each record with fields of its own.
fn world(records: i64) -> World {
    World { log: with_fields(records, 0), ..World::new(records, Positions::Beside) }
}

fn with_fields(records: i64, first_shop: i64) -> Vec<ConsumedRecord> {
    let with_fields = |(number, record): (i64, ConsumedRecord)| {
        let at = record.timestamp.0 - number % 3 * HOUR_MS;
        let value = format!("{{\"value\":\"v{number}\",\"at\":{at},\"shop\":{}}}", first_shop + number % 2);
        let value = if is_letter(number) { record.value } else { Some(Bytes::from(value)) };
        ConsumedRecord { value, ..record }
    };
    (0..).zip(log(records)).map(with_fields).collect()
}

fn habits(habits: Habits, layout: Layout) -> Habits {
    Habits { format, layout, ..habits }
}

/// Each record once, those of one range by one layout. Gives the layouts that there are.
fn assert_once(world: &World, records: i64, what: &str) -> BTreeSet<String> {
    let offset = |number: i64| number + number / 4 * 2;
    let (letters, rows): (Vec<_>, Vec<_>) = (0..records).partition(|&number| is_letter(number));
    let rows: Vec<_> = rows.into_iter().map(|number| (offset(number), format!("v{number}"))).collect();
    assert_eq!(world.rows(), rows, "{what}");
    assert_eq!(world.letters(), letters.into_iter().map(offset).collect::<Vec<_>>(), "{what}");
    let mut by_range: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (path, name, bytes) in world.files() {
        let file = ParquetFile::read(&path, &bytes);
        let word = file.words.get("ottla.layout").map_or("hour", String::as_str);
        let path = path.to_str().unwrap();
        assert_eq!(path.contains("/shop="), word.contains("shop"), "{what}: {path} by {word}");
        assert_eq!(path.contains("/hour="), word.starts_with("hour"), "{what}: {path} by {word}");
        by_range.entry(name.range).or_default().insert(word.to_owned());
    }
    assert!(by_range.values().all(|layouts| layouts.len() == 1), "{what}: {by_range:?}");
    by_range.into_values().flatten().collect()
}

#[test]
fn whoever_takes_over_by_another_layout_repeats_a_range_by_its_own() {
    let first = habits(FIRST, by_fields());
    let others = [Layout::Hour, Layout::Day.by(None, &["shop"]).unwrap(), by_fields()];
    let alone = world(30);
    let steps = alone.steps(first);
    assert_once(&alone, 30, "undisturbed");
    let of_alone: BTreeMap<_, _> = alone.files().into_iter().map(|(path, _, bytes)| (path, bytes)).collect();
    let (mut mixed, mut same) = (0, 0);
    for at in 1..=steps {
        for other in others {
            let what = format!("killed at {at}, and then by {}", other.name());
            let world = world(30);
            world.run(first, Some((at, Fate::Dies))).unwrap_err();
            if at % 2 == 0 {
                world.disk.lock().unwrap().cut_power();
            }
            world.run(habits(SECOND, other), None).unwrap();
            mixed += usize::from(assert_once(&world, 30, &what).len() == 2);
            for (path, _, bytes) in world.files() {
                let found = ParquetFile::read(&path, &bytes);
                // The same range of the same epoch has the same rows, wherever it was begun anew.
                if let Some(bytes) = of_alone.get(&path) {
                    let expected = ParquetFile::read(&path, bytes);
                    if expected.words == found.words {
                        assert_eq!(found.rows, expected.rows, "{what}: {}", path.display());
                        same += 1;
                    }
                }
            }
        }
    }
    println!("killed over a table by fields: {} crash points", steps * 3);
    assert!(mixed > 0 && same > 0);
}

#[test]
fn a_range_of_which_files_lie_by_another_layout_is_not_put_there_again() {
    let by_time = Layout::Hour.by(Some("at"), &[]).unwrap();
    let first = habits(FIRST, by_time);
    let mut refused = 0;
    for at in 1..=world(12).steps(first) {
        let world = world(12);
        world.run(first, Some((at, Fate::Dies))).unwrap_err();
        // As if the store had lost the range, and it was frozen anew by the layout of then.
        let (_, Kept::Files(files)) = world.kept() else { unreachable!("they are files") };
        let changed = files.into_iter().map(|(path, content)| {
            let text = String::from_utf8(content).unwrap();
            (path, text.replace(by_time.name(), "hour").into_bytes())
        });
        world.put_store(&Kept::Files(changed.collect()));
        match world.run(habits(SECOND, Layout::Hour), None) {
            Ok(()) => {}
            Err(error) => {
                assert!(error.to_string().contains("the table holds"), "{at}: {error}");
                refused += 1;
            }
        }
        world.assert_nothing_twice(&format!("killed at {at}"));
    }
    assert!(refused > 0);
}

/// As with a schema that has come since: an enum has a name for what was a number, a field has another default.
#[test]
fn a_range_of_which_rows_belong_elsewhere_by_now_is_not_put_there_as_well() {
    let first = habits(FIRST, by_fields());
    let mut refused = 0;
    for at in 1..=world(12).steps(first) {
        let world = world(12);
        world.run(first, Some((at, Fate::Dies))).unwrap_err();
        let world = World { log: with_fields(12, 10), ..world };
        match world.run(habits(SECOND, by_fields()), None) {
            Ok(()) => {}
            Err(error) => {
                assert!(error.to_string().contains("were put into dt="), "{at}: {error}");
                refused += 1;
            }
        }
        world.assert_nothing_twice(&format!("killed at {at}"));
    }
    assert!(refused > 0);
}

#[test]
fn a_range_ends_when_its_hour_has_passed_in_the_rows() {
    let minutes = [0, 20, 40, 60, 80, 10, 120, 140, 160, 180];
    let log = (0..).zip(log(10)).map(|(number, record)| {
        let at = SENT_MS + minutes[number] * 60_000;
        let value = format!("{{\"value\":\"v{number}\",\"at\":{at},\"shop\":{}}}", number % 2);
        ConsumedRecord { offset: Offset(number as i64), value: Some(value.into()), ..record }
    });
    let log: Vec<_> = log.collect();
    let ranges = |late_ms_max| {
        let world = World { log: log.clone(), ..World::new(10, Positions::Beside) };
        let habits = Habits { rows_max: 1000, at_once: 1, late_ms_max, ..habits(FIRST, by_fields()) };
        world.run(habits, None).unwrap();
        assert_eq!(world.rows().len(), 10);
        let ranges: BTreeSet<_> = world.files().into_iter().map(|(_, name, _)| name.range).collect();
        ranges.into_iter().map(|range| (range.start.0, range.end.0)).collect::<Vec<_>>()
    };
    assert_eq!(ranges(None), [(0, 10)]);
    // From 22:13 on, with a row of 22:23 that is too late.
    assert_eq!(ranges(Some(1)), [(0, 4), (4, 7), (7, 10)]);
    // With a quarter of an hour the first range has two hours, and what comes at 1:13 waits for 1:15.
    assert_eq!(ranges(Some(15 * 60_000)), [(0, 5), (5, 10)]);
}
