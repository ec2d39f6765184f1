//! What a start costs with many partitions: after a kill with an unflushed tail in each, and after a clean stop.
//!
//! `cargo run --release -p ottla-storage --example restart_cost -- DIR [PARTITIONS]`

#![allow(clippy::disallowed_methods, reason = "a measurement owns its clock")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use storage::{Append, DataDir, DataDirOptions, Log, LogConfig, Origin, RealDisk};
use wire::{
    BrokerId, LeaderEpoch, Millis, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition, Uuid,
    records::{BatchBuilder, BatchOptions},
};

const THREADS: usize = 8;

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "restart-cost".into()));
    let count: i32 = args.next().map_or(2000, |count| count.parse().expect("a number of partitions"));

    let data = open(&dir);
    let logs = timed("create", || open_all(&data, count));
    timed("append", || logs.iter().for_each(|log| append(log, 0)));
    timed("checkpoint", || data.checkpoint(Millis(0)).expect("the checkpoint"));
    timed("append", || logs.iter().for_each(|log| append(log, 1)));
    // Dropped, not closed: to the files this is a kill.
    drop((logs, data));

    let data = timed("open the directory", || open(&dir));
    let logs = timed("recover all logs", || {
        data.partitions().expect("the partitions");
        open_all(&data, count)
    });
    assert!(logs.iter().all(|log| log.flushed_end().0 == 20));
    timed("clean stop", || data.close(Millis(0), -1).expect("a clean stop"));
    drop((logs, data));

    let data = open(&dir);
    assert!(data.was_clean());
    timed("open all logs after a clean stop", || {
        data.partitions().expect("the partitions");
        open_all(&data, count)
    });
    drop(data);
    std::fs::remove_dir_all(&dir).expect("the directory goes");
}

fn open(dir: &Path) -> DataDir {
    let options = DataDirOptions {
        node_id: BrokerId(1),
        cluster_id: None,
        new_cluster_id: Str::copy_from("cluster"),
        new_directory_id: Uuid::from_u128(1),
    };
    DataDir::open(Arc::new(RealDisk), dir, options).expect("the data directory")
}

fn open_all(data: &DataDir, count: i32) -> Vec<Arc<Log>> {
    let next = AtomicUsize::new(0);
    let logs = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) as i32;
                    if at >= count {
                        break;
                    }
                    let partition = TopicPartition { topic: Str::copy_from("t"), partition: PartitionId(at) };
                    let log = data.open_log(&partition, Uuid::from_u128(2), LogConfig::default(), Millis(0));
                    logs.lock().expect("no panic").push(log.expect("the log"));
                }
            });
        }
    });
    logs.into_inner().expect("no panic")
}

fn append(log: &Log, round: i32) {
    for at in 0..10 {
        let mut batch = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            base_sequence: round * 10 + at,
            ..BatchOptions::default()
        });
        batch.append(Millis(1000), None, Some(&[b'x'; 1000]), &[]);
        let append = Append { leader_epoch: LeaderEpoch(0), now: Millis(1000), origin: Origin::Client };
        log.append(batch.build(), append).expect("the append");
    }
}

fn timed<R>(what: &str, act: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = act();
    println!("{what:40} {:>8.1?}", start.elapsed());
    result
}
