//! Positions in files beside the table: `_sink/LINE/TOPIC-PARTITION/VERSION.json`, one version after the other.
//!
//! The highest version is what is stored. A change writes the next one under a name of its own, makes it durable, and links it to
//! its place, which fails if somebody else was there first: compare-and-set without a lock that a stopped process could hold. Versions
//! that are two behind are removed. Who was overtaken so far that its place is free again sees the higher one when it looks
//! afterwards, and nobody else ever looks at the lower.
//!
//! In an object store a version is put if none of its name is there, which is the same in one step.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::BoxFuture;
use offsets::{Fence, Position};
use serde_json::{Value, json};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::bucket::Put;
use crate::files::{Files, make_dirs};
use crate::key::{Key, LineName, Range};
use crate::store::{
    Acquire, Change, Entry, Frozen, Held, PositionStore, Rebuild, StoreError, Stored, acquired, committed,
    frozen, rebuilt,
};

/// The directory within a table.
pub(crate) const DIRECTORY: &str = "_sink";

/// How often a change is tried that others come before.
const TRIES_MAX: usize = 10;

/// The version of the files' form.
const FORM: i64 = 1;

/// A store beside a table.
pub struct FileStore {
    files: Arc<dyn Files>,
    table: PathBuf,
}

impl FileStore {
    /// In the table's directory, which must be there.
    pub fn new(files: Arc<dyn Files>, table: impl Into<PathBuf>) -> Self {
        Self { files, table: table.into() }
    }

    fn line(line: &LineName) -> PathBuf {
        Path::new(DIRECTORY).join(line.as_str())
    }

    fn place(key: &Key) -> PathBuf {
        Self::line(&key.line).join(key.partition.to_string())
    }

    /// The highest version in a directory, and what it holds.
    fn newest(&self, dir: &Path) -> Result<Option<(u64, Entry)>, StoreError> {
        for _ in 0..TRIES_MAX {
            let Some(version) = self.versions(dir)?.pop() else { return Ok(None) };
            let path = dir.join(name(version));
            match self.files.read(&path) {
                Ok(bytes) => {
                    let entry = decode(&bytes);
                    let entry = entry.map_err(|problem| StoreError::Garbage {
                        place: path.display().to_string(),
                        problem,
                    })?;
                    return Ok(Some((version, entry)));
                }
                // It is two behind by now.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(failed("read", &path, source)),
            }
        }
        Err(failed("read", dir, io::Error::other("it changes all the time")))
    }

    fn versions(&self, dir: &Path) -> Result<Vec<u64>, StoreError> {
        let entries = match self.files.list(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(|source| failed("list", dir, source))?,
        };
        let mut versions: Vec<u64> = entries.iter().filter_map(|entry| version(&entry.name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Puts what `decide` makes of the newest version behind it.
    fn change(
        &self,
        key: &Key,
        token: i64,
        decide: impl Fn(Option<&Entry>) -> Result<Option<Entry>, StoreError>,
    ) -> Result<Option<Entry>, StoreError> {
        let dir = self.table.join(Self::place(key));
        let written = dir.join(format!("{token:016x}.tmp"));
        for _ in 0..TRIES_MAX {
            let newest = self.newest(&dir)?;
            let Some(entry) = decide(newest.as_ref().map(|(_, entry)| entry))? else { return Ok(None) };
            let next = newest.map_or(1, |(version, _)| version + 1);
            let place = dir.join(name(next));
            if let Some(bucket) = self.files.bucket() {
                match bucket.put(&place, encode(key, &entry), Put::New) {
                    // By another, or by this very put: then what is decided next is that it is done.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    put => put.map_err(|source| failed("write", &place, source))?,
                }
            } else {
                // Of a try before this one.
                self.remove(&written)?;
                let write = || {
                    let mut file = self.files.create(&written)?;
                    file.write_all(&encode(key, &entry))?;
                    file.sync()
                };
                write().map_err(|source| failed("write", &written, source))?;
                match self.files.link(&written, &place) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    // Whoever took hold meanwhile has taken what it found half written away.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(source) => return Err(failed("write", &place, source)),
                }
                self.files.sync_dir(&dir).map_err(|source| failed("sync", &dir, source))?;
                self.remove(&written)?;
            }
            let versions = self.versions(&dir)?;
            if versions.last().is_some_and(|&last| last > next) {
                let newest = self.newest(&dir)?;
                match newest.is_some_and(|(_, newest)| newest.fence.number < entry.fence.number) {
                    // Nobody has seen it: those that came before knew nothing of this holder.
                    true => continue,
                    false => return Err(StoreError::Busy { key: Box::new(key.clone()) }),
                }
            }
            for version in versions.into_iter().filter(|version| version + 1 < next) {
                self.remove(&dir.join(name(version)))?;
            }
            return Ok(Some(entry));
        }
        Err(StoreError::Busy { key: Box::new(key.clone()) })
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.files.remove(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path, error)),
            _ => Ok(()),
        }
    }

    fn take(&self, acquire: &Acquire) -> Result<Held, StoreError> {
        let place = Self::place(&acquire.key);
        make_dirs(&*self.files, &self.table, &place)
            .map_err(|source| failed("make", &self.table.join(&place), source))?;
        // What earlier holders left half written goes, and nothing that somebody may have begun since.
        let dir = self.table.join(&place);
        let before = match self.files.list(&dir) {
            // An object store has no directory before there is something in it.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|source| failed("list", &dir, source))?,
        };
        let entry = self.change(&acquire.key, acquire.token, |found| acquired(found, acquire).map(Some))?;
        let entry = entry.expect("taking hold is a change");
        for left in before {
            if left.name.ends_with(".tmp") {
                self.remove(&dir.join(left.name))?;
            }
        }
        Ok(Held { fence: entry.fence, stored: entry.stored })
    }

    fn all(&self, line: &LineName) -> Result<Vec<(Key, Stored)>, StoreError> {
        let dir = self.table.join(Self::line(line));
        let entries = match self.files.list(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(|source| failed("list", &dir, source))?,
        };
        let mut all = Vec::new();
        for partition in entries.into_iter().filter(|entry| entry.is_dir) {
            let Some((topic, number)) = partition.name.rsplit_once('-') else { continue };
            let Ok(number) = number.parse() else { continue };
            if let Some((_, entry)) = self.newest(&dir.join(&partition.name))? {
                let partition = TopicPartition::new(Str::copy_from(topic), PartitionId(number));
                let Entry { cluster_id, topic_id, stored, .. } = entry;
                all.push((Key { line: line.clone(), cluster_id, partition, topic_id }, stored));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.partition.cmp(&b.partition));
        Ok(all)
    }
}

impl PositionStore for FileStore {
    fn acquire<'a>(&'a self, acquire: &'a Acquire) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move { self.take(acquire) })
    }

    fn freeze<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let decide = |found: Option<&Entry>| frozen(found, change);
            self.change(&change.key, change.fence.token, decide).map(drop)
        })
    }

    fn commit<'a>(
        &'a self,
        change: &'a Change,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let decide = |found: Option<&Entry>| committed(found, change, leader_epoch);
            self.change(&change.key, change.fence.token, decide).map(drop)
        })
    }

    fn rebuild<'a>(&'a self, rebuild: &'a Rebuild) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let decide = |found: Option<&Entry>| rebuilt(found, rebuild);
            self.change(&rebuild.key, rebuild.fence.token, decide).map(drop)
        })
    }

    fn list<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move { self.all(line) })
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Files { doing, path: path.to_owned(), source }
}

fn name(version: u64) -> String {
    format!("{version:020}.json")
}

fn version(name: &str) -> Option<u64> {
    name.strip_suffix(".json").filter(|digits| digits.len() == 20)?.parse().ok()
}

fn encode(key: &Key, entry: &Entry) -> Vec<u8> {
    let Entry { cluster_id, topic_id, fence, stored } = entry;
    let frozen = stored.frozen.map(|Frozen { range: Range { start, end }, epoch, layout, letters }| {
        let layout = layout.name();
        json!({ "start": start.0, "end": end.0, "epoch": epoch, "layout": layout, "letters": letters })
    });
    let value = json!({
        "form": FORM,
        "line": key.line.as_str(),
        "cluster_id": cluster_id,
        "topic": key.partition.topic.as_str(),
        "topic_id": topic_id.to_string(),
        "partition": key.partition.partition.0,
        "epoch": fence.number,
        "token": fence.token,
        "begun": stored.begun.0,
        "committed": stored.committed.next.0,
        "leader_epoch": stored.committed.leader_epoch.0,
        "frozen": frozen,
        "updated_ms": stored.updated.0,
    });
    format!("{value:#}\n").into_bytes()
}

fn decode(bytes: &[u8]) -> Result<Entry, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let number = |value: &Value, name: &str| {
        value[name].as_i64().ok_or_else(|| format!("{name} is {}, which is no number", value[name]))
    };
    let offset = |value: &Value, name: &str| Ok::<_, String>(Offset(number(value, name)?));
    let text = |value: &Value, name: &str| {
        value[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("{name} is {}, which is no text", value[name]))
    };
    let form = number(&value, "form")?;
    if form != FORM {
        return Err(format!("it has form {form}, and this version of ottla reads form {FORM}"));
    }
    let frozen = match &value["frozen"] {
        Value::Null => None,
        frozen => {
            let range = Range { start: offset(frozen, "start")?, end: offset(frozen, "end")? };
            let letters = number(frozen, "letters")?;
            let letters =
                u64::try_from(letters).map_err(|_| format!("letters is {letters}, which is no count"))?;
            let (epoch, layout) = (number(frozen, "epoch")?, text(frozen, "layout")?.parse()?);
            Some(Frozen { range, epoch, layout, letters })
        }
    };
    let leader_epoch = i32::try_from(number(&value, "leader_epoch")?).map_err(|error| error.to_string())?;
    let stored = Stored {
        begun: offset(&value, "begun")?,
        committed: Position { next: offset(&value, "committed")?, leader_epoch: LeaderEpoch(leader_epoch) },
        frozen,
        updated: Millis(number(&value, "updated_ms")?),
    };
    let entry = Entry {
        cluster_id: text(&value, "cluster_id")?,
        topic_id: text(&value, "topic_id")?
            .parse::<Uuid>()
            .map_err(|error| format!("topic_id: {error:?}"))?,
        fence: Fence { number: number(&value, "epoch")?, token: number(&value, "token")? },
        stored,
    };
    entry.check()
}
