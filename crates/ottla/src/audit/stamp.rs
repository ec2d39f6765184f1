//! A stamp: what a record says of its place among the records of its key.
//!
//! A small JSON object, in the header `ottla-audit` or in a field of a JSON value, so that any producer can write it and any
//! transformation can carry it on. Only the sequence number must be there.

use bytes::Bytes;
use client::{ConsumedRecord, Header};
use serde_json::{Value, json};
use wire::Millis;

/// The header that holds a stamp.
pub(crate) const HEADER: &str = "ottla-audit";

/// A record's stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which of several producers, or runs of one. Each counts for itself.
    pub(crate) run: String,
    /// What is numbered. Its records keep their order as long as they are in one partition.
    pub(crate) key: String,
    /// 0, 1, 2 and so on, by key.
    pub(crate) sequence: u64,
    /// When the record was produced.
    pub(crate) time: Millis,
    /// The record of this number was given up by its producer: it may be there or not.
    pub(crate) void: bool,
}

/// Where in a record the stamp stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// In the header [`HEADER`].
    Header,
    /// In this field of a JSON value: names from the outside in, none for the value itself.
    Field(Vec<String>),
}

impl Carrier {
    /// The carrier that `--field` names, or that there is without.
    pub(crate) fn new(field: Option<&str>) -> Self {
        match field {
            None => Self::Header,
            Some(path) => {
                Self::Field(path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect())
            }
        }
    }

    /// The stamp of a record; none when it carries none.
    pub(crate) fn read(&self, record: &ConsumedRecord) -> Result<Option<Stamp>, String> {
        let stamp = match self {
            Self::Header => {
                let Some(header) = record.headers.iter().rev().find(|header| &*header.key == HEADER) else {
                    return Ok(None);
                };
                serde_json::from_slice(header.value.as_deref().unwrap_or_default())
                    .map_err(|error| format!("header {HEADER} is no JSON: {error}"))?
            }
            Self::Field(path) => {
                let value = serde_json::from_slice(record.value.as_deref().unwrap_or_default());
                let Ok(value) = value else { return Ok(None) };
                match path
                    .iter()
                    .try_fold(value, |mut value: Value, name| value.get_mut(name).map(Value::take))
                {
                    Some(stamp) => stamp,
                    None => return Ok(None),
                }
            }
        };
        parse(&stamp, record).map(Some)
    }

    /// The headers and the value of a record that carries a stamp and takes about so many bytes.
    pub(crate) fn write(&self, stamp: &Stamp, bytes: usize) -> (Vec<Header>, Bytes) {
        let stamp = stamp.json();
        let padding = "x".repeat(bytes.saturating_sub(stamp.to_string().len()));
        match self {
            Self::Header => {
                let value = Some(Bytes::from(stamp.to_string()));
                (vec![Header { key: HEADER.into(), value }], json!({ "padding": padding }).to_string().into())
            }
            Self::Field(path) => {
                let mut value = path.iter().rev().fold(stamp, |inner, name| json!({ name: inner }));
                if let Some(object) = value.as_object_mut() {
                    object.insert("padding".to_owned(), padding.into());
                }
                (Vec::new(), value.to_string().into())
            }
        }
    }
}

impl Stamp {
    fn json(&self) -> Value {
        let mut stamp = json!({
            "run": self.run,
            "key": self.key,
            "sequence": self.sequence,
            "time": self.time.0,
        });
        if self.void {
            stamp["void"] = true.into();
        }
        stamp
    }
}

fn parse(stamp: &Value, record: &ConsumedRecord) -> Result<Stamp, String> {
    let text = |name: &str| match &stamp[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        // Who numbers orders has numbers for keys.
        Value::Number(number) => Ok(Some(number.to_string())),
        other => Err(format!("{name} is {other}: a text or a number is wanted")),
    };
    let sequence = &stamp["sequence"];
    let sequence = sequence
        .as_u64()
        .ok_or_else(|| format!("sequence is {sequence}: a whole number from 0 on is wanted"))?;
    let time = match &stamp["time"] {
        Value::Null => record.timestamp,
        time => Millis(
            time.as_i64().ok_or_else(|| format!("time is {time}: milliseconds since 1970 are wanted"))?,
        ),
    };
    let own_key = || String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
    Ok(Stamp {
        run: text("run")?.unwrap_or_default(),
        key: text("key")?.unwrap_or_else(own_key),
        sequence,
        time,
        void: stamp["void"].as_bool().unwrap_or(false),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use client::{ConsumedRecord, Header, TimestampType};
    use expect_test::{Expect, expect};
    use wire::compression::Compression;
    use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId};

    use super::{Carrier, HEADER, Stamp};

    fn record(headers: Vec<Header>, value: Bytes) -> ConsumedRecord {
        ConsumedRecord {
            topic: "t".into(),
            partition: PartitionId(0),
            offset: Offset(0),
            leader_epoch: LeaderEpoch::NONE,
            timestamp: Millis(900),
            timestamp_type: TimestampType::CreateTime,
            key: Some(Bytes::from_static(b"own")),
            value: Some(value),
            headers,
            compression: Compression::None,
            is_transactional: false,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
        }
    }

    fn check(carrier: &Carrier, record: &ConsumedRecord, expected: Expect) {
        expected.assert_eq(&match carrier.read(record) {
            Ok(Some(Stamp { run, key, sequence, time, void })) => {
                format!("run {run:?} key {key:?} sequence {sequence} time {} void {void}", time.0)
            }
            Ok(None) => "none".to_owned(),
            Err(problem) => problem,
        });
    }

    #[test]
    fn what_is_written_is_read_wherever_it_stands() {
        let stamp = Stamp { run: "r".into(), key: "k".into(), sequence: 7, time: Millis(5), void: true };
        for field in [None, Some("meta.audit"), Some(".")] {
            let carrier = Carrier::new(field);
            let (headers, value) = carrier.write(&stamp, 200);
            assert_eq!(carrier.read(&record(headers, value)).unwrap().unwrap(), stamp, "{field:?}");
        }
    }

    #[test]
    fn a_number_is_enough_and_the_record_says_the_rest() {
        let field = Carrier::new(Some("."));
        let json = |text: &'static str| record(Vec::new(), Bytes::from_static(text.as_bytes()));
        check(
            &field,
            &json(r#"{"sequence":3,"amount":12}"#),
            expect![[r#"run "" key "own" sequence 3 time 900 void false"#]],
        );
        check(
            &field,
            &json(r#"{"sequence":3,"key":4711}"#),
            expect![[r#"run "" key "4711" sequence 3 time 900 void false"#]],
        );
    }

    #[test]
    fn what_carries_no_stamp_is_told_from_what_carries_a_bad_one() {
        let json = |text: &'static str| record(Vec::new(), Bytes::from_static(text.as_bytes()));
        let header = |text: &'static str| {
            let value = Some(Bytes::from_static(text.as_bytes()));
            record(vec![Header { key: HEADER.into(), value }], Bytes::new())
        };
        let field = Carrier::new(Some("audit"));
        check(&field, &json("no json"), expect!["none"]);
        check(&field, &json(r#"{"other":1}"#), expect!["none"]);
        check(&Carrier::Header, &json(r#"{"audit":{"sequence":1}}"#), expect!["none"]);
        check(
            &field,
            &json(r#"{"audit":{"sequence":-1}}"#),
            expect!["sequence is -1: a whole number from 0 on is wanted"],
        );
        check(
            &field,
            &json(r#"{"audit":{"sequence":1,"time":"noon"}}"#),
            expect![[r#"time is "noon": milliseconds since 1970 are wanted"#]],
        );
        check(
            &Carrier::Header,
            &header("{"),
            expect!["header ottla-audit is no JSON: EOF while parsing an object at line 1 column 1"],
        );
    }
}
