//! Instances of one line over a disk, a topic of dead letters and positions in memory, and what they have come to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use client::{BoxFuture, ConsumedRecord};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sink::{FileName, FileStore, Key, PartitionError, PositionStore, Range, StoreError, Stored};
use tokio::runtime::Builder;
use wire::{LeaderEpoch, Offset};

use super::letters::DeadTopic;
use super::line::{self, Habits, Place, key, log};
use super::parquet_file::ParquetFile;
use super::positions::{Asking, PositionTable};
use super::{Disk, Fate, Process, Steps};

pub const TABLE: &str = "/table";

/// Opens a real store, in the runtime of whoever asks it.
pub type Connect = dyn Fn() -> BoxFuture<'static, Arc<dyn PositionStore>> + Send + Sync;

/// Where positions are kept.
#[derive(Clone)]
pub enum Positions {
    /// In files, on the table's own disk.
    Beside,
    /// In a server in memory.
    Served(Arc<Mutex<PositionTable>>),
    /// In a real server.
    Real(Arc<Connect>),
}

impl Positions {
    pub fn served() -> Self {
        Self::Served(Arc::default())
    }

    async fn store(&self, process: &Process) -> Arc<dyn PositionStore> {
        match self {
            Self::Beside => Arc::new(FileStore::new(Arc::new(process.clone()), TABLE)),
            Self::Served(table) => Arc::new(Asking::new(process.clone(), Arc::clone(table))),
            Self::Real(connect) => Arc::new(Stepped { process: process.clone(), store: connect().await }),
        }
    }
}

/// What was in a store at some time.
#[derive(Clone)]
pub enum Kept {
    Files(Vec<(PathBuf, Vec<u8>)>),
    Served(PositionTable),
}

pub struct World {
    pub key: Key,
    pub disk: Arc<Mutex<Disk>>,
    pub topic: Arc<Mutex<DeadTopic>>,
    pub positions: Positions,
    pub log: Vec<ConsumedRecord>,
}

impl World {
    pub fn new(records: i64, positions: Positions) -> Self {
        let mut disk = Disk::new();
        disk.make_dir(Path::new(TABLE)).unwrap();
        let root = Process { disk: Arc::new(Mutex::new(disk)), steps: Steps::new(None) };
        sink::Files::sync_dir(&root, Path::new("/")).unwrap();
        Self { key: key(), disk: root.disk, topic: Arc::default(), positions, log: log(records) }
    }

    /// Another one in which the same has come to pass.
    pub fn copy(&self) -> Self {
        fn copied<T: Clone>(one: &Arc<Mutex<T>>) -> Arc<Mutex<T>> {
            Arc::new(Mutex::new(one.lock().unwrap().clone()))
        }
        let positions = match &self.positions {
            Positions::Served(table) => Positions::Served(copied(table)),
            others => others.clone(),
        };
        let (key, log) = (self.key.clone(), self.log.clone());
        Self { key, disk: copied(&self.disk), topic: copied(&self.topic), positions, log }
    }

    pub fn process(&self, at: Option<(u64, Fate)>) -> Process {
        Process { disk: Arc::clone(&self.disk), steps: Steps::new(at) }
    }

    /// One instance, from taking hold of the partition to the end of the log.
    pub fn run(&self, habits: Habits, at: Option<(u64, Fate)>) -> Result<(), PartitionError> {
        self.run_as(&self.process(at), habits)
    }

    pub fn run_as(&self, process: &Process, habits: Habits) -> Result<(), PartitionError> {
        let outcome = self.in_runtime(self.work(process, habits));
        process.steps.over();
        outcome
    }

    /// Of its own for whoever runs. A server that is in memory is asked again without waiting.
    fn in_runtime<T>(&self, work: impl Future<Output = T>) -> T {
        let mut builder = Builder::new_current_thread();
        let runtime = match self.positions {
            Positions::Beside => builder.build(),
            Positions::Served(_) => builder.enable_time().start_paused(true).build(),
            Positions::Real(_) => builder.enable_all().build(),
        };
        runtime.unwrap().block_on(work)
    }

    async fn work(&self, process: &Process, habits: Habits) -> Result<(), PartitionError> {
        let place = Place {
            key: self.key.clone(),
            process: process.clone(),
            files: Arc::new(process.clone()),
            table: PathBuf::from(TABLE),
            store: self.positions.store(process).await,
        };
        line::work(place, &self.topic, habits, &self.log).await
    }

    /// How many steps an instance takes alone.
    pub fn steps(&self, habits: Habits) -> u64 {
        let process = self.process(None);
        self.run_as(&process, habits).unwrap();
        process.steps.count()
    }

    /// The files that readers see.
    pub fn files(&self) -> Vec<(PathBuf, FileName, Bytes)> {
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
    pub fn rows(&self) -> Vec<(i64, String)> {
        let mut rows = Vec::new();
        for (path, name, bytes) in self.files() {
            let file = ParquetFile::read(&path, &bytes);
            for (offset, _) in &file.rows {
                assert!((name.range.start.0..name.range.end.0).contains(offset), "{name} holds {offset}");
            }
            rows.extend_from_slice(&file.rows);
        }
        rows.sort();
        rows
    }

    /// The offsets among the dead letters.
    pub fn letters(&self) -> Vec<i64> {
        let mut offsets: Vec<_> =
            self.topic.lock().unwrap().committed.iter().map(|letter| letter.offset.0).collect();
        offsets.sort_unstable();
        offsets
    }

    /// What is stored of the partition.
    pub fn stored(&self) -> Option<Stored> {
        let process = self.process(None);
        let listed = self
            .in_runtime(async { self.positions.store(&process).await.list(&self.key.line).await.unwrap() });
        listed.into_iter().find(|(key, _)| key.partition == self.key.partition).map(|(_, stored)| stored)
    }

    pub fn assert_exactly_once(&self, what: &str) {
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

    /// Each record once, and names, footers and the store say what is there, from the first record to the last.
    pub fn assert_whole(&self, what: &str) {
        self.assert_exactly_once(what);
        let letters = self.letters();
        let mut ranges: BTreeMap<Range, Vec<Rc<ParquetFile>>> = BTreeMap::new();
        for (path, name, bytes) in self.files() {
            let file = ParquetFile::read(&path, &bytes);
            let Key { line, cluster_id, partition, topic_id } = &self.key;
            for (word, expected) in [
                ("ottla.line", line.to_string()),
                ("ottla.cluster.id", cluster_id.clone()),
                ("ottla.topic", partition.topic.to_string()),
                ("ottla.topic.id", topic_id.to_string()),
                ("ottla.partition", partition.partition.to_string()),
                ("ottla.range.start", name.range.start.to_string()),
                ("ottla.range.end", name.range.end.to_string()),
            ] {
                assert_eq!(file.words[word], expected, "{what}: {word} of {}", path.display());
            }
            ranges.entry(name.range).or_default().push(file);
        }
        let mut end = Offset(0);
        for (range, files) in &ranges {
            assert_eq!(range.start, end, "{what}: {range} does not continue what is before it");
            end = range.end;
            let letters = letters.iter().filter(|&&offset| (range.start.0..range.end.0).contains(&offset));
            let rows: usize = files.iter().map(|file| file.rows.len()).sum();
            let said = [
                ("ottla.range.files", files.len()),
                ("ottla.range.rows", rows),
                ("ottla.range.letters", letters.count()),
            ];
            for file in files {
                for (word, expected) in said {
                    assert_eq!(file.words[word], expected.to_string(), "{what}: {word} of {range}");
                }
                let epochs = [file, &files[0]].map(|file| &file.words["ottla.epoch"]);
                assert_eq!(epochs[0], epochs[1], "{what}: {range} was frozen once");
            }
        }
        let stored = self.stored().unwrap_or_else(|| panic!("{what}: nothing is stored"));
        assert_eq!(end, self.log.last().unwrap().offset.plus(1), "{what}: where the last range ends");
        assert_eq!(
            (stored.begun, stored.committed.next, stored.frozen),
            (Offset(0), end, None),
            "{what}: the store and the table differ"
        );
    }

    /// Each record in the table or among the letters, once: which of the two depends on who froze its range.
    pub fn assert_each_somewhere_once(&self, what: &str) {
        let mut found = self.letters();
        found.extend(self.offsets());
        found.sort_unstable();
        let expected: Vec<_> = self.log.iter().map(|record| record.offset.0).collect();
        assert!(found == expected, "{what}: not exactly once: {found:?}");
    }

    /// Of what is there, nothing twice.
    pub fn assert_nothing_twice(&self, what: &str) {
        let (letters, rows) = (self.letters(), self.rows());
        assert!(letters.windows(2).all(|pair| pair[0] != pair[1]), "{what}: letters twice: {letters:?}");
        assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "{what}: rows twice: {rows:?}");
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
    pub fn compact(&self) {
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
        let name = FileName { partition: self.key.partition.clone(), range: Range::new(Offset(0), end) };
        disk.put(&Path::new(TABLE).join(name.to_string()), &merged);
    }

    /// Where something of the partition is, in one of the directories beside the table.
    pub fn beside(&self, directory: &str) -> PathBuf {
        let Key { line, partition, .. } = &self.key;
        Path::new(TABLE).join(directory).join(line.as_str()).join(partition.to_string())
    }

    /// What is in the store, and how many changes led to it.
    pub fn kept(&self) -> (usize, Kept) {
        match &self.positions {
            Positions::Beside => {
                let dir = self.beside("_sink");
                let disk = self.disk.lock().unwrap();
                let entries = disk.list(&dir).unwrap_or_default();
                let files: Vec<_> = entries
                    .iter()
                    .filter(|entry| entry.name.ends_with(".json"))
                    .map(|entry| (dir.join(&entry.name), disk.read(&dir.join(&entry.name)).unwrap()))
                    .collect();
                let newest = files.last();
                let newest = newest.map(|(path, _)| path.file_stem().unwrap().to_str().unwrap().parse());
                (newest.map_or(0, Result::unwrap), Kept::Files(files))
            }
            Positions::Served(table) => {
                let table = table.lock().unwrap().clone();
                (table.changes, Kept::Served(table))
            }
            Positions::Real(_) => panic!("real servers are set back elsewhere"),
        }
    }

    /// Puts what was in the store in place of what is.
    pub fn put_store(&self, to: &Kept) {
        match (&self.positions, to) {
            (Positions::Beside, Kept::Files(files)) => {
                let (_, now) = self.kept();
                let Kept::Files(now) = now else { unreachable!("they are beside the table") };
                let mut disk = self.disk.lock().unwrap();
                now.iter().for_each(|(path, _)| disk.remove(path).unwrap());
                files.iter().for_each(|(path, content)| disk.put(path, content));
            }
            (Positions::Served(table), Kept::Served(kept)) => *table.lock().unwrap() = kept.clone(),
            _ => panic!("it was kept elsewhere"),
        }
    }
}

/// A real server's store, as one process asks it: what it does is one step, and to hear of it another.
struct Stepped {
    process: Process,
    store: Arc<dyn PositionStore>,
}

impl Stepped {
    fn step(&self) -> Result<(), StoreError> {
        let path = PathBuf::from("the server");
        self.process.steps.step().map_err(|source| StoreError::Files { doing: "ask", path, source })
    }

    async fn asked<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.step()?;
        let answer = asked.await;
        self.step()?;
        answer
    }
}

impl PositionStore for Stepped {
    fn acquire<'a>(&'a self, acquire: &'a sink::Acquire) -> BoxFuture<'a, Result<sink::Held, StoreError>> {
        Box::pin(self.asked(self.store.acquire(acquire)))
    }

    fn freeze<'a>(&'a self, change: &'a sink::Change) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.asked(self.store.freeze(change)))
    }

    fn commit<'a>(
        &'a self,
        change: &'a sink::Change,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.asked(self.store.commit(change, leader_epoch)))
    }

    fn rebuild<'a>(&'a self, rebuild: &'a sink::Rebuild) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.asked(self.store.rebuild(rebuild)))
    }

    fn list<'a>(&'a self, line: &'a sink::LineName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(self.asked(self.store.list(line)))
    }
}
