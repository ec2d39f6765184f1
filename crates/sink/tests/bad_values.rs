//! Whatever a value is, it becomes a row or is refused in memory that its size pays for, and without a panic.

#[allow(dead_code, unreachable_pub)]
#[path = "../../wire/tests/support/counting.rs"]
mod counting;
#[allow(dead_code, unreachable_pub)]
#[path = "../../wire/tests/support/random.rs"]
mod random;

use std::sync::Arc;

use client::{ConsumedRecord, TimestampType};
use counting::{Counting, taken_by};
use random::Random;
use sink::{Columns, Settings, Shape};
use wire::compression::Compression;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a value may take: its columns grow to a power of two, and there are some for each.
const BASE: usize = 256 << 10;
const FACTOR: usize = 128;

const AVRO: &str = "0d020e5ac3bc72696368020601e240e8ffb4c0e6630282c0c99de7d88b06014831323334353637382d396162632d646566302d313233342d3536373839616263646566300001020304050402000000003ffeffffff0f020002026102000000000000f83f0002084d61696e0202060200010400ff";
const PROTOBUF: &str = "08f9ffffffffffffffff0112075ac3bc72696368180120ffffffffffffffffff012a0c08c0ddc8b10610e8d1b5ee0132070805150000204032003a0c0a016111000000000000f83f3a0c0a0162110000000000000000420f08fcffffffffffffffff011202081252050d070000005a0d01ffffffffffffffffff01ac0260016a0200ff71000000000000f83f7d0000003f8001ffffffff0f8801ffffffffffffffffff019101feffffffffffffff9d01fbffffffa101faffffffffffffff";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn shape(declared: &str) -> Arc<Shape> {
    let text = format!(
        "name = \"a\"\ntopics = [\"a\"]\n[value]\n{declared}\n[offline]\ntable = \"t\"\ncolumns = []\n"
    );
    let settings = Settings::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    settings.offline.unwrap().line.shape
}

fn record(value: Vec<u8>) -> ConsumedRecord {
    ConsumedRecord {
        topic: "a".into(),
        partition: PartitionId(0),
        offset: Offset(0),
        leader_epoch: LeaderEpoch(0),
        timestamp: Millis(0),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        value: Some(value.into()),
        headers: Vec::new(),
        compression: Compression::None,
        is_transactional: false,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
    }
}

/// One wound.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
        return;
    }
    let at = random.below(bytes.len());
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff][random.below(7)],
        // A length of any size, as both formats write them.
        2 => {
            let mut length = random.next() >> random.below(64);
            let mut written = Vec::new();
            while length >= 0x80 {
                written.push(length as u8 | 0x80);
                length >>= 7;
            }
            written.push(length as u8);
            bytes.splice(at..(at + 1).min(bytes.len()), written);
        }
        3 => bytes.truncate(at),
        4 => bytes.insert(at, random.next() as u8),
        5 => drop(bytes.remove(at)),
        _ => {
            let end = (at + 1 + random.below(64)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}

/// How many were rows, and how many were refused.
fn check(declared: &str, whole: &[u8], count: usize) -> (usize, usize) {
    let shape = shape(declared);
    let mut random = Random::new(7);
    let (mut rows, mut refused) = (0, 0);
    for number in 0..count {
        let value = match number % 8 {
            // Nothing but noise.
            0 => (0..random.below(200)).map(|_| random.next() as u8).collect(),
            _ => {
                let mut value = whole.to_vec();
                for _ in 0..=random.below(4) {
                    damage(&mut value, &mut random);
                }
                value
            }
        };
        let (record, bound) = (record(value.clone()), BASE + FACTOR * value.len());
        let ((appended, left), taken) = taken_by(|| {
            let mut columns = Columns::new(Arc::clone(&shape));
            (columns.append(&record).is_ok(), columns.finish().num_rows())
        });
        assert!(taken.bytes <= bound, "took {} of {bound}: {value:02x?}", taken.bytes);
        assert_eq!(left, usize::from(appended));
        match appended {
            true => rows += 1,
            false => refused += 1,
        }
    }
    (rows, refused)
}

#[test]
fn damaged_values_in_avro_are_rows_or_refused_within_the_bound() {
    let (rows, refused) = check("format = \"avro\"\nschema = \"tests/data/order.avsc\"", &hex(AVRO), 100_000);
    println!("{rows} rows, {refused} refused");
    assert!(rows > 5_000 && refused > 20_000, "{rows} rows, {refused} refused");
}

#[test]
fn damaged_values_in_protobuf_are_rows_or_refused_within_the_bound() {
    let declared = "format = \"protobuf\"\nschema = \"tests/data/order.proto\"\nmessage = \"shop.Order\"";
    let (rows, refused) = check(declared, &hex(PROTOBUF), 100_000);
    println!("{rows} rows, {refused} refused");
    assert!(rows > 5_000 && refused > 20_000, "{rows} rows, {refused} refused");
}
