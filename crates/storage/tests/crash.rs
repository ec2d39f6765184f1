//! Random histories on a disk that loses what was not synced, cut at any operation, tearing and reordering. After
//! each crash: what a returned flush answered for is there, unchanged; the log ends at a batch boundary; offsets
//! increase; producers are as the batches say. And the check itself is checked: a log that forgets to sync is
//! found out.
//!
//! `OTTLA_CRASH_SEEDS` says how many histories (20,000 without it), `OTTLA_CRASH_SEED` runs a single one.

mod common;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use common::{Make, Rng, as_leader, options, partition, read_bytes, topic_id};
use storage::{
    Clean, Cleanup, DataDir, DirEntry, Disk, DiskFile, DiskLock, Log, LogConfig, OpenMode,
    fault::{Fault, FaultDisk},
};
use wire::{Millis, Offset, compression::Compression, records::Batches};

const LIVES: u64 = 6;
const STEPS_PER_LIFE: u64 = 40;
const PRODUCERS: i64 = 3;
const KEYS: u64 = 6;

/// A record's key and value.
type KeyAndValue = (Option<Bytes>, Option<Bytes>);

/// What may be true after a crash.
#[derive(Default)]
struct Model {
    /// Every batch ever appended, as it was stored, by base offset: a crash may bring back an older one where
    /// a truncation was not finished.
    ever: HashMap<i64, Vec<Bytes>>,
    /// Every record ever appended, by offset.
    records: HashMap<i64, Vec<KeyAndValue>>,
    /// What the log holds if nothing is lost.
    current: BTreeMap<i64, Bytes>,
    /// Everything below was answered for by a flush.
    flushed: i64,
    /// The log may start anywhere up to here.
    start_max: i64,
    compacts: bool,
    sequences: HashMap<i64, i32>,
    now: i64,
}

struct History {
    rng: Rng,
    faults: FaultDisk,
    disk: Arc<dyn Disk>,
    config: LogConfig,
    model: Model,
    /// A single history tells what it does.
    traces: bool,
}

fn run(seed: u64, wrap: fn(FaultDisk) -> Arc<dyn Disk>) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let compacts = rng.one_in(3);
    let faults = FaultDisk::new();
    let config = LogConfig {
        segment_bytes: 2048 + rng.below(4096) as u32,
        index_interval_bytes: 64 + rng.below(512) as u32,
        segment_index_bytes: if rng.one_in(4) { 64 } else { 10 << 20 },
        cleanup: Cleanup { delete: !compacts, compact: compacts },
        min_cleanable_dirty_ratio: 0.1,
        delete_retention_ms: 5_000,
        retention_bytes: rng.one_in(2).then_some(12_000),
        retention_ms: None,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    };
    let disk = wrap(faults.clone());
    let model = Model { compacts, now: 1_000, ..Model::default() };
    let traces = std::env::var_os("OTTLA_CRASH_SEED").is_some();
    let mut history = History { rng, faults, disk, config, model, traces };
    for life in 0..LIVES {
        history.live(life).map_err(|e| format!("seed {seed}, life {life}: {e}"))?;
    }
    let (dir, log) = history.open().map_err(|e| format!("seed {seed}, at the end: {e}"))?;
    drop((log, dir));
    Ok(())
}

impl History {
    fn open(&mut self) -> Result<(DataDir, Arc<Log>), String> {
        let dir =
            DataDir::open(self.disk.clone(), Path::new("/data"), options()).map_err(|e| e.to_string())?;
        let log = dir
            .open_log(&partition(), topic_id(), self.config.clone(), Millis(self.model.now))
            .map_err(|e| format!("recovery: {e}"))?;
        self.verify(&log)?;
        Ok((dir, log))
    }

    fn live(&mut self, life: u64) -> Result<(), String> {
        let (dir, log) = self.open()?;
        if self.rng.one_in(2) {
            let steps = 1 + self.rng.below(200);
            self.faults.stop_after(self.faults.operations() + steps);
        }
        let mut closed = false;
        for _ in 0..self.rng.below(STEPS_PER_LIFE) {
            self.model.now += 500;
            if self.rng.one_in(60) {
                let fault = match self.rng.below(4) {
                    0 => Fault::SyncFails,
                    1 => Fault::SyncDirFails,
                    2 => Fault::NoSpace,
                    _ => Fault::ShortWrite(self.rng.below(256) as u8),
                };
                self.faults.inject(fault);
            }
            if self.rng.one_in(40) {
                closed = true;
                if dir.close(Millis(self.model.now), -1).is_ok() {
                    self.model.flushed = log.log_end().0;
                }
                break;
            }
            if !self.step(&dir, &log)? {
                break;
            }
        }
        // A log that was not closed keeps its word as long as the process lives.
        if !closed && !log.is_offline() {
            let upper = log.log_end();
            read_bytes(&log, log.log_start(), upper, 300)?;
        }
        drop((log, dir));
        if self.traces {
            for entry in self.faults.list(Path::new("/data/orders-3")).unwrap_or_default() {
                println!("  {} {}", entry.name, entry.len);
            }
            println!("life {life} ends, closed {closed}, flushed {}", self.model.flushed);
        }
        if self.rng.one_in(3) {
            self.faults.kill();
        } else {
            let rng = &mut self.rng;
            self.faults.crash(&mut |bound: u64| rng.below(bound));
        }
        Ok(())
    }

    /// One operation; `false` when the disk has failed and the life is over.
    fn step(&mut self, dir: &DataDir, log: &Log) -> Result<bool, String> {
        let now = Millis(self.model.now);
        let high_watermark = log.flushed_end();
        // A checkpoint flushes too, and whoever reads the flushed end may rely on it.
        self.model.flushed = self.model.flushed.max(high_watermark.0);
        let step = self.rng.below(20);
        if self.traces {
            let names = self.faults.list(Path::new("/data/orders-3")).unwrap_or_default();
            let logs = names.iter().filter(|entry| entry.name.ends_with(".log"));
            println!(
                "{:?}",
                logs.map(|entry| (entry.name.trim_start_matches('0'), entry.len)).collect::<Vec<_>>()
            );
            println!("step {step} at {}..{} flushed {}", log.log_start(), log.log_end(), high_watermark);
        }
        Ok(match step {
            0..=9 => self.append(log)?,
            10..=12 => match log.flush() {
                Ok(flushed) => {
                    self.model.flushed = flushed.0;
                    true
                }
                Err(_) => false,
            },
            13 => dir.checkpoint(now).is_ok() && !log.is_offline(),
            14 => {
                let to = log.log_start().0
                    + self.rng.below((high_watermark.0 - log.log_start().0) as u64 + 1) as i64;
                self.model.start_max = self.model.start_max.max(to);
                log.advance_log_start(Offset(to)).is_ok()
            }
            15 | 16 => {
                let done = self.truncate(log);
                self.learn_sequences(log);
                done
            }
            17 => {
                self.model.start_max = self.model.start_max.max(high_watermark.0);
                log.apply_retention(now, high_watermark).is_ok()
            }
            18 => {
                let clean =
                    Clean { now, high_watermark, map_bytes_max: 48 * (1 + self.rng.below(20) as usize) };
                log.clean(clean).is_ok()
            }
            _ => {
                let from = log.log_start().0
                    + self.rng.below((log.log_end().0 - log.log_start().0) as u64 + 1) as i64;
                read_bytes(log, Offset(from), log.log_end(), 100 + self.rng.below(5000) as usize)?;
                true
            }
        })
    }

    fn truncate(&mut self, log: &Log) -> bool {
        let now = Millis(self.model.now);
        if self.rng.one_in(8) {
            let to = self.rng.below(log.log_end().0 as u64 + 20) as i64;
            self.model.flushed = 0;
            self.model.start_max = self.model.start_max.max(to);
            self.model.current.clear();
            return log.truncate_fully_at(Offset(to)).is_ok();
        }
        // A leader change cuts above the high watermark, and only what lies below is ever compacted.
        let least = if self.model.compacts { log.flushed_end() } else { log.log_start() };
        let to = least.0 + self.rng.below((log.log_end().0 - least.0) as u64 + 1) as i64;
        // The batch that `to` is in the middle of goes too.
        let end = self
            .model
            .current
            .iter()
            .find(|(_, batch)| Batches::new((*batch).clone()).next().unwrap().unwrap().last_offset().0 >= to)
            .map_or(to, |(base, _)| (*base).min(to));
        self.model.flushed = self.model.flushed.min(end);
        self.model.current.retain(|base, _| *base < end);
        log.truncate_to(Offset(to), now).is_ok()
    }

    fn append(&mut self, log: &Log) -> Result<bool, String> {
        let count = 1 + self.rng.below(5) as usize;
        let values = (0..count).map(|_| {
            let key = format!("k{}", self.rng.below(KEYS));
            let value = format!("{:x}{}", self.rng.next(), "v".repeat(self.rng.below(300) as usize));
            let value = if self.rng.one_in(8) { None } else { Some(value) };
            (Some(key), value)
        });
        let mut make = Make { values: values.collect(), ..common::make(&[]) }.at(&[self.model.now]);
        if self.rng.one_in(3) {
            make = make.with(Compression::Lz4);
        }
        let producer = self.rng.below(PRODUCERS as u64 + 1) as i64;
        if producer < PRODUCERS {
            let next = *self.model.sequences.entry(producer).or_insert(0);
            make = make.by(producer, 0, next);
        }
        let sent = make.bytes();
        let expected = log.log_end();
        // What may end up on disk, whether or not the append is answered.
        let mut stored = sent.to_vec();
        stored[..8].copy_from_slice(&expected.0.to_be_bytes());
        stored[12..16].copy_from_slice(&0i32.to_be_bytes());
        let stored = Bytes::from(stored);
        self.model.ever.entry(expected.0).or_default().push(stored.clone());
        for (at, (key, value)) in make.values.iter().enumerate() {
            let record = (key.clone().map(Bytes::from), value.clone().map(Bytes::from));
            self.model.records.entry(expected.0 + at as i64).or_default().push(record);
        }
        match log.append(sent, as_leader(self.model.now)) {
            Ok(appended) => {
                if appended.base_offset != expected || appended.duplicate {
                    return Err(format!("appended at {appended:?} instead of {expected}"));
                }
                if producer < PRODUCERS {
                    self.model.sequences.insert(producer, make.producer.unwrap().2 + count as i32);
                }
                self.model.current.insert(expected.0, stored);
                Ok(true)
            }
            Err(storage::AppendError::Storage(_)) => Ok(false),
            Err(e) => Err(format!("append: {e}")),
        }
    }

    /// A producer goes on where the log knows it to be, as one does that has lost what it sent.
    fn learn_sequences(&mut self, log: &Log) {
        let last = log.producers().into_iter().map(|known| (known.producer_id.0, known.last_sequence + 1));
        self.model.sequences = last.collect();
    }

    fn verify(&mut self, log: &Log) -> Result<(), String> {
        let model = &mut self.model;
        let (start, end) = (log.log_start(), log.log_end());
        if end.0 < model.flushed || log.flushed_end() != end {
            return Err(format!(
                "ends at {end}, flushed {}, was flushed {}",
                log.flushed_end(),
                model.flushed
            ));
        }
        // Where nothing was flushed, the names of the first segments may be lost and those of later ones kept.
        if start.0 > model.start_max && model.flushed > model.start_max {
            return Err(format!("starts at {start}, at most {}", model.start_max));
        }
        let bytes = read_bytes(log, start, end, 700)?;
        let mut previous = None;
        let mut seen_batches = BTreeMap::new();
        let mut seen_records = HashSet::new();
        let mut last_of_producer = HashMap::new();
        for batch in Batches::new(bytes) {
            let batch = batch.map_err(|e| format!("batch: {e}"))?;
            batch.verify_crc().map_err(|e| format!("at {}: {e}", batch.base_offset()))?;
            if previous.is_some_and(|previous| batch.base_offset() <= previous) {
                return Err(format!("{} after {previous:?}", batch.base_offset()));
            }
            if !model.compacts && previous.is_some_and(|previous| batch.base_offset() != previous.plus(1)) {
                return Err(format!("a gap between {previous:?} and {}", batch.base_offset()));
            }
            previous = Some(batch.last_offset());
            if batch.producer_id().0 >= 0 {
                last_of_producer.insert(batch.producer_id(), (batch.producer_epoch(), batch.last_sequence()));
            }
            for record in batch.records(1 << 20) {
                let record = record.map_err(|e| format!("record: {e}"))?;
                let known = model
                    .records
                    .get(&record.offset.0)
                    .is_some_and(|versions| versions.contains(&(record.key.clone(), record.value.clone())));
                if !known {
                    return Err(format!("the record at {} was never written", record.offset));
                }
                seen_records.insert(record.offset.0);
            }
            let base = batch.base_offset().0;
            let unchanged = model.ever.get(&base).is_some_and(|versions| versions.contains(batch.bytes()));
            if !unchanged && !model.compacts {
                return Err(format!("the batch at {base} is not one that was written"));
            }
            seen_batches.insert(base, batch.bytes().clone());
        }
        if previous.is_some_and(|previous| previous >= end) {
            return Err(format!("{previous:?} is at or above the end {end}"));
        }
        let answered = model.current.iter().filter(|(base, _)| **base >= model.start_max);
        let mut latest = HashMap::new();
        for (base, stored) in answered {
            let batch = Batches::new(stored.clone()).next().unwrap().unwrap();
            if batch.last_offset().0 >= model.flushed {
                continue;
            }
            if !model.compacts && seen_batches.get(base) != Some(stored) {
                return Err(format!("the batch at {base} was flushed and is gone"));
            }
            for record in batch.records(1 << 20).map(Result::unwrap) {
                latest.insert(record.key, (record.offset.0, record.value.is_some()));
            }
        }
        for (key, (offset, has_value)) in latest {
            if has_value && !seen_records.contains(&offset) {
                return Err(format!("{key:?} at {offset} was flushed and is gone"));
            }
        }
        let producers = log.producers();
        for (id, (epoch, sequence)) in &last_of_producer {
            let known = producers.iter().find(|producer| producer.producer_id == *id);
            // Compaction keeps a producer's last batch; when a truncation then takes that one, a snapshot still knows
            // of batches before it that compaction has removed.
            let agrees = known.is_some_and(|known| {
                let is_ahead = model.compacts && known.last_sequence > *sequence;
                known.epoch == *epoch && (known.last_sequence == *sequence || is_ahead)
            });
            if !agrees {
                return Err(format!("producer {id} wrote {sequence} last, known is {known:?}"));
            }
        }
        model.flushed = end.0;
        model.start_max = start.0;
        if model.compacts {
            // Batches lose records; what was known of them stays as far as the log reaches.
            model.current.retain(|base, _| *base < end.0);
            for (base, batch) in seen_batches {
                model.current.entry(base).or_insert(batch);
            }
        } else {
            model.current = seen_batches;
        }
        self.learn_sequences(log);
        Ok(())
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("OTTLA_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OTTLA_CRASH_SEEDS").unwrap_or(20_000),
    }
}

#[test]
fn what_was_flushed_survives_any_crash() {
    for seed in seeds() {
        if let Err(violation) = run(seed, |disk| Arc::new(disk)) {
            panic!("{violation}");
        }
    }
}

/// A disk that says it has synced and has not.
#[derive(Debug)]
struct Liar {
    inner: FaultDisk,
    lies_about: Lie,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    Dirs,
    Files,
}

#[derive(Debug)]
struct LyingFile(Arc<dyn DiskFile>);

impl Disk for Liar {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.inner.open(path, mode)?;
        Ok(if self.lies_about == Lie::Files { Arc::new(LyingFile(file)) } else { file })
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.lies_about == Lie::Dirs { Ok(()) } else { self.inner.sync_dir(dir) }
    }
    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.inner.lock(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.0.read_cached_at(buf, offset)
    }
    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.0.write_vectored_at(bufs, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_does_not_sync_its_directory_is_found_out() {
    let found =
        (0..20).filter(|seed| run(*seed, |inner| Arc::new(Liar { inner, lies_about: Lie::Dirs })).is_err());
    assert!(found.count() > 0, "twenty histories without a directory sync, and none lost anything");
}

#[test]
fn a_log_that_does_not_sync_its_files_is_found_out() {
    let found =
        (0..20).filter(|seed| run(*seed, |inner| Arc::new(Liar { inner, lies_about: Lie::Files })).is_err());
    assert!(found.count() > 0, "twenty histories without a file sync, and none lost anything");
}
