//! Compaction of a log with transactions in it: what a reader of committed records sees of it, whatever was removed and wherever a
//! crash came, and what of markers is left in the end.
//!
//! `OTTLA_TXN_SEEDS` says how many histories (3,000 without it), `OTTLA_TXN_SEED` runs a single one.

mod common;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use common::{Rng, as_leader, make_keyed, marker, open_dir, open_log, partition, read_batches, topic_id};
use storage::{
    ActiveProducer, Append, Clean, Cleanup, DataDir, Disk, Located, Log, LogConfig, Origin, ReadLimits,
    ReadMode, Slice, fault::FaultDisk,
};
use wire::{Millis, Offset, records::Batches};

const LOG_DIR: &str = "/data/orders-3";
const DELETE_RETENTION_MS: i64 = 5_000;
const EXPIRATION_MS: i64 = 40_000;

fn compacted() -> LogConfig {
    LogConfig {
        segment_bytes: 1500,
        index_interval_bytes: 200,
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: DELETE_RETENTION_MS,
        producer_id_expiration_ms: EXPIRATION_MS,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    }
}

fn as_coordinator(now: i64) -> Append {
    Append { origin: Origin::Coordinator, ..as_leader(now) }
}

fn clean(log: &Log, now: i64) {
    let high_watermark = log.flush().expect("the flush");
    let clean = Clean { now: Millis(now), high_watermark, map_bytes_max: 1 << 20 };
    log.clean(clean).expect("the cleaning").expect("something to clean");
}

/// Closes the active segment, so that all before can be cleaned.
fn roll(log: &Log, now: i64) {
    for key in ["roll-1", "roll-2"] {
        let filler = "r".repeat(1200);
        log.append(make_keyed(&[(key, Some(&filler))]).bytes(), as_leader(now)).expect("the append");
    }
}

/// Base offsets of the markers below `end`.
fn markers_below(log: &Log, end: Offset) -> Vec<i64> {
    let batches = read_batches(log);
    let markers = batches.iter().filter(|batch| batch.attributes().is_control());
    markers.map(|batch| batch.base_offset().0).filter(|base| *base < end.0).collect()
}

#[test]
fn a_marker_goes_some_time_after_the_last_of_its_transaction() {
    let dir = open_dir(Arc::new(FaultDisk::new()), "/data");
    let log = open_log(&dir, compacted());
    // A group's offsets, committed with transactions of one producer and one epoch: batches without sequences.
    for at in 0..10 {
        let commit = make_keyed(&[("group", Some(&format!("{at}")))]).by(7, 0, -1).in_transaction();
        log.append(commit.bytes(), as_coordinator(1000)).expect("the append");
        log.append(marker(7, 0, at % 3 != 0), as_coordinator(1000)).expect("the marker");
    }
    let end = log.log_end();
    let all: Vec<i64> = (0..10).map(|at| 2 * at + 1).collect();
    roll(&log, 1000);
    clean(&log, 10_000);
    assert_eq!(markers_below(&log, end), all, "a reader may have what they end");
    roll(&log, 1000);
    clean(&log, 20_000);
    assert_eq!(markers_below(&log, end), all, "their time begins when nothing of the transaction is left");
    roll(&log, 1000);
    clean(&log, 20_000 + DELETE_RETENTION_MS - 1);
    assert_eq!(markers_below(&log, end), all);
    roll(&log, 1000);
    clean(&log, 20_000 + DELETE_RETENTION_MS);
    assert_eq!(markers_below(&log, end), [17, 19], "that of the offset that counts, and the producer's last");
    log.expire_producers(Millis(10_000_000));
    for round in 0..3 {
        roll(&log, 1000);
        clean(&log, 10_000_000 + round * DELETE_RETENTION_MS);
    }
    assert_eq!(markers_below(&log, end), [17], "a producer that is forgotten needs none");
}

#[test]
fn a_producer_goes_on_in_its_epoch_after_its_markers_are_gone() {
    let disk = FaultDisk::new();
    let dir = open_dir(Arc::new(disk.clone()), "/data");
    let log = open_log(&dir, compacted());
    for at in 0..5 {
        let batch = make_keyed(&[("a", Some(&format!("{at}")))]).by(7, 0, at).in_transaction();
        log.append(batch.bytes(), as_leader(1000)).expect("the append");
        log.append(marker(7, 0, true), as_coordinator(1000)).expect("the marker");
        // With an epoch for each transaction its end is in the next one.
        let (epoch, next) = (i16::try_from(at).expect("small"), i16::try_from(at + 1).expect("small"));
        let batch = make_keyed(&[("b", Some(&format!("{at}")))]).by(8, epoch, 0).in_transaction();
        log.append(batch.bytes(), as_leader(1000)).expect("the append");
        log.append(marker(8, next, false), as_coordinator(1000)).expect("the marker");
    }
    let end = log.log_end();
    for round in 1..4 {
        roll(&log, 1000);
        clean(&log, round * 10_000);
    }
    assert_eq!(markers_below(&log, end), [17, 19]);
    let before = log.producers();
    drop((log, dir));
    forget_snapshots(&disk);
    disk.crash(&mut |_| 0);
    let log = open_log(&open_dir(Arc::new(disk), "/data"), compacted());
    let mut after = log.producers();
    after.sort_by_key(|producer| producer.producer_id);
    let mut known: Vec<ActiveProducer> = before;
    known.sort_by_key(|producer| producer.producer_id);
    assert_eq!(after, known);
    assert_eq!(log.last_stable_offset(log.log_end()), log.log_end(), "nothing seems to be open");
}

#[test]
fn a_reader_that_holds_what_is_removed_knows_still_what_of_it_was_aborted() {
    let dir = open_dir(Arc::new(FaultDisk::new()), "/data");
    let log = open_log(&dir, compacted());
    let batch = make_keyed(&[("a", Some("aborted"))]).by(7, 0, 0).in_transaction();
    log.append(batch.bytes(), as_leader(1000)).expect("the append");
    log.append(marker(7, 0, false), as_coordinator(1000)).expect("the marker");
    roll(&log, 1000);
    let limits = ReadLimits { bytes_max: 1 << 20, upper: Offset(2), minimum_one: true };
    let slice = log.read(Offset(0), limits).expect("the slice");
    log.advance_log_start(log.log_end()).expect("the deletion");
    let mut seen = BTreeMap::new();
    assert_eq!(consume(&slice, &mut seen), Ok(Some(Offset(2))));
    assert_eq!(seen, BTreeMap::new());
}

fn forget_snapshots(disk: &FaultDisk) {
    for entry in disk.list(Path::new(LOG_DIR)).expect("the directory") {
        if entry.name.ends_with(".snapshot") {
            disk.remove(&Path::new(LOG_DIR).join(entry.name)).expect("the removal");
        }
    }
}

const KEYS: u64 = 8;
const LIVES: u64 = 4;

/// Whether a producer's batches have sequences, and each transaction an epoch.
struct Producer {
    id: i64,
    sequenced: bool,
    epoch_each: bool,
    epoch: i16,
    /// The offsets of its open transaction.
    open: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

/// What was written: key, value, and what became of it.
struct Written {
    key: String,
    value: Option<String>,
    fate: Fate,
}

#[derive(Default)]
struct Model {
    written: BTreeMap<i64, Written>,
}

impl Model {
    /// What of `seen`, read from `from` up to `upper`, should not have been, or is missing.
    fn check(&self, from: i64, upper: i64, seen: &BTreeMap<i64, Option<String>>) -> Result<(), String> {
        for (offset, value) in seen {
            let written =
                self.written.get(offset).ok_or_else(|| format!("nothing was written at {offset}"))?;
            if written.fate != Fate::Committed || written.value != *value {
                return Err(format!("{value:?} at {offset} is {:?}", written.fate));
            }
        }
        let mut latest = HashMap::new();
        for (offset, written) in self.written.range(..upper) {
            if written.fate == Fate::Committed {
                latest.insert(&written.key, (*offset, written.value.is_some()));
            }
        }
        for (key, (offset, has_value)) in latest {
            if has_value && offset >= from && !seen.contains_key(&offset) {
                return Err(format!("{key} at {offset} is missing from {from}..{upper}"));
            }
        }
        Ok(())
    }
}

/// What a consumer that reads committed records makes of one answer, and where it reads on.
fn consume(slice: &Slice, seen: &mut BTreeMap<i64, Option<String>>) -> Result<Option<Offset>, String> {
    let Located::Batches(batches) = slice.locate(ReadMode::Blocking).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let mut bytes = vec![0; batches.len()];
    batches.read_at(0, &mut bytes, ReadMode::Blocking).map_err(|e| e.to_string())?;
    let mut aborted = slice.aborted_transactions(batches.end()).map_err(|e| e.to_string())?;
    aborted.sort_by_key(|txn| txn.first_offset);
    let mut aborted = aborted.into_iter().peekable();
    let mut skipped = HashSet::new();
    let mut next = None;
    for batch in Batches::new(bytes.into()) {
        let batch = batch.map_err(|e| e.to_string())?;
        next = Some(batch.last_offset().plus(1));
        while let Some(txn) = aborted.next_if(|txn| txn.first_offset <= batch.last_offset()) {
            skipped.insert(txn.producer_id);
        }
        let records: Vec<_> = batch.records(1 << 20).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        if batch.attributes().is_control() {
            let is_abort = records.iter().any(|record| record.key.as_ref().is_some_and(|key| key[3] == 0));
            if is_abort {
                skipped.remove(&batch.producer_id());
            }
            continue;
        }
        if batch.attributes().is_transactional() && skipped.contains(&batch.producer_id()) {
            continue;
        }
        for record in records.iter().filter(|record| record.offset >= slice.from()) {
            let value = record.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
            seen.insert(record.offset.0, value);
        }
    }
    if next > Some(batches.end()) {
        return Err(format!("a batch up to {next:?} beyond {}", batches.end()));
    }
    Ok(next)
}

struct History {
    rng: Rng,
    disk: FaultDisk,
    model: Model,
    producers: Vec<Producer>,
    now: i64,
}

impl History {
    fn new(seed: u64) -> History {
        let kinds = [(true, false), (true, true), (false, false), (false, true)];
        let producers = kinds.iter().zip(0..).map(|((sequenced, epoch_each), id)| Producer {
            id,
            sequenced: *sequenced,
            epoch_each: *epoch_each,
            epoch: 0,
            open: Vec::new(),
        });
        History {
            rng: Rng::new(seed),
            disk: FaultDisk::new(),
            model: Model::default(),
            producers: producers.collect(),
            now: 1_000,
        }
    }

    fn open(&self) -> Result<(DataDir, Arc<Log>), String> {
        let dir = open_dir(Arc::new(self.disk.clone()), "/data");
        let log = dir
            .open_log(&partition(), topic_id(), compacted(), Millis(self.now))
            .map_err(|e| format!("recovery: {e}"))?;
        Ok((dir, log))
    }

    fn live(&mut self) -> Result<(), String> {
        let (dir, log) = self.open()?;
        self.read(&log)?;
        for _ in 0..self.rng.below(80) {
            self.now += self.rng.below(400) as i64;
            match self.rng.below(20) {
                0..=8 => self.append(&log)?,
                9..=12 => self.end_transaction(&log)?,
                13..=15 => self.append_plain(&log)?,
                16 => self.read(&log)?,
                17 => log.expire_producers(Millis(self.now)),
                18 => self.now += DELETE_RETENTION_MS,
                _ => self.clean(&log)?,
            }
        }
        // All that was written is flushed: what a crash takes is for other tests.
        log.flush().map_err(|e| e.to_string())?;
        let before = log.producers();
        let end = log.log_end();
        if self.rng.one_in(2) {
            self.disk.stop_after(self.disk.operations() + self.rng.below(40));
            let high_watermark = log.flushed_end();
            let clean = Clean { now: Millis(self.now), high_watermark, map_bytes_max: 1 << 20 };
            let _ = log.clean(clean);
        }
        drop((log, dir));
        let rng = &mut self.rng;
        self.disk.crash(&mut |bound: u64| rng.below(bound));
        if self.rng.one_in(2) {
            forget_snapshots(&self.disk);
        }
        let (_dir, log) = self.open()?;
        if log.log_end() != end {
            return Err(format!("ended at {end}, ends at {}", log.log_end()));
        }
        let after: HashMap<_, _> =
            log.producers().into_iter().map(|producer| (producer.producer_id, producer)).collect();
        for known in before {
            let found = after.get(&known.producer_id);
            let agrees = found.is_some_and(|found| {
                (found.epoch, found.last_sequence, found.txn_start)
                    == (known.epoch, known.last_sequence, known.txn_start)
            });
            if !agrees {
                return Err(format!("of {known:?} there is {found:?}"));
            }
        }
        let open = self.producers.iter().filter_map(|producer| producer.open.first().copied()).min();
        let stable = log.last_stable_offset(end).0;
        if stable != open.unwrap_or(end.0) {
            return Err(format!(
                "readers wait at {stable}, the first open transaction is at {open:?} of {end}"
            ));
        }
        Ok(())
    }

    fn records(&mut self) -> Vec<(String, Option<String>)> {
        let count = 1 + self.rng.below(3);
        let record = |rng: &mut Rng| {
            let value = format!("{:x}{}", rng.next(), "v".repeat(rng.below(60) as usize));
            (format!("k{}", rng.below(KEYS)), (!rng.one_in(10)).then_some(value))
        };
        (0..count).map(|_| record(&mut self.rng)).collect()
    }

    fn write(
        &mut self,
        log: &Log,
        batch: &common::Make,
        append: Append,
        fate: Fate,
    ) -> Result<Vec<i64>, String> {
        let base = log.append(batch.bytes(), append).map_err(|e| format!("append: {e}"))?.base_offset.0;
        let mut offsets = Vec::new();
        for ((key, value), offset) in batch.values.iter().zip(base..) {
            let key = key.clone().expect("every record has one");
            self.model.written.insert(offset, Written { key, value: value.clone(), fate });
            offsets.push(offset);
        }
        Ok(offsets)
    }

    fn append_plain(&mut self, log: &Log) -> Result<(), String> {
        let batch = common::Make { values: keyed(self.records()), ..common::make(&[]) }.at(&[self.now]);
        self.write(log, &batch, as_leader(self.now), Fate::Committed).map(drop)
    }

    fn append(&mut self, log: &Log) -> Result<(), String> {
        let at = self.rng.below(self.producers.len() as u64) as usize;
        let (id, epoch, sequenced) =
            (self.producers[at].id, self.producers[at].epoch, self.producers[at].sequenced);
        let known = log.producers().into_iter().find(|known| known.producer_id.0 == id);
        let sequence = match known {
            Some(known) if known.epoch.0 == epoch => known.last_sequence + 1,
            Some(_) | None => 0,
        };
        let batch = common::Make { values: keyed(self.records()), ..common::make(&[]) }
            .at(&[self.now])
            .by(id, epoch, if sequenced { sequence } else { -1 })
            .in_transaction();
        let append = if sequenced { as_leader(self.now) } else { as_coordinator(self.now) };
        let offsets = self.write(log, &batch, append, Fate::Open)?;
        self.producers[at].open.extend(offsets);
        Ok(())
    }

    fn end_transaction(&mut self, log: &Log) -> Result<(), String> {
        let at = self.rng.below(self.producers.len() as u64) as usize;
        let fate = if self.rng.one_in(2) { Fate::Committed } else { Fate::Aborted };
        // Without an epoch for each, one that is given up is fenced with the next epoch.
        let bumps = self.producers[at].epoch_each || fate == Fate::Aborted && self.rng.one_in(4);
        let producer = &mut self.producers[at];
        producer.epoch += i16::from(bumps);
        log.append(marker(producer.id, producer.epoch, fate == Fate::Committed), as_coordinator(self.now))
            .map_err(|e| format!("marker: {e}"))?;
        for offset in producer.open.drain(..) {
            self.model.written.get_mut(&offset).expect("it was written").fate = fate;
        }
        Ok(())
    }

    /// Cleans, while a reader holds what it asked for before.
    fn clean(&mut self, log: &Log) -> Result<(), String> {
        let high_watermark = log.flush().map_err(|e| e.to_string())?;
        let held: Vec<_> = (0..4).filter_map(|_| self.ask(log).transpose()).collect::<Result<_, _>>()?;
        for _ in 0..1 + self.rng.below(2) {
            let map_bytes_max = 48 * (4 + self.rng.below(40) as usize);
            log.clean(Clean { now: Millis(self.now), high_watermark, map_bytes_max })
                .map_err(|e| format!("clean: {e}"))?;
        }
        for (slice, upper) in held {
            let mut seen = BTreeMap::new();
            if let Some(end) = consume(&slice, &mut seen)? {
                self.check_part(slice.from(), end, upper, &seen)?;
            }
        }
        self.read(log)
    }

    /// A reader's question at a random place, and the offset below which all is decided.
    fn ask(&mut self, log: &Log) -> Result<Option<(Slice, Offset)>, String> {
        let upper = log.last_stable_offset(log.log_end());
        let from = Offset(self.rng.below(upper.0 as u64 + 1) as i64);
        let limits = ReadLimits { bytes_max: 1 + self.rng.below(2000) as usize, upper, minimum_one: true };
        if from >= upper {
            return Ok(None);
        }
        Ok(Some((log.read(from, limits).map_err(|e| e.to_string())?, upper)))
    }

    /// Checks what was seen of `from..end`: nothing beyond it can be missing.
    fn check_part(
        &self,
        from: Offset,
        end: Offset,
        upper: Offset,
        seen: &BTreeMap<i64, Option<String>>,
    ) -> Result<(), String> {
        let mut whole = seen.clone();
        // As if the rest had been read in full.
        for (offset, written) in self.model.written.range(end.0..upper.0.max(end.0)) {
            if written.fate == Fate::Committed {
                whole.insert(*offset, written.value.clone());
            }
        }
        self.model.check(from.0, upper.0, &whole)
    }

    /// Reads from a random place up to the last stable offset, in answers of random sizes.
    fn read(&mut self, log: &Log) -> Result<(), String> {
        let Some((first, upper)) = self.ask(log)? else { return Ok(()) };
        let mut seen = BTreeMap::new();
        let mut next = consume(&first, &mut seen)?;
        while let Some(from) = next.filter(|next| *next < upper) {
            let limits =
                ReadLimits { bytes_max: 1 + self.rng.below(3000) as usize, upper, minimum_one: true };
            let slice = log.read(from, limits).map_err(|e| e.to_string())?;
            next = consume(&slice, &mut seen)?;
        }
        self.model.check(first.from().0, upper.0, &seen)
    }
}

fn keyed(records: Vec<(String, Option<String>)>) -> Vec<(Option<String>, Option<String>)> {
    records.into_iter().map(|(key, value)| (Some(key), value)).collect()
}

#[test]
fn a_reader_of_committed_records_sees_what_was_committed_and_nothing_else() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("OTTLA_TXN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OTTLA_TXN_SEEDS").unwrap_or(3_000),
    };
    for seed in seeds {
        let mut history = History::new(seed);
        for life in 0..LIVES {
            if let Err(violation) = history.live() {
                panic!("seed {seed}, life {life}: {violation}");
            }
        }
    }
}
