//! A records field: batches one after the other, their records, and what is built from them.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wire::records::{BatchBuilder, BatchOptions, Batches, Record};

#[path = "../../tests/support/counting.rs"]
#[allow(dead_code)]
mod counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Decompressed bytes of one batch.
const LIMIT: usize = 64 * 1024;
/// Tables, windows and blocks that a codec takes whatever its input is: LZ4's blocks may be 8 MiB.
const CODEC_BYTES_MAX: usize = 20 << 20;

fuzz_target!(|input: &[u8]| {
    for batch in Batches::new(Bytes::copy_from_slice(input)).flatten() {
        let _ = batch.verify_crc();
        let ((records, error), taken) = counting::taken_by(|| {
            // Not collected: what is held is counted by `taken` as long as it is one record at a time.
            let mut records = 0;
            let mut error = None;
            for record in batch.records(LIMIT) {
                match record {
                    Ok(_) => records += 1,
                    Err(refused) => error = Some(refused),
                }
            }
            (records, error)
        });
        assert!(records <= batch.record_count());
        // Headers are the one thing that is decoded into more than its bytes: 64 for two.
        let payload = batch.size() + LIMIT;
        assert!(taken.bytes <= 40 * payload + CODEC_BYTES_MAX, "{} bytes", taken.bytes);
        if error.is_none() && records > 0 {
            rebuild(&batch.records(LIMIT).map(Result::unwrap).collect::<Vec<_>>());
        }
    }
});

fn rebuild(records: &[Record]) {
    let base_offset = records[0].offset;
    let mut builder = BatchBuilder::new(BatchOptions { base_offset, ..BatchOptions::default() });
    for Record { offset, timestamp, key, value, headers } in records {
        builder.append_at(*offset, *timestamp, key.as_deref(), value.as_deref(), headers);
    }
    let built: Vec<Record> = Batches::new(builder.build())
        .flat_map(|batch| batch.expect("a built batch").records(usize::MAX).map(Result::unwrap))
        .collect();
    assert_eq!(built, records);
}
