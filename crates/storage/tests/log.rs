//! What a log promises, one story each.

mod common;

use std::{path::Path, sync::Arc};

use common::{
    Make, as_leader, dump, make, make_keyed, marker, open_dir, open_log, options, partition, read_batches,
    read_bytes, topic_id,
};
use storage::{
    Append, AppendError, Clean, Cleanup, CompressionType, DataDir, DataDirError, DataDirOptions, Disk,
    Located, Log, LogConfig, OpenMode, Origin, ReadError, ReadLimits, ReadMode, Rot, Scrubbed, StorageError,
    TimestampType, Visible,
    fault::{Fault, FaultDisk},
};
use wire::{BrokerId, LeaderEpoch, Millis, Offset, compression::Compression, records::Batches};

fn config() -> LogConfig {
    LogConfig { timestamp_after_max_ms: i64::MAX, ..LogConfig::default() }
}

fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 400, index_interval_bytes: 100, ..config() }
}

fn fresh(config: LogConfig) -> (FaultDisk, DataDir, Arc<Log>) {
    let disk = FaultDisk::new();
    let dir = open_dir(Arc::new(disk.clone()), "/data");
    let log = open_log(&dir, config);
    (disk, dir, log)
}

fn put(log: &Log, values: &[&str]) -> Offset {
    log.append(make(values).bytes(), as_leader(1000)).expect("the append").base_offset
}

fn limits(bytes_max: usize, upper: i64) -> ReadLimits {
    ReadLimits { bytes_max, upper: Offset(upper), minimum_one: true }
}

fn offsets_read(log: &Log, from: i64, limits: ReadLimits) -> Vec<i64> {
    let slice = log.read(Offset(from), limits).expect("the slice");
    let bytes = slice.read().expect("the read");
    Batches::new(bytes).map(|batch| batch.expect("a batch").base_offset().0).collect()
}

#[test]
fn records_come_back_at_the_offsets_they_were_given() {
    let (_, _, log) = fresh(config());
    assert_eq!(put(&log, &["a", "b"]), Offset(0));
    assert_eq!(put(&log, &["c"]), Offset(2));
    assert_eq!(dump(&log), "0:a 1:b 2:c");
    assert_eq!((log.log_end(), log.flushed_end()), (Offset(3), Offset(0)));
    assert_eq!(log.flush().expect("the flush"), Offset(3));
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(0)));
}

#[test]
fn a_read_gives_whole_batches_below_its_bound() {
    let (_, _, log) = fresh(LogConfig { index_interval_bytes: 1, ..config() });
    for at in 0..10 {
        put(&log, &[&format!("{at}"), "x"]);
    }
    let size = read_batches(&log)[0].size();
    assert_eq!(offsets_read(&log, 0, limits(size * 2, 20)), [0, 2], "exactly two fit");
    assert_eq!(offsets_read(&log, 0, limits(size * 3 - 1, 20)), [0, 2], "not quite three");
    assert_eq!(offsets_read(&log, 3, limits(size, 20)), [2], "from the middle of a batch");
    assert_eq!(offsets_read(&log, 4, limits(1, 20)), [4], "the first comes whole");
    let none = ReadLimits { minimum_one: false, ..limits(1, 20) };
    assert_eq!(offsets_read(&log, 4, none), [0i64; 0]);
    assert_eq!(offsets_read(&log, 14, limits(1 << 20, 18)), [14, 16]);
    assert_eq!(offsets_read(&log, 14, limits(1 << 20, 17)), [14], "no part of a batch");
    assert_eq!(offsets_read(&log, 18, limits(1 << 20, 18)), [0i64; 0]);
    assert_eq!(offsets_read(&log, 20, limits(1 << 20, 20)), [0i64; 0], "the log end is in range");
    let beyond = log.read(Offset(21), limits(1, 20));
    assert!(matches!(beyond, Err(ReadError::OutOfRange { log_end: Offset(20), .. })), "{beyond:?}");
}

#[test]
fn a_reader_that_goes_on_crosses_segments() {
    let (_, _, log) = fresh(small_segments());
    for at in 0..50 {
        put(&log, &[&format!("value {at}")]);
    }
    assert!(log.segment_count() > 5);
    for bytes_max in [1, 100, 333, 5000] {
        let bytes = read_bytes(&log, Offset(7), Offset(50), bytes_max).expect("the read");
        assert_eq!(Batches::new(bytes).count(), 43, "{bytes_max}");
    }
}

#[test]
fn what_may_not_enter_leaves_no_trace() {
    let compacted = LogConfig { cleanup: Cleanup { delete: false, compact: true }, ..config() };
    let flipped = |at: usize| {
        let mut bytes = make(&["a"]).bytes().to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let resealed = |at: usize, value: u8| {
        let mut bytes = make(&["a", "b"]).bytes().to_vec();
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let two = [make(&["a"]).bytes(), make(&["b"]).bytes()].concat();
    let cases: Vec<(&str, LogConfig, Vec<u8>, &str)> = vec![
        ("checksum", config(), flipped(66), "corrupt batch"),
        ("cut", config(), make(&["a"]).bytes()[..60].to_vec(), "corrupt batch"),
        ("cut body", config(), make(&["a"]).bytes()[..65].to_vec(), "corrupt batch"),
        ("length", config(), flipped(8), "corrupt batch"),
        ("old format", config(), resealed(16, 1), "message format 1"),
        ("count", config(), resealed(60, 3), "invalid record"),
        ("last offset delta", config(), resealed(26, 2), "invalid record"),
        ("record's offset", config(), resealed(64, 8), "invalid record"),
        ("codec", config(), resealed(22, 7), "invalid record: unknown"),
        ("control", config(), marker(1, 0, true).to_vec(), "invalid record: a producer may not"),
        ("append time", config(), resealed(22, 8), "timestamp"),
        ("nothing", config(), vec![], "invalid record"),
        ("two batches", config(), two, "invalid record"),
        ("no key", compacted, make(&["a"]).bytes().to_vec(), "invalid record: a compacted"),
        (
            "size",
            LogConfig { max_message_bytes: 70, ..config() },
            make(&["a", "b"]).bytes().to_vec(),
            "exceeds",
        ),
        (
            "old timestamp",
            LogConfig { timestamp_before_max_ms: 10, ..config() },
            make(&["a"]).at(&[900]).bytes().to_vec(),
            "timestamp 900",
        ),
        (
            "future timestamp",
            LogConfig { timestamp_after_max_ms: 10, ..config() },
            make(&["a", "b"]).at(&[1000, 1011]).bytes().to_vec(),
            "timestamp 1011",
        ),
        ("no sequence", config(), make(&["a"]).by(1, 0, -1).bytes().to_vec(), "invalid record"),
        ("no producer", config(), make(&["a"]).in_transaction().bytes().to_vec(), "invalid record"),
    ];
    for (name, config, bytes, expected) in cases {
        let (_, _, log) = fresh(config);
        let refused = log.append(bytes.into(), as_leader(1000)).expect_err(name);
        assert!(
            refused.to_string().starts_with(expected) || refused.to_string().contains(expected),
            "{name}: {refused}"
        );
        assert_eq!((log.log_end(), log.size_bytes()), (Offset(0), 0), "{name}");
        assert!(!log.is_offline(), "{name}");
    }
}

#[test]
fn every_record_that_is_to_blame_is_named() {
    let blamed = |config, batch: Make| {
        let (_, _, log) = fresh(config);
        match log.append(batch.bytes(), as_leader(1000)) {
            Err(
                AppendError::InvalidRecord { records, .. } | AppendError::InvalidTimestamp { records, .. },
            ) => records,
            other => panic!("{other:?}"),
        }
    };
    let compacted = LogConfig { cleanup: Cleanup { delete: false, compact: true }, ..config() };
    assert_eq!(blamed(compacted, make(&["a", "b"])), [0, 1]);
    let punctual = LogConfig { timestamp_after_max_ms: 10, ..config() };
    assert_eq!(blamed(punctual.clone(), make(&["a", "b", "c", "d"]).at(&[1000, 1011, 990, 5000])), [1, 3]);
    assert_eq!(blamed(punctual, make(&["a", "b"]).at(&[2000, 1000]).with(Compression::Gzip)), [0]);
}

#[test]
fn a_repeated_batch_gets_its_first_offset_and_a_gap_is_refused() {
    let (_, _, log) = fresh(config());
    let send =
        |epoch, sequence| log.append(make(&["a", "b"]).by(7, epoch, sequence).bytes(), as_leader(1000));
    for sequence in (0..12).step_by(2) {
        assert_eq!(send(0, sequence).expect("the append").base_offset, Offset(i64::from(sequence)));
    }
    let repeated = send(0, 2).expect("a repetition");
    assert!(repeated.duplicate);
    assert_eq!((repeated.base_offset, repeated.last_offset), (Offset(2), Offset(3)));
    let forgotten = send(0, 0).expect("a repetition of what is not among the last five");
    assert!(forgotten.duplicate && forgotten.forgotten);
    assert_eq!((forgotten.base_offset, forgotten.last_offset), (Offset(-1), Offset(1)));
    assert!(matches!(send(0, 14), Err(AppendError::OutOfOrderSequence { expected: 12, .. })));
    assert!(matches!(send(1, 12), Err(AppendError::OutOfOrderSequence { expected: 0, .. })));
    assert_eq!(send(1, 0).expect("the next epoch").base_offset, Offset(12));
    assert!(matches!(send(0, 12), Err(AppendError::InvalidProducerEpoch { .. })), "fenced");
    assert_eq!(log.log_end(), Offset(14));
}

#[test]
fn what_comes_before_the_first_known_sequence_is_no_repetition() {
    let (_, _, log) = fresh(config());
    let send = |epoch, sequence| log.append(make(&["a"]).by(7, epoch, sequence).bytes(), as_leader(1000));
    // The log never had 97 to 99: its leader died with them.
    for sequence in 100..107 {
        send(0, sequence).expect("an unknown producer starts anywhere");
    }
    assert!(send(0, 100).expect("a repetition").forgotten);
    assert!(send(0, 101).expect("a repetition").forgotten);
    assert!(matches!(send(0, 99), Err(AppendError::OutOfOrderSequence { expected: 107, found: 99, .. })));
    assert!(matches!(send(0, 108), Err(AppendError::OutOfOrderSequence { expected: 107, found: 108, .. })));
    for sequence in 0..7 {
        send(1, sequence).expect("a new epoch begins at 0");
    }
    assert!(send(1, 1).expect("a repetition").forgotten);
    assert!(matches!(send(1, 100), Err(AppendError::OutOfOrderSequence { .. })), "that was another epoch");
}

#[test]
fn sequences_wrap_after_the_largest() {
    let (_, _, log) = fresh(config());
    let send =
        |values: &[&str], sequence| log.append(make(values).by(7, 0, sequence).bytes(), as_leader(1000));
    send(&["a"], i32::MAX - 1).expect("an unknown producer starts anywhere");
    send(&["b", "c"], i32::MAX).expect("a batch across the end");
    assert!(send(&["b", "c"], i32::MAX).expect("a repetition").duplicate);
    assert_eq!(send(&["d"], 1).expect("after the wrap").base_offset, Offset(3));
    for sequence in 2..7 {
        send(&["e"], sequence).expect("the append");
    }
    assert!(send(&["b", "c"], i32::MAX).expect("a repetition").forgotten);
    assert!(send(&["a"], i32::MAX - 1).expect("a repetition").forgotten);
    assert!(matches!(send(&["a"], i32::MAX - 2), Err(AppendError::OutOfOrderSequence { .. })));
}

#[test]
fn producers_survive_a_restart_with_all_that_is_known_of_their_batches() {
    for clean in [true, false] {
        let (disk, dir, log) = fresh(config());
        for sequence in 0..7 {
            log.append(make(&["a"]).by(7, 0, sequence).bytes(), as_leader(1000)).expect("the append");
        }
        log.flush().expect("the flush");
        if clean {
            dir.close(Millis(2000), -1).expect("a clean stop");
        }
        drop((log, dir));
        disk.kill();
        let dir = open_dir(Arc::new(disk.clone()), "/data");
        assert_eq!(dir.was_clean(), clean);
        let log = open_log(&dir, config());
        for sequence in 2..7 {
            let again =
                log.append(make(&["a"]).by(7, 0, sequence).bytes(), as_leader(1000)).expect("the append");
            assert!(again.duplicate && again.base_offset == Offset(i64::from(sequence)), "{clean} {again:?}");
        }
        for sequence in 0..2 {
            let again = log.append(make(&["a"]).by(7, 0, sequence).bytes(), as_leader(1000));
            assert!(again.expect("a repetition").forgotten, "{clean} {sequence}");
        }
    }
}

#[test]
fn silent_producers_are_forgotten_and_so_are_too_many() {
    let (_, _, log) = fresh(LogConfig { producer_id_expiration_ms: 100, producers_max: 2, ..config() });
    for (producer, now) in [(1, 1000), (2, 1090), (3, 1091), (4, 1092)] {
        log.append(make(&["a"]).at(&[now]).by(producer, 0, 0).bytes(), as_leader(now)).expect("the append");
    }
    log.expire_producers(Millis(1101));
    let mut left: Vec<i64> = log.producers().iter().map(|producer| producer.producer_id.0).collect();
    left.sort_unstable();
    assert_eq!(left, [3, 4]);
}

#[test]
fn log_append_time_is_stamped_under_a_right_checksum() {
    let config = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..config() };
    let (_, _, log) = fresh(config);
    let batch = make(&["a", "b"]).at(&[5, 6]).with(Compression::Zstd).bytes();
    let appended = log.append(batch, as_leader(777)).expect("the append");
    assert_eq!(appended.log_append_time, Some(Millis(777)));
    let stored = &read_batches(&log)[0];
    stored.verify_crc().expect("the checksum is right");
    let timestamps: Vec<_> =
        stored.records(1 << 20).map(|record| record.expect("a record").timestamp.0).collect();
    assert_eq!(timestamps, [777, 777]);
    let found = log.offset_for_time(Millis(100), Offset(2)).expect("the lookup").expect("a record");
    assert_eq!((found.offset, found.timestamp), (Offset(0), Millis(777)));
}

#[test]
fn a_topics_own_codec_replaces_the_producers() {
    let codec = CompressionType::Codec { codec: Compression::Zstd, level: None };
    let (_, _, log) = fresh(LogConfig { compression_type: codec, ..config() });
    for codec in Compression::ALL {
        log.append(make(&["a", "b"]).with(codec).bytes(), as_leader(1000)).expect("the append");
    }
    assert!(read_batches(&log).iter().all(|batch| batch.attributes().compression() == Compression::Zstd));
    assert_eq!(dump(&log), "0:a 1:b 2:a 3:b 4:a 5:b 6:a 7:b 8:a 9:b");
}

#[test]
fn a_missing_largest_timestamp_is_found_in_the_records() {
    let (_, _, log) = fresh(config());
    let mut bytes = make(&["a", "b"]).at(&[500, 900]).with(Compression::Gzip).bytes().to_vec();
    bytes[35..43].copy_from_slice(&(-1i64).to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    log.append(bytes.into(), as_leader(1000)).expect("the append");
    assert_eq!(read_batches(&log)[0].max_timestamp(), Millis(900));
    read_batches(&log)[0].verify_crc().expect("the checksum is right");
}

#[test]
fn a_segment_ends_by_size_by_time_and_by_full_indexes() {
    let (_, _, log) = fresh(LogConfig { segment_ms: 100, ..config() });
    for timestamp in [1000, 1050, 1100, 1101, 1150] {
        log.append(make(&["a"]).at(&[timestamp]).bytes(), as_leader(2000)).expect("the append");
    }
    assert_eq!(log.segment_count(), 2, "by time, counted from the first batch");
    let tiny_index = LogConfig { index_interval_bytes: 1, segment_index_bytes: 24, ..config() };
    let (_, _, log) = fresh(tiny_index);
    for at in 0..10 {
        put(&log, &[&format!("{at}")]);
    }
    assert!(log.segment_count() > 2, "by full indexes");
    let too_large = "x".repeat(500);
    let (_, _, log) = fresh(small_segments());
    let refused = log.append(make(&[&too_large]).bytes(), as_leader(1000));
    assert!(matches!(refused, Err(AppendError::LargerThanSegment { .. })), "{refused:?}");
}

#[test]
fn lookup_by_time_is_exact_to_the_record() {
    let (_, _, log) = fresh(small_segments());
    for at in 0..30i64 {
        // Timestamps that are not in order, some inside compressed batches.
        let base = 1000 + (at % 3) * 5 + at * 10;
        let codec = Compression::ALL[at as usize % 5];
        let batch = make(&["a", "b", "c"]).at(&[base, base + 40, base + 20]).with(codec);
        log.append(batch.bytes(), as_leader(5000)).expect("the append");
    }
    assert!(log.segment_count() > 3);
    let all: Vec<(i64, i64)> = read_batches(&log)
        .iter()
        .flat_map(|batch| batch.records(1 << 20).map(|r| r.expect("a record")).collect::<Vec<_>>())
        .map(|record| (record.offset.0, record.timestamp.0))
        .collect();
    for wanted in 990..1360 {
        let expected = all.iter().find(|(_, timestamp)| *timestamp >= wanted).copied();
        let found = log.offset_for_time(Millis(wanted), log.log_end()).expect("the lookup");
        assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), expected, "{wanted}");
    }
    for upper in [3, 30, 45, 90] {
        let below = all.iter().filter(|(offset, _)| *offset < upper);
        let expected = below.rev().max_by_key(|(_, timestamp)| *timestamp).copied();
        let found = log.max_timestamp_offset(Offset(upper)).expect("the lookup");
        assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), expected, "{upper}");
    }
}

#[test]
fn what_a_reader_has_not_read_is_found_behind_markers_holes_and_what_was_aborted() {
    let (_, _, log) = fresh(small_segments());
    let coordinator = Append { origin: Origin::Coordinator, ..as_leader(1000) };
    // 0-2, compressed, timestamps out of order; 3-4 aborted, 5 its marker; 6 and 7 committed and marked; 8 a marker alone.
    let mixed = make(&["a", "b", "c"]).at(&[100, 300, 200]).with(Compression::Zstd);
    log.append(mixed.bytes(), as_leader(1000)).expect("the append");
    let lost = make(&["x", "y"]).at(&[400]).by(7, 0, 0).in_transaction();
    log.append(lost.bytes(), as_leader(1000)).expect("the append");
    log.append(marker(7, 0, false), coordinator).expect("the marker");
    let kept = make(&["z"]).at(&[500]).by(7, 0, 2).in_transaction();
    log.append(kept.bytes(), as_leader(1000)).expect("the append");
    log.append(marker(7, 0, true), coordinator).expect("the marker");
    log.append(marker(7, 0, true), coordinator).expect("the marker");
    let first = |from: i64, upper: i64, visible| {
        let found = log.first_record(Offset(from), Offset(upper), visible).expect("the lookup");
        found.map(|found| (found.offset.0, found.timestamp.0))
    };
    let table = [
        (0, 9, Some((0, 100)), Some((0, 100))),
        (1, 9, Some((1, 300)), Some((1, 300))),
        (2, 9, Some((2, 200)), Some((2, 200))),
        (3, 9, Some((3, 400)), Some((6, 500))),
        (4, 9, Some((4, 400)), Some((6, 500))),
        (5, 9, Some((6, 500)), Some((6, 500))),
        (4, 5, Some((4, 400)), None),
        (7, 9, None, None),
        (9, 9, None, None),
        (20, 9, None, None),
        (-5, 9, Some((0, 100)), Some((0, 100))),
    ];
    for (from, upper, all, committed) in table {
        assert_eq!(first(from, upper, Visible::Uncommitted), all, "from {from} to {upper}");
        assert_eq!(first(from, upper, Visible::Committed), committed, "from {from} to {upper}");
    }
    let (_, _, log) = fresh(config());
    assert_eq!(log.first_record(Offset(0), Offset(0), Visible::Uncommitted).expect("the lookup"), None);
}

#[test]
fn what_a_reader_has_not_read_is_exact_in_a_compacted_log_and_in_a_stamped_one() {
    let compacted = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        ..small_segments()
    };
    let (_, _, log) = fresh(compacted);
    for at in 0..20i64 {
        let value = format!("{at}");
        let batch = make_keyed(&[("a", Some(&value)), (["b", "c"][at as usize % 2], Some("x"))]);
        log.append(batch.at(&[1000 + at, 2000 + at]).bytes(), as_leader(5000)).expect("the append");
    }
    let high_watermark = log.flush().expect("the flush");
    let clean = Clean { now: Millis(9000), high_watermark, map_bytes_max: 1 << 20 };
    log.clean(clean).expect("the cleaning").expect("something to clean");
    let all: Vec<(i64, i64)> = read_batches(&log)
        .iter()
        .flat_map(|batch| batch.records(1 << 20).map(|r| r.expect("a record")).collect::<Vec<_>>())
        .map(|record| (record.offset.0, record.timestamp.0))
        .collect();
    assert!(all.len() < 40, "there are holes");
    for from in 0..=40 {
        let expected = all.iter().find(|(offset, _)| *offset >= from).copied();
        let found = log.first_record(Offset(from), Offset(40), Visible::Uncommitted).expect("the lookup");
        assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), expected, "{from}");
    }
    let stamped = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..config() };
    let (_, _, log) = fresh(stamped);
    log.append(make(&["a", "b"]).at(&[5, 6]).with(Compression::Lz4).bytes(), as_leader(777))
        .expect("the append");
    let found = log.first_record(Offset(1), Offset(2), Visible::Uncommitted).expect("the lookup");
    assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), Some((1, 777)));
}

/// A batch as a leader would have sent it from this offset.
fn sent_from(offset: i64, values: &[&str]) -> bytes::Bytes {
    let mut bytes = make(values).bytes().to_vec();
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&0i32.to_be_bytes());
    bytes.into()
}

#[test]
fn offsets_are_found_on_both_sides_of_what_32_bits_hold() {
    // Compaction leaves holes of any size, and within a segment offsets are told by 31 bits.
    const EDGE: i64 = 1 << 31;
    let disk = FaultDisk::new();
    let dir = open_dir(Arc::new(disk.clone()), "/data");
    let log = open_log(&dir, LogConfig { index_interval_bytes: 1, ..config() });
    let starts = [0, EDGE - 3, EDGE - 1, EDGE + 1, 2 * EDGE - 1, 2 * EDGE + 1, 1 << 40, 1 << 62];
    for start in starts {
        log.append_as_follower(sent_from(start, &["a", "b"]), Millis(1000)).expect("the append");
        assert_eq!(log.log_end(), Offset(start + 2));
    }
    assert!(log.segment_count() >= 5, "a segment ends before its offsets need more than 31 bits");
    let check = |log: &Log| {
        for start in starts {
            for from in [start, start + 1] {
                assert_eq!(offsets_read(log, from, limits(1, start + 2)), [start], "{from}");
                let found = log.first_record(Offset(from), Offset(i64::MAX), Visible::Uncommitted);
                assert_eq!(found.expect("the lookup").map(|found| found.offset), Some(Offset(from)));
            }
        }
        let holes = starts.windows(2).filter(|pair| pair[0] + 2 < pair[1]);
        for pair in holes {
            assert_eq!(offsets_read(log, pair[0] + 2, limits(1, i64::MAX)), [pair[1]], "from within a hole");
        }
    };
    check(&log);
    log.flush().expect("the flush");
    drop(log);
    drop(dir);
    let dir = open_dir(Arc::new(disk), "/data");
    let log = open_log(&dir, config());
    assert_eq!(log.log_end(), Offset((1 << 62) + 2));
    check(&log);
}

#[test]
fn truncation_forgets_records_epochs_and_producers_alike() {
    let (_, _, log) = fresh(small_segments());
    for at in 0..20i32 {
        let append = Append { leader_epoch: LeaderEpoch(at / 5), ..as_leader(1000) };
        log.append(make(&["a", "b"]).by(7, 0, at * 2).bytes(), append).expect("the append");
    }
    assert_eq!(log.epoch_end_offset(LeaderEpoch(1)), Some((LeaderEpoch(1), Offset(20))));
    log.truncate_to(Offset(13), Millis(1000)).expect("the truncation");
    assert_eq!(log.log_end(), Offset(12), "the batch in the middle goes too");
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(1)));
    let again = log.append(make(&["c"]).by(7, 0, 12).bytes(), as_leader(1000)).expect("the producer goes on");
    assert_eq!((again.base_offset, again.duplicate), (Offset(12), false));
    log.truncate_fully_at(Offset(100)).expect("the truncation");
    assert_eq!((log.log_start(), log.log_end(), log.latest_epoch()), (Offset(100), Offset(100), None));
    assert_eq!(put(&log, &["d"]), Offset(100));
}

#[test]
fn retention_takes_whole_segments_below_the_high_watermark() {
    let (disk, dir, log) = fresh(LogConfig { retention_ms: Some(100), ..small_segments() });
    for at in 0..20i64 {
        log.append(make(&["0123456789"]).at(&[1000 + at * 10]).bytes(), as_leader(1000)).expect("the append");
    }
    log.flush().expect("the flush");
    let segments = log.segment_count();
    assert_eq!(log.apply_retention(Millis(1050), Offset(20)).expect("retention").segments, 0);
    assert_eq!(
        log.apply_retention(Millis(9000), Offset(0)).expect("retention").segments,
        0,
        "not replicated"
    );
    let reader = log.read(Offset(0), limits(1 << 20, 20)).expect("a slice");
    let some = log.apply_retention(Millis(1200), Offset(20)).expect("retention");
    assert!(some.segments > 0 && some.segments < segments, "{some:?}");
    assert_eq!(log.log_start().0 % 5, 0);
    assert!(!reader.read().expect("the read").is_empty(), "a slice lives on");
    assert!(matches!(log.read(Offset(0), limits(1, 20)), Err(ReadError::OutOfRange { .. })));
    log.apply_retention(Millis(9000), Offset(20)).expect("retention");
    assert_eq!((log.log_start(), log.log_end()), (Offset(20), Offset(20)), "the end outlives its segments");
    drop((log, dir));
    disk.crash(&mut |_| 0);
    let dir = open_dir(Arc::new(disk), "/data");
    let log = open_log(&dir, small_segments());
    assert_eq!((log.log_start(), log.log_end()), (Offset(20), Offset(20)));
}

#[test]
fn retention_by_size_keeps_at_least_what_was_asked() {
    let (_, _, log) = fresh(LogConfig { retention_bytes: Some(900), ..small_segments() });
    for _ in 0..20 {
        put(&log, &["0123456789"]);
    }
    log.apply_retention(Millis(1000), Offset(20)).expect("retention");
    assert!(log.size_bytes() >= 900 && log.size_bytes() < 1400, "{}", log.size_bytes());
}

#[test]
fn deleted_records_stay_deleted_after_a_checkpoint() {
    let (disk, dir, log) = fresh(small_segments());
    for at in 0..20 {
        put(&log, &[&format!("{at}")]);
    }
    assert_eq!(log.advance_log_start(Offset(7)).expect("the deletion"), Offset(7));
    assert!(matches!(log.advance_log_start(Offset(21)), Err(ReadError::OutOfRange { .. })));
    dir.checkpoint(Millis(1000)).expect("the checkpoint");
    drop((log, dir));
    disk.crash(&mut |_| 0);
    let dir = open_dir(Arc::new(disk), "/data");
    let log = open_log(&dir, small_segments());
    assert_eq!((log.log_start(), log.log_end()), (Offset(7), Offset(20)));
}

#[test]
fn after_a_failed_sync_the_log_is_offline_for_good() {
    let (disk, _, log) = fresh(config());
    put(&log, &["a"]);
    disk.inject(Fault::SyncFails);
    assert!(matches!(log.flush(), Err(StorageError::Disk { .. })));
    assert!(log.is_offline());
    assert!(matches!(log.flush(), Err(StorageError::Offline)));
    let append = log.append(make(&["b"]).bytes(), as_leader(1000));
    assert!(matches!(append, Err(AppendError::Storage(StorageError::Offline))), "{append:?}");
    assert_eq!(log.flushed_end(), Offset(0));
}

#[test]
fn a_torn_tail_is_cut_and_rot_below_it_is_reported() {
    let (disk, dir, log) = fresh(config());
    put(&log, &["a"]);
    put(&log, &["b"]);
    dir.checkpoint(Millis(1000)).expect("the checkpoint");
    put(&log, &["c"]);
    let path = log.path().join("00000000000000000000.log");
    let size = log.size_bytes() as usize;
    drop((log, dir));
    disk.kill();
    disk.rot(&path, size - 1);
    let dir = open_dir(Arc::new(disk.clone()), "/data");
    let log = open_log(&dir, config());
    assert_eq!(dump(&log), "0:a 1:b");
    drop((log, dir));
    disk.kill();
    disk.rot(&path, 16); // the first batch's magic
    let dir = open_dir(Arc::new(disk), "/data");
    let refused = dir.open_log(&partition(), topic_id(), config(), Millis(0));
    assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
}

#[test]
fn readers_of_committed_data_wait_for_the_marker() {
    let (_, _, log) = fresh(config());
    put(&log, &["plain"]);
    log.append(make(&["t"]).by(7, 0, 0).in_transaction().bytes(), as_leader(1000)).expect("the append");
    put(&log, &["plain"]);
    assert_eq!(log.last_stable_offset(Offset(3)), Offset(1));
    let plain = log.append(make(&["x"]).by(7, 0, 1).bytes(), as_leader(1000));
    assert!(matches!(plain, Err(AppendError::InvalidTxnState(_))), "{plain:?}");
    let coordinator = Append { origin: Origin::Coordinator, ..as_leader(1000) };
    log.append(marker(7, 0, false), coordinator).expect("the marker");
    assert_eq!(log.last_stable_offset(Offset(3)), Offset(1), "the marker itself is not replicated");
    assert_eq!(log.last_stable_offset(Offset(4)), Offset(4));
    let slice = log.read(Offset(0), limits(1 << 20, 4)).expect("the slice");
    let aborted = slice.aborted_transactions(Offset(4)).expect("the index");
    assert_eq!(
        aborted.iter().map(|txn| (txn.first_offset.0, txn.last_offset.0)).collect::<Vec<_>>(),
        [(1, 3)]
    );
}

#[test]
fn a_reader_is_told_of_the_transactions_aborted_in_what_it_gets_and_of_no_others() {
    for index_interval_bytes in [1, 1 << 20] {
        let (_, _, log) = fresh(LogConfig { segment_bytes: 900, index_interval_bytes, ..config() });
        let coordinator = Append { origin: Origin::Coordinator, ..as_leader(1000) };
        for at in 0..20 {
            log.append(make(&["t"]).by(7, 0, at).in_transaction().bytes(), as_leader(1000))
                .expect("the append");
            log.append(marker(7, 0, false), coordinator).expect("the marker");
        }
        assert!(log.segment_count() > 3);
        let told = |from: i64, bytes_max: usize, upper: i64| {
            let slice = log.read(Offset(from), limits(bytes_max, upper)).expect("the slice");
            let Located::Batches(batches) = slice.locate(ReadMode::Blocking).expect("the look") else {
                panic!("there are batches at {from}");
            };
            let aborted = slice.aborted_transactions(batches.end()).expect("the index");
            aborted.iter().map(|txn| txn.first_offset.0).collect::<Vec<_>>()
        };
        assert_eq!(told(0, 1, 40), [0]);
        assert_eq!(told(1, 1, 40), [0], "its marker is read");
        assert_eq!(told(4, 400, 40), [4, 6, 8]);
        assert_eq!(told(0, 1 << 20, 5), [0, 2, 4], "it ends in the middle of one");
        let first_segment: Vec<i64> = told(0, 1 << 20, 40);
        let last = *first_segment.last().expect("some were aborted there");
        assert!(last < 20 && first_segment.len() as i64 == last / 2 + 1, "{first_segment:?}");
    }
}

#[test]
fn compaction_keeps_the_last_of_each_key_and_drops_tombstones_in_time() {
    let config = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: 100,
        ..small_segments()
    };
    let (_, _, log) = fresh(config);
    for at in 0..8 {
        let value = format!("{at}");
        let gone = if at == 7 { None } else { Some("x") };
        let batch = make_keyed(&[("a", Some(&value)), ("b", gone)]).with(Compression::ALL[at % 5]);
        log.append(batch.bytes(), as_leader(1000)).expect("the append");
    }
    let roll = "r".repeat(290);
    log.append(make_keyed(&[("c", Some(&roll))]).bytes(), as_leader(1000)).expect("the append");
    log.append(make_keyed(&[("c", Some("end"))]).bytes(), as_leader(1000)).expect("the append");
    let clean = |now| {
        let high_watermark = log.flush().expect("the flush");
        log.clean(Clean { now: Millis(now), high_watermark, map_bytes_max: 1 << 20 }).expect("the cleaning")
    };
    let stats = clean(2000).expect("something to clean");
    assert!(stats.bytes_after < stats.bytes_before, "{stats:?}");
    assert!(dump(&log).starts_with("14:a=7 15:b=- "), "{}", dump(&log));
    assert_eq!(log.log_end(), Offset(18));
    assert_eq!(offsets_read(&log, 3, limits(1, 18)), [14], "a reader in a hole goes on behind it");
    assert_eq!(clean(2050), None, "nothing is dirty");
    log.append(make_keyed(&[("d", Some(&roll))]).bytes(), as_leader(1000)).expect("the append");
    log.append(make_keyed(&[("e", Some(&roll))]).bytes(), as_leader(1000)).expect("the append");
    clean(2200).expect("something to clean");
    assert!(
        dump(&log).starts_with("14:a=7 17:c=end") || dump(&log).starts_with("14:a=7 16:c="),
        "{}",
        dump(&log)
    );
}

#[test]
fn a_follower_takes_what_the_leader_sent() {
    let (_, _, leader) = fresh(small_segments());
    for at in 0..9i32 {
        let append = Append { leader_epoch: LeaderEpoch(at / 3), ..as_leader(1000) };
        leader.append(make(&["a"]).by(7, 0, at).bytes(), append).expect("the append");
    }
    let (_, _, follower) = fresh(config());
    let bytes = read_bytes(&leader, Offset(0), Offset(9), 1 << 20).expect("the read");
    follower.append_as_follower(bytes.clone(), Millis(1000)).expect("the append");
    assert_eq!(read_bytes(&follower, Offset(0), Offset(9), 1 << 20).expect("the read"), bytes);
    assert_eq!(follower.epochs(), leader.epochs());
    assert_eq!(follower.producers(), leader.producers());
    let again = follower.append_as_follower(bytes, Millis(1000));
    assert!(matches!(again, Err(AppendError::OffsetsOutOfOrder { .. })), "{again:?}");
}

#[test]
fn epochs_that_were_cut_do_not_come_back_after_a_crash() {
    let (disk, dir, log) = fresh(config());
    let append = |epoch| {
        let append = Append { leader_epoch: LeaderEpoch(epoch), ..as_leader(1000) };
        log.append(make(&["a"]).bytes(), append).expect("the append");
    };
    append(0);
    append(3);
    dir.checkpoint(Millis(1000)).expect("the checkpoint");
    log.truncate_to(Offset(1), Millis(1000)).expect("the truncation");
    append(2);
    log.flush().expect("the flush");
    let before = log.epochs();
    drop((log, dir));
    disk.crash(&mut |_| 0);
    let log = open_log(&open_dir(Arc::new(disk), "/data"), config());
    assert_eq!((log.log_end(), log.epochs()), (Offset(2), before));
}

#[test]
fn rot_is_found_and_cut_down_to_what_is_sound() {
    let (disk, _dir, log) = fresh(small_segments());
    for _ in 0..20 {
        put(&log, &["a", "b"]);
    }
    log.flush().expect("the flush");
    let scrub = || {
        let mut from = None;
        loop {
            match log.scrub(from, 150).expect("the scrub").0 {
                Scrubbed::Until(point) => from = Some(point),
                Scrubbed::Sound => return None,
                Scrubbed::Rotten(rot) => return Some(rot),
            }
        }
    };
    assert_eq!(scrub(), None);
    let second = Path::new("/data/orders-3/00000000000000000010.log");
    assert!(log.segment_count() > 2 && log.read(Offset(10), limits(1, 40)).is_ok());
    disk.rot(second, 40);
    assert_eq!(scrub(), Some(Rot { sound: Some(Offset(8)) }), "the last batch of the segment before");
    log.cut_rot(scrub().expect("it is still there"), Millis(1000)).expect("the cut");
    assert_eq!((log.log_end(), scrub()), (Offset(8), None));
    assert_eq!(put(&log, &["c"]), Offset(8));
    log.flush().expect("the flush");
    disk.rot(Path::new("/data/orders-3/00000000000000000000.log"), 40);
    log.cut_rot(scrub().expect("the first batch"), Millis(1000)).expect("the cut");
    assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(0)), "nothing of it is sound");
}

#[test]
fn a_data_directory_has_one_owner() {
    let disk = FaultDisk::new();
    let open = |options| DataDir::open(Arc::new(disk.clone()), Path::new("/data"), options);
    let first = open(options()).expect("the directory opens");
    assert!(matches!(open(options()), Err(DataDirError::Locked { .. })));
    drop(first);
    let other_node = DataDirOptions { node_id: BrokerId(2), ..options() };
    assert!(matches!(open(other_node), Err(DataDirError::Foreign { key: "node.id", .. })));
    let other_cluster = DataDirOptions { cluster_id: Some("other".into()), ..options() };
    assert!(matches!(open(other_cluster), Err(DataDirError::Foreign { key: "cluster.id", .. })));
    let again = open(options()).expect("the directory opens");
    assert_eq!(
        (again.cluster_id().as_str(), again.directory_id()),
        ("test-cluster", wire::Uuid::from_u128(7))
    );
}

#[test]
fn a_deleted_partition_is_gone_and_its_name_starts_afresh() {
    let (disk, dir, log) = fresh(config());
    put(&log, &["a"]);
    dir.checkpoint(Millis(1000)).expect("the checkpoint");
    assert_eq!(dir.partitions().expect("the list")[0].topic_id, topic_id());
    dir.delete_log(&partition()).expect("the deletion");
    assert!(matches!(
        log.append(make(&["b"]).bytes(), as_leader(1000)),
        Err(AppendError::Storage(StorageError::Closed))
    ));
    assert_eq!(dir.partitions().expect("the list"), []);
    let log = open_log(&dir, config());
    assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(0)));
    drop((log, dir));
    disk.crash(&mut |_| 0);
    let dir = open_dir(Arc::new(disk), "/data");
    let log = open_log(&dir, config());
    assert_eq!(put(&log, &["c"]), Offset(0));
}

#[test]
fn what_is_younger_than_the_lag_is_not_compacted() {
    let config = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        min_compaction_lag_ms: 500,
        ..config()
    };
    let (_, _, log) = fresh(LogConfig { segment_ms: 100, ..config });
    for at in [1000, 1200, 1400, 1600] {
        log.append(make_keyed(&[("a", Some("x"))]).at(&[at]).bytes(), as_leader(at)).expect("the append");
    }
    let clean = |now| {
        let high_watermark = log.flush().expect("the flush");
        log.clean(Clean { now: Millis(now), high_watermark, map_bytes_max: 1 << 20 }).expect("the cleaning")
    };
    assert_eq!(clean(1499), None, "the oldest is not old enough");
    clean(1900).expect("three segments are old enough");
    assert_eq!(dump(&log), "2:a=x 3:a=x", "the last one is active, and not looked at");
}

#[test]
fn what_is_older_than_the_lag_is_compacted_however_little_it_is() {
    let config = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 1.0,
        max_compaction_lag_ms: 500,
        ..config()
    };
    let (_, _, log) = fresh(config);
    for value in ["first", "second"] {
        log.append(make_keyed(&[("a", Some(value))]).at(&[1000]).bytes(), as_leader(1000))
            .expect("the append");
    }
    let clean = |now| {
        let high_watermark = log.flush().expect("the flush");
        log.clean(Clean { now: Millis(now), high_watermark, map_bytes_max: 1 << 20 }).expect("the cleaning")
    };
    assert_eq!(clean(1500), None);
    clean(1501).expect("the active segment is closed for it");
    assert_eq!(dump(&log), "1:a=second");
}

#[test]
fn a_full_disk_refuses_appends_and_the_log_goes_on_when_there_is_room() {
    let (disk, _, log) = fresh(config());
    put(&log, &["a"]);
    disk.inject(Fault::NoSpace);
    let refused = log.append(make(&["b"]).bytes(), as_leader(1000));
    assert!(matches!(refused, Err(AppendError::Storage(StorageError::Full { .. }))), "{refused:?}");
    assert!(log.is_open());
    assert_eq!(put(&log, &["c"]), Offset(1));
    log.flush().expect("the flush");
    assert_eq!(dump(&log), "0:a 1:c");
}

#[test]
fn a_batch_that_cannot_be_opened_stops_neither_a_lookup_nor_a_cleaning() {
    // As another broker may have left it: what a producer sends is opened before it is stored.
    let mut sealed = make(&["x"]).at(&[2000]).with(Compression::Gzip).bytes().to_vec();
    sealed[..8].copy_from_slice(&1_i64.to_be_bytes());
    sealed[70..].fill(0x55);
    let crc = crc32c::crc32c(&sealed[21..]);
    sealed[17..21].copy_from_slice(&crc.to_be_bytes());
    let config = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        segment_ms: 100,
        ..config()
    };
    let (_, _, log) = fresh(config);
    log.append(make_keyed(&[("a", Some("1"))]).at(&[1000]).bytes(), as_leader(1000)).expect("the append");
    log.append_as_follower(sealed.into(), Millis(2000)).expect("its checksum is right");
    log.append(make_keyed(&[("a", Some("2"))]).at(&[3000]).bytes(), as_leader(3000)).expect("the append");
    log.append(make_keyed(&[("b", Some("3"))]).at(&[4000]).bytes(), as_leader(4000)).expect("the append");
    let found = log.offset_for_time(Millis(1500), Offset(4)).expect("the lookup").expect("a record");
    assert_eq!(found.offset, Offset(2), "the first that can be read");
    let high_watermark = log.flush().expect("the flush");
    let clean = Clean { now: Millis(9000), high_watermark, map_bytes_max: 1 << 20 };
    log.clean(clean).expect("the cleaning").expect("something to clean");
    let kept: Vec<_> = read_batches(&log).iter().map(|batch| batch.base_offset().0).collect();
    assert_eq!(kept, [1, 2, 3], "it stays as it is");
}

#[test]
fn an_open_log_is_not_handed_out_for_another_topic() {
    let (_, dir, log) = fresh(config());
    let other = dir.open_log(&partition(), wire::Uuid([9; 16]), config(), Millis(0));
    assert!(matches!(other, Err(StorageError::ForeignTopic { .. })), "{other:?}");
    let same = dir.open_log(&partition(), topic_id(), config(), Millis(0)).expect("the same");
    assert!(Arc::ptr_eq(&log, &same));
}

#[test]
fn a_stop_does_not_vouch_for_a_log_that_could_not_be_opened() {
    let (disk, dir, log) = fresh(config());
    put(&log, &["a", "b"]);
    put(&log, &["c"]);
    log.flush().expect("the flush");
    dir.checkpoint(Millis(2000)).expect("the checkpoint");
    drop((log, dir));
    disk.kill();
    let path = Path::new("/data").join("orders-3/00000000000000000000.log");
    disk.open(&path, OpenMode::Write).and_then(|file| file.truncate(50)).expect("the end is lost");
    for _ in 0..2 {
        let dir = open_dir(Arc::new(disk.clone()), "/data");
        let refused = dir.open_log(&partition(), topic_id(), config(), Millis(2000));
        assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
        dir.close(Millis(2000), -1).expect("the others are closed");
    }
}

#[test]
fn a_segment_that_was_closed_before_a_crash_is_found_by_time_after_it() {
    let (disk, dir, log) = fresh(LogConfig { index_interval_bytes: 1 << 20, segment_ms: 100, ..config() });
    for at in [1000, 2000, 3000] {
        log.append(make(&["x"]).at(&[at]).bytes(), as_leader(at)).expect("the append");
    }
    log.flush().expect("the flush");
    drop((log, dir));
    disk.kill();
    for _ in 0..2 {
        let dir = open_dir(Arc::new(disk.clone()), "/data");
        let log = dir.open_log(&partition(), topic_id(), config(), Millis(4000)).expect("the log");
        let found = log.offset_for_time(Millis(1000), Offset(3)).expect("the lookup").expect("a record");
        assert_eq!(found.offset, Offset(0));
        dir.close(Millis(4000), -1).expect("a clean stop");
        drop(log);
    }
}
