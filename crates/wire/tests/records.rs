//! Record batches: what Kafka's own client wrote is read, what lies is refused, and what is built reads back.

mod support;

use bytes::Bytes;
use support::counting::{Counting, taken_by};
use support::hex;
use support::mutation::mutate;
use support::random::Random;
use wire::compression::Compression;
use wire::records::{
    Batch, BatchBuilder, BatchError, BatchOptions, Batches, Header, RawRecord, Record, TimestampType, edit,
};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, Str};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 1 << 20;

/// The same three records by the Java client 4.3, base offset 42, in each codec: a key, a value and headers of which
/// two share a name; no key; a tombstone older than the first record.
const JAVA: [(Compression, &str); 5] = [
    (
        Compression::None,
        "000000000000002a00000081ffffffff024c104d030000000000020000018bcfe568000000018bcfe56805ffffffffff
         ffffffffffffffffff000000036e000000066b65794676616c75652076616c75652076616c75652076616c7565207661
         6c75652076616c756506026102310262010261023218000a02010c7365636f6e64001400010408746f6d620100",
    ),
    (
        Compression::Gzip,
        "000000000000002a00000078ffffffff029068d3000001000000020000018bcfe568000000018bcfe56805ffffffffff
         ffffffffffffffffff000000031f8b08000000000000ffcb63606060cb4ead742b4bcc294d55c04bb231253219322531
         02292309062e26469ee2d4e4fcbc1406110646168e92fcdc244606009c8122c850000000",
    ),
    (
        Compression::Snappy,
        "000000000000002a0000007effffffff021a5358f50002000000020000018bcfe568000000018bcfe56805ffffffffff
         ffffffffffffffffff0000000382534e415050590000000001000000010000003950386e000000066b65794676616c75
         65207206008c06026102310262010261023218000a02010c7365636f6e64001400010408746f6d620100",
    ),
    (
        Compression::Lz4,
        "000000000000002a0000007affffffff0220ed74c10003000000020000018bcfe568000000018bcfe56805ffffffffff
         ffffffffffffffffff0000000304224d186040823a000000ff006e000000066b65794676616c75652006000af0150602
         6102310262010261023218000a02010c7365636f6e64001400010408746f6d62010000000000",
    ),
    (
        Compression::Zstd,
        "000000000000002a00000077ffffffff02c351e5d00004000000020000018bcfe568000000018bcfe56805ffffffffff
         ffffffffffffffffff0000000328b52ffd0058d4010034036e000000066b65794676616c756520060261023102620102
         61023218000a02010c7365636f6e64001400010408746f6d6201000100b94b1d010000",
    ),
];

fn header(key: &'static str, value: Option<&'static str>) -> Header {
    Header { key: Str::from(key), value: value.map(Bytes::from) }
}

fn expected() -> Vec<Record> {
    let record =
        |offset, timestamp, key: Option<&'static str>, value: Option<&'static str>, headers| Record {
            offset: Offset(offset),
            timestamp: Millis(timestamp),
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers,
        };
    let headers = vec![header("a", Some("1")), header("b", None), header("a", Some("2"))];
    vec![
        record(42, 1_700_000_000_000, Some("key"), Some("value value value value value value"), headers),
        record(43, 1_700_000_000_005, None, Some("second"), vec![]),
        record(44, 1_699_999_999_999, Some("tomb"), None, vec![]),
    ]
}

fn records(batch: &Batch) -> Result<Vec<Record>, BatchError> {
    batch.records(LIMIT).collect()
}

fn build(options: BatchOptions, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for Record { offset, timestamp, key, value, headers } in records {
        builder.append_at(*offset, *timestamp, key.as_deref(), value.as_deref(), headers);
    }
    builder.build()
}

#[test]
fn batches_of_the_java_client_are_read() {
    for (codec, bytes) in JAVA {
        let batch = Batch::parse(&Bytes::from(hex(bytes))).unwrap();
        assert_eq!(batch.verify_crc(), Ok(()));
        assert_eq!(batch.attributes().compression(), codec);
        assert_eq!((batch.base_offset(), batch.last_offset()), (Offset(42), Offset(44)));
        assert_eq!(batch.record_count(), 3);
        assert_eq!(batch.base_timestamp(), Millis(1_700_000_000_000));
        assert_eq!(batch.max_timestamp(), Millis(1_700_000_000_005));
        assert_eq!((batch.producer_id(), batch.producer_epoch()), (ProducerId::NONE, ProducerEpoch::NONE));
        assert_eq!((batch.base_sequence(), batch.last_sequence()), (-1, -1));
        assert_eq!(records(&batch), Ok(expected()), "{codec}");
    }
}

#[test]
fn uncompressed_we_write_what_the_java_client_writes() {
    let options = BatchOptions { base_offset: Offset(42), ..BatchOptions::default() };
    assert_eq!(build(options, &expected()), hex(JAVA[0].1));
}

#[test]
fn what_is_built_reads_back_in_every_codec() {
    for compression in Compression::ALL {
        let options = BatchOptions {
            base_offset: Offset(40),
            leader_epoch: LeaderEpoch(3),
            compression,
            producer_id: ProducerId(9),
            producer_epoch: ProducerEpoch(1),
            base_sequence: i32::MAX - 1,
            is_transactional: true,
            ..BatchOptions::default()
        };
        let batch = Batch::parse(&build(options, &expected())).unwrap();
        assert_eq!(batch.verify_crc(), Ok(()));
        assert_eq!(batch.partition_leader_epoch(), LeaderEpoch(3));
        assert!(batch.attributes().is_transactional() && !batch.attributes().is_control());
        // Offsets 40 to 44: the sequence wraps from the largest integer to zero.
        assert_eq!(batch.last_sequence(), 2);
        assert_eq!(records(&batch), Ok(expected()), "{compression}");
    }
}

#[test]
fn compaction_copies_records_raw_and_keeps_the_batchs_span() {
    let original = Batch::parse(&Bytes::from(hex(JAVA[0].1))).unwrap();
    let raw: Vec<RawRecord> = original.raw_records(LIMIT).collect::<Result<_, _>>().unwrap();
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: original.base_offset(),
        last_offset: Some(original.last_offset()),
        delete_horizon: Some(Millis(5)),
        ..BatchOptions::default()
    });
    let timestamp = original.base_timestamp().plus(raw[0].timestamp_delta);
    builder.append_raw(Offset(42), timestamp, &raw[0]);
    let cleaned = Batch::parse(&builder.build()).unwrap();
    assert_eq!(records(&cleaned).unwrap(), expected()[..1]);
    assert_eq!((cleaned.last_offset(), cleaned.record_count()), (Offset(44), 1));
    assert_eq!(cleaned.delete_horizon(), Some(Millis(5)));

    // A batch may lose all of its records and still stand for its producer's last sequence.
    let empty = BatchBuilder::new(BatchOptions {
        base_offset: Offset(42),
        last_offset: Some(Offset(44)),
        max_timestamp: Some(original.max_timestamp()),
        ..BatchOptions::default()
    });
    let empty = Batch::parse(&empty.build()).unwrap();
    assert_eq!((empty.record_count(), empty.last_offset_delta()), (0, 2));
    assert_eq!(records(&empty), Ok(vec![]));
}

#[test]
fn a_leader_edits_in_place() {
    let mut bytes = hex(JAVA[0].1);
    edit::set_base_offset(&mut bytes, Offset(1000));
    edit::set_leader_epoch(&mut bytes, LeaderEpoch(7));
    let batch = Batch::parse(&Bytes::from(bytes.clone())).unwrap();
    assert_eq!(batch.verify_crc(), Ok(()), "offset and epoch are outside of the checksum");
    assert_eq!((batch.base_offset(), batch.partition_leader_epoch()), (Offset(1000), LeaderEpoch(7)));

    edit::set_log_append_time(&mut bytes, Millis(77));
    let batch = Batch::parse(&Bytes::from(bytes)).unwrap();
    assert_eq!(batch.verify_crc(), Ok(()));
    assert_eq!(batch.attributes().timestamp_type(), TimestampType::LogAppendTime);
    assert!(records(&batch).unwrap().iter().all(|record| record.timestamp == Millis(77)));
}

#[test]
fn a_producer_numbers_a_batch_anew_in_place() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Millis(5), None, Some(b"a"), &[]);
    builder.set_producer(ProducerId(7), ProducerEpoch(1), 2);
    let mut bytes = builder.build().to_vec();
    let numbered = |bytes: &[u8]| {
        let batch = Batch::parse(&Bytes::copy_from_slice(bytes)).unwrap();
        assert_eq!(batch.verify_crc(), Ok(()));
        assert_eq!(records(&batch).unwrap().len(), 1);
        (batch.producer_id().0, batch.producer_epoch().0, batch.base_sequence())
    };
    assert_eq!(numbered(&bytes), (7, 1, 2));
    edit::set_producer(&mut bytes, ProducerId(8), ProducerEpoch(3), 40);
    assert_eq!(numbered(&bytes), (8, 3, 40));
}

#[test]
fn a_records_field_holds_batches_one_after_the_other() {
    let one = hex(JAVA[0].1);
    let two = [one.clone(), hex(JAVA[1].1)].concat();
    let sizes = |bytes: Vec<u8>| -> Vec<Result<usize, BatchError>> {
        Batches::new(Bytes::from(bytes)).map(|batch| batch.map(|batch| batch.size())).collect()
    };
    assert_eq!(sizes(vec![]), []);
    assert_eq!(sizes(two.clone()), [Ok(141), Ok(132)]);
    let cut = BatchError::Truncated { wanted: 132, left: 131 };
    assert_eq!(sizes(two[..two.len() - 1].to_vec()), [Ok(141), Err(cut)]);
}

/// Replaces bytes of the Java client's uncompressed batch, corrects the checksum and reads it.
fn damaged(at: usize, bytes: &[u8]) -> Result<Vec<Record>, BatchError> {
    let mut batch = hex(JAVA[0].1);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let batch = Batch::parse(&Bytes::from(batch))?;
    records(&batch)
}

fn refused(at: usize, bytes: &[u8]) -> ErrorCode {
    damaged(at, bytes).unwrap_err().error_code()
}

#[test]
fn headers_that_lie_are_refused() {
    assert_eq!(refused(8, &48_i32.to_be_bytes()), ErrorCode::CORRUPT_MESSAGE, "shorter than a header");
    assert_eq!(refused(8, &(-1_i32).to_be_bytes()), ErrorCode::CORRUPT_MESSAGE, "negative length");
    assert_eq!(refused(8, &i32::MAX.to_be_bytes()), ErrorCode::CORRUPT_MESSAGE, "longer than the field");
    assert_eq!(refused(16, &[0]), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    assert_eq!(refused(16, &[1]), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    assert_eq!(refused(16, &[3]), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(refused(21, &[0, 5]), ErrorCode::INVALID_RECORD, "a codec nobody knows");
    assert_eq!(refused(21, &[0, 1]), ErrorCode::INVALID_RECORD, "not what the codec writes");
    assert_eq!(refused(23, &(-1_i32).to_be_bytes()), ErrorCode::INVALID_RECORD, "ends before it starts");
    assert_eq!(refused(0, &(i64::MAX - 1).to_be_bytes()), ErrorCode::INVALID_RECORD, "past the last offset");
    for count in [-1, i32::MIN, 4, i32::MAX] {
        assert_eq!(refused(57, &i32::to_be_bytes(count)), ErrorCode::INVALID_RECORD, "count {count}");
    }
    assert_eq!(damaged(57, &2_i32.to_be_bytes()), Err(BatchError::TrailingBytes(11)), "fewer than there are");
    // More records than bytes, in a batch that spans enough offsets for them.
    let mut wide = hex(JAVA[0].1);
    wide[23..27].copy_from_slice(&1_000_000_i32.to_be_bytes());
    wide[57..61].copy_from_slice(&1_000_000_i32.to_be_bytes());
    assert_eq!(Batch::parse(&Bytes::from(wide)), Err(BatchError::RecordCount(1_000_000)));
}

#[test]
fn a_wrong_checksum_is_found_wherever_a_bit_flips() {
    let whole = hex(JAVA[2].1);
    for at in 17..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        if let Ok(batch) = Batch::parse(&Bytes::from(bytes)) {
            assert_eq!(batch.verify_crc().unwrap_err().error_code(), ErrorCode::CORRUPT_MESSAGE, "byte {at}");
        }
    }
}

#[test]
fn records_that_lie_are_refused() {
    // The first record starts at 61: length, attributes, timestamp, offset, key length, key.
    for (at, byte, what) in [
        (61, 0x01, "negative length"),
        (61, 0x70, "longer than its fields"),
        (61, 0x6c, "shorter than its fields"),
        (64, 0x01, "negative offset"),
        (64, 0x08, "an offset past the batch"),
        (65, 0x03, "a key of length -2"),
        (65, 0x7e, "a key longer than the record"),
        (69, 0x7e, "a value longer than the record"),
        (105, 0x7e, "more headers than bytes"),
        (105, 0x01, "fewer headers than none"),
        (106, 0x01, "a header without a key"),
    ] {
        assert_eq!(refused(at, &[byte]), ErrorCode::INVALID_RECORD, "{what}");
    }
    // The second record's offset equals the first's.
    assert_eq!(refused(120, &[0]), ErrorCode::INVALID_RECORD);
}

#[test]
fn a_header_key_that_is_not_text_is_shown_and_copied_unchanged() {
    let mut bytes = hex(JAVA[0].1);
    assert_eq!(bytes[107], b'a');
    bytes[107] = 0xff;
    let batch = Batch::parse(&Bytes::from(bytes)).unwrap();
    assert_eq!(records(&batch).unwrap()[0].headers[0].key, "\u{fffd}");
    let raw = batch.raw_records(LIMIT).next().unwrap().unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append_raw(Offset(0), Millis(0), &raw);
    let copy = Batch::parse(&builder.build()).unwrap();
    assert_eq!(copy.raw_records(LIMIT).next().unwrap().unwrap().headers, raw.headers);
}

#[test]
fn a_codec_bomb_is_refused_before_it_goes_off() {
    for compression in Compression::ALL.into_iter().skip(1) {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        builder.append(Millis(0), None, Some(&vec![0; 50 << 20]), &[]);
        let batch = Batch::parse(&builder.build()).unwrap();
        let limit = 100_000;
        let (first, taken) = taken_by(|| batch.records(limit).next().unwrap());
        assert_eq!(first.unwrap_err().error_code(), ErrorCode::MESSAGE_TOO_LARGE, "{compression}");
        // Codecs have tables and windows of their own, of a fixed size.
        assert!(taken.bytes <= 8 * limit + (1 << 20), "{compression} took {}", taken.bytes);
    }
}

#[test]
fn damaged_batches_never_panic_and_never_yield_more_than_they_hold() {
    let mut random = Random::new(3);
    for round in 0..200_000 {
        let mut bytes = hex_cached(round % JAVA.len());
        for _ in 0..=random.below(2) {
            mutate(&mut bytes, &mut random);
        }
        for batch in Batches::new(Bytes::from(bytes)).flatten() {
            let _ = batch.verify_crc();
            let count = batch.records(64 * 1024).filter(Result::is_ok).count();
            assert!(count <= batch.record_count() as usize);
        }
    }
}

fn hex_cached(index: usize) -> Vec<u8> {
    static BYTES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| JAVA.iter().map(|(_, text)| hex(text)).collect())[index].clone()
}
