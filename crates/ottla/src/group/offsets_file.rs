//! Offsets from a file, in the forms in which tools write them: what `ottla group describe` and `ottla group seek` print as JSON,
//! what `kafka-consumer-groups --export` prints (`topic,partition,offset`, or with the group before), and the columns that
//! `rpk group seek --to-file` reads. A line that says something else is an error that names it; nothing is skipped silently but
//! partitions for which nothing was committed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use wire::{Offset, PartitionId, TopicPartition};

/// Where an entry of JSON may have its offset, in the order in which they are looked for.
const OFFSET_FIELDS: [&str; 3] = ["to", "offset", "current_offset"];

/// The offsets that a file holds for a group.
pub(super) fn parse(text: &str, group: &str) -> Result<BTreeMap<TopicPartition, Offset>, String> {
    let entries = match text.trim_start().starts_with(['[', '{']) {
        true => from_json(text, group)?,
        false => from_lines(text, group)?,
    };
    let mut offsets = BTreeMap::new();
    for (partition, offset) in entries {
        if let Some(other) = offsets.insert(partition.clone(), offset) {
            return Err(format!("{partition} is named twice, with the offsets {other} and {offset}"));
        }
    }
    match offsets.is_empty() {
        true => Err(format!("it holds no offsets of group {group}")),
        false => Ok(offsets),
    }
}

type Entries = Vec<(TopicPartition, Offset)>;

fn from_lines(text: &str, group: &str) -> Result<Entries, String> {
    let mut entries = Entries::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<_> = match line.contains(',') {
            true => line.split(',').map(|field| field.trim().trim_matches('"')).collect(),
            false => line.split_whitespace().collect(),
        };
        let is_header = at == 0 && fields.iter().any(|field| field.eq_ignore_ascii_case("partition"));
        let problem = || format!("line {}: {line:?} is not TOPIC,PARTITION,OFFSET", at + 1);
        let (topic, partition, offset) = match fields[..] {
            _ if is_header => continue,
            [topic, partition, offset] => (topic, partition, offset),
            [of, topic, partition, offset] if of == group => (topic, partition, offset),
            [_other, _, partition, offset] if number(partition).and(number(offset)).is_some() => continue,
            _ => return Err(problem()),
        };
        let entry = entry(topic, number(partition), number(offset)).ok_or_else(problem)?;
        entries.push(entry);
    }
    Ok(entries)
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn entry(topic: &str, partition: Option<i64>, offset: Option<i64>) -> Option<(TopicPartition, Offset)> {
    let partition = i32::try_from(partition?).ok().filter(|partition| *partition >= 0)?;
    let offset = offset.filter(|offset| *offset >= 0)?;
    (!topic.is_empty())
        .then(|| (TopicPartition::new(topic.to_owned(), PartitionId(partition)), Offset(offset)))
}

fn from_json(text: &str, group: &str) -> Result<Entries, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let items = match value {
        Value::Array(items) => items,
        item => vec![item],
    };
    let mut entries = Entries::new();
    for item in &items {
        let problem = || format!("{item} is neither a group with partitions nor a partition with an offset");
        let object = item.as_object().ok_or_else(problem)?;
        match object.get("partitions") {
            Some(partitions) => {
                let of = object.get("group").and_then(Value::as_str);
                if items.len() == 1 || of == Some(group) {
                    for partition in partitions.as_array().ok_or_else(problem)? {
                        let partition = partition.as_object().ok_or_else(problem)?;
                        entries.extend(json_entry(partition)?);
                    }
                }
            }
            None => entries.extend(json_entry(object)?),
        }
    }
    Ok(entries)
}

fn json_entry(object: &Map<String, Value>) -> Result<Option<(TopicPartition, Offset)>, String> {
    let problem = || format!("{} names no topic, partition and offset", Value::Object(object.clone()));
    let offset = OFFSET_FIELDS.iter().find_map(|field| object.get(*field)).ok_or_else(problem)?;
    if offset.is_null() {
        // Nothing was committed for it.
        return Ok(None);
    }
    let topic = object.get("topic").and_then(Value::as_str).ok_or_else(problem)?;
    let partition = object.get("partition").and_then(Value::as_i64);
    entry(topic, partition, offset.as_i64()).map(Some).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::parse;

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&match parse(text, "readers") {
            Ok(offsets) => {
                let offsets = offsets.iter().map(|(partition, offset)| format!("{partition}={offset}"));
                offsets.collect::<Vec<_>>().join(" ")
            }
            Err(problem) => problem,
        });
    }

    #[test]
    fn the_forms_that_tools_write_are_read() {
        check("orders,0,42\norders,1,0\n", expect!["orders-0=42 orders-1=0"]);
        check("\"readers\",\"orders\",0,42\n\"others\",\"orders\",0,7\n", expect!["orders-0=42"]);
        check("TOPIC PARTITION OFFSET\n# a note\norders 0 42\n\n", expect!["orders-0=42"]);
        check(
            r#"[{"group":"others","partitions":[{"topic":"orders","partition":0,"current_offset":7}]},
                {"group":"readers","partitions":[{"topic":"orders","partition":0,"current_offset":42},
                                                 {"topic":"orders","partition":1,"current_offset":null}]}]"#,
            expect!["orders-0=42"],
        );
        check(
            r#"[{"group":"copied","partitions":[{"topic":"orders","partition":0,"current_offset":42}]}]"#,
            expect!["orders-0=42"],
        );
        check(r#"[{"topic":"orders","partition":0,"from":1,"to":42}]"#, expect!["orders-0=42"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        check("orders,0,42\norders,1\n", expect![[r#"line 2: "orders,1" is not TOPIC,PARTITION,OFFSET"#]]);
        check("orders,0,-1\n", expect![[r#"line 1: "orders,0,-1" is not TOPIC,PARTITION,OFFSET"#]]);
        check(
            "orders,4294967296,1\n",
            expect![[r#"line 1: "orders,4294967296,1" is not TOPIC,PARTITION,OFFSET"#]],
        );
        check("orders,0,1\norders,0,2\n", expect!["orders-0 is named twice, with the offsets 1 and 2"]);
        check("others,orders,0,1\n", expect!["it holds no offsets of group readers"]);
        check("", expect!["it holds no offsets of group readers"]);
        check("[{]", expect!["it is not JSON: key must be a string at line 1 column 3"]);
        check(
            r#"[{"topic":"orders","partition":0}]"#,
            expect![[r#"{"partition":0,"topic":"orders"} names no topic, partition and offset"#]],
        );
    }
}
