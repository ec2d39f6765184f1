//! Apache Kafka's own dump tool reads our files and finds nothing to complain about. Runs when `OTTLA_KAFKA_LIB`
//! names a directory with Kafka's jars (`cargo xtask test` sets it); without it there is nothing to compare with,
//! and the test says so.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use common::{as_leader, make, make_keyed, marker, open_dir, open_log};
use storage::{Append, Clean, Cleanup, LogConfig, Origin, RealDisk};
use wire::{Millis, compression::Compression};

struct Dump {
    out: String,
    err: String,
}

fn dump(lib: &Path, files: &[PathBuf], options: &[&str]) -> Dump {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().expect("a path")).collect();
    let output = Command::new("java")
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=OFF", "-cp"])
        .arg(lib.join("*"))
        .arg("org.apache.kafka.tools.DumpLogSegments")
        .args(options)
        .args(["--files", &files.join(",")])
        .output()
        .expect("java starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Dump {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: complaints(&String::from_utf8_lossy(&output.stderr)),
    }
}

/// What the tool complains of. In each file it takes the first record for one that should follow offset -1, and
/// says so of Kafka's own segments too.
fn complaints(err: &str) -> String {
    let heard = |line: &&str| {
        !line.contains("SLF4J")
            && !line.starts_with("Non-consecutive offsets in")
            && !line.starts_with("  -1 is followed by")
    };
    err.lines().filter(heard).collect::<Vec<_>>().join("\n")
}

fn files_of(dir: &Path, suffixes: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the partition's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| suffixes.iter().any(|suffix| path.to_str().is_some_and(|path| path.ends_with(suffix))))
        .collect();
    files.sort();
    files
}

#[test]
fn kafkas_dump_tool_reads_every_file() {
    let Some(lib) = std::env::var_os("OTTLA_KAFKA_LIB").map(PathBuf::from) else {
        println!("OTTLA_KAFKA_LIB is not set: nothing to compare with");
        return;
    };
    let root = tempfile::tempdir().expect("a directory");
    let data = open_dir(Arc::new(RealDisk), root.path().to_str().expect("a path"));
    let config = LogConfig {
        segment_bytes: 16 * 1024,
        index_interval_bytes: 512,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    };
    let log = open_log(&data, config.clone());
    let mut records = 0;
    for at in 0..600i32 {
        let codec = Compression::ALL[at as usize % Compression::ALL.len()];
        let values: Vec<String> =
            (0..1 + at % 7).map(|record| format!("{at}/{record} {}", "x".repeat(40))).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let batch = make(&values).at(&[10_000 + i64::from((at * 7919) % 1000)]).with(codec);
        let batch = if at % 3 == 0 { batch.by(i64::from(at % 30), 0, 0).bytes() } else { batch.bytes() };
        // A third of the batches start a producer's next epoch, so that every sequence starts at 0.
        let batch = if at % 3 == 0 && at >= 30 {
            make(&values).at(&[10_000]).with(codec).by(i64::from(at % 30), (at / 30) as i16, 0).bytes()
        } else {
            batch
        };
        records += values.len();
        log.append(batch, as_leader(10_000)).expect("the append");
    }
    let transaction = make(&["aborted"]).by(99, 0, 0).in_transaction().bytes();
    log.append(transaction, as_leader(10_000)).expect("the append");
    let coordinator = Append { origin: Origin::Coordinator, ..as_leader(10_000) };
    log.append(marker(99, 0, false), coordinator).expect("the marker");
    records += 2;
    let dir = log.path().to_owned();
    assert!(log.segment_count() > 2, "several segments: {}", log.segment_count());
    data.close(Millis(20_000), -1).expect("a clean stop");
    check_directory(&lib, &dir, records);

    // The same after compaction has been through the directory.
    drop((log, data));
    let data = open_dir(Arc::new(RealDisk), root.path().to_str().expect("a path"));
    let compacted = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        ..config
    };
    let log = open_log(&data, compacted);
    for at in 0..400 {
        let key = format!("k{}", at % 13);
        let tombstone = at % 17 == 0;
        let value = format!("{at}{}", "y".repeat(300));
        let batch = make_keyed(&[(&key, (!tombstone).then_some(&value)), ("same", Some("z"))]);
        let batch = batch.at(&[20_000 + at]).with(Compression::ALL[at as usize % 5]).bytes();
        log.append(batch, as_leader(20_000)).expect("the append");
    }
    let high_watermark = log.flush().expect("the flush");
    let clean = Clean { now: Millis(30_000), high_watermark, map_bytes_max: 1 << 20 };
    let stats = log.clean(clean).expect("the cleaning").expect("something to clean");
    assert!(stats.records_kept < stats.records_read, "{stats:?}");
    let kept = common::dump(&log).split(' ').filter(|record| record.contains(':')).count();
    assert!(kept > 0);
    data.close(Millis(40_000), -1).expect("a clean stop");
    let logs = dump(&lib, &files_of(&dir, &[".log"]), &["--deep-iteration"]);
    // Holes are what compaction makes; they are all that the tool may mention.
    assert!(logs.err.lines().all(|line| line.contains("is followed by")), "{}", logs.err);
    assert!(!logs.out.contains("isvalid: false") && !logs.out.contains("invalid bytes"), "{}", logs.out);
    check_indexes(&lib, &dir);
}

fn check_directory(lib: &Path, dir: &Path, records: usize) {
    let logs = dump(lib, &files_of(dir, &[".log"]), &["--deep-iteration", "--print-data-log"]);
    assert_eq!(logs.err, "");
    assert!(!logs.out.contains("isvalid: false") && !logs.out.contains("invalid bytes"), "{}", logs.out);
    assert_eq!(logs.out.matches("| offset: ").count(), records, "every record is read");
    check_indexes(lib, dir);

    let snapshots = dump(lib, &files_of(dir, &[".snapshot"]), &[]);
    assert_eq!(snapshots.err, "");
    assert!(
        snapshots.out.contains("producerId: 99 producerEpoch: 0 coordinatorEpoch: 0"),
        "{}",
        snapshots.out
    );
    let aborted = dump(lib, &files_of(dir, &[".txnindex"]), &[]);
    assert_eq!(aborted.err, "");
    let expected = format!("producerId: 99 firstOffset: {} lastOffset: {}", records - 2, records - 1);
    assert!(aborted.out.contains(&expected), "{}", aborted.out);
}

fn check_indexes(lib: &Path, dir: &Path) {
    let indexes = files_of(dir, &[".index", ".timeindex"]);
    assert!(indexes.len() > 4, "{indexes:?}");
    for options in [&["--index-sanity-check"][..], &["--verify-index-only"], &[]] {
        let found = dump(lib, &indexes, options);
        assert_eq!(found.err, "", "{options:?}");
        assert!(!found.out.contains("Indexed offset"), "{}", found.out);
    }
}
