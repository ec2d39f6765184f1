//! Where a record of the near-real-time line comes from, as its last two headers say.
//!
//! `ottla.source` is `TOPIC:PARTITION:OFFSET` and `ottla.line` the line that wrote it, so that a topic may take several lines, and
//! lines may be chained: each looks at the last headers of these names alone.

use bytes::Bytes;
use client::Header;
use wire::{Offset, PartitionId, Str, TopicPartition};

use crate::key::LineName;

/// The header with the record's place in the input: `TOPIC:PARTITION:OFFSET`.
pub const SOURCE_HEADER: &str = "ottla.source";
/// The header with the name of the line that wrote it.
pub const LINE_HEADER: &str = "ottla.line";

/// Puts the origin behind a record's own headers.
pub(crate) fn stamp(headers: &mut Vec<Header>, line: &Bytes, partition: &TopicPartition, offset: Offset) {
    let source = format!("{}:{}:{offset}", partition.topic, partition.partition);
    headers.push(Header { key: Str::from(SOURCE_HEADER), value: Some(source.into()) });
    headers.push(Header { key: Str::from(LINE_HEADER), value: Some(line.clone()) });
}

/// The partition and offset that a record of this line was made from, and its own headers.
pub(crate) fn of<'a>(
    headers: &'a [Header],
    line: &LineName,
) -> Option<(TopicPartition, Offset, &'a [Header])> {
    let [own @ .., source, by] = headers else { return None };
    if &*source.key != SOURCE_HEADER || &*by.key != LINE_HEADER {
        return None;
    }
    if by.value.as_deref() != Some(line.as_str().as_bytes()) {
        return None;
    }
    let source = std::str::from_utf8(source.value.as_deref()?).ok()?;
    let (rest, offset) = source.rsplit_once(':')?;
    let (topic, partition) = rest.rsplit_once(':')?;
    let partition = TopicPartition::new(Str::copy_from(topic), PartitionId(partition.parse().ok()?));
    Some((partition, Offset(offset.parse().ok()?), own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stamped_is_read_and_nothing_else() {
        let line: LineName = "a.nearline".parse().unwrap();
        let partition = TopicPartition::new(Str::from("orders.eu"), PartitionId(3));
        let own = Header { key: Str::from("k"), value: None };
        let mut headers = vec![own.clone()];
        assert_eq!(of(&headers, &line), None);
        stamp(&mut headers, &Bytes::from("b.nearline"), &TopicPartition::new("x", PartitionId(0)), Offset(1));
        assert_eq!(of(&headers, &line), None);
        stamp(&mut headers, &Bytes::from("a.nearline"), &partition, Offset(42));
        assert_eq!(headers[3].value.as_deref(), Some(&b"orders.eu:3:42"[..]));
        let (of_partition, offset, before) = of(&headers, &line).unwrap();
        assert_eq!((of_partition, offset, before.len()), (partition, Offset(42), 3));
        headers[3].value = Some("orders.eu:3".into());
        assert_eq!(of(&headers, &line), None);
    }
}
