//! A partition's directory with anything in one of its files: it opens or is refused, and what can be read of it is
//! whole batches.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use storage::fault::FaultDisk;
use storage::{DataDir, DataDirOptions, Disk, Log, LogConfig, OpenMode, ReadLimits};
use wire::records::Batches;
use wire::{BrokerId, Millis, PartitionId, TopicPartition, Uuid};

#[path = "../../../wire/tests/support/counting.rs"]
#[allow(dead_code)]
mod counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const NOW: Millis = Millis(1_700_000_000_000);
const TOPIC_ID: Uuid = Uuid([7; 16]);
/// A directory, its log and what they hold in memory, apart from what was in the file.
const FIXED_BYTES_MAX: usize = 4 << 20;

/// Files that a restart reads; the first byte of the input chooses one.
const FILES: [&str; 6] = [
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000000.timeindex",
    "00000000000000000000.txnindex",
    "00000000000000000005.snapshot",
    "leader-epoch-checkpoint",
];

fuzz_target!(|input: &[u8]| {
    let Some((chosen, content)) = input.split_first() else { return };
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new());
    let dir = Path::new("/data/t-0");
    disk.create_dir(dir).expect("an empty disk");
    let chosen = FILES[usize::from(*chosen) % FILES.len()];
    for name in [FILES[0], chosen] {
        let file = disk.open(&dir.join(name), OpenMode::Create).expect("a new file");
        if name == chosen {
            file.write_vectored_at(&[std::io::IoSlice::new(content)], 0).expect("an empty disk");
        }
    }
    let (_, taken) = counting::taken_by(|| open_and_read(&disk));
    assert!(taken.bytes <= 64 * content.len() + FIXED_BYTES_MAX, "{} bytes", taken.bytes);
});

fn open_and_read(disk: &Arc<dyn Disk>) {
    let options = DataDirOptions {
        node_id: BrokerId(1),
        cluster_id: None,
        new_cluster_id: "fuzz".into(),
        new_directory_id: Uuid([1; 16]),
    };
    let data_dir =
        DataDir::open(Arc::clone(disk), Path::new("/data"), options).expect("only the log is strange");
    let partition = TopicPartition::new("t", PartitionId(0));
    if let Ok(log) = data_dir.open_log(&partition, TOPIC_ID, LogConfig::default(), NOW) {
        read(&log);
    }
}

fn read(log: &Log) {
    let end = log.log_end();
    let mut from = log.log_start();
    while from < end {
        let limits = ReadLimits { bytes_max: 4096, upper: end, minimum_one: true };
        let slice = log.read(from, limits).expect("between start and end");
        let bytes = slice.read().expect("a disk without faults");
        let before = from;
        for batch in Batches::new(bytes) {
            let batch = batch.expect("recovery kept whole batches only");
            batch.verify_crc().expect("recovery kept sound batches only");
            from = batch.last_offset().plus(1);
        }
        if from == before {
            break;
        }
    }
    let _ = log.offset_for_time(Millis(0), end);
    let _ = log.max_timestamp_offset(end);
}
