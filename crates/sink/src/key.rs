//! What a position is a position of, and which part of it is meant.
//!
//! A topic that was deleted and created again is another one, and so is one of another cluster: both ids are a part of the key.
//! Names of files are made and read here and nowhere else, so that the same range has the same names for ever.

use std::fmt;
use std::str::FromStr;

use wire::{Offset, PartitionId, Str, TopicPartition, Uuid};

/// Under which name positions are kept: letters, digits, `.`, `_` and `-`, as it becomes a part of paths and keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineName(String);

impl LineName {
    /// As long as a topic's name may be.
    pub const LEN_MAX: usize = 249;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for LineName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_name = !text.is_empty()
            && text.len() <= Self::LEN_MAX
            && !text.starts_with('.')
            && text.chars().all(is_allowed);
        match is_name {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} is no name: 1 to {} letters, digits, '.', '_' and '-' are, not beginning with '.'",
                Self::LEN_MAX
            )),
        }
    }
}

/// One partition in one line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The line.
    pub line: LineName,
    /// The cluster, as its brokers say.
    pub cluster_id: String,
    /// The partition, by its topic's name.
    pub partition: TopicPartition,
    /// The topic itself.
    pub topic_id: Uuid,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of line {}", self.partition, self.line)
    }
}

/// Positions from `start` up to, and without, `end`. Not every one of them is a record: transactions end with markers, and
/// compaction leaves holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first position.
    pub start: Offset,
    /// Behind the last.
    pub end: Offset,
}

impl Range {
    /// A range; empty ones are none.
    pub fn new(start: Offset, end: Offset) -> Self {
        assert!(start < end, "a range holds a position");
        Self { start, end }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// A file of a table, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// Of which partition.
    pub partition: TopicPartition,
    /// Which positions.
    pub range: Range,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition: TopicPartition { topic, partition }, range: Range { start, end } } = self;
        write!(f, "{topic}-{partition}-{start}-{end}.parquet")
    }
}

impl FileName {
    /// What a name says, if it is one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".parquet")?.rsplitn(4, '-');
        let (end, start, partition, topic) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (start, end) = (Offset(start.parse().ok()?), Offset(end.parse().ok()?));
        let partition = PartitionId(partition.parse().ok()?);
        if topic.is_empty() || start.0 < 0 || start >= end || partition.0 < 0 {
            return None;
        }
        let parsed = Self {
            partition: TopicPartition::new(Str::copy_from(topic), partition),
            range: Range { start, end },
        };
        // Another spelling of the same numbers is not a name that was given here.
        (parsed.to_string() == name).then_some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::FileName;

    #[test]
    fn a_file_name_says_what_is_in_it_whatever_the_topic_is_called() {
        let told = |name: &str| match FileName::parse(name) {
            Some(FileName { partition, range }) => {
                format!("{}:{} {range}", partition.topic, partition.partition)
            }
            None => "not ours".to_owned(),
        };
        assert_eq!(told("orders-3-0-17.parquet"), "orders:3 [0, 17)");
        assert_eq!(told("a-1-2-3-4-5.parquet"), "a-1-2:3 [4, 5)");
        for foreign in [
            "orders.parquet",
            "orders-3-17-17.parquet",
            "orders-3-00-17.parquet",
            "-3-0-1.parquet",
            "orders-3-0-17.csv",
        ] {
            assert_eq!(told(foreign), "not ours", "{foreign}");
        }
    }
}
