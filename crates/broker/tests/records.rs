//! Records at the edges of what the format can say, through a socket: what is taken comes back byte for byte, what is refused is
//! refused by Kafka's own name, and leaves nothing behind.

mod support;

use bytes::Bytes;
use support::{TestBroker, TestClient};
use wire::ErrorCode;
use wire::records::Batches;

const NOW_MS: i64 = 1_700_000_000_000;

/// A header's key and value.
type RawHeader = (Option<Vec<u8>>, Option<Vec<u8>>);

/// One record, as it stands in a batch.
#[derive(Clone)]
struct Raw {
    timestamp_delta: i64,
    offset_delta: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<RawHeader>,
    /// Instead of the true number of headers.
    header_count: Option<i64>,
}

impl Raw {
    fn plain() -> Raw {
        Raw {
            timestamp_delta: 0,
            offset_delta: 0,
            key: Some(b"key".to_vec()),
            value: Some(b"value".to_vec()),
            headers: Vec::new(),
            header_count: None,
        }
    }

    fn at(offset_delta: i64) -> Raw {
        Raw { offset_delta, ..Raw::plain() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut body = vec![0];
        varint(&mut body, self.timestamp_delta);
        varint(&mut body, self.offset_delta);
        nullable(&mut body, self.key.as_deref());
        nullable(&mut body, self.value.as_deref());
        varint(&mut body, self.header_count.unwrap_or(self.headers.len() as i64));
        for (key, value) in &self.headers {
            nullable(&mut body, key.as_deref());
            nullable(&mut body, value.as_deref());
        }
        let mut bytes = Vec::new();
        varint(&mut bytes, body.len() as i64);
        bytes.extend(body);
        bytes
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint(out, -1),
        Some(bytes) => {
            varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// A batch under a right checksum, whatever else is wrong with it.
struct Batch {
    base_timestamp: i64,
    max_timestamp: i64,
    last_offset_delta: i32,
    count: i32,
    records: Vec<u8>,
}

impl Batch {
    fn of(records: &[Raw]) -> Batch {
        let largest = records.iter().map(|record| record.timestamp_delta).max().unwrap_or(0);
        Batch {
            base_timestamp: NOW_MS,
            max_timestamp: NOW_MS.saturating_add(largest),
            last_offset_delta: records.len() as i32 - 1,
            count: records.len() as i32,
            records: records.iter().flat_map(Raw::bytes).collect(),
        }
    }

    /// One record of this time.
    fn stamped(timestamp: i64) -> Batch {
        Batch { base_timestamp: timestamp, max_timestamp: timestamp, ..Batch::of(&[Raw::plain()]) }
    }

    fn bytes(&self) -> Bytes {
        let mut batch = vec![0; 61];
        batch[8..12].copy_from_slice(&(self.records.len() as i32 + 49).to_be_bytes());
        batch[16] = 2;
        batch[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        // No producer: its id, its epoch, its sequence.
        batch[43..57].fill(0xff);
        batch[57..61].copy_from_slice(&self.count.to_be_bytes());
        batch.extend_from_slice(&self.records);
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.into()
    }
}

#[test]
fn what_the_format_can_say_is_kept_as_it_was_said() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let any_time = [("message.timestamp.after.max.ms", "9223372036854775807")];
    client.create_topic_with("t", 1, &any_time);
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    let with_headers = |headers| Batch::of(&[Raw { headers, ..Raw::plain() }]);
    let many = (0..10_000).map(|at: i32| (some(&at.to_be_bytes()), some(b"v"))).collect();
    let cases = [
        ("a null key", Batch::of(&[Raw { key: None, ..Raw::plain() }])),
        ("an empty key", Batch::of(&[Raw { key: some(b""), ..Raw::plain() }])),
        ("a tombstone", Batch::of(&[Raw { value: None, ..Raw::plain() }])),
        ("an empty value", Batch::of(&[Raw { value: some(b""), ..Raw::plain() }])),
        ("neither key nor value", Batch::of(&[Raw { key: None, value: None, ..Raw::plain() }])),
        ("a header without value", with_headers(vec![(some(b"h"), None)])),
        ("a header with an empty value", with_headers(vec![(some(b"h"), some(b""))])),
        ("a header with an empty key", with_headers(vec![(some(b""), some(b"v"))])),
        (
            "one header thrice",
            with_headers(vec![(some(b"h"), some(b"1")), (some(b"h"), None), (some(b"h"), some(b"1"))]),
        ),
        ("a header key that is not text", with_headers(vec![(some(b"\xff\xfe"), some(b"v"))])),
        ("many headers", with_headers(many)),
        ("no timestamp", Batch::stamped(-1)),
        ("the beginning of time", Batch::stamped(0)),
        ("before the beginning", Batch::stamped(-2)),
        ("the smallest timestamp", Batch::stamped(i64::MIN)),
        ("the largest timestamp", Batch::stamped(i64::MAX)),
        ("timestamps that go back", Batch::of(&[Raw::at(0), Raw { timestamp_delta: -NOW_MS, ..Raw::at(1) }])),
        ("a thousand records", Batch::of(&(0..1_000).map(Raw::at).collect::<Vec<_>>())),
    ];
    let mut end = 0;
    for (what, batch) in cases {
        let bytes = batch.bytes();
        assert_eq!(client.try_append("t", 0, bytes.clone()), (ErrorCode::NONE, end), "{what}");
        let read = client.fetch("t", 0, end).expect("an acknowledged offset is readable");
        assert_eq!(read[..8], end.to_be_bytes(), "{what}");
        assert_eq!(read[16..], bytes[16..], "{what}");
        end += i64::from(batch.count);
    }
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let headers = vec![(None, Some(b"v".to_vec()))];
    let two = || Batch::of(&[Raw::at(0), Raw::at(1)]);
    let padded = |extra: usize| {
        let mut batch = two();
        batch.records.extend(vec![0; extra]);
        batch
    };
    let cases = [
        ("a header without a key", Batch::of(&[Raw { headers, ..Raw::plain() }])),
        ("fewer headers than none", Batch::of(&[Raw { header_count: Some(-1), ..Raw::plain() }])),
        ("a header that is not there", Batch::of(&[Raw { header_count: Some(1), ..Raw::plain() }])),
        (
            "headers without end",
            Batch::of(&[Raw { header_count: Some(i64::from(i32::MAX)), ..Raw::plain() }]),
        ),
        ("no record, and offsets for none", Batch { count: 0, last_offset_delta: -1, ..Batch::of(&[]) }),
        ("no record, and offsets for one", Batch { count: 0, last_offset_delta: 0, ..Batch::of(&[]) }),
        ("less than no record", Batch { count: -1, ..two() }),
        ("a last offset before the first", Batch { last_offset_delta: -1, ..two() }),
        ("the smallest last offset", Batch { last_offset_delta: i32::MIN, ..two() }),
        ("a last offset too small", Batch { last_offset_delta: 0, ..two() }),
        ("a last offset too large", Batch { last_offset_delta: 2, ..two() }),
        ("the largest last offset", Batch { last_offset_delta: i32::MAX, ..two() }),
        (
            "as many records as there can be",
            Batch { count: i32::MAX, last_offset_delta: i32::MAX - 1, ..two() },
        ),
        ("one record more than it says", Batch { count: 1, last_offset_delta: 0, ..two() }),
        ("one record less than it says", Batch { count: 3, last_offset_delta: 2, ..two() }),
        ("a hole between two records", Batch::of(&[Raw::at(0), Raw::at(2)])),
        ("one offset twice", Batch::of(&[Raw::at(0), Raw::at(0)])),
        ("offsets that go back", Batch::of(&[Raw::at(1), Raw::at(0)])),
        ("a first offset that is not the base", Batch::of(&[Raw::at(1), Raw::at(2)])),
        ("a negative offset", Batch::of(&[Raw::at(-1), Raw::at(0)])),
        ("the largest offset", Batch::of(&[Raw::at(i64::from(i32::MAX))])),
        ("an offset of 64 bits", Batch::of(&[Raw::at(1 << 32)])),
        ("bytes behind the last record", padded(3)),
    ];
    for (what, batch) in cases {
        assert_eq!(client.try_append("t", 0, batch.bytes()), (ErrorCode::INVALID_RECORD, -1), "{what}");
    }
    assert_eq!(client.append("t", 0, two().bytes()), 0, "nothing was appended before");
}

#[test]
fn each_record_keeps_within_the_times_that_its_topic_allows() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let now = i64::try_from(
        std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_millis(),
    )
    .expect("a time of today");
    client.create_topic("hour-ahead", 1);
    let strict =
        [("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "3600000")];
    client.create_topic_with("strict", 1, &strict);
    client.create_topic_with("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    const HOUR: i64 = 3_600_000;
    let at = |deltas: &[i64]| {
        let record =
            |(offset, delta): (usize, &i64)| Raw { timestamp_delta: *delta, ..Raw::at(offset as i64) };
        let records: Vec<_> = deltas.iter().enumerate().map(record).collect();
        let largest = deltas.iter().max().expect("a record");
        Batch { base_timestamp: now, max_timestamp: now + largest, ..Batch::of(&records) }
    };
    use ErrorCode as E;
    let cases = [
        ("hour-ahead", "now", at(&[0]), E::NONE),
        ("hour-ahead", "soon", at(&[HOUR / 2]), E::NONE),
        ("hour-ahead", "tomorrow", at(&[24 * HOUR]), E::INVALID_TIMESTAMP),
        ("hour-ahead", "one of them tomorrow", at(&[0, 24 * HOUR, 0]), E::INVALID_TIMESTAMP),
        ("hour-ahead", "the end of time", Batch::stamped(i64::MAX), E::INVALID_TIMESTAMP),
        ("hour-ahead", "long ago", Batch::stamped(0), E::NONE),
        ("hour-ahead", "no time", Batch::stamped(-1), E::NONE),
        ("strict", "now", at(&[0, -HOUR / 2, HOUR / 2]), E::NONE),
        ("strict", "yesterday", at(&[-24 * HOUR]), E::INVALID_TIMESTAMP),
        ("strict", "one of them yesterday", at(&[0, -24 * HOUR, 0]), E::INVALID_TIMESTAMP),
        ("strict", "before the beginning", Batch::stamped(-2), E::INVALID_TIMESTAMP),
        ("strict", "the smallest time", Batch::stamped(i64::MIN), E::INVALID_TIMESTAMP),
        ("strict", "no time", Batch::stamped(-1), E::NONE),
        ("strict", "one of them no time", at(&[0, -1 - now, 0]), E::NONE),
        ("stamped", "tomorrow", at(&[24 * HOUR]), E::NONE),
        ("stamped", "the end of time", Batch::stamped(i64::MAX), E::NONE),
        ("stamped", "the smallest time", Batch::stamped(i64::MIN), E::NONE),
    ];
    for (topic, what, batch, expected) in cases {
        assert_eq!(client.try_append(topic, 0, batch.bytes()).0, expected, "{topic}: {what}");
    }
    let stamped = client.fetch("stamped", 0, 0).expect("it is readable");
    for batch in Batches::new(stamped) {
        let batch = batch.expect("a batch");
        batch.verify_crc().expect("stamped under a right checksum");
        assert!((now - HOUR..now + HOUR).contains(&batch.max_timestamp().0), "{:?}", batch.max_timestamp());
    }
}

#[test]
fn a_batch_is_as_large_as_its_topic_allows_to_the_byte() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic_with("t", 1, &[("max.message.bytes", "2000")]);
    let sized = |bytes: usize| {
        let of = |value: usize| Batch::of(&[Raw { value: Some(vec![7; value]), ..Raw::plain() }]).bytes();
        (0..bytes).map(of).find(|batch| batch.len() == bytes).expect("there is a value of this size")
    };
    assert_eq!(client.try_append("t", 0, sized(2_000)), (ErrorCode::NONE, 0));
    assert_eq!(client.try_append("t", 0, sized(2_001)), (ErrorCode::MESSAGE_TOO_LARGE, -1));
    assert_eq!(client.try_append("t", 0, sized(1_999)), (ErrorCode::NONE, 1));
}

#[test]
fn a_compacted_topic_takes_no_batch_with_a_record_without_key() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic_with("t", 1, &[("cleanup.policy", "compact")]);
    let keyless = Raw { key: None, ..Raw::at(1) };
    let cases = [
        ("no key", Batch::of(&[Raw { key: None, ..Raw::plain() }]), ErrorCode::INVALID_RECORD),
        ("one of them without", Batch::of(&[Raw::at(0), keyless, Raw::at(2)]), ErrorCode::INVALID_RECORD),
        ("an empty key", Batch::of(&[Raw { key: Some(Vec::new()), ..Raw::plain() }]), ErrorCode::NONE),
        ("a tombstone", Batch::of(&[Raw { value: None, ..Raw::plain() }]), ErrorCode::NONE),
    ];
    for (what, batch, expected) in cases {
        assert_eq!(client.try_append("t", 0, batch.bytes()).0, expected, "{what}");
    }
}
