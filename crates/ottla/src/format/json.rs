//! A record as one line of JSON.
//!
//! Keys and values that are UTF-8 are strings; others stand under `key_base64` and `value_base64`, so that
//! what is printed can always be told apart and read back. A null stays null: a tombstone is not empty text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::ConsumedRecord;
use serde_json::{Map, Value, json};

/// Appends the record and a newline to `out`.
pub(crate) fn print_json(record: &ConsumedRecord, out: &mut Vec<u8>) {
    let mut object = Map::new();
    object.insert("topic".into(), record.topic.as_ref().into());
    object.insert("partition".into(), record.partition.0.into());
    object.insert("offset".into(), record.offset.0.into());
    object.insert("timestamp".into(), record.timestamp.0.into());
    insert_bytes(&mut object, "key", record.key.as_deref());
    insert_bytes(&mut object, "value", record.value.as_deref());
    if !record.headers.is_empty() {
        let headers = record.headers.iter().map(|header| {
            let mut object = Map::new();
            object.insert("key".into(), header.key.as_ref().into());
            insert_bytes(&mut object, "value", header.value.as_deref());
            Value::Object(object)
        });
        object.insert("headers".into(), headers.collect());
    }
    // A map of strings and numbers serialises; the writer is memory.
    let line = json!(object).to_string();
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => object.insert(name.to_owned(), Value::Null),
        Some((_, Ok(text))) => object.insert(name.to_owned(), text.into()),
        Some((bytes, Err(_))) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use client::{ConsumedRecord, Header, TimestampType, Watermarks};
    use expect_test::expect;
    use wire::compression::Compression;
    use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Str};

    use super::print_json;

    /// A record with something in every field, and its partition's ends.
    pub(crate) fn sample() -> (ConsumedRecord, Watermarks) {
        let header =
            |value: &'static [u8]| Header { key: Str::from("a"), value: Some(Bytes::from_static(value)) };
        let record = ConsumedRecord {
            topic: Str::from("orders"),
            partition: PartitionId(3),
            offset: Offset(42),
            leader_epoch: LeaderEpoch(7),
            timestamp: Millis(1_700_000_000_123),
            timestamp_type: TimestampType::CreateTime,
            key: Some(Bytes::from_static(b"k1")),
            value: Some(Bytes::from_static(b"hello")),
            headers: vec![header(b"1"), header(b"2")],
            compression: Compression::Zstd,
            is_transactional: false,
            producer_id: ProducerId(9),
            producer_epoch: ProducerEpoch(1),
        };
        let watermarks =
            Watermarks { log_start: Offset(40), last_stable: Offset(43), high_watermark: Offset(43) };
        (record, watermarks)
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let mut out = Vec::new();
        print_json(&sample().0, &mut out);
        expect![[r#"
            {"headers":[{"key":"a","value":"1"},{"key":"a","value":"2"}],"key":"k1","offset":42,"partition":3,"timestamp":1700000000123,"topic":"orders","value":"hello"}
        "#]]
        .assert_eq(std::str::from_utf8(&out).unwrap());
    }

    #[test]
    fn bytes_that_are_no_text_and_nulls_stay_what_they_are() {
        let record = ConsumedRecord {
            key: Some(Bytes::from_static(b"\xff\x00")),
            value: None,
            headers: Vec::new(),
            ..sample().0
        };
        let mut out = Vec::new();
        print_json(&record, &mut out);
        expect![[r#"
            {"key_base64":"/wA=","offset":42,"partition":3,"timestamp":1700000000123,"topic":"orders","value":null}
        "#]]
        .assert_eq(std::str::from_utf8(&out).unwrap());
    }
}
