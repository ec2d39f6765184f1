//! What was removed from a table for its age, kept beside it: `_sink/LINE/expired-VERSION.json`.
//!
//! It is durable before anything is removed, part by part: so many rows of this range, in this directory. A part counts as gone only if no
//! file has rows of its range in its directory, so that what was written down and not removed changes nothing. Ranges that are gone whole
//! become one with their neighbours. Versions come one behind the other, as the positions beside a table do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wire::{Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::file_store;
use crate::files::make_dirs;
use crate::footer::{Part, Told};
use crate::key::{Key, LineName, Range};
use crate::staging::unless_missing;
use crate::table::Table;

const FORM: i64 = 1;

/// How often a change is tried that others come before.
const TRIES_MAX: usize = 10;

/// A partition, by its topic's id as well.
type Of = (TopicPartition, Uuid);

/// All that was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expired(BTreeMap<Of, Gone>);

/// What was removed of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Gone {
    /// Ranges that are gone whole, and how many rows they had, by their start.
    whole: BTreeMap<Offset, (Offset, u64)>,
    /// Others.
    parts: BTreeMap<(Range, PathBuf), Part>,
    /// The latest directory.
    up_to: PathBuf,
}

/// A range and a directory in which files have rows of it.
pub(crate) type There = BTreeSet<(Range, PathBuf)>;

/// Where there are rows of which range.
pub(crate) fn there(files: &[Told<'_>]) -> There {
    let parts =
        files.iter().flat_map(|told| told.parts.iter().map(|part| (part.range, told.file.directory.clone())));
    parts.collect()
}

fn of(key: &Key) -> Of {
    (key.partition.clone(), key.topic_id)
}

impl Expired {
    /// What is gone of a partition, given what is there of it.
    pub(crate) fn gone(&self, key: &Key, there: &There) -> Vec<Part> {
        let Some(gone) = self.0.get(&of(key)) else { return Vec::new() };
        let whole = gone.whole.iter().map(|(&start, &(end, rows))| Part {
            range: Range::new(start, end),
            epoch: 0,
            files: Some(1),
            range_rows: Some(rows),
            rows,
            letters: 0,
        });
        let parts = gone.parts.iter().filter(|(at, _)| !there.contains(*at)).map(|(_, part)| *part);
        whole.chain(parts).collect()
    }

    /// All ranges of a partition of which something was written down as gone.
    pub(crate) fn ranges(&self, key: &Key) -> Vec<Range> {
        let Some(gone) = self.0.get(&of(key)) else { return Vec::new() };
        let whole = gone.whole.iter().map(|(&start, &(end, _))| Range::new(start, end));
        whole.chain(gone.parts.keys().map(|(range, _)| *range)).collect()
    }

    /// The latest directory of which something is gone.
    pub(crate) fn up_to(&self, key: &Key) -> Option<PathBuf> {
        self.0.get(&of(key)).map(|gone| gone.up_to.clone())
    }

    pub(crate) fn add(&mut self, key: &Key, directory: &Path, part: Part) {
        let gone = self.0.entry(of(key)).or_default();
        gone.parts.insert((part.range, directory.to_owned()), part);
        gone.up_to = gone.up_to.clone().max(directory.to_owned());
    }

    /// The directories of which something may be gone.
    pub(crate) fn directories(&self, key: &Key) -> BTreeSet<&Path> {
        let gone = self.0.get(&of(key)).into_iter();
        gone.flat_map(|gone| gone.parts.keys().map(|(_, directory)| &**directory)).collect()
    }

    /// Ranges of which every file was gone already become one with their neighbours, given what was there of it then.
    pub(crate) fn fold(&mut self, key: &Key, already: &Self, there: &There) {
        let (Some(gone), Some(already)) = (self.0.get_mut(&of(key)), already.0.get(&of(key))) else { return };
        let mut files: BTreeMap<Range, (u64, u64)> = BTreeMap::new();
        let is_gone = |at: &(Range, PathBuf)| already.parts.contains_key(at) && !there.contains(at);
        for ((range, _), part) in gone.parts.iter().filter(|(at, _)| is_gone(at)) {
            let (files, rows) = files.entry(*range).or_default();
            (*files, *rows) = (*files + 1, rows.saturating_add(part.rows));
        }
        let is_whole =
            |part: &Part| files.get(&part.range).is_some_and(|(files, _)| part.files == Some(*files));
        let whole: BTreeSet<Range> =
            gone.parts.values().filter(|part| is_whole(part)).map(|part| part.range).collect();
        gone.parts.retain(|(range, _), _| !whole.contains(range));
        for range in whole {
            let (_, rows) = files[&range];
            gone.whole.insert(range.start, (range.end, rows));
        }
        let mut folded: Vec<(Offset, (Offset, u64))> = Vec::new();
        for (&start, &(end, rows)) in &gone.whole {
            match folded.last_mut() {
                Some((_, (last, all))) if *last == start => (*last, *all) = (end, all.saturating_add(rows)),
                _ => folded.push((start, (end, rows))),
            }
        }
        gone.whole = folded.into_iter().collect();
    }

    fn encode(&self) -> Value {
        let partitions = self.0.iter().map(|((partition, topic_id), gone)| {
            let whole = gone
                .whole
                .iter()
                .map(|(start, (end, rows))| json!({ "start": start.0, "end": end.0, "rows": rows }));
            let parts = gone.parts.iter().map(|((_, directory), part)| {
                json!({ "directory": directory.to_string_lossy(), "part": part.encode() })
            });
            json!({
                "topic": partition.topic.to_string(),
                "partition": partition.partition.0,
                "topic_id": topic_id.to_string(),
                "up_to": gone.up_to.to_string_lossy(),
                "whole": whole.collect::<Vec<_>>(),
                "parts": parts.collect::<Vec<_>>(),
            })
        });
        json!({ "form": FORM, "partitions": partitions.collect::<Vec<_>>() })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if value["form"].as_i64() != Some(FORM) {
            return Err(format!(
                "it has form {}, and this version of ottla reads form {FORM}",
                value["form"]
            ));
        }
        let partitions = value["partitions"].as_array().ok_or("it lists no partitions")?;
        let partitions = partitions.iter().map(|value| partition(value).ok_or("a partition in it is none"));
        Ok(Self(partitions.collect::<Result<_, _>>()?))
    }
}

fn partition(value: &Value) -> Option<(Of, Gone)> {
    let number = i32::try_from(value["partition"].as_i64()?).ok()?;
    let partition = TopicPartition::new(Str::copy_from(value["topic"].as_str()?), PartitionId(number));
    let topic_id = value["topic_id"].as_str()?.parse().ok()?;
    let whole = value["whole"].as_array()?.iter().map(|value| {
        let (start, end) = (value["start"].as_i64()?, value["end"].as_i64()?);
        (start < end).then_some((Offset(start), (Offset(end), value["rows"].as_u64()?)))
    });
    let parts = value["parts"].as_array()?.iter().map(|value| {
        let part = Part::decode(&value["part"])?;
        Some(((part.range, PathBuf::from(value["directory"].as_str()?)), part))
    });
    let up_to = PathBuf::from(value["up_to"].as_str()?);
    Some((
        (partition, topic_id),
        Gone { whole: whole.collect::<Option<_>>()?, parts: parts.collect::<Option<_>>()?, up_to },
    ))
}

fn place(line: &LineName) -> PathBuf {
    Path::new(file_store::DIRECTORY).join(line.as_str())
}

fn name(version: u64) -> String {
    format!("expired-{version}.json")
}

fn versions(table: &Table, line: &LineName) -> io::Result<Vec<u64>> {
    let entries = match table.files.list(&table.root.join(place(line))) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let number = |name: &str| name.strip_prefix("expired-")?.strip_suffix(".json")?.parse().ok();
    let mut versions: Vec<u64> = entries.iter().filter_map(|entry| number(&entry.name)).collect();
    versions.sort_unstable();
    Ok(versions)
}

fn newest(table: &Table, line: &LineName) -> io::Result<(u64, Expired)> {
    for _ in 0..TRIES_MAX {
        let Some(version) = versions(table, line)?.pop() else { return Ok((0, Expired::default())) };
        let path = table.root.join(place(line)).join(name(version));
        match table.files.read(&path) {
            Ok(bytes) => {
                let expired = Expired::decode(&bytes).map_err(|problem| {
                    let problem =
                        format!("{} cannot be read: {problem}; it is left as it is", path.display());
                    io::Error::new(ErrorKind::InvalidData, problem)
                })?;
                return Ok((version, expired));
            }
            // It is two behind by now.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("what is expired changes all the time"))
}

/// What was removed. To be read behind the listing that it is compared with.
pub(crate) fn read(table: &Table, line: &LineName) -> io::Result<Expired> {
    newest(table, line).map(|(_, expired)| expired)
}

/// Changes what is written down; durable when this returns.
pub(crate) fn change(
    table: &Table,
    line: &LineName,
    token: u64,
    change: impl Fn(&mut Expired),
) -> io::Result<()> {
    let files = &*table.files;
    make_dirs(files, &table.root, &place(line))?;
    let dir = table.root.join(place(line));
    let written = dir.join(format!("expired-{token:016x}.tmp"));
    for _ in 0..TRIES_MAX {
        let (version, mut expired) = newest(table, line)?;
        change(&mut expired);
        // Of a try before this one.
        unless_missing(files.remove(&written))?;
        let mut file = files.create(&written)?;
        file.write_all(expired.encode().to_string().as_bytes())?;
        file.sync()?;
        let next = version + 1;
        match files.link(&written, &dir.join(name(next))) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            linked => linked?,
        }
        files.sync_dir(&dir)?;
        unless_missing(files.remove(&written))?;
        let versions = versions(table, line)?;
        // Whoever was overtaken so far that its place was free again has changed what nobody reads.
        if versions.last().is_some_and(|&last| last > next) {
            continue;
        }
        for version in versions.into_iter().filter(|version| version + 1 < next) {
            unless_missing(files.remove(&dir.join(name(version))))?;
        }
        return Ok(());
    }
    Err(io::Error::other("what is expired changes all the time"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wire::{Offset, PartitionId, TopicPartition, Uuid};

    use super::{Expired, There};
    use crate::footer::Part;
    use crate::key::{Key, Range};

    fn key() -> Key {
        Key {
            line: "orders.offline".parse().unwrap(),
            cluster_id: "c".to_owned(),
            partition: TopicPartition::new("orders", PartitionId(0)),
            topic_id: Uuid([7; 16]),
        }
    }

    fn part(start: i64, files: u64, rows: u64) -> Part {
        let range = Range::new(Offset(start), Offset(start + 10));
        Part { range, epoch: 1, files: Some(files), range_rows: Some(10), rows, letters: 0 }
    }

    fn told(expired: &Expired, there: &There) -> Vec<String> {
        let gone = expired.gone(&key(), there).into_iter();
        gone.map(|part| format!("{} rows of {}", part.rows, part.range)).collect()
    }

    #[test]
    fn what_is_written_down_and_still_there_is_not_gone() {
        let mut expired = Expired::default();
        let (early, late) = (Path::new("dt=2023-11-14"), Path::new("dt=2023-11-15"));
        expired.add(&key(), early, part(0, 2, 4));
        expired.add(&key(), late, part(0, 2, 6));
        let there = There::from([(part(0, 2, 6).range, late.to_owned())]);
        assert_eq!(told(&expired, &there), ["4 rows of [0, 10)"]);
        expired.fold(&key(), &expired.clone(), &there);
        assert_eq!(told(&expired, &there), ["4 rows of [0, 10)"]);
        assert_eq!(expired.up_to(&key()).as_deref(), Some(late));
    }

    #[test]
    fn ranges_that_are_gone_whole_become_one() {
        let mut expired = Expired::default();
        for (start, files, rows) in [(0, 1, 10), (10, 1, 8), (30, 1, 5), (20, 2, 3)] {
            expired.add(&key(), Path::new("dt=2023-11-14"), part(start, files, rows));
        }
        expired.fold(&key(), &expired.clone(), &There::new());
        assert_eq!(
            told(&expired, &There::new()),
            ["18 rows of [0, 20)", "5 rows of [30, 40)", "3 rows of [20, 30)"]
        );
        expired.add(&key(), Path::new("dt=2023-11-15"), part(20, 2, 7));
        expired.fold(&key(), &expired.clone(), &There::new());
        assert_eq!(told(&expired, &There::new()), ["33 rows of [0, 40)"]);
        let read = Expired::decode(expired.encode().to_string().as_bytes()).unwrap();
        assert_eq!(read, expired);
    }
}
