//! Each step of every I/O as a place to die at: at the end each record is in the table or among the dead letters, exactly once.
//!
//! Instances run over a file system in memory that forgets what was not made durable. One of them dies, fails or pauses at its n-th
//! step, for every n there is; another takes over. Its limits differ, so that nothing but the frozen range can make the two agree.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use client::ConsumedRecord;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sink::{Extra, FileName, FileStore, Format, PartitionError, Range};
use support::letters::DeadTopic;
use support::line::{self, FIRST, Habits, Place, SECOND, THIRD, key, log};
use support::{Disk, Fate, Process, Steps};
use wire::Offset;

const TABLE: &str = "/table";

/// One instance over the disk.
fn run(
    process: &Process,
    topic: &Arc<Mutex<DeadTopic>>,
    habits: Habits,
    log: &[ConsumedRecord],
) -> Result<(), PartitionError> {
    let files = Arc::new(process.clone());
    let store = Arc::new(FileStore::new(files.clone(), TABLE));
    line::run(&Place { process: process.clone(), files, table: TABLE.into(), store }, topic, habits, log)
}

struct World {
    disk: Arc<Mutex<Disk>>,
    topic: Arc<Mutex<DeadTopic>>,
    log: Vec<ConsumedRecord>,
}

impl World {
    fn new(records: i64) -> Self {
        let mut disk = Disk::new();
        disk.make_dir(Path::new(TABLE)).unwrap();
        let root = Process { disk: Arc::new(Mutex::new(disk)), steps: Steps::new(None) };
        sink::Files::sync_dir(&root, Path::new("/")).unwrap();
        Self { disk: root.disk, topic: Arc::default(), log: log(records) }
    }

    fn process(&self, at: Option<(u64, Fate)>) -> Process {
        Process { disk: Arc::clone(&self.disk), steps: Steps::new(at) }
    }

    fn run(&self, habits: Habits, at: Option<(u64, Fate)>) -> Result<(), PartitionError> {
        run(&self.process(at), &self.topic, habits, &self.log)
    }

    /// The files that readers see.
    fn files(&self) -> Vec<(PathBuf, FileName, Bytes)> {
        let disk = self.disk.lock().unwrap();
        let mut found = Vec::new();
        let mut left = vec![PathBuf::from(TABLE)];
        while let Some(dir) = left.pop() {
            for entry in disk.list(&dir).unwrap() {
                let path = dir.join(&entry.name);
                match entry.is_dir {
                    _ if entry.name.starts_with('_') => {}
                    true => left.push(path),
                    false => {
                        let name = FileName::parse(&entry.name).unwrap();
                        found.push((path.clone(), name, disk.read(&path).unwrap().into()));
                    }
                }
            }
        }
        found
    }

    /// The offsets and values in the table.
    fn rows(&self) -> Vec<(i64, String)> {
        let mut rows = Vec::new();
        for (path, name, bytes) in self.files() {
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes);
            let reader = reader.unwrap_or_else(|error| panic!("{} is damaged: {error}", path.display()));
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
                let values = batch.column_by_name("value").unwrap().as_string::<i32>();
                for (offset, value) in offsets.values().iter().zip(values.iter()) {
                    assert!((name.range.start.0..name.range.end.0).contains(offset), "{name} holds {offset}");
                    rows.push((*offset, value.unwrap().to_owned()));
                }
            }
        }
        rows.sort();
        rows
    }

    /// The offsets among the dead letters.
    fn letters(&self) -> Vec<i64> {
        let mut offsets: Vec<_> =
            self.topic.lock().unwrap().committed.iter().map(|letter| letter.offset.0).collect();
        offsets.sort_unstable();
        offsets
    }

    fn assert_exactly_once(&self, what: &str) {
        let (letters, rows): (Vec<_>, Vec<_>) = self
            .log
            .iter()
            .map(|record| (record.offset.0, record.value.as_deref().unwrap()))
            .partition(|(_, value)| value[0] == 0xff);
        let expected: Vec<_> = rows
            .into_iter()
            .map(|(offset, value)| (offset, String::from_utf8(value.to_vec()).unwrap()))
            .collect();
        let rows = self.rows();
        assert!(rows == expected, "{what}: not exactly once: {rows:?}");
        let expected: Vec<_> = letters.into_iter().map(|(offset, _)| offset).collect();
        let letters = self.letters();
        assert!(letters == expected, "{what}: letters are not there exactly once: {letters:?}");
    }

    /// Each record in the table or among the letters, once: which of the two depends on who froze its range.
    fn assert_each_somewhere_once(&self, what: &str) {
        let mut found = self.letters();
        found.extend(self.offsets());
        found.sort_unstable();
        let expected: Vec<_> = self.log.iter().map(|record| record.offset.0).collect();
        assert!(found == expected, "{what}: not exactly once: {found:?}");
    }

    /// The offsets in the table, whatever its columns are.
    fn offsets(&self) -> Vec<i64> {
        let mut found = Vec::new();
        for (_, _, bytes) in self.files() {
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
                found.extend_from_slice(offsets.values());
            }
        }
        found
    }

    /// One file instead of all, as whoever compacts the table would leave it.
    fn compact(&self) {
        let files = self.files();
        let readers = files.iter().map(|(_, _, bytes)| {
            ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap().build().unwrap()
        });
        let mut merged = Vec::new();
        let mut writer: Option<ArrowWriter<&mut Vec<u8>>> = None;
        let mut sink = Some(&mut merged);
        for batch in readers.flatten() {
            let batch = batch.unwrap();
            let writer = writer.get_or_insert_with(|| {
                ArrowWriter::try_new(sink.take().unwrap(), batch.schema(), None).unwrap()
            });
            writer.write(&batch).unwrap();
        }
        writer.unwrap().close().unwrap();
        let end = files.iter().map(|(_, name, _)| name.range.end).max().unwrap();
        let mut disk = self.disk.lock().unwrap();
        for (path, _, _) in &files {
            disk.remove(path).unwrap();
        }
        let name = FileName { partition: key().partition, range: Range::new(Offset(0), end) };
        disk.put(&Path::new(TABLE).join(name.to_string()), &merged);
    }

    /// What is in the store: its newest version, and all its files.
    fn store(&self) -> (u64, Vec<(PathBuf, Vec<u8>)>) {
        let dir = Path::new(TABLE).join("_sink/orders.offline/orders-0");
        let disk = self.disk.lock().unwrap();
        let entries = disk.list(&dir).unwrap_or_default();
        let files: Vec<_> = entries
            .iter()
            .filter(|entry| entry.name.ends_with(".json"))
            .map(|entry| (dir.join(&entry.name), disk.read(&dir.join(&entry.name)).unwrap()))
            .collect();
        let newest =
            files.last().map(|(path, _)| path.file_stem().unwrap().to_str().unwrap().parse().unwrap());
        (newest.unwrap_or(0), files)
    }

    /// Puts what was in the store in place of what is.
    fn set_store_back(&self, files: &[(PathBuf, Vec<u8>)]) {
        let (_, now) = self.store();
        let mut disk = self.disk.lock().unwrap();
        now.iter().for_each(|(path, _)| disk.remove(path).unwrap());
        files.iter().for_each(|(path, content)| disk.put(path, content));
    }

    /// The store as it was one change ago.
    fn roll_store_back(&self) -> bool {
        let dir = Path::new(TABLE).join("_sink/orders.offline/orders-0");
        let mut disk = self.disk.lock().unwrap();
        let Ok(entries) = disk.list(&dir) else { return false };
        let versions: Vec<_> = entries.iter().filter(|entry| entry.name.ends_with(".json")).collect();
        match versions.last() {
            Some(newest) => disk.remove(&dir.join(&newest.name)).is_ok(),
            None => false,
        }
    }
}

/// How many steps an instance takes alone.
fn steps(records: i64, habits: Habits) -> u64 {
    let world = World::new(records);
    let steps = steps_of(&world, habits);
    world.assert_exactly_once("undisturbed");
    steps
}

fn steps_of(world: &World, habits: Habits) -> u64 {
    let process = world.process(None);
    run(&process, &world.topic, habits, &world.log).unwrap();
    process.steps.count()
}

fn report(what: &str, points: usize) {
    println!("{what}: {points} crash points");
}

#[test]
fn whoever_is_killed_at_any_step_is_taken_over_from_exactly() {
    let steps = steps(30, FIRST);
    for at in 1..=steps {
        let world = World::new(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        world.run(SECOND, None).unwrap();
        world.assert_exactly_once(&format!("killed at {at}"));
    }
    report("killed", steps as usize);
}

#[test]
fn whatever_a_power_cut_takes_is_done_again() {
    let steps = steps(30, FIRST);
    for at in 1..=steps {
        let world = World::new(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        world.disk.lock().unwrap().cut_power();
        world.run(SECOND, None).unwrap();
        world.assert_exactly_once(&format!("power cut at {at}"));
    }
    report("power cut", steps as usize);
}

#[test]
fn a_step_that_fails_loses_and_doubles_nothing() {
    let steps = steps(30, FIRST);
    for at in 1..=steps {
        let world = World::new(30);
        world.run(FIRST, Some((at, Fate::Fails))).unwrap_err();
        world.run(SECOND, None).unwrap();
        world.assert_exactly_once(&format!("failed at {at}"));
    }
    report("failed", steps as usize);
}

#[test]
fn a_successor_that_dies_as_well_is_taken_over_from_too() {
    let mut points = 0;
    for first in 1..=steps(12, FIRST) {
        for second in 1.. {
            let world = World::new(12);
            world.run(FIRST, Some((first, Fate::Dies))).unwrap_err();
            let ended = world.run(SECOND, Some((second, Fate::Dies)));
            if second % 2 == 0 {
                world.disk.lock().unwrap().cut_power();
            }
            world.run(THIRD, None).unwrap();
            world.assert_exactly_once(&format!("killed at {first}, then at {second}"));
            points += 1;
            if ended.is_ok() {
                break;
            }
        }
    }
    report("killed twice", points);
}

/// The first pauses at a step; the second runs up to one of its own, or to its end; the first wakes and does whatever it still
/// can; the second goes on.
fn wake_as_zombie(world: &World, first: u64, second: u64) -> bool {
    let zombie = world.process(Some((first, Fate::Pauses)));
    let successor = world.process(Some((second, Fate::Pauses)));
    thread::scope(|scope| {
        let old = scope.spawn(|| run(&zombie, &world.topic, FIRST, &world.log));
        zombie.steps.until_paused();
        let new = scope.spawn(|| run(&successor, &world.topic, SECOND, &world.log));
        successor.steps.until_paused();
        zombie.steps.resume();
        // It may have been done before anybody took over, or be told that it is not the holder any more.
        let _ = old.join().unwrap();
        successor.steps.resume();
        let ended = new.join().unwrap();
        let is_whole = successor.steps.count() < second;
        match ended {
            Ok(()) => {}
            // The zombie had not begun to take hold of the partition, so that it is the successor's successor.
            Err(error) => {
                // The zombie takes the sending over before it hears from the store that it is none; that alone ends nobody.
                assert!(
                    !error.to_string().contains("it sends the dead letters"),
                    "{first}, {second}: {error}"
                );
                let is_told = matches!(
                    error,
                    PartitionError::TakenOver { .. }
                        | PartitionError::Store(_)
                        | PartitionError::Files { .. }
                );
                assert!(is_told, "{first}, {second}: {error}");
                world.run(THIRD, None).unwrap();
            }
        }
        is_whole
    })
}

#[test]
fn a_zombie_that_wakes_at_any_moment_of_its_successor_adds_nothing() {
    let mut points = 0;
    for first in 1..=steps(12, FIRST) {
        for second in 1.. {
            let world = World::new(12);
            let is_whole = wake_as_zombie(&world, first, second);
            world.assert_exactly_once(&format!("woke before step {first}, behind {second}"));
            points += 1;
            if is_whole {
                break;
            }
        }
    }
    report("zombies", points);
}

#[test]
fn a_zombie_that_wakes_after_its_file_was_compacted_away_does_not_bring_it_back() {
    let steps = steps(12, FIRST);
    for at in 1..=steps {
        let world = World::new(12);
        let zombie = world.process(Some((at, Fate::Pauses)));
        thread::scope(|scope| {
            let old = scope.spawn(|| run(&zombie, &world.topic, FIRST, &world.log));
            zombie.steps.until_paused();
            world.run(SECOND, None).unwrap();
            world.compact();
            zombie.steps.resume();
            let _ = old.join().unwrap();
        });
        world.assert_exactly_once(&format!("woke before step {at}, after a compaction"));
    }
    report("zombies after a compaction", steps as usize);
}

#[test]
fn a_store_that_has_lost_its_last_change_doubles_nothing() {
    let (mut refused, mut points) = (0, 0);
    for at in 1..=steps(30, FIRST) + 1 {
        let world = World::new(30);
        let _ = world.run(FIRST, Some((at, Fate::Dies)));
        if !world.roll_store_back() {
            continue;
        }
        points += 1;
        match world.run(SECOND, None) {
            Ok(()) => world.assert_exactly_once(&format!("rolled back at {at}")),
            Err(error) => {
                let is_ahead =
                    matches!(error, PartitionError::Ahead(_) | PartitionError::LettersAhead { .. });
                assert!(is_ahead, "{at}: {error}");
                let mut letters = world.letters();
                let before = letters.len();
                letters.dedup();
                assert_eq!(letters.len(), before, "no letter is there twice");
                let mut rows = world.rows();
                let before = rows.len();
                rows.dedup();
                assert_eq!(rows.len(), before, "nothing is there twice");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && refused < points, "both happen: {refused} of {points} were refused");
    report("store rolled back", points);
}

#[test]
fn a_store_that_was_set_back_by_several_changes_doubles_nothing_and_knows_what_its_letters_are() {
    let steps = steps(30, FIRST);
    // What each version of the store looked like, as every run does the same.
    let mut versions = BTreeMap::new();
    for at in 1..=steps {
        let world = World::new(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let (version, files) = world.store();
        versions.insert(version, files);
    }
    let (mut refused, mut points) = (0, 0);
    for (at, lost) in (1..=steps).flat_map(|at| [(at, 2), (at, 3)]) {
        let world = World::new(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let (version, _) = world.store();
        let Some(files) = version.checked_sub(lost).and_then(|before| versions.get(&before)) else {
            continue;
        };
        world.set_store_back(files);
        points += 1;
        if let Err(error) = world.run(SECOND, None) {
            let is_ahead = matches!(error, PartitionError::Ahead(_) | PartitionError::LettersAhead { .. });
            assert!(is_ahead, "{lost} lost at {at}: {error}");
            let (mut letters, mut rows) = (world.letters(), world.rows());
            let before = (letters.len(), rows.len());
            letters.dedup();
            rows.dedup();
            assert_eq!((letters.len(), rows.len()), before, "nothing is there twice");
            refused += 1;
        } else {
            world.assert_exactly_once(&format!("{lost} lost at {at}"));
        }
    }
    assert!(refused > 0 && refused < points, "both happen: {refused} of {points} were refused");
    report("store set back further", points);
}

#[test]
fn a_range_whose_verdicts_are_gone_is_not_taken_as_one_without_letters() {
    let (mut named, steps) = (0, steps(12, FIRST));
    for at in 1..=steps {
        let world = World::new(12);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let dir = Path::new(TABLE).join("_letters/orders.offline/orders-0");
        let mut disk = world.disk.lock().unwrap();
        let left = disk.list(&dir).unwrap_or_default();
        left.iter().for_each(|entry| disk.remove(&dir.join(&entry.name)).unwrap());
        drop(disk);
        // To it, all of them could be rows.
        let raw = Habits { format: || Format::Bytes, ..SECOND };
        match world.run(raw, None) {
            Ok(()) => world.assert_each_somewhere_once(&format!("killed at {at}, without verdicts")),
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains(".json is gone, which says what"), "{at}: {told}");
                named += 1;
            }
        }
    }
    assert!(named > 0 && named < steps, "some had frozen letters: {named} of {steps}");
}

#[test]
fn by_another_declaration_a_frozen_range_has_the_letters_and_rows_that_it_was_frozen_with() {
    // To the first, bytes that are no text are letters; to the others, they are not.
    let raw = Habits { format: || Format::Bytes, extras: &[Extra::Offset, Extra::Timestamp], ..SECOND };
    let (mut as_letters, mut points) = (0, 0);
    for at in 1..=steps(30, FIRST) {
        let world = World::new(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        if at % 2 == 0 {
            world.disk.lock().unwrap().cut_power();
        }
        world.run(raw, None).unwrap();
        world.assert_each_somewhere_once(&format!("killed at {at}, and declared otherwise"));
        as_letters += usize::from(!world.letters().is_empty());
        points += 1;
    }
    assert!(as_letters > 0 && as_letters < points, "some were frozen by the first: {as_letters} of {points}");
    report("declared otherwise", points);
}

#[test]
fn a_record_that_became_no_row_within_a_frozen_range_stops_it() {
    // The other way round: what was frozen as rows is not sent as letters.
    let raw = Habits { format: || Format::Bytes, ..FIRST };
    let (mut refused, mut points) = (0, 0);
    for at in 1..=steps_of(&World::new(30), raw) {
        let world = World::new(30);
        world.run(raw, Some((at, Fate::Dies))).unwrap_err();
        if let Err(error) = world.run(SECOND, None) {
            let told = error.to_string();
            assert!(told.contains("its range was frozen as one in which this is a row"), "{at}: {told}");
            refused += 1;
            world.run(raw, None).unwrap();
        }
        world.assert_each_somewhere_once(&format!("killed at {at}, and declared otherwise"));
        points += 1;
    }
    assert!(refused > 0, "some were frozen by the first");
    report("declared more strictly", points);
}

#[test]
fn a_frozen_range_with_letters_waits_for_them_to_go_somewhere() {
    let world = World::new(12);
    // Behind the first freeze of a range with letters.
    let at = (1..)
        .find(|&at| {
            let world = World::new(12);
            let _ = world.run(FIRST, Some((at, Fate::Dies)));
            !world.letters().is_empty()
        })
        .unwrap();
    world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
    let refused = world.run(Habits { is_sending: false, ..SECOND }, None).unwrap_err();
    assert!(matches!(refused, PartitionError::NoLetters { .. }), "{refused}");
    world.run(SECOND, None).unwrap();
    world.assert_exactly_once("declared again");
}

#[test]
fn letters_of_a_table_that_is_made_anew_under_its_name_are_not_sent_twice() {
    let world = World::new(12);
    world.run(FIRST, None).unwrap();
    let anew = World { topic: Arc::clone(&world.topic), ..World::new(12) };
    let refused = anew.run(FIRST, None).unwrap_err();
    assert!(matches!(refused, PartitionError::LettersAhead { .. }), "{refused}");
}

#[test]
fn a_letter_is_its_record_and_says_what_was_wrong_where() {
    let world = World::new(5);
    world.run(FIRST, None).unwrap();
    let topic = world.topic.lock().unwrap();
    let [letter] = &topic.committed[..] else { panic!("one of five is a letter") };
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (None, Some(&[0xff, 4][..])));
    assert_eq!(letter.timestamp, Some(world.log[4].timestamp));
    let headers = letter.headers.iter().map(|header| {
        format!("{}: {}\n", header.key, std::str::from_utf8(header.value.as_deref().unwrap()).unwrap())
    });
    expect_test::expect![[r#"
        __connect.errors.topic: orders
        __connect.errors.partition: 0
        __connect.errors.offset: 6
        __connect.errors.connector.name: orders.offline
        __connect.errors.task.id: 0
        __connect.errors.stage: VALUE_CONVERTER
        __connect.errors.class.name: ottla.sink
        __connect.errors.exception.class.name: org.apache.kafka.connect.errors.DataException
        __connect.errors.exception.message: the value is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
        __connect.errors.exception.stacktrace: org.apache.kafka.connect.errors.DataException: the value is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
        	at orders-0 at offset 6
        __connect.errors.topic.id: BwcHBwcHBwcHBwcHBwcHBw
    "#]].assert_eq(&headers.collect::<String>());
}
