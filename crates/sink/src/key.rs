//! What a position is a position of, and which part of it is meant.
//!
//! A topic that was deleted and created again is another one, and so is one of another cluster: both ids are a part of the key.
//! Names of files are made and read here and nowhere else, so that the same range has the same names for ever.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz;
use wire::{Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

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

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How a table is laid out in directories, by the records' timestamps in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// `dt=YYYY-MM-DD/hour=HH`.
    #[default]
    Hour,
    /// `dt=YYYY-MM-DD`.
    Day,
    /// All in the table's own directory.
    Flat,
}

/// Where Hive puts what has no value to go by.
const UNKNOWN: &str = "__HIVE_DEFAULT_PARTITION__";

impl Layout {
    /// The names there are.
    pub const NAMES: [&str; 3] = ["hour", "day", "none"];

    /// The columns that readers of Hive's layout make of the directories' names.
    pub(crate) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Hour => &["dt", "hour"],
            Self::Day => &["dt"],
            Self::Flat => &[],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Flat => "none",
        }
    }

    /// Directories deep.
    pub(crate) fn depth(self) -> usize {
        match self {
            Self::Hour => 2,
            Self::Day => 1,
            Self::Flat => 0,
        }
    }

    /// The layout of so many directories.
    pub(crate) fn of_depth(depth: usize) -> Option<Self> {
        [Self::Hour, Self::Day, Self::Flat].into_iter().find(|layout| layout.depth() == depth)
    }

    /// The directory of a record within its table. A record without a timestamp has a directory too.
    pub fn directory(self, timestamp: Millis) -> String {
        let time = known(timestamp).map(|time| tz::Offset::UTC.to_datetime(time));
        match (self, time) {
            (Self::Flat, _) => String::new(),
            (Self::Day, Some(time)) => format!("dt={}", time.date()),
            (Self::Day, None) => format!("dt={UNKNOWN}"),
            (Self::Hour, Some(time)) => format!("dt={}/hour={:02}", time.date(), time.hour()),
            (Self::Hour, None) => format!("dt={UNKNOWN}/hour={UNKNOWN}"),
        }
    }

    /// Where the time ends that a directory has the records of; none for a directory without a time, and for no directory of a
    /// layout's.
    pub(crate) fn end(directory: &Path) -> Option<Millis> {
        let mut parts = directory.iter().map(|part| part.to_str());
        let date = parts.next()??.strip_prefix("dt=")?.parse::<Date>().ok()?;
        let begin = tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_millisecond();
        let end = match parts.next() {
            None => begin + DAY_MS,
            Some(hour) => {
                let hour = hour?.strip_prefix("hour=")?.parse::<u8>().ok().filter(|&hour| hour < 24)?;
                begin + (i64::from(hour) + 1) * HOUR_MS
            }
        };
        let layout = match directory.components().count() {
            1 => Self::Day,
            2 => Self::Hour,
            _ => return None,
        };
        // Another spelling of the same time is not a name that was given here.
        (Path::new(&layout.directory(Millis(end - 1))) == directory).then_some(Millis(end))
    }

    /// A number that is the same for records of one directory, cheaper to have than its name.
    pub(crate) fn bucket(self, timestamp: Millis) -> i64 {
        match (self, known(timestamp)) {
            (Self::Flat, _) => 0,
            // One directory has them all, so one file does.
            (_, None) => -1,
            (Self::Day, Some(_)) => timestamp.0 / DAY_MS,
            (Self::Hour, Some(_)) => timestamp.0 / HOUR_MS,
        }
    }
}

/// A timestamp, if it is one and has a date.
fn known(timestamp: Millis) -> Option<Timestamp> {
    let time = Some(timestamp.0).filter(|&time| time >= 0)?;
    Timestamp::from_millisecond(time).ok()
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            "none" => Ok(Self::Flat),
            _ => Err(format!("{text:?} is none of {}", Self::NAMES.join(", "))),
        }
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
    use std::path::Path;

    use wire::Millis;

    use super::{FileName, Layout};

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

    #[test]
    fn a_record_without_a_time_has_a_directory_too() {
        let at = Millis(1_700_000_000_000);
        assert_eq!(Layout::Hour.directory(at), "dt=2023-11-14/hour=22");
        assert_eq!(Layout::Day.directory(at), "dt=2023-11-14");
        assert_eq!(Layout::Flat.directory(at), "");
        let unknown = "dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__";
        assert_eq!(Layout::Hour.directory(Millis(-1)), unknown);
        assert_eq!(Layout::Hour.directory(Millis(i64::MAX)), unknown);
    }

    #[test]
    fn a_directory_says_when_its_time_is_over() {
        let end = |directory: &str| Layout::end(Path::new(directory)).map(|end| end.0);
        assert_eq!(end("dt=2023-11-14/hour=22"), Some(1_700_002_800_000));
        assert_eq!(end("dt=2023-11-14"), Some(1_700_006_400_000));
        for other in [
            "",
            "dt=2023-11-14/hour=24",
            "dt=2023-11-14/hour=2",
            "dt=2023-11-14/hour=22/x",
            "dt=2023-02-30",
            "hour=22",
        ] {
            assert_eq!(end(other), None, "{other}");
        }
        let unknown = Layout::Hour.directory(Millis(-1));
        assert_eq!(end(&unknown), None);
    }

    #[test]
    fn records_of_one_directory_are_in_one_file() {
        const HOUR: i64 = 3_600_000;
        // The last hour with a date, and microseconds where milliseconds were meant.
        let end = 253_402_207_200_000;
        let micros = 1_700_000_000_000_000;
        let times = [
            i64::MIN,
            -HOUR,
            -1,
            0,
            HOUR - 1,
            HOUR,
            end - HOUR,
            end - 1,
            end,
            end + HOUR,
            micros,
            micros + HOUR,
            i64::MAX,
        ];
        for layout in [Layout::Hour, Layout::Day, Layout::Flat] {
            for (a, b) in times.iter().flat_map(|&a| times.map(|b| (Millis(a), Millis(b)))) {
                let is_one_file = layout.bucket(a) == layout.bucket(b);
                assert_eq!(
                    is_one_file,
                    layout.directory(a) == layout.directory(b),
                    "{layout:?}: {a:?} and {b:?}"
                );
            }
        }
    }
}
