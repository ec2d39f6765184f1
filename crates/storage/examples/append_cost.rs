//! What appending and reading cost above the system calls they cannot avoid: batches of 1 KiB and 1 MiB through
//! the log, against a plain write of the same bytes, and against a checksum and a write.
//!
//! `cargo run --release -p ottla-storage --example append_cost -- DIR`

#![allow(clippy::disallowed_methods, reason = "a measurement owns its clock")]

use std::{
    fs::OpenOptions,
    hint::black_box,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use storage::{Append, DataDir, DataDirOptions, LogConfig, Origin, ReadLimits, RealDisk};
use wire::{
    BrokerId, LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid,
    records::{BatchBuilder, BatchOptions},
};

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "append-cost".into()));
    for (name, records, record_bytes, times) in
        [("1 KiB", 1, 940, 20_000), ("1 MiB of 1 KiB", 1000, 1024, 300), ("1 MiB of 100 B", 9000, 100, 300)]
    {
        let batch = batch(records, record_bytes);
        println!("batch of {name} ({} bytes), {times} times", batch.len());
        let path = dir.join("raw");
        std::fs::create_dir_all(&dir).expect("the directory is made");
        let raw = OpenOptions::new().write(true).create(true).truncate(true).open(path).expect("a file");
        let mut position = 0;
        report("write", times, || {
            raw.write_all_at(&batch, position).expect("the write");
            position += batch.len() as u64;
        });
        raw.set_len(0).expect("the file is cut");
        position = 0;
        report("crc + write", times, || {
            black_box(crc32c::crc32c(&batch[21..]));
            raw.write_all_at(&batch, position).expect("the write");
            position += batch.len() as u64;
        });
        let options = DataDirOptions {
            node_id: BrokerId(1),
            cluster_id: None,
            new_cluster_id: Str::copy_from("cluster"),
            new_directory_id: Uuid::from_u128(1),
        };
        let data = DataDir::open(Arc::new(RealDisk), &dir.join("data"), options).expect("the data directory");
        let partition = TopicPartition { topic: Str::copy_from("t"), partition: PartitionId(0) };
        let config = LogConfig { max_message_bytes: 4 << 20, ..LogConfig::default() };
        let log = data.open_log(&partition, Uuid::from_u128(2), config, Millis(0)).expect("the log");
        let append = Append { leader_epoch: LeaderEpoch(0), now: Millis(1000), origin: Origin::Client };
        report("append", times, || {
            log.append(batch.clone(), append).expect("the append");
        });
        let mut from = Offset::ZERO;
        let upper = log.log_end();
        report("read", times, || {
            let limits = ReadLimits { bytes_max: batch.len(), upper, minimum_one: true };
            let bytes = log.read(from, limits).expect("the slice").read().expect("the read");
            assert_eq!(black_box(bytes).len(), batch.len());
            from = from.plus(records as i64);
        });
        drop((log, data));
        std::fs::remove_dir_all(&dir).expect("the directory goes");
    }
}

fn batch(records: usize, record_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = vec![b'x'; record_bytes];
    for _ in 0..records {
        builder.append(Millis(1000), None, Some(&value), &[]);
    }
    builder.build()
}

fn report(what: &str, times: usize, mut act: impl FnMut()) {
    let mut took: Vec<Duration> = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        act();
        took.push(start.elapsed());
    }
    took.sort_unstable();
    println!("  {what:12} median {:>9.2?}  p99 {:>9.2?}", took[times / 2], took[times * 99 / 100]);
}
