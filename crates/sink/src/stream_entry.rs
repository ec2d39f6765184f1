//! A record as an entry of a Redis stream, and back.
//!
//! The id is `OFFSET-1`: Redis refuses one that is not above the last, and 0-0 always, so that a repeat is refused by Redis itself, and
//! `XREAD … OFFSET` begins with the record of that offset. A field that is not there is null, and one that is empty is empty. Headers, of
//! which one name may come twice, and whose values are bytes, are JSON in one field: most clients make a map of an entry.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{ConsumedRecord, Header};
use wire::{Millis, Offset, Str};

/// An id of a stream's. The one that nothing is before is [`Id::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    /// What Redis takes for milliseconds.
    first: u64,
    second: u64,
}

impl Id {
    /// The last one of a stream that never had an entry.
    pub(crate) const NONE: Self = Self { first: 0, second: 0 };

    /// Of the record at this offset.
    pub(crate) fn of(offset: Offset) -> Self {
        Self { first: u64::try_from(offset.0).expect("an offset is not below 0"), second: 1 }
    }

    /// The offset, if it is the id of a record.
    pub(crate) fn offset(self) -> Option<Offset> {
        (self.second == 1).then_some(self.first).and_then(|first| i64::try_from(first).ok()).map(Offset)
    }

    /// The next one that there may be.
    pub(crate) fn next(self) -> Option<Self> {
        match self.second.checked_add(1) {
            Some(second) => Some(Self { second, ..self }),
            None => Some(Self { first: self.first.checked_add(1)?, second: 0 }),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.second)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, second) = text.split_once('-').ok_or(())?;
        let id = Self { first: first.parse().map_err(drop)?, second: second.parse().map_err(drop)? };
        // Scripts compare texts.
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

mod names {
    pub(super) const TIMESTAMP: &str = "timestamp";
    pub(super) const KEY: &str = "key";
    pub(super) const VALUE: &str = "value";
    pub(super) const HEADERS: &str = "headers";
}

/// The fields of a record's entry.
pub(crate) fn fields(record: &ConsumedRecord) -> Vec<(&'static str, Bytes)> {
    // An entry has one field at least.
    let mut fields = vec![(names::TIMESTAMP, Bytes::from(record.timestamp.0.to_string()))];
    fields.extend(record.key.clone().map(|key| (names::KEY, key)));
    fields.extend(record.value.clone().map(|value| (names::VALUE, value)));
    if !record.headers.is_empty() {
        let said = |header: &Header| {
            let value = header.value.as_deref().map(|value| STANDARD.encode(value));
            (header.key.to_string(), value)
        };
        let said: Vec<(String, Option<String>)> = record.headers.iter().map(said).collect();
        let json = serde_json::to_vec(&said).expect("texts are written");
        fields.push((names::HEADERS, Bytes::from(json)));
    }
    fields
}

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) timestamp: Millis,
    pub(crate) headers: Vec<Header>,
}

/// What the fields of an entry, each with its value behind it, say; nothing if they are none of the line's.
pub(crate) fn read(fields: Vec<Vec<u8>>) -> Option<Said> {
    let (mut timestamp, mut key, mut value, mut headers) = (None, None, None, None);
    let mut left = fields.into_iter();
    while let Some(name) = left.next() {
        let place = match std::str::from_utf8(&name).ok()? {
            names::TIMESTAMP => &mut timestamp,
            names::KEY => &mut key,
            names::VALUE => &mut value,
            names::HEADERS => &mut headers,
            _ => return None,
        };
        if place.replace(Bytes::from(left.next()?)).is_some() {
            return None;
        }
    }
    let timestamp = std::str::from_utf8(&timestamp?).ok()?.parse().ok().map(Millis)?;
    let said: Vec<(String, Option<String>)> = match headers {
        None => Vec::new(),
        Some(json) => serde_json::from_slice(&json).ok()?,
    };
    let header = |(name, value): (String, Option<String>)| {
        let value = value.map(|value| STANDARD.decode(value)).transpose().ok()?;
        Some(Header { key: Str::copy_from(&name), value: value.map(Bytes::from) })
    };
    let headers = said.into_iter().map(header).collect::<Option<_>>()?;
    Some(Said { key, value, timestamp, headers })
}

#[cfg(test)]
mod tests {
    use client::TimestampType;
    use wire::compression::Compression;
    use wire::{LeaderEpoch, PartitionId, ProducerEpoch, ProducerId};

    use super::*;

    fn check(
        key: Option<&'static str>,
        value: Option<&'static str>,
        headers: &[(&str, Option<&'static str>)],
    ) -> String {
        let header = |(key, value): &(&str, Option<&'static str>)| Header {
            key: Str::copy_from(key),
            value: value.map(Bytes::from),
        };
        let record = ConsumedRecord {
            topic: "orders".into(),
            partition: PartitionId(0),
            offset: Offset(7),
            leader_epoch: LeaderEpoch(3),
            timestamp: Millis(-1),
            timestamp_type: TimestampType::CreateTime,
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers: headers.iter().map(header).collect(),
            compression: Compression::None,
            is_transactional: false,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
        };
        let fields = fields(&record);
        let flat = fields.iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.to_vec()]);
        let said = read(flat.collect()).expect("it is the line's");
        let ConsumedRecord { key, value, headers, timestamp, .. } = record;
        assert_eq!(said, Said { key, value, timestamp, headers });
        let shown = |(name, value): &(&str, Bytes)| format!("{name}={}", String::from_utf8_lossy(value));
        fields.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn null_is_not_empty_and_headers_may_repeat() {
        assert_eq!(check(None, None, &[]), "timestamp=-1");
        assert_eq!(check(Some(""), Some(""), &[]), "timestamp=-1 key= value=");
        assert_eq!(
            check(None, Some("v"), &[("b", Some("x")), ("a", None), ("b", Some(""))]),
            r#"timestamp=-1 value=v headers=[["b","eA=="],["a",null],["b",""]]"#
        );
    }

    #[test]
    fn what_the_line_does_not_write_is_not_read() {
        let flat = |fields: &[&str]| read(fields.iter().map(|field| field.as_bytes().to_vec()).collect());
        for foreign in [
            &["value", "v"][..],
            &["timestamp", "x"],
            &["timestamp", "1", "value"],
            &["timestamp", "1", "value", "a", "value", "b"],
            &["timestamp", "1", "foreign", "a"],
            &["timestamp", "1", "headers", "[1]"],
            &["timestamp", "1", "headers", r#"[["a","!"]]"#],
        ] {
            assert_eq!(flat(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn an_id_is_above_the_one_before_and_says_its_offset() {
        assert_eq!(Id::of(Offset(0)).to_string(), "0-1");
        assert!(Id::NONE < Id::of(Offset(0)) && Id::of(Offset(9)) < Id::of(Offset(10)));
        assert_eq!("4711-1".parse::<Id>().ok().and_then(Id::offset), Some(Offset(4711)));
        assert_eq!("4711-0".parse::<Id>().ok().and_then(Id::offset), None);
        for text in ["4711", "-1", "1-01", "1-1-1", "18446744073709551616-1"] {
            assert_eq!(text.parse::<Id>(), Err(()), "{text}");
        }
        let last = Id { first: u64::MAX, second: u64::MAX };
        assert_eq!((Id::NONE.next().unwrap().to_string(), last.next()), ("0-1".to_owned(), None));
    }
}
